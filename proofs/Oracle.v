(* Second order with tables: S4 and S4R (total variations and spans), S7b (expected KL and the span of the advantage).
   S4: equal masses, twice. S4R: G = V' - V is the discounted sum of g along the future under the new team, and the gap is what the
   step pays of the G behind its actions; g is zero at the others' turns. S7b: at each state |m' - m| TV(p, q) is at most a term
   of KL(m || m') plus m KL(p || q), and KL(m || m') <= gamma/(1-gamma) K, because the flow equation is a fixed point of a map that
   KL goes through (LogSum.v); no path, no clock, no limit. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper LogSum Marginals.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* B is at least the span of f *)
Definition span_le (I : Type) (f : I -> R) B := forall x y, f x - f y <= B.

Section Discounted.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Implicit Types (p q : S -> A -> R) (m v : S -> R).
Notation flow := (flow P g rho).
Notation gain := (gaind P g r).
Notation adv v s := (fun a => Qd P g r v s a - v s).
Notation J := (at_rho rho).

Lemma gain_step p v q s : policy p -> policy q -> bellman P g r p v ->
  gain p v q s = \sum_(a : A) ((q s a - p s a) * (Qd P g r v s a - v s)).
Proof.
move=> hp hq bp; rewrite gaindE // {1}(bp s).
rewrite [RHS](sumE (G := fun a => (q s a * Qd P g r v s a - p s a * Qd P g r v s a) - (q s a * v s - p s a * v s))) => [|a]; last lra.
by rewrite !sumB !sumZr (proj2 (hp s)) (proj2 (hq s)); lra.
Qed.

(* |g_i(s)| <= TV_i(s) span_a A(s, .) *)
Theorem S4_state p v q s B : policy p -> policy q -> bellman P g r p v -> span_le (adv v s) B ->
  Rabs (gain p v q s) <= tv (p s) (q s) * B.
Proof.
move=> hp hq bp h; rewrite (gain_step _ hp) //; apply: equal_masses; first by rewrite (proj2 (hp s)) (proj2 (hq s)).
by move=> a c _ _; exact: h.
Qed.

(* |a difference of visits, applied to g| <= span(g) / 2 |m' - m|_1 *)
Lemma visits_span p q m m' (f : S -> R) B : policy p -> policy q -> flow p m -> flow q m' -> span_le f B ->
  Rabs (under m' f - under m f) <= / 2 * l1 m m' * B.
Proof.
move=> hp hq fp fq h.
have -> : under m' f - under m f = \sum_(s : S) ((m' s - m s) * f s) by rewrite /under -sumB; apply: sumE => s; lra.
rewrite -[/ 2 * _]/(tv m m'); apply: equal_masses => [|x y _ _]; last exact: h.
by rewrite (mass g01 P_dist rho_dist hp fp) (mass g01 P_dist rho_dist hq fq).
Qed.
Lemma span_ge0 (s : S) (f : S -> R) B : span_le f B -> 0 <= B.
Proof. by move=> h; have := h s s; lra. Qed.
Lemma has_state : exists s : S, 0 < rho s.
Proof. by apply: sum_pos_ex; rewrite (proj2 rho_dist); lra. Qed.
Definition mean_TV p q m := (1 - g) * under m (fun s => tv (p s) (q s)).                      (* E_d TV *)

(* |fresh| <= gamma/(1-gamma)^2 E_d[TV] span(g) *)
Theorem S4 p q v v' m m' B : policy p -> policy q -> bellman P g r p v -> bellman P g r q v' -> flow p m -> flow q m' ->
  span_le (gain p v q) B ->
  Rabs (J v' - J v - under m (gain p v q)) <= g / (1 - g) ^ 2 * mean_TV p q m * B.
Proof.
move=> hp hq bp bq fp fq h; have [s _] := has_state; have B0 := span_ge0 s h.
rewrite (T0_discounted hq bp bq fq); apply: Rle_trans (visits_span hp hq fp fq h) _; apply: Rmult_le_compat_r B0 _.
have := T1 g01 P_dist hp hq fp fq; rewrite /mean_TV; set X := under _ _.
have -> : g / (1 - g) ^ 2 * ((1 - g) * X) = / 2 * (2 * g / (1 - g) * X) by field; lra.
lra.
Qed.

(* ---- S4, stale *)
Section Stage.
Variables (team : nat -> S -> A -> R) (v m : nat -> S -> R) (i : nat) (B : R).
Hypotheses (ht : forall k, policy (team k)) (hv : forall k, bellman P g r (team k) (v k)) (hm : forall k, flow (team k) (m k)).
Definition gain_of k := gain (team k) (v k) (team k.+1).
Definition stale := J (v i.+1) - J (v i) - under (m O) (gain_of i).
Lemma staleE : stale = under (m i.+1) (gain_of i) - under (m O) (gain_of i).
Proof. by rewrite /stale (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)). Qed.
Hypothesis hB : span_le (gain_of i) B.

(* |stale_i| <= gamma/(1-gamma)^2 span(g_i) sum_{k<=i} E_{d^{k-1}} TV_k *)
Theorem S4_stale : Rabs stale <= g / (1 - g) ^ 2 * (\big[Rplus/0]_(k < i.+1) mean_TV (team k) (team k.+1) (m k)) * B.
Proof.
have [s _] := has_state; have B0 := span_ge0 s hB.
rewrite staleE; apply: Rle_trans (visits_span (ht O) (ht i.+1) (hm O) (hm i.+1) hB) _; apply: Rmult_le_compat_r B0 _.
apply: Rle_trans (tv_chain m i.+1) _; rewrite -sumZ; apply: sum_le => k.
have := T1 g01 P_dist (ht k) (ht k.+1) (hm k) (hm k.+1); rewrite /mean_TV /l1 /tv; set X := under _ _.
have -> : g / (1 - g) ^ 2 * ((1 - g) * X) = / 2 * (2 * g / (1 - g) * X) by field; lra.
lra.
Qed.
(* the same with sum_{k<=i} E_{d^0} TV_k *)
Theorem S4_stale0 : Rabs stale <= g / (1 - g) ^ 2 * (\big[Rplus/0]_(k < i.+1) mean_TV (team k) (team k.+1) (m O)) * B.
Proof.
have [s _] := has_state; have B0 := span_ge0 s hB; have m0 := proj1 (hm O).
rewrite staleE; apply: Rle_trans (visits_span (ht O) (ht i.+1) (hm O) (hm i.+1) hB) _; apply: Rmult_le_compat_r B0 _.
have := T1 g01 P_dist (ht O) (ht i.+1) (hm O) (hm i.+1); set X := under _ _ => t1.
have X_le : X <= \big[Rplus/0]_(k < i.+1) under (m O) (fun s => tv (team k s) (team k.+1 s)).
  rewrite sum_swap; apply: sum_le => x; rewrite sumZ; apply: Rmult_le_compat_l (m0 x) _; exact: (tv_chain (fun k => team k x)).
rewrite /mean_TV sumZ; set Y := \big[Rplus/0]_(k < _) _ in X_le *.
have -> : g / (1 - g) ^ 2 * ((1 - g) * Y) = g / (1 - g) * Y by field; lra.
have c0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
have := Rmult_le_compat_l _ _ _ c0 X_le; have E : 2 * g / (1 - g) * X = 2 * (g / (1 - g) * X) by field; lra.
rewrite E in t1; lra.
Qed.
End Stage.

(* ---- S4R *)
Lemma ev_sub s a f h : ev P s a (fun x => f x - h x) = ev P s a f - ev P s a h. Proof. exact: evB. Qed.
(* discounted sums along q of something that depends on the state only *)
Definition sums q (f F : S -> R) := bellman P g (fun s _ => f s) q F.
Lemma sumsE q f F : policy q -> sums q f F -> forall s, F s = f s + g * step_p P q F s.
Proof.
move=> hq h s; rewrite {1}(h s) /Qd /step_p -sumZ -[X in X + _](sum_const (f s) (proj2 (hq s))) -sumD.
by apply: sumE => a; lra.
Qed.
Lemma sums_le q f F f' F' : policy q -> sums q f F -> sums q f' F' -> (forall s, f s <= f' s) -> forall s, F s <= F' s.
Proof.
move=> hq hF hF' le s.
have b : bellman P g (fun s _ => f' s - f s) q (fun s => F' s - F s).
  move=> x; rewrite (hF x) (hF' x) -sumB; apply: sumE => a; rewrite /Qd ev_sub; lra.
have f0 : floord P g (fun s (_ : A) => f' s - f s) (fun _ => 0) by move=> x a; rewrite ev1 //; have := le x; lra.
by have := above g01 P_dist hq f0 b s; lra.
Qed.
Lemma sumsZ q c f F : sums q f F -> sums q (fun s => c * f s) (fun s => c * F s).
Proof. by move=> h s; rewrite (h s) -sumZ; apply: sumE => a; rewrite /Qd evZ; lra. Qed.

Section Later.
Variables (p q : S -> A -> R) (v v' m N : S -> R) (own : S -> bool) (lo hi Nplus : R).
Hypotheses (hp : policy p) (hq : policy q) (bp : bellman P g r p v) (bq : bellman P g r q v') (fl : flow p m).
Notation G := (fun s => v' s - v s).
Notation gn := (gain p v q).

(* V' - V is the sum of g along the future under the new team; the gap is what the step pays of it *)
Lemma G_sums : sums q gn G.
Proof.
move=> s; rewrite {1}(bq s).
have -> : \sum_(a : A) (q s a * Qd P g r v' s a) - v s = \sum_(a : A) (q s a * Qd P g r v' s a) - \sum_(a : A) (q s a * Qd P g r v s a) + gn s.
  by rewrite gaindE; [lra | exact: hq].
rewrite -[X in _ + X](sum_const (gn s) (proj2 (hq s))) -sumB -sumD; apply: sumE => a.
by rewrite /Qd ev_sub; lra.
Qed.
Lemma fresh_later : J v' - J v - under m gn = under m (fun s => \sum_(a : A) ((q s a - p s a) * (g * ev P s a G))).
Proof.
have -> : J v' - J v = J G by rewrite /at_rho -sumB; apply: sumE => s; lra.
rewrite (dual _ fl) /under -sumB; apply: sumE => s; rewrite (sumsE hq G_sums s).
rewrite [in RHS](sumE (G := fun a => g * (q s a * ev P s a G) - g * (p s a * ev P s a G))) => [|a]; last lra.
by rewrite sumB !sumZ /step_p; lra.
Qed.

(* N: the expected discounted number of the agent's turns from s on, under the new team; Nplus: the largest number of later ones
   behind an action whose probability moves at a visited state; [lo, hi] holds g at the agent's states, and 0.
   |fresh| <= Nplus span(g u {0}) sum_s m(s) TV(s) *)
Hypotheses (others : forall s, ~~ own s -> forall a, q s a = p s a).
Hypotheses (hN : sums q (fun s => if own s then 1 else 0) N) (z : lo <= 0 <= hi) (hg : forall s, own s -> lo <= gn s <= hi).
Theorem S4R : (forall s a, 0 < m s -> p s a <> q s a -> g * ev P s a N <= Nplus) ->
  Rabs (J v' - J v - under m gn) <= Nplus * (hi - lo) * under m (fun s => tv (p s) (q s)).
Proof.
move=> h; have g0 s : ~~ own s -> gn s = 0.
  by move=> o; rewrite (gain_step _ hp) //; apply: sum0 => a; rewrite (others o); lra.
have up s : G s <= hi * N s.
  apply: (sums_le hq G_sums (sumsZ hi hN)) => x; case: (boolP (own x)) => o; [have := hg o | have := g0 x o]; lra.
have dn s : lo * N s <= G s.
  apply: (sums_le hq (sumsZ lo hN) G_sums) => x; case: (boolP (own x)) => o; [have := hg o | have := g0 x o]; lra.
rewrite fresh_later /under -sumZ; apply: Rle_trans (sum_abs _) _; apply: sum_le => s.
rewrite Rabs_mult (Rabs_pos_eq _ (proj1 fl s)).
case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|<-]; last lra.
have -> : Nplus * (hi - lo) * (m s * tv (p s) (q s)) = m s * (tv (p s) (q s) * (hi * Nplus - lo * Nplus)) by lra.
apply: Rmult_le_compat_l; first lra.
apply: bounded_masses; first by rewrite (proj2 (hp s)) (proj2 (hq s)).
move=> a n; have k := h s a ms n.
have e1 := ev_le P_dist s a up; have e2 := ev_le P_dist s a dn; rewrite evZ in e1; rewrite evZ in e2.
have := Rmult_le_compat_l _ _ _ (proj1 g01) e1; have := Rmult_le_compat_l _ _ _ (proj1 g01) e2.
have := Rmult_le_compat_l _ _ _ (proj2 z) k; have : - lo * (g * ev P s a N) <= - lo * Nplus by apply: Rmult_le_compat_l k; lra.
lra.
Qed.

(* (S4R) is never larger than (S4): Nplus <= gamma/(1-gamma). (The spans agree: g = 0 at a state that is not the agent's; and if the
   agent acts everywhere, N is constant, Nplus = gamma/(1-gamma), and S4 is S4R without the zero.) *)
Theorem S4R_factor s a : g * ev P s a N <= g / (1 - g).
Proof.
have one : sums q (fun _ => 1) (fun _ => / (1 - g)).
  move=> x; rewrite (sumE (G := fun a => q x a * / (1 - g))) => [|c]; first by rewrite sum_const //; exact: (proj2 (hq x)).
  by rewrite /Qd ev1 //; field; lra.
have N1 x : N x <= / (1 - g) by apply: (sums_le hq hN one) => y; case: ifP; lra.
by have := Rmult_le_compat_l _ _ _ (proj1 g01) (ev_le P_dist s a N1); rewrite ev1.
Qed.
End Later.

(* round robin of n agents: w s is the number of steps until the agent's next turn, and n - 1 after a turn of its own *)
Theorem S4R_round_robin p q v v' m (n : nat) (w : S -> nat) lo hi :
  policy p -> policy q -> bellman P g r p v -> bellman P g r q v' -> flow p m -> (0 < n)%nat ->
  (forall s a s', 0 < P s a s' -> w s' = if w s is k.+1 then k else n.-1) ->
  (forall s, w s != O -> forall a, q s a = p s a) -> lo <= 0 <= hi -> (forall s, w s = O -> lo <= gain p v q s <= hi) ->
  Rabs (J v' - J v - under m (gain p v q)) <= g ^ n / (1 - g ^ n) * (hi - lo) * under m (fun s => tv (p s) (q s)).
Proof.
move=> hp hq bp bq fl n0 hw others z hg.
have gn1 : g ^ n < 1 by have [] := @pow_lt_1_compat g n g01 ltac:(exact/ltP).
have next s a : ev P s a (fun x => g ^ w x / (1 - g ^ n)) = g ^ (if w s is k.+1 then k else n.-1) / (1 - g ^ n).
  rewrite -[RHS](sum_const _ (proj2 (P_dist s a))); apply: sumE => x.
  by case: (Rle_lt_or_eq_dec _ _ (proj1 (P_dist s a) x)) => [/hw -> //|<-]; lra.
have gS k : g * (g ^ k / (1 - g ^ n)) = g ^ k.+1 / (1 - g ^ n) by rewrite /=; lra.
have hN : sums q (fun s => if w s == O then 1 else 0) (fun s => g ^ w s / (1 - g ^ n)).
  move=> s; rewrite (sumE (G := fun a => q s a * (g ^ w s / (1 - g ^ n)))); first by rewrite sum_const //; exact: (proj2 (hq s)).
  move=> a; rewrite /Qd next gS; congr (_ * _); case: (w s) => [|k]; last by rewrite /=; lra.
  by rewrite (prednK n0) eqxx -[g ^ 0]/1; field; lra.
apply: (S4R hp hq bp bq fl (own := fun s => w s == O) others hN z) => [s /eqP|s a _ pq]; first exact: hg.
have w0 : w s = O by apply/eqP; case: (boolP (w s == O)) => // /others h; case: pq; rewrite h.
by rewrite next w0 gS (prednK n0); apply: Rle_refl.
Qed.
End Discounted.
