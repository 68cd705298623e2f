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
  by apply: (above g01 P_dist hpi (r := r) (Phi := fun _ => lo / (1 - g))) => //; apply: const_floor => // x a;
    have := hr x a; lra.
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
  have -> : range * b = range * (\sum_(a : A) ((q s a - p s a) * y a)) + g * (range * (\sum_(a : A) (p s a * d a)))
    by rewrite /b; ring.
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
rewrite [X in _ <= X](sumE (G := fun a => - (p s a * ev s a x) - p s a * ev s a (W P g p f T) + p s a * (C * g ^ T)))
  => [|a]; last ring.
rewrite sumD (sum_const _ p1) sumB sumN => h; have := Rmult_le_compat_l _ _ _ (proj1 g01) h.
have := one_step s; rewrite (sumE (F := fun a => (_ - _) * ev s a x) (G := fun a => q s a * ev s a x - p s a * ev s a x))
  => [|a]; last ring.
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
    apply: Rmult_le_compat_l => //=; have := pow_le g T (proj1 g01) => h;
      have := Rmult_le_compat_r _ _ _ h (Rlt_le _ _ (proj2 g01)); lra.
  lra.
have -> : at_rho rho x = at_rho rho v' - at_rho rho v by rewrite /at_rho -sumB; apply: sumE => s; rewrite /x; ring.
have -> : under m f = - (c * range * under m (fun s => kl (p s) (q s))) - under m (gaind P g r p v q).
  by rewrite /under -sumZ -sumN -sumB; apply: sumE => s; rewrite /f; ring.
lra.
Qed.
End OneSide.

Variables (r : S -> A -> R) (v v' : S -> R) (lo hi : R).
Hypotheses (hr : forall s a, lo <= r s a <= hi) (bp : bellman P g r p v) (bq : bellman P g r q v').
(* c(g) <= c wherever (c, alpha) is valid: |J(pi') - J(pi) - L| <= c rho K with rho = span(r)/(1 - g), K = delta/(1 - g). *)
Theorem S13_valid : Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q))
  <= c * ((hi - lo) / (1 - g)) * under m (fun s => kl (p s) (q s)).
Proof.
set K := under m (fun s => kl (p s) (q s)); set G := _ - _ - _; set X := c * K / (1 - g).
have lh : lo <= hi.
  apply: Rnot_lt_le => lt; have no (s : S) : False.
    by have := proj2 (hp s); rewrite sum0 => [|a]; [lra | have := hr s a; lra].
  by have := proj2 rho_dist; rewrite sum0 => [|s]; [lra | case: (no s)].
(* the reward may have range zero: any larger range will do *)
have up h : hi < h -> Rabs G <= (hi - lo) * X + (h - hi) * X.
  move=> hh; have -> : (hi - lo) * X + (h - hi) * X = c * ((h - lo) / (1 - g)) * K by rewrite /X; field; lra.
  have hr' s a : lo <= r s a <= h by have := hr s a; lra.
  have hn s a : - h <= - r s a <= - lo by have := hr' s a; lra.
  apply: Rabs_le; split; last by apply: (valid_upper _ hr' bp bq); lra.
  have nl : - h < - lo by lra.
  have := valid_upper nl hn (bellman_neg bp) (bellman_neg bq).
  have -> : at_rho rho (fun x => - v' x) = - at_rho rho v' by rewrite /at_rho -sumN; apply: sumE => s; ring.
  have -> : at_rho rho (fun x => - v x) = - at_rho rho v by rewrite /at_rho -sumN; apply: sumE => s; ring.
  have -> : under m (gaind P g (fun s a => - r s a) p (fun x => - v x) q) = - under m (gaind P g r p v q).
    rewrite /under -sumN; apply: sumE => s; rewrite /gaind Ropp_mult_distr_r -sumN; congr (_ * _); apply: sumE => a.
    by rewrite Q_negr; ring.
  have -> : (- lo - - h) / (1 - g) = (h - lo) / (1 - g) by congr (_ / _); ring.
  by rewrite -/K /G; lra.
have -> : c * ((hi - lo) / (1 - g)) * K = (hi - lo) * X by rewrite /X; field; lra.
case: (Rle_lt_dec X 0) => X0; first by have := up (hi + 1) ltac:(lra); lra.
apply: Rnot_lt_le => lt; set z := Rabs G - (hi - lo) * X; have z0 : 0 < z by rewrite /z; lra.
have := up (hi + z / (2 * X)) ltac:(have := Rdiv_lt_0_compat z (2 * X) z0 ltac:(lra); lra).
have -> : (hi + z / (2 * X) - hi) * X = z / 2 by field; lra.
by rewrite /z; lra.
Qed.
End Above.

(* ------------------------------------------------------------ ratios at most M: the small steps of the page, without a limit *)
(* x - 1 - ln x >= (x - 1)^2 / (2 M) for 0 < x <= M, M >= 1 *)
Lemma ln_quad M x : 1 <= M -> 0 < x <= M -> (x - 1) ^ 2 / (2 * M) <= x - 1 - ln x.
Proof.
move=> M1 [x0 xM]; pose f y := y - 1 - ln y - (y - 1) ^ 2 / (2 * M); pose f' y := (y - 1) * (/ y - / M).
have d y : 0 < y -> is_derive f y (f' y).
  by move=> y0; rewrite /f /f'; auto_derive; [lra | field; lra].
have inv y : 0 < y <= M -> 0 <= / y - / M by move=> [a b]; have := Rinv_le_contravar _ _ a b; lra.
have f1 : f 1 = 0 by rewrite /f ln_1; field; lra.
suff : 0 <= f x by rewrite /f; lra.
rewrite -f1; case: (Rtotal_order x 1) => [lt|[->|gt]]; [|lra|].
  suff : - f x <= - f 1 by lra.
  apply: (@mono (fun y => - f y) (fun y => - f' y)) => // y hy.
    by apply: (@is_derive_opp R_AbsRing R_NormedModule f); apply: d; lra.
  by have := Rmult_le_pos (1 - y) (/ y - / M) ltac:(lra) (inv y ltac:(lra)); rewrite /f'; lra.
by apply: (@mono f f') => [||y hy|y hy]; [lra | lra | apply: d; lra | apply: Rmult_le_pos; [lra | apply: inv; lra]].
Qed.

Section Small.
Variables (A : finType) (g M : R) (p q : A -> R).
Hypotheses (g01 : 0 <= g < 1) (M1 : 1 <= M) (hp : dist p) (hq : dist q) (hk : keeps p q) (cap : forall a, q a <= M * p a).
Definition c_small := M * sqrt (g / (1 - g)).
Definition alpha_small := sqrt (g * (1 - g)).
Lemma kterm_quad a : 0 < p a -> (q a - p a) ^ 2 <= 2 * M * p a * kterm p q a.
Proof.
move=> pa; have qa := hk pa; have x0 := Rdiv_lt_0_compat _ _ qa pa.
have xM : q a / p a <= M.
  by apply: (Rmult_le_reg_r (p a)) => //; have -> : q a / p a * p a = q a; [field; lra | exact: cap].
have := ln_quad M1 (conj x0 xM); rewrite /kterm (ln_swap pa qa); set l := ln (q a / p a) => h.
have h2 := Rmult_le_compat_l (2 * M * p a * p a) _ _ ltac:(nra) h; move: h2.
have -> : 2 * M * p a * p a * ((q a / p a - 1) ^ 2 / (2 * M)) = (q a - p a) ^ 2 by field; lra.
by have -> : 2 * M * p a * p a * (q a / p a - 1 - l) = 2 * M * p a * (q a - p a + p a * - l) by field; lra.
Qed.
Lemma small_constants : 0 < g -> 0 < alpha_small /\ alpha_small * alpha_small = g * (1 - g)
  /\ c_small = M * (alpha_small / (1 - g)).
Proof.
move=> g0; have gg : 0 < g * (1 - g) by apply: Rmult_lt_0_compat; lra.
split; first exact: sqrt_lt_R0; split; first by apply: sqrt_sqrt; lra.
have i0 : 0 < / (1 - g) by apply: Rinv_0_lt_compat; lra.
rewrite /c_small /alpha_small; congr (_ * _).
have -> : g / (1 - g) = g * (1 - g) * (/ (1 - g) * / (1 - g)) by field; lra.
by rewrite sqrt_mult ?sqrt_square //; [lra | lra | apply: Rmult_le_pos; lra].
Qed.
(* completed squares: with w = q - p, D = p d, B = p b, z = 1 - 2y *)
Lemma squares al c1 w D B z : 0 < al -> al * al = g * (1 - g) -> c1 * al = g -> -1 <= z <= 1 ->
  0 <= c1 / 2 * w ^ 2 - g * w * D + g * al * D ^ 2 + al * B * w * z - 2 * al * g * B * D + al * B ^ 2 + g * B * w.
Proof.
move=> al0 aa ca hz; apply: (Rmult_le_reg_l (4 * al)); first lra.
have -> : 4 * al * (c1 / 2 * w ^ 2 - g * w * D + g * al * D ^ 2 + al * B * w * z - 2 * al * g * B * D + al * B ^ 2 + g * B * w)
  = 2 * (c1 * al) * w ^ 2 + 4 * (al * (- g * w * D + g * B * w)
    + al * al * (g * D ^ 2 + B * w * z - 2 * g * B * D + B ^ 2)) by field.
have -> : 2 * (c1 * al) * w ^ 2 + 4 * (al * (- g * w * D + g * B * w) + al * al * (g * D ^ 2 + B * w * z - 2 * g * B * D + B ^ 2))
  = g * (2 * al * D - w - 2 * al * B) ^ 2 + g * (w + 2 * (1 - g) * z * B) ^ 2
    + 4 * (al * al) * ((1 - g) * ((1 - z) * (1 + z))) * B ^ 2.
  have -> : (2 * al * D - w - 2 * al * B) ^ 2 = 4 * (al * al) * (D - B) ^ 2 - 4 * al * w * (D - B) + w ^ 2 by ring.
  by rewrite ca !aa; ring.
have s1 := pow2_ge_0 (2 * al * D - w - 2 * al * B); have s2 := pow2_ge_0 (w + 2 * (1 - g) * z * B); have s3 := pow2_ge_0 B.
have z2 : 0 <= (1 - g) * ((1 - z) * (1 + z)) by apply: Rmult_le_pos; [lra | apply: Rmult_le_pos; lra].
have a2 : 0 <= al * al by nra.
have := Rmult_le_pos _ _ (proj1 g01) s1; have := Rmult_le_pos _ _ (proj1 g01) s2.
by have := Rmult_le_pos _ _ (Rmult_le_pos _ _ a2 z2) s3; lra.
Qed.
Lemma small_valid : valid g c_small alpha_small p q.
Proof.
move=> d y hd hy; case: (Rle_lt_or_eq_dec _ _ (proj1 g01)) => [g0|gz]; last first.
  by rewrite /c_small /alpha_small -gz /Rdiv !Rmult_0_l sqrt_0; lra.
have [al0 [aa ->]] := small_constants g0; set al := alpha_small in al0 aa *; set c1 := al / (1 - g).
have ca : c1 * al = g by rewrite /c1; have -> : al / (1 - g) * al = al * al / (1 - g) by [field; lra]; rewrite aa; field; lra.
set b := _ + g * _.
pose t a := M * c1 * kterm p q a - g * ((q a - p a) * d a) + g * al * (p a * d a ^ 2)
  - 2 * al * b * ((q a - p a) * y a) - 2 * al * b * g * (p a * d a) + (al * b + g * b) * (q a - p a) + al * b ^ 2 * p a.
have t0 a : 0 <= t a.
  rewrite /t; case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => [pa|pz]; last first.
    have q0 : q a = 0 by have := cap a; have := proj1 hq a; rewrite -pz; lra.
    by rewrite /kterm q0 -pz; lra.
  have c0 : 0 < c1 by apply: Rdiv_lt_0_compat; lra.
  have hz : -1 <= 1 - 2 * y a <= 1 by have := hy a; lra.
  have := squares (q a - p a) (p a * d a) (p a * b) al0 aa ca hz.
  have := Rmult_le_compat_l (c1 / 2) _ _ ltac:(lra) (kterm_quad pa) => k1 k2.
  by apply: (Rmult_le_reg_l (p a)) => //; nra.
have := sum_ge0 t0; rewrite /t sumD sumD sumB sumB sumD sumB !sumZ kterm_sum //.
rewrite [\sum_(a : A) (q a - p a)]sumB (proj2 hp) (proj2 hq) => h.
have bE : b = \sum_(a : A) ((q a - p a) * y a) + g * (\sum_(a : A) (p a * d a)) by [].
set Y := \sum_(a : A) ((q a - p a) * y a) in bE h; set E := \sum_(a : A) (p a * d a) in bE h.
have : 2 * al * b * Y + 2 * al * b * g * E = 2 * al * b * b by rewrite {4}bE; ring.
lra.
Qed.
End Small.

(* Small steps inside the support never exceed sqrt(g/(1-g)): with all ratios new/current at most M, at every step size,
   |J(pi') - J(pi) - L| <= M sqrt(g/(1-g)) rho K. *)
Theorem S13_small (S A : finType) (P : S -> A -> S -> R) g rho (r : S -> A -> R) (p q : S -> A -> R) v v' m lo hi M :
  0 <= g < 1 -> (forall s a, dist (P s a)) -> dist rho -> policy p -> policy q -> flow P g rho p m ->
  (forall s a, lo <= r s a <= hi) -> bellman P g r p v -> bellman P g r q v' ->
  1 <= M -> (forall s, keeps (p s) (q s)) -> (forall s a, q s a <= M * p s a) ->
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q))
    <= M * sqrt (g / (1 - g)) * ((hi - lo) / (1 - g)) * under m (fun s => kl (p s) (q s)).
Proof.
move=> g01 Pd rd hp hq fl hr bp bq M1 hk cap; apply: (S13_valid g01 Pd rd hp hq fl (alpha := alpha_small g)) => //.
  exact: sqrt_pos.
by move=> s; apply: small_valid.
Qed.

(* ------------------------------------------------------------------ from below: a paid door *)
(* true: the hall, false: behind the door. The current policy plays true: it stays and earns 1, behind the door it would earn 0.
   The new one opens the door with probability x at each step, which earns nothing, and earns 1 behind it. *)
Section Door.
Variables (g x : R).
Hypotheses (g01 : 0 <= g < 1) (x01 : 0 < x < 1).
Definition door_P (s a t : bool) : R := if t == s && a then 1 else 0.
Definition door_r (s a : bool) : R := if s == a then 1 else 0.
Definition stays (s a : bool) : R := if a then 1 else 0.
Definition opens (s a : bool) : R := if s then (if a then 1 - x else x) else (if a then 0 else 1).
Definition door_rho (s : bool) : R := if s then 1 else 0.
Definition door_m (s : bool) : R := if s then / (1 - g) else 0.
Definition door_v (s : bool) : R := if s then / (1 - g) else 0.
Definition door_v' (s : bool) : R := if s then (1 - x + x * g / (1 - g)) / (1 - g + g * x) else / (1 - g).
Definition door_ratio := x * (1 - (1 - g) ^ 2 / (1 - g + g * x)) / (- ln (1 - x)).
Lemma bsum (F : bool -> R) : \sum_(a : bool) F a = F true + F false. Proof. by rewrite big_bool. Qed.
Lemma ln0 : 0 < - ln (1 - x).
Proof. by have := ln_increasing (1 - x) 1 ltac:(lra) ltac:(lra); rewrite ln_1; lra. Qed.

(* The paid door: the gap is door_ratio times rho K, rho = 1/(1-g). *)
Theorem S13_door :
  [/\ forall s a, dist (door_P s a), dist door_rho, policy stays, policy opens & forall s a, 0 <= door_r s a <= 1] /\
  [/\ bellman door_P g door_r stays door_v, bellman door_P g door_r opens door_v', flow door_P g door_rho stays door_m,
      forall s, 0 < door_m s -> keeps (stays s) (opens s)
    & at_rho door_rho door_v' - at_rho door_rho door_v - under door_m (gaind door_P g door_r stays door_v opens)
      = door_ratio * (1 / (1 - g)) * under door_m (fun s => kl (stays s) (opens s))
      /\ 0 < under door_m (fun s => kl (stays s) (opens s))].
Proof.
have i0 : 0 < / (1 - g) by apply: Rinv_0_lt_compat; lra.
have d0 : 0 < 1 - g + g * x by have := Rmult_le_pos g x; lra.
have K : under door_m (fun s => kl (stays s) (opens s)) = / (1 - g) * - ln (1 - x).
  rewrite /under /kl !bsum /door_m /stays /opens /= -(ln_Rinv (1 - x)); last lra.
  by rewrite (_ : 1 / (1 - x) = / (1 - x)); [ring | rewrite /Rdiv; ring].
have ln0 := ln0; split; split.
- move=> s a; split=> [t|]; first by rewrite /door_P; case: ifP; lra.
  by rewrite bsum /door_P; case: s; case: a => /=; lra.
- by split=> [s|]; [rewrite /door_rho; case: s; lra | rewrite bsum /door_rho; lra].
- by move=> s; split=> [a|]; [rewrite /stays; case: a; lra | rewrite bsum /stays; lra].
- by move=> s; split=> [a|]; [rewrite /opens; case: s; case: a; lra | rewrite bsum /opens; case: s; lra].
- by move=> s a; rewrite /door_r; case: ifP; lra.
- by move=> s; rewrite bsum /Qd /ev !bsum /door_P /door_r /stays /door_v; case: s => /=; field; lra.
- by move=> s; rewrite bsum /Qd /ev !bsum /door_P /door_r /opens /door_v'; case: s => /=; field; lra.
- split=> [s|s]; first by rewrite /door_m; case: s; lra.
  by rewrite bsum !bsum /door_P /door_rho /stays /door_m; case: s => /=; field; lra.
- by move=> [|] h [|]; rewrite /stays /opens /=; move: h; rewrite /door_m; lra.
rewrite K; split; last exact: Rmult_lt_0_compat.
rewrite /at_rho /under /gaind /Qd /ev !bsum /door_rho /door_m /door_r /door_P /opens /door_v /door_v' /door_ratio /=.
by field; lra.
Qed.
End Door.

(* above g at every g: S7 with g in the place of 1 is false *)
Theorem S13_above g : 0 < g < 1 -> exists x, 0 < x < 1 /\ g < door_ratio g x.
Proof.
move=> g01; pose h := (1 - g) / 8; pose y := 1 - h; pose x := 1 - y * y; exists x.
have h0 : 0 < h < / 8 by rewrite /h; lra.
have x01 : 0 < x < 1 by rewrite /x /y; nra.
split=> //.
have d0 : 0 < 1 - g + g * x by have := Rmult_le_pos g x; lra.
have l0 := ln0 x01; set l := - ln (1 - x) in l0.
have lE : l <= 2 * (/ y - 1).
  rewrite /l (_ : 1 - x = y * y); last by rewrite /x; ring.
  have y0 : 0 < y by rewrite /y; lra.
  rewrite ln_mult // -(Rinv_inv y) ln_Rinv; last exact: Rinv_0_lt_compat.
  by rewrite Rinv_inv; have := ln_le (Rinv_0_lt_compat _ y0); lra.
rewrite /door_ratio -/l; apply: (Rmult_lt_reg_r (l * (1 - g + g * x))); first exact: Rmult_lt_0_compat.
have -> : x * (1 - (1 - g) ^ 2 / (1 - g + g * x)) / l * (l * (1 - g + g * x)) = g * (x * (1 - g + x)) by field; lra.
have y0 : 0 < y by rewrite /y; lra.
suff : l * (1 - g + g * x) < x * (1 - g + x) by move=> s; have := Rmult_lt_compat_l g _ _ ltac:(lra) s; lra.
apply: Rle_lt_trans (Rmult_le_compat_r _ _ _ (Rlt_le _ _ d0) lE) _.
apply: (Rmult_lt_reg_l y) => //; have -> : y * (2 * (/ y - 1) * (1 - g + g * x)) = 2 * (1 - y) * (1 - g + g * x) by field; lra.
have -> : x = h * (2 - h) by rewrite /x /y; ring.
have -> : g = 1 - 8 * h by rewrite /h; field.
rewrite /y; have : 0 < h ^ 2 * (2 * h - 3 * h ^ 2 - h ^ 3) by apply: Rmult_lt_0_compat; nra.
lra.
Qed.
