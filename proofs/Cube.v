(* S11, the cube of partly updated teams: the squared Hellinger distance of the transcripts before and after a stage is at most
   the sum over the agents of the mean distance of the agent's own step, whoever else is updated. Idea: the distance is a sum
   over contexts under the policy sqrt(pi pi') (H2_law), such sums are log-convex in the policy (path_cs), and the product rule
   pairs the step of k beside X with the step of k beside the agents that are neither k nor in X. No path space is needed. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ the Cauchy-Schwarz inequality, as something closed under sums *)
Definition cs x y z := 0 <= x /\ 0 <= y /\ z ^ 2 <= x * y.
Lemma cs_add x1 y1 z1 x2 y2 z2 : cs x1 y1 z1 -> cs x2 y2 z2 -> cs (x1 + x2) (y1 + y2) (z1 + z2).
Proof.
move=> [a1 [b1 c1]] [a2 [b2 c2]]; split; first lra; split; first lra.
suff : 2 * (z1 * z2) <= x1 * y2 + x2 * y1 by nra.
have u := Rmult_le_pos _ _ a1 b2; have v := Rmult_le_pos _ _ a2 b1; set U := x1 * y2 in u *; set W := x2 * y1 in v *.
have : (z1 * z2) ^ 2 <= U * W.
  have -> : U * W = (x1 * y1) * (x2 * y2) by rewrite /U /W; ring.
  rewrite Rpow_mult_distr; apply: Rmult_le_compat => //; exact: pow2_ge_0.
move=> h; apply: Rnot_lt_le => lt; have := pow2_ge_0 (U - W); nra.
Qed.
Lemma cs_mul x1 y1 z1 x2 y2 z2 : cs x1 y1 z1 -> cs x2 y2 z2 -> cs (x1 * x2) (y1 * y2) (z1 * z2).
Proof.
move=> [a1 [b1 c1]] [a2 [b2 c2]]; split; first exact: Rmult_le_pos; split; first exact: Rmult_le_pos.
have -> : x1 * x2 * (y1 * y2) = (x1 * y1) * (x2 * y2) by ring.
rewrite Rpow_mult_distr; apply: Rmult_le_compat => //; exact: pow2_ge_0.
Qed.
Lemma cs_id x : 0 <= x -> cs x x x.
Proof. by move=> x0; do !split=> //; lra. Qed.
Lemma cs_sqrt x y : 0 <= x -> 0 <= y -> cs x y (sqrt (x * y)).
Proof. by move=> x0 y0; do !split=> //; rewrite pow2_sqrt; [lra | exact: Rmult_le_pos]. Qed.
Lemma cs_sum (I : finType) (x y z : I -> R) : (forall i, cs (x i) (y i) (z i)) ->
  cs (\sum_(i : I) x i) (\sum_(i : I) y i) (\sum_(i : I) z i).
Proof.
move=> h; apply: (big_ind3 cs) => [||i _]; [by do !split; lra | by move=> *; exact: cs_add | exact: h].
Qed.
Lemma cs_mean x y z : cs x y z -> 2 * z <= x + y.
Proof. by move=> [x0 [y0 h]]; apply: Rnot_lt_le => lt; have := pow2_ge_0 (x - y); nra. Qed.
Lemma cs_le x y z : cs x y z -> z <= sqrt (x * y).
Proof.
move=> [x0 [y0 h]]; apply: Rle_trans (Rle_abs z) _; rewrite -(sqrt_pow2 (Rabs z)); last exact: Rabs_pos.
by apply: sqrt_le_1_alt; rewrite pow2_abs.
Qed.

(* ------------------------------------------------------------------ two laws *)
Section Hellinger.
Variable A : finType.
Implicit Types p q : A -> R.
Definition affinity p q := \sum_(a : A) sqrt (p a * q a).
Definition H2 p q := 1 - affinity p q.

Lemma affinity_ge0 p q : 0 <= affinity p q.
Proof. by apply: sum_ge0 => a; exact: sqrt_pos. Qed.
Lemma affinity_le1 p q : dist p -> dist q -> affinity p q <= 1.
Proof.
move=> [p0 p1] [q0 q1]; have := cs_sum (fun a => cs_sqrt (p0 a) (q0 a)); rewrite p1 q1 => /cs_mean.
by rewrite -/(affinity p q); lra.
Qed.
Lemma H2_ge0 p q : dist p -> dist q -> 0 <= H2 p q.
Proof. by move=> hp hq; have := affinity_le1 hp hq; rewrite /H2; lra. Qed.
Lemma H2_sym p q : H2 p q = H2 q p.
Proof. by rewrite /H2 /affinity; congr (_ - _); apply: sumE => a; rewrite Rmult_comm. Qed.
Lemma affinity_refl p : dist p -> affinity p p = 1.
Proof. by move=> [p0 p1]; rewrite /affinity -p1; apply: sumE => a; exact: sqrt_square. Qed.

(* 2 H^2 is a squared distance *)
Lemma H2_half p q : dist p -> dist q -> 2 * H2 p q = \sum_(a : A) (sqrt (p a) - sqrt (q a)) ^ 2.
Proof.
move=> [p0 p1] [q0 q1]; rewrite (sumE (G := fun a => p a + q a - 2 * sqrt (p a * q a))) => [|a].
  by rewrite sumB sumD sumZ p1 q1 /H2 /affinity; lra.
by rewrite sqrt_mult // -{2}(sqrt_sqrt (p a)) // -{2}(sqrt_sqrt (q a)) //; ring.
Qed.

(* TV <= sqrt 2 H, and what is read off a transcript has no larger TV *)
Lemma tv_H2 p q : dist p -> dist q -> tv p q ^ 2 <= 1 - (1 - H2 p q) ^ 2.
Proof.
move=> hp hq; have E : 1 - (1 - H2 p q) ^ 2 = H2 p q * (1 + affinity p q) by rewrite /H2; ring.
rewrite {}E; have h2 := H2_half hp hq; have [p0 p1] := hp; have [q0 q1] := hq.
pose x a := (sqrt (p a) - sqrt (q a)) ^ 2; pose y a := (sqrt (p a) + sqrt (q a)) ^ 2.
have y1 : \sum_(a : A) y a = 2 * (1 + affinity p q).
  rewrite (sumE (G := fun a => p a + q a + 2 * sqrt (p a * q a))) => [|a]; first by rewrite !sumD sumZ p1 q1 -/(affinity p q); lra.
  by rewrite /y sqrt_mult // -{2}(sqrt_sqrt (p a)) // -{2}(sqrt_sqrt (q a)) //; ring.
have one a : cs (x a) (y a) (Rabs (q a - p a)).
  split; first exact: pow2_ge_0; split; first exact: pow2_ge_0.
  rewrite pow2_abs -{1}(sqrt_sqrt (p a)) // -{1}(sqrt_sqrt (q a)) //; apply: Req_le; rewrite /x /y; ring.
by have [_ [_]] := cs_sum one; rewrite y1 -h2 /tv; lra.
Qed.
Lemma tv_le_H p q : dist p -> dist q -> tv p q <= sqrt 2 * sqrt (H2 p q).
Proof.
move=> hp hq; have h0 := H2_ge0 hp hq; have := tv_H2 hp hq => h.
rewrite -sqrt_mult; [|lra|lra]; rewrite -(sqrt_pow2 (tv p q)); last exact: tv_ge0.
by apply: sqrt_le_1_alt; have := pow2_ge_0 (H2 p q); lra.
Qed.
Definition read (B : finType) (f : A -> B) p b := \sum_(a : A) (if f a == b then p a else 0).
Lemma tv_read (B : finType) (f : A -> B) p q : tv (read f p) (read f q) <= tv p q.
Proof.
rewrite /tv; apply: Rmult_le_compat_l; first lra.
have -> : \sum_(a : A) Rabs (q a - p a) = \sum_(b : B) \sum_(a : A) (if f a == b then Rabs (q a - p a) else 0).
  by rewrite sum_swap; apply: sumE => a; rewrite -big_mkcond (big_pred1 (f a)) // => b /=; rewrite eq_sym.
apply: sum_le => b; rewrite /read -sumB; apply: Rle_trans (sum_abs _) _; apply: Req_le; apply: sumE => a.
by case: eqP => _ //; rewrite Rminus_eq_0 Rabs_R0.
Qed.

(* H^2 <= KL/2, by way of -2 log(1 - H^2) *)
Lemma affinity_gt0 p q : dist p -> keeps p q -> 0 < affinity p q.
Proof.
move=> [p0 p1] k; case: (Rle_lt_or_eq_dec _ _ (affinity_ge0 p q)) => // E.
suff : \sum_(a : A) p a = 0 by rewrite p1; lra.
apply: sum0 => a; case: (Rle_lt_or_eq_dec _ _ (p0 a)) => // pa; have qa := k a pa.
have := sqrt_lt_R0 _ (Rmult_lt_0_compat _ _ pa qa); have := term_le_sum a (fun x => sqrt_pos (p x * q x)).
by rewrite -/(affinity p q) -E; lra.
Qed.
Lemma H2_kl_log p q : dist p -> dist q -> keeps p q -> - 2 * ln (1 - H2 p q) <= kl p q.
Proof.
move=> [p0 p1] hq k; have c0 := affinity_gt0 (conj p0 p1) k; have -> : 1 - H2 p q = affinity p q by rewrite /H2; ring.
set c := affinity p q in c0 *.
(* ln y <= y/c - 1 + ln c at y = sqrt(q/p) *)
have one a : - 2 * (sqrt (p a * q a) / c - p a + p a * ln c) <= p a * ln (p a / q a).
  case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-]; last by rewrite !Rmult_0_l sqrt_0; lra.
  have qa := k a pa; set s := sqrt (p a * q a); have s0 : 0 < s by apply/sqrt_lt_R0/Rmult_lt_0_compat.
  have ss : s * s = p a * q a by apply: sqrt_sqrt; apply: Rmult_le_pos; lra.
  have y0 : 0 < s / p a / c by apply: Rdiv_lt_0_compat => //; exact: Rdiv_lt_0_compat.
  have l : ln (p a / q a) = - 2 * ln (s / p a / c) - 2 * ln c.
    have e2 : q a / p a = (s / p a / c * c) * (s / p a / c * c).
      have -> : (s / p a / c * c) * (s / p a / c * c) = s * s / (p a * p a) by field; lra.
      by rewrite ss; field; lra.
    rewrite (ln_swap pa qa) e2; have yc := Rmult_lt_0_compat _ _ y0 c0.
    by rewrite (ln_mult _ _ yc yc) (ln_mult _ _ y0 c0); lra.
  rewrite l; have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) (ln_le y0).
  have -> : p a * (s / p a / c - 1) = s / c - p a by field; lra.
  by lra.
have := sum_le one; rewrite sumZ sumD sumB sumZr p1 -/(kl p q) (sumE (G := fun a => / c * sqrt (p a * q a))) => [|a]; last by rewrite /Rdiv; ring.
by rewrite sumZ -/c Rinv_l; lra.
Qed.
Lemma H2_kl p q : dist p -> dist q -> keeps p q -> H2 p q <= kl p q / 2.
Proof.
move=> hp hq k; have := H2_kl_log hp hq k; have := affinity_gt0 hp k => c0.
have e : 1 - H2 p q = affinity p q by rewrite /H2; ring.
by have := ln_le c0; rewrite -e; lra.
Qed.
End Hellinger.

(* ------------------------------------------------------------------ transcripts: a sum over contexts *)
Section Transcripts.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Hypothesis e_dist : forall s a, dist (e s a).
Implicit Types p q w : S -> A -> R.
(* the policy w of the page and its loss h, 1 - its mass *)
Definition root p q s a := sqrt (p s a * q s a).
Definition loss p q s := H2 (p s) (q s).

Lemma H2_law p q t s : policy p -> policy q ->
  H2 (law e next p (t:=t) s) (law e next q (t:=t) s) = path_sum e next (root p q) (fun _ => loss p q) t s.
Proof.
move=> hp hq; elim: t s => [|t ih] s.
  by rewrite /H2 /affinity /= (big_pred1 tt) => [|[]] //; rewrite Rmult_1_r sqrt_1; lra.
rewrite {1}/H2 /affinity sum_path.
pose c a := sqrt (p s a * q s a) - root p q s a * after e next s a (path_sum e next (root p q) (fun _ => loss p q) t).
rewrite (sumE (G := c)) => [|a]; first by rewrite /c sumB /= /loss /H2 /affinity; lra.
rewrite /c /root -{1}(Rmult_1_r (sqrt _)) -(proj2 (e_dist s a)) /after -!sumZ -sumB.
apply: sumE => b; have e0 := proj1 (e_dist s a) b; rewrite -ih /H2 /affinity /=.
have p0 := proj1 (hp s) a; have q0 := proj1 (hq s) a; set x := next s a b.
rewrite (sumE (G := fun v => sqrt (p s a * q s a) * e s a b * sqrt (law e next p x v * law e next q x v))) => [|v].
  by rewrite sumZ; ring.
have lp := proj1 (law_dist next e_dist t x hp) v; have lq := proj1 (law_dist next e_dist t x hq) v.
have -> : p s a * e s a b * law e next p x v * (q s a * e s a b * law e next q x v)
  = (p s a * q s a) * (e s a b * e s a b) * (law e next p x v * law e next q x v) by ring.
have pq := Rmult_le_pos _ _ p0 q0; have ee := Rmult_le_pos _ _ e0 e0.
rewrite sqrt_mult; [|exact: Rmult_le_pos|exact: Rmult_le_pos].
by rewrite (sqrt_mult (p s a * q s a)) // sqrt_square.
Qed.

(* sums over contexts are log-convex in the policy *)
Lemma path_cs w1 w2 w (f1 f2 f : S -> R) t s : (forall x a, cs (w1 x a) (w2 x a) (w x a)) -> (forall x, cs (f1 x) (f2 x) (f x)) ->
  cs (path_sum e next w1 (fun _ => f1) t s) (path_sum e next w2 (fun _ => f2) t s) (path_sum e next w (fun _ => f) t s).
Proof.
move=> hw hf; elim: t s => [|t ih] s; first exact: cs_id (Rle_refl 0).
apply: cs_add (hf s) _; apply: cs_sum => a; apply: cs_mul (hw s a) _; apply: cs_sum => b.
by apply: cs_mul; [apply: cs_id; exact: (proj1 (e_dist s a)) | exact: ih].
Qed.
Lemma path_mono w (f g : S -> R) t s : (forall x a, 0 <= w x a) -> (forall x, f x <= g x) ->
  path_sum e next w (fun _ => f) t s <= path_sum e next w (fun _ => g) t s.
Proof.
move=> w0 h; elim: t s => [|t ih] s; first exact: Rle_refl.
apply: Rplus_le_compat (h s) _; apply: sum_le => a; apply: Rmult_le_compat_l (w0 s a) _; apply: sum_le => b.
exact: Rmult_le_compat_l (proj1 (e_dist s a) b) (ih _).
Qed.
End Transcripts.

(* ------------------------------------------------------------------ a team whose agents are updated one by one *)
(* team X: exactly the agents in X are updated. What both protocols have: the rows obey the product rule, the step of an agent
   loses the same whoever else is updated, and the whole stage loses at most the sum. *)
Section Factored.
Variables (A I : finType) (S : Type) (team : {set I} -> S -> A -> R).
Definition own k s := loss (team set0) (team [set k]) s.
Definition factored :=
  [/\ forall X, policy (team X),
      forall X Y s a, team X s a * team Y s a = team (X :&: Y) s a * team (X :|: Y) s a,
      forall (X : {set I}) k s, k \notin X -> loss (team X) (team (k |: X)) s = own k s
    & forall s, loss (team set0) (team setT) s <= \sum_(k : I) own k s].
End Factored.

(* turn-taking: j(s) acts at s *)
Section Turns.
Variables (A I : finType) (S : Type) (j : S -> I) (cur new : S -> A -> R).
Hypotheses (hc : policy cur) (hn : policy new).
Definition turns (X : {set I}) s a := if j s \in X then new s a else cur s a.
Lemma turns_factored : factored turns.
Proof.
split=> [X s|X Y s a|X k s kX|s].
- by rewrite /turns; case: (j s \in X).
- rewrite /turns !inE; case: (j s \in X); case: (j s \in Y) => /=; lra.
- rewrite /own /loss /H2 /affinity /turns !inE; case: eqP => [->|_] /=; first by rewrite (negbTE kX).
  case: (j s \in X) => //; have := affinity_refl (hn s); have := affinity_refl (hc s).
  by rewrite /affinity => -> ->.
rewrite (bigD1 (j s)) //= big1 => [|k kj].
  by rewrite /own /loss /turns /H2 /affinity !inE eqxx; lra.
rewrite /own /loss /turns /H2 /affinity !inE eq_sym (negbTE kj); have := affinity_refl (hc s); rewrite /affinity => ->; lra.
Qed.
End Turns.

(* product team: everybody acts at every s *)
Section ProductTeam.
Variables (I M : finType) (S : Type) (cur new : I -> S -> M -> R).
Hypotheses (hc : forall k, policy (cur k)) (hn : forall k, policy (new k)).
Definition row (X : {set I}) s k := if k \in X then new k s else cur k s.
Definition product (X : {set I}) s (f : {ffun I -> M}) := joint (row X s) f.
Lemma row_dist X s k : dist (row X s k).
Proof. by rewrite /row; case: (k \in X); [exact: hn | exact: hc]. Qed.
Lemma sqrt_prod (F : I -> R) : (forall k, 0 <= F k) ->
  sqrt (\big[Rmult/1]_(k : I) F k) = \big[Rmult/1]_(k : I) sqrt (F k).
Proof.
move=> F0; suff [] : sqrt (\big[Rmult/1]_(k : I) F k) = \big[Rmult/1]_(k : I) sqrt (F k) /\ 0 <= \big[Rmult/1]_(k : I) F k by [].
apply: (big_ind2 (fun x y => sqrt x = y /\ 0 <= x)) => [|x1 x2 y1 y2 [<- x0] [<- y0]|k _] //; first by rewrite sqrt_1; lra.
by split; [exact: sqrt_mult | exact: Rmult_le_pos].
Qed.
Lemma affinity_product X Y s : affinity (product X s) (product Y s) = \big[Rmult/1]_(k : I) affinity (row X s k) (row Y s k).
Proof.
rewrite /affinity (bigA_distr_bigA (fun k m => sqrt (row X s k m * row Y s k m))); apply: sumE => f.
rewrite -sqrt_prod => [|k]; last exact: Rmult_le_pos (proj1 (row_dist X s k) _) (proj1 (row_dist Y s k) _).
by rewrite /product /joint big_split.
Qed.
Lemma product_step (X : {set I}) k s : k \notin X -> affinity (product X s) (product (k |: X) s) = affinity (cur k s) (new k s).
Proof.
move=> kX; rewrite affinity_product (bigD1 k) //= big1 => [|l lk].
  by rewrite Rmult_1_r /row !inE eqxx (negbTE kX).
by rewrite /row !inE (negbTE lk) /=; apply: affinity_refl; exact: row_dist.
Qed.
Lemma product_factored : factored product.
Proof.
split=> [X s|X Y s f|X k s kX|s].
- by apply: joint_dist => k; exact: row_dist.
- rewrite /product /joint -!big_split; apply: eq_bigr => k _; rewrite /row !inE.
  case: (k \in X); case: (k \in Y) => /=; lra.
- by rewrite /own /loss /H2 -[in RHS](setU0 [set k]) !product_step // inE.
rewrite /loss /H2 affinity_product.
have -> : \sum_(k : I) own product k s = \sum_(k : I) (1 - affinity (row set0 s k) (row setT s k)).
  apply: sumE => k; rewrite /own /loss /H2 -[in LHS](setU0 [set k]) product_step ?inE //.
  by rewrite /row !inE.
suff [] : 1 - \big[Rmult/1]_(k : I) affinity (row set0 s k) (row setT s k)
    <= \sum_(k : I) (1 - affinity (row set0 s k) (row setT s k))
  /\ 0 <= \big[Rmult/1]_(k : I) affinity (row set0 s k) (row setT s k) <= 1 by [].
apply: (big_ind2 (fun x y => 1 - x <= y /\ 0 <= x <= 1)) => [|x1 x2 y1 y2 [a1 b1] [a2 b2]|k _]; first by lra.
  have := Rmult_le_pos x1 y1; have := Rmult_le_pos (1 - x1) (1 - y1); nra.
by have := affinity_ge0 (row set0 s k) (row setT s k); have := affinity_le1 (row_dist set0 s k) (row_dist setT s k); lra.
Qed.
End ProductTeam.

(* ------------------------------------------------------------------ S11 *)
Section Cube.
Variables (A B I : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Variables (W : finType) (rho : W -> R) (start : W -> S) (T : nat) (team : {set I} -> S -> A -> R).
Hypotheses (e_dist : forall s a, dist (e s a)) (rho_dist : dist rho) (ft : factored team).

(* the law of the transcript, first state included, of the team in which exactly X is updated *)
Definition P X : prod_finType W (path A B T) -> R := fun w => rho w.1 * law e next (team X) (start w.1) w.2.
Lemma team_policy X : policy (team X). Proof. by case: ft. Qed.
Lemma P_dist X : dist (P X).
Proof.
split=> [w|]; first exact: Rmult_le_pos (proj1 rho_dist _) (proj1 (law_dist next e_dist _ _ (team_policy X)) _).
rewrite sum_pairs -(proj2 rho_dist); apply: sumE => i.
by rewrite /P /= sumZ (proj2 (law_dist next e_dist _ _ (team_policy X))) Rmult_1_r.
Qed.

(* Product rule: P^X P^Y = P^{X cap Y} P^{X cup Y} for every transcript. *)
Theorem S11_product X Y w : P X w * P Y w = P (X :&: Y) w * P (X :|: Y) w.
Proof.
suff h t s (v : path A B t) : law e next (team X) s v * law e next (team Y) s v
    = law e next (team (X :&: Y)) s v * law e next (team (X :|: Y)) s v.
  by have := h T (start w.1) w.2; rewrite /P; nra.
elim: t s v => [|t ih] s; first by rewrite /=.
case=> [[a b] v] /=; set E := e _ _ _.
have := ih (next s a b) v; have : team X s a * team Y s a = team (X :&: Y) s a * team (X :|: Y) s a by case: ft.
set l1 := law _ _ _ _ _; set l2 := law _ _ _ _ _; set l3 := law _ _ _ _ _; set l4 := law _ _ _ _ _ => h l.
have -> : team X s a * E * l1 * (team Y s a * E * l2) = E * E * (team X s a * team Y s a) * (l1 * l2) by ring.
by rewrite h l; ring.
Qed.

(* the mean over the first state of a sum over contexts *)
Definition contexts w (f : S -> R) := \sum_(i : W) (rho i * path_sum e next w (fun _ => f) T (start i)).
Lemma H2_contexts X Y : H2 (P X) (P Y) = contexts (root (team X) (team Y)) (loss (team X) (team Y)).
Proof.
rewrite /H2 /affinity sum_pairs /contexts -(proj2 rho_dist) -sumB; apply: sumE => i.
rewrite -(H2_law next e_dist) ?/H2 /affinity; [|exact: team_policy|exact: team_policy].
rewrite (sumE (G := fun v => rho i * sqrt (law e next (team X) (start i) v * law e next (team Y) (start i) v))) => [|v].
  by rewrite sumZ; lra.
have r0 := proj1 rho_dist i.
have lX := proj1 (law_dist next e_dist T (start i) (team_policy X)) v.
have lY := proj1 (law_dist next e_dist T (start i) (team_policy Y)) v.
rewrite /P /= -{3}(sqrt_square (rho i)) // -sqrt_mult; [|exact: Rmult_le_pos|exact: Rmult_le_pos].
by congr sqrt; ring.
Qed.

(* what k's step loses where both the team of before and the team of after have mass *)
Let Z k := contexts (root (team set0) (team setT)) (own team k).
Definition rest k (X : {set I}) := ~: (k |: X).

Lemma edges k (X : {set I}) : k \notin X ->
  cs (H2 (P X) (P (k |: X))) (H2 (P (rest k X)) (P (k |: rest k X))) (Z k).
Proof.
move=> kX; have kY : k \notin rest k X by rewrite !inE eqxx.
case: ft => hp hr ho _; rewrite !H2_contexts; apply: cs_sum => i.
have own0 x : 0 <= own team k x by apply: H2_ge0; apply: hp.
apply: cs_mul; first exact: cs_id (proj1 rho_dist i).
apply: path_cs => // [x a|x]; last by rewrite !ho //; exact: cs_id.
have pos Y : 0 <= team Y x a := proj1 (hp Y x) a; have pos2 Y Y' := Rmult_le_pos _ _ (pos Y) (pos Y').
do !split; try exact: sqrt_pos.
rewrite /root -sqrt_mult // pow2_sqrt //.
have -> : team X x a * team (k |: X) x a * (team (rest k X) x a * team (k |: rest k X) x a)
  = (team X x a * team (k |: rest k X) x a) * (team (k |: X) x a * team (rest k X) x a) by ring.
have -> : k |: rest k X = ~: X by apply/setP => y; rewrite !inE; case: eqP => [->|] //=; rewrite kX.
rewrite (hr X) (hr (k |: X)) !setICr !setUCr sqrt_square //; lra.
Qed.
Lemma all_le : H2 (P set0) (P setT) <= \sum_(k : I) Z k.
Proof.
case: ft => hp _ _ hs; rewrite H2_contexts /Z /contexts sum_swap; apply: sum_le => i; rewrite sumZ.
apply: Rmult_le_compat_l; first exact: (proj1 rho_dist).
rewrite -(path_sum_sum _ _ _ (fun k _ => own team k)); apply: path_mono => // x a; exact: sqrt_pos.
Qed.

(* Cube: H^2(P^0, P^n) <= sum_k mean_{X not containing k} H^2(P^X, P^{X+k}), the mean over the 2^(n-1) sets of other agents. *)
Lemma card_others k : #|[set X : {set I} | k \notin X]| = expn 2 #|I|.-1.
Proof.
have <- : #|~: [set k]| = #|I|.-1 by rewrite cardsC1.
rewrite -card_powerset; congr (#|pred_of_set _|); apply/setP => X; rewrite !inE.
apply/idP/subsetP => [kX x xX|h]; first by rewrite !inE; apply: contraNneq kX => <-.
by apply/negP => /h; rewrite !inE eqxx.
Qed.
Lemma sum_others k c : \big[Rplus/0]_(X : {set I} | k \notin X) c = 2 ^ #|I|.-1 * c.
Proof.
rewrite (eq_bigl (fun X => X \in [set X : {set I} | k \notin X])) => [|X]; last by rewrite inE.
rewrite big_const card_others; have <- : INR (expn 2 #|I|.-1) = 2 ^ #|I|.-1.
  elim: #|I|.-1 => [//|m ih]; rewrite expnS mul2n -addnn -plusE plus_INR ih /=; lra.
elim: (expn 2 #|I|.-1) => [|m ih]; first by rewrite /=; lra.
by rewrite S_INR iterS ih; lra.
Qed.
Definition mean_step k := \big[Rplus/0]_(X : {set I} | k \notin X) H2 (P X) (P (k |: X)) / 2 ^ #|I|.-1.

Theorem S11_cube : H2 (P set0) (P setT) <= \sum_(k : I) mean_step k.
Proof.
apply: Rle_trans all_le _; apply: sum_le => k; rewrite /mean_step; set Sum := \big[Rplus/0]_(X | _) _.
have mirror : Sum = \big[Rplus/0]_(X : {set I} | k \notin X) H2 (P (rest k X)) (P (k |: rest k X)).
  have rr (X : {set I}) : k \notin X -> rest k (rest k X) = X.
    by move=> kX; apply/setP => y; rewrite !inE negb_or negbK; case: eqP => [->|_] //=; rewrite (negbTE kX).
  rewrite /Sum (reindex_onto (rest k) (rest k)) //; apply: eq_bigl => X.
  rewrite !inE eqxx /=; apply/eqP/idP => [<-|/rr //]; by rewrite !inE eqxx.
have : 2 ^ #|I|.-1 * (2 * Z k) <= Sum + Sum.
  rewrite {2}mirror -(sum_others k) -big_split; apply: (big_ind2 Rle) => [|*|X kX]; [lra | exact: Rplus_le_compat |].
  exact: cs_mean (edges kX).
have d0 : 0 < 2 ^ #|I|.-1 by apply: pow_lt; lra.
move=> h; apply: (Rmult_le_reg_l (2 ^ #|I|.-1)) => //.
have -> : 2 ^ #|I|.-1 * (Sum / 2 ^ #|I|.-1) = Sum by field; lra.
lra.
Qed.
End Cube.

Section Order.
(* agents are numbered in the order of the stage *)
Variables (A B : finType) (n : nat) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Variables (W : finType) (rho : W -> R) (start : W -> S) (T : nat) (team : {set 'I_n} -> S -> A -> R).
Hypotheses (e_dist : forall s a, dist (e s a)) (rho_dist : dist rho) (ft : factored team).
Notation P X := (P e next rho start (T := T) team X).
Definition first i := [set k : 'I_n | (k < i)%nat].
Definition last i := [set k : 'I_n | (i <= k)%nat].
Definition forward := \sum_(i : 'I_n) H2 (P (first i)) (P (first i.+1)).
Definition backward := \sum_(i : 'I_n) H2 (P (last i.+1)) (P (last i)).

(* Order: H^2(P^0, P^n) <= sqrt(F B); of every order and its reverse at least one adds up to H^2(P^0, P^n) or more. *)
Lemma order_cs : exists2 z, H2 (P set0) (P setT) <= z & cs forward backward z.
Proof.
exists (\sum_(i : 'I_n) contexts e next rho start T (root (team set0) (team setT)) (own team i)); first exact: all_le.
apply: cs_sum => i; have nf : i \notin first i by rewrite inE ltnn.
have := edges next start T e_dist rho_dist ft nf.
have -> : i |: first i = first i.+1 by apply/setP => k; rewrite !inE -val_eqE ltnS [RHS]leq_eqVlt.
have -> : rest i (first i) = last i.+1 by apply/setP => k; rewrite !inE -val_eqE negb_or -leqNgt [RHS]ltn_neqAle eq_sym.
by have -> : i |: last i.+1 = last i by apply/setP => k; rewrite !inE -val_eqE [RHS]leq_eqVlt eq_sym.
Qed.
Theorem S11_order : H2 (P set0) (P setT) <= sqrt (forward * backward).
Proof. by have [z h /cs_le] := order_cs; exact: Rle_trans. Qed.
Corollary S11_one_of_two : H2 (P set0) (P setT) <= forward \/ H2 (P set0) (P setT) <= backward.
Proof.
have [z h [F0 [B0 zz]]] := order_cs; case: (Rle_dec z forward) => [|nf]; first by left; lra.
by right; apply: Rle_trans h _; apply: Rnot_lt_le => nb; nra.
Qed.
End Order.
