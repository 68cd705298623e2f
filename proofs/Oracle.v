(* Second order with tables: S4 and S4R (total variations and spans), S7b (expected KL and the span of the advantage).
   S4: equal masses, twice. S4R: G = V' - V is the discounted sum of g along the future under the new team, and the gap is
   what the step pays of the G behind its actions; g is zero at the others' turns. S7b: at each state |m' - m| TV(p, q) is at
   most a term of KL(m || m') plus m KL(p || q), and KL(m || m') <= gamma/(1-gamma) K, because (m, m') is a fixed point of the
   flow equations, a map under which KL grows by gamma K at most (LogSum.v); no path, no clock, no limit. At the end: the
   counterexample to a shorter stale bound, and the branch, which attains S4. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From Coquelicot Require Import Coquelicot.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper LogSum Marginals.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* B is at least the span of f *)
Definition span_le (I : Type) (f : I -> R) B := forall x y, f x - f y <= B.

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
  have := d0 s; have := d0' s; case: (Req_dec (d s) 0) => [e|e]; case: (Req_dec (d' s) 0) => [e'|e'] a b; by [right | left; lra].
  by have := Rmult_le_compat_l _ _ _ (Rabs_pos (d' s - d s)) (hf s n); lra.
by rewrite E E' Rminus_eq_0 Rabs_R0; lra.
Qed.

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
rewrite [RHS](sumE (G := fun a => (q s a * Qd P g r v s a - p s a * Qd P g r v s a) - (q s a * v s - p s a * v s))); last first.
  by move=> a; lra.
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
  move=> x; rewrite (hF x) (hF' x) -sumB; apply: sumE => a; rewrite /Qd evB; lra.
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
have -> : \sum_(a : A) (q s a * Qd P g r v' s a) - v s
    = \sum_(a : A) (q s a * Qd P g r v' s a) - \sum_(a : A) (q s a * Qd P g r v s a) + gn s.
  by rewrite gaindE; [lra | exact: hq].
rewrite -[X in _ + X](sum_const (gn s) (proj2 (hq s))) -sumB -sumD; apply: sumE => a.
by rewrite /Qd evB; lra.
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

(* (S4R) is never larger than (S4): Nplus <= gamma/(1-gamma). (The spans agree: g = 0 at a state that is not the agent's; and
   if the agent acts everywhere, N is constant, Nplus = gamma/(1-gamma), and S4 is S4R without the zero.) *)
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
move=> hq [m0 fl].
have row y c : 0 <= q y c * P y c x by apply: Rmult_le_pos; [exact: (proj1 (hq y)) | exact: (proj1 (P_dist y c))].
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

(* the visits after the first step *)
Definition later p m s := g * push P p m s.
Section Visits.
Variables (p q : S -> A -> R) (m m' : S -> R).
Hypotheses (hp : policy p) (hq : policy q) (fl : flow p m) (fl' : flow q m') (hk : keeps_at m p q).
Let m0 : measure m := proj1 fl.
Let m0' : measure m' := proj1 fl'.
Let km : keeps m m' := visits_keep hp hq fl fl' hk.
Let K := under m (fun s => kl (p s) (q s)).
Lemma laterE pi mm s : flow pi mm -> mm s = rho s + later pi mm s. Proof. by case=> _ ->. Qed.
Lemma later_ge0 pi mm : policy pi -> flow pi mm -> measure (later pi mm).
Proof. by move=> h [mm0 _] s; apply: Rmult_le_pos (proj1 g01) (push_pos P_dist mm0 h s). Qed.
Lemma later_keeps : keeps (later p m) (later q m').
Proof.
move=> x /(prod_pos (proj1 g01) (push_pos P_dist m0 hp x)) [gp px].
exact: Rmult_lt_0_compat gp (keeps_push P_dist m0 m0' hp hq km hk px).
Qed.
Lemma kl_later : kl (later p m) (later q m') <= g * (kl m m' + K).
Proof.
case: (Rle_lt_or_eq_dec _ _ (proj1 g01)) => [gp|E]; last by rewrite /kl sum0 => [|x]; rewrite /later -E; lra.
rewrite /later kl_scale //; [|exact: push_pos | exact: (keeps_push P_dist m0 m0' hp hq km hk)].
have := Rmult_le_compat_l _ _ _ (proj1 g01) (kl_step P_dist m0 m0' hp hq km hk); rewrite -/(under m _) -/K; lra.
Qed.
(* KL(m || m') <= gamma/(1-gamma) K: the flow equations map (m, m') to itself and add at most gamma K on the way *)
Theorem kl_visits : kl m m' <= g / (1 - g) * K.
Proof.
have c : 0 < 1 - g by lra.
suff h : kl m m' <= g * (kl m m' + K).
  apply: (Rmult_le_reg_l _ _ _ c); have -> : (1 - g) * (g / (1 - g) * K) = g * K by field; lra.
  lra.
rewrite {1}(kl_eq (fun x => laterE x fl) (fun x => laterE x fl')); apply: Rle_trans.
  exact: (kl_add (proj1 rho_dist) (proj1 rho_dist) (later_ge0 hp fl) (later_ge0 hq fl') (fun _ h => h) later_keeps).
by rewrite kl_self; [have := kl_later; lra | exact: (proj1 rho_dist)].
Qed.
End Visits.

(* rollouts of b, update from p to q; the first states are the same and cost nothing *)
Section Base.
Variables (b p q : S -> A -> R) (v m m' : S -> R) (B : R).
Hypotheses (hb : policy b) (hp : policy p) (hq : policy q) (bp : bellman P g r p v) (fl : flow b m) (fl' : flow q m').
Hypotheses (kb : keeps_at m b q) (kp : keeps_at m p q) (hB : forall s, 0 < m s \/ 0 < m' s -> span_le (adv v s) B).
Let Kp s := kl (p s) (q s).
Lemma B_ge0 : 0 <= B.
Proof.
have [s ms] : exists s, 0 < m s.
  by apply: sum_pos_ex; rewrite (mass g01 P_dist rho_dist hb fl); apply: Rinv_0_lt_compat; lra.
have [a _] : exists a, 0 < p s a by apply: sum_pos_ex; rewrite (proj2 (hp s)); lra.
by have := hB (or_introl ms) a a; lra.
Qed.
Lemma S7b_base : Rabs (under m' (gain p v q) - under m (gain p v q))
    <= B * (g / (1 - g) * under m (fun s => kl (b s) (q s)) + under m Kp - at_rho rho Kp).
Proof.
have d0 := later_ge0 hb fl; have d0' := later_ge0 hq fl'; have r0 := proj1 rho_dist.
have -> : under m' (gain p v q) - under m (gain p v q) = \sum_(s : S) ((later q m' s - later b m s) * gain p v q s).
  by rewrite /under -sumB; apply: sumE => s; rewrite (laterE s fl) (laterE s fl'); lra.
have M : \sum_(s : S) later b m s = \sum_(s : S) later q m' s.
  have E pi mm : flow pi mm -> \sum_(s : S) later pi mm s = \sum_(s : S) mm s - 1.
    by move=> h; rewrite -(proj2 rho_dist) -sumB; apply: sumE => s; rewrite (laterE s h); lra.
  by rewrite (E b m fl) (E q m' fl') (mass g01 P_dist rho_dist hb fl) (mass g01 P_dist rho_dist hq fl').
have sub pi mm s : flow pi mm -> 0 < later pi mm s -> 0 < mm s by move=> h; rewrite (laterE s h); have := r0 s; lra.
have n s : 0 < later b m s \/ 0 < later q m' s -> 0 < m s \/ 0 < m' s.
  by case=> h; [left; exact: sub fl h | right; exact: sub fl' h].
apply: Rle_trans (second_order d0 d0' M (later_keeps hb hq fl fl' kb) hp hq (fun s h => kp (sub _ _ s fl h)) B_ge0
  (fun s h => S4_state hp hq bp (hB (n s h)))) _.
apply: Rmult_le_compat_l; first exact: B_ge0.
have -> : \sum_(s : S) (later b m s * kl (p s) (q s)) = under m Kp - at_rho rho Kp.
  by rewrite /under /at_rho -sumB; apply: sumE => s; rewrite (laterE s fl) /Kp; lra.
have := kl_later hb hq fl fl' kb; have := kl_visits hb hq fl fl' kb; set X := under m (fun s => kl (b s) (q s)) => h1 h2.
have := Rmult_le_compat_l _ _ _ (proj1 g01) h1; have : g * (g / (1 - g) * X) + g * X = g / (1 - g) * X by field; lra.
lra.
Qed.
Lemma first_ge0 : 0 <= B * at_rho rho Kp.
Proof.
apply: Rmult_le_pos B_ge0 _; apply: sum_ge0 => s; case: (Rle_lt_or_eq_dec _ _ (proj1 rho_dist s)) => [rs|<-]; last lra.
have [[p0 p1] [q0 q1]] := (hp s, hq s); apply: Rmult_le_pos; first lra.
apply: (kl_pos p0 q0); first by rewrite p1 q1.
by apply: kp; rewrite (laterE s fl); have := later_ge0 hb fl s; lra.
Qed.
End Base.

(* |fresh| <= B delta / (1 - gamma)^2; B: the largest span_a A(s, .) at the states that are met. What the first states pay may be
   subtracted: B kappa_0, kappa_0 = sum_s rho(s) KL(s) *)
Theorem S7b_later p q v v' m m' B : policy p -> policy q -> bellman P g r p v -> bellman P g r q v' -> flow p m -> flow q m' ->
  keeps_at m p q -> (forall s, 0 < m s \/ 0 < m' s -> span_le (adv v s) B) ->
  Rabs (J v' - J v - under m (gain p v q)) <= B * delta g p q m / (1 - g) ^ 2 - B * at_rho rho (fun s => kl (p s) (q s)).
Proof.
move=> hp hq bp bq fl fl' hk h; rewrite (T0_discounted hq bp bq fl').
apply: Rle_trans (S7b_base hp hp hq bp fl fl' hk hk h) _; apply: Req_le; rewrite /delta; field; lra.
Qed.
Theorem S7b p q v v' m m' B : policy p -> policy q -> bellman P g r p v -> bellman P g r q v' -> flow p m -> flow q m' ->
  keeps_at m p q -> (forall s, 0 < m s \/ 0 < m' s -> span_le (adv v s) B) ->
  Rabs (J v' - J v - under m (gain p v q)) <= B * delta g p q m / (1 - g) ^ 2.
Proof.
move=> hp hq bp bq fl fl' hk h; have := S7b_later hp hq bp bq fl fl' hk h.
have := first_ge0 hp hp hq fl hk h; lra.
Qed.

(* |stale_i| <= B_i (delta0_i + gamma/(1-gamma) sum_{k<=i} delta0_k) / (1-gamma), delta0 under the visits of the stage's start *)
Section StaleKL.
Variables (team : nat -> S -> A -> R) (v m : nat -> S -> R) (i : nat).
Hypotheses (ht : forall k, policy (team k)) (hv : forall k, bellman P g r (team k) (v k)) (hm : forall k, flow (team k) (m k)).
Hypotheses (ha : forall s, 0 < m O s -> adds team i.+1 s).
Hypotheses (k1 : keeps_at (m O) (team O) (team i.+1)) (k2 : keeps_at (m O) (team i) (team i.+1)).
Definition delta0 k := delta g (team k) (team k.+1) (m O).
Theorem S7b_stale_later B : (forall s, 0 < m O s \/ 0 < m i.+1 s -> span_le (adv (v i) s) B) ->
  Rabs (stale team v m i) <= B * (delta0 i + g / (1 - g) * \big[Rplus/0]_(k < i.+1) delta0 k) / (1 - g)
    - B * at_rho rho (fun s => kl (team i s) (team i.+1 s)).
Proof.
move=> h; rewrite (staleE i ht hv hm).
apply: Rle_trans (S7b_base (ht O) (ht i) (ht i.+1) (hv i) (hm O) (hm i.+1) k1 k2 h) _.
have -> : under (m O) (fun s => kl (team O s) (team i.+1 s))
    = \big[Rplus/0]_(k < i.+1) under (m O) (fun s => kl (team k s) (team k.+1 s)).
  rewrite sum_swap; apply: sumE => s; rewrite sumZ.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hm O) s)) => [ms|<-]; last lra.
  by rewrite (ha ms).
rewrite /delta0 /delta sumZ; set X := \big[Rplus/0]_(k < _) _; set Y := under _ _; set Z := at_rho _ _.
by apply: Req_le; field; lra.
Qed.
Theorem S7b_stale B : (forall s, 0 < m O s \/ 0 < m i.+1 s -> span_le (adv (v i) s) B) ->
  Rabs (stale team v m i) <= B * (delta0 i + g / (1 - g) * \big[Rplus/0]_(k < i.+1) delta0 k) / (1 - g).
Proof.
move=> h; have := S7b_stale_later h.
have := first_ge0 (ht O) (ht i) (ht i.+1) (hm O) k2 h; lra.
Qed.
End StaleKL.

(* B may be the range of the return: span(r)/(1 - gamma) *)
Lemma adv_range p v lo hi s : policy p -> bellman P g r p v -> (forall x a, lo <= r x a <= hi) ->
  span_le (adv v s) ((hi - lo) / (1 - g)).
Proof.
move=> hp bp hr a c.
have flo : floord P g r (fun _ => lo / (1 - g)).
  move=> x b; rewrite ev1 //; have := hr x b; have : lo / (1 - g) = lo + g * (lo / (1 - g)) by field; lra.
  lra.
have fhi : floord P g (fun x b => - r x b) (fun _ => - hi / (1 - g)).
  move=> x b; rewrite ev1 //; have := hr x b; have : - hi / (1 - g) = - hi + g * (- hi / (1 - g)) by field; lra.
  lra.
have bn : bellman P g (fun x b => - r x b) p (fun x => - v x) := bellman_neg bp.
have vlo := above g01 P_dist hp flo bp; have vhi := above g01 P_dist hp fhi bn.
have {}vhi x : v x <= hi / (1 - g) by have := vhi x; have -> : - hi / (1 - g) = - (hi / (1 - g)) by [field; lra]; lra.
have ehi : hi / (1 - g) = hi + g * (hi / (1 - g)) by field; lra.
have elo : lo / (1 - g) = lo + g * (lo / (1 - g)) by field; lra.
have up := Rmult_le_compat_l _ _ _ (proj1 g01) (ev_le P_dist s a vhi); rewrite ev1 // in up.
have dn := Rmult_le_compat_l _ _ _ (proj1 g01) (ev_le P_dist s c vlo); rewrite ev1 // in dn.
have -> : (hi - lo) / (1 - g) = hi / (1 - g) - lo / (1 - g) by field; lra.
by rewrite /Qd; have := hr s a; have := hr s c; lra.
Qed.
Corollary S7b_stale_range (team : nat -> S -> A -> R) (v m : nat -> S -> R) i lo hi :
  (forall k, policy (team k)) -> (forall k, bellman P g r (team k) (v k)) -> (forall k, flow (team k) (m k)) ->
  (forall s, 0 < m O s -> adds team i.+1 s) -> keeps_at (m O) (team O) (team i.+1) -> keeps_at (m O) (team i) (team i.+1) ->
  (forall s a, lo <= r s a <= hi) ->
  Rabs (stale team v m i)
    <= (hi - lo) / (1 - g) * (delta0 team m i + g / (1 - g) * \big[Rplus/0]_(k < i.+1) delta0 team m k) / (1 - g).
Proof. by move=> ht hv hm ha k1 k2 hr; apply: S7b_stale => // s _; exact: adv_range. Qed.
End Discounted.

(* ---- episodes *)
Lemma partial_le (F : nat -> R) t n : (t <= n)%nat -> (forall u, (u < n)%nat -> 0 <= F u) ->
  \big[Rplus/0]_(u < t) F u <= \big[Rplus/0]_(u < n) F u.
Proof.
elim: n => [|n ih]; first by rewrite leqn0 => /eqP-> _; lra.
rewrite leq_eqVlt => /orP[/eqP-> _|tn h]; first lra.
rewrite (sum_recr n F); have := h n (ltnSn n); have := ih tn (fun u un => h u (ltn_trans un (ltnSn n))); lra.
Qed.
Section Episodic.
Variables (A B : finType).

(* S4R: any type of states; vis: the visited pairs (steps left after this one, state), ok: what either team can reach *)
Section Later.
Variables (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (p q : S -> A -> R) (own : S -> bool) (lo hi Nplus : R) (vis ok : nat -> S -> Prop).
Hypotheses (hp : policy p) (hq : policy q) (others : forall s, ~~ own s -> forall a, q s a = p s a).
Hypotheses (vis_p : reach e next p vis) (ok_p : reach e next p ok) (ok_q : reach e next q ok).
Notation gn := (gain e next r p q).
Definition own_turns := path_sum e next q (fun _ x => if own x then 1 else 0).                (* N: turns that are left *)

Lemma later_diff (f : nat -> S -> R) t s : path_sum e next q f t s - path_sum e next p f t s
  = path_sum e next p (fun u x => \sum_(a : A) ((q x a - p x a) * after e next x a (path_sum e next q f u))) t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite [path_sum _ _ _ (fun u x => \sum_(a : A) _) _ _]/=.
rewrite (sumE (F := fun a => p s a * _) (G := fun a => p s a * after e next s a (path_sum e next q f t)
  - p s a * after e next s a (path_sum e next p f t))) => [|a].
  rewrite sumB (sumE (F := fun a => (q s a - p s a) * _) (G := fun a => q s a * after e next s a (path_sum e next q f t)
    - p s a * after e next s a (path_sum e next q f t))) => [|a]; last lra.
  by rewrite sumB /=; lra.
by rewrite -(afterE e next s a ih) afterB; lra.
Qed.
Lemma path_le (pi : S -> A -> R) k f h t s : policy pi -> reach e next pi k -> k t s ->
  (forall u x, k u.+1 x -> f u x <= h u x) ->
  path_sum e next pi f t s <= path_sum e next pi h t s.
Proof. by move=> hpi kr ks le; apply: (path_sum_le e_dist hpi (fun _ _ h => h) kr ks le). Qed.

Notation PS_q u := (path_sum e next q gn u).                                                 (* G: what is left of g *)
Lemma later_bound W t s : vis t s -> ok t s ->
  (forall u x, vis u.+1 x -> ok u.+1 x ->
    Rabs (\sum_(a : A) ((q x a - p x a) * after e next x a (PS_q u))) <= W * tv (p x) (q x)) ->
  Rabs (V e next r q t s - V e next r p t s - L e next r p q t s) <= W * path_sum e next p (fun _ x => tv (p x) (q x)) t s.
Proof.
move=> vs os key; rewrite (T0 e next r p t s hq) /L later_diff.
have both : reach e next p (fun u x => vis u x /\ ok u x).
  by move=> u x a b [vx ox] pa eb; split; [exact: vis_p vx pa eb | exact: ok_p ox pa eb].
apply: Rabs_le; rewrite -path_sumZ; split; last first.
  by apply: (path_le hp both (conj vs os)) => u x [vx ox]; have := Rabs_def2_le (key u x vx ox); lra.
have -> : - path_sum e next p (fun u x => W * tv (p x) (q x)) t s = path_sum e next p (fun u x => -1 * (W * tv (p x) (q x))) t s.
  by rewrite (path_sumZ e next p (-1)); lra.
by apply: (path_le hp both (conj vs os)) => u x [vx ox]; have := Rabs_def2_le (key u x vx ox); lra.
Qed.
(* behind an action whose probability moves there are only states that either team can reach *)
Lemma after_moved u x a f h : ok u.+1 x -> p x a <> q x a -> (forall y, ok u y -> f y <= h y) ->
  after e next x a f <= after e next x a h.
Proof.
move=> ox n le; apply: sum_le => b; case: (Rle_lt_or_eq_dec _ _ (proj1 (e_dist x a) b)) => [eb|<-]; last lra.
apply: Rmult_le_compat_l (Rlt_le _ _ eb) (le _ _).
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|pz]; first exact: ok_p ox pa eb.
by case: (Rle_lt_or_eq_dec _ _ (proj1 (hq x) a)) => [qa|qz]; [exact: ok_q ox qa eb | case: n; rewrite -pz -qz].
Qed.
Lemma afterZ x a c f : after e next x a (fun y => c * f y) = c * after e next x a f.
Proof. by rewrite /after -sumZ; apply: sumE => b; lra. Qed.

(* |fresh| <= Nplus span(g u {0}) sum_t E TV, from every first state; Nplus holds the number of own turns after an action whose
   probability moves at a visited state *)
Theorem S4R_episodic t s : vis t s -> ok t s -> lo <= 0 <= hi -> (forall u x, ok u.+1 x -> own x -> lo <= gn u x <= hi) ->
  (forall u x a, vis u.+1 x -> p x a <> q x a -> after e next x a (own_turns u) <= Nplus) ->
  Rabs (V e next r q t s - V e next r p t s - L e next r p q t s)
    <= Nplus * (hi - lo) * path_sum e next p (fun _ x => tv (p x) (q x)) t s.
Proof.
move=> vs os z hg h; have g0 u x : ~~ own x -> gn u x = 0.
  by move=> o; rewrite gainE // VE -sumB; apply: sum0 => a; rewrite (others o); lra.
have up u x : ok u x -> PS_q u x <= hi * own_turns u x.
  move=> ox; rewrite -path_sumZ; apply: (path_le hq ok_q ox) => w y oy.
  by case: (boolP (own y)) => o; [have := hg w y oy o | have := g0 w y o]; lra.
have dn u x : ok u x -> lo * own_turns u x <= PS_q u x.
  move=> ox; rewrite -path_sumZ; apply: (path_le hq ok_q ox) => w y oy.
  by case: (boolP (own y)) => o; [have := hg w y oy o | have := g0 w y o]; lra.
apply: (later_bound vs os) => u x vx ox.
have -> : Nplus * (hi - lo) * tv (p x) (q x) = tv (p x) (q x) * (hi * Nplus - lo * Nplus) by lra.
apply: bounded_masses; first by rewrite (proj2 (hp x)) (proj2 (hq x)).
move=> a n; have k := h u x a vx n.
have := after_moved ox n (up u); have := after_moved ox n (dn u); rewrite !afterZ.
have : - lo * after e next x a (own_turns u) <= - lo * Nplus by apply: Rmult_le_compat_l k; lra.
have := Rmult_le_compat_l _ _ _ (proj2 z) k; lra.
Qed.
(* if the agent acts everywhere: the span without the zero, and Nplus holds the number of layers after such an action *)
Theorem S4R_everywhere t s : vis t s -> ok t s -> (forall u x, ok u.+1 x -> lo <= gn u x <= hi) ->
  (forall u x a, vis u.+1 x -> p x a <> q x a -> INR u <= Nplus) ->
  Rabs (V e next r q t s - V e next r p t s - L e next r p q t s)
    <= Nplus * (hi - lo) * path_sum e next p (fun _ x => tv (p x) (q x)) t s.
Proof.
move=> vs os hg h; have count u x : path_sum e next q (fun _ _ => 1) u x = INR u.
  elim: u x => [//|u ih] x; rewrite S_INR /= (sumE (G := fun a => q x a * INR u)) => [|a].
    by rewrite sum_const; [lra | exact: (proj2 (hq x))].
  by rewrite /after (sumE (fun b => f_equal (Rmult _) (ih (next x a b)))) sum_const //; exact: (proj2 (e_dist x a)).
have up u x : ok u x -> PS_q u x <= hi * INR u.
  by move=> ox; rewrite -(count u x) -path_sumZ; apply: (path_le hq ok_q ox) => w y oy; have := hg w y oy; lra.
have dn u x : ok u x -> lo * INR u <= PS_q u x.
  by move=> ox; rewrite -(count u x) -path_sumZ; apply: (path_le hq ok_q ox) => w y oy; have := hg w y oy; lra.
have K x a c : after e next x a (fun _ => c) = c by exact: sum_const (proj2 (e_dist x a)).
apply: (later_bound vs os) => u x vx ox; have b := hg u x ox.
apply: Rle_trans (_ : _ <= tv (p x) (q x) * (hi * INR u - lo * INR u)) _.
  apply: bounded_masses => [|a n]; first by rewrite (proj2 (hp x)) (proj2 (hq x)).
  by have := after_moved ox n (up u); have := after_moved ox n (dn u); rewrite !K.
case: (Req_dec (tv (p x) (q x)) 0) => [->|n]; first lra.
have [a m] : exists a, p x a <> q x a.
  have : 0 < \sum_(a : A) Rabs (q x a - p x a) by have := tv_ge0 (p x) (q x); move: n; rewrite /tv; lra.
  by move=> /sum_pos_ex [a ha]; exists a => E; move: ha; rewrite E Rminus_eq_0 Rabs_R0; lra.
have w : 0 <= (hi - lo) * tv (p x) (q x) by apply: Rmult_le_pos (tv_ge0 _ _); lra.
by have := Rmult_le_compat_r _ _ _ w (h u x a vx m); lra.
Qed.

(* the same over a law of first states *)
Corollary S4R_episodic_J (I : finType) (rho : I -> R) (start : I -> S) t : dist rho ->
  (forall i, 0 < rho i -> vis t (start i) /\ ok t (start i)) ->
  lo <= 0 <= hi -> (forall u x, ok u.+1 x -> own x -> lo <= gn u x <= hi) ->
  (forall u x a, vis u.+1 x -> p x a <> q x a -> after e next x a (own_turns u) <= Nplus) ->
  Rabs (from_rho rho start (V e next r q t) - from_rho rho start (V e next r p t) - from_rho rho start (L e next r p q t))
    <= Nplus * (hi - lo) * from_rho rho start (path_sum e next p (fun _ x => tv (p x) (q x)) t).
Proof.
move=> [r0 _] hs z hg h; rewrite /from_rho -!sumB -sumZ; apply: Rle_trans (sum_abs _) _; apply: sum_le => i.
case: (Rle_lt_or_eq_dec _ _ (r0 i)) => [ri|<-]; last by rewrite (_ : _ - _ = 0) ?Rabs_R0; lra.
have [vs os] := hs i ri; have := S4R_episodic vs os z hg h; set X := _ - _ - _ => b.
rewrite (_ : _ - _ - _ = rho i * X); last by rewrite /X; lra.
by rewrite Rabs_mult Rabs_pos_eq; [have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ ri) b; lra | lra].
Qed.
End Later.

(* S7b, layer by layer: rollouts of b, update from p to q (fresh: b = p) *)
Section SevenB.
Variables (S : finType) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R) (rho : S -> R) (T : nat).
Hypotheses (e_dist : forall s a, dist (e s a)) (hr : dist rho).
Section Base.
Variables (p q b : S -> A -> R) (can : nat -> bool) (spn : nat -> R).
Hypotheses (hp : policy p) (hq : policy q).
Hypothesis hb : policy b.
Notation d := (layer e next b rho). Notation d' := (layer e next q rho).
Notation seen := (seen e next rho b q).
Hypothesis cannot : forall t x, (t < T)%nat -> ~~ can t -> seen t x -> forall a, q x a = p x a.
Hypothesis hB : forall t x, (t < T)%nat -> can t -> seen t x -> span_le (Adv e next r p (T - t.+1)%nat x) (spn t).
Hypotheses (kb : forall t, (t < T)%nat -> keeps_at (d t) b q) (kp : forall t, (t < T)%nat -> can t -> keeps_at (d t) p q).

Lemma spn_ge0 t : (t < T)%nat -> can t -> 0 <= spn t.
Proof.
move=> tT ct; have [x dx] : exists x, 0 < d t x by apply: sum_pos_ex; rewrite (proj2 (layer_dist next e_dist t hb hr)); lra.
have [a _] : exists a, 0 < p x a by apply: sum_pos_ex; rewrite (proj2 (hp x)); lra.
by have := hB tT ct (or_introl dx) a a; lra.
Qed.
Lemma S7b_layer t : (t < T)%nat -> can t -> Rabs (\sum_(x : S) ((d' t x - d t x) * at_layer e next r p q T t x)) <=
  spn t * (\sum_(x : S) (d t x * kl (p x) (q x)) + \big[Rplus/0]_(u < t) kappa e next rho b q u).
Proof.
move=> tT ct; have [d0 d1] := layer_dist next e_dist t hb hr; have [d0' d1'] := layer_dist next e_dist t hq hr.
have k' u : (u < t)%nat -> keeps_at (d u) b q by move=> ut; apply: kb; apply: ltn_trans ut tT.
have f x : 0 < d t x \/ 0 < d' t x -> Rabs (at_layer e next r p q T t x) <= tv (p x) (q x) * spn t.
  move=> n; pose Ad := Adv e next r p (T - t.+1)%nat x.
  have -> : at_layer e next r p q T t x = \sum_(a : A) ((q x a - p x a) * Ad a).
    have z : \sum_(a : A) (p x a * Ad a) = 0.
      rewrite (sumE (G := fun a => p x a * Q e next r p (T - t.+1)%nat x a - p x a * V e next r p (T - t.+1).+1 x)) => [|a].
        by rewrite sumB sumZr (proj2 (hp x)) VE; lra.
      by rewrite /Ad /Adv; lra.
    rewrite [RHS](sumE (G := fun a => q x a * Ad a - p x a * Ad a)) => [|a]; last lra.
    by rewrite sumB z /Ad /at_layer /gain; lra.
  by apply: equal_masses => [|a c _ _]; [rewrite (proj2 (hp x)) (proj2 (hq x)) | exact: hB tT ct n a c].
have M : \sum_(x : S) d t x = \sum_(x : S) d' t x by rewrite d1 d1'.
apply: Rle_trans (second_order d0 d0' M (keeps_layer (next := next) e_dist hr hb hq k') hp hq (kp tT ct) (spn_ge0 tT ct) f) _.
apply: Rmult_le_compat_l; first exact: spn_ge0.
by have := kl_layer (next := next) e_dist hr hb hq k'; lra.
Qed.
Theorem S7b_layers : Rabs (gap e next r rho b p q T) <=
  \big[Rplus/0]_(t < T | can t) (spn t * (\sum_(x : S) (d t x * kl (p x) (q x)) + \big[Rplus/0]_(u < t) kappa e next rho b q u)).
Proof.
rewrite (gap_layers e_dist r hr hb hq cannot) big_mkcond [X in _ <= X]big_mkcond.
apply: Rle_trans (sum_abs _) _; apply: sum_le => t; case: ifP => ct; last by rewrite Rabs_R0; lra.
exact: S7b_layer (ltn_ord t) ct.
Qed.
(* layers before which nothing has moved (layer 0 is one) may be left out *)
Theorem S7b_layers_idle (idle : nat -> bool) :
  (forall t, (t < T)%nat -> idle t -> \big[Rplus/0]_(u < t) kappa e next rho b q u = 0) ->
  Rabs (gap e next r rho b p q T) <= \big[Rplus/0]_(t < T | can t && ~~ idle t)
    (spn t * (\sum_(x : S) (d t x * kl (p x) (q x)) + \big[Rplus/0]_(u < t) kappa e next rho b q u)).
Proof.
move=> hi; rewrite (gap_layers e_dist r hr hb hq cannot) big_mkcond [X in _ <= X]big_mkcond.
apply: Rle_trans (sum_abs _) _; apply: sum_le => t; case: (boolP (can t)) => ct /=; last by rewrite Rabs_R0; lra.
case: (boolP (idle t)) => it /=; last exact: S7b_layer (ltn_ord t) ct.
have k' u : (u < t)%nat -> keeps_at (d u) b q by move=> ut; apply: kb; apply: ltn_trans ut (ltn_ord t).
have h := Rle_trans _ _ _ (E1_shift (next := next) e_dist hr hb hq k') (Rle_trans _ _ _ (Rmin_r _ _) (Rmin_r _ _)).
rewrite (hi t (ltn_ord t) it) Rmult_0_r sqrt_0 /tv in h.
rewrite sum0 => [|x]; first by rewrite Rabs_R0; lra.
have := term_le_sum (F := fun x => Rabs (d' t x - d t x)) x (fun y => Rabs_pos _) => k.
have z : Rabs (d' t x - d t x) <= 0 by lra.
have := Rabs_def2_le z => [[z1 z2]]; have -> : d' t x - d t x = 0 by lra.
lra.
Qed.
End Base.

(* fresh: |fresh| <= sum_t B_t sum_{u<=t} kappa_u, at most B tau delta_ep: tau the layers in which the agent can act *)
Section Fresh.
Variables (p q : S -> A -> R) (can : nat -> bool).
Hypotheses (hp : policy p) (hq : policy q).
Notation d := (layer e next p rho).
Notation kappa := (kappa e next rho p q).
Hypothesis cannot : forall t x, (t < T)%nat -> ~~ can t -> seen e next rho p q t x -> forall a, q x a = p x a.
Hypothesis kp : forall t, (t < T)%nat -> keeps_at (d t) p q.
Definition tau := \big[Rplus/0]_(t < T | can t) 1.
Lemma delta_ep : at_rho rho (K e next p q T) = \big[Rplus/0]_(u < T) kappa u.
Proof. exact: layers_sum. Qed.
Lemma kappa_ge0 u : (u < T)%nat -> 0 <= kappa u.
Proof.
move=> uT; have [d0 _] := layer_dist next e_dist u hp hr; apply: sum_ge0 => x.
case: (Rle_lt_or_eq_dec _ _ (d0 x)) => [dx|<-]; last lra.
have [[p0 p1] [q0 q1]] := (hp x, hq x); apply: Rmult_le_pos (d0 x) _.
by apply: (kl_pos p0 q0); [rewrite p1 q1 | exact: kp uT x dx].
Qed.
Theorem S7b_episodic spn :
  (forall t x, (t < T)%nat -> can t -> seen e next rho p q t x -> span_le (Adv e next r p (T - t.+1)%nat x) (spn t)) ->
  Rabs (gap e next r rho p p q T) <= \big[Rplus/0]_(t < T | can t) (spn t * \big[Rplus/0]_(u < t.+1) kappa u).
Proof.
move=> hB; apply: Rle_trans (S7b_layers hp hq hp cannot hB kp (fun t tT _ => kp tT)) _; apply: Req_le; apply: eq_bigr => t _.
by congr (_ * _); rewrite (sum_recr t kappa) Rplus_comm.
Qed.
Theorem S7b_turns Bmax :
  (forall t x, (t < T)%nat -> can t -> seen e next rho p q t x -> span_le (Adv e next r p (T - t.+1)%nat x) Bmax) ->
  Rabs (gap e next r rho p p q T) <= Bmax * tau * at_rho rho (K e next p q T).
Proof.
move=> hB; apply: Rle_trans (S7b_episodic (spn := fun _ => Bmax) hB) _; rewrite delta_ep /tau.
set D := \big[Rplus/0]_(u < T) kappa u.
have -> : Bmax * \big[Rplus/0]_(t < T | can t) 1 * D = \big[Rplus/0]_(t < T | can t) (1 * (Bmax * D)).
  by rewrite -(big_distrl (Bmax * D)) /=; lra.
rewrite big_mkcond [X in _ <= X]big_mkcond; apply: sum_le => t; case: ifP => ct; last lra.
rewrite Rmult_1_l; apply: Rmult_le_compat_l; first exact: (spn_ge0 hp hp (fun t x => @hB t x)) (ltn_ord t) ct.
exact: partial_le (ltn_ord t) kappa_ge0.
Qed.
End Fresh.

(* |stale_i| <= sum_t B_t (kappa0_{i,t} + sum_{u<t} sum_{k<=i} kappa0_{k,u}), all under the team at the start of the stage *)
Theorem S7b_stale_episodic (team : nat -> S -> A -> R) i (can : nat -> bool) (spn : nat -> R) :
  let d := layer e next (team O) rho in let kappa0 := kappa0 e next rho team in let met := seen e next rho (team O) (team i.+1) in
  (forall k, policy (team k)) -> (forall t x, (t < T)%nat -> ~~ can t -> met t x -> forall a, team i.+1 x a = team i x a) ->
  (forall t x, (t < T)%nat -> can t -> met t x -> span_le (Adv e next r (team i) (T - t.+1)%nat x) (spn t)) ->
  (forall t x, (t < T)%nat -> 0 < d t x -> adds team i.+1 x) ->
  (forall t, (t < T)%nat -> keeps_at (d t) (team O) (team i.+1)) ->
  (forall t, (t < T)%nat -> can t -> keeps_at (d t) (team i) (team i.+1)) ->
  Rabs (gap e next r rho (team O) (team i) (team i.+1) T) <=
    \big[Rplus/0]_(t < T | can t) (spn t * (kappa0 i t + \big[Rplus/0]_(u < t) \big[Rplus/0]_(k < i.+1) kappa0 k u)).
Proof.
move=> d k0 met ht cannot hB ha k1 k2; apply: Rle_trans (S7b_layers (ht i) (ht i.+1) (ht O) cannot hB k1 k2) _.
apply: Req_le; apply: eq_bigr => t _; congr (_ * (_ + _)); apply: eq_bigr => u _.
by apply: (kappa0_sum e_dist hr ht) => x; apply: ha; apply: ltn_trans (ltn_ord u) (ltn_ord t).
Qed.

(* B may be the range of the return. fits u x c: if c was earned before x and u steps are left, every return that is possible
   under some policy lies in [lo, hi] *)
Variables (lo hi : R).
Fixpoint fits (u : nat) (x : S) (c : R) : Prop :=
  if u is w.+1 then forall a b, 0 < e x a b -> fits w (next x a b) (c + r x a b) else lo <= c <= hi.
Hypothesis returns : forall x, 0 < rho x -> fits T x 0.
Lemma mean_in (I : finType) (w F : I -> R) : dist w -> (forall k, 0 < w k -> lo <= F k <= hi) ->
  lo <= \sum_(k : I) (w k * F k) <= hi.
Proof.
move=> [w0 w1] h; have [-> ->] : lo = \sum_(k : I) (w k * lo) /\ hi = \sum_(k : I) (w k * hi) by rewrite !sumZr w1; lra.
by split; apply: sum_pos_le => // k wk; have := h k wk; lra.
Qed.
Lemma fits_V (pi : S -> A -> R) u x c : policy pi -> fits u x c -> lo <= c + V e next r pi u x <= hi.
Proof.
move=> hpi; elim: u x c => [|u ih] x c /=; first by rewrite Rplus_0_r.
move=> h; rewrite -[X in X + _](sum_const c (proj2 (hpi x))) -sumD.
rewrite (sumE (G := fun a => pi x a * \sum_(b : B) (e x a b * (c + r x a b + V e next r pi u (next x a b))))) => [|a].
  by apply: mean_in (hpi x) _ => a _; apply: mean_in (e_dist x a) _ => b eb; apply: ih; exact: h.
rewrite -Rmult_plus_distr_l -{1}(sum_const c (proj2 (e_dist x a))) -sumD; congr (_ * _); apply: sumE => b; lra.
Qed.
Lemma fits_Q (pi : S -> A -> R) u x a c : policy pi -> fits u.+1 x c -> lo <= c + Q e next r pi u x a <= hi.
Proof.
move=> hpi h; rewrite /Q -[X in X + _](sum_const c (proj2 (e_dist x a))) -sumD.
rewrite (sumE (G := fun b => e x a b * (c + r x a b + V e next r pi u (next x a b)))) => [|b]; last lra.
by apply: mean_in (e_dist x a) _ => b eb; apply: fits_V => //; exact: h.
Qed.
Lemma layer_fits (pi : S -> A -> R) t x : policy pi -> (t <= T)%nat -> 0 < layer e next pi rho t x -> exists c, fits (T - t) x c.
Proof.
move=> hpi; elim: t x => [|t ih] x tT; first by rewrite subn0; exists 0; exact: returns.
have [d0 _] := layer_dist next e_dist t hpi hr.
rewrite [layer _ _ _ _ _]/= pushE => /sum_pos_ex [[y a]] /=.
move=> /(prod_pos (Rmult_le_pos _ _ (d0 y) (proj1 (hpi y) a)) (proj1 (hit_dist next e_dist y a) x)) [].
move=> /(prod_pos (d0 y) (proj1 (hpi y) a)) [dy _] /sum_pos_ex [b]; case: eqP => [<- eb|_]; last lra.
have [c] := ih y (ltnW tT) dy; rewrite -(subnSK tT) => h.
by exists (c + r y a b); exact: h.
Qed.
Corollary S7b_stale_episodic_range (team : nat -> S -> A -> R) i (can : nat -> bool) :
  let d := layer e next (team O) rho in let kappa0 := kappa0 e next rho team in let met := seen e next rho (team O) (team i.+1) in
  (forall k, policy (team k)) -> (forall t x, (t < T)%nat -> ~~ can t -> met t x -> forall a, team i.+1 x a = team i x a) ->
  (forall t x, (t < T)%nat -> 0 < d t x -> adds team i.+1 x) ->
  (forall t, (t < T)%nat -> keeps_at (d t) (team O) (team i.+1)) ->
  (forall t, (t < T)%nat -> can t -> keeps_at (d t) (team i) (team i.+1)) ->
  Rabs (gap e next r rho (team O) (team i) (team i.+1) T) <=
    \big[Rplus/0]_(t < T | can t) ((hi - lo) * (kappa0 i t + \big[Rplus/0]_(u < t) \big[Rplus/0]_(k < i.+1) kappa0 k u)).
Proof.
move=> d k0 met ht cannot ha k1 k2; apply: (S7b_stale_episodic (spn := fun _ => hi - lo) ht cannot _ ha k1 k2) => t x tT _ mx a c.
have [z] : exists z, fits (T - t) x z by case: mx; apply: layer_fits => //; exact: ltnW.
rewrite -(subnSK tT) => h; have := fits_Q a (ht i) h; have := fits_Q c (ht i) h; rewrite /Adv; lra.
Qed.
End SevenB.
End Episodic.

(* ------------------------------------------------------------------ a shorter stale bound is false *)
(* |stale_i| <= rho sum_{k<=i} delta0_k fails by a little: two agents, one episode, returns in [0, 1], values in closed form *)
Section Shorter.
(* Ask k.+1: agent 2 may open a branch; Ask 0: agent 1 goes on or ends; Turn: agent 2 may win *)
Inductive place := Ask of nat | Branch | Turn | Over.
Definition go s (a : bool) (_ : unit) := match s, a with
  | Ask k.+1, false => Ask k | Ask _.+1, true => Branch | Ask 0, true => Turn | Turn, false => Turn | _, _ => Over end.
Definition sure (s : place) (a : bool) (_ : unit) : R := 1.
Definition win s (a : bool) (_ : unit) : R := match s, a with Branch, true => 1 | Turn, true => 1 | _, _ => 0 end.
(* the probability of yes: to open, in the branch, to go on, to win *)
Definition row (o b q p : R) s (a : bool) : R :=
  let c := match s with Ask k.+1 => o | Branch => b | Ask 0 => q | Turn => p | Over => 1 end in if a then c else 1 - c.

Lemma sumb (F : bool -> R) : \sum_(a : bool) F a = F true + F false.
Proof. by rewrite big_bool. Qed.
Lemma sumu (F : unit -> R) : \sum_(b : unit) F b = F tt.
Proof. by rewrite (big_pred1 tt) // => -[]. Qed.
Lemma sure_dist s a : dist (sure s a).
Proof. by split=> [b|]; rewrite ?sumu /sure; lra. Qed.
Lemma row_policy o b q p : 0 <= o <= 1 -> 0 <= b <= 1 -> 0 <= q <= 1 -> 0 <= p <= 1 -> policy (row o b q p).
Proof. by move=> ho hb hq hp s; split=> [a|]; rewrite ?sumb /row; case: s => [[|k]|||]; try case: a; lra. Qed.
Lemma ret01 t s w : 0 <= ret go win (A := bool_finType) (B := unit_finType) (t := t) s w <= 1.
Proof.
have over u v : ret go win (A := bool_finType) (B := unit_finType) (t := u) Over v = 0.
  by elim: u v => [//|u ih] [[a c] v] /=; rewrite ih /win; lra.
elim: t s w => [|t ih] s; first by move=> _ /=; lra.
move=> [[a c] w] /=; have := ih (go s a c) w; case: s => [[|k]|||]; case: a => /=; rewrite ?over; lra.
Qed.

Notation Vp := (@V bool_finType unit_finType place sure go win).
Notation PS := (@path_sum bool_finType unit_finType place sure go).
Lemma V_step pi t s : Vp pi t.+1 s = pi s true * (win s true tt + Vp pi t (go s true tt))
  + pi s false * (win s false tt + Vp pi t (go s false tt)).
Proof. by rewrite /= sumb !sumu /sure; lra. Qed.
Lemma PS_step pi f t s : PS pi f t.+1 s = f t s + (pi s true * PS pi f t (go s true tt) + pi s false * PS pi f t (go s false tt)).
Proof. by rewrite /= sumb /after !sumu /sure; lra. Qed.

Section Values.
Variables (o b q p : R).
Notation pi := (row o b q p).
Lemma V_over t : Vp pi t Over = 0.
Proof. by elim: t => [//|t ih]; rewrite V_step /row /= ih; lra. Qed.
Lemma V_turn t : Vp pi t Turn = 1 - (1 - p) ^ t.
Proof. by elim: t => [|t ih]; [rewrite /=; lra | rewrite V_step /row /= ih V_over; lra]. Qed.
Lemma V_branch t : Vp pi t.+1 Branch = b.
Proof. by rewrite V_step /row /= V_over; lra. Qed.
(* k turns to open, the choice, m turns to win *)
Lemma V_ask k m : Vp pi (k + m.+1)%nat (Ask k) = b + (1 - o) ^ k * (q * (1 - (1 - p) ^ m) - b).
Proof.
elim: k => [|k ih]; first by rewrite add0n V_step /row /= V_turn V_over; lra.
rewrite addSn V_step /row /= ih addnS V_branch; lra.
Qed.
End Values.

(* the current team, agent 1 updated, both updated *)
Section Stage.
Variables (eps q q' p p' : R).
Hypotheses (e01 : 0 < eps < 1) (hq : 0 < q < 1) (hq' : 0 < q' < 1) (hp : 0 < p < 1) (hp' : 0 < p' < 1).
Definition shorter i := match i with 0 => row 0 1 q p | 1 => row 0 1 q' p | _ => row eps 0 q' p' end.
Notation team := shorter.
Notation gn := (@gain bool_finType unit_finType place sure go win (team 1) (team 2)).
Lemma gn_row u s : gn u s = (team 2 s true - team 1 s true) * (win s true tt + Vp (team 1) u (go s true tt))
  + (team 2 s false - team 1 s false) * (win s false tt + Vp (team 1) u (go s false tt)).
Proof.
have h : policy (team 2) by apply: row_policy; lra.
by rewrite gainE // VE !sumb /Q !sumu /sure; lra.
Qed.
Lemma gn_over u : gn u Over = 0. Proof. by rewrite gn_row /=; lra. Qed.
Lemma gn_turn u : gn u Turn = (p' - p) * (1 - p) ^ u.
Proof. by rewrite gn_row /= V_over V_turn; lra. Qed.
Lemma gn_choice u : gn u (Ask 0) = 0. Proof. by rewrite gn_row /=; lra. Qed.
Lemma gn_ask k m : gn (k + m.+1)%nat (Ask k.+1) = eps * (1 - q' * (1 - (1 - p) ^ m)).
Proof. by rewrite gn_row /= V_ask addnS V_branch (_ : 1 - 0 = 1) ?pow1; lra. Qed.

Lemma L_over t : PS (team 0) gn t Over = 0.
Proof. by elim: t => [//|t ih]; rewrite PS_step gn_over /= ih; lra. Qed.
Lemma L_turn t : PS (team 0) gn t.+1 Turn = INR t.+1 * ((p' - p) * (1 - p) ^ t).
Proof.
elim: t => [|t ih]; first by rewrite PS_step gn_turn /=; lra.
by rewrite PS_step gn_turn -[go _ false _]/Turn -[go _ true _]/Over ih L_over (S_INR t.+1) /=; lra.
Qed.
Lemma L_ask k m : PS (team 0) gn (k + m.+2)%nat (Ask k)
  = INR k * (eps * (1 - q' * (1 - (1 - p) ^ m.+1))) + q * (INR m.+1 * ((p' - p) * (1 - p) ^ m)).
Proof.
elim: k => [|k ih].
  by rewrite add0n PS_step gn_choice -[go _ true _]/Turn -[go _ false _]/Over L_turn L_over /=; lra.
by rewrite addSn PS_step gn_ask -[go _ false _]/(Ask k) ih (S_INR k) /=; lra.
Qed.

Definition step_kl i (_ : nat) x := kl (team i x) (team i.+1 x).
Definition kl2 x y := x * ln (x / y) + (1 - x) * ln ((1 - x) / (1 - y)).
Lemma kl2_self x : 0 < x < 1 -> kl2 x x = 0.
Proof.
move=> h; rewrite /kl2; have -> : x / x = 1 by [field; lra]; have -> : (1 - x) / (1 - x) = 1 by [field; lra].
by rewrite ln_1; lra.
Qed.
Lemma ln11 : ln (1 / 1) = 0. Proof. by have -> : 1 / 1 = 1 by [field]; exact: ln_1. Qed.
Lemma D1_over t : PS (team 0) (step_kl 0) t Over = 0.
Proof. by elim: t => [//|t ih]; rewrite PS_step /step_kl /kl sumb /= ih ln11; lra. Qed.
Lemma D1_turn t : PS (team 0) (step_kl 0) t Turn = 0.
Proof.
elim: t => [//|t ih]; rewrite PS_step /step_kl /kl sumb -[go _ false _]/Turn -[go _ true _]/Over ih D1_over /=.
by have := kl2_self hp; rewrite /kl2; lra.
Qed.
Lemma D1_ask k m : PS (team 0) (step_kl 0) (k + m.+1)%nat (Ask k) = kl2 q q'.
Proof.
elim: k => [|k ih].
  by rewrite add0n PS_step -[go _ true _]/Turn -[go _ false _]/Over D1_over D1_turn /step_kl /kl sumb /= /kl2; lra.
rewrite addSn PS_step -[go _ false _]/(Ask k) ih /step_kl /kl sumb /= Rminus_0_r ln11; lra.
Qed.
Lemma D2_over t : PS (team 0) (step_kl 1) t Over = 0.
Proof. by elim: t => [//|t ih]; rewrite PS_step /step_kl /kl sumb /= ih ln11; lra. Qed.
Lemma D2_turn t : PS (team 0) (step_kl 1) t Turn = kl2 p p' * ((1 - (1 - p) ^ t) / p).
Proof.
elim: t => [|t ih]; first by rewrite /= Rminus_eq_0; lra.
rewrite PS_step -[go _ false _]/Turn -[go _ true _]/Over ih D2_over /step_kl /kl sumb /= /kl2; field; lra.
Qed.
Lemma D2_ask k m : PS (team 0) (step_kl 1) (k + m.+1)%nat (Ask k)
  = INR k * ln (1 / (1 - eps)) + q * (kl2 p p' * ((1 - (1 - p) ^ m) / p)).
Proof.
elim: k => [|k ih].
  rewrite add0n PS_step -[go _ true _]/Turn -[go _ false _]/Over D2_over D2_turn /step_kl /kl sumb /=.
  by have := kl2_self hq'; rewrite /kl2; lra.
rewrite addSn PS_step -[go _ false _]/(Ask k) ih S_INR /step_kl /kl sumb /= Rminus_0_r; lra.
Qed.
End Stage.

Lemma ln_up x : 1 <= x -> ln x <= (x - / x) / 2.
Proof.
move=> x1; case: (Rle_lt_or_eq_dec _ _ x1) => [lt|<-]; last by rewrite ln_1; lra.
have := @mono (fun c => (c - / c) / 2 - ln c) (fun c => (c - 1) ^ 2 / (2 * c ^ 2)) 1 x Rlt_0_1 lt.
rewrite ln_1 => h; suff : (1 - / 1) / 2 - 0 <= (x - / x) / 2 - ln x by lra.
apply: h => c hc; first by auto_derive; [lra | field; lra].
by apply: Rmult_le_pos (pow2_ge_0 _) _; apply/Rlt_le/Rinv_0_lt_compat; have := pow_lt c 2; lra.
Qed.
Lemma ln_dn x : 1 < x -> 2 * (x - 1) / (x + 1) <= ln x.
Proof. by move=> x1; have := k_mono Rlt_0_1 x1; rewrite k1 /k; lra. Qed.

(* the logarithms of D, each from the side that is needed *)
Lemma log_open : ln (1 / (1 - / 256)) <= 391391 / 100000000.
Proof. by have -> : 1 / (1 - / 256) = 256 / 255 by [field]; have := @ln_up (256 / 255) ltac:(lra); lra. Qed.
Lemma log_choice : kl2 (2 / 5) (9 / 25) <= 35126 / 10000000.
Proof.
rewrite /kl2; have -> : 2 / 5 / (9 / 25) = 10 / 9 by field.
have -> : (1 - 2 / 5) / (1 - 9 / 25) = 15 / 16 by field.
have := @ln_up (10 / 9) ltac:(lra); have := @ln_dn (16 / 15) ltac:(lra); rewrite (@ln_swap 15 16); lra.
Qed.
Lemma ln2_dn : 69266 / 100000 <= ln 2.
Proof.
have E : ln 2 = ln (9 / 8) + ln (10 / 9) + ln (11 / 10) + ln (12 / 11)
    + ln (13 / 12) + ln (14 / 13) + ln (15 / 14) + ln (16 / 15).
  by rewrite -!ln_mult; try lra; congr ln; field.
have := @ln_dn (9 / 8) ltac:(lra); have := @ln_dn (10 / 9) ltac:(lra); have := @ln_dn (11 / 10) ltac:(lra).
have := @ln_dn (12 / 11) ltac:(lra); have := @ln_dn (13 / 12) ltac:(lra); have := @ln_dn (14 / 13) ltac:(lra).
have := @ln_dn (15 / 14) ltac:(lra); have := @ln_dn (16 / 15) ltac:(lra); lra.
Qed.
Lemma log_turn : kl2 (/ 256) (/ 128) <= 12083 / 10000000.
Proof.
rewrite /kl2; have -> : / 256 / / 128 = 1 / 2 by field.
have -> : (1 - / 256) / (1 - / 128) = 255 / 254 by field.
have := @ln_swap 1 2 ltac:(lra) ltac:(lra); have -> : 2 / 1 = 2 by field.
by have := ln2_dn; have := @ln_up (255 / 254) ltac:(lra); lra.
Qed.

(* |stale_2| > 1.002 rho (delta0_1 + delta0_2), rho = 1: returns are in [0, 1] on every path. N = 128 turns to open and to win *)
Theorem S7b_shorter_fails : exists (j : place -> nat) (team : nat -> place -> bool -> R) (T : nat) (s : place),
  let J (i : nat) := Vp (team i) T s in
  let L := PS (team O) (@gain bool_finType unit_finType place sure go win (team 1%nat) (team 2%nat)) T s in
  let delta0 (k : nat) := PS (team O) (fun _ x => kl (team k x) (team k.+1 x)) T s in
  [/\ forall i, policy (team i), forall k x a, j x <> k -> team k.+1 x a = team k x a,
      keeps_path sure go (team O) (team 2%nat) T s,
      forall w : path bool_finType unit_finType T, 0 <= ret go win s w <= 1 &
      Rabs (J 2%nat - J 1%nat - L) > 1002 / 1000 * (delta0 O + delta0 1%nat)].
Proof.
have [N EN] : exists N, N = 128%nat by exists 128%nat.
have [m Em] : exists m, m = 127%nat by exists 127%nat.
pose team := shorter (/ 256) (2 / 5) (9 / 25) (/ 256) (/ 128).
have pol i : policy (team i) by case: i => [|[|i]]; apply: row_policy; lra.
exists (fun x => if x is Ask 0 then 0%nat else 1%nat), team, (N + m.+2)%nat, (Ask N) => J L delta0.
split=> [//|k x a||w|].
- by case: k => [|[|k]]; case: x => [[|l]|||] //= h; case: h.
- apply: (keeps_visited (vis := fun _ x => x <> Branch) sure_dist (pol O)) => //.
    by move=> u [[|k]|||] [] b //= _; rewrite /row; lra.
  by move=> u [[|k]|||] // _ [] /=; rewrite /row; lra.
- exact: ret01.
have L1 : L = _ := @L_ask (/ 256) (2 / 5) (9 / 25) (/ 256) (/ 128) ltac:(lra) ltac:(lra) ltac:(lra) N m.
have K1 : delta0 O = kl2 (2 / 5) (9 / 25).
  have h : 0 < / 256 < 1 by lra.
  exact: (@D1_ask (/ 256) (2 / 5) (9 / 25) (/ 256) (/ 128) h N m.+1).
have K2 : delta0 1%nat = _ := @D2_ask (/ 256) (2 / 5) (9 / 25) (/ 256) (/ 128) ltac:(lra) ltac:(lra) N m.+1.
have J1 : J 1%nat = 1 + (1 - 0) ^ N * (9 / 25 * (1 - (1 - / 256) ^ m.+1) - 1) := V_ask 0 1 (9 / 25) (/ 256) N m.+1.
have J2 : J 2%nat = 0 + (1 - / 256) ^ N * (9 / 25 * (1 - (1 - / 128) ^ m.+1) - 0) := V_ask (/ 256) 0 (9 / 25) (/ 128) N m.+1.
rewrite K1 K2 J1 J2 L1 {L1 K1 K2 J1 J2 J L delta0 pol team} EN Em !INR_IZR_INZ [Z.of_nat 128]/=.
have a := log_open; have b := log_choice; have c := log_turn.
set x := ln _ in a *; set y := kl2 _ _ in b *; set w := kl2 _ _ in c *.
have X : 0 <= (1 - (1 - / 256) ^ 128) / / 256 by lra.
have := Rmult_le_compat_r _ _ _ X c; clearbody x y w => d.
rewrite Rabs_left1; first lra.
lra.
Qed.
End Shorter.

(* ------------------------------------------------------------------ the branch: S4 is attained, at every discount and step *)
Section Attained.
Variables (g eps : R).
Hypotheses (g01 : 0 <= g < 1) (e01 : 0 <= eps <= 1).
(* 0 the start, 1 left, 2 right; the first action chooses the side, which never changes; "earn" pays 1 on the right *)
Definition side (s : 'I_3) (a : bool) : nat := match nat_of_ord s with O => if a then 2%nat else 1%nat | k => k end.
Definition to (s : 'I_3) (a : bool) (x : 'I_3) : R := if nat_of_ord x == side s a then 1 else 0.
Definition earn (s : 'I_3) (a : bool) : R := if (nat_of_ord s == 2%nat) && a then 1 else 0.
Definition yes (x y z : R) (s : 'I_3) (a : bool) : R :=
  let c := match nat_of_ord s with O => x | 1%nat => y | _ => z end in if a then c else 1 - c.
Definition at3 (x y z : R) (s : 'I_3) : R := match nat_of_ord s with O => x | 1%nat => y | _ => z end.
Lemma sum3 (F : 'I_3 -> R) : \sum_(s : 'I_3) F s = F (inord 0) + (F (inord 1) + F (inord 2)).
Proof.
rewrite !big_ord_recl big_ord0 Rplus_0_r; congr (F _ + (F _ + F _)); apply: val_inj; by rewrite /= inordK.
Qed.
Lemma all3 (X : 'I_3 -> Prop) : X (inord 0) -> X (inord 1) -> X (inord 2) -> forall s, X s.
Proof. by move=> h0 h1 h2 s; rewrite -(inord_val s); case: s => [[|[|[|k]]]]. Qed.
Let E0 : nat_of_ord (inord 0 : 'I_3) = 0%nat := inordK (isT : (0 < 3)%nat).
Let E1' : nat_of_ord (inord 1 : 'I_3) = 1%nat := inordK (isT : (1 < 3)%nat).
Let E2 : nat_of_ord (inord 2 : 'I_3) = 2%nat := inordK (isT : (2 < 3)%nat).
Let p := yes 0 0 0.
Let q := yes eps 0 1.
Let v' := at3 (g * eps / (1 - g)) 0 (/ (1 - g)).
Let m := at3 1 (g / (1 - g)) 0.
Ltac three :=
  apply: all3; rewrite /bellman /gaind /Qd /ev ?sumb ?sum3 ?sumb /p /q /v' /m /to /side /earn /yes /at3 ?E0 ?E1' ?E2 /=.
Lemma b1 : bellman to g earn p (fun _ => 0).
Proof. by three; lra. Qed.
Lemma b2 : bellman to g earn q v'.
Proof. by three; field; lra. Qed.
Lemma flw : flow to g (at3 1 0 0) p m.
Proof.
have m2 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
by split; three; try lra; field; lra.
Qed.
Lemma gains s : gaind to g earn p (fun _ => 0) q s = at3 0 0 1 s.
Proof. by move: s; three; lra. Qed.
Lemma yes_policy x y z : 0 <= x <= 1 -> 0 <= y <= 1 -> 0 <= z <= 1 -> policy (yes x y z).
Proof.
move=> hx hy hz s; split=> [a|]; rewrite ?sumb /yes; last lra.
by case: (nat_of_ord s) => [|[|k]]; case: a; lra.
Qed.
Lemma to_dist s a : dist (to s a).
Proof.
split=> [x|]; first by rewrite /to; case: ifP; lra.
by move: s; three; case: a; rewrite /=; lra.
Qed.
(* fresh = gamma/(1-gamma)^2 E_d[TV] span(g), for every gamma and eps *)
Theorem S4_attained : policy p /\ policy q /\ bellman to g earn p (fun _ => 0) /\ bellman to g earn q v' /\
  flow to g (at3 1 0 0) p m /\ span_le (gaind to g earn p (fun _ => 0) q) 1 /\
  at_rho (at3 1 0 0) v' - at_rho (at3 1 0 0) (fun _ => 0) - under m (gaind to g earn p (fun _ => 0) q)
    = g / (1 - g) ^ 2 * mean_TV g p q m * 1.
Proof.
split; first by apply: yes_policy; lra.
split; first by apply: yes_policy; lra.
split; first exact: b1.
split; first exact: b2.
split; first exact: flw.
split=> [x y|].
  by rewrite !gains /at3; case: (nat_of_ord x) => [|[|k]]; case: (nat_of_ord y) => [|[|k']]; lra.
have e0 := Rabs_pos_eq eps (proj1 e01).
rewrite /mean_TV /under /at_rho !sum3 !gains /tv !sumb /p /q /m /v' /at3 /yes E0 E1' E2.
have -> : eps - 0 = eps by lra.
have -> : 1 - eps - (1 - 0) = - eps by lra.
rewrite Rabs_Ropp e0 !Rminus_eq_0 Rabs_R0; field; lra.
Qed.
End Attained.
