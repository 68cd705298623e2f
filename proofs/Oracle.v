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

(* ---- S7b *)
Lemma flow_ge q m s a x : policy q -> flow q m -> g * (m s * (q s a * P s a x)) <= m x.
Proof.
move=> hq [m0 fl]; have row y c : 0 <= q y c * P y c x by apply: Rmult_le_pos; [exact: (proj1 (hq y)) | exact: (proj1 (P_dist y c))].
have col y : 0 <= m y * \sum_(c : A) (q y c * P y c x) by apply: Rmult_le_pos (m0 y) (sum_ge0 (row y)).
rewrite (fl x); have := proj1 rho_dist x.
have := Rmult_le_compat_l _ _ _ (m0 s) (term_le_sum a (row s)) => h1; have := Rle_trans _ _ _ h1 (term_le_sum s col) => h2.
have := Rmult_le_compat_l _ _ _ (proj1 g01) h2; lra.
Qed.

(* what the current team visits the new one visits, if it keeps the actions there *)
Lemma visits_keep p q m m' : policy p -> policy q -> flow p m -> flow q m' -> keeps_at m p q -> keeps m m'.
Proof.
move=> hp hq fl fl' hk; have [m0 _] := fl; have [m0' fq] := fl'.
pose Z s := if Rle_lt_dec (m' s) 0 then 1 else 0.                                   (* not visited by the new team *)
have Z0 s : 0 <= Z s <= 1 by rewrite /Z; case: (Rle_lt_dec (m' s) 0) => ? /=; lra.
have rZ : at_rho rho Z = 0.
  apply: sum0 => x; rewrite /Z; case: (Rle_lt_dec (m' x) 0) => [h|_] /=; last lra.
  have in0 : 0 <= \sum_(s : S) (m' s * \sum_(a : A) (q s a * P s a x)).
    apply: sum_ge0 => s; apply: Rmult_le_pos (m0' s) _; apply: sum_ge0 => a.
    by apply: Rmult_le_pos; [exact: (proj1 (hq s)) | exact: (proj1 (P_dist s a))].
  have -> : rho x = 0 by have := fq x; have := Rmult_le_pos _ _ (proj1 g01) in0; have := proj1 rho_dist x; lra.
  lra.
(* the current team enters Z from Z only *)
have term s : (1 - g) * (m s * Z s) <= m s * (Z s - g * step_p P p Z s).
  case: (Rle_lt_or_eq_dec _ _ (m0 s)) => [ms|<-]; last lra.
  suff : g * step_p P p Z s <= g * Z s by move=> h; have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ ms) h; lra.
  case: (Rle_lt_dec (m' s) 0) => ms'.
    have -> : Z s = 1 by rewrite /Z; case: (Rle_lt_dec (m' s) 0) => ? /=; lra.
    apply: Rmult_le_compat_l (proj1 g01) _; rewrite -[X in _ <= X](proj2 (hp s)); apply: sum_le => a.
    rewrite -[X in _ <= X]Rmult_1_r; apply: Rmult_le_compat_l; first exact: (proj1 (hp s)).
    by rewrite -(ev1 P_dist s a 1); apply: ev_le => // x; have := Z0 x; lra.
  rewrite /step_p -sumZ sum0 => [|a]; first by have := Rmult_le_pos _ _ (proj1 g01) (proj1 (Z0 s)); lra.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [/(hk s ms) qa|<-]; last lra.
  case: (Rle_lt_or_eq_dec _ _ (proj1 g01)) => [gp|<-]; last lra.
  suff -> : ev P s a Z = 0 by lra.
  apply: sum0 => x; case: (Rle_lt_or_eq_dec _ _ (proj1 (P_dist s a) x)) => [Px|<-]; last lra.
  have := flow_ge s a x hq fl'; have := Rmult_lt_0_compat _ _ gp (Rmult_lt_0_compat _ _ ms' (Rmult_lt_0_compat _ _ qa Px)).
  by rewrite /Z; case: (Rle_lt_dec (m' x) 0) => ? /=; lra.
have := sum_le term; rewrite sumZ -[X in _ <= X](dual Z fl) rZ => h s ms.
have b := term_le_sum (F := fun s => m s * Z s) s (fun x => Rmult_le_pos _ _ (m0 x) (proj1 (Z0 x))).
have c : 0 < 1 - g by lra.
have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ c) b => d.
have : m s * Z s <= 0 by apply: (Rmult_le_reg_l _ _ _ c); lra.
rewrite /Z; case: (Rle_lt_dec (m' s) 0) => ? /=; lra.
Qed.

(* KL(m || m') <= gamma/(1-gamma) K: the flow equation maps (m, m') to itself and adds at most gamma K on the way *)
Theorem kl_visits p q m m' : policy p -> policy q -> flow p m -> flow q m' -> keeps_at m p q ->
  kl m m' <= g / (1 - g) * under m (fun s => kl (p s) (q s)).
Proof.
move=> hp hq fl fl' hk; have km := visits_keep hp hq fl fl' hk; have [m0 fp] := fl; have [m0' fq] := fl'.
set K := under m _; have c : 0 < 1 - g by lra.
suff h : kl m m' <= g * (kl m m' + K).
  apply: (Rmult_le_reg_l _ _ _ c); have -> : (1 - g) * (g / (1 - g) * K) = g * K by field; lra.
  lra.
have pos x : 0 <= g * push P p m x /\ 0 <= g * push P q m' x.
  by split; apply: Rmult_le_pos (proj1 g01) _; [exact: (push_pos P_dist m0 hp) | exact: (push_pos P_dist m0' hq)].
have kp := keeps_push P_dist m0 m0' hp hq km hk.
have kg : keeps (fun x => g * push P p m x) (fun x => g * push P q m' x).
  move=> x /(prod_pos (proj1 g01) (push_pos P_dist m0 hp x)) [gp px]; exact: Rmult_lt_0_compat gp (kp x px).
rewrite {1}(kl_eq fp fq); apply: Rle_trans.
  exact: (kl_add (proj1 rho_dist) (proj1 rho_dist) (fun x => proj1 (pos x)) (fun x => proj2 (pos x)) (fun _ h => h) kg).
rewrite kl_self; last exact: (proj1 rho_dist).
case: (Rle_lt_or_eq_dec _ _ (proj1 g01)) => [gp|E].
  rewrite kl_scale //; last exact: push_pos.
  by have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ gp) (kl_step P_dist m0 m0' hp hq km hk); rewrite -/(under m _) -/K; lra.
by rewrite /kl sum0 => [|x]; rewrite -E; lra.
Qed.
End Discounted.

(* one state: |d' - d| TV(x, y) is at most the terms of the two KLs *)
Lemma two_changes (A : finType) (d d' : R) (x y : A -> R) : 0 <= d -> 0 <= d' -> (0 < d -> 0 < d') -> dist x -> dist y ->
  (0 < d -> keeps x y) -> Rabs (d' - d) * tv x y <= d' - d + d * ln (d / d') + d * kl x y.
Proof.
move=> d0 d0' kd [x0 x1] [y0 y1] k.
(* X: the two changes at once, from d x to d' y; Y: one at a time. Both are >= 0, and X - Y = (d' - d) (y - x) *)
pose X a := d' * y a - d * x a + d * x a * ln (d * x a / (d' * y a)).
pose Y a := x a * (d' - d + d * ln (d / d')) + d * (y a - x a + x a * ln (x a / y a)).
have X0 a : 0 <= X a.
  have k2 : 0 < d * x a -> 0 < d' * y a.
    by move=> /(prod_pos d0 (x0 a)) [dp xp]; apply: Rmult_lt_0_compat; [exact: kd | exact: k].
  have := log_tangent (Rmult_le_pos _ _ d0 (x0 a)) (Rmult_le_pos _ _ d0' (y0 a)) k2 Rlt_0_1; rewrite ln_1 /X; lra.
have Y0 a : 0 <= Y a.
  have h1 := log_tangent d0 d0' kd Rlt_0_1; rewrite ln_1 in h1.
  have := Rmult_le_pos (x a) (d' - d + d * ln (d / d')) (x0 a) ltac:(lra).
  case: (Rle_lt_or_eq_dec _ _ d0) => [dp|E]; last by rewrite /Y -E; lra.
  have := log_tangent (x0 a) (y0 a) (k dp a) Rlt_0_1; rewrite ln_1 => h2.
  by have := Rmult_le_pos d (y a - x a + x a * ln (x a / y a)) d0 ltac:(lra); rewrite /Y; lra.
have XY a : X a - Y a = (d' - d) * (y a - x a).
  rewrite /X /Y; case: (Rle_lt_or_eq_dec _ _ d0) => [dp|<-]; last lra.
  case: (Rle_lt_or_eq_dec _ _ (x0 a)) => [xp|<-]; last lra.
  have dp' := kd dp; have yp := k dp a xp.
  have -> : d * x a / (d' * y a) = d / d' * (x a / y a) by field; lra.
  by rewrite ln_mult; [lra | exact: Rdiv_lt_0_compat | exact: Rdiv_lt_0_compat].
have SY : \sum_(a : A) Y a = d' - d + d * ln (d / d') + d * kl x y.
  by rewrite /Y sumD sumZr x1 sumZ sumD sumB y1 x1 /kl; lra.
have SX : \sum_(a : A) X a = \sum_(a : A) Y a.
  suff : \sum_(a : A) X a - \sum_(a : A) Y a = 0 by lra.
  by rewrite -sumB (sumE XY) sumZ sumB x1 y1; lra.
have : \sum_(a : A) (Rabs (d' - d) * Rabs (y a - x a)) <= \sum_(a : A) (X a + Y a).
  apply: sum_le => a; rewrite -Rabs_mult -XY; apply: Rabs_le; have := X0 a; have := Y0 a; lra.
rewrite sumZ sumD SX SY /tv; lra.
Qed.

(* the sum over the states, for measures of one mass and f = g of an update from p to q *)
Lemma second_order (S A : finType) (d d' : S -> R) (p q : S -> A -> R) (f : S -> R) B :
  measure d -> measure d' -> \sum_(s : S) d s = \sum_(s : S) d' s -> keeps d d' ->
  policy p -> policy q -> keeps_at d p q -> 0 <= B -> (forall s, 0 < d s \/ 0 < d' s -> Rabs (f s) <= tv (p s) (q s) * B) ->
  Rabs (\sum_(s : S) ((d' s - d s) * f s)) <= B * (kl d d' + \sum_(s : S) (d s * kl (p s) (q s))).
Proof.
move=> d0 d0' M kd hp hq hk B0 hf.
have -> : B * (kl d d' + \sum_(s : S) (d s * kl (p s) (q s)))
    = \sum_(s : S) (B * (d' s - d s + d s * ln (d s / d' s) + d s * kl (p s) (q s))).
  by rewrite sumZ 2!sumD sumB M /kl; lra.
apply: Rle_trans (sum_abs _) _; apply: sum_le => s; rewrite Rabs_mult.
have t := two_changes (d0 s) (d0' s) (kd s) (hp s) (hq s) (hk s); have := Rmult_le_compat_l _ _ _ B0 t.
have [n|[E E']] : (0 < d s \/ 0 < d' s) \/ (d s = 0 /\ d' s = 0).
  by have := d0 s; have := d0' s; move=> a b; case: (Req_dec (d s) 0) => [e|e]; case: (Req_dec (d' s) 0) => [e'|e']; by [right | left; lra].
  by have := Rmult_le_compat_l _ _ _ (Rabs_pos (d' s - d s)) (hf s n); lra.
by rewrite E E' Rminus_eq_0 Rabs_R0; lra.
Qed.
