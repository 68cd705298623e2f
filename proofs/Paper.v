(* The paper's first-order chain, discounted, finite states: T1, T2, P3.3, P3.4, P3.7, and S5 (vacuity). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Paper.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Implicit Types (p q : S -> A -> R) (m : S -> R).
Notation flow := (flow P g rho).

Definition l1 m m' := \sum_(s : S) Rabs (m' s - m s).
Lemma l1_triangle m1 m2 m3 : l1 m1 m3 <= l1 m1 m2 + l1 m2 m3.
Proof.
rewrite /l1 -sumD; apply: sum_le => s; have := Rabs_triang (m2 s - m1 s) (m3 s - m2 s).
by rewrite (_ : m2 s - m1 s + (m3 s - m2 s) = m3 s - m1 s) //; lra.
Qed.

Lemma mass p m : policy p -> flow p m -> \sum_(s : S) m s = / (1 - g).
Proof.
move=> hp fl; have := dual (fun _ => 1) fl; rewrite /at_rho /under sumZr (proj2 rho_dist).
have E s : m s * (1 - g * step_p P p (fun _ => 1) s) = m s * (1 - g).
  by rewrite /step_p (sumE (G := fun a => p s a * 1)) => [|a]; rewrite ?sum_const ?ev1 //; [lra | exact: (proj2 (hp s))].
rewrite (sumE E) sumZr => h; apply: (Rmult_eq_reg_r (1 - g)); last lra.
by rewrite -h; field; lra.
Qed.

(* ---- T1: sum |m'-m| <= 2g/(1-g) sum m TV; both sides times (1-g) give the occupancies *)
Theorem T1 p q m m' : policy p -> policy q -> flow p m -> flow q m' ->
  l1 m m' <= 2 * g / (1 - g) * under m (fun s => tv (p s) (q s)).
Proof.
move=> hp hq [m0 fp] [m0' fq].
pose Pi (pi : S -> A -> R) s s' := \sum_(a : A) (pi s a * P s a s').
have Pi0 pi s s' : policy pi -> 0 <= Pi pi s s'.
  by move=> h; apply: sum_ge0 => a; apply: Rmult_le_pos; [exact: (proj1 (h s)) | exact: (proj1 (P_dist s a))].
have Pi1 pi s : policy pi -> \sum_(s' : S) Pi pi s s' = 1.
  move=> h; rewrite sum_swap -[RHS](proj2 (h s)); apply: sumE => a.
  by rewrite sumZ (proj2 (P_dist s a)); lra.
have one s' : Rabs (m' s' - m s') <=
    g * (\sum_(s : S) (Rabs (m' s - m s) * Pi q s s')) + g * \sum_(s : S) (m s * \sum_(a : A) (Rabs (q s a - p s a) * P s a s')).
  have -> : m' s' - m s' = g * (\sum_(s : S) ((m' s - m s) * Pi q s s') + \sum_(s : S) (m s * \sum_(a : A) ((q s a - p s a) * P s a s'))).
    rewrite fq fp -sumD (sumE (F := fun s => _ + _) (G := fun s => m' s * Pi q s s' - m s * Pi p s s')) => [|s].
      by rewrite sumB /Pi; lra.
    rewrite (sumE (F := fun a => (q s a - p s a) * _) (G := fun a => q s a * P s a s' - p s a * P s a s')) => [|a]; last lra.
    by rewrite sumB /Pi; lra.
  rewrite Rabs_mult (Rabs_pos_eq _ (proj1 g01)) -Rmult_plus_distr_l; apply: Rmult_le_compat_l (proj1 g01) _.
  apply: Rle_trans (Rabs_triang _ _) _; apply: Rplus_le_compat; apply: Rle_trans (sum_abs _) _; apply: sum_le => s.
    by rewrite Rabs_mult (Rabs_pos_eq (Pi q s s')); [lra | exact: Pi0].
  rewrite Rabs_mult (Rabs_pos_eq _ (m0 s)); apply: Rmult_le_compat_l (m0 s) _.
  apply: Rle_trans (sum_abs _) _; apply: sum_le => a.
  by rewrite Rabs_mult (Rabs_pos_eq (P s a s')); [lra | exact: (proj1 (P_dist s a))].
have := sum_le one; rewrite sumD !sumZ -/(l1 m m') sum_swap => h.
have E1 : \sum_(s : S) \sum_(s' : S) (Rabs (m' s - m s) * Pi q s s') = l1 m m'.
  by apply: sumE => s; rewrite sumZ Pi1 //; lra.
have E2 : \sum_(s' : S) \sum_(s : S) (m s * \sum_(a : A) (Rabs (q s a - p s a) * P s a s')) = 2 * under m (fun s => tv (p s) (q s)).
  rewrite sum_swap /under -sumZ; apply: sumE => s; rewrite sumZ sum_swap.
  rewrite (sumE (F := fun a => \sum_(s' : S) _) (G := fun a => Rabs (q s a - p s a))) => [|a].
    by rewrite /tv; lra.
  by rewrite sumZ (proj2 (P_dist s a)); lra.
rewrite E1 E2 in h; apply: (Rmult_le_reg_l (1 - g)); first lra.
have -> : (1 - g) * (2 * g / (1 - g) * under m (fun s => tv (p s) (q s))) = g * (2 * under m (fun s => tv (p s) (q s))) by field; lra.
lra.
Qed.

Definition delta p q m := (1 - g) * under m (fun s => kl (p s) (q s)).
Definition keepsS p q := forall s, keeps (p s) (q s).

Lemma kl_ge0 p q s : policy p -> policy q -> keepsS p q -> 0 <= kl (p s) (q s).
Proof. by move=> hp hq hk; rewrite -(kterm_sum (hp s) (hq s)); apply: sum_ge0 => a; apply: kterm_ge0. Qed.

(* Pinsker and Jensen *)
Lemma mean_tv p q m : policy p -> policy q -> keepsS p q -> flow p m ->
  (1 - g) * under m (fun s => tv (p s) (q s)) <= sqrt (delta p q m / 2).
Proof.
move=> hp hq hk fl; have [m0 _] := fl.
set X := under m _; have X0 : 0 <= X by apply: sum_ge0 => s; apply: Rmult_le_pos (m0 s) (tv_ge0 _ _).
rewrite -(sqrt_Rsqr ((1 - g) * X)); last by apply: Rmult_le_pos => //; lra.
apply: sqrt_le_1_alt; have := cauchy (fun s => tv (p s) (q s)) m0; rewrite (mass hp fl) -/(under m _) -/X => c.
have b : \sum_(s : S) (m s * tv (p s) (q s) ^ 2) <= under m (fun s => kl (p s) (q s)) / 2.
  rewrite /Rdiv -sumZr; apply: sum_le => s.
  by have := Rmult_le_compat_l _ _ _ (m0 s) (pinsker (hp s) (hq s) (hk s)); lra.
have i0 : 0 <= / (1 - g) by apply/Rlt_le/Rinv_0_lt_compat; lra.
have := Rmult_le_compat_l _ _ _ i0 b => b'.
have := Rmult_le_compat_l ((1 - g) ^ 2) _ _ (pow2_ge_0 _) (Rle_trans _ _ _ c b').
have -> : (1 - g) ^ 2 * (/ (1 - g) * (under m (fun s => kl (p s) (q s)) / 2)) = delta p q m / 2 by rewrite /delta; field; lra.
by rewrite /Rsqr; lra.
Qed.

Lemma sqrt_half x : 0 <= x -> 2 * sqrt (x / 2) = sqrt 2 * sqrt x.
Proof.
move=> x0; rewrite sqrt_div //; last lra.
have := sqrt_sqrt 2 ltac:(lra); have := sqrt_lt_R0 2 ltac:(lra) => a b.
by rewrite -{1}b; field; lra.
Qed.

Lemma delta_ge0 p q m : policy p -> policy q -> keepsS p q -> flow p m -> 0 <= delta p q m.
Proof.
move=> hp hq hk [m0 _]; apply: Rmult_le_pos; first lra.
by apply: sum_ge0 => s; apply: Rmult_le_pos (m0 s) _; apply: kl_ge0.
Qed.

(* ---- T2: ||d'-d||_1 <= sqrt 2 g/(1-g) sqrt delta, d = (1-g) m *)
Theorem T2 p q m m' : policy p -> policy q -> keepsS p q -> flow p m -> flow q m' ->
  (1 - g) * l1 m m' <= sqrt 2 * g / (1 - g) * sqrt (delta p q m).
Proof.
move=> hp hq hk fl fl'; have t1 := T1 hp hq fl fl'; have t := mean_tv hp hq hk fl.
have := sqrt_half (delta_ge0 hp hq hk fl) => E.
have c0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
have -> : sqrt 2 * g / (1 - g) * sqrt (delta p q m) = g / (1 - g) * (sqrt 2 * sqrt (delta p q m)) by field; lra.
rewrite -E; have := Rmult_le_compat_l _ _ _ c0 t.
have := Rmult_le_compat_l (1 - g) _ _ ltac:(lra) t1; lra.
Qed.

Section Update.
Variables (r : S -> A -> R) (Amax : R).
Definition adv_le p v := forall s a, Rabs (Qd P g r v s a - v s) <= Amax.
Notation gain := (gaind P g r).

Lemma gain_le p v q : policy q -> adv_le p v -> forall s, Rabs (gain p v q s) <= Amax.
Proof.
move=> hq ha s; rewrite -(sum_const Amax (proj2 (hq s))); apply: Rle_trans (sum_abs _) _; apply: sum_le => a.
rewrite Rabs_mult Rabs_pos_eq; last exact: (proj1 (hq s)).
by apply: Rmult_le_compat_l (ha s a); exact: (proj1 (hq s)).
Qed.
Lemma under_shift m m' f C : 0 <= C -> (forall s, Rabs (f s) <= C) -> Rabs (under m' f - under m f) <= C * l1 m m'.
Proof.
move=> C0 h; rewrite /under -sumB -sumZ; apply: Rle_trans (sum_abs _) _; apply: sum_le => s.
rewrite (_ : m' s * f s - m s * f s = (m' s - m s) * f s); last lra.
by rewrite Rabs_mult Rmult_comm; apply: Rmult_le_compat_r (h s); exact: Rabs_pos.
Qed.

Variables (team : nat -> S -> A -> R) (v m : nat -> S -> R).
Hypotheses (A0 : 0 <= Amax) (ht : forall i, policy (team i)) (hk : forall i, keepsS (team i) (team i.+1)).
Hypotheses (hm : forall i, flow (team i) (m i)) (hv : forall i, bellman P g r (team i) (v i)).
Hypothesis hA : forall i, adv_le (team i) (v i).
Definition d_ i := delta (team i) (team i.+1) (m i).
Definition g_ i := gain (team i) (v i) (team i.+1).
Definition J i := at_rho rho (v i).
Definition L_seq i := under (m i) (g_ i).
Definition L_stale i := under (m O) (g_ i).
Definition c := sqrt 2 * g * Amax / (1 - g) ^ 2.

Lemma shift_one i : l1 (m i) (m i.+1) <= sqrt 2 * g / (1 - g) ^ 2 * sqrt (d_ i).
Proof.
apply: (Rmult_le_reg_l (1 - g)); first lra.
have := T2 (ht i) (ht i.+1) (@hk i) (hm i) (hm i.+1).
have -> : (1 - g) * (sqrt 2 * g / (1 - g) ^ 2 * sqrt (d_ i)) = sqrt 2 * g / (1 - g) * sqrt (d_ i) by field; lra.
by [].
Qed.
Lemma shift_stage i : l1 (m O) (m i) <= sqrt 2 * g / (1 - g) ^ 2 * \big[Rplus/0]_(k < i) sqrt (d_ k).
Proof.
have one := shift_one; move: one; set k := sqrt 2 * g / (1 - g) ^ 2; clearbody k => one.
elim: i => [|i ih]; first by rewrite big_ord0 /l1 sum0 => [|s]; rewrite ?Rminus_eq_0 ?Rabs_R0; lra.
rewrite big_ord_recr /= Rmult_plus_distr_l; apply: Rle_trans (l1_triangle _ (m i) _) _.
by apply: Rplus_le_compat ih (one i).
Qed.
Lemma shift_gain i j k : Rabs (under (m k) (g_ i) - under (m j) (g_ i)) <= Amax * l1 (m j) (m k).
Proof. by apply: under_shift => // s; apply: gain_le. Qed.
Lemma cE x : Amax * (sqrt 2 * g / (1 - g) ^ 2 * x) = c * x.
Proof. by rewrite /c; field; lra. Qed.

Theorem P3_3 i : Rabs (L_seq i - L_stale i) <= c * \big[Rplus/0]_(k < i) sqrt (d_ k).
Proof. by apply: Rle_trans (shift_gain i O i) _; rewrite -cE; apply: Rmult_le_compat_l (shift_stage i). Qed.

Theorem P3_4 i zeta Lhat : (1 - g) * Rabs (Lhat - L_seq i) <= zeta ->
  J i.+1 - J i >= Lhat - c * sqrt (d_ i) - zeta / (1 - g).
Proof.
move=> z; rewrite /J (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)).
have s := Rle_trans _ _ _ (shift_gain i i i.+1) (Rmult_le_compat_l _ _ _ A0 (shift_one i)); rewrite cE in s.
have z' : Rabs (Lhat - L_seq i) <= zeta / (1 - g).
  apply: (Rmult_le_reg_l (1 - g)); first lra.
  by have -> : (1 - g) * (zeta / (1 - g)) = zeta by field; lra.
have := Rabs_def2_le s; have := Rle_abs (Lhat - L_seq i); rewrite /L_seq /g_ in z' *; lra.
Qed.

Theorem P3_7 i : J i.+1 - J i >= L_stale i - c * \big[Rplus/0]_(k < i.+1) sqrt (d_ k).
Proof.
rewrite /J (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)).
have s := Rle_trans _ _ _ (shift_gain i O i.+1) (Rmult_le_compat_l _ _ _ A0 (shift_stage i.+1)); rewrite cE in s.
have := Rabs_def2_le s; rewrite /L_stale /g_; lra.
Qed.

(* whole stages *)
Corollary P3_6 n : J n - J O >= \big[Rplus/0]_(i < n) (L_seq i - c * sqrt (d_ i)).
Proof.
elim: n => [|n ih]; first by rewrite big_ord0; lra.
have z : (1 - g) * Rabs (L_seq n - L_seq n) <= 0 by rewrite Rminus_eq_0 Rabs_R0; lra.
have h : J n.+1 - J n >= L_seq n - c * sqrt (d_ n) by have := P3_4 z; rewrite /Rdiv Rmult_0_l; lra.
rewrite big_ord_recr; apply: Rle_ge; apply: Rle_trans (Rplus_le_compat _ _ _ _ (Rge_le _ _ ih) (Rge_le _ _ h)) _; lra.
Qed.

(* ---- S5 *)
Theorem S5 i : L_seq i <= sqrt 2 * Amax * sqrt (d_ i) / (1 - g).
Proof.
have gl s : g_ i s <= 2 * Amax * tv (team i s) (team i.+1 s).
  rewrite /g_ gaindE; last exact: ht. rewrite (hv i s) -sumB.
  have -> : \sum_(a : A) (team i.+1 s a * Qd P g r (v i) s a - team i s a * Qd P g r (v i) s a)
     = \sum_(a : A) ((team i.+1 s a - team i s a) * (Qd P g r (v i) s a - v i s)).
    rewrite [RHS](sumE (G := fun a => (team i.+1 s a * Qd P g r (v i) s a - team i s a * Qd P g r (v i) s a)
      - (team i.+1 s a * v i s - team i s a * v i s))) => [|a]; last lra.
    by rewrite !sumB !sumZr (proj2 (ht i s)) (proj2 (ht i.+1 s)); lra.
  apply: Rle_trans (Rle_abs _) _; apply: Rle_trans (sum_abs _) _.
  rewrite /tv (_ : 2 * Amax * _ = Amax * \sum_(a : A) Rabs (team i.+1 s a - team i s a)); last lra.
  rewrite -sumZ; apply: sum_le => a; rewrite Rabs_mult Rmult_comm.
  by apply: Rmult_le_compat_r; [exact: Rabs_pos | exact: hA].
have m0 := proj1 (hm i).
have b : L_seq i <= 2 * Amax * under (m i) (fun s => tv (team i s) (team i.+1 s)).
  by rewrite /L_seq /under -sumZ; apply: sum_le => s; have := Rmult_le_compat_l _ _ _ (m0 s) (gl s); lra.
have t := mean_tv (ht i) (ht i.+1) (@hk i) (hm i).
apply: (Rmult_le_reg_l (1 - g)); first lra.
have -> : (1 - g) * (sqrt 2 * Amax * sqrt (d_ i) / (1 - g)) = Amax * (sqrt 2 * sqrt (d_ i)) by field; lra.
rewrite -sqrt_half; last by apply: delta_ge0.
have := Rmult_le_compat_l _ _ _ A0 t; have := Rmult_le_compat_l (1 - g) _ _ ltac:(lra) b; rewrite -/(d_ i); lra.
Qed.

Theorem S5_vacuous i : / 2 <= g -> L_seq i - c * sqrt (d_ i) <= 0.
Proof.
move=> g2; have s := S5 i; have x0 : 0 <= sqrt 2 * Amax * sqrt (d_ i).
  by apply: Rmult_le_pos (sqrt_pos _); apply: Rmult_le_pos (sqrt_pos _) A0.
have -> : c * sqrt (d_ i) = g / (1 - g) ^ 2 * (sqrt 2 * Amax * sqrt (d_ i)) by rewrite /c; field; lra.
set X := sqrt 2 * Amax * sqrt (d_ i) in s x0 *.
have : X / (1 - g) <= g / (1 - g) ^ 2 * X.
  apply: (Rmult_le_reg_l ((1 - g) ^ 2)); first by apply: pow_lt; lra.
  have -> : (1 - g) ^ 2 * (X / (1 - g)) = (1 - g) * X by field; lra.
  have -> : (1 - g) ^ 2 * (g / (1 - g) ^ 2 * X) = g * X by field; lra.
  by apply: Rmult_le_compat_r => //; lra.
lra.
Qed.
End Update.
End Paper.
