(* The log-sum inequality for finite sums, and with it: the KL of two measures does not grow when both go through one kernel
   (data processing), is additive over a decision (chain rule), and grows in a step of a process by at most the KL of the step.
   Measures: any weights >= 0, of any mass; kl, keeps, kterm are those of Episodic.v. One idea: x ln (x/y) lies above its
   tangent planes x ln c + x - c y, which add up over the terms of a sum. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Definition measure (I : finType) (x : I -> R) := forall i, 0 <= x i.

Lemma log_tangent x y c : 0 <= x -> 0 <= y -> (0 < x -> 0 < y) -> 0 < c -> x * ln c + x - c * y <= x * ln (x / y).
Proof.
move=> x0 y0 k c0; case: (Rle_lt_or_eq_dec _ _ x0) => [xp|<-]; last by have := Rmult_le_pos _ _ (Rlt_le _ _ c0) y0; lra.
have yp := k xp; have z0 : 0 < c * y / x by apply: Rdiv_lt_0_compat => //; apply: Rmult_lt_0_compat.
have -> : ln (x / y) = ln c - ln (c * y / x).
  rewrite -[ln c](_ : ln (x / y * (c * y / x)) = _); last by congr ln; field; lra.
  by rewrite ln_mult //; [lra | apply: Rdiv_lt_0_compat].
have := Rmult_le_compat_l _ _ _ x0 (ln_le z0); have -> : x * (c * y / x - 1) = c * y - x by field; lra.
lra.
Qed.

Lemma sum_pos_ex (I : finType) (F : I -> R) : 0 < \sum_(i : I) F i -> exists i, 0 < F i.
Proof.
move=> h; suff [//|n] : (exists i, 0 < F i) \/ forall i, F i <= 0.
  by have := sum_le (G := fun _ => 0) n; rewrite [X in _ <= X]sum0 //; lra.
suff H (l : seq I) : (exists i, 0 < F i) \/ forall i, i \in l -> F i <= 0.
  by case: (H (enum I)) => [|n]; [left | right => i; apply: n; rewrite mem_enum].
elim: l => [|i l [ih|ih]]; [by right | by left |].
case: (Rle_lt_dec (F i) 0) => [Fi|Fi]; last by left; exists i.
by right => k; rewrite in_cons => /orP[/eqP->|/ih].
Qed.

Section LogSum.
Variable I : finType.
Implicit Types x y : I -> R.

Theorem log_sum x y : measure x -> measure y -> keeps x y ->
  (\sum_(i : I) x i) * ln ((\sum_(i : I) x i) / \sum_(i : I) y i) <= \sum_(i : I) (x i * ln (x i / y i)).
Proof.
move=> x0 y0 k; have X0 := sum_ge0 x0; have Y0 := sum_ge0 y0.
case: (Rle_lt_or_eq_dec _ _ X0) => [Xp|E]; last first.
  rewrite -E [X in _ <= X]sum0; first lra.
  by move=> i; have := term_le_sum i x0; have := x0 i => h1 h2; have -> : x i = 0 by [lra]; lra.
have Yp : 0 < \sum_(i : I) y i by have [i /k yi] := sum_pos_ex Xp; have := term_le_sum i y0; lra.
set X := \sum_(i : I) x i in Xp *; set Y := \sum_(i : I) y i in Yp *.
have c0 := Rdiv_lt_0_compat _ _ Xp Yp.
have := sum_le (fun i => log_tangent (x0 i) (y0 i) (@k i) c0); rewrite sumB sumD sumZr sumZ -/X -/Y.
have -> : X / Y * Y = X by field; lra.
lra.
Qed.

(* one kernel for both *)
Theorem data_processing (J : finType) (h : I -> J -> R) x y : measure x -> measure y -> keeps x y -> (forall i, dist (h i)) ->
  kl (fun j => \sum_(i : I) (x i * h i j)) (fun j => \sum_(i : I) (y i * h i j)) <= kl x y.
Proof.
move=> x0 y0 k hd.
have -> : kl x y = \sum_(j : J) \sum_(i : I) (x i * h i j * ln (x i * h i j / (y i * h i j))).
  rewrite sum_swap; apply: sumE => i.
  rewrite -[LHS]Rmult_1_r -(proj2 (hd i)) -sumZ; apply: sumE => j.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hd i) j)) => [hp|<-]; last lra.
  case: (Rle_lt_or_eq_dec _ _ (x0 i)) => [xp|<-]; last lra.
  have yp := k i xp; have -> : x i * h i j / (y i * h i j) = x i / y i by field; lra.
  lra.
apply: sum_le => j; apply: (log_sum (x := fun i => x i * h i j)) => i.
- by apply: Rmult_le_pos (x0 i) (proj1 (hd i) j).
- by apply: Rmult_le_pos (y0 i) (proj1 (hd i) j).
move=> xp; have [h0 _] := hd i; have hp : 0 < h i j by case: (Rle_lt_or_eq_dec _ _ (h0 j)) => // E; move: xp; rewrite -E; lra.
by apply: Rmult_lt_0_compat hp; apply: k; case: (Rle_lt_or_eq_dec _ _ (x0 i)) => // E; move: xp; rewrite -E; lra.
Qed.

Lemma kl_add x x' y y' : measure x -> measure x' -> measure y -> measure y' -> keeps x x' -> keeps y y' ->
  kl (fun i => x i + y i) (fun i => x' i + y' i) <= kl x x' + kl y y'.
Proof.
move=> x0 x0' y0 y0' kx ky; rewrite /kl -sumD; apply: sum_le => i.
case: (Rle_lt_or_eq_dec _ _ (x0 i)) => [xp|<-]; case: (Rle_lt_or_eq_dec _ _ (y0 i)) => [yp|<-]; last lra.
- have := kx i xp; have := ky i yp => yp' xp'.
  have c0 : 0 < (x i + y i) / (x' i + y' i) by apply: Rdiv_lt_0_compat; lra.
  have := log_tangent (x0 i) (x0' i) (@kx i) c0; have := log_tangent (y0 i) (y0' i) (@ky i) c0.
  set c := _ / _ in c0 *; have : c * x' i + c * y' i = x i + y i by rewrite /c; field; lra.
  lra.
- have := kx i xp; have := y0' i => yp' xp'.
  have c0 : 0 < x i / (x' i + y' i) by apply: Rdiv_lt_0_compat; lra.
  have := log_tangent (x0 i) (x0' i) (@kx i) c0; rewrite !Rplus_0_r.
  set c := _ / _ in c0 *; have : c * x' i + c * y' i = x i by rewrite /c; field; lra.
  have := Rmult_le_pos _ _ (Rlt_le _ _ c0) yp'; lra.
have := ky i yp; have := x0' i => yp' xp'.
have c0 : 0 < y i / (x' i + y' i) by apply: Rdiv_lt_0_compat; lra.
have := log_tangent (y0 i) (y0' i) (@ky i) c0; rewrite !Rplus_0_l.
set c := _ / _ in c0 *; have : c * x' i + c * y' i = y i by rewrite /c; field; lra.
have := Rmult_le_pos _ _ (Rlt_le _ _ c0) yp'; lra.
Qed.

Lemma kl_scale c x y : 0 < c -> measure x -> keeps x y -> kl (fun i => c * x i) (fun i => c * y i) = c * kl x y.
Proof.
move=> c0 x0 k; rewrite /kl -sumZ; apply: sumE => i.
case: (Rle_lt_or_eq_dec _ _ (x0 i)) => [xp|<-]; last lra.
by have yp := k i xp; have -> : c * x i / (c * y i) = x i / y i by [field; lra]; lra.
Qed.

Lemma kl_self x : measure x -> kl x x = 0.
Proof.
move=> x0; apply: sum0 => i; case: (Rle_lt_or_eq_dec _ _ (x0 i)) => [xp|<-]; last lra.
by have -> : x i / x i = 1 by [field; lra]; rewrite ln_1; lra.
Qed.
Lemma kl_eq x x' y y' : (forall i, x i = x' i) -> (forall i, y i = y' i) -> kl x y = kl x' y'.
Proof. by move=> ex ey; apply: sumE => i; rewrite ex ey. Qed.
End LogSum.

(* ---- a step of a process: from the measure m on the states, by the row p s, through the kernel P *)
Section Step.
Variables (S A : finType) (P : S -> A -> S -> R).
Hypothesis P_dist : forall s a, dist (P s a).
Implicit Types (m : S -> R) (p q : S -> A -> R).
Definition push p m s' := \sum_(s : S) (m s * \sum_(a : A) (p s a * P s a s')).
(* finite KL where m is *)
Definition keeps_at m p q := forall s, 0 < m s -> keeps (p s) (q s).

Lemma pushE p m s' : push p m s' = \sum_(w : prod_finType S A) (m w.1 * p w.1 w.2 * P w.1 w.2 s').
Proof. by rewrite sum_pairs; apply: sumE => s; rewrite -sumZ; apply: sumE => a /=; lra. Qed.
Lemma pair_pos m p : measure m -> (forall s, dist (p s)) -> measure (fun w : prod_finType S A => m w.1 * p w.1 w.2).
Proof. by move=> m0 hp w; apply: Rmult_le_pos (m0 _) (proj1 (hp _) _). Qed.
Lemma push_pos p m : measure m -> (forall s, dist (p s)) -> measure (push p m).
Proof.
move=> m0 hp s; apply: sum_ge0 => x; apply: Rmult_le_pos (m0 x) _; apply: sum_ge0 => a.
by apply: Rmult_le_pos; [exact: (proj1 (hp x)) | exact: (proj1 (P_dist x a))].
Qed.
Lemma push_mass p m : (forall s, dist (p s)) -> \sum_(s : S) push p m s = \sum_(s : S) m s.
Proof.
move=> hp; rewrite sum_swap; apply: sumE => s; rewrite sumZ sum_swap (sumE (G := fun a => p s a)) => [|a].
  by rewrite (proj2 (hp s)); lra.
by rewrite sumZ (proj2 (P_dist s a)); lra.
Qed.
Lemma prod_pos x y : 0 <= x -> 0 <= y -> 0 < x * y -> 0 < x /\ 0 < y.
Proof.
move=> x0 y0 h; split; apply: Rnot_le_lt => n; [have E : x = 0 by lra | have E : y = 0 by lra]; move: h; rewrite E; lra.
Qed.

Section Two.
Variables (m m' : S -> R) (p q : S -> A -> R).
Hypotheses (m0 : measure m) (m0' : measure m') (hp : forall s, dist (p s)) (hq : forall s, dist (q s)).
Hypotheses (km : keeps m m') (hk : keeps_at m p q).
Lemma keeps_pair : keeps (fun w : prod_finType S A => m w.1 * p w.1 w.2) (fun w => m' w.1 * q w.1 w.2).
Proof.
move=> [s a] /= /(prod_pos (m0 s) (proj1 (hp s) a)) [ms pa].
by apply: Rmult_lt_0_compat; [apply: km | apply: hk ms _ pa].
Qed.
Lemma keeps_push : keeps (push p m) (push q m').
Proof.
move=> s'; rewrite !pushE => /sum_pos_ex [w]; have [P0 _] := P_dist w.1 w.2.
move=> /(prod_pos (pair_pos m0 hp w) (P0 s')) [/keeps_pair mw Pw].
apply: Rlt_le_trans (Rmult_lt_0_compat _ _ mw Pw) _.
apply: (term_le_sum (F := fun w : prod_finType S A => m' w.1 * q w.1 w.2 * P w.1 w.2 s')) => z.
exact: Rmult_le_pos (pair_pos m0' hq z) (proj1 (P_dist _ _) _).
Qed.
Lemma kl_chain : kl (fun w : prod_finType S A => m w.1 * p w.1 w.2) (fun w => m' w.1 * q w.1 w.2)
  = kl m m' + \sum_(s : S) (m s * kl (p s) (q s)).
Proof.
rewrite /kl sum_pairs -sumD; apply: sumE => s /=.
case: (Rle_lt_or_eq_dec _ _ (m0 s)) => [ms|<-]; last by rewrite sum0 => [|a]; lra.
have ms' := km ms; rewrite -sumZ -(sum_const (m s * ln (m s / m' s)) (proj2 (hp s))) -sumD; apply: sumE => a.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
have qa := hk ms pa; have -> : m s * p s a / (m' s * q s a) = (m s / m' s) * (p s a / q s a) by field; lra.
by rewrite ln_mult; [lra | exact: Rdiv_lt_0_compat | exact: Rdiv_lt_0_compat].
Qed.
(* a step adds at most its own expected KL *)
Theorem kl_step : kl (push p m) (push q m') <= kl m m' + \sum_(s : S) (m s * kl (p s) (q s)).
Proof.
rewrite -kl_chain (kl_eq (pushE p m) (pushE q m')).
exact: (data_processing (h := fun w s' => P w.1 w.2 s') (pair_pos m0 hp) (pair_pos m0' hq) keeps_pair (fun w => P_dist w.1 w.2)).
Qed.
End Two.

(* the same for total variation, without supports *)
Theorem tv_step m m' p q : measure m -> (forall s, dist (p s)) -> (forall s, dist (q s)) ->
  tv (push p m) (push q m') <= tv m m' + \sum_(s : S) (m s * tv (p s) (q s)).
Proof.
move=> m0 hp hq.
have one s' : Rabs (push q m' s' - push p m s') <=
    \sum_(s : S) \sum_(a : A) ((Rabs (m' s - m s) * q s a + m s * Rabs (q s a - p s a)) * P s a s').
  rewrite /push -sumB; apply: Rle_trans (sum_abs _) _; apply: sum_le => s.
  rewrite -!sumZ -sumB; apply: Rle_trans (sum_abs _) _; apply: sum_le => a.
  have P0 := proj1 (P_dist s a) s'.
  rewrite (_ : _ - _ = ((m' s - m s) * q s a + m s * (q s a - p s a)) * P s a s'); last lra.
  rewrite Rabs_mult (Rabs_pos_eq _ P0); apply: Rmult_le_compat_r P0 _.
  apply: Rle_trans (Rabs_triang _ _) _; rewrite !Rabs_mult (Rabs_pos_eq _ (m0 s)) (Rabs_pos_eq _ (proj1 (hq s) a)); lra.
have := sum_le one; rewrite sum_swap.
have -> : \sum_(s : S) \sum_(s' : S) \sum_(a : A) ((Rabs (m' s - m s) * q s a + m s * Rabs (q s a - p s a)) * P s a s')
    = \sum_(s : S) Rabs (m' s - m s) + 2 * \sum_(s : S) (m s * tv (p s) (q s)).
  rewrite -sumZ -sumD; apply: sumE => s; rewrite sum_swap.
  rewrite (sumE (G := fun a => Rabs (m' s - m s) * q s a + m s * Rabs (q s a - p s a))) => [|a].
    by rewrite sumD !sumZ (proj2 (hq s)) /tv; lra.
  by rewrite sumZ (proj2 (P_dist s a)); lra.
rewrite /tv; lra.
Qed.
End Step.
