(* S7, discounted, with K - (1-g) kappa_0 in place of K, kappa_0 the KL of the first step: |gap| <= rho (K - (1-g) kappa_0).
   What the first step earns drops out of the gap. So give the first states copies at which nothing is earned, and to these the
   floor g lo/(1-g) in place of lo/(1-g): then S9 charges the first step g rho only. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section First.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (r : S -> A -> R) (p q : S -> A -> R) (v v' m : S -> R) (lo hi : R).
Hypotheses (hp : policy p) (hq : policy q) (fl : flow P g rho p m).
Hypotheses (bp : bellman P g r p v) (bq : bellman P g r q v') (hr : forall s a, lo <= r s a <= hi).
Hypothesis hk : forall s, 0 < m s -> keeps (p s) (q s).

(* (true, s): the copy of s at time 0 *)
Notation S2 := (prod_finType bool_finType S).
Definition P2 (x : S2) a (y : S2) := if y.1 then 0 else P x.2 a y.2.
Definition rho2 (x : S2) := if x.1 then rho x.2 else 0.
Definition r2 (x : S2) a := if x.1 then 0 else r x.2 a.
Definition pol2 (pi : S -> A -> R) (x : S2) := pi x.2.
Definition v2 pi f (x : S2) := if x.1 then g * step_p P pi f x.2 else f x.2.
Definition m2 (x : S2) := if x.1 then rho x.2 else m x.2 - rho x.2.

Lemma sum2 (F : S2 -> R) : \sum_(x : S2) F x = \sum_(s : S) F (true, s) + \sum_(s : S) F (false, s).
Proof. by rewrite sum_pairs big_bool. Qed.
Lemma ev2 x a f : ev P2 x a f = ev P x.2 a (fun s => f (false, s)).
Proof. by rewrite /ev sum2 [X in X + _]sum0 ?Rplus_0_l // => s; rewrite /P2 /=; lra. Qed.
Lemma P2_dist x a : dist (P2 x a).
Proof.
split=> [[[] s]|]; [exact: Rle_refl | exact: (proj1 (P_dist _ _)) |].
by rewrite sum2 [X in X + _]sum0 // Rplus_0_l; exact: (proj2 (P_dist x.2 a)).
Qed.
Lemma rho2_dist : dist rho2.
Proof.
split=> [[[] s]|]; [exact: (proj1 rho_dist) | exact: Rle_refl |].
by rewrite sum2 [X in _ + X]sum0 // Rplus_0_r; exact: (proj2 rho_dist).
Qed.
Lemma later0 s : 0 <= m s - rho s.
Proof.
have [m0 ->] := fl; suff : 0 <= g * \sum_(x : S) (m x * \sum_(a : A) (p x a * P x a s)) by lra.
apply: Rmult_le_pos (proj1 g01) _; apply: sum_ge0 => x; apply: Rmult_le_pos (m0 x) _; apply: sum_ge0 => a.
exact: Rmult_le_pos (proj1 (hp x) a) (proj1 (P_dist x a) s).
Qed.
Lemma flow2 : flow P2 g rho2 (pol2 p) m2.
Proof.
split=> [[[] s]|[[] s']]; [exact: (proj1 rho_dist) | exact: later0 | |].
  rewrite sum0 => [|x]; first by rewrite /m2 /rho2 /=; lra.
  by rewrite sum0 => [|a]; rewrite /P2 /=; lra.
rewrite sum2 /m2 /rho2 /P2 /pol2 /= -sumD {1}(proj2 fl s').
rewrite [X in _ = _ + g * X](sumE (G := fun s => m s * \sum_(a : A) (p s a * P s a s'))) => [|s]; lra.
Qed.
Lemma Q2 f pi x a : Qd P2 g r2 (v2 pi f) x a = if x.1 then g * ev P x.2 a f else Qd P g r f x.2 a.
Proof. by case: x => [[] s]; rewrite /Qd ev2 /r2 /= ?Rplus_0_l. Qed.
Lemma bellman2 pi f : bellman P g r pi f -> bellman P2 g r2 (pol2 pi) (v2 pi f).
Proof.
move=> b [[] s].
  by rewrite /v2 /= /step_p -sumZ; apply: sumE => a; rewrite Q2 /pol2 /=; lra.
by rewrite /v2 /= b; apply: sumE => a; rewrite Q2.
Qed.
Lemma gap2 : at_rho rho2 (v2 q v') - at_rho rho2 (v2 p v) - under m2 (gaind P2 g r2 (pol2 p) (v2 p v) (pol2 q))
  = at_rho rho v' - at_rho rho v - under m (gaind P g r p v q).
Proof.
rewrite /at_rho /under !sum2 -!sumD -!sumB; apply: sumE => s; rewrite /rho2 /m2 /v2 /=.
have -> : gaind P2 g r2 (pol2 p) (v2 p v) (pol2 q) (false, s) = gaind P g r p v q s.
  by rewrite /gaind; apply: sumE => a; rewrite Q2.
rewrite !gaindE; try exact: hq; try exact: (hq s).
have E pi f : bellman P g r pi f -> f s = \sum_(a : A) (pi s a * r s a) + g * step_p P pi f s.
  by move=> b; rewrite {1}b /step_p -sumZ -sumD; apply: sumE => a; rewrite /Qd; lra.
have -> : \sum_(a : A) (q s a * Qd P g r v s a) = \sum_(a : A) (q s a * r s a) + g * step_p P q v s.
  by rewrite /step_p -sumZ -sumD; apply: sumE => a; rewrite /Qd; lra.
have -> : \sum_(a : A) (pol2 q (true, s) a * Qd P2 g r2 (v2 p v) (true, s) a) = g * step_p P q v s.
  by rewrite /step_p -sumZ; apply: sumE => a; rewrite Q2 /pol2 /=; lra.
have := E _ _ bp; have := E _ _ bq; rewrite /v2 /= => -> ->; ring.
Qed.

Lemma kept2 x : 0 < m2 x -> keeps (pol2 p x) (pol2 q x).
Proof.
case: x => [b s] ms; have : 0 < m s; last exact: hk.
by move: b ms => []; rewrite /m2 /=; have := later0 s; have := proj1 rho_dist s; lra.
Qed.
Lemma charge2 (F : S2 -> A -> R) c : (forall s a, F (true, s) a <= g * c) -> (forall s a, F (false, s) a <= c) ->
  under m2 (fun x => \sum_(a : A) (kterm (pol2 p x) (pol2 q x) a * F x a))
    <= c * (under m (fun s => kl (p s) (q s)) - (1 - g) * at_rho rho (fun s => kl (p s) (q s))).
Proof.
move=> h1 h2; rewrite /under /at_rho sum2 -sumD -sumZ -sumB -sumZ; apply: sum_le => s; rewrite /m2 /=.
have l0 := later0 s; have r0 := proj1 rho_dist s.
case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|mz]; last by have -> : rho s = 0 by [lra]; rewrite -mz; lra.
have k (c' : R) b : (forall a, F (b, s) a <= c') -> \sum_(a : A) (kterm (p s) (q s) a * F (b, s) a) <= c' * kl (p s) (q s).
  move=> h; rewrite -(kterm_sum (hp s) (hq s)) -sumZ; apply: sum_le => a; rewrite (Rmult_comm c').
  by apply: Rmult_le_compat_l (h a); apply: kterm_ge0 (hp s) (hq s) (hk ms).
have := Rmult_le_compat_l _ _ _ r0 (k _ true (h1 s)); have := Rmult_le_compat_l _ _ _ l0 (k _ false (h2 s)).
rewrite /pol2 /=; lra.
Qed.

(* |J(q) - J(p) - L| <= (hi-lo)/(1-g) (K - (1-g) kappa_0), kappa_0 = sum_s rho(s) KL(s) *)
Theorem S7_first_step : Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q)) <= (hi - lo) / (1 - g) *
  (under m (fun s => kl (p s) (q s)) - (1 - g) * at_rho rho (fun s => kl (p s) (q s))).
Proof.
set d := 1 - g; have dE c : c / d = c + g * (c / d) by rewrite /d; field; lra.
pose Phi c (x : S2) := if x.1 then g * (c / d) else c / d.
have fr : floord P2 g r2 (Phi lo).
  by move=> [[] s] a; rewrite ev2 /Phi /r2 /= ev1 //; [lra | have := hr s a; have := dE lo; lra].
have cr : ceilingd P2 g r2 (Phi hi).
  by move=> [[] s] a; rewrite ev2 /Phi /r2 /= ev1 //; [lra | have := hr s a; have := dE hi; lra].
have vlo := above g01 P_dist hp (const_floor g01 P_dist (fun s a => proj1 (hr s a))) bp.
have nr s a : - hi <= - r s a by have := hr s a; lra.
have vhi := above g01 P_dist hp (const_floor g01 P_dist nr) (bellman_neg bp).
have elo s a : lo / d <= ev P s a v by have := ev_le P_dist s a vlo; rewrite ev1.
have ehi s a : ev P s a v <= hi / d.
  have := ev_le P_dist s a vhi; rewrite ev1 // (evE P s a (f := fun x => - v x) (h := fun x => -1 * v x)) => [|x]; last lra.
  by rewrite evZ -/d; have -> : - hi / d = - (hi / d) by [rewrite /d; field; lra]; lra.
have gl s a := Rmult_le_compat_l _ _ _ (proj1 g01) (elo s a); have gh s a := Rmult_le_compat_l _ _ _ (proj1 g01) (ehi s a).
have hE : (hi - lo) / d = hi / d - lo / d by rewrite /d; field; lra.
have k2 (F : S2 -> A -> R) x a : 0 < m2 x -> 0 < pol2 p x a -> 0 < pol2 q x a \/ Qd P2 g r2 (v2 p v) x a = F x a.
  by move=> mx pa; left; apply: kept2.
have c1 := S9_charge_discounted g01 P2_dist rho2_dist (fun x => hp x.2) (fun x => hq x.2) flow2 fr (bellman2 bp) (bellman2 bq)
  (k2 (fun x _ => Phi lo x)).
have c2 := S9_ceiling_discounted g01 P2_dist rho2_dist (fun x => hp x.2) (fun x => hq x.2) flow2 cr (bellman2 bp) (bellman2 bq)
  (k2 (fun x _ => Phi hi x)).
rewrite gap2 in c1; rewrite gap2 in c2.
have b1 := @charge2 (fun x a => Qd P2 g r2 (v2 p v) x a - Phi lo x) ((hi - lo) / d).
have b2 := @charge2 (fun x a => Phi hi x - Qd P2 g r2 (v2 p v) x a) ((hi - lo) / d).
have {}b1 := b1 _ _; have {}b2 := b2 _ _.
apply: Rabs_le; split.
  apply: Rle_trans c1; apply: Ropp_le_contravar; apply: b1 => s a; rewrite Q2 /Phi /= hE; first by have := gh s a; lra.
  by rewrite /Qd; have := gh s a; have := hr s a; have := dE hi; lra.
apply: Rle_trans c2 _; apply: b2 => s a; rewrite Q2 /Phi /= hE; first by have := gl s a; lra.
by rewrite /Qd; have := gl s a; have := hr s a; have := dE lo; lra.
Qed.
End First.
