(* Teams in both protocols, with some agents updated: P3.1, and the one property of teams without shared parameters that S7c
   needs. team u is the team in which the agents in u play their new rows and the others their current ones. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Rows Horizon Pinsker.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ---- factored teams: the ratio team u / team [::] is the product of the ratios of the agents in u *)
Section Factored.
Variables (S : Type) (A : finType) (I : eqType) (team : seq I -> S -> A -> R).
Definition factored := forall u k s a, k \notin u -> team (rcons u k) s a * team [::] s a = team u s a * team [:: k] s a.
Hypotheses (hf : factored) (ht : forall u, policy (team u)).
Notation p := (team [::]).

Lemma keeps_rcons u k s : k \notin u -> keeps (p s) (team (rcons u k) s) -> keeps (p s) (team u s) /\ keeps (p s) (team [:: k] s).
Proof.
move=> ku h; have pos a : 0 < p s a -> 0 < team u s a * team [:: k] s a.
  by move=> pa; rewrite -hf //; apply: Rmult_lt_0_compat => //; exact: h.
have u0 a : 0 <= team u s a := proj1 (ht u s) a; have k0 a : 0 <= team [:: k] s a := proj1 (ht [:: k] s) a.
by split=> a /pos pa; [case: (Rle_lt_or_eq_dec _ _ (u0 a)) | case: (Rle_lt_or_eq_dec _ _ (k0 a))] => // E; move: pa;
  rewrite -E; lra.
Qed.
Lemma keeps_cat u v s : uniq (u ++ v) -> keeps (p s) (team (u ++ v) s) -> keeps (p s) (team u s).
Proof.
elim/last_ind: v => [|v k ih]; first by rewrite cats0.
by rewrite -rcons_cat rcons_uniq => /andP[kv uv] /(keeps_rcons kv) [h _]; apply: ih.
Qed.
Lemma keeps_one u k s : uniq u -> k \in u -> keeps (p s) (team u s) -> keeps (p s) (team [:: k] s).
Proof.
elim/last_ind: u => [//|u l ih]; rewrite rcons_uniq mem_rcons inE => /andP[lu uu] ku /(keeps_rcons lu) [h1 h2].
by move: ku; case: eqP => [-> //|_] /= ku; apply: ih.
Qed.

(* logarithms add up: one more agent, and all of u *)
Lemma log_rcons u k s : k \notin u -> log_adds (p s) (team u s) (team (rcons u k) s) (fun _ : unit_finType => team [:: k] s).
Proof.
move=> ku a pa ua ka /(_ tt) k1; rewrite (big_pred1 tt) => [|[]] //.
rewrite -ln_mult; try exact: Rdiv_lt_0_compat; congr ln; apply: (Rmult_eq_reg_r (p s a * p s a)); last by nra.
have -> : team (rcons u k) s a / p s a * (p s a * p s a) = team (rcons u k) s a * p s a by field; lra.
by rewrite hf //; field; lra.
Qed.
Lemma log_seq u s a : uniq u -> 0 < p s a -> 0 < team u s a -> (forall k, k \in u -> 0 < team [:: k] s a) ->
  ln (team u s a / p s a) = \big[Rplus/0]_(k <- u) ln (team [:: k] s a / p s a).
Proof.
elim/last_ind: u => [|u k ih]; first by rewrite big_nil => _ pa _ _; have -> : p s a / p s a = 1 by [field; lra]; exact: ln_1.
rewrite rcons_uniq -cats1 big_cat big_seq1 cats1 => /andP[ku uu] pa ka h.
have k1 : 0 < team [:: k] s a by apply: h; rewrite mem_rcons inE eqxx.
have ua : 0 < team u s a.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (ht u s) a)) => // E; have := hf s a ku; rewrite -E Rmult_0_l.
  by have := Rmult_lt_0_compat _ _ ka pa; lra.
rewrite (@log_rcons u k s ku a pa ua ka (fun _ => k1)) (big_pred1 tt) => [|[]] //; congr (_ + _).
by apply: ih => // l lu; apply: h; rewrite mem_rcons inE lu orbT.
Qed.
(* P3.1 as a stage uses it: KL(team [::] || team u) is the sum of the KLs of the agents in u *)
Theorem kl_seq u s : uniq u -> keeps (p s) (team u s) -> kl (p s) (team u s) = \big[Rplus/0]_(k <- u) kl (p s) (team [:: k] s).
Proof.
elim/last_ind: u => [|u k ih]; first by rewrite big_nil kl_self.
rewrite rcons_uniq -cats1 big_cat big_seq1 cats1 => /andP[ku uu] h; have [hu hk] := keeps_rcons ku h.
by rewrite (kl_adds (proj1 (ht [::] s)) (@log_rcons u k s ku) hu h (fun _ => hk)) (big_pred1 tt) => [|[]] //; rewrite ih.
Qed.
(* the same along an order, if an update moves the KL of its agent alone, whoever went before (both protocols, below) *)
Lemma kl_along (k0 : I) order i s : uniq order -> (i <= size order)%nat -> keeps (p s) (team order s) ->
  (forall u k, k \notin u -> k \in order -> kl (team u s) (team (rcons u k) s) = kl (p s) (team [:: k] s)) ->
  kl (p s) (team (take i order) s) = \big[Rplus/0]_(k < i) kl (team (take k order) s) (team (take k.+1 order) s).
Proof.
move=> uo io ko one; rewrite kl_seq ?take_uniq //; last first.
  by move: ko; rewrite -{1}(cat_take_drop i order); apply: keeps_cat; rewrite cat_take_drop.
elim: i io => [|i ih] io; first by rewrite take0 big_nil big_ord0.
have E := take_nth k0 io; have := take_uniq i.+1 uo; rewrite E rcons_uniq => /andP[kn _].
by rewrite -cats1 big_cat big_seq1 big_ord_recr /= -ih 1?ltnW // E one // mem_nth.
Qed.
End Factored.

(* ---- turn-taking: j s is the one agent that acts at s (an agent that is never in u for chance) *)
Section Turns.
Variables (S : Type) (A : finType) (I : eqType) (j : S -> I) (p p' : S -> A -> R).
Definition turns (u : seq I) s a := if j s \in u then p' s a else p s a.
Lemma turns_policy u : policy p -> policy p' -> policy (turns u).
Proof. by move=> hp hp' s; rewrite /turns; case: (j s \in u); [exact: hp' | exact: hp]. Qed.
Lemma turns_factored : factored turns.
Proof.
move=> u k s a ku; rewrite /turns mem_rcons !inE; case: eqP => [->|_] /=; last lra.
by rewrite (negbTE ku); lra.
Qed.
(* P3.1, turn-taking: KL and TV of the team at s are those of j(s), zero if it is not updated *)
Theorem P3_1_turns u s : kl (turns [::] s) (turns u s) = if j s \in u then kl (p s) (p' s) else 0.
Proof. by rewrite /turns /=; case: (j s \in u) => //; exact: kl_self. Qed.
Theorem P3_1_turns_tv u s : tv (turns [::] s) (turns u s) = if j s \in u then tv (p s) (p' s) else 0.
Proof.
rewrite /turns /=; case: (j s \in u) => //; rewrite /tv sum0 => [|a]; first lra.
by rewrite Rminus_eq_0 Rabs_R0.
Qed.
Lemma kl_turns u k s : k \notin u -> kl (turns u s) (turns (rcons u k) s) = kl (turns [::] s) (turns [:: k] s).
Proof.
move=> ku; rewrite /turns mem_rcons !inE; case: eqP => [->|_] /=; first by rewrite (negbTE ku).
by rewrite !kl_self.
Qed.
End Turns.

(* ---- product teams: at s agent k plays p s k *)
Section Product.
Variables (I M : finType).
Implicit Types p q : I -> M -> R.
Lemma joint_pos (p : I -> M -> R) f : (forall k, dist (p k)) -> 0 < joint p f -> forall k, 0 < p k (f k).
Proof.
move=> hp jp k; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp k) (f k))) => // E; move: jp; rewrite /joint (bigD1 k) //= -E; lra.
Qed.
Lemma prod_gt0 (F : I -> R) : (forall k, 0 < F k) -> 0 < \big[Rmult/1]_(k : I) F k.
Proof. by move=> h; apply: (big_ind (Rlt 0)) => //; [lra | move=> *; apply: Rmult_lt_0_compat]. Qed.
(* the joint row keeps what it uses exactly if every agent does *)
Lemma keeps_joint p q : (forall k, dist (p k)) -> (forall k, dist (q k)) -> keeps (joint p) (joint q) ->
  forall k, keeps (p k) (q k).
Proof.
move=> hp hq h k m pm; have hm l : exists m, 0 < p l m := dist_pos (hp l).
have [f fp] : exists f : {ffun I -> M}, forall l, 0 < p l (f l).
  suff [f hf] : exists f : I -> M, forall l, l \in enum I -> 0 < p l (f l) by exists [ffun l => f l] => l; rewrite ffunE;
    apply: hf; rewrite mem_enum.
  elim: (enum I) => [|l s [f hf]]; first by exists (fun _ => m).
  have [n pn] := hm l; exists (fun x => if x == l then n else f x) => x; rewrite in_cons.
  by case: eqP => [->|_] //=; exact: hf.
pose f' : {ffun I -> M} := [ffun l => if l == k then m else f l].
have : 0 < joint p f' by apply: prod_gt0 => l; rewrite ffunE; case: eqP => [->|].
by move=> /h /(joint_pos hq) /(_ k); rewrite ffunE eqxx.
Qed.
Definition some (p p' : I -> M -> R) (u : seq I) k m := if k \in u then p' k m else p k m.
Lemma some_dist p p' u : (forall k, dist (p k)) -> (forall k, dist (p' k)) -> forall k, dist (some p p' u k).
Proof. by move=> hp hp' k; rewrite /some; case: (k \in u); [exact: hp' | exact: hp]. Qed.
(* 1 - TV is the mass that two rows have in common, and a product of common parts is common *)
Lemma tv_min (X : finType) (a b : X -> R) : dist a -> dist b -> tv a b = 1 - \sum_(x : X) Rmin (a x) (b x).
Proof.
move=> [_ a1] [_ b1]; rewrite /tv (sumE (G := fun x => a x + b x - 2 * Rmin (a x) (b x))) => [|x].
  by rewrite sumB sumD sumZ a1 b1; lra.
by rewrite /Rmin /Rabs; case: Rle_dec; case: Rcase_abs; lra.
Qed.
Lemma prod_le (F G : I -> R) : (forall k, 0 <= F k <= G k) -> \big[Rmult/1]_(k : I) F k <= \big[Rmult/1]_(k : I) G k.
Proof.
move=> h; suff [] : 0 <= \big[Rmult/1]_(k : I) F k <= \big[Rmult/1]_(k : I) G k by [].
by apply: (big_ind2 (fun x y => 0 <= x <= y)) => [|x1 x2 y1 y2 h1 h2|k _]; [lra | nra | exact: h].
Qed.
(* P3.1, TV of a product team: TV(p, q) <= 1 - prod_k (1 - TV(p_k, q_k)) <= sum_k TV(p_k, q_k) *)
Theorem P3_1_tv_prod p q : (forall k, dist (p k)) -> (forall k, dist (q k)) ->
  tv (joint p) (joint q) <= 1 - \big[Rmult/1]_(k : I) (1 - tv (p k) (q k)).
Proof.
move=> hp hq; rewrite tv_min; try exact: joint_dist.
rewrite (eq_bigr (fun k => \sum_(m : M) Rmin (p k m) (q k m))) => [|k _]; last by rewrite tv_min //; lra.
rewrite (bigA_distr_bigA (fun k m => Rmin (p k m) (q k m))).
have m0 (f : {ffun I -> M}) k : 0 <= Rmin (p k (f k)) (q k (f k)) := Rmin_glb _ _ _ (proj1 (hp k) _) (proj1 (hq k) _).
apply: Rplus_le_compat_l; apply: Ropp_le_contravar; apply: sum_le => f; apply: Rmin_glb; apply: prod_le => k; split=> //;
  [exact: Rmin_l | exact: Rmin_r].
Qed.
Lemma bernoulli (x : I -> R) : (forall k, 0 <= x k <= 1) -> 1 - \big[Rmult/1]_(k : I) (1 - x k) <= \sum_(k : I) x k.
Proof.
move=> h; suff [_ h'] : 0 <= \big[Rmult/1]_(k : I) (1 - x k) <= 1 /\
  1 - \big[Rmult/1]_(k : I) (1 - x k) <= \sum_(k : I) x k by [].
apply: (big_ind2 (fun a b => 0 <= a <= 1 /\ 1 - a <= b)) => [|a1 b1 a2 b2 [h1 i1] [h2 i2]|k _].
- by split; lra.
- have t1 := Rmult_le_pos _ _ (proj1 h1) (proj1 h2).
  have t2 := Rmult_le_pos (1 - a1) (1 - a2) ltac:(lra) ltac:(lra).
  by have t3 := Rmult_le_pos (1 - a1) a2 ltac:(lra) ltac:(lra); split; [split|]; lra.
by have [x0 x1] := h k; split; [split|]; lra.
Qed.
Theorem P3_1_tv p q : (forall k, dist (p k)) -> (forall k, dist (q k)) -> tv (joint p) (joint q) <= \sum_(k : I) tv (p k) (q k).
Proof.
move=> hp hq; apply: Rle_trans (P3_1_tv_prod hp hq) _; apply: bernoulli => k; split; first exact: tv_ge0.
rewrite tv_min //; suff : 0 <= \sum_(m : M) Rmin (p k m) (q k m) by lra.
by apply: sum_ge0 => m; apply: Rmin_glb; [exact: (proj1 (hp k)) | exact: (proj1 (hq k))].
Qed.

(* a product team of states S, with some agents updated *)
Variables (S : Type) (p p' : S -> I -> M -> R).
Hypotheses (hp : forall s k, dist (p s k)) (hp' : forall s k, dist (p' s k)).
Definition product (u : seq I) s := joint (some (p s) (p' s) u).
Lemma product_policy u : policy (product u).
Proof. by move=> s; apply: joint_dist; apply: some_dist. Qed.
Lemma product_factored : factored product.
Proof.
move=> u k s f ku; rewrite /product /joint -!big_split /=; apply: eq_bigr => l _.
by rewrite /some mem_rcons !inE; case: eqP => [->|_] /=; [rewrite (negbTE ku) | case: (l \in u)]; lra.
Qed.
(* P3.1: with agent k alone updated, the KL of the team is that of its row *)
Lemma kl_product u k s : k \notin u -> keeps (p s k) (p' s k) ->
  kl (product u s) (product (rcons u k) s) = kl (p s k) (p' s k).
Proof.
move=> ku kk; rewrite P3_1; try exact: some_dist; last first.
  by move=> l m; rewrite /some mem_rcons inE; case: eqP => [->|_] /=; [rewrite (negbTE ku); apply: kk | case: (l \in u)].
rewrite (bigD1 k) //= big1 => [|l /negbTE lk].
  by rewrite /some mem_rcons inE eqxx (negbTE ku) Rplus_0_r.
by rewrite /some mem_rcons inE lk; exact: kl_self.
Qed.
Theorem P3_1_product k s : keeps (product [::] s) (product [:: k] s) ->
  kl (product [::] s) (product [:: k] s) = kl (p s k) (p' s k).
Proof.
move=> h; apply: (@kl_product [::]) => // m pm.
have := keeps_joint (some_dist _ (hp s) (hp' s)) (some_dist _ (hp s) (hp' s)) h (k := k) (a := m).
by rewrite /some inE eqxx; apply.
Qed.
End Product.
