(* S13, the constant of the discounted S7. From above: G <= c K rho wherever a pair (c, alpha) is valid for the rows, with
   alpha (V' - V)^2 as what the induction carries; rows whose ratio new/current is at most R are valid with
   c = R sqrt(g / (1 - g)), so that small steps inside the support never exceed sqrt(g / (1 - g)) by more than the factor R.
   From below: the paid door, above g at every g. *)
Require Import Reals Lra Psatz.
From Coquelicot Require Import Coquelicot.
From mathcomp Require Import all_ssreflect.
From TeamTR Require Import Sums Episodic Discounted Existence Pinsker.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ from above *)
(* (4) of the page, for one pair of rows. No support condition: where kl would be infinite there is nothing to hold. *)
Definition valid (A : finType) (g c alpha : R) (p q : A -> R) :=
  forall d y : A -> R, (forall a, -1 <= d a <= 1) -> (forall a, 0 <= y a <= 1) ->
  alpha * (\sum_(a : A) ((q a - p a) * y a) + g * (\sum_(a : A) (p a * d a))) ^ 2
    <= c * kl p q - g * (\sum_(a : A) ((q a - p a) * d a)) + g * alpha * (\sum_(a : A) (p a * d a ^ 2)).

Section Above.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (p q : S -> A -> R) (m : S -> R) (c alpha : R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Hypotheses (hp : policy p) (hq : policy q) (fl : flow P g rho p m).
Hypotheses (alpha0 : 0 <= alpha) (val : forall s, valid g c alpha (p s) (q s)).
Notation ev := (ev P).

Lemma value_range pi r f lo hi s : policy pi -> (forall s a, lo <= r s a <= hi) -> bellman P g r pi f ->
  lo / (1 - g) <= f s <= hi / (1 - g).
Proof.
move=> hpi hr bf; split.
  by apply: (above g01 P_dist hpi (r := r) (Phi := fun _ => lo / (1 - g))) => //; apply: const_floor => // x a; have := hr x a; lra.
have h : (- hi) / (1 - g) <= - f s.
  apply: (above g01 P_dist hpi (r := fun x a => - r x a) (Phi := fun _ => (- hi) / (1 - g)) (f := fun x => - f x)).
    by apply: const_floor => // x a; have := hr x a; lra.
  exact: bellman_neg.
have E : (- hi) / (1 - g) = - (hi / (1 - g)) by field; lra.
by rewrite E in h; lra.
Qed.
Lemma jensen s a f : (ev s a f) ^ 2 <= ev s a (fun x => f x ^ 2).
Proof. by have [P0 P1] := P_dist s a; have := cauchy f P0; rewrite P1 Rmult_1_l. Qed.

Section OneSide.
Variables (r : S -> A -> R) (v v' : S -> R) (lo hi : R).
Hypotheses (lohi : lo < hi) (hr : forall s a, lo <= r s a <= hi) (bp : bellman P g r p v) (bq : bellman P g r q v').
Let range := (hi - lo) / (1 - g).
Let x s := v' s - v s.
Let f s := - (c * range * kl (p s) (q s)) - gaind P g r p v q s.
Let C := \sum_(s : S) (Rabs (x s) + alpha / range * x s ^ 2).
Lemma range0 : 0 < range. Proof. by apply: Rdiv_lt_0_compat; lra. Qed.
Lemma rangeE : range = hi / (1 - g) - lo / (1 - g). Proof. by rewrite /range; field; lra. Qed.
Lemma x_range s : - range <= x s <= range.
Proof. by have := value_range s hp hr bp; have := value_range s hq hr bq; rewrite /x rangeE; lra. Qed.

(* one step: V' - V = g(s) + g E_q[V' - V], and validity at d = E[V' - V]/range, y = (Q' - lo/(1-g))/range *)
Lemma x_step s : x s = gaind P g r p v q s + g * (\sum_(a : A) (q s a * ev s a x)).
Proof.
rewrite /x gaindE // {1}(bq s) /Qd; set X := \sum_(a : A) _; rewrite -sumZ.
suff -> : X = \sum_(a : A) (q s a * (r s a + g * ev s a v)) + \sum_(a : A) (g * (q s a * ev s a x)) by rewrite /x; lra.
by rewrite /X -sumD; apply: sumE => a; rewrite /x evB; lra.
Qed.
Lemma one_step s : alpha / range * x s ^ 2
  <= c * range * kl (p s) (q s) - g * (\sum_(a : A) ((q s a - p s a) * ev s a x))
     + g * (\sum_(a : A) (p s a * (alpha / range * ev s a x ^ 2))).
Proof.
have r0 := range0; have [p0 p1] := hp s; have [q0 q1] := hq s.
pose d a := ev s a x / range; pose y a := (Qd P g r v' s a - lo / (1 - g)) / range.
have dE a : range * d a = ev s a x by rewrite /d; field; lra.
have yE a : range * y a = Qd P g r v' s a - lo / (1 - g) by rewrite /y; field; lra.
have le1 z : - range <= range * z <= range -> -1 <= z <= 1.
  by move=> h; split; apply: (Rmult_le_reg_l range) => //; lra.
have hd a : -1 <= d a <= 1.
  apply: le1; rewrite dE.
  have := ev_le P_dist s a (fun z => proj1 (x_range z)); have := ev_le P_dist s a (fun z => proj2 (x_range z)).
  by rewrite !ev1.
have hy a : 0 <= y a <= 1.
  have b := hr s a; have V0 z := value_range z hq hr bq.
  have := ev_le P_dist s a (fun z => proj1 (V0 z)); have := ev_le P_dist s a (fun z => proj2 (V0 z)).
  rewrite !ev1 // => u l.
  have El : lo + g * (lo / (1 - g)) = lo / (1 - g) by field; lra.
  have Eu : hi + g * (hi / (1 - g)) = hi / (1 - g) by field; lra.
  have := Rmult_le_compat_l _ _ _ (proj1 g01) l; have := Rmult_le_compat_l _ _ _ (proj1 g01) u.
  by split; apply: (Rmult_le_reg_l range) => //; rewrite yE /Qd ?rangeE; lra.
have := val s hd hy; set b := _ + g * _ => h.
have bE : range * b = x s.
  have e1 : range * (\sum_(a : A) ((q s a - p s a) * y a)) = v' s - \sum_(a : A) (p s a * Qd P g r v' s a).
    rewrite {1}(bq s) -sumZ -sumB (sumE (G := fun a => (q s a * Qd P g r v' s a - p s a * Qd P g r v' s a)
      - (q s a - p s a) * (lo / (1 - g)))) => [|a]; last by have := yE a; nra.
    by rewrite sumB sumZr !sumB q1 p1; lra.
  have e2 : range * (\sum_(a : A) (p s a * d a)) = \sum_(a : A) (p s a * ev s a x).
    by rewrite -sumZ; apply: sumE => a; rewrite -dE; ring.
  have e3 : v s = \sum_(a : A) (p s a * Qd P g r v' s a) - g * (\sum_(a : A) (p s a * ev s a x)).
    by rewrite -sumZ -sumB {1}(bp s); apply: sumE => a; rewrite /Qd /x evB; lra.
  have -> : range * b = range * (\sum_(a : A) ((q s a - p s a) * y a)) + g * (range * (\sum_(a : A) (p s a * d a))) by rewrite /b; ring.
  by rewrite e1 e2 {2}/x e3; lra.
have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ r0) h.
have -> : range * (alpha * b ^ 2) = alpha / range * x s ^ 2 by rewrite -bE; field; lra.
have -> : range * (c * kl (p s) (q s) - g * (\sum_(a : A) ((q s a - p s a) * d a)) + g * alpha * (\sum_(a : A) (p s a * d a ^ 2)))
  = c * range * kl (p s) (q s) - g * (range * (\sum_(a : A) ((q s a - p s a) * d a)))
    + g * (range * alpha * (\sum_(a : A) (p s a * d a ^ 2))) by ring.
have -> : range * (\sum_(a : A) ((q s a - p s a) * d a)) = \sum_(a : A) ((q s a - p s a) * ev s a x).
  by rewrite -sumZ; apply: sumE => a; rewrite -dE; ring.
have -> : range * alpha * (\sum_(a : A) (p s a * d a ^ 2)) = \sum_(a : A) (p s a * (alpha / range * ev s a x ^ 2)).
  by rewrite -sumZ; apply: sumE => a; rewrite -dE; field; lra.
by [].
Qed.

Lemma valid_ind T s : alpha / range * x s ^ 2 <= - x s - W P g p f T s + C * g ^ T.
Proof.
have a0 : 0 <= alpha / range by apply: Rmult_le_pos alpha0 _; apply/Rlt_le/Rinv_0_lt_compat/range0.
elim: T s => [|T ih] s.
  have t0 z : 0 <= Rabs (x z) + alpha / range * x z ^ 2.
    by have := Rabs_pos (x z); have := Rmult_le_pos _ _ a0 (pow2_ge_0 (x z)); lra.
  by have := term_le_sum s t0; rewrite -/C /=; have := Rle_abs (x s); lra.
have av a : alpha / range * ev s a x ^ 2 <= - ev s a x - ev s a (W P g p f T) + C * g ^ T.
  apply: Rle_trans (Rmult_le_compat_l _ _ _ a0 (jensen s a x)) _; rewrite -evZ.
  apply: Rle_trans (ev_le P_dist s a ih) _; rewrite evD evB ev1 // (evE P s a (h := fun z => -1 * x z)) => [|z]; last lra.
  by rewrite evZ; lra.
have [p0 p1] := hp s.
have := sum_le (fun a => Rmult_le_compat_l _ _ _ (p0 a) (av a)).
rewrite [X in _ <= X](sumE (G := fun a => - (p s a * ev s a x) - p s a * ev s a (W P g p f T) + p s a * (C * g ^ T))) => [|a]; last ring.
rewrite sumD (sum_const _ p1) sumB sumN => h; have := Rmult_le_compat_l _ _ _ (proj1 g01) h.
have := one_step s; rewrite (sumE (F := fun a => (_ - _) * ev s a x) (G := fun a => q s a * ev s a x - p s a * ev s a x)) => [|a]; last ring.
rewrite sumB; have := x_step s; rewrite [W _ _ _ _ T.+1 s]/= {2}/f /step_p [g ^ T.+1]/=; lra.
Qed.

Lemma valid_upper : at_rho rho v' - at_rho rho v - under m (gaind P g r p v q) <= c * range * under m (fun s => kl (p s) (q s)).
Proof.
have M0 : 0 <= \sum_(s : S) m s by apply: sum_ge0 => s; exact: (proj1 fl).
set M := \sum_(s : S) m s in M0; set D := \sum_(s : S) Rabs (f s).
have D0 : 0 <= D by apply: sum_ge0 => s; exact: Rabs_pos.
have a0 : 0 <= alpha / range by apply: Rmult_le_pos alpha0 _; apply/Rlt_le/Rinv_0_lt_compat/range0.
have C0 : 0 <= C.
  by apply: sum_ge0 => s; have := Rabs_pos (x s); have := Rmult_le_pos _ _ a0 (pow2_ge_0 (x s)); lra.
have : under m f <= - at_rho rho x.
  have c0 : 0 <= C + M * D by have := Rmult_le_pos _ _ M0 D0; lra.
  apply: (vanish g01 c0) => T; have := W_under g01 P_dist hp fl f T; rewrite -/M -/D => u.
  have : at_rho rho (W P g p f T.+1) <= - at_rho rho x + C * g ^ T.+1.
    rewrite -[C * _](sum_const _ (proj2 rho_dist)) /at_rho -sumN -sumD; apply: sum_le => s.
    have := valid_ind T.+1 s; have := Rmult_le_pos _ _ a0 (pow2_ge_0 (x s)) => h1 h2.
    have : W P g p f T.+1 s <= - x s + C * g ^ T.+1 by lra.
    by move=> h; have := Rmult_le_compat_l _ _ _ (proj1 rho_dist s) h; lra.
  have gT : C * g ^ T.+1 <= C * g ^ T.
    apply: Rmult_le_compat_l => //=; have := pow_le g T (proj1 g01) => h; have := Rmult_le_compat_r _ _ _ h (Rlt_le _ _ (proj2 g01)); lra.
  lra.
have -> : at_rho rho x = at_rho rho v' - at_rho rho v by rewrite /at_rho -sumB; apply: sumE => s; rewrite /x; ring.
have -> : under m f = - (c * range * under m (fun s => kl (p s) (q s))) - under m (gaind P g r p v q).
  by rewrite /under -sumZ -sumN -sumB; apply: sumE => s; rewrite /f; ring.
lra.
Qed.
End OneSide.
End Above.
