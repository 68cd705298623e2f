(* Pinsker's inequality for rows of a finite table. The only place with derivatives (Coquelicot). *)
Require Import Reals Lra Psatz.
From Coquelicot Require Import Coquelicot.
From mathcomp Require Import all_ssreflect.
From TeamTR Require Import Sums Episodic.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Lemma mono (f f' : R -> R) x y : 0 < x -> x < y ->
  (forall c, x <= c <= y -> is_derive f c (f' c)) -> (forall c, x < c < y -> 0 <= f' c) -> f x <= f y.
Proof.
move=> x0 xy d s; have d' c : x <= c <= y -> derivable_pt_lim f c (f' c) by move=> h; apply/is_derive_Reals/d.
have [c [E hc]] := MVT_cor2 f f' x y xy d'.
by have := Rmult_le_pos _ _ (s c hc) (Rlt_le _ _ (Rlt_Rminus _ _ xy)); lra.
Qed.

Definition k x := ln x - 2 * (x - 1) / (x + 1).
Lemma k_mono x y : 0 < x -> x < y -> k x <= k y.
Proof.
move=> x0 xy; apply: (@mono k (fun c => (c - 1) ^ 2 / (c * (c + 1) ^ 2))) => // c hc.
  by rewrite /k; auto_derive; [split; lra | field; lra].
apply: Rmult_le_pos; first exact: pow2_ge_0.
by apply/Rlt_le/Rinv_0_lt_compat/Rmult_lt_0_compat; [lra | apply: pow_lt; lra].
Qed.
Lemma k1 : k 1 = 0. Proof. by rewrite /k ln_1; field. Qed.

Definition h x := (4 + 2 * x) * (x * ln x - x + 1) - 3 * (x - 1) ^ 2.
Lemma h_derive c : 0 < c -> is_derive h c (4 * (c + 1) * k c).
Proof. by move=> c0; rewrite /h /k; auto_derive; [lra | field; lra]. Qed.
Lemma h1 : h 1 = 0. Proof. by rewrite /h ln_1; ring. Qed.
Lemma h_ge0 x : 0 < x -> 0 <= h x.
Proof.
move=> x0; case: (Rtotal_order x 1) => [lt|[->|gt]]; last 1 first.
- rewrite -h1; apply: (@mono h (fun c => 4 * (c + 1) * k c)) => [||c hc|c hc]; try lra; first by apply: h_derive; lra.
  apply: Rmult_le_pos; first lra.
  by rewrite -k1; apply: k_mono; lra.
- suff : - h x <= - h 1 by rewrite h1; lra.
  apply: (@mono (fun y => - h y) (fun c => - (4 * (c + 1) * k c))) => // c hc.
    by apply: (@is_derive_opp R_AbsRing R_NormedModule h); apply: h_derive; lra.
  have : k c <= 0 by rewrite -k1; apply: k_mono; lra.
  by move=> kc; have : 0 <= (4 * (c + 1)) * - k c by [apply: Rmult_le_pos; lra]; lra.
by rewrite h1; lra.
Qed.

Section Pinsker.
Variable A : finType.
Implicit Types p q : A -> R.
Lemma cauchy (c y : A -> R) : (forall a, 0 <= c a) ->
  (\sum_(a : A) (c a * y a)) ^ 2 <= (\sum_(a : A) c a) * (\sum_(a : A) (c a * y a ^ 2)).
Proof.
move=> c0; set C := \sum_(a : A) c a; set Y := \sum_(a : A) (c a * y a); set Z := \sum_(a : A) (c a * y a ^ 2).
have C0 : 0 <= C by exact: sum_ge0.
have q t : 0 <= Z - 2 * t * Y + t ^ 2 * C.
  have -> : Z - 2 * t * Y + t ^ 2 * C = \sum_(a : A) (c a * (y a - t) ^ 2).
    rewrite (sumE (F := fun a => c a * (y a - t) ^ 2) (G := fun a => (c a * y a ^ 2 - (2 * t) * (c a * y a)) + t ^ 2 * c a)) =>
      [|a]; last ring.
    by rewrite sumD sumB !sumZ.
  by apply: sum_ge0 => a; apply: Rmult_le_pos (c0 a) (pow2_ge_0 _).
case: (Rle_lt_or_eq_dec _ _ C0) => [Cp|C1].
  have := Rmult_le_compat_l _ _ _ C0 (q (Y / C)); have -> : C * (Z - 2 * (Y / C) * Y + (Y / C) ^ 2 * C) = C * Z - Y ^ 2
    by field; lra.
  by lra.
suff -> : Y = 0 by rewrite -C1; lra.
rewrite /Y sum0 // => a; suff -> : c a = 0 by lra.
have := term_le_sum a c0; rewrite -/C.
by have := c0 a; lra.
Qed.

Definition tv p q := / 2 * \sum_(a : A) Rabs (q a - p a).
Lemma tv_ge0 p q : 0 <= tv p q.
Proof. by rewrite /tv; have := sum_ge0 (fun a => Rabs_pos (q a - p a)); lra. Qed.

Lemma tv_triangle p1 p2 p3 : tv p1 p3 <= tv p1 p2 + tv p2 p3.
Proof.
suff : \sum_(a : A) Rabs (p3 a - p1 a) <= \sum_(a : A) Rabs (p2 a - p1 a) + \sum_(a : A) Rabs (p3 a - p2 a) by rewrite /tv; lra.
rewrite -sumD; apply: sum_le => a; have := Rabs_triang (p2 a - p1 a) (p3 a - p2 a).
by have -> : p2 a - p1 a + (p3 a - p2 a) = p3 a - p1 a by lra.
Qed.

Theorem pinsker p q : dist p -> dist q -> keeps p q -> tv p q ^ 2 <= kl p q / 2.
Proof.
move=> hp hq hk.
(* |q-p|^2 <= (2p + 4q)/3 * kterm, action by action *)
have one a : (q a - p a) ^ 2 <= (2 * p a + 4 * q a) / 3 * kterm p q a.
  have [p0 _] := hp; have [q0 _] := hq.
  case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|pz]; last by rewrite /kterm -pz Rmult_0_l; have := q0 a; nra.
  have qa := hk a pa; have x0 := Rdiv_lt_0_compat _ _ pa qa; have := h_ge0 x0.
  rewrite /h /kterm; set l := ln (p a / q a) => hx.
  have : 0 <= q a ^ 2 * ((4 + 2 * (p a / q a)) * (p a / q a * l - p a / q a + 1) - 3 * (p a / q a - 1) ^ 2).
    by apply: Rmult_le_pos => //; apply: pow2_ge_0.
  have -> : q a ^ 2 * ((4 + 2 * (p a / q a)) * (p a / q a * l - p a / q a + 1) - 3 * (p a / q a - 1) ^ 2)
    = (4 * q a + 2 * p a) * (p a * l - p a + q a) - 3 * (q a - p a) ^ 2 by field; lra.
  lra.
set c := fun a => (2 * p a + 4 * q a) / 3.
have c0 a : 0 <= c a by have := proj1 hp a; have := proj1 hq a; rewrite /c; lra.
have c1 : \sum_(a : A) c a = 2.
  rewrite /c (sumE (G := fun a => 2 / 3 * p a + 4 / 3 * q a)) => [|a]; last lra.
  by rewrite sumD !sumZ (proj2 hp) (proj2 hq); lra.
pose y a := Rabs (q a - p a) / c a.
have cy a : c a * y a = Rabs (q a - p a).
  rewrite /y; case: (Rle_lt_or_eq_dec _ _ (c0 a)) => [ca|ca]; first by field; lra.
  have [] : p a = 0 /\ q a = 0 by have := proj1 hp a; have := proj1 hq a; move: ca; rewrite /c; lra.
  by move=> -> ->; rewrite -ca Rminus_0_r Rabs_R0; lra.
have cy2 a : c a * y a ^ 2 <= kterm p q a.
  case: (Rle_lt_or_eq_dec _ _ (c0 a)) => [ca|<-]; last by have := kterm_ge0 a hp hq hk; lra.
  have E : c a * (c a * y a ^ 2) = (q a - p a) ^ 2.
    have -> : c a * (c a * y a ^ 2) = (c a * y a) ^ 2 by ring.
    by rewrite cy pow2_abs.
  by have := one a; rewrite -/(c a) -E => /(Rmult_le_reg_l _ _ _ ca).
have := cauchy y c0; rewrite c1 (sumE cy) => H.
have := sum_le cy2; rewrite kterm_sum // => G.
by rewrite /tv; nra.
Qed.
End Pinsker.
