(* S0, the bound that no rung may exceed, and S6, the least of several bounds.
   S0: occupancies of one world agree on the first step, so that only what comes after it can differ.
   S6: a minimum of valid penalties is valid; if they are estimated, a union bound. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz Classical_Prop.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper Occupancy.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ---- S0, discounted: |gap| <= g/(1-g) span(g), for the fresh (p0 = p) and the stale (p0 = the first team) gap; no KL *)
Section Trivial.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (r : S -> A -> R) (p q p0 : S -> A -> R) (v v' m0 m' : S -> R) (lo hi : R).
Hypotheses (hq : policy q) (hp0 : policy p0) (bp : bellman P g r p v) (bq : bellman P g r q v').
Hypotheses (f0 : flow P g rho p0 m0) (fq : flow P g rho q m') (h : forall s, lo <= gaind P g r p v q s <= hi).
Theorem S0 : Rabs (at_rho rho v' - at_rho rho v - under m0 (gaind P g r p v q)) <= g / (1 - g) * (hi - lo).
Proof.
apply: Rle_trans (gap_tv g01 P_dist rho_dist hq hp0 bp bq fq f0 h) _.
have i0 : 0 <= (hi - lo) / (1 - g).
  by apply: Rmult_le_pos (span_ge0 rho_dist h) _; apply/Rlt_le/Rinv_0_lt_compat; lra.
have := Rmult_le_compat_l _ _ _ i0 (tv_le_g g01 P_dist rho_dist hp0 hq f0 fq).
by rewrite (_ : (hi - lo) / (1 - g) * g = g / (1 - g) * (hi - lo)); [| field; lra].
Qed.
(* in the words of the ladder: sum m times span(g) *)
Corollary S0_mass : Rabs (at_rho rho v' - at_rho rho v - under m0 (gaind P g r p v q)) <= (\sum_(s : S) m0 s) * (hi - lo).
Proof.
apply: Rle_trans S0 _; rewrite (mass g01 P_dist rho_dist hp0 f0); apply: Rmult_le_compat_r; first exact: (span_ge0 rho_dist h).
by rewrite -[X in _ <= X]Rmult_1_l; apply: Rmult_le_compat_r; [apply/Rlt_le/Rinv_0_lt_compat; lra | lra].
Qed.
End Trivial.

(* ---- S0, episodic *)
Section Episodic.
Variables (S A : finType) (P : S -> A -> S -> R) (rho : S -> R).
Hypotheses (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (r : S -> A -> S -> R) (p q p0 : S -> A -> R) (T : nat) (lo hi : R).
Hypotheses (hp : policy p) (hq : policy q) (hp0 : policy p0).
Notation gap := (Jep P rho r T.+1 q - Jep P rho r T.+1 p - Lep P rho r p q p0 T.+1).
Notation layer := (layer P rho).
Notation g_at := (g_at P r p q T.+1).

(* T+1 steps: T span(g) *)
Theorem S0_episodic : (forall t s, (t < T.+1)%nat -> lo <= g_at t s <= hi) -> Rabs gap <= INR T * (hi - lo).
Proof.
move=> h; pose x t := if t is 0%nat then 0 else 1.
apply: Rle_trans (layered (x := x) P_dist rho_dist hq hp0 h _) _ => [[|t] _|].
- by rewrite /tv sum0 => [|s]; rewrite /x /= ?Rminus_eq_0 ?Rabs_R0; lra.
- by apply: tv_le1; exact: layer_dist.
rewrite big_ord_recl /= Rmult_0_l Rplus_0_l;
  apply: Rle_trans (sum_le_const (f := fun _ => 1 * (hi - lo)) (c := hi - lo) _) _ => *; lra.
Qed.

(* Episodes that may end: live s, or the end, which is never left and earns nothing. The end is one more state with g = 0; what is
   counted are the live visits, at most M for both teams (the first step is live). *)
Variables (live : pred S) (M : R).
Hypotheses (end_stays : forall s a s', ~~ live s -> live s' -> P s a s' = 0) 
  (end_free : forall s a s', ~~ live s -> r s a s' = 0).
Definition visits pi := \big[Rplus/0]_(t < T.+1) under (layer pi t) (fun s => ind (live s)).
Hypothesis live_rho : forall s, ~~ live s -> rho s = 0.
Lemma dead_V pi t s : ~~ live s -> V P (fun _ _ b => b) r pi t s = 0.
Proof.
elim: t s => [//|t ih] s d /=; apply: sum0 => a; rewrite sum0 => [|b]; first lra.
by case b' : (live b); [rewrite (end_stays a d b') | rewrite end_free // ih ?b' //]; lra.
Qed.
Lemma dead_g t s : ~~ live s -> g_at t s = 0.
Proof.
move=> d; apply: sum0 => a; rewrite /Adv dead_V // /Q sum0 => [|b]; first lra.
by case b' : (live b); [rewrite (end_stays a d b') | rewrite end_free // dead_V ?b' //]; lra.
Qed.
Lemma visits_first pi : visits pi = 1 + \big[Rplus/0]_(t < T) under (layer pi t.+1) (fun s => ind (live s)).
Proof.
rewrite /visits big_ord_recl; congr (_ + _); rewrite -(proj2 rho_dist); apply: sumE => s.
by rewrite /ind; case: ifP => [_|/negbT /live_rho z]; [rewrite /=; lra | rewrite /= z; lra].
Qed.
Theorem S0_early : visits p0 <= M -> visits q <= M -> (forall t s, (t < T.+1)%nat -> live s -> lo <= g_at t s <= hi) ->
  Rabs gap <= (M - 1) * (Rmax 0 hi - Rmin 0 lo).
Proof.
rewrite !visits_first => m0 mq h; set G := Rmax 0 hi; set F := Rmin 0 lo.
have G0 : 0 <= G by exact: Rmax_l. have F0 : F <= 0 by exact: Rmin_l.
have b t s : (t < T.+1)%nat -> F * ind (live s) <= g_at t s <= G * ind (live s).
  move=> lt; case l : (live s); rewrite /ind; last by rewrite dead_g ?l //; lra.
  by have := h t s lt l; have := Rmax_r 0 hi; have := Rmin_r 0 lo; rewrite -/G -/F; lra.
pose a pi t := under (layer pi t) (fun s => ind (live s)).
have a0 pi t : policy pi -> 0 <= a pi t.
  by move=> hpi; apply: sum_ge0 => s; apply: Rmult_le_pos (proj1 (layer_dist P_dist rho_dist t hpi) s) _;
    have := ind01 (live s); lra.
have c pi t : policy pi -> (t < T.+1)%nat -> F * a pi t <= under (layer pi t) (g_at t) <= G * a pi t.
  move=> hpi lt; have l0 := proj1 (layer_dist P_dist rho_dist t hpi); rewrite /a /under -!sumZ.
  by split; apply: sum_le => s; have [x y] := b t s lt; have := Rmult_le_compat_l _ _ _ (l0 s) x;
    have := Rmult_le_compat_l _ _ _ (l0 s) y; lra.
rewrite gap_sum // big_ord_recl Rminus_eq_0 Rplus_0_l.
have up : \big[Rplus/0]_(t < T) (under (layer q t.+1) (g_at t.+1) - under (layer p0 t.+1) (g_at t.+1))
   <= G * (\big[Rplus/0]_(t < T) a q t.+1) - F * (\big[Rplus/0]_(t < T) a p0 t.+1).
  rewrite -!sumZ -sumB; apply: sum_le => t; have := c q t.+1 hq (ltn_ord (lift ord0 t));
    have := c p0 t.+1 hp0 (ltn_ord (lift ord0 t)); lra.
have dn : F * (\big[Rplus/0]_(t < T) a q t.+1) - G * (\big[Rplus/0]_(t < T) a p0 t.+1)
   <= \big[Rplus/0]_(t < T) (under (layer q t.+1) (g_at t.+1) - under (layer p0 t.+1) (g_at t.+1)).
  rewrite -!sumZ -sumB; apply: sum_le => t; have := c q t.+1 hq (ltn_ord (lift ord0 t));
    have := c p0 t.+1 hp0 (ltn_ord (lift ord0 t)); lra.
set X := \big[Rplus/0]_(t < T) a q t.+1 in up dn; set Y := \big[Rplus/0]_(t < T) a p0 t.+1 in up dn.
have x : X <= M - 1 by rewrite /X /a; lra. have y : Y <= M - 1 by rewrite /Y /a; lra.
have := Rmult_le_compat_l _ _ _ G0 x; have := Rmult_le_compat_l _ _ _ G0 y.
have f0 : 0 <= - F by lra.
have := Rmult_le_compat_l _ _ _ f0 x; have := Rmult_le_compat_l _ _ _ f0 y => *.
apply: Rabs_le; split; [apply: Rle_trans _ dn | apply: Rle_trans up _]; lra.
Qed.
End Episodic.

(* ---- S6 *)
Section Least.
Variables (p : nat -> R) (n : nat).
(* the least of p 0 .. p n *)
Fixpoint least (p : nat -> R) n := if n is k.+1 then Rmin (least p k) (p n) else p O.
Lemma least_le k : (k <= n)%nat -> least p n <= p k.
Proof.
elim: n => [|l ih]; first by rewrite leqn0 => /eqP ->; exact: Rle_refl.
rewrite leq_eqVlt => /orP [/eqP ->|/ih le]; first exact: Rmin_r.
exact: Rle_trans (Rmin_l _ _) le.
Qed.
Lemma le_least x : (forall k, (k <= n)%nat -> x <= p k) -> x <= least p n.
Proof.
elim: n => [|l ih] h; first exact: h.
by apply: Rmin_glb; [apply: ih => k kl; apply/h/leqW | exact: h].
Qed.
(* the least of valid penalties is a valid penalty, and L minus it a lower bound on the improvement *)
Theorem S6 dJ L : (forall k, (k <= n)%nat -> Rabs (dJ - L) <= p k) -> Rabs (dJ - L) <= least p n /\ L - least p n <= dJ.
Proof. by move=> h; have := le_least h => l; split=> //; have := Rabs_def2_le l; lra. Qed.
End Least.

(* If penalties and surrogate are estimated, on any space: Pr is all that is used of a probability, it is monotone and
   subadditive. *)
Section Union.
Variables (Om : Type) (Pr : (Om -> Prop) -> R).
Hypotheses (mono : forall E F : Om -> Prop, (forall o, E o -> F o) -> Pr E <= Pr F)
  (subadd : forall E F : Om -> Prop, Pr (fun o => E o \/ F o) <= Pr E + Pr F).
Variables (dJ L : R) (p : nat -> R) (n : nat) (Lhat : Om -> R) (phat : nat -> Om -> R) (alpha0 : R) (alpha : nat -> R).
Hypotheses (valid : forall k, (k <= n)%nat -> Rabs (dJ - L) <= p k) (h0 : Pr (fun o => L < Lhat o) <= alpha0)
  (h : forall k, (k <= n)%nat -> Pr (fun o => phat k o < p k) <= alpha k).
Lemma union_bound (E : nat -> Om -> Prop) l : Pr (fun o => exists k, (k <= l)%nat /\ E k o) <= \big[Rplus/0]_(k < l.+1) Pr (E k).
Proof.
elim: l => [|l ih].
  rewrite big_ord_recr big_ord0 [X in _ <= X]Rplus_0_l; apply: mono => o [k []]; by rewrite leqn0 => /eqP ->.
rewrite big_ord_recr; apply: Rle_trans (_ : Pr (fun o => (exists k, (k <= l)%nat /\ E k o) \/ E l.+1 o) <= _).
  by apply: mono => o [k []]; rewrite leq_eqVlt => /orP [/eqP ->|kl e]; [right | left; exists k].
exact: Rle_trans (subadd _ _) (Rplus_le_compat_r _ _ _ ih).
Qed.
Theorem S6_union : Pr (fun o => dJ < Lhat o - least (fun k => phat k o) n) <= alpha0 + \big[Rplus/0]_(k < n.+1) alpha k.
Proof.
apply: Rle_trans (_ : Pr (fun o => L < Lhat o \/ exists k, (k <= n)%nat /\ phat k o < p k) <= _).
  apply: mono => o bad; case: (Rlt_le_dec L (Lhat o)) => [?|le]; [by left | right].
  (* otherwise every estimate is at least its penalty, hence at least |dJ - L| *)
  apply: NNPP => no; have ge k : (k <= n)%nat -> Rabs (dJ - L) <= phat k o.
    move=> kn; apply: Rle_trans (valid kn) _; apply: Rnot_lt_le => lt; apply: no; by exists k.
  by have := Rabs_def2_le (le_least (p := fun k => phat k o) ge); lra.
apply: Rle_trans (subadd _ _) _; apply: Rplus_le_compat h0 _; apply: Rle_trans (union_bound _ _) _.
by apply: (big_ind2 Rle) => [|? ? ? ?|k _]; [lra | lra | apply: h; rewrite -ltnS].
Qed.
End Union.

(* The union bound cannot be left out: two penalties of the same value, estimated independently, each too low with probability
   alpha. A point (b, c) says which of the two are too low; the least is too low with probability 2 alpha - alpha^2. *)
Section Two.
Variables (alpha p : R).
Hypotheses (a01 : 0 < alpha < 1) (p0 : 0 < p).
Let weight (b : bool) := if b then alpha else 1 - alpha.
Definition Pr2 (E : pred (bool * bool)) := \sum_(b : bool) \sum_(c : bool) (weight b * weight c * ind (E (b, c))).
Definition phat2 k (o : bool * bool) := if (if k is 0%nat then o.1 else o.2) then p / 2 else p.
Theorem S6_union_needed : Pr2 (fun o => o.1) = alpha /\ Pr2 (fun o => o.2) = alpha /\
  (forall o, least (fun k => phat2 k o) 1 < p <-> o.1 || o.2) /\ Pr2 (fun o => o.1 || o.2) = 2 * alpha - alpha ^ 2 /\
  alpha < 2 * alpha - alpha ^ 2.
Proof.
rewrite /Pr2 !big_bool /weight /ind /=; split; first lra. split; first lra. split; last by split; nra.
by case=> [[] []]; rewrite /phat2 /= /Rmin; case: Rle_dec => h; split=> // *; lra.
Qed.
End Two.

(* two orders of the ladder, discounted: S2 <= P3.4 and S1 <= P3.4, whatever the team (d: delta, A: A_max, w: the share) *)
Lemma S6_S2_P3_4 g d A sp : 0 <= g < 1 -> 0 <= d -> 0 <= sp <= 2 * A ->
  g / (1 - g) * sqrt (d / (2 * (1 - g))) * sp <= sqrt 2 * g * A / (1 - g) ^ 2 * sqrt d.
Proof.
move=> g01 d0 s2; have i0 : 0 < / (1 - g) by apply: Rinv_0_lt_compat; lra.
have i1 : 1 <= / (1 - g) by rewrite -{1}Rinv_1; apply: Rinv_le_contravar; lra.
have x0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; lra.
have root : sqrt (d / (2 * (1 - g))) <= sqrt (d / 2) * / (1 - g).
  have -> : d / (2 * (1 - g)) = d / 2 * / (1 - g) by field; lra.
  rewrite sqrt_mult_alt; last lra; apply: Rmult_le_compat_l (sqrt_pos _) _.
  rewrite -{2}(sqrt_pow2 (/ (1 - g))); last lra; apply: sqrt_le_1_alt; nra.
have -> : sqrt 2 * g * A / (1 - g) ^ 2 * sqrt d = g / (1 - g) * (sqrt 2 * sqrt d * / (1 - g)) * A by field; lra.
rewrite -sqrt_half //; have r0 := sqrt_pos (d / (2 * (1 - g))).
apply: Rle_trans (_ : g / (1 - g) * sqrt (d / (2 * (1 - g))) * (2 * A) <= _).
  by apply: Rmult_le_compat_l; [apply: Rmult_le_pos | lra].
have -> : g / (1 - g) * (2 * sqrt (d / 2) * / (1 - g)) * A = g / (1 - g) * (sqrt (d / 2) * / (1 - g)) * (2 * A) by ring.
by apply: Rmult_le_compat_r; [lra | apply: Rmult_le_compat_l].
Qed.
Lemma S6_S1_P3_4 c w d : 0 <= c -> 0 <= d -> w <= 1 -> c * sqrt (w * d) <= c * sqrt d.
Proof. by move=> c0 d0 w1; apply: Rmult_le_compat_l c0 _; apply: sqrt_le_1_alt; have := Rmult_le_compat_r _ _ _ d0 w1; lra. Qed.
