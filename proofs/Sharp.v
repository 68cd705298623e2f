(* What S7 and S5 attain: S7 with kappa_0 subtracted (the first step costs nothing), the branch (S7 is sharp), the bandit (S5 is). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ S7 with kappa_0 *)
Section Kappa.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (p q : S -> A -> R) (m : S -> R).
Hypotheses (hp : policy p) (hq : policy q) (hk : forall s, keeps (p s) (q s)) (fl : flow P g rho p m).

(* what is earned above the floor by one action *)
Definition shaped (r : S -> A -> R) (Phi : S -> R) s a := r s a + g * ev P s a Phi - Phi s.
Definition first r Phi s := \sum_(a : A) (kterm (p s) (q s) a * shaped r Phi s a).
Lemma QdE r f Phi s a : Qd P g r f s a = Phi s + shaped r Phi s a + g * ev P s a (fun x => f x - Phi x).
Proof. by rewrite /Qd /shaped evB; lra. Qed.

(* S9 in which the first step does not pay for its own reward: start the induction behind the first action, at lam = q/p *)
Theorem S9_first r Phi v v' : floord P g r Phi -> bellman P g r p v -> bellman P g r q v' ->
  under m (scored P g p q r v Phi) + at_rho rho (first r Phi) <= at_rho rho v' - at_rho rho v.
Proof.
move=> hf bp bq; set f := scored P g p q r v Phi.
set C := \sum_(s : S) Rabs (v s - Phi s); set M := \sum_(s : S) m s; set D := \sum_(s : S) Rabs (f s).
have C0 : 0 <= C by apply: sum_ge0 => x; exact: Rabs_pos.
have D0 : 0 <= D by apply: sum_ge0 => x; exact: Rabs_pos.
have M0 : 0 <= M by apply: sum_ge0 => x; exact: (proj1 fl).
have c0 : 0 <= 2 * C + M * D by have := Rmult_le_pos _ _ M0 D0; lra.
have av' := above g01 P_dist hq hf bq.
apply: (vanish g01 c0) => T.
pose w s a := ev P s a (fun x => v x - Phi x); pose w' s a := ev P s a (fun x => v' x - Phi x).
pose z s a := ev P s a (W P g p f T).
have gT : 0 <= C * g ^ T by apply: Rmult_le_pos C0 (pow_le _ _ (proj1 g01)).
have one s a : p s a * w s a + p s a * ln (q s a / p s a) * w s a + p s a * z s a - C * g ^ T * (q s a + p s a) <= q s a * w' s a.
  have q0 := proj1 (hq s) a.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last first.
    have w0 : 0 <= w' s a by rewrite /w' -(ev1 P_dist s a 0); apply: ev_le => // x; have := av' x; lra.
    by have := Rmult_le_pos _ _ q0 w0; have := Rmult_le_pos _ _ gT q0; lra.
  have l0 := Rdiv_lt_0_compat _ _ (hk pa) pa; set lam := q s a / p s a in l0 *.
  have := ev_le P_dist s a (fun x => S9_ind_discounted g01 P_dist hp hq hk hf bp bq T x l0).
  rewrite -/C -/f evB evD ev1 // !evZ -/(w s a) -/(w' s a) -/(z s a) => h.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) h; have -> : q s a = lam * p s a by rewrite /lam; field; lra.
  lra.
have state s : first r Phi s + W P g p f T.+1 s - 2 * C * g ^ T.+1 <= v' s - v s.
  have sum := sum_le (one s); rewrite sumB !sumD sumZ sumD (proj2 (hp s)) (proj2 (hq s)) in sum.
  have vE pi u : dist (pi s) -> u s = \sum_(a : A) (pi s a * Qd P g r u s a) -> u s = Phi s
    + \sum_(a : A) (pi s a * shaped r Phi s a) + g * \sum_(a : A) (pi s a * ev P s a (fun x => u x - Phi x)).
    move=> d {1}->; rewrite (sumE (G := fun a => (pi s a * Phi s + pi s a * shaped r Phi s a)
      + g * (pi s a * ev P s a (fun x => u x - Phi x)))) => [|a]; last by rewrite (QdE _ _ Phi); lra.
    by rewrite !sumD sumZ (sum_const _ (proj2 d)).
  have e1 := vE p v (hp s) (bp s); have e2 := vE q v' (hq s) (bq s).
  have fE : f s = \sum_(a : A) (p s a * ln (q s a / p s a) * shaped r Phi s a) + g * \sum_(a : A) (p s a * ln (q s a / p s a) * w s a).
    by rewrite -sumZ -sumD; apply: sumE => a; rewrite (QdE _ _ Phi) /w; lra.
  have kE : first r Phi s = \sum_(a : A) (q s a * shaped r Phi s a) - \sum_(a : A) (p s a * shaped r Phi s a)
     - \sum_(a : A) (p s a * ln (q s a / p s a) * shaped r Phi s a).
    rewrite -!sumB; apply: sumE => a; rewrite /kterm.
    case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
    by rewrite (ln_swap pa (hk pa)); lra.
  rewrite e1 e2 kE [W P g p f T.+1 s]/= fE /step_p (_ : g ^ T.+1 = g * g ^ T) //.
  have := Rmult_le_compat_l _ _ _ (proj1 g01) sum; rewrite /w /w' /z; lra.
have u := W_under g01 P_dist hp fl f T; rewrite -/M -/D in u.
have : at_rho rho (first r Phi) + at_rho rho (W P g p f T.+1) - 2 * C * g ^ T <= at_rho rho v' - at_rho rho v.
  rewrite /at_rho -[X in _ - X](sum_const _ (proj2 rho_dist)) -sumD -!sumB; apply: sum_le => s.
  have := Rmult_le_compat_l _ _ _ (proj1 rho_dist s) (state s).
  have gg : g * (C * g ^ T) <= C * g ^ T by have := Rmult_le_compat_r _ _ _ gT (Rlt_le _ _ (proj2 g01)); lra.
  have := Rmult_le_compat_l _ _ _ (proj1 rho_dist s) gg; rewrite /=; lra.
lra.
Qed.
End Kappa.
