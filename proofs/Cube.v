(* S11, the cube of partly updated teams: the squared Hellinger distance of the transcripts before and after a stage is at most
   the sum over the agents of the mean distance of the agent's own step, whoever else is updated. Idea: the distance is a sum
   over contexts under the policy sqrt(pi pi') (H2_law), such sums are log-convex in the policy (path_cs), and the product rule
   pairs the step of k beside X with the step of k beside the agents that are neither k nor in X. No path space is needed.
   Then the trees for which the steps of one order do not bound the distance by any constant, in H^2 and in KL, and the
   discounted forms for the occupancy: an episode that ends with probability 1 - g after each action, its horizon going to
   infinity. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted Existence Pinsker.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------ the Cauchy-Schwarz inequality, as something closed under sums *)
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
  rewrite (sumE (G := fun a => p a + q a + 2 * sqrt (p a * q a))) => [|a];
    first by rewrite !sumD sumZ p1 q1 -/(affinity p q); lra.
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
have := sum_le one; rewrite sumZ sumD sumB sumZr p1 -/(kl p q) (sumE (G := fun a => / c * sqrt (p a * q a))) => [|a];
  last by rewrite /Rdiv; ring.
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

Lemma path_sum_pi w w' f t s : (forall x a, w x a = w' x a) -> path_sum e next w f t s = path_sum e next w' f t s.
Proof.
move=> E; elim: t s => [//|t ih] s; rewrite /=; congr (_ + _).
by apply: sumE => a; rewrite E; congr (_ * _); apply: sumE => b; rewrite ih.
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
Lemma turns_keeps : (forall s, keeps (cur s) (new s)) -> forall X k s, keeps (turns X s) (turns (k |: X) s).
Proof. by move=> h X k s a; rewrite /turns !inE; case: (j s \in X); rewrite ?orbT ?orbF //; case: (_ == _) => //; exact: h. Qed.
End Turns.

(* product team: everybody acts at every s *)
Section ProductTeam.
Variables (I M : finType) (S : Type) (cur new : I -> S -> M -> R).
Hypotheses (hc : forall k, policy (cur k)) (hn : forall k, policy (new k)).
Definition row (X : {set I}) s k := if k \in X then new k s else cur k s.
Definition product (X : {set I}) s (f : {ffun I -> M}) := joint (row X s) f.
Lemma row_dist X s k : dist (row X s k).
Proof. by rewrite /row; case: (k \in X); [exact: hn | exact: hc]. Qed.
Lemma product_keeps : (forall k s, keeps (cur k s) (new k s)) -> forall X k s, keeps (product X s) (product (k |: X) s).
Proof.
move=> h X k s f; rewrite /product /joint => fp; apply: (big_ind (Rlt 0)) => [|*|l _]; [lra | exact: Rmult_lt_0_compat |].
have [p0 _] := row_dist X s l; have pl : 0 < row X s l (f l).
  case: (Rle_lt_or_eq_dec _ _ (p0 (f l))) => // E; move: fp; rewrite (bigD1 l) //= -E; lra.
by move: pl; rewrite /row !inE; case: (l \in X); rewrite ?orbT ?orbF //; case: (_ == _) => //; exact: h.
Qed.
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

(* H^2 <= K/2, K the expected KL along the transcript of the team of before *)
Lemma H2_K X Y : (forall s, keeps (team X s) (team Y s)) ->
  H2 (P X) (P Y) <= (\sum_(w : W) (rho w * K e next (team X) (team Y) T (start w))) / 2.
Proof.
have hp := team_policy; move=> k; rewrite H2_contexts /contexts /Rdiv -sumZr; apply: sum_le => w; rewrite Rmult_assoc.
apply: Rmult_le_compat_l; first exact: (proj1 rho_dist).
rewrite -(H2_law next e_dist) // (K_law next e_dist) //; apply: H2_kl; try exact: law_dist.
by move=> v; apply: law_pos.
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

Lemma telescope (y : nat -> R) n : y O - y n = \sum_(i : 'I_n) (y i - y i.+1).
Proof. by elim: n => [|m ih]; [rewrite big_ord0; lra | rewrite big_ord_recr /= -ih; lra]. Qed.
Lemma sum_ones n : \sum_(i : 'I_n) 1 = INR n.
Proof. by elim: n => [|m ih]; [rewrite big_ord0 | rewrite big_ord_recr ih S_INR]. Qed.

Section Order.
(* agents are numbered in the order of the stage *)
Variables (A B : finType) (n : nat) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Variables (W : finType) (rho : W -> R) (start : W -> S) (T : nat) (team : {set 'I_n} -> S -> A -> R).
Hypotheses (e_dist : forall s a, dist (e s a)) (rho_dist : dist rho) (ft : factored team).
Notation P X := (P e next rho start (T := T) team X).
Definition first i := [set k : 'I_n | (k < i)%nat].
Definition last i := [set k : 'I_n | (i <= k)%nat].
Lemma firstS (i : 'I_n) : first i.+1 = i |: first i.
Proof. by apply/setP => k; rewrite !inE -val_eqE ltnS [LHS]leq_eqVlt. Qed.
Lemma lastS (i : 'I_n) : last i = i |: last i.+1.
Proof. by apply/setP => k; rewrite !inE -val_eqE [LHS]leq_eqVlt eq_sym. Qed.
Definition forward := \sum_(i : 'I_n) H2 (P (first i)) (P (first i.+1)).
Definition backward := \sum_(i : 'I_n) H2 (P (last i.+1)) (P (last i)).

(* Order: H^2(P^0, P^n) <= sqrt(F B); of every order and its reverse at least one adds up to H^2(P^0, P^n) or more. *)
Lemma order_cs : exists2 z, H2 (P set0) (P setT) <= z & cs forward backward z.
Proof.
exists (\sum_(i : 'I_n) contexts e next rho start T (root (team set0) (team setT)) (own team i)); first exact: all_le.
apply: cs_sum => i; have nf : i \notin first i by rewrite inE ltnn.
have := edges next start T e_dist rho_dist ft nf.
rewrite -firstS.
have -> : rest i (first i) = last i.+1 by apply/setP => k; rewrite !inE -val_eqE negb_or -leqNgt [RHS]ltn_neqAle eq_sym.
by rewrite -lastS.
Qed.
Theorem S11_order : H2 (P set0) (P setT) <= sqrt (forward * backward).
Proof. by have [z h /cs_le] := order_cs; exact: Rle_trans. Qed.
Corollary S11_one_of_two : H2 (P set0) (P setT) <= forward \/ H2 (P set0) (P setT) <= backward.
Proof.
have [z h [F0 [B0 zz]]] := order_cs; case: (Rle_dec z forward) => [|nf]; first by left; lra.
by right; apply: Rle_trans h _; apply: Rnot_lt_le => nb; nra.
Qed.

(* H^2(P^{i-1}, P^i) <= K_i / 2 with K_i the fresh KL of the step *)
Theorem S11_fresh i : (forall s, keeps (team (first i) s) (team (first i.+1) s)) ->
  H2 (P (first i)) (P (first i.+1))
    <= (\sum_(w : W) (rho w * K e next (team (first i)) (team (first i.+1)) T (start w))) / 2.
Proof.
exact: H2_K.
Qed.

(* One order alone: H^2(P^0, P^n) <= n F. *)
Theorem S11_one_order : H2 (P set0) (P setT) <= INR n * forward.
Proof.
have pd X := P_dist next start T e_dist rho_dist ft X.
pose x i w := sqrt (P (first i) w).
have E0 : first 0 = set0 by apply/setP => k; rewrite !inE.
have En : first n = setT by apply/setP => k; rewrite !inE ltn_ord.
suff : 2 * H2 (P set0) (P setT) <= INR n * (2 * forward) by lra.
rewrite H2_half // -{1}E0 -{1}En /forward -sumZ (sumE (F := fun i : 'I_n => 2 * _)
  (G := fun i : 'I_n => \sum_(w : prod_finType W (path A B T)) (x i w - x i.+1 w) ^ 2)) => [|i]; last exact: H2_half.
rewrite sum_swap -sumZ; apply: sum_le => w; rewrite -!/(x _ w).
have := @cs_sum _ (fun=> 1) (fun i : 'I_n => (x i w - x i.+1 w) ^ 2) (fun i : 'I_n => x i w - x i.+1 w) => h.
have [|_ [_]] := h; last by rewrite sum_ones -(telescope (fun i => x i w)).
by move=> i; split; first lra; split; [exact: pow2_ge_0 | lra].
Qed.
End Order.

(* ------------------------------------------------------------------ one order alone: trees read in order *)
(* The state (d, o) is the root of a complete tree of depth d whose agents are o, ..., o + size d - 1, read from left to right.
   The last contexts have d = 0. Action true: turn left, or stay. *)
(* lia for the arithmetic of mathcomp *)
Ltac nat_lia := repeat (match goal with H : is_true (leq _ _) |- _ => apply (elimT leP) in H end);
  try apply/leP; unfold addn, addn_rec in *; Lia.lia.
Section Numbers.
Fixpoint size d : nat := if d is c.+1 then (size c + (size c).+1)%nat else 1%nat.
Lemma size_pow d : (size d).+1 = expn 2 d.+1.
Proof. by elim: d => [//|d ih]; rewrite expnS -ih /= mul2n -addnn addSn. Qed.
(* D is the sum of the fresh steps, epsilon the best turn *)
Fixpoint D d : R := if d is c.+1 then 1 + D c - sqrt (1 + D c ^ 2) else 1.
Lemma D_le d : 0 <= D d <= 2 / (INR d + 2).
Proof.
elim: d => [|d [D0 D1]]; first by rewrite /=; lra.
have d0 := pos_INR d; set y := 2 / (INR d + 2) in D1; have y1 : y * (INR d + 2) = 2 by rewrite /y; field; lra.
have y0 : 0 < y by apply: Rdiv_lt_0_compat; lra.
have r0 z := sqrt_pos (1 + z ^ 2); have rr z : sqrt (1 + z ^ 2) * sqrt (1 + z ^ 2) = 1 + z ^ 2.
  by apply: sqrt_sqrt; have := pow2_ge_0 z; lra.
have -> : INR d.+1 + 2 = INR d + 2 + 1 by rewrite S_INR; lra.
rewrite [D d.+1]/=; set z := D d in D0 D1 *; set N := INR d + 2 in y1 *; have N0 : 2 <= N by rewrite /N; lra.
move: (r0 z) (rr z) (r0 y) (rr y); have -> : z * (z * 1) = z ^ 2 by ring.
set rz := sqrt (1 + z ^ 2); set ry := sqrt (1 + y ^ 2) => a1 a2 b1 b2.
have z1 : rz <= 1 + z by apply: Rnot_lt_le => lt; nra.
split; first lra.
(* x |-> 1 + x - sqrt(1 + x^2) increases, and is 2/(d+3) or less at x = y *)
have mono : ry - rz <= y - z.
  apply: Rnot_lt_le => lt; have : (y - z) * (ry + rz) < (ry - rz) * (ry + rz) by apply: Rmult_lt_compat_r; nra.
  have : (ry - rz) * (ry + rz) = (y - z) * (y + z) by nra.
  have : y <= ry by apply: Rnot_lt_le => ?; nra.
  have : z <= rz by apply: Rnot_lt_le => ?; nra.
  by nra.
have ry1 : ry <= 1 + y by apply: Rnot_lt_le => ?; nra.
have ry2 : 1 + y - ry <= y - y ^ 2 / (2 + y).
  have r1 : 1 <= ry by apply: Rnot_lt_le => ?; nra.
  have : (ry - 1) * (ry + 1) = y ^ 2 by nra.
  have h1 : (ry - 1) * (ry + 1) <= (ry - 1) * (2 + y) by apply: Rmult_le_compat_l; lra.
  move=> h; have y2 : y ^ 2 / (2 + y) * (2 + y) = y ^ 2 by field; lra.
  by apply: (Rmult_le_reg_r (2 + y)); [lra | nra].
have -> : 2 / (N + 1) = y - y ^ 2 / (2 + y).
  have -> : y = 2 / N by apply: (Rmult_eq_reg_r N); [rewrite y1; field; lra | lra].
  by field; lra.
lra.
Qed.
Definition eps d := D d / sqrt (1 + D d ^ 2).
Lemma eps01 d : 0 <= eps d <= 1 /\ sqrt (1 - eps d ^ 2) = / sqrt (1 + D d ^ 2) /\ eps d * sqrt (1 + D d ^ 2) = D d.
Proof.
have [D0 _] := D_le d; rewrite /eps; have d2 := pow2_ge_0 (D d); set z := D d in D0 d2 *.
have r0 : 0 < sqrt (1 + z ^ 2) by apply: sqrt_lt_R0; lra.
have rr : sqrt (1 + z ^ 2) * sqrt (1 + z ^ 2) = 1 + z ^ 2 by apply: sqrt_sqrt; lra.
set r := sqrt (1 + z ^ 2) in r0 rr *; split; [split | split].
- by apply: Rmult_le_pos D0 _; apply/Rlt_le/Rinv_0_lt_compat.
- by apply: (Rmult_le_reg_r r) => //; have -> : z / r * r = z; [field; lra | apply: Rnot_lt_le => ?; nra].
- have -> : 1 - (z / r) ^ 2 = / r * / r.
    have n0 : r * r - z ^ 2 = 1 by lra.
    have -> : 1 - (z / r) ^ 2 = (r * r - z ^ 2) / (r * r) by field; lra.
    by rewrite n0; field; lra.
  by apply: sqrt_square; apply/Rlt_le/Rinv_0_lt_compat.
by field; lra.
Qed.
End Numbers.

(* the turn at a root of depth c.+1 is ep c, a last context is left with probability 1 - x *)
Section Trees.
Variables (n : nat) (ep : nat -> R) (x : R).
Hypotheses (ep01 : forall c, 0 <= ep c <= 1) (x01 : 0 <= x <= 1).
Notation state := (nat * nat)%type.
Definition tree_e (s : state) (a : bool) (b : unit) : R := 1.
Definition tree_next (s : state) (a : bool) (b : unit) : state :=
  if s.1 is c.+1 then (c, if a then s.2 else (s.2 + (size c).+1)%nat) else s.
Definition owner (s : state) : nat := if s.1 is c.+1 then (s.2 + size c)%nat else s.2.
Definition agent (s : state) : 'I_n.+1 := inord (owner s).
Definition tree_cur (s : state) (a : bool) : R :=
  if s.1 is c.+1 then (if a then (1 - ep c) / 2 else (1 + ep c) / 2) else (if a then 1 else 0).
Definition tree_new (s : state) (a : bool) : R :=
  if s.1 is c.+1 then (if a then (1 + ep c) / 2 else (1 - ep c) / 2) else (if a then x else 1 - x).
Lemma sum_bool (F : bool -> R) : \sum_(a : bool) F a = F true + F false.
Proof. by rewrite big_bool. Qed.
Lemma tree_e_dist s a : dist (tree_e s a).
Proof. by split=> [b|]; rewrite /tree_e; [lra | rewrite (big_pred1 tt) // => -[]]. Qed.
Lemma cur_policy : policy tree_cur.
Proof.
by move=> [[|c] o]; (split=> [a|]; [case: a | rewrite sum_bool]); rewrite /tree_cur /=; try have := ep01 c; lra.
Qed.
Lemma new_policy : policy tree_new.
Proof.
by move=> [[|c] o]; (split=> [a|]; [case: a | rewrite sum_bool]); rewrite /tree_new /=; try have := ep01 c; lra.
Qed.
Lemma tree_sum w f c o : path_sum tree_e tree_next w (fun _ => f) c.+2 (c.+1, o)
  = f (c.+1, o) + (w (c.+1, o) true * path_sum tree_e tree_next w (fun _ => f) c.+1 (c, o)
    + w (c.+1, o) false * path_sum tree_e tree_next w (fun _ => f) c.+1 (c, (o + (size c).+1)%nat)).
Proof.
have E s (a : bool) g : after tree_e tree_next s a g = g (tree_next s a tt).
  by rewrite /after (big_pred1 tt) => [|[]] //; rewrite /tree_e; lra.
have -> : path_sum tree_e tree_next w (fun _ => f) c.+2 (c.+1, o) = f (c.+1, o) + \sum_(a : bool) (w (c.+1, o) a
  * after tree_e tree_next (c.+1, o) a (path_sum tree_e tree_next w (fun _ => f) c.+1)) by [].
by rewrite sum_bool !E.
Qed.
Lemma tree_last w f o : path_sum tree_e tree_next w (fun _ => f) 1 (0%nat, o) = f (0%nat, o).
Proof. by rewrite /= sum0 => [|a]; [lra | rewrite /after sum0 => [|b]; lra]. Qed.

(* the whole stage: all transcripts of the old team stay, those of the new team with probability x *)
Lemma inner_loss c o : loss tree_cur tree_new (c.+1, o) = 1 - sqrt (1 - ep c ^ 2).
Proof.
rewrite /loss /H2 /affinity sum_bool /tree_cur /tree_new /= -[ep c * (ep c * 1)]/(ep c ^ 2).
have -> : (1 - ep c) / 2 * ((1 + ep c) / 2) = (1 - ep c ^ 2) * (/ 2 * / 2) by field.
have -> : (1 + ep c) / 2 * ((1 - ep c) / 2) = (1 - ep c ^ 2) * (/ 2 * / 2) by field.
have [? ?] := ep01 c; rewrite sqrt_mult ?sqrt_square; nra.
Qed.
Lemma leaf_loss o : loss tree_cur tree_new (0%nat, o) = 1 - sqrt x.
Proof. by rewrite /loss /H2 /affinity sum_bool /tree_cur /tree_new /= Rmult_1_l Rmult_0_l sqrt_0; lra. Qed.
Lemma whole d o : 1 - sqrt x <= path_sum tree_e tree_next (root tree_cur tree_new) (fun _ => loss tree_cur tree_new) d.+1 (d, o).
Proof.
elim: d o => [|c ih] o; first by rewrite tree_last leaf_loss; lra.
rewrite tree_sum; set l := loss _ _ _; have l0 : 0 <= l by apply: H2_ge0; [exact: cur_policy | exact: new_policy].
have E : root tree_cur tree_new (c.+1, o) true + root tree_cur tree_new (c.+1, o) false = 1 - l.
  by rewrite /l /loss /H2 /affinity sum_bool /root; ring.
have := Rmult_le_compat_l _ _ _ (sqrt_pos _ : 0 <= root tree_cur tree_new (c.+1, o) true) (ih o).
have := Rmult_le_compat_l _ _ _ (sqrt_pos _ : 0 <= root tree_cur tree_new (c.+1, o) false) (ih (o + (size c).+1)%nat).
have lx := Rmult_le_pos _ _ l0 (sqrt_pos x); move: E; set rt := root _ _ _ true; set rf := root _ _ _ false => E h1 h2.
have : (rt + rf) * (1 - sqrt x) = (1 - l) * (1 - sqrt x) by rewrite E.
lra.
Qed.
Notation tree := (turns agent tree_cur tree_new).
Lemma whole_stage d o :
  1 - sqrt x <= H2 (law tree_e tree_next (tree set0) (t:=d.+1) (d, o)) (law tree_e tree_next (tree setT) (t:=d.+1) (d, o)).
Proof.
have hp X := team_policy (turns_factored agent cur_policy new_policy) X.
rewrite (H2_law tree_next tree_e_dist) //; apply: Rle_trans (whole d o) _; apply: Req_le.
rewrite (path_sumE _ _ _ (g := fun _ => loss (tree set0) (tree setT))) => [|_ y].
  by apply: path_sum_pi => y a; rewrite /root /turns !inE.
by rewrite /loss /H2 /affinity; congr (_ - _); apply: sumE => a; rewrite /turns !inE.
Qed.

(* the step of agent i along the order *)
Notation team i := (turns agent tree_cur tree_new (first n.+1 i)).
Lemma team_row i s a : (owner s <= n)%nat -> team i s a = (if (owner s < i)%nat then tree_new s a else tree_cur s a).
Proof. by move=> h; rewrite /turns inE /agent inordK ?ltnS. Qed.
Lemma step_out i s : (owner s <= n)%nat -> i <> owner s ->
  loss (team i) (team i.+1) s = 0 /\ forall a, root (team i) (team i.+1) s a = team i s a.
Proof.
move=> h /eqP io; have E a : team i.+1 s a = team i s a.
  by rewrite !team_row // ltnS leq_eqVlt eq_sym (negbTE io).
have dT : dist (team i s) by case: (turns_factored agent cur_policy new_policy) => hp _ _ _; exact: hp.
split=> [|a]; last by rewrite /root E sqrt_square //; exact: (proj1 dT).
have := affinity_refl dT; rewrite /loss /H2 /affinity => a1.
by rewrite (sumE (G := fun a => sqrt (team i s a * team i s a))) => [|a]; [rewrite a1; lra | rewrite E].
Qed.
Lemma step_in s : (owner s <= n)%nat -> loss (team (owner s)) (team (owner s).+1) s = loss tree_cur tree_new s.
Proof.
move=> h; rewrite /loss /H2 /affinity; congr (_ - _); apply: sumE => a.
by rewrite !team_row // ltnn ltnSn.
Qed.

(* any sum over contexts that sees the step of agent i at i's context only, and elsewhere follows the team *)
Section Steps.
Variables (w : nat -> state -> bool -> R) (f : nat -> state -> R) (phi : nat -> R).
Hypothesis out : forall i s, (owner s <= n)%nat -> i <> owner s -> f i s = 0 /\ forall a, w i s a = team i s a.
Hypothesis own_step : forall s, (owner s <= n)%nat -> f (owner s) s = phi s.1.
Definition stepw i d o := path_sum tree_e tree_next (w i) (fun _ => f i) d.+1 (d, o).
Fixpoint total d : R := if d is c.+1 then phi d + (1 - ep c) * total c else phi 0%nat.
Lemma step_zero i d o : (o + size d <= n.+1)%nat -> (i < o \/ o + size d <= i)%nat -> stepw i d o = 0.
Proof.
elim: d o => [|c ih] o /= b h; rewrite /stepw.
  by rewrite tree_last; apply: (proj1 (out _ _)); rewrite /owner /=; [nat_lia | case: h => h; nat_lia].
have [] : (owner (c.+1, o) <= n)%nat /\ i <> owner (c.+1, o) by rewrite /owner /=; split; case: h => h; nat_lia.
move=> b1 io; rewrite tree_sum (proj1 (out b1 io)) -!/(stepw _ _ _) !ih; first lra.
all: by case: h => h; try (left; nat_lia); try (right; nat_lia); nat_lia.
Qed.
(* on the left through the old turn, on the right through the new one: the rare one on both sides *)
Lemma step_tree i c o : (o + size c.+1 <= n.+1)%nat -> stepw i c.+1 o
  = (if i == (o + size c)%nat then phi c.+1 else 0) + (1 - ep c) / 2 * (stepw i c o + stepw i c (o + (size c).+1)%nat).
Proof.
move=> b; rewrite [size c.+1]/= in b; have b1 : (owner (c.+1, o) <= n)%nat by rewrite /owner /=; nat_lia.
have bl : (o + size c <= n.+1)%nat by nat_lia.
have br : (o + (size c).+1 + size c <= n.+1)%nat by nat_lia.
rewrite {1}/stepw tree_sum -!/(stepw _ _ _); case: eqP => [->|io].
  rewrite (own_step b1) [_.1]/= !step_zero //; try lra; by [left; nat_lia | right; nat_lia].
have [-> E] := out b1 io; rewrite !E !team_row // /owner /=.
case: ltnP => h.
  by rewrite (step_zero bl); [rewrite /tree_new /=; lra | right; nat_lia].
by rewrite (step_zero br); [rewrite /tree_cur /=; lra | left; nat_lia].
Qed.
Lemma step_sum d o : (o + size d <= n.+1)%nat -> \sum_(i : 'I_n.+1) stepw i d o = total d.
Proof.
elim: d o => [|c ih] o b.
  have on : (o < n.+1)%nat by rewrite /= in b; nat_lia.
  rewrite (bigD1 (Ordinal on)) //= big1 => [|i io]; last first.
    by apply: step_zero => //; rewrite /=; move: io; rewrite -val_eqE /= neq_ltn => /orP [] h; [left | right; nat_lia].
  by rewrite /stepw tree_last (own_step (s := (0%nat, o))) //=; lra.
rewrite (sumE (fun i : 'I_n.+1 => step_tree i b)) sumD sumZ sumD !ih; try (rewrite /= in b; nat_lia).
have on : (o + size c < n.+1)%nat by rewrite /= in b; nat_lia.
rewrite -big_mkcond (big_pred1 (Ordinal on)) => [|i]; last by rewrite /= -val_eqE.
by rewrite /=; lra.
Qed.
End Steps.

(* in H^2 *)
Definition phi_H c := if c is d.+1 then 1 - sqrt (1 - ep d ^ 2) else 1 - sqrt x.
Lemma H2_sum d o : (o + size d <= n.+1)%nat ->
  \sum_(i : 'I_n.+1) path_sum tree_e tree_next (root (team i) (team i.+1)) (fun _ => loss (team i) (team i.+1)) d.+1 (d, o)
  = total phi_H d.
Proof.
move=> b; apply: (step_sum (w := fun i => root (team i) (team i.+1)) (f := fun i => loss (team i) (team i.+1))) => // [i s|s h].
  exact: step_out.
by rewrite step_in //; case: s h => [[|c] o'] h; [exact: leaf_loss | exact: inner_loss].
Qed.
(* in KL *)
Definition phi_K c := if c is d.+1 then ep d * ln ((1 + ep d) / (1 - ep d)) else - ln x.
Lemma K_sum d o : (forall c, ep c < 1) -> 0 < x -> (o + size d <= n.+1)%nat ->
  \sum_(i : 'I_n.+1) K tree_e tree_next (team i) (team i.+1) d.+1 (d, o) = total phi_K d.
Proof.
move=> ep1 x0 b; apply: (step_sum (w := fun i => team i) (f := fun i s => kl (team i s) (team i.+1 s))) => // [i s h io|s h].
  split=> //; have E a : team i.+1 s a = team i s a by rewrite !team_row // ltnS leq_eqVlt eq_sym (introF eqP io).
  apply: sum0 => a; rewrite E; have hp := team_policy (turns_factored agent cur_policy new_policy) (first n.+1 i).
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last ring.
  by rewrite (_ : _ / _ = 1); [rewrite ln_1; ring | field; lra].
rewrite /kl (sumE (G := fun a => tree_cur s a * ln (tree_cur s a / tree_new s a))) => [|a];
  last by rewrite !team_row // ltnn ltnSn.
rewrite sum_bool; case: s h => [[|c] o'] h; rewrite /tree_cur /tree_new /phi_K /=.
  by rewrite (_ : 1 / x = / x) ?ln_Rinv //; [ring | rewrite /Rdiv; ring].
have [e0 _] := ep01 c; have e1 := ep1 c; set z := ep c in e0 e1 *.
have -> : (1 + z) / 2 / ((1 - z) / 2) = (1 + z) / (1 - z) by field; lra.
have -> : (1 - z) / 2 / ((1 + z) / 2) = (1 - z) / (1 + z) by field; lra.
by rewrite (ln_swap (x := 1 - z)); [field | lra | lra].
Qed.
End Trees.

(* the first family: best turns, everybody leaves *)
Notation tree1 n := (turns (agent n) (tree_cur eps) (tree_new eps 0)).
Lemma eps_le d : 0 <= eps d <= 1. Proof. exact: (proj1 (eps01 d)). Qed.
Lemma zero01 : 0 <= 0 <= 1. Proof. lra. Qed.
Lemma total_D d : total eps (phi_H eps 0) d = D d.
Proof.
elim: d => [|c ih]; first by rewrite /= sqrt_0; lra.
rewrite [LHS]/= ih; have [_ [E _]] := eps01 c; have -> : eps c * (eps c * 1) = eps c ^ 2 by [].
have -> : D c.+1 = 1 + D c - sqrt (1 + D c ^ 2) by []; rewrite E.
have r0 : 0 < sqrt (1 + D c ^ 2) by apply: sqrt_lt_R0; have := pow2_ge_0 (D c); lra.
have rr : sqrt (1 + D c ^ 2) * sqrt (1 + D c ^ 2) = 1 + D c ^ 2 by apply: sqrt_sqrt; have := pow2_ge_0 (D c); lra.
set r := sqrt (1 + D c ^ 2) in r0 rr *; rewrite /eps -/r; apply: (Rmult_eq_reg_r r); last lra.
have -> : (1 - / r + (1 - D c / r) * D c) * r = r - 1 + (r - D c) * D c by field; lra.
have -> : (1 + D c - r) * r = r + D c * r - r * r by ring.
by rewrite rr; ring.
Qed.
(* For every m there is a turn-taking team of n = 2^(m+1) - 1 agents with H^2(P^0, P^n) = 1 and F <= 2/(m+2):
   no constant will do in the place of the n of S11_one_order, the ratio is at least (log2(n+1) + 1)/2. *)
Theorem S11_trees m : let n := (size m).-1 in let T := m.+1 in
  let P X := law tree_e tree_next (tree1 n X) (t:=T) (m, 0%nat) in
  [/\ n.+1 = (expn 2 m.+1 - 1)%nat, factored (tree1 n), H2 (P set0) (P setT) = 1
    & \sum_(i : 'I_n.+1) H2 (P (first n.+1 i)) (P (first n.+1 i.+1)) <= 2 / (INR m + 2)].
Proof.
move=> n T P; have s0 : n.+1 = size m by rewrite /n; case: (m) => [|c] //=; rewrite addnS.
have ft := turns_factored (agent n) (cur_policy eps_le) (new_policy eps_le zero01); have hp X := team_policy ft X.
have b : (0 + size m <= n.+1)%nat by rewrite s0.
split=> //; first by rewrite s0 -size_pow subSS subn0.
  apply: Rle_antisym; first by have := affinity_ge0 (P set0) (P setT); rewrite /H2; lra.
  by apply: Rle_trans (whole_stage n eps_le zero01 m 0); rewrite sqrt_0; lra.
rewrite (sumE (fun i : 'I_n.+1 => H2_law tree_next tree_e_dist _ _ (hp _) (hp _))).
by rewrite (H2_sum eps_le zero01 b) total_D; have [] := D_le m.
Qed.
Lemma beyond y : exists m, y < INR m.
Proof.
have [u _] := archimed (Rabs y); have u0 : (0 <= up (Rabs y))%Z by apply: le_IZR; have := Rabs_pos y; lra.
by exists (Z.to_nat (up (Rabs y))); rewrite INR_IZR_INZ Z2Nat.id //; have := Rle_abs y; lra.
Qed.
(* so no absolute constant bounds H^2 by the fresh steps of one order *)
Corollary S11_no_constant C : exists m, let n := (size m).-1 in
  let P X := law tree_e tree_next (tree1 n X) (t:=m.+1) (m, 0%nat) in
  C * (\sum_(i : 'I_n.+1) H2 (P (first n.+1 i)) (P (first n.+1 i.+1))) < H2 (P set0) (P setT).
Proof.
have [m hm] := beyond (2 * Rabs C); exists m => n P; have [_ _ -> hF] := S11_trees m; rewrite -/n in hF.
have m0 := pos_INR m; have c0 := Rabs_pos C; have := Rle_abs C => cC.
set F := \sum_(i : 'I_n.+1) _ in hF *.
have hp X := team_policy (turns_factored (agent n) (cur_policy eps_le) (new_policy eps_le zero01)) X.
have F0 : 0 <= F by apply: sum_ge0 => i; apply: H2_ge0; exact: (law_dist tree_next tree_e_dist).
have : F * (INR m + 2) <= 2.
  have E : 2 / (INR m + 2) * (INR m + 2) = 2 by field; lra.
  by rewrite -[X in _ <= X]E; apply: Rmult_le_compat_r; lra.
move=> h; have := Rmult_le_compat_r _ _ _ F0 cC.
have := Rmult_le_compat_r _ _ _ F0 (Rlt_le _ _ hm).
by case: (Rle_lt_or_eq_dec _ _ F0) => [Fp|<-]; lra.
Qed.

(* the second family, in KL: half of the new transcripts leave, and the fresh KLs add up to E8, the turns being E8/8 *)
Fixpoint E8 d : R := if d is c.+1 then E8 c / 8 * ln ((1 + E8 c / 8) / (1 - E8 c / 8)) + (1 - E8 c / 8) * E8 c else ln 2.
Definition eps8 d := E8 d / 8.
Lemma E8_le d : 0 <= E8 d <= 16 / (INR d + 4).
Proof.
elim: d => [|d ih].
  by have := @ln_le 2 ltac:(lra); have := ln_lt_2; rewrite /=; lra.
rewrite S_INR [E8 d.+1]/=; have d0 := pos_INR d; set z := E8 d in ih *; set N := INR d + 4 in ih *.
have N4 : 4 <= N by rewrite /N; lra.
have y1 : 16 / N * N = 16 by field; lra.
have y4 : 16 / N <= 4 by apply: (Rmult_le_reg_r N); lra.
set e := z / 8; have e0 : 0 <= e <= / 2 by rewrite /e; lra.
have q0 : 0 < (1 + e) / (1 - e) by apply: Rdiv_lt_0_compat; lra.
have q1 : (1 + e) / (1 - e) * (1 - e) = 1 + e by field; lra.
have up : ln ((1 + e) / (1 - e)) <= 4 * e by apply: Rle_trans (ln_le q0) _; apply: (Rmult_le_reg_r (1 - e)); nra.
have lo : 0 <= ln ((1 + e) / (1 - e)).
  rewrite -ln_1; apply: Rcomplements.ln_le; first lra.
  by apply: (Rmult_le_reg_r (1 - e)); lra.
split; first by have := Rmult_le_pos _ _ (proj1 e0) lo; have := Rmult_le_pos (1 - e) z; lra.
have : e * ln ((1 + e) / (1 - e)) <= e * (4 * e) by apply: Rmult_le_compat_l; lra.
have -> : INR d + 1 + 4 = N + 1 by rewrite /N; ring.
move=> h; apply: (Rle_trans _ (z - z ^ 2 / 16)); first by rewrite /e in h *; lra.
set y := 16 / N in ih y1 y4; apply: (Rle_trans _ (y - y ^ 2 / 16)); first nra.
apply: (Rmult_le_reg_r (N + 1)); first lra.
have -> : 16 / (N + 1) * (N + 1) = 16 by field; lra.
have -> : y ^ 2 = y * y by ring.
nra.
Qed.
Lemma eps8_le d : 0 <= eps8 d <= 1 /\ eps8 d < 1.
Proof.
have := E8_le d; have d0 := pos_INR d; have : 16 / (INR d + 4) <= 4.
  by apply: (Rmult_le_reg_r (INR d + 4)); [lra | have -> : 16 / (INR d + 4) * (INR d + 4) = 16; [field; lra | lra]].
by rewrite /eps8; lra.
Qed.
Lemma total_E8 d : total eps8 (phi_K eps8 (/ 2)) d = E8 d.
Proof. by elim: d => [|c ih]; rewrite /= ?ih // ln_Rinv; [ring | lra]. Qed.
Notation tree8 n := (turns (agent n) (tree_cur eps8) (tree_new eps8 (/ 2))).
Lemma H2_le_tv (A : finType) (p q : A -> R) : dist p -> dist q -> H2 p q <= tv p q.
Proof.
move=> hp hq; have h2 := H2_half hp hq; suff : \sum_(a : A) (sqrt (p a) - sqrt (q a)) ^ 2 <= \sum_(a : A) Rabs (q a - p a).
  by rewrite -h2 /tv; lra.
apply: sum_le => a; have sp := sqrt_sqrt (p a) (proj1 hp a); have sq := sqrt_sqrt (q a) (proj1 hq a).
have p0 := sqrt_pos (p a); have q0 := sqrt_pos (q a); move: sp sq p0 q0.
set u := sqrt (p a); set w := sqrt (q a) => sp sq p0 q0.
by have [l r] := Rabs_def2_le (Rle_refl (Rabs (q a - p a))); case: (Rle_dec u w) => uw; nra.
Qed.
(* The fresh KLs of a stage add up to 16/(m+4) or less while TV(P^0, P^n) >= 1/4. *)
Theorem S11_trees_KL m : let n := (size m).-1 in let P X := law tree_e tree_next (tree8 n X) (t:=m.+1) (m, 0%nat) in
  [/\ forall s, keeps (tree_cur eps8 s) (tree_new eps8 (/ 2) s),
      \sum_(i : 'I_n.+1) K tree_e tree_next (tree8 n (first n.+1 i)) (tree8 n (first n.+1 i.+1)) m.+1 (m, 0%nat)
        <= 16 / (INR m + 4)
    & / 4 <= tv (P set0) (P setT)].
Proof.
move=> n P; have s0 : n.+1 = size m by rewrite /n; case: (m) => [|c] //=; rewrite addnS.
have b : (0 + size m <= n.+1)%nat by rewrite s0.
have e8 d := proj1 (eps8_le d); have x01 : 0 <= / 2 <= 1 by lra.
split.
- by move=> [[|c] o] [|]; rewrite /tree_cur /tree_new /=; try have := eps8_le c; lra.
- by rewrite (K_sum e8 x01 (fun d => proj2 (eps8_le d)) _ b) ?total_E8; [exact: (proj2 (E8_le m)) | lra].
have hp X := team_policy (turns_factored (agent n) (cur_policy e8) (new_policy e8 x01)) X.
apply: Rle_trans (H2_le_tv _ _); try exact: (law_dist tree_next tree_e_dist).
apply: Rle_trans (whole_stage n e8 x01 m 0).
have := sqrt_sqrt (/ 2) ltac:(lra); have := sqrt_pos (/ 2); set r := sqrt _ => r0 rr; nra.
Qed.
(* so TV <= C sqrt(sum of the fresh KLs) is false for every C *)
Corollary S11_no_constant_KL C : exists m, let n := (size m).-1 in
  let P X := law tree_e tree_next (tree8 n X) (t:=m.+1) (m, 0%nat) in
  C * sqrt (\sum_(i : 'I_n.+1) K tree_e tree_next (tree8 n (first n.+1 i)) (tree8 n (first n.+1 i.+1)) m.+1 (m, 0%nat))
    < tv (P set0) (P setT).
Proof.
have [m hm] := beyond (256 * C ^ 2); exists m => n P; have [_ hK hT] := S11_trees_KL m; rewrite -/n -/(P _) in hK hT.
apply: Rlt_le_trans hT; set X := \sum_(i : 'I_n.+1) _ in hK *.
have m0 := pos_INR m; have C2 := pow2_ge_0 C.
have b : C ^ 2 * (16 / (INR m + 4)) < / 16.
  apply: (Rmult_lt_reg_r (INR m + 4)); first lra.
  have -> : C ^ 2 * (16 / (INR m + 4)) * (INR m + 4) = 16 * C ^ 2 by field; lra.
  lra.
have r0 := sqrt_pos X; have rr : sqrt X * sqrt X <= 16 / (INR m + 4).
  case: (Rle_dec 0 X) => X0; first by rewrite sqrt_sqrt.
  rewrite (sqrt_neg_0 X); last lra.
  by have := Rdiv_lt_0_compat 16 (INR m + 4) ltac:(lra) ltac:(lra); lra.
have cc := Rmult_le_compat_l _ _ _ C2 rr; set r := sqrt X in r0 rr cc *; apply: Rnot_le_lt => h.
have q0 : 0 <= / 4 by lra.
by have := Rmult_le_compat _ _ _ _ q0 q0 h h; lra.
Qed.
(* ------------------------------------------------------------------ discounted: a transcript that ends at a geometric time *)
(* None: it has ended. After every action the world says where it would go, and whether this was the end. What is read off the
   transcript is f of its last state; its law at horizon T tends to the occupancy. *)
Section Geometric.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variable s0 : S.
Implicit Types (p : S -> A -> R) (f : S -> R).
Definition geo_e (o : option S) (a : A) (b : S * bool) := P (odflt s0 o) a b.1 * (if b.2 then 1 - g else g).
Definition geo_next (o : option S) (a : A) (b : S * bool) := if o is Some _ then (if b.2 then None else Some b.1) else None.
Definition geo p0 p (o : option S) := if o is Some s then p s else p0 s0.
Definition last_is f (o : option S) (a : A) (b : S * bool) : R := if o is Some s then (if b.2 then f s else 0) else 0.
Lemma geo_sum (F : S * bool -> R) : \sum_(b : prod_finType S bool_finType) F b = \sum_(s : S) (F (s, true) + F (s, false)).
Proof. by rewrite sum_pairs; apply: sumE => s; rewrite big_bool. Qed.
Lemma geo_e_dist o a : dist (A:=prod_finType S bool_finType) (geo_e o a).
Proof.
have [P0 P1] := P_dist (odflt s0 o) a; split=> [b|]; first by apply: Rmult_le_pos => //; case: b.2; lra.
by rewrite geo_sum -P1; apply: sumE => s; rewrite /geo_e /=; ring.
Qed.
Lemma geo_after s a (h : option S -> R) :
  after geo_e geo_next (Some s) a h = (1 - g) * h None + g * ev P s a (fun x => h (Some x)).
Proof.
rewrite /after geo_sum (sumE (G := fun x => P s a x * ((1 - g) * h None) + g * (P s a x * h (Some x)))) => [|x].
  by rewrite sumD sumZr (proj2 (P_dist s a)) sumZ /ev; ring.
by rewrite /geo_e /=; ring.
Qed.
Lemma geo_ended p0 p (f : option S -> R) T : f None = 0 -> path_sum geo_e geo_next (geo p0 p) (fun _ => f) T None = 0.
Proof.
move=> f0; elim: T => [//|T ih]; rewrite /= f0 sum0 => [|a]; first lra.
by rewrite /after sum0 => [|b]; [lra | rewrite ih; lra].
Qed.
Lemma geo_path p0 p (f : option S -> R) T s : f None = 0 ->
  path_sum geo_e geo_next (geo p0 p) (fun _ => f) T (Some s) = Discounted.W P g p (fun x => f (Some x)) T s.
Proof.
move=> f0; elim: T s => [//|T ih] s; rewrite /=; congr (_ + _).
rewrite /step_p -sumZ; apply: sumE => a; rewrite geo_after geo_ended //
  (evE P s a (h := Discounted.W P g p (fun x => f (Some x)) T)) //.
by ring.
Qed.
Lemma geo_V_ended p0 p f T : V geo_e geo_next (last_is f) (geo p0 p) T None = 0.
Proof.
elim: T => [//|T ih]; rewrite VE sum0 // => a; rewrite /Q sum0; first ring.
by move=> b; rewrite /= ih; ring.
Qed.
Lemma geo_V p0 p f T s : policy p ->
  V geo_e geo_next (last_is f) (geo p0 p) T (Some s) = Discounted.W P g p (fun x => (1 - g) * f x) T s.
Proof.
move=> hp; elim: T s => [//|T ih] s; rewrite VE.
rewrite (sumE (G := fun a => p s a * ((1 - g) * f s)
  + g * (p s a * ev P s a (Discounted.W P g p (fun x => (1 - g) * f x) T)))) => [|a].
  by rewrite sumD (sum_const _ (proj2 (hp s))) sumZ.
rewrite QE geo_after geo_V_ended (evE P s a (h := Discounted.W P g p (fun x => (1 - g) * f x) T)) // geo_sum.
rewrite (sumE (G := fun x => P s a x * ((1 - g) * f s))) => [|x]; last by rewrite /geo_e /=; ring.
by rewrite (sum_const _ (proj2 (P_dist s a))) /=; ring.
Qed.

(* sums over T steps of f >= 0 grow to the sum under the visits *)
Lemma W_limit p m f : policy p -> flow P g rho p m -> (forall s, 0 <= f s) ->
  exists2 C, 0 <= C & forall T, at_rho rho (Discounted.W P g p f T) <= under m f
    <= at_rho rho (Discounted.W P g p f T) + C * g ^ T.
Proof.
move=> hp fl f0; have [u hu] := solve g01 P_dist hp f.
have E : under m f = at_rho rho u.
  by rewrite (dual u fl); apply: sumE => s; rewrite {1}hu; congr (_ * _); ring.
have u0 s : 0 <= u s.
  have b : bellman P g (fun x (_ : A) => f x) p u by apply/(bellmanE P g p) => x; rewrite (sum_const _ (proj2 (hp x))); exact: hu.
  by apply: (above g01 P_dist hp (Phi := fun=> 0) _ b) => x a; rewrite ev1 //; have := f0 x; lra.
set C := \sum_(s : S) u s; have C0 : 0 <= C by exact: sum_ge0.
have w T s : Discounted.W P g p f T s <= u s <= Discounted.W P g p f T s + C * g ^ T.
  elim: T s => [|T ih] s; first by have := term_le_sum s u0; have := u0 s; rewrite /= -/C; lra.
  have lo : step_p P p (Discounted.W P g p f T) s <= step_p P p u s.
    by apply: sum_le => a; apply: Rmult_le_compat_l (proj1 (hp s) a) _; apply: (ev_le P_dist) => x; have := ih x; lra.
  have hi : step_p P p u s <= step_p P p (Discounted.W P g p f T) s + C * g ^ T.
    rewrite -[X in _ + X](sum_const _ (proj2 (hp s))) /step_p -sumD; apply: sum_le => a; rewrite -Rmult_plus_distr_l.
    apply: Rmult_le_compat_l (proj1 (hp s) a) _; rewrite -[X in _ + X](ev1 P_dist s a) -evD.
    by apply: (ev_le P_dist) => x; have := ih x; lra.
  have := Rmult_le_compat_l _ _ _ (proj1 g01) lo; have := Rmult_le_compat_l _ _ _ (proj1 g01) hi.
  by rewrite hu /=; lra.
exists C => // T; rewrite E; split; first by apply: sum_le => s; apply: Rmult_le_compat_l (proj1 rho_dist s) _;
  have := w T s; lra.
rewrite -[X in _ + X](sum_const _ (proj2 rho_dist)) /at_rho -sumD; apply: sum_le => s; rewrite -Rmult_plus_distr_l.
by apply: Rmult_le_compat_l (proj1 rho_dist s) _; have := w T s; lra.
Qed.
End Geometric.

Lemma kl_refl (A : finType) (p : A -> R) : (forall a, 0 <= p a) -> kl p p = 0.
Proof.
move=> p0; apply: sum0 => a; case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-]; last ring.
by have -> : p a / p a = 1; [field; lra | rewrite ln_1; ring].
Qed.
Lemma read_tv (A : finType) (p q f : A -> R) : dist p -> dist q -> (forall a, 0 <= f a <= 1) ->
  \sum_(a : A) (q a * f a) - \sum_(a : A) (p a * f a) <= tv p q.
Proof.
move=> [_ p1] [_ q1] h; have -> : \sum_(a : A) (q a * f a) - \sum_(a : A) (p a * f a) = \sum_(a : A) ((q a - p a) * (f a - / 2)).
  rewrite (sumE (F := fun a => (q a - p a) * _) (G := fun a => (q a * f a - p a * f a) - (q a - p a) * / 2)) => [|a]; last ring.
  by rewrite !sumB sumZr sumB p1 q1; ring.
rewrite /tv -sumZ; apply: sum_le => a; apply: Rle_trans (Rle_abs _) _; rewrite Rabs_mult Rmult_comm.
by apply: Rmult_le_compat_r; [exact: Rabs_pos | apply: Rabs_le; have := h a; lra].
Qed.

Section DiscountedCube.
Variables (S A I : finType) (tr : S -> A -> S -> R) (g : R) (rho : S -> R) (s0 : S) (team : {set I} -> S -> A -> R).
Hypotheses (g01 : 0 <= g < 1) (tr_dist : forall s a, dist (tr s a)) (rho_dist : dist rho) (ft : factored team).
Variable m : {set I} -> S -> R.
Hypothesis hm : forall X, flow tr g rho (team X) (m X).
Let hp X : policy (team X) := team_policy ft X.
Definition gteam X := geo s0 (team set0) (team X).
Lemma geo_factored : factored gteam.
Proof.
case: ft => pol prod step sub; have r0 := hp set0 s0.
have z (r : A -> R) : dist r -> H2 r r = 0 by move=> d; rewrite /H2 affinity_refl //; ring.
split=> [X [s|]|X Y [s|] a|X k [s|] kX|[s|]] //=; try exact: pol; try exact: prod.
- exact: step.
- exact: sub.
by rewrite /own /loss /= z // sum0 //; lra.
Qed.
Notation PT := (fun T X => P (geo_e tr g s0) (@geo_next S A) rho Some (T:=T) gteam X).
Definition occ X s := (1 - g) * m X s.
Definition Kd X Y := under (m X) (fun s => kl (team X s) (team Y s)).
Let ed := geo_e_dist g01 tr_dist s0.

Lemma K_geo X Y T : (forall s, keeps (team X s) (team Y s)) -> H2 (PT T X) (PT T Y) <= Kd X Y / 2.
Proof.
move=> k; have ko o : keeps (gteam X o) (gteam Y o) by case: o => [s|a] //; exact: k.
apply: Rle_trans (H2_K (@geo_next S A) Some T ed rho_dist geo_factored ko) _.
have kl0 : kl (gteam X None) (gteam Y None) = 0 by apply: kl_refl; exact: (proj1 (hp set0 s0)).
rewrite (sumE (G := fun s => rho s * Discounted.W tr g (team X) (fun s => kl (team X s) (team Y s)) T s)) => [|s]; last first.
  by rewrite /K (@geo_path S A tr g tr_dist s0 (team set0) (team X) (fun o => kl (gteam X o) (gteam Y o))).
have kl1 s : 0 <= kl (team X s) (team Y s).
  by rewrite -kterm_sum; [apply: sum_ge0 => a; apply: kterm_ge0; [exact: hp | exact: hp | exact: k] | exact: hp | exact: hp].
have [C _ h] := W_limit g01 tr_dist rho_dist (hp X) (hm X) kl1.
by have := proj1 (h T); rewrite /Kd /at_rho; lra.
Qed.

(* the occupancy is the law of the last state: TV(d^n, d^0) <= sqrt 2 H, at every horizon and in the limit *)
Lemma occ_f X Y f b : (forall s, 0 <= f s <= 1) -> (forall T, H2 (PT T X) (PT T Y) <= b) ->
  under (occ Y) f - under (occ X) f <= sqrt (2 * b).
Proof.
move=> hf hb; have f0 s : 0 <= (1 - g) * f s by have h := hf s; apply: Rmult_le_pos; lra.
have occE Z : under (occ Z) f = under (m Z) (fun s => (1 - g) * f s) by apply: sumE => s; rewrite /occ; ring.
have [C C0 hY] := W_limit g01 tr_dist rho_dist (hp Y) (hm Y) f0.
have [C1 _ hX] := W_limit g01 tr_dist rho_dist (hp X) (hm X) f0.
rewrite !occE; suff : under (m Y) (fun s => (1 - g) * f s) <= under (m X) (fun s => (1 - g) * f s) + sqrt (2 * b) by lra.
apply: (vanish g01 C0) => T; have := proj2 (hY T); have := proj1 (hX T).
have law_ret Z : at_rho rho (Discounted.W tr g (team Z) (fun s => (1 - g) * f s) T)
    = \sum_(w : prod_finType S (path A (prod_finType S bool_finType) T))
        (PT T Z w * ret (@geo_next S A) (last_is (A:=A) f) (Some w.1) w.2).
  rewrite sum_pairs; apply: sumE => s; rewrite -(@geo_V S A tr g tr_dist s0 (team set0) (team Z) f T s (hp Z)).
  rewrite (V_law (@geo_next S A) ed); last exact: (team_policy geo_factored Z).
  by rewrite -sumZ; apply: sumE => v; exact: (esym (Rmult_assoc _ _ _)).
have fr t o (v : path A (prod_finType S bool_finType) t) : 0 <= ret (@geo_next S A) (last_is (A:=A) f) o v <= 1
    /\ ret (@geo_next S A) (last_is (A:=A) f) None v = 0.
  elim: t o v => [|t ih] o v; first by rewrite /=; lra.
  case: v => [[a [s []]] v] /=; have := ih None v; have := ih o v; case: o => [x|] /=; have := ih (Some s) v;
    try (have := hf x); lra.
have d Z : dist (PT T Z) := P_dist (@geo_next S A) Some T ed rho_dist geo_factored Z.
have := read_tv (d X) (d Y) (f := fun w => ret (@geo_next S A) (last_is (A:=A) f) (Some w.1) w.2)
  (fun w => proj1 (fr T (Some w.1) w.2)).
rewrite -!law_ret; have := tv_le_H (d X) (d Y); have h0 := H2_ge0 (d X) (d Y).
rewrite -sqrt_mult; [|lra|exact: h0] => h1 h2.
have : sqrt (2 * H2 (PT T X) (PT T Y)) <= sqrt (2 * b) by apply: sqrt_le_1_alt; have := hb T; lra.
lra.
Qed.
Lemma occ_tv X Y b : (forall T, H2 (PT T X) (PT T Y) <= b) -> tv (occ X) (occ Y) <= sqrt (2 * b).
Proof.
move=> hb; pose f s := if Rle_dec (occ X s) (occ Y s) then 1 else 0.
have mass Z : \sum_(s : S) occ Z s = 1.
  have := dual (fun=> 1) (hm Z); rewrite /at_rho (sum_const _ (proj2 rho_dist)) => ->; apply: sumE => s.
  by rewrite /occ /step_p (sumE (G := fun a => team Z s a * 1)) => [|a]; rewrite ?ev1 // (sum_const _ (proj2 (hp Z s))); ring.
have f01 s : 0 <= f s <= 1 by rewrite /f; case: (Rle_dec (occ X s) (occ Y s)) => h /=; lra.
apply: Rle_trans (occ_f f01 hb).
have -> : tv (occ X) (occ Y) = / 2 * \sum_(s : S) ((occ Y s - occ X s) * (2 * f s - 1)).
  rewrite /tv; congr (_ * _); apply: sumE => s; rewrite /f; case: (Rle_dec (occ X s) (occ Y s)) => h /=.
    by rewrite Rabs_pos_eq; lra.
  by rewrite Rabs_left; lra.
rewrite (sumE (G := fun s => 2 * (occ Y s * f s - occ X s * f s) - (occ Y s - occ X s))) => [|s]; last ring.
by rewrite sumB sumZ !sumB !mass /under; lra.
Qed.

(* Cube, discounted: TV(d^n, d^0)^2 <= sum_k mean_X K_k^X, K_k^X the KL of k's step at the visits of the team with X updated. *)
Theorem S11_discounted_cube : (forall X k s, keeps (team X s) (team (k |: X) s)) ->
  tv (occ set0) (occ setT)
    <= sqrt (\sum_(k : I) (\big[Rplus/0]_(X : {set I} | k \notin X) Kd X (k |: X) / 2 ^ #|I|.-1)).
Proof.
move=> hk; set M := \sum_(k : I) _; have -> : M = 2 * (M / 2) by field.
apply: occ_tv => T; apply: Rle_trans (S11_cube (@geo_next S A) Some T ed rho_dist geo_factored) _.
rewrite /M /Rdiv -sumZr; apply: sum_le => k; rewrite /mean_step /Rdiv Rmult_assoc (Rmult_comm (/ 2 ^ _)) -Rmult_assoc.
apply: Rmult_le_compat_r; first by apply/Rlt_le/Rinv_0_lt_compat/pow_lt; lra.
rewrite big_distrl; apply: (big_ind2 Rle) => [|*|X _]; [lra | exact: Rplus_le_compat | exact: K_geo].
Qed.
End DiscountedCube.

(* Order, discounted: TV(d^n, d^0)^2 <= sqrt(K_forward K_backward), so of an order and its reverse one has TV^2 <= sum_k K_k. *)
Theorem S11_discounted_order (S A : finType) n (tr : S -> A -> S -> R) g rho (s0 : S) (team : {set 'I_n} -> S -> A -> R) m :
  0 <= g < 1 -> (forall s a, dist (tr s a)) -> dist rho -> factored team -> (forall X, flow tr g rho (team X) (m X)) ->
  (forall X k s, keeps (team X s) (team (k |: X) s)) ->
  tv (occ g m set0) (occ g m setT) <= sqrt (sqrt ((\sum_(i : 'I_n) Kd team m (first n i) (first n i.+1))
    * (\sum_(i : 'I_n) Kd team m (last n i.+1) (last n i)))).
Proof.
move=> g01 trd rd ft hm hk; set F := \sum_(i : 'I_n) _; set B := \sum_(i : 'I_n) _.
have -> : sqrt (F * B) = 2 * (sqrt (F * B) / 2) by field.
apply: (occ_tv (s0 := s0) g01 trd rd ft hm) => T; have ed := geo_e_dist g01 trd s0.
apply: Rle_trans (S11_order (@geo_next S A) Some T ed rd (geo_factored s0 ft)) _.
have h X k := K_geo s0 g01 trd rd ft hm T (hk X k).
have pd X := P_dist (@geo_next S A) Some T ed rd (geo_factored s0 ft) X.
set F' := forward _ _ _ _ _ _; set B' := backward _ _ _ _ _ _.
have Fl : F' <= F / 2 by rewrite /F /Rdiv -sumZr; apply: sum_le => i; rewrite firstS; exact: h.
have Bl : B' <= B / 2 by rewrite /B /Rdiv -sumZr; apply: sum_le => i; rewrite lastS; exact: h.
have F0 : 0 <= F' by apply: sum_ge0 => i; apply: H2_ge0.
have B0 : 0 <= B' by apply: sum_ge0 => i; apply: H2_ge0.
have FB : 0 <= F * B by apply: Rmult_le_pos; lra.
have -> : sqrt (F * B) / 2 = sqrt (F * B * (/ 2 * / 2)) by rewrite (sqrt_mult (F * B)) ?sqrt_square; lra.
apply: sqrt_le_1_alt; have -> : F * B * (/ 2 * / 2) = F / 2 * (B / 2) by field.
exact: Rmult_le_compat.
Qed.
