(* R5, the interaction matrix, with explicit remainders instead of a power series: if rows of the stage differ by at most eta in
   l1 and the step of an update differs by at most kappa from the step of its agent alone, the remainder of every gap is at most
   2 g^2 eta^2/(1-g)^3 + g kappa/(1-g)^2 times a bound of g_i: third order. R4, the cases that are exact at every step size.
   Idea: a shift of visits is one step away from the visits of before, weighed by sums under the policy of after (shiftE);
   two such shifts are compared factor by factor. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted Existence Constant Cube.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Shifts.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Implicit Types (p q : S -> A -> R) (f u m : S -> R).
Notation ev := (ev P).
(* u(s): the sum of f along p from s *)
Definition sums p f u := forall s, u s = f s + g * step_p P p u s.
Definition diff p q u s := \sum_(a : A) ((q s a - p s a) * ev s a u).
Definition near eta p q := forall s, \sum_(a : A) Rabs (q s a - p s a) <= eta.
Definition small F f := forall s, Rabs (f s) <= F.

Lemma sums_small p f u F : policy p -> sums p f u -> small F f -> small (F / (1 - g)) u.
Proof.
move=> hp hu hf s; have b : bellman P g (fun x (_ : A) => f x) p u.
  by apply/(bellmanE P g p) => x; rewrite (sum_const _ (proj2 (hp x))); exact: hu.
have hr x (a : A) : - F <= f x <= F := Rabs_def2_le (hf x).
have := value_range g01 P_dist s hp hr b; have -> : - F / (1 - g) = - (F / (1 - g)) by field; lra.
exact: Rabs_le.
Qed.
Lemma diff_small p q u eta U s : near eta p q -> small U u -> Rabs (diff p q u s) <= eta * U.
Proof.
move=> h hu; have U0 : 0 <= U by apply: Rle_trans (Rabs_pos (u s)) (hu s).
apply: Rle_trans (sum_abs _) _; apply: Rle_trans (Rmult_le_compat_r _ _ _ U0 (h s)); rewrite -sumZr; apply: sum_le => a.
rewrite Rabs_mult; apply: Rmult_le_compat_l; first exact: Rabs_pos.
rewrite -(ev1 P_dist s a U); apply: Rle_trans (sum_abs _) _; apply: sum_le => x.
have e0 := proj1 (P_dist s a) x; rewrite Rabs_mult (Rabs_pos_eq _ e0); exact: Rmult_le_compat_l.
Qed.
Lemma under_small p m h H : flow P g rho p m -> policy p -> small H h -> Rabs (under m h) <= H / (1 - g).
Proof.
move=> fl hp hh; have m1 : \sum_(s : S) m s = / (1 - g).
  have := dual (fun=> 1) fl; rewrite /at_rho (sum_const _ (proj2 rho_dist)) /under.
  rewrite (sumE (G := fun s => m s * (1 - g))) => [|s].
    by rewrite sumZr => e; apply: (Rmult_eq_reg_r (1 - g)); [rewrite -e; field; lra | lra].
  by rewrite /step_p (sumE (G := fun a => p s a * 1)) => [|a]; rewrite ?ev1 // (sum_const _ (proj2 (hp s))); ring.
apply: Rle_trans (sum_abs _) _; rewrite /Rdiv Rmult_comm -m1 -sumZr; apply: sum_le => s.
by rewrite Rabs_mult (Rabs_pos_eq _ (proj1 fl s)); apply: Rmult_le_compat_l (proj1 fl s) (hh s).
Qed.
Lemma under_sums p m f u : flow P g rho p m -> sums p f u -> under m f = at_rho rho u.
Proof. by move=> fl hu; rewrite (dual u fl); apply: sumE => s; rewrite {1}hu; congr (_ * _); ring. Qed.
Lemma step_pE p q u s : step_p P q u s = step_p P p u s + diff p q u s.
Proof. by rewrite /step_p /diff -sumD; apply: sumE => a; ring. Qed.

(* a shift of visits, seen from the visits of before *)
Lemma shiftE p q m m' f u : flow P g rho p m -> flow P g rho q m' -> sums q f u ->
  under m' f - under m f = g * under m (diff p q u).
Proof.
move=> fl fl' hu; rewrite (under_sums fl' hu) (dual u fl) /under -sumZ -sumB; apply: sumE => s.
by rewrite {1}hu (step_pE p q); ring.
Qed.
Lemma visits_unique p m m' f : policy p -> flow P g rho p m -> flow P g rho p m' -> under m f = under m' f.
Proof. by move=> hp fl fl'; have [u hu] := solve g01 P_dist hp f; rewrite (under_sums fl hu) (under_sums fl' hu). Qed.
Lemma shift_small p q m m' h H eta : policy p -> policy q -> flow P g rho p m -> flow P g rho q m' -> near eta p q -> small H h ->
  Rabs (under m' h - under m h) <= g * eta * H / (1 - g) ^ 2.
Proof.
move=> hp hq fl fl' hn hh; have [u hu] := solve g01 P_dist hq h.
rewrite (shiftE fl fl' hu) Rabs_mult (Rabs_pos_eq _ (proj1 g01)).
have b := under_small fl hp (fun s => diff_small s hn (sums_small hq hu hh)).
have -> : g * eta * H / (1 - g) ^ 2 = g * (eta * (H / (1 - g)) / (1 - g)) by field; lra.
exact: Rmult_le_compat_l (proj1 g01) b.
Qed.
Lemma sums_near p q f u u' F eta : policy p -> policy q -> sums p f u -> sums q f u' -> near eta q p -> small F f ->
  small (g * eta * F / (1 - g) ^ 2) (fun s => u s - u' s).
Proof.
move=> hp hq hu hu' hn hf.
have -> : g * eta * F / (1 - g) ^ 2 = g * (eta * (F / (1 - g))) / (1 - g) by field; lra.
apply: (sums_small (p := p) (f := fun s => g * diff q p u' s)) => // [s|s].
  have -> : step_p P p (fun x => u x - u' x) s = step_p P p u s - step_p P p u' s by rewrite /step_p -sumB; apply: sumE => a;
    rewrite evB; ring.
  by rewrite {1}hu {1}hu' (step_pE q p u' s); ring.
rewrite Rabs_mult (Rabs_pos_eq _ (proj1 g01)); apply: Rmult_le_compat_l (proj1 g01) _.
exact: diff_small hn (sums_small hq hu' hf).
Qed.

(* two steps under the same visits, each weighed by sums under a policy of after *)
Lemma steps_small p q w p0 q0 m u u0 f F eta kappa : policy p0 -> flow P g rho p0 m -> policy w -> policy q0 ->
  sums w f u -> sums q0 f u0 -> near eta p q -> near eta q0 w ->
  (forall s, \sum_(a : A) Rabs ((q s a - p s a) - (q0 s a - p0 s a)) <= kappa) -> small F f ->
  Rabs (under m (diff p q u) - under m (diff p0 q0 u0)) <= g * eta ^ 2 * F / (1 - g) ^ 3 + kappa * F / (1 - g) ^ 2.
Proof.
move=> hp0 fl hq hq0 hu hu0 n1 n3 nk hf; have -> : g * eta ^ 2 * F / (1 - g) ^ 3 + kappa * F / (1 - g) ^ 2
  = (eta * (g * eta * F / (1 - g) ^ 2) + kappa * (F / (1 - g))) / (1 - g) by field; lra.
have -> : under m (diff p q u) - under m (diff p0 q0 u0) = under m (fun s => diff p q u s - diff p0 q0 u0 s).
  by rewrite /under -sumB; apply: sumE => s; ring.
apply: (under_small fl hp0) => s.
have -> : diff p q u s - diff p0 q0 u0 s = diff p q (fun x => u x - u0 x) s
    + diff (fun _ _ => 0) (fun x a => (q x a - p x a) - (q0 x a - p0 x a)) u0 s.
  by rewrite /diff -sumB -sumD; apply: sumE => a; rewrite evB; ring.
apply: Rle_trans (Rabs_triang _ _) _; apply: Rplus_le_compat.
  exact: diff_small n1 (sums_near hq hq0 hu hu0 n3 hf).
apply: diff_small (sums_small hq0 hu0 hf) => x.
by rewrite (sumE (G := fun a => Rabs ((q x a - p x a) - (q0 x a - p0 x a)))) // => a; rewrite Rminus_0_r.
Qed.
(* two shifts side by side: the step p -> q taken from m, and the step p0 -> q0 taken from m0 *)
Lemma two_shifts p q p0 q0 m m' m0 m0' f F eta kappa : policy p -> policy q -> policy p0 -> policy q0 ->
  flow P g rho p m -> flow P g rho q m' -> flow P g rho p0 m0 -> flow P g rho q0 m0' ->
  near eta p q -> near eta p0 p -> near eta q0 q ->
  (forall s, \sum_(a : A) Rabs ((q s a - p s a) - (q0 s a - p0 s a)) <= kappa) -> small F f ->
  Rabs ((under m' f - under m f) - (under m0' f - under m0 f))
    <= (2 * g ^ 2 * eta ^ 2 / (1 - g) ^ 3 + g * kappa / (1 - g) ^ 2) * F.
Proof.
move=> hp hq hp0 hq0 fl fl' fl0 fl0' n1 n2 n3 nk hf.
have [u hu] := solve g01 P_dist hq f; have [u0 hu0] := solve g01 P_dist hq0 f.
rewrite (shiftE fl fl' hu) (shiftE fl0 fl0' hu0).
have a := shift_small hp0 hp fl0 fl n2 (fun s => diff_small s n1 (sums_small hq hu hf)).
have b := @steps_small p q q p0 q0 m0 u u0 f F eta kappa hp0 fl0 hq hq0 hu hu0 n1 n3 nk hf.
have [a1 a2] := Rabs_def2_le a; have [b1 b2] := Rabs_def2_le b.
have -> : (2 * g ^ 2 * eta ^ 2 / (1 - g) ^ 3 + g * kappa / (1 - g) ^ 2) * F
  = g * (g * eta * (eta * (F / (1 - g))) / (1 - g) ^ 2) + g * (g * eta ^ 2 * F / (1 - g) ^ 3 + kappa * F / (1 - g) ^ 2)
    by field; lra.
have := Rmult_le_compat_l _ _ _ (proj1 g01) a1; have := Rmult_le_compat_l _ _ _ (proj1 g01) a2.
have := Rmult_le_compat_l _ _ _ (proj1 g01) b1; have := Rmult_le_compat_l _ _ _ (proj1 g01) b2.
by move=> *; apply: Rabs_le; lra.
Qed.
End Shifts.

(* ------------------------------------------------------------------ R5 *)
(* team i: the first i agents of the order are updated; alone k: only the agent of position k, counted from 0, is *)
Section R5.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (team alone : nat -> S -> A -> R) (v : nat -> S -> R) (m n : nat -> S -> R).
Hypotheses (ht : forall i, policy (team i)) (ha : forall k, policy (alone k)) (hv : forall i, bellman P g r (team i) (v i)).
Hypotheses (hm : forall i, flow P g rho (team i) (m i)) (hn : forall k, flow P g rho (alone k) (n k)).
Notation under := (@under S).
Definition J i := at_rho rho (v i).
Definition gi i s := gaind P g r (team i) (v i) (team i.+1) s.
Definition L_seq i := under (m i) (gi i).
Definition L_stale i := under (m O) (gi i).
Definition L_cached i := under (m O) (fun s => \sum_(a : A) ((team i.+1 s a - team i s a) * (Qd P g r (v O) s a - v O s))).
Definition fresh i := J i.+1 - J i - L_seq i.
Definition stale i := J i.+1 - J i - L_stale i.
Definition cached i := J i.+1 - J i - L_cached i.
Definition M k i := under (n k) (gi i) - under (m O) (gi i).

(* stale_i - fresh_i = L_i^seq - L_i^stale, exactly *)
Theorem R5_drift i : stale i - fresh i = L_seq i - L_stale i.
Proof. by rewrite /stale /fresh; ring. Qed.
(* the gaps are shifts of visits, weighed by g_i *)
Theorem R5_gaps i : fresh i = under (m i.+1) (gi i) - under (m i) (gi i) /\ stale i = under (m i.+1) (gi i) - under (m O) (gi i).
Proof. by rewrite /fresh /stale /J /L_seq /L_stale (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)). Qed.
Lemma drift_sum i : stale i - fresh i = \big[Rplus/0]_(k < i) (under (m k.+1) (gi i) - under (m k) (gi i)).
Proof.
rewrite R5_drift /L_seq /L_stale; move: (gi i) => f.
by elim: i => [|i ih]; [rewrite big_ord0; ring | rewrite big_ord_recr /= -ih; ring].
Qed.

(* fresh_1 = M[1,1] and stale_2 - fresh_2 = M[1,2], exactly *)
Theorem R5_first : (forall s a, alone O s a = team 1 s a) -> fresh O = M O O /\ stale 1 - fresh 1 = M O 1%nat.
Proof.
move=> E; have fl : flow P g rho (team 1) (n O).
  have [n0 fn] := hn O; split=> // s'; rewrite fn; congr (_ + g * _); apply: sumE => s; congr (_ * _).
  by apply: sumE => a; rewrite E.
have u f : under (n O) f = under (m 1) f := visits_unique g01 P_dist f (ht 1) fl (hm 1).
split; first by rewrite /M u (proj1 (R5_gaps O)).
by rewrite R5_drift /M u /L_seq /L_stale.
Qed.

(* third order. eta: rows of the stage differ by at most that much; kappa: so do the step of an update and the step of its agent
   alone (0 when turn-taking); F bounds the g_i *)
Variables (eta kappa F : R).
Hypotheses (near_teams : forall i j, near eta (team i) (team j)) (near_alone : forall k i, near eta (alone k) (team i)).
Hypothesis own_step : forall k s, \sum_(a : A) Rabs ((team k.+1 s a - team k s a) - (alone k s a - team O s a)) <= kappa.
Hypothesis hF : forall i, small F (gi i).
Definition remainder := (2 * g ^ 2 * eta ^ 2 / (1 - g) ^ 3 + g * kappa / (1 - g) ^ 2) * F.
Lemma shift_M k i : Rabs ((under (m k.+1) (gi i) - under (m k) (gi i)) - M k i) <= remainder.
Proof. exact: (two_shifts g01 P_dist rho_dist (ht k) (ht k.+1) (ht O) (ha k) (hm k) (hm k.+1) (hm O) (hn k)). Qed.
Theorem R5_fresh i : Rabs (fresh i - M i i) <= remainder.
Proof. by rewrite (proj1 (R5_gaps i)); exact: shift_M. Qed.

Lemma sum_remainder i (X Y : nat -> R) (c : R) : (forall k, (k < i)%nat -> Rabs (X k - Y k) <= c) ->
  Rabs (\big[Rplus/0]_(k < i) X k - \big[Rplus/0]_(k < i) Y k) <= INR i * c.
Proof.
elim: i => [|i ih] h; first by rewrite !big_ord0 Rminus_eq_0 Rabs_R0 /=; lra.
rewrite !big_ord_recr S_INR; have := ih (fun k ki => h k (leqW ki)); have := h i (ltnSn i) => /Rabs_def2_le h1 /Rabs_def2_le h2.
by apply: Rabs_le; move: h1 h2 => /=; lra.
Qed.
Theorem R5_stale i : Rabs ((stale i - fresh i) - \big[Rplus/0]_(k < i) M k i) <= INR i * remainder.
Proof.
rewrite drift_sum; apply: (sum_remainder (X := fun k => under (m k.+1) (gi i) - under (m k) (gi i)) (Y := fun k => M k i)) => k _.
exact: shift_M.
Qed.

(* what cached advantages cost: A_i - A_0 is a sum over the earlier updates of what they gain behind the step of i *)
Lemma value_sums k : sums P g (team k.+1) (gi k) (fun s => v k.+1 s - v k s).
Proof.
move=> s; rewrite {1}(hv k.+1 s) /gi gaindE; last exact: ht.
suff : \sum_(a : A) (team k.+1 s a * Qd P g r (v k.+1) s a)
  = \sum_(a : A) (team k.+1 s a * Qd P g r (v k) s a) + g * step_p P (team k.+1) (fun x => v k.+1 x - v k x) s by lra.
by rewrite /step_p -sumZ -sumD; apply: sumE => a; rewrite /Qd evB; ring.
Qed.
Lemma cached_sum i : cached i - stale i
  = \big[Rplus/0]_(k < i) (g * under (m O) (diff P (team i) (team i.+1) (fun s => v k.+1 s - v k s))).
Proof.
have -> : cached i - stale i = g * under (m O) (diff P (team i) (team i.+1) (fun s => v i s - v O s)).
  rewrite /cached /stale /L_stale /L_cached /under -sumZ.
  have e x y z : x - y - z - (x - y - (\sum_(s : S) (m O s * gi i s))) = \sum_(s : S) (m O s * gi i s) - z by ring.
  rewrite {}e -sumB; apply: sumE => s; rewrite /gi gaindE; last exact: ht.
  have -> : v i s = \sum_(a : A) (team i s a * Qd P g r (v i) s a) by exact: hv.
  rewrite -sumB -Rmult_minus_distr_l
    (_ : g * (_ * _) = m O s * (g * diff P (team i) (team i.+1) (fun s => v i s - v O s) s)); last ring.
  congr (_ * _); rewrite /diff -sumZ.
  have -> : \sum_(a : A) ((team i.+1 s a - team i s a) * (Qd P g r (v O) s a - v O s))
    = \sum_(a : A) ((team i.+1 s a - team i s a) * Qd P g r (v O) s a).
    rewrite (sumE (G := fun a => (team i.+1 s a - team i s a) * Qd P g r (v O) s a -
      (team i.+1 s a - team i s a) * v O s)) => [|a]; last ring.
    by rewrite sumB sumZr sumB (proj2 (ht i.+1 s)) (proj2 (ht i s)); ring.
  by rewrite -sumB; apply: sumE => a; rewrite /Qd evB; ring.
move: (team i) (team i.+1) => p q; elim: i => [|k ih]; last rewrite big_ord_recr /= -ih.
  rewrite big_ord0 (_ : under _ _ = 0) ?Rmult_0_r // /under sum0 // => s; rewrite /diff sum0; first ring.
  by move=> a; rewrite evB; ring.
rewrite -Rmult_plus_distr_l; congr (_ * _); rewrite /under -sumD; apply: sumE => s; rewrite -Rmult_plus_distr_l; congr (_ * _).
by rewrite /diff -sumD; apply: sumE => a; rewrite !evB; ring.
Qed.
Theorem R5_cached i :
  Rabs ((cached i - fresh i) - \big[Rplus/0]_(k < i) (M k i + M i k)) <= 2 * INR i * remainder.
Proof.
rewrite big_split; have := R5_stale i; set X := \big[Rplus/0]_(k < i) M k i => /Rabs_def2_le h1.
have : Rabs ((cached i - stale i) - \big[Rplus/0]_(k < i) M i k) <= INR i * remainder.
  rewrite cached_sum; apply: (sum_remainder (Y := fun k => M i k)
    (X := fun k => g * under (m O) (diff P (team i) (team i.+1) (fun s => v k.+1 s - v k s)))) => k _.
  have [u0 hu0] := solve g01 P_dist (ha i) (gi k); rewrite /M (shiftE (hm O) (hn i) hu0) -Rmult_minus_distr_l.
  rewrite Rabs_mult (Rabs_pos_eq _ (proj1 g01)).
  have := steps_small g01 P_dist rho_dist (ht O) (hm O) (ht k.+1) (ha i) (value_sums k) hu0
    (near_teams i i.+1) (near_alone i k.+1) (own_step i) (hF k) => b; have {}b := Rmult_le_compat_l _ _ _ (proj1 g01) b.
  apply: Rle_trans b _; rewrite /remainder.
  have F0 : 0 <= F.
    apply: Rnot_lt_le => lt; have := proj2 rho_dist; rewrite sum0 => [|s]; first lra.
    by have := hF O s; have := Rabs_pos (gi O s); lra.
  have pos : 0 <= g ^ 2 * eta ^ 2 * F / (1 - g) ^ 3.
    apply: Rmult_le_pos; last by apply/Rlt_le/Rinv_0_lt_compat/pow_lt; lra.
    by apply: Rmult_le_pos F0; apply: Rmult_le_pos; exact: pow2_ge_0.
  have -> : g * (g * eta ^ 2 * F / (1 - g) ^ 3 + kappa * F / (1 - g) ^ 2)
    = g ^ 2 * eta ^ 2 * F / (1 - g) ^ 3 + g * kappa * F / (1 - g) ^ 2 by field; lra.
  have -> : (2 * g ^ 2 * eta ^ 2 / (1 - g) ^ 3 + g * kappa / (1 - g) ^ 2) * F
    = 2 * (g ^ 2 * eta ^ 2 * F / (1 - g) ^ 3) + g * kappa * F / (1 - g) ^ 2 by field; lra.
  lra.
move=> /Rabs_def2_le h2; apply: Rabs_le; move: h1 h2 => /=; lra.
Qed.

(* R4, the sums of a stage of N updates: sum fresh is the trace, sum stale the trace and what is above the diagonal *)
Theorem R4_sums N :
  Rabs (\big[Rplus/0]_(i < N) fresh i - \big[Rplus/0]_(i < N) M i i) <= INR N * remainder /\
  Rabs (\big[Rplus/0]_(i < N) stale i - \big[Rplus/0]_(i < N) (\big[Rplus/0]_(k < i) M k i + M i i))
    <= INR N * (INR N * remainder).
Proof.
split; first by apply: (sum_remainder (X := fresh) (Y := fun i => M i i)) => k _; exact: R5_fresh.
apply: (sum_remainder (X := stale) (Y := fun i => \big[Rplus/0]_(k < i) M k i + M i i)) => i lt.
have r0 : 0 <= remainder by apply: Rle_trans (Rabs_pos _) (R5_fresh i).
have [f1 f2] := Rabs_def2_le (R5_fresh i); have [d1 d2] := Rabs_def2_le (R5_stale i).
have : (INR i + 1) * remainder <= INR N * remainder.
  by apply: Rmult_le_compat_r r0 _; rewrite -S_INR; apply: le_INR; exact/leP.
by move=> h; apply: Rabs_le; lra.
Qed.
End R5.

(* g_i is of first order: with |A_{i-1}| <= A the bound F of R5 may be eta A *)
Lemma gain_small (S A : finType) (P : S -> A -> S -> R) g r (p q : S -> A -> R) v eta Amax :
  policy p -> policy q -> bellman P g r p v -> near eta p q -> (forall s a, Rabs (Qd P g r v s a - v s) <= Amax) -> 0 <= Amax ->
  small (eta * Amax) (gaind P g r p v q).
Proof.
move=> hp hq bp hn hA A0 s.
have -> : gaind P g r p v q s = \sum_(a : A) ((q s a - p s a) * (Qd P g r v s a - v s)).
  rewrite [RHS](sumE (G := fun a => q s a * (Qd P g r v s a - v s) - (p s a * Qd P g r v s a - p s a * v s))) => [|a]; last ring.
  by rewrite !sumB -bp sumZr (proj2 (hp s)) /gaind; ring.
apply: Rle_trans (sum_abs _) _; apply: Rle_trans (Rmult_le_compat_r _ _ _ A0 (hn s)); rewrite -sumZr; apply: sum_le => a.
by rewrite Rabs_mult; apply: Rmult_le_compat_l (Rabs_pos _) (hA s a).
Qed.

Lemma Rabs0 x : x = 0 -> Rabs x = 0. Proof. by move=> ->; exact: Rabs_R0. Qed.
(* turn-taking: kappa = 0, eta the largest l1 step of a row *)
Section TurnsR5.
Variables (S A : finType) (j : S -> nat) (cur new : S -> A -> R) (eta : R).
Hypotheses (hc : policy cur) (hn : policy new) (step : forall s, \sum_(a : A) Rabs (new s a - cur s a) <= eta).
Definition turn_team i s a := if (j s < i)%nat then new s a else cur s a.
Definition turn_alone k s a := if j s == k then new s a else cur s a.
Lemma turn_policies : (forall i, policy (turn_team i)) /\ (forall k, policy (turn_alone k)).
Proof. by split=> k s; rewrite /turn_team /turn_alone; [case: (j s < k)%nat | case: (j s == k)]. Qed.
Lemma two_rows (b c : bool) s : \sum_(a : A) Rabs ((if b then new s a else cur s a) - (if c then new s a else cur s a)) <= eta.
Proof.
have e0 : 0 <= eta by apply: Rle_trans (sum_ge0 (fun a => Rabs_pos (new s a - cur s a))) (step s).
case: b; case: c => //; first by rewrite sum0 // => a; apply: Rabs0; ring.
  by rewrite (sumE (G := fun a => Rabs (new s a - cur s a))) => [|a]; [exact: step | exact: Rabs_minus_sym].
by rewrite sum0 // => a; apply: Rabs0; ring.
Qed.
Lemma turn_near : (forall i k, near eta (turn_team i) (turn_team k)) /\ (forall k i, near eta (turn_alone k) (turn_team i)).
Proof. by split=> i k s; exact: two_rows. Qed.
Lemma turn_own k s :
  \sum_(a : A) Rabs ((turn_team k.+1 s a - turn_team k s a) - (turn_alone k s a - turn_team O s a)) <= 0.
Proof.
rewrite sum0 => [|a]; first lra.
rewrite /turn_team /turn_alone ltnS leq_eqVlt; case: eqP => [->|_] /=; first by rewrite ltnn; apply: Rabs0; ring.
by apply: Rabs0; case: (j s < k)%nat; ring.
Qed.

(* In a team that takes turns: eta the largest l1 step of a row, |A_i| <= Amax. Then, at every step size,
   |fresh_i - M[i,i]| <= 2 g^2 eta^3 Amax/(1-g)^3, and i and 2i times that for the other two. *)
Theorem R5_turns (P : S -> A -> S -> R) g rho r (v m n : nat -> S -> R) Amax i :
  0 <= g < 1 -> (forall s a, dist (P s a)) -> dist rho ->
  (forall k, bellman P g r (turn_team k) (v k)) -> (forall k, flow P g rho (turn_team k) (m k)) ->
  (forall k, flow P g rho (turn_alone k) (n k)) -> (forall k s a, Rabs (Qd P g r (v k) s a - v k s) <= Amax) -> 0 <= Amax ->
  let fresh := fresh P g rho r turn_team v m in let stale := stale P g rho r turn_team v m in
  let cached := cached P g rho r turn_team v m in let M := M P g r turn_team v m n in
  let rest := 2 * g ^ 2 * eta ^ 3 * Amax / (1 - g) ^ 3 in
  [/\ Rabs (fresh i - M i i) <= rest,
      Rabs ((stale i - fresh i) - \big[Rplus/0]_(k < i) M k i) <= INR i * rest
    & Rabs ((cached i - fresh i) - \big[Rplus/0]_(k < i) (M k i + M i k)) <= 2 * INR i * rest].
Proof.
move=> g01 Pd rd hv hm hal hA A0 fr st ca MM rest; have [ht ha] := turn_policies; have [nt na] := turn_near.
have hF k : small (eta * Amax) (gi P g r turn_team v k) := gain_small (ht k) (ht k.+1) (hv k) (nt k k.+1) (hA k) A0.
have -> : rest = remainder g eta 0 (eta * Amax) by rewrite /rest /remainder; field; lra.
split; [exact: R5_fresh turn_own hF _ | exact: R5_stale turn_own hF _ | exact: R5_cached turn_own hF _].
Qed.
End TurnsR5.

(* ---- product team: rows of the joint policy differ by at most n zeta, and the step of an update differs from that of its agent
   alone by at most n zeta^2, zeta the largest l1 step of an agent's row *)
Section JointRows.
Variables (n : nat) (M : finType).
Notation rows := ('I_n -> M -> R).
Implicit Types a b : rows.
Definition norm1 (x : M -> R) := \sum_(m : M) Rabs (x m).
Lemma norm1_ge0 x : 0 <= norm1 x. Proof. by apply: sum_ge0 => m; exact: Rabs_pos. Qed.
Lemma joint_norm a : \sum_(f : {ffun 'I_n -> M}) Rabs (joint a f) = \big[Rmult/1]_(k : 'I_n) norm1 (a k).
Proof.
rewrite /norm1 (bigA_distr_bigA (fun k m => Rabs (a k m))); apply: sumE => f.
by apply: (big_morph Rabs Rabs_mult Rabs_R1).
Qed.
(* two families of rows that agree off i *)
Definition only i (x : M -> R) a : rows := fun k => if k == i then x else a k.
Lemma joint_one i a b f : (forall k m, k != i -> a k m = b k m) ->
  joint a f - joint b f = joint (only i (fun m => a i m - b i m) b) f.
Proof.
move=> h; have E (x : rows) : joint x f = x i (f i) * \big[Rmult/1]_(k | k != i) x k (f k) by rewrite /joint (bigD1 i).
rewrite !E.
have -> : \big[Rmult/1]_(k | k != i) a k (f k) = \big[Rmult/1]_(k | k != i) b k (f k) by apply: eq_bigr => k; exact: h.
have -> : \big[Rmult/1]_(k | k != i) only i (fun m => a i m - b i m) b k (f k) = \big[Rmult/1]_(k | k != i) b k (f k).
  by apply: eq_bigr => k /negbTE ki; rewrite /only ki.
by rewrite /only eqxx; ring.
Qed.
Definition hybrid a b i : rows := fun k => if (k < i)%nat then a k else b k.
Lemma joint_near a b (w d : 'I_n -> R) : (forall k, norm1 (a k) <= w k) -> (forall k, norm1 (b k) <= w k) ->
  (forall k, norm1 (fun m => a k m - b k m) <= d k) ->
  \sum_(f : {ffun 'I_n -> M}) Rabs (joint a f - joint b f) <= \sum_(i : 'I_n) (d i * \big[Rmult/1]_(k | k != i) w k).
Proof.
move=> ha hb hd.
have tel f : joint a f - joint b f = \sum_(i : 'I_n) (joint (hybrid a b i.+1) f - joint (hybrid a b i) f).
  have -> : joint a f = joint (hybrid a b n) f by apply: eq_bigr => k _; rewrite /hybrid ltn_ord.
  have -> : joint b f = joint (hybrid a b 0) f by apply: eq_bigr => k _; rewrite /hybrid.
  have := telescope (fun i => joint (hybrid a b i) f) n; rewrite -(sumE (fun i : 'I_n => erefl _)) => E.
  rewrite (sumE (G := fun i : 'I_n => - (joint (hybrid a b i) f - joint (hybrid a b i.+1) f))) => [|i]; last ring.
  by rewrite sumN -E; ring.
have step (i : 'I_n) : \sum_(f : {ffun 'I_n -> M}) Rabs (joint (hybrid a b i.+1) f - joint (hybrid a b i) f)
    <= d i * \big[Rmult/1]_(k | k != i) w k.
  rewrite (sumE (G := fun f => Rabs (joint (only i (fun m => a i m - b i m) (hybrid a b i)) f))) => [|f].
    rewrite joint_norm (bigD1 i) //= /only eqxx; apply: Rmult_le_compat (hd i) _; [exact: norm1_ge0 | |].
      by apply: (big_ind (Rle 0)) => [|*|k _]; [lra | exact: Rmult_le_pos | exact: norm1_ge0].
    suff [] : \big[Rmult/1]_(k | k != i) norm1 (if k == i then fun m => a i m - b i m else hybrid a b i k)
        <= \big[Rmult/1]_(k | k != i) w k
        /\ 0 <= \big[Rmult/1]_(k | k != i) norm1 (if k == i then fun m => a i m - b i m else hybrid a b i k) by [].
    apply: (big_ind2 (fun x y => x <= y /\ 0 <= x)) => [|x1 x2 y1 y2 [p1 q1] [p2 q2]|k /negbTE ->]; first lra.
      by split; [exact: Rmult_le_compat | exact: Rmult_le_pos].
    by split; [rewrite /hybrid; case: ifP | exact: norm1_ge0].
  rewrite (joint_one (i := i)) => [|k m ki]; last by rewrite /hybrid ltnS leq_eqVlt (_ : (k == i :> nat) = false) //;
    exact: negbTE.
  by rewrite /hybrid ltnn ltnSn.
rewrite (sumE (fun f => congr1 Rabs (tel f))); apply: Rle_trans (sum_le (fun f => sum_abs _)) _.
by rewrite sum_swap; apply: sum_le.
Qed.
End JointRows.

Section ProductR5.
Variables (n : nat) (S M : finType) (cur new : 'I_n -> S -> M -> R) (zeta : R).
Hypotheses (hc : forall k s, dist (cur k s)) (hn : forall k s, dist (new k s)).
Hypotheses (z0 : 0 <= zeta) (step : forall k s, norm1 (fun m => new k s m - cur k s m) <= zeta).
Notation A := {ffun 'I_n -> M}.
Definition select (b : 'I_n -> bool) s k := if b k then new k s else cur k s.
Definition product_team i s (f : A) := joint (select (fun k => (k < i)%nat) s) f.
Definition product_alone i s (f : A) := joint (select (fun k => (k == i :> nat)) s) f.
Lemma select_dist b s k : dist (select b s k). Proof. by rewrite /select; case: (b k). Qed.
Lemma norm_dist (x : M -> R) : dist x -> norm1 x = 1.
Proof. by move=> [x0 <-]; apply: sumE => m; exact: Rabs_pos_eq. Qed.
Lemma select_near b c s : \sum_(f : A) Rabs (joint (select b s) f - joint (select c s) f) <= INR n * zeta.
Proof.
have -> : INR n * zeta = \sum_(i : 'I_n) (zeta * \big[Rmult/1]_(k : 'I_n | k != i) 1).
  by rewrite -sum_ones -sumZr; apply: sumE => i; rewrite big1 //; ring.
apply: joint_near => k; try by rewrite norm_dist; [lra | exact: select_dist].
rewrite /select; case: (b k); case: (c k) => //.
- by rewrite /norm1 sum0 // => m; apply: Rabs0; ring.
- by rewrite /norm1 (sumE (G := fun m => Rabs (new k s m - cur k s m))) => [|m]; [exact: step | exact: Rabs_minus_sym].
by rewrite /norm1 sum0 // => m; apply: Rabs0; ring.
Qed.
Lemma product_near : (forall i k, near (INR n * zeta) (product_team i) (product_team k))
  /\ (forall k i, near (INR n * zeta) (product_alone k) (product_team i)).
Proof. by split=> i k s; exact: select_near. Qed.
Lemma product_policies : (forall i, policy (product_team i)) /\ (forall k, policy (product_alone k)).
Proof. by split=> i s; apply: joint_dist => k; exact: select_dist. Qed.
Lemma joint_ext (a b : 'I_n -> M -> R) f : (forall k, a k = b k) -> joint a f = joint b f.
Proof. by move=> h; apply: eq_bigr => k _; rewrite h. Qed.
Lemma product_own i s : \sum_(f : A)
  Rabs ((product_team i.+1 s f - product_team i s f) - (product_alone i s f - product_team O s f)) <= INR n * zeta ^ 2.
Proof.
have pos : 0 <= INR n * zeta ^ 2 by apply: Rmult_le_pos; [exact: pos_INR | exact: pow2_ge_0].
case: (ltnP i n) => [lt|ge]; last first.
  rewrite sum0 // => f; apply: Rabs0.
  rewrite (_ : product_team i.+1 s f = product_team i s f); last first.
    by apply: joint_ext => k; rewrite /select (leq_trans (ltn_ord k) ge) (leq_trans (ltn_ord k) (leqW ge)).
  rewrite (_ : product_alone i s f = product_team 0 s f); first ring.
  by apply: joint_ext => k; rewrite /select (ltn_eqF (leq_trans (ltn_ord k) ge)).
pose o := Ordinal lt; pose x m := new o s m - cur o s m.
pose a := only o x (select (fun k => (k < i)%nat) s); pose b := only o x (select (fun k => (k < 0)%nat) s).
rewrite (sumE (G := fun f => Rabs (joint a f - joint b f))) => [|f].
  pose w k := if k == o then zeta else 1; pose d k := if k == o then 0 else zeta.
  apply: Rle_trans (joint_near (w := w) (d := d) _ _ _) _ => [k|k|k|].
  - rewrite /a /only /w; case: (k == o); first exact: (step o s).
    by rewrite norm_dist; [lra | exact: select_dist].
  - rewrite /b /only /w; case: (k == o); first exact: (step o s).
    by rewrite norm_dist; [lra | exact: select_dist].
  - rewrite /a /b /only /d; case: (k == o); first by rewrite /norm1 sum0 => [|m]; [lra | apply: Rabs0; ring].
    rewrite /select ltn0; case: (k < i)%nat; first exact: step.
    by rewrite /norm1 sum0 => [|m]; [exact: z0 | apply: Rabs0; ring].
  rewrite -sum_ones -sumZr; apply: sum_le => k; rewrite /d; case: (eqVneq k o) => [_|ko].
    by rewrite Rmult_0_l; have := pow2_ge_0 zeta; lra.
  rewrite (bigD1 o) /=; last by rewrite eq_sym.
  by rewrite {1}/w eqxx big1 => [|l /andP [_ /negbTE lo]]; [lra | rewrite /w lo].
congr (Rabs (_ - _)).
  rewrite /product_team (joint_one (i := o)) => [|k m ko].
    by apply: joint_ext => k; rewrite /a /only /x /select /= ltnSn ltnn.
  by rewrite /select ltnS leq_eqVlt (_ : (k == i :> nat) = false) //; exact: negbTE.
rewrite /product_team /product_alone (joint_one (i := o)) => [|k m ko].
  by apply: joint_ext => k; rewrite /b /only /x /select /= eqxx.
by rewrite /select (_ : (k == i :> nat) = false) //; exact: negbTE.
Qed.

(* In a product team: zeta the largest l1 step of an agent's own row, |A_i| <= Amax. *)
Theorem R5_product (P : S -> A -> S -> R) g rho r (v m q : nat -> S -> R) Amax i :
  0 <= g < 1 -> (forall s a, dist (P s a)) -> dist rho ->
  (forall k, bellman P g r (product_team k) (v k)) -> (forall k, flow P g rho (product_team k) (m k)) ->
  (forall k, flow P g rho (product_alone k) (q k)) -> (forall k s a, Rabs (Qd P g r (v k) s a - v k s) <= Amax) -> 0 <= Amax ->
  let fresh := fresh P g rho r product_team v m in let stale := stale P g rho r product_team v m in
  let cached := cached P g rho r product_team v m in let M := Interaction.M P g r product_team v m q in
  let eta := INR n * zeta in
  let rest := (2 * g ^ 2 * eta ^ 2 / (1 - g) ^ 3 + g * (eta * zeta) / (1 - g) ^ 2) * (eta * Amax) in
  [/\ Rabs (fresh i - M i i) <= rest,
      Rabs ((stale i - fresh i) - \big[Rplus/0]_(k < i) M k i) <= INR i * rest
    & Rabs ((cached i - fresh i) - \big[Rplus/0]_(k < i) (M k i + M i k)) <= 2 * INR i * rest].
Proof.
move=> g01 Pd rd hv hm hq hA A0 fr st ca MM eta rest; have [ht ha] := product_policies; have [nt na] := product_near.
have hF k : small (eta * Amax) (gi P g r product_team v k) := gain_small (ht k) (ht k.+1) (hv k) (nt k k.+1) (hA k) A0.
have own k s : \sum_(f : A) Rabs ((product_team k.+1 s f - product_team k s f) - (product_alone k s f - product_team O s f))
  <= eta * zeta by apply: Rle_trans (product_own k s) _; rewrite /eta; lra.
by split; [exact: R5_fresh own hF _ | exact: R5_stale own hF _ | exact: R5_cached own hF _].
Qed.
End ProductR5.

(* ------------------------------------------------------------------ R4, the cases exact at every step size: one turn each *)
Section OneTurn.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R) (time : S -> nat).
Hypotheses (e_dist : forall s a, dist (e s a)) (clock : forall s a b, time (next s a b) = (time s).+1).
Implicit Types p q : S -> A -> R.
Notation path_sum := (path_sum e next).
Definition before k p q := forall s, (time s < k)%nat -> forall a, p s a = q s a.
Definition from k p q := forall s, (k <= time s)%nat -> forall a, p s a = q s a.
(* f lives at time k: then it matters only what was done before *)
Lemma sum_after p (f : nat -> S -> R) k t s : (forall u x, time x <> k -> f u x = 0) -> (k < time s)%nat -> path_sum p f t s = 0.
Proof.
move=> h; elim: t s => [//|t ih] s ks; rewrite /= h => [|E]; last by rewrite E ltnn in ks.
rewrite sum0 => [|a]; first lra.
by rewrite /after sum0 => [|b]; [lra | rewrite ih; [lra | rewrite clock; exact: leqW]].
Qed.
Lemma sum_before p q (f : nat -> S -> R) k t s : (forall u x, time x <> k -> f u x = 0) -> before k p q -> (time s <= k)%nat ->
  path_sum p f t s = path_sum q f t s.
Proof.
move=> h pq; elim: t s => [//|t ih] s ks; rewrite /=; congr (_ + _); apply: sumE => a.
move: ks; rewrite leq_eqVlt => /orP [/eqP E|lt].
  have z p' : after e next s a (path_sum p' f t) = 0.
    by rewrite /after sum0 // => b; rewrite (sum_after _ _ h); [lra | rewrite clock E].
  by rewrite !z; ring.
by rewrite pq //; congr (_ * _); apply: sumE => b; rewrite ih // clock.
Qed.
Lemma gain_zero p q k : policy q -> (forall s, time s <> k -> forall a, q s a = p s a) -> forall u x, time x <> k ->
  gain e next r p q u x = 0.
Proof.
move=> hq h u x xk; rewrite gainE // VE (sumE (F := fun a => q x a * _) (G := fun a => p x a * Q e next r p u x a)) => [|a];
  first ring.
by rewrite h.
Qed.

(* Who speaks at one time only has fresh = 0, in every order ... *)
Theorem R4_fresh p q k t s : policy q -> (forall s, time s <> k -> forall a, q s a = p s a) -> (time s <= k)%nat ->
  V e next r q t s - V e next r p t s - L e next r p q t s = 0.
Proof.
move=> hq h ks; rewrite T0 // /L (sum_before (p := q) (q := p) _ (gain_zero hq h)) //; first ring.
by move=> x lt a; apply: h => E; rewrite E ltnn in lt.
Qed.
(* ... and stale = 0 where those updated before it speak after it *)
Theorem R4_stale p0 p q k t s : policy q -> (forall s, time s <> k -> forall a, q s a = p s a) -> before k p0 p ->
  (time s <= k)%nat ->
  V e next r q t s - V e next r p t s - path_sum p0 (gain e next r p q) t s = 0.
Proof.
move=> hq h h0 ks; rewrite T0 // (sum_before (p := q) (q := p0) _ (gain_zero hq h)) //; first ring.
by move=> x lt a; rewrite h0 // h // => E; rewrite E ltnn in lt.
Qed.
(* Those who spoke before do not change the advantage: in the order of speaking cached = stale. *)
Lemma V_from p q k t s : from k p q -> (k <= time s)%nat -> V e next r p t s = V e next r q t s.
Proof.
move=> h; elim: t s => [//|t ih] s ks; rewrite /=; apply: sumE => a; rewrite h //; congr (_ * _).
by apply: sumE => b; rewrite ih // clock; exact: leqW.
Qed.
Theorem R4_cached p0 p q k t s : policy p -> policy q -> (forall s, time s <> k -> forall a, q s a = p s a) -> from k p0 p ->
  path_sum p0 (fun u x => \sum_(a : A) ((q x a - p x a) * Adv e next r p0 u x a)) t s = path_sum p0 (gain e next r p q) t s.
Proof.
move=> hp hq h h0; apply: path_sumE => u x.
have z : \sum_(a : A) (p x a * Adv e next r p u x a) = 0.
  rewrite /Adv (sumE (G := fun a => p x a * Q e next r p u x a - p x a * V e next r p u.+1 x)) => [|a]; last ring.
  by rewrite sumB sumZr (proj2 (hp x)) -VE; ring.
rewrite /gain -[RHS]Rminus_0_r -[X in _ = _ - X]z -sumB; apply: sumE => a.
case: (eqVneq (time x) k) => [E|/eqP ne]; last by rewrite h //; ring.
have -> : Adv e next r p0 u x a = Adv e next r p u x a; last ring.
rewrite /Adv (V_from (p := p0) (q := p) _ h0) ?E //; congr (_ - _); apply: sumE => b.
by rewrite (V_from (p := p0) (q := p) _ h0) // clock E.
Qed.
End OneTurn.

(* and this is where the order decides: a chain. At time k agent k goes on with probability x k; the return is 1 if all n did. *)
Section Chain.
Variables (n : nat) (c eps : R).
Hypotheses (c01 : 0 <= c) (e0 : 0 <= eps) (ce : c + eps <= 1).
Notation state := (bool * nat)%type.
Definition ch_e (s : state) (a : bool) (b : unit) : R := 1.
Definition ch_next (s : state) (a : bool) (b : unit) : state := (s.1 && a, s.2.+1).
Definition ch_r (s : state) (a : bool) (b : unit) : R := if [&& s.1, a & s.2.+1 == n] then 1 else 0.
Definition pol (x : nat -> R) (s : state) (a : bool) : R := if a then x s.2 else 1 - x s.2.
Definition now (b : bool) : R := if b then c + eps else c.
(* forward: the first i speakers are updated; backward: the last i *)
Definition fw i := pol (fun k => now (k < i)%nat).
Definition bw i := pol (fun k => now ((n - i <= k) && (k < n))%nat).
Lemma ch_e_dist s a : dist (ch_e s a).
Proof. by split=> [b|]; rewrite /ch_e; [lra | rewrite (big_pred1 tt) // => -[]]. Qed.
Lemma pol_policy b : policy (pol (fun k => now (b k))).
Proof. by move=> s; split=> [a|]; [rewrite /pol /now; case: a; case: (b s.2); lra | rewrite big_bool /pol /=; ring]. Qed.
Notation CV := (V ch_e ch_next ch_r).
Lemma ch_Q x u s a : Q ch_e ch_next ch_r (pol x) u s a = ch_r s a tt + CV (pol x) u (s.1 && a, s.2.+1).
Proof. by rewrite /Q (big_pred1 tt) => [|[]] //; rewrite /ch_e /ch_next; ring. Qed.
Lemma ch_V x t s : CV (pol x) t.+1 s = x s.2 * (ch_r s true tt + CV (pol x) t (s.1, s.2.+1))
  + (1 - x s.2) * CV (pol x) t (false, s.2.+1).
Proof. by rewrite VE big_bool !ch_Q /pol /= andbT andbF /ch_r andbF; ring. Qed.
Lemma ch_dead x t k : CV (pol x) t (false, k) = 0.
Proof. by elim: t k => [//|t ih] k; rewrite ch_V /= !ih /ch_r /=; ring. Qed.
Lemma ch_step x t k : CV (pol x) t.+1 (true, k) = x k * ((if k.+1 == n then 1 else 0) + CV (pol x) t (true, k.+1)).
Proof. by rewrite ch_V ch_dead /ch_r /=; ring. Qed.
Lemma ch_alive x t k : (k + t.+1 = n)%nat -> CV (pol x) t.+1 (true, k) = \big[Rmult/1]_(i < t.+1) x (k + i)%nat.
Proof.
elim: t k => [|t ih] k h; rewrite ch_step.
  by rewrite big_ord_recl big_ord0 addn0 -h addn1 eqxx /=; ring.
rewrite ih; last by rewrite addSnnS.
rewrite [RHS]big_ord_recl /= addn0 (_ : (k.+1 == n) = false); last by apply/eqP; nat_lia.
by rewrite Rplus_0_l; congr (_ * _); apply: eq_bigr => i _; congr x; rewrite /bump /= addSnnS.
Qed.
Lemma prod_const z t : \big[Rmult/1]_(i < t) z = z ^ t.
Proof. by elim: t => [|t ih]; [rewrite big_ord0 | rewrite big_ord_recl ih]. Qed.
Hypothesis n0 : (0 < n)%nat.
Notation start := (true, 0%nat).
Lemma J_all x z : (forall k, (k < n)%nat -> x k = z) -> CV (pol x) n start = z ^ n.
Proof.
move: n0 (@ch_alive x n.-1 0); case: (n) => // t _ h hx.
rewrite h // -prod_const; apply: eq_bigr => i _; apply: hx; rewrite add0n; exact: ltn_ord.
Qed.
(* the joint surrogate: each agent in turn, the others at the old probability *)
Lemma ch_gain x y t s : gain ch_e ch_next ch_r (pol x) (pol y) t s
  = (y s.2 - x s.2) * (ch_r s true tt + CV (pol x) t (s.1, s.2.+1)).
Proof.
have rf : ch_r s false tt = 0 by rewrite /ch_r andbF.
have pT z : pol z s true = z s.2 by []; have pF z : pol z s false = 1 - z s.2 by [].
by rewrite /gain /Adv VE !big_bool !ch_Q andbT andbF ch_dead rf !pT !pF /=; ring.
Qed.
Lemma L_all t k : (k + t = n)%nat -> L ch_e ch_next ch_r (fw 0) (fw n) t (true, k) = INR t * (eps * c ^ t.-1).
Proof.
have E s a (f : state -> R) : after ch_e ch_next s a f = f (ch_next s a tt).
  by rewrite /after (big_pred1 tt) => [|[]] //; rewrite /ch_e; ring.
have dead u i : L ch_e ch_next ch_r (fw 0) (fw n) u (false, i) = 0.
  elim: u i => [//|u ih] i; rewrite /L [path_sum _ _ _ _ _ _]/= !big_bool !E /ch_next /=.
  by move: (ih i.+1); rewrite /L ch_gain /ch_r /= ch_dead => ->; ring.
have V0 t' k' : (k' + t' = n)%nat -> ((if k' == n then 1 else 0) + CV (fw 0) t' (true, k')) = c ^ t'.
  case: t' => [|t'] h; first by rewrite -h addn0 eqxx /=; ring.
  rewrite (_ : (k' == n) = false); last by apply/eqP; nat_lia.
  by rewrite ch_alive // Rplus_0_l -(prod_const c t'.+1); apply: eq_bigr.
elim: t k => [|t ih] k h; first by rewrite /L /=; ring.
have kn : (k < n)%nat by nat_lia.
have G : gain ch_e ch_next ch_r (fw 0) (fw n) t (true, k) = eps * c ^ t.
  by rewrite ch_gain /= /now kn /ch_r /= V0 ?addSnnS //; ring.
rewrite /L [path_sum _ _ _ _ _ _]/= G !big_bool !E; have := dead t k.+1; rewrite /L => ->.
have := ih k.+1; rewrite /L addSnnS => -> //; rewrite S_INR /fw /pol /=.
by case: t {h ih G} => [|t] /=; ring.
Qed.
Notation time := (fun s : state => s.2).
Notation gap p q := (CV q n start - CV p n start).
Definition chain_gap := (c + eps) ^ n - c ^ n - INR n * (eps * c ^ n.-1).
Lemma pol_ext (x y : nat -> bool) : (forall k, x k = y k) -> pol (fun k => now (x k)) = pol (fun k => now (y k)).
Proof.
move=> h; apply: FunctionalExtensionality.functional_extensionality => s.
by apply: FunctionalExtensionality.functional_extensionality => a; rewrite /pol h.
Qed.
Lemma cached_total (team : nat -> state -> bool -> R) : (forall i, policy (team i)) -> team O = fw 0 -> team n = fw n ->
  \big[Rplus/0]_(i < n) (gap (team i) (team i.+1) - Horizon.L_cached ch_e ch_next ch_r team n start i) = chain_gap.
Proof.
move=> hp h0 hn; rewrite L_cached_telescope // h0 hn L_all // (J_all (z := c + eps)) => [|k ->//].
by rewrite (J_all (z := c)).
Qed.
Lemma fw_step i s : s.2 <> i -> forall a, fw i.+1 s a = fw i s a.
Proof. by move=> /eqP h a; rewrite /fw /pol ltnS leq_eqVlt (negbTE h). Qed.
Lemma bw_step i s : (i < n)%nat -> s.2 <> (n - i.+1)%nat -> forall a, bw i.+1 s a = bw i s a.
Proof.
move=> lt h a; rewrite /bw /pol; suff -> : (n - i.+1 <= s.2)%nat = (n - i <= s.2)%nat by [].
by rewrite [LHS]leq_eqVlt eq_sym (negbTE (introN eqP h)) /= subnSK.
Qed.
(* In the order of speaking fresh is 0 and stale is not, in reverse order fresh and stale are 0 and cached is not. *)
Theorem R4_chain :
  [/\ forall i, gap (fw i) (fw i.+1) - L ch_e ch_next ch_r (fw i) (fw i.+1) n start = 0,
      \big[Rplus/0]_(i < n) (gap (fw i) (fw i.+1)
          - path_sum ch_e ch_next (fw 0) (gain ch_e ch_next ch_r (fw i) (fw i.+1)) n start)
        = chain_gap,
      forall i, (i < n)%nat -> gap (bw i) (bw i.+1) - L ch_e ch_next ch_r (bw i) (bw i.+1) n start = 0
        /\ gap (bw i) (bw i.+1) - path_sum ch_e ch_next (bw 0) (gain ch_e ch_next ch_r (bw i) (bw i.+1)) n start = 0
    & \big[Rplus/0]_(i < n) (gap (bw i) (bw i.+1) - Horizon.L_cached ch_e ch_next ch_r bw n start i) = chain_gap].
Proof.
have clock s a b : time (ch_next s a b) = (time s).+1 by [].
have hf i : policy (fw i) := pol_policy _; have hb i : policy (bw i) := pol_policy _.
split.
- by move=> i; apply: (@R4_fresh _ _ _ ch_e ch_next ch_r time clock _ _ i) => // s; exact: fw_step.
- rewrite -(cached_total hf) //; apply: eq_bigr => i _; congr (_ - _); rewrite /Horizon.L_cached.
  rewrite (@R4_cached _ _ _ ch_e ch_next ch_r time clock _ (fw i) (fw i.+1) i) // => s h a; first exact: fw_step.
  by rewrite /fw /pol (_ : (s.2 < i)%nat = false) //; apply/negbTE; rewrite -leqNgt.
- move=> i lt; split; first by apply: (@R4_fresh _ _ _ ch_e ch_next ch_r time clock _ _ (n - i.+1)%nat) => // s; exact: bw_step.
  apply: (@R4_stale _ _ _ ch_e ch_next ch_r time clock _ _ _ (n - i.+1)%nat) => // s h; first exact: bw_step.
  move=> a; rewrite /bw /pol subn0 (_ : ((n <= s.2) && (s.2 < n))%nat = false); last by case: leqP.
  by rewrite (_ : ((n - i <= s.2) && (s.2 < n))%nat = false) //; apply/negbTE/nandP; left; rewrite -ltnNge -subnSK // ltnS ltnW.
apply: cached_total => //; apply: pol_ext => k; first by rewrite subn0 ltn0; case: leqP.
by rewrite subnn.
Qed.
Theorem R4_chain_positive : (1 < n)%nat -> 0 < c -> 0 < eps -> 0 < chain_gap.
Proof.
rewrite /chain_gap; case: (n) => [//|[//|t]] _ cp ep.
elim: t => [|t ih]; first by rewrite /=; nra.
move: ih; rewrite (S_INR t.+2); have N0 := pos_INR t.+2; set N := INR t.+2 in N0 *.
have -> : t.+3.-1 = t.+2 by []; have -> : t.+2.-1 = t.+1 by [].
have Y0 : 0 < c ^ t.+1 := pow_lt c t.+1 cp; have -> : (c + eps) ^ t.+3 = (c + eps) * (c + eps) ^ t.+2 by [].
have -> : c ^ t.+3 = c * (c * c ^ t.+1) by []; have -> : c ^ t.+2 = c * c ^ t.+1 by [].
set X := (c + eps) ^ t.+2; set Y := c ^ t.+1 in Y0 * => h.
have := Rmult_lt_compat_l (c + eps) _ _ ltac:(lra) h.
have : 0 <= N * (eps * (eps * Y)) by apply: Rmult_le_pos => //; apply/Rlt_le/Rmult_lt_0_compat => //; exact: Rmult_lt_0_compat.
lra.
Qed.
End Chain.
