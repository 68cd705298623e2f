(* The paper's first-order chain, discounted, finite states: T1, T2, P3.3, P3.4, P3.6, P3.7, and S5 (no certificate once g >=
   1/2). T1 bounds the shift of the visits by the total variation of the rows; Pinsker and Jensen turn this into the square root
   of a KL (T2); a surrogate or a gap changes by at most A_max times the shift (P3.3, P3.4, P3.7); a stage adds up (P3.6, P3.7).
   A stage is any sequence of teams: no protocol is needed, and agents may share parameters. Only in the last form of P3.7 must
   the KL of the stage be the sum of those of its updates (Teams.v: it is, in both protocols). A KL must be finite only at
   visited states. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Teams Discounted.
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

(* ---- T1: ||d' - d||_1 <= 2g/(1-g) E_d TV(q, p), d = (1-g) m; here both sides are divided by 1-g.
   The shift x = m' - m solves x = g x P_q + g m (P_q - P_p). *)
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
  have -> : m' s' - m s' = g * (\sum_(s : S) ((m' s - m s) * Pi q s s')
      + \sum_(s : S) (m s * \sum_(a : A) ((q s a - p s a) * P s a s'))).
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
have E2 : \sum_(s' : S) \sum_(s : S) (m s * \sum_(a : A) (Rabs (q s a - p s a) * P s a s')) =
  2 * under m (fun s => tv (p s) (q s)).
  rewrite sum_swap /under -sumZ; apply: sumE => s; rewrite sumZ sum_swap.
  rewrite (sumE (F := fun a => \sum_(s' : S) _) (G := fun a => Rabs (q s a - p s a))) => [|a].
    by rewrite /tv; lra.
  by rewrite sumZ (proj2 (P_dist s a)); lra.
rewrite E1 E2 in h; apply: (Rmult_le_reg_l (1 - g)); first lra.
have -> : (1 - g) * (2 * g / (1 - g) * under m (fun s => tv (p s) (q s))) = g * (2 * under m (fun s => tv (p s) (q s)))
  by field; lra.
lra.
Qed.

Definition delta p q m := (1 - g) * under m (fun s => kl (p s) (q s)).
Definition keepsS p q := forall s, keeps (p s) (q s).

Lemma kl_ge0 p q s : policy p -> policy q -> keepsS p q -> 0 <= kl (p s) (q s).
Proof. by move=> hp hq hk; rewrite -(kterm_sum (hp s) (hq s)); apply: sum_ge0 => a; apply: kterm_ge0. Qed.

(* q keeps what p uses at the states that m visits: the KL under m is finite *)
Definition keeps_on m p q := forall s, 0 < m s -> keeps (p s) (q s).
Lemma keepsS_on m p q : keepsS p q -> keeps_on m p q.
Proof. by move=> h s _; apply: h. Qed.

Lemma under_le m (f h : S -> R) : (forall s, 0 <= m s) -> (forall s, 0 < m s -> f s <= h s) -> under m f <= under m h.
Proof. exact: sum_pos_le. Qed.

(* Pinsker and Jensen: E_d TV <= sqrt (E_d KL / 2) *)
Lemma mean_tv_visited pi p q m : policy p -> policy q -> keeps_on m p q -> policy pi -> flow pi m ->
  (1 - g) * under m (fun s => tv (p s) (q s)) <= sqrt (delta p q m / 2).
Proof.
move=> hp hq hk hpi fl; have [m0 _] := fl.
set X := under m _; have X0 : 0 <= X by apply: sum_ge0 => s; apply: Rmult_le_pos (m0 s) (tv_ge0 _ _).
rewrite -(sqrt_Rsqr ((1 - g) * X)); last by apply: Rmult_le_pos => //; lra.
apply: sqrt_le_1_alt; have := cauchy (fun s => tv (p s) (q s)) m0; rewrite (mass hpi fl) -/(under m _) -/X => c.
have b : \sum_(s : S) (m s * tv (p s) (q s) ^ 2) <= under m (fun s => kl (p s) (q s)) / 2.
  rewrite /Rdiv (Rmult_comm _ (/ 2)) /under -sumZ.
  rewrite (sumE (F := fun s => / 2 * _) (G := fun s => m s * (kl (p s) (q s) / 2))) => [|s]; last lra.
  by apply: sum_pos_le => // s ms; apply: pinsker; [exact: hp | exact: hq | exact: hk].
have i0 : 0 <= / (1 - g) by apply/Rlt_le/Rinv_0_lt_compat; lra.
have := Rmult_le_compat_l _ _ _ i0 b => b'.
have := Rmult_le_compat_l ((1 - g) ^ 2) _ _ (pow2_ge_0 _) (Rle_trans _ _ _ c b').
have -> : (1 - g) ^ 2 * (/ (1 - g) * (under m (fun s => kl (p s) (q s)) / 2)) = delta p q m / 2 by rewrite /delta; field; lra.
by rewrite /Rsqr; lra.
Qed.
Lemma mean_tv p q m : policy p -> policy q -> keepsS p q -> flow p m ->
  (1 - g) * under m (fun s => tv (p s) (q s)) <= sqrt (delta p q m / 2).
Proof. by move=> hp hq hk; apply: mean_tv_visited => //; exact: keepsS_on. Qed.

Lemma sqrt_half x : 0 <= x -> 2 * sqrt (x / 2) = sqrt 2 * sqrt x.
Proof.
move=> x0; rewrite sqrt_div //; last lra.
have := sqrt_sqrt 2 ltac:(lra); have := sqrt_lt_R0 2 ltac:(lra) => a b.
by rewrite -{1}b; field; lra.
Qed.

Lemma delta_ge0_visited p q m : policy p -> policy q -> keeps_on m p q -> (forall s, 0 <= m s) -> 0 <= delta p q m.
Proof.
move=> hp hq hk m0; apply: Rmult_le_pos; first lra.
rewrite (_ : 0 = under m (fun _ => 0)); last by rewrite /under sum0 // => s; lra.
apply: under_le => // s ms; rewrite -(kterm_sum (hp s) (hq s)).
by apply: sum_ge0 => a; apply: kterm_ge0 (hp s) (hq s) (hk s ms).
Qed.
Lemma delta_ge0 p q m : policy p -> policy q -> keepsS p q -> flow p m -> 0 <= delta p q m.
Proof. by move=> hp hq hk [m0 _]; apply: delta_ge0_visited => //; exact: keepsS_on. Qed.

(* ---- T2: ||d'-d||_1 <= sqrt 2 g/(1-g) sqrt delta, d = (1-g) m: T1 with Pinsker's and Jensen's inequalities *)
Theorem T2_visited p q m m' : policy p -> policy q -> keeps_on m p q -> flow p m -> flow q m' ->
  (1 - g) * l1 m m' <= sqrt 2 * g / (1 - g) * sqrt (delta p q m).
Proof.
move=> hp hq hk fl fl'; have t1 := T1 hp hq fl fl'; have t := mean_tv_visited hp hq hk hp fl.
have := sqrt_half (delta_ge0_visited hp hq hk (proj1 fl)) => E.
have c0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
have -> : sqrt 2 * g / (1 - g) * sqrt (delta p q m) = g / (1 - g) * (sqrt 2 * sqrt (delta p q m)) by field; lra.
rewrite -E; have := Rmult_le_compat_l _ _ _ c0 t.
have := Rmult_le_compat_l (1 - g) _ _ ltac:(lra) t1; lra.
Qed.
Theorem T2 p q m m' : policy p -> policy q -> keepsS p q -> flow p m -> flow q m' ->
  (1 - g) * l1 m m' <= sqrt 2 * g / (1 - g) * sqrt (delta p q m).
Proof. by move=> hp hq hk; apply: T2_visited => //; exact: keepsS_on. Qed.

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
Lemma Amax_ge0 p v q : policy q -> adv_le p v -> 0 <= Amax.
Proof.
move=> hq ha; rewrite -(sum_const Amax (proj2 rho_dist)); apply: sum_ge0 => s; apply: Rmult_le_pos (proj1 rho_dist s) _.
exact: Rle_trans (Rabs_pos _) (gain_le hq ha s).
Qed.

Variables (team : nat -> S -> A -> R) (v m : nat -> S -> R).
Hypotheses (ht : forall i, policy (team i)).
Hypotheses (hm : forall i, flow (team i) (m i)) (hv : forall i, bellman P g r (team i) (v i)).
(* updates are counted from 0: update i leads from team i to team i+1 *)
Definition d_ i := delta (team i) (team i.+1) (m i).
Definition d0_ i := delta (team i) (team i.+1) (m O).                         (* the same KL under the visits of team 0 *)
Definition g_ i := gain (team i) (v i) (team i.+1).
Definition J i := at_rho rho (v i).
Definition L_seq i := under (m i) (g_ i).
Definition L_stale i := under (m O) (g_ i).
Definition c := sqrt 2 * g * Amax / (1 - g) ^ 2.
Definition keeps_fresh i := keeps_on (m i) (team i) (team i.+1).
Definition keeps_stale i := keeps_on (m O) (team i) (team i.+1).

Lemma fresh_gap i : J i.+1 - J i - L_seq i = under (m i.+1) (g_ i) - under (m i) (g_ i).
Proof. by rewrite /J (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)). Qed.
Lemma stale_gap i : J i.+1 - J i - L_stale i = under (m i.+1) (g_ i) - under (m O) (g_ i).
Proof. by rewrite /J (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)). Qed.

Lemma shift_pair i k : keeps_on (m i) (team i) (team k) ->
  l1 (m i) (m k) <= sqrt 2 * g / (1 - g) ^ 2 * sqrt (delta (team i) (team k) (m i)).
Proof.
move=> hk; apply: (Rmult_le_reg_l (1 - g)); first lra.
have := T2_visited (ht i) (ht k) hk (hm i) (hm k).
set D := sqrt (delta _ _ _); have -> // : (1 - g) * (sqrt 2 * g / (1 - g) ^ 2 * D) = sqrt 2 * g / (1 - g) * D by field; lra.
Qed.
(* from team 0 to team i, shift by shift: the KLs are fresh *)
Lemma shift_stage i : (forall k, (k < i)%nat -> keeps_fresh k) ->
  l1 (m O) (m i) <= sqrt 2 * g / (1 - g) ^ 2 * \big[Rplus/0]_(k < i) sqrt (d_ k).
Proof.
elim: i => [|i ih] hk; first by rewrite big_ord0 /l1 sum0 => [|s]; rewrite ?Rminus_eq_0 ?Rabs_R0; lra.
rewrite big_ord_recr /= Rmult_plus_distr_l; apply: Rle_trans (l1_triangle _ (m i) _) _.
by apply: Rplus_le_compat (ih _) (shift_pair (hk i (ltnSn i))) => k ki; apply: hk; apply: ltnW.
Qed.
(* from team 0 to team i in one step, by T1 and the triangle inequality row by row: the KLs are under the visits of team 0 *)
Lemma tv_stage i s : tv (team O s) (team i s) <= \big[Rplus/0]_(k < i) tv (team k s) (team k.+1 s).
Proof.
elim: i => [|i ih]; first by rewrite big_ord0 /tv sum0 => [|a]; rewrite ?Rminus_eq_0 ?Rabs_R0; lra.
by rewrite big_ord_recr /=; apply: Rle_trans (tv_triangle _ (team i s) _) _; apply: Rplus_le_compat_r.
Qed.
Lemma shift_stage0 i : (forall k, (k < i)%nat -> keeps_stale k) ->
  l1 (m O) (m i) <= sqrt 2 * g / (1 - g) ^ 2 * \big[Rplus/0]_(k < i) sqrt (d0_ k).
Proof.
move=> hk; apply: Rle_trans (T1 (ht O) (ht i) (hm O) (hm i)) _.
have m0 := proj1 (hm O).
have tvs : under (m O) (fun s => tv (team O s) (team i s))
    <= \big[Rplus/0]_(k < i) under (m O) (fun s => tv (team k s) (team k.+1 s)).
  rewrite /under exchange_big /=; apply: sum_le => s; rewrite -big_distrr /=.
  exact: Rmult_le_compat_l (m0 s) (tv_stage i s).
have one k : (k < i)%nat -> under (m O) (fun s => tv (team k s) (team k.+1 s)) <= / (2 * (1 - g)) * (sqrt 2 * sqrt (d0_ k)).
  move=> ki; apply: (Rmult_le_reg_l (1 - g)); first lra.
  have d0 : 0 <= d0_ k by apply: delta_ge0_visited (hk k ki) m0.
  have := mean_tv_visited (ht k) (ht k.+1) (hk k ki) (ht O) (hm O); rewrite -/(d0_ k) -(sqrt_half d0) => h.
  by have -> : (1 - g) * (/ (2 * (1 - g)) * (2 * sqrt (d0_ k / 2))) = sqrt (d0_ k / 2) by field; lra.
have {}tvs : under (m O) (fun s => tv (team O s) (team i s)) <= / (2 * (1 - g)) * (sqrt 2 * \big[Rplus/0]_(k < i) sqrt (d0_ k)).
  apply: Rle_trans tvs _; rewrite -!sumZ; apply: sum_le => k; exact: one.
have c0 : 0 <= 2 * g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
apply: Rle_trans (Rmult_le_compat_l _ _ _ c0 tvs) _.
by set X := bigop _ _ _; apply: Req_le; field; lra.
Qed.

Section One.
Variable i : nat.
Hypothesis hA : adv_le (team i) (v i).
Let A0 : 0 <= Amax := Amax_ge0 (ht i) hA.
Lemma shift_gain j k : Rabs (under (m k) (g_ i) - under (m j) (g_ i)) <= Amax * l1 (m j) (m k).
Proof. by apply: under_shift => // s; apply: gain_le. Qed.
Lemma by_shift j k x : l1 (m j) (m k) <= sqrt 2 * g / (1 - g) ^ 2 * x -> Rabs (under (m k) (g_ i) - under (m j) (g_ i)) <= c * x.
Proof.
move=> h; apply: Rle_trans (shift_gain j k) _; have -> : c * x = Amax * (sqrt 2 * g / (1 - g) ^ 2 * x) by rewrite /c; field; lra.
exact: Rmult_le_compat_l.
Qed.

(* P3.3: |L_i^seq - L_i^stale| <= c_i sum_{k<i} sqrt delta_k, c_i = sqrt 2 g A_max,i / (1-g)^2.
   Nothing is asked of update i itself. *)
Theorem P3_3 : (forall k, (k < i)%nat -> keeps_fresh k) ->
  Rabs (L_seq i - L_stale i) <= c * \big[Rplus/0]_(k < i) sqrt (d_ k).
Proof. by move=> hk; apply: by_shift; apply: shift_stage. Qed.

(* P3.4, two-sided: |fresh_i| <= c_i sqrt delta_i *)
Theorem P3_4_gap : keeps_fresh i -> Rabs (J i.+1 - J i - L_seq i) <= c * sqrt (d_ i).
Proof. by move=> hk; rewrite fresh_gap; apply: by_shift; apply: shift_pair. Qed.

Lemma estimate x y zeta : (1 - g) * Rabs (x - y) <= zeta -> Rabs (x - y) <= zeta / (1 - g).
Proof.
move=> h; apply: (Rmult_le_reg_l (1 - g)); first lra.
by have -> : (1 - g) * (zeta / (1 - g)) = zeta by field; lra.
Qed.
(* P3.4, with an estimate: J(i+1) - J(i) >= Lhat - c_i sqrt delta_i - zeta/(1-g) if zeta >= (1-g)|Lhat - L_i^seq| *)
Theorem P3_4 zeta Lhat : keeps_fresh i -> (1 - g) * Rabs (Lhat - L_seq i) <= zeta ->
  J i.+1 - J i >= Lhat - c * sqrt (d_ i) - zeta / (1 - g).
Proof.
move=> hk /estimate z; have := Rabs_def2_le (P3_4_gap hk); have := Rle_abs (Lhat - L_seq i); lra.
Qed.

(* P3.7, one update: |stale_i| <= c_i sum_{k<=i} sqrt delta_k *)
Theorem P3_7_gap : (forall k, (k <= i)%nat -> keeps_fresh k) ->
  Rabs (J i.+1 - J i - L_stale i) <= c * \big[Rplus/0]_(k < i.+1) sqrt (d_ k).
Proof. by move=> hk; rewrite stale_gap; apply: by_shift; apply: shift_stage. Qed.
(* the same with delta^0, the KLs under the visits of team 0 *)
Theorem P3_7_gap_stale_kl : (forall k, (k <= i)%nat -> keeps_stale k) ->
  Rabs (J i.+1 - J i - L_stale i) <= c * \big[Rplus/0]_(k < i.+1) sqrt (d0_ k).
Proof. by move=> hk; rewrite stale_gap; apply: by_shift; apply: shift_stage0. Qed.
(* and in one step: c_i sqrt (sum_{k<=i} delta^0_k), if the KL of the stage is the sum of those of its updates *)
Theorem P3_7_gap_joint : keeps_on (m O) (team O) (team i.+1) ->
  (forall s, 0 < m O s -> kl (team O s) (team i.+1 s) = \big[Rplus/0]_(k < i.+1) kl (team k s) (team k.+1 s)) ->
  Rabs (J i.+1 - J i - L_stale i) <= c * sqrt (\big[Rplus/0]_(k < i.+1) d0_ k).
Proof.
move=> hk E; rewrite stale_gap; apply: by_shift; have := shift_pair hk; congr (_ <= _ * sqrt _).
rewrite /d0_ /delta sumZ; congr (_ * _); rewrite /under exchange_big /=; apply: sumE => s.
rewrite -big_distrr /=; case: (Rle_lt_or_eq_dec _ _ (proj1 (hm O) s)) => [ms|<-]; last lra.
by rewrite E.
Qed.
(* P3.7, one update, with an estimate *)
Theorem P3_7 zeta Lhat : (forall k, (k <= i)%nat -> keeps_fresh k) -> (1 - g) * Rabs (Lhat - L_stale i) <= zeta ->
  J i.+1 - J i >= Lhat - c * \big[Rplus/0]_(k < i.+1) sqrt (d_ k) - zeta / (1 - g).
Proof.
move=> hk /estimate z; have := Rabs_def2_le (P3_7_gap hk); have := Rle_abs (Lhat - L_stale i); lra.
Qed.

(* ---- S5: L_i^seq <= sqrt 2 A_max,i sqrt delta_i / (1-g), so the paper's certificate
   L_i^seq - c_i sqrt delta_i <= sqrt 2 A_max,i sqrt delta_i (1-2g) / (1-g)^2 is never positive once g >= 1/2 *)
Theorem S5_visited : keeps_fresh i -> L_seq i <= sqrt 2 * Amax * sqrt (d_ i) / (1 - g).
Proof.
move=> hk; have gl s : g_ i s <= 2 * Amax * tv (team i s) (team i.+1 s).
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
have t := mean_tv_visited (ht i) (ht i.+1) hk (ht i) (hm i).
apply: (Rmult_le_reg_l (1 - g)); first lra.
have -> : (1 - g) * (sqrt 2 * Amax * sqrt (d_ i) / (1 - g)) = Amax * (sqrt 2 * sqrt (d_ i)) by field; lra.
rewrite -sqrt_half; last by apply: delta_ge0_visited hk m0.
have := Rmult_le_compat_l _ _ _ A0 t; have := Rmult_le_compat_l (1 - g) _ _ ltac:(lra) b; rewrite -/(d_ i); lra.
Qed.
Theorem S5_certificate : keeps_fresh i -> L_seq i - c * sqrt (d_ i) <= sqrt 2 * Amax * sqrt (d_ i) / (1 - g) ^ 2 * (1 - 2 * g).
Proof.
move=> /S5_visited s; have -> : sqrt 2 * Amax * sqrt (d_ i) / (1 - g) ^ 2 * (1 - 2 * g)
  = sqrt 2 * Amax * sqrt (d_ i) / (1 - g) - c * sqrt (d_ i) by rewrite /c; field; lra.
lra.
Qed.
Theorem S5_vacuous : keeps_fresh i -> / 2 <= g -> L_seq i - c * sqrt (d_ i) <= 0.
Proof.
move=> /S5_certificate s g2; apply: Rle_trans s _; set X := _ / _ ^ 2.
have X0 : 0 <= X.
  apply: Rmult_le_pos; first by apply: Rmult_le_pos (sqrt_pos _); apply: Rmult_le_pos (sqrt_pos _) A0.
  by apply/Rlt_le/Rinv_0_lt_compat/pow_lt; lra.
have := Rmult_le_compat_l _ _ _ X0 (_ : 1 - 2 * g <= 0); lra.
Qed.
End One.
End Update.
(* with one A_max, and everything kept *)
Theorem S5 r Amax team (v m : nat -> S -> R) : 0 <= Amax -> (forall i, policy (team i)) ->
  (forall i, keepsS (team i) (team i.+1)) ->
  (forall i, flow (team i) (m i)) -> (forall i, bellman P g r (team i) (v i)) -> (forall i, adv_le r Amax (team i) (v i)) ->
  forall i, L_seq r team v m i <= sqrt 2 * Amax * sqrt (d_ team m i) / (1 - g).
Proof. by move=> _ ht hk hm hv hA i; apply: (S5_visited ht hm hv (hA i)); apply: keepsS_on. Qed.

(* ---- a stage: n updates, each with its own A_max, and estimates Lhat_i with errors zeta_i (all zero: exact surrogates) *)
Section Stage.
Variables (r : S -> A -> R) (team : nat -> S -> A -> R) (v m : nat -> S -> R) (Amax zeta Lhat : nat -> R) (n : nat).
Hypotheses (ht : forall i, policy (team i)).
Hypotheses (hm : forall i, flow (team i) (m i)) (hv : forall i, bellman P g r (team i) (v i)).
Hypothesis hA : forall i, (i < n)%nat -> adv_le r (Amax i) (team i) (v i).
Notation J := (J v). Notation d_ := (d_ team m). Notation d0_ := (d0_ team m).
Notation c i := (c (Amax i)).

Lemma add_up (X : nat -> R) : (forall i, (i < n)%nat -> J i.+1 - J i >= X i) -> J n - J O >= \big[Rplus/0]_(i < n) X i.
Proof.
elim: n => [|k ih] h; first by rewrite big_ord0; lra.
have := ih (fun i ik => h i (ltnW ik)); have := h k (ltnSn k); rewrite big_ord_recr /=; lra.
Qed.

(* P3.6: J(n) - J(0) >= sum_i (Lhat_i - c_i sqrt delta_i - zeta_i/(1-g)) *)
Theorem P3_6 : (forall i, (i < n)%nat -> keeps_fresh team m i) ->
  (forall i, (i < n)%nat -> (1 - g) * Rabs (Lhat i - L_seq r team v m i) <= zeta i) ->
  J n - J O >= \big[Rplus/0]_(i < n) (Lhat i - c i * sqrt (d_ i) - zeta i / (1 - g)).
Proof.
move=> hk z; apply: (add_up (X := fun i => Lhat i - c i * sqrt (d_ i) - zeta i / (1 - g))) => i ni.
by apply: (P3_4 ht hm hv (hA ni) (hk i ni)); apply: z.
Qed.

(* P3.7: J(n) - J(0) >= sum_i (Lhat_i - c_i sum_{k<=i} sqrt delta_k - zeta_i/(1-g)), Lhat_i near L_i^stale *)
Theorem P3_7_stage : (forall i, (i < n)%nat -> keeps_fresh team m i) ->
  (forall i, (i < n)%nat -> (1 - g) * Rabs (Lhat i - L_stale r team v m i) <= zeta i) ->
  J n - J O >= \big[Rplus/0]_(i < n) (Lhat i - c i * \big[Rplus/0]_(k < i.+1) sqrt (d_ k) - zeta i / (1 - g)).
Proof.
move=> hk z; apply: (add_up (X := fun i => Lhat i - c i * \big[Rplus/0]_(k < i.+1) sqrt (d_ k) - zeta i / (1 - g))) => i ni.
by apply: (P3_7 ht hm hv (hA ni)) => [k ki|]; [apply: hk; apply: leq_ltn_trans ki ni | apply: z].
Qed.
Lemma from_gap i x : (i < n)%nat -> (1 - g) * Rabs (Lhat i - L_stale r team v m i) <= zeta i ->
  Rabs (J i.+1 - J i - L_stale r team v m i) <= x -> J i.+1 - J i >= Lhat i - x - zeta i / (1 - g).
Proof.
by move=> ni /estimate z /Rabs_def2_le h; have := Rle_abs (Lhat i - L_stale r team v m i); lra.
Qed.
(* the same with delta^0 *)
Theorem P3_7_stage_stale_kl : (forall i, (i < n)%nat -> keeps_stale team m i) ->
  (forall i, (i < n)%nat -> (1 - g) * Rabs (Lhat i - L_stale r team v m i) <= zeta i) ->
  J n - J O >= \big[Rplus/0]_(i < n) (Lhat i - c i * \big[Rplus/0]_(k < i.+1) sqrt (d0_ k) - zeta i / (1 - g)).
Proof.
move=> hk z; apply: (add_up (X := fun i => Lhat i - c i * \big[Rplus/0]_(k < i.+1) sqrt (d0_ k) - zeta i / (1 - g))) => i ni.
apply: from_gap (z i ni) _ => //.
by apply: (P3_7_gap_stale_kl ht hm hv (hA ni)) => k ki; apply: hk; apply: leq_ltn_trans ki ni.
Qed.
(* and in the joint form *)
Theorem P3_7_stage_joint : (forall i, (i <= n)%nat -> keeps_on (m O) (team O) (team i)) ->
  (forall i s, (i <= n)%nat -> 0 < m O s -> kl (team O s) (team i s) = \big[Rplus/0]_(k < i) kl (team k s) (team k.+1 s)) ->
  (forall i, (i < n)%nat -> (1 - g) * Rabs (Lhat i - L_stale r team v m i) <= zeta i) ->
  J n - J O >= \big[Rplus/0]_(i < n) (Lhat i - c i * sqrt (\big[Rplus/0]_(k < i.+1) d0_ k) - zeta i / (1 - g)).
Proof.
move=> hk E z; apply: (add_up (X := fun i => Lhat i - c i * sqrt (\big[Rplus/0]_(k < i.+1) d0_ k) - zeta i / (1 - g))) => i ni.
apply: from_gap (z i ni) _ => //.
by apply: (P3_7_gap_joint ht hm hv (hA ni)) => [|s ms]; [exact: hk | exact: E].
Qed.

End Stage.
End Paper.

(* ---- P3.7 in its joint form for the two protocols, teams without shared parameters: |stale_i| <= c_i sqrt (sum_{k<=i}
   delta^0_k) *)
Section Protocols.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (I : eqType) (k0 : I) (team : seq I -> S -> A -> R) (order : seq I) (v m : nat -> S -> R) (Amax : R) (i : nat).
Notation stage := (fun k => team (take k order)).
Hypotheses (hf : factored team) (ht : forall u, policy (team u)) (ho : uniq order) (hi : (i < size order)%nat).
Hypotheses (hm : forall k, flow P g rho (stage k) (m k)) (hv : forall k, bellman P g r (stage k) (v k)).
Hypotheses (hA : adv_le P g r Amax (stage i) (v i)) (hk : forall s, 0 < m O s -> keeps (team [::] s) (team order s)).
Lemma P3_7_factored :
  (forall u k s, 0 < m O s -> k \notin u -> k \in order -> kl (team u s) (team (rcons u k) s) =
    kl (team [::] s) (team [:: k] s)) ->
  Rabs (J rho v i.+1 - J rho v i - L_stale P g r stage v m i) <= c g Amax * sqrt (\big[Rplus/0]_(k < i.+1) d0_ g stage m k).
Proof.
move=> one; apply: (P3_7_gap_joint g01 P_dist rho_dist (fun k => ht _) hm hv hA) => s ms; rewrite take0.
  by have := hk ms; rewrite -{1}(cat_take_drop i.+1 order); apply: keeps_cat; rewrite ?cat_take_drop.
by apply: kl_along => // [|u k ku ko]; [exact: hk | exact: one].
Qed.
End Protocols.
Theorem P3_7_turns (S A : finType) (P : S -> A -> S -> R) g rho r (I : eqType) (k0 : I) (j : S -> I) (p p' : S -> A -> R)
    (order : seq I) (v m : nat -> S -> R) Amax i : let team := turns j p p' in let stage k := team (take k order) in
  0 <= g < 1 -> (forall s a, dist (P s a)) -> dist rho -> policy p -> policy p' -> uniq order -> (i < size order)%nat ->
  (forall k, flow P g rho (stage k) (m k)) -> (forall k, bellman P g r (stage k) (v k)) -> adv_le P g r Amax (stage i) (v i) ->
  (forall s, 0 < m O s -> keeps (p s) (team order s)) ->
  Rabs (J rho v i.+1 - J rho v i - L_stale P g r stage v m i) <= c g Amax * sqrt (\big[Rplus/0]_(k < i.+1) d0_ g stage m k).
Proof.
move=> team stage g01 hP hr hp hp' ho hi hm hv hA hk.
have ht u : policy (team u) := turns_policy j u hp hp'.
by apply: (P3_7_factored g01 hP hr k0 (turns_factored j p p') ht ho hi hm hv hA hk) => u k s _ ku _; apply: kl_turns.
Qed.
Theorem P3_7_product (S I M : finType) (P : S -> {ffun I -> M} -> S -> R) g rho r (k0 : I) (p p' : S -> I -> M -> R)
    (order : seq I) (v m : nat -> S -> R) Amax i : let team := product p p' in let stage k := team (take k order) in
  0 <= g < 1 -> (forall s a, dist (P s a)) -> dist rho -> (forall s k, dist (p s k)) -> (forall s k, dist (p' s k)) ->
  uniq order -> (i < size order)%nat ->
  (forall k, flow P g rho (stage k) (m k)) -> (forall k, bellman P g r (stage k) (v k)) -> adv_le P g r Amax (stage i) (v i) ->
  (forall s, 0 < m O s -> keeps (team [::] s) (team order s)) ->
  Rabs (J rho v i.+1 - J rho v i - L_stale P g r stage v m i) <= c g Amax * sqrt (\big[Rplus/0]_(k < i.+1) d0_ g stage m k).
Proof.
move=> team stage g01 hP hr hp hp' ho hi hm hv hA hk.
have ht u : policy (team u) := product_policy hp hp' u.
apply: (P3_7_factored g01 hP hr k0 (product_factored p p') ht ho hi hm hv hA hk) => u k s ms ku ko.
have one := keeps_one (product_factored p p') ht ho ko (hk s ms).
rewrite [RHS](P3_1_product hp hp' one); apply: (kl_product hp hp' ku) => x px.
have := keeps_joint (some_dist _ (hp s) (hp' s)) (some_dist _ (hp s) (hp' s)) one (k := k) (a := x).
by rewrite /some inE eqxx; apply.
Qed.

(* What the formulas say. With C >= c_i and dbar the mean of the n KLs d_i: the penalty of P3.6 is at most C n sqrt dbar, that of
   P3.7 at most C n^2 sqrt dbar, that of its joint form at most C n^(3/2) sqrt dbar. n dbar is written as the sum of the d_i. *)
Section Rates.
Variables (n : nat) (c d : nat -> R) (C : R).
Hypotheses (d0 : forall i, 0 <= d i) (c0 : forall i, 0 <= c i) (hc : forall i, c i <= C).
Notation total := (\big[Rplus/0]_(k < n) d k).
Let C0 : 0 <= C := Rle_trans _ _ _ (c0 O) (hc O).
Lemma sum_ones (x : R) k : \sum_(i : 'I_k) x = INR k * x.
Proof. by elim: k => [|k ih]; rewrite ?big_ord0 ?big_ord_recr ?ih ?S_INR /=; lra. Qed.
Lemma roots : \big[Rplus/0]_(i < n) sqrt (d i) <= sqrt (INR n * total).
Proof.
set X := bigop _ _ _; have X0 : 0 <= X by apply: sum_ge0 => i; exact: sqrt_pos.
rewrite -(sqrt_Rsqr X) //; apply: sqrt_le_1_alt.
have := cauchy (fun i : 'I_n => sqrt (d i)) (fun _ => Rle_0_1); rewrite sum_ones.
rewrite (sumE (F := fun i : 'I_n => 1 * _) (G := fun i : 'I_n => sqrt (d i))) => [|i]; last lra.
rewrite (sumE (F := fun i : 'I_n => 1 * _) (G := fun i : 'I_n => d i)) => [|i]; last by have := sqrt_sqrt _ (d0 i); lra.
by rewrite -/X Rmult_1_r; have -> : Rsqr X = X ^ 2 by rewrite /Rsqr; ring.
Qed.
Lemma head_le (x : nat -> R) (i : 'I_n) : (forall k, 0 <= x k) -> \big[Rplus/0]_(k < i.+1) x k <= \big[Rplus/0]_(k < n) x k.
Proof.
move=> x0; rewrite (big_ord_widen n x (ltn_ord i)) big_mkcond /=; apply: sum_le => k.
by case: ifP => _; [exact: Rle_refl | exact: x0].
Qed.
Theorem P3_6_rate : \big[Rplus/0]_(i < n) (c i * sqrt (d i)) <= C * sqrt (INR n * total).
Proof.
apply: Rle_trans (Rmult_le_compat_l _ _ _ C0 roots); rewrite -sumZ; apply: sum_le => i.
exact: Rmult_le_compat_r (sqrt_pos _) (hc i).
Qed.
Theorem P3_7_rate : \big[Rplus/0]_(i < n) (c i * \big[Rplus/0]_(k < i.+1) sqrt (d k)) <= C * INR n * sqrt (INR n * total).
Proof.
rewrite (Rmult_comm C) Rmult_assoc -sum_ones; apply: sum_le => i; apply: Rmult_le_compat => //.
  by apply: sum_ge0 => k; exact: sqrt_pos.
by apply: Rle_trans (head_le (x := fun k => sqrt (d k)) i _) roots => k; exact: sqrt_pos.
Qed.
Theorem P3_7_rate_joint : \big[Rplus/0]_(i < n) (c i * sqrt (\big[Rplus/0]_(k < i.+1) d k)) <= C * INR n * sqrt total.
Proof.
rewrite (Rmult_comm C) Rmult_assoc -sum_ones; apply: sum_le => i; apply: Rmult_le_compat (sqrt_pos _) _ _ => //.
by apply: sqrt_le_1_alt; apply: head_le.
Qed.
End Rates.
