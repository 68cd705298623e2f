(* R5, the interaction matrix, with explicit remainders instead of a power series: if rows of the stage differ by at most eta in
   l1 and the step of an update differs by at most kappa from the step of its agent alone, the remainder of every gap is at most
   2 g^2 eta^2/(1-g)^3 + g kappa/(1-g)^2 times a bound of g_i: third order. R4, the cases that are exact at every step size.
   Idea: a shift of visits is one step away from the visits of before, weighed by sums under the policy of after (shiftE);
   two such shifts are compared factor by factor. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted Existence Constant.
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
  have -> : step_p P p (fun x => u x - u' x) s = step_p P p u s - step_p P p u' s by rewrite /step_p -sumB; apply: sumE => a; rewrite evB; ring.
  by rewrite {1}hu {1}hu' (step_pE q p u' s); ring.
rewrite Rabs_mult (Rabs_pos_eq _ (proj1 g01)); apply: Rmult_le_compat_l (proj1 g01) _.
exact: diff_small hn (sums_small hq hu' hf).
Qed.

(* two steps under the same visits, each weighed by the sums under its policy of after *)
Lemma steps_small p q p0 q0 m u u0 f F eta kappa : policy p0 -> flow P g rho p0 m -> policy q -> policy q0 ->
  sums q f u -> sums q0 f u0 -> near eta p q -> near eta q0 q ->
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
have b := @steps_small p q p0 q0 m0 u u0 f F eta kappa hp0 fl0 hq hq0 hu hu0 n1 n3 nk hf.
have [a1 a2] := Rabs_def2_le a; have [b1 b2] := Rabs_def2_le b.
have -> : (2 * g ^ 2 * eta ^ 2 / (1 - g) ^ 3 + g * kappa / (1 - g) ^ 2) * F
  = g * (g * eta * (eta * (F / (1 - g))) / (1 - g) ^ 2) + g * (g * eta ^ 2 * F / (1 - g) ^ 3 + kappa * F / (1 - g) ^ 2) by field; lra.
have := Rmult_le_compat_l _ _ _ (proj1 g01) a1; have := Rmult_le_compat_l _ _ _ (proj1 g01) a2.
have := Rmult_le_compat_l _ _ _ (proj1 g01) b1; have := Rmult_le_compat_l _ _ _ (proj1 g01) b2.
by move=> *; apply: Rabs_le; lra.
Qed.
End Shifts.
