(* P3.8 and P3.9: an agent is replaced. A replacement is an update like any other, only larger; what a closer newcomer gains. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Existence Paper Occupancy.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Pair.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Notation flow := (flow P g rho).
Variables (r : S -> A -> R) (Amax : R).
Implicit Types (p q : S -> A -> R).

Definition c_paper := sqrt 2 * g * Amax / (1 - g) ^ 2.
Definition adv v s a := Qd P g r v s a - v s.
(* L = sum m0 sum_a (new - old) A_0 *)
Definition surrogate p q v m := under m (fun s => \sum_(a : A) ((q s a - p s a) * adv v s a)).
Lemma surrogateE p q v m : policy p -> bellman P g r p v -> surrogate p q v m = under m (gaind P g r p v q).
Proof.
move=> hp bp; apply: sumE => s; congr (_ * _); rewrite /gaind /adv.
have z : \sum_(a : A) (p s a * (Qd P g r v s a - v s)) = 0 by rewrite -/(gaind P g r p v p s) gaindE // -bp; lra.
rewrite (sumE (G := fun a => q s a * (Qd P g r v s a - v s) - p s a * (Qd P g r v s a - v s))) => [|a]; last lra.
by rewrite sumB z; lra.
Qed.

(* P3.4 for any pair of policies, with the condition on supports at visited states only *)
Theorem P3_8 p q v v' m m' : policy p -> policy q -> bellman P g r p v -> bellman P g r q v' -> flow p m -> flow q m' ->
  seen m p q -> (forall s a, Rabs (adv v s a) <= Amax) ->
  Rabs (at_rho rho v' - at_rho rho v - surrogate p q v m) <= c_paper * sqrt (delta g p q m).
Proof.
move=> hp hq bp bq fl fl' hs hA; rewrite surrogateE //.
have hg s : - Amax <= gaind P g r p v q s <= Amax.
  apply: Rabs_def2_le; rewrite -(sum_const Amax (proj2 (hq s))); apply: Rle_trans (sum_abs _) _; apply: sum_le => a.
  by rewrite Rabs_mult Rabs_pos_eq; [apply: Rmult_le_compat_l; [exact: (proj1 (hq s)) | exact: hA] | exact: (proj1 (hq s))].
have A0 : 0 <= Amax by have := span_ge0 rho_dist hg; lra.
apply: Rle_trans (gap_tv g01 P_dist rho_dist hq hp bp bq fl' fl hg) _; rewrite (tv_l1 g01).
have o : only predT p q by []. 
have := S1 g01 P_dist hp hq fl fl' hs o => h.
have d0 := seen_delta_ge0 g01 hp hq fl hs.
have le : sqrt (share g m predT * delta g p q m) <= sqrt (delta g p q m).
  by apply: sqrt_le_1_alt; have := Rmult_le_compat_r _ _ _ d0 (share_le1 g01 P_dist rho_dist predT hp fl); lra.
have k0 : 0 <= sqrt 2 * g / (1 - g).
  by apply: Rmult_le_pos; [apply: Rmult_le_pos (sqrt_pos _) (proj1 g01) | apply/Rlt_le/Rinv_0_lt_compat; lra].
have {}h := Rle_trans _ _ _ h (Rmult_le_compat_l _ _ _ k0 le).
have i0 : 0 <= Amax / (1 - g) by apply: Rmult_le_pos A0 _; apply/Rlt_le/Rinv_0_lt_compat; lra.
have := Rmult_le_compat_l _ _ _ i0 h.
have -> : Amax / (1 - g) * ((1 - g) * l1 m m') = (Amax - - Amax) / (1 - g) * ((1 - g) / 2 * l1 m m') by field; lra.
by have -> : Amax / (1 - g) * (sqrt 2 * g / (1 - g) * sqrt (delta g p q m)) = c_paper * sqrt (delta g p q m)
  by rewrite /c_paper; field; lra.
Qed.

(* turn-taking: the newcomer k has rows of its own where k speaks, and its KL is counted there *)
Corollary P3_8_turns p q v v' m m' (T : pred S) : policy p -> policy q -> bellman P g r p v -> bellman P g r q v' ->
  flow p m -> flow q m' -> only T p q -> (forall s, T s -> 0 < m s -> keeps (p s) (q s)) ->
  (forall s a, Rabs (adv v s a) <= Amax) ->
  Rabs (at_rho rho v' - at_rho rho v - surrogate p q v m)
    <= c_paper * sqrt ((1 - g) * under m (fun s => ind (T s) * kl (p s) (q s))).
Proof.
move=> hp hq bp bq fl fl' ho hs hA.
have sn : seen m p q.
  move=> s ms; case t : (T s); first exact: hs.
  by move=> a; rewrite ho ?t.
have -> : (1 - g) * under m (fun s => ind (T s) * kl (p s) (q s)) = delta g p q m.
  congr (_ * _); apply: sumE => s; congr (_ * _); rewrite /ind; case t : (T s); first lra.
  by rewrite (kl_self (hp s)) => [|a]; [lra | rewrite ho ?t].
exact: (P3_8 hp hq bp bq fl fl' sn hA).
Qed.
End Pair.

(* product team: the KL is that of old and new agent k *)
Section Product.
Variables (S M : finType) (n : nat).
Let A := functions ('I_n) M.
Variables (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (r : S -> A -> R) (Amax : R) (old : 'I_n -> S -> M -> R) (k : 'I_n) (new : S -> M -> R).
Hypotheses (h_old : forall l, policy (old l)) (h_new : policy new).
Definition base s (a : A) := joint (fun l => old l s) a.
Definition swapped s (a : A) := joint (fun l => if l == k then new s else old l s) a.
Corollary P3_8_product v v' m m' : bellman P g r base v -> bellman P g r swapped v' ->
  flow P g rho base m -> flow P g rho swapped m' ->
  (forall s, 0 < m s -> keeps (old k s) (new s)) -> (forall s a, Rabs (adv P g r v s a) <= Amax) ->
  Rabs (at_rho rho v' - at_rho rho v - surrogate P g r base swapped v m)
    <= c_paper g Amax * sqrt ((1 - g) * under m (fun s => kl (old k s) (new s))).
Proof.
move=> bp bq fl fl' hs hA; pose sw s l := if l == k then new s else old l s.
have dsw s l : dist (sw s l) by rewrite /sw; case: eqP => _; [exact: h_new | exact: h_old].
have ksw s l : 0 < m s -> keeps (old l s) (sw s l) by move=> ms; rewrite /sw; case: eqP => [->|_]; [exact: hs | by []].
have hb : policy base by move=> s; apply: joint_dist => l; exact: h_old.
have hsw : policy swapped by move=> s; apply: joint_dist => l; exact: dsw.
have sn : seen m base swapped.
  move=> s ms f h; apply: (big_ind (Rlt 0)) => [|x y|l _]; [lra | exact: Rmult_lt_0_compat |].
  apply: (ksw s l ms); case: (pos_or_0 (proj1 (h_old l s) (f l))) => // z.
  by move: h; rewrite /base /joint (bigD1 l) //= z; lra.
have -> : (1 - g) * under m (fun s => kl (old k s) (new s)) = delta g base swapped m.
  congr (_ * _); apply: sumE => s; case: (pos_or_0 (proj1 fl s)) => [ms|->]; last lra.
  congr (_ * _); rewrite (P3_1 (p := fun l => old l s) (q := sw s)) // => [|l|l]; first last.
  - exact: ksw.
  - exact: h_old.
  rewrite (bigD1 k) //= {1}/sw eqxx big1 => [|l /negbTE ne]; first lra.
  by rewrite /sw ne; apply: (kl_self (h_old l s)).
exact: (P3_8 g01 P_dist rho_dist hb hsw bp bq fl fl' sn hA).
Qed.
End Product.

(* inside a stage: two stages with the same hybrids up to i have the same numbers up to i, and the same rows, hence the
   same terms, for the updates before i; A and m of update i are the same as well *)
Section Inside.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (r : S -> A -> R) (team team' : nat -> S -> A -> R) (v v' m m' : nat -> S -> R) (i : nat).
Hypotheses (ht : forall k, policy (team k)) (ht' : forall k, policy (team' k)).
Hypotheses (hv : forall k, bellman P g r (team k) (v k)) (hv' : forall k, bellman P g r (team' k) (v' k)).
Hypotheses (hm : forall k, flow P g rho (team k) (m k)) (hm' : forall k, flow P g rho (team' k) (m' k)).
Hypothesis same : forall k s a, (k <= i)%nat -> team' k s a = team k s a.
Lemma same_v k s : (k <= i)%nat -> v' k s = v k s.
Proof.
move=> ki; apply: (value_unique g01 P_dist (ht k) (r := r)) => // x; rewrite hv'.
by apply: sumE => a; rewrite same.
Qed.
Lemma same_m k s : (k <= i)%nat -> m' k s = m k s.
Proof.
move=> ki; have := T1 g01 P_dist (ht k) (ht' k) (hm k) (hm' k).
have -> : under (m k) (fun s => tv (team k s) (team' k s)) = 0.
  by apply: sum0 => x; rewrite /tv sum0 => [|a]; [lra | rewrite same // Rminus_eq_0 Rabs_R0].
rewrite Rmult_0_r => h; have t : Rabs (m' k s - m k s) <= l1 (m k) (m' k) := term_le_sum s (fun x => Rabs_pos (m' k x - m k x)).
by have := Rabs_def2_le (Rle_trans _ _ _ t h); lra.
Qed.
Theorem P3_8_inside k : (k <= i)%nat ->
  at_rho rho (v' k) = at_rho rho (v k) /\ (forall s a, adv P g r (v' k) s a = adv P g r (v k) s a) /\
  (forall s, m' k s = m k s) /\
  ((k < i)%nat -> delta g (team' k) (team' k.+1) (m' k) = delta g (team k) (team k.+1) (m k) /\
    surrogate P g r (team' k) (team' k.+1) (v' k) (m' k) = surrogate P g r (team k) (team k.+1) (v k) (m k)).
Proof.
move=> ki; have V s := same_v s ki; have M s := same_m s ki.
have Ad s a : adv P g r (v' k) s a = adv P g r (v k) s a by rewrite /adv /Qd V (evE P s a V).
do !split=> //; first by apply: sumE => s; rewrite V.
- congr (_ * _); apply: sumE => s; rewrite M; congr (_ * _); apply: klE => a; exact: same.
- move: H => lt; apply: sumE => s; rewrite M; congr (_ * _); apply: sumE => a; rewrite Ad !same //.
Qed.
End Inside.

(* episodic, by layers: |gap| <= sum_t 2 Amax_t min(1, sum_{u<t} sqrt(kappa_u / 2)), the form of P3.4 for any pair *)
Theorem P3_8_episodic (S A : finType) (P : S -> A -> S -> R) rho (r : S -> A -> S -> R) (p q : S -> A -> R) T (Amax : nat -> R) :
  (forall s a, dist (P s a)) -> dist rho -> policy p -> policy q -> (forall u, (u < T)%nat -> seen (layer P rho p u) p q) ->
  (forall t s a, (t < T)%nat -> Rabs (Adv P (fun _ _ b => b) r p (T - t.+1)%nat s a) <= Amax t) ->
  Rabs (Jep P rho r T q - Jep P rho r T p - Lep P rho r p q p T)
    <= \big[Rplus/0]_(t < T) (2 * Amax t * Rmin 1 (\big[Rplus/0]_(u < t) sqrt (kappa P rho p q u / 2))).
Proof.
move=> hP hr hp hq hs hA; have := S1_episodic_gap hP hr hp hq hs (U := predT) (fun s a (h : ~~ true) => match notF h with end) hA.
have one u : share_t P rho p predT u = 1.
  by rewrite -(proj2 (layer_dist hP hr u hp)); apply: sumE => s; rewrite /ind /=; lra.
move=> h; apply: Rle_trans h _; apply: Req_le; apply: eq_bigr => t _; congr (_ * Rmin 1 _).
by apply: eq_bigr => u _; rewrite one Rmult_1_l.
Qed.

(* ---- P3.9 *)
Section Mixture.
Variable A : finType.
Implicit Types p q : A -> R.
Definition mix lam p q a := (1 - lam) * p a + lam * q a.
Lemma mix_dist lam p q : 0 <= lam <= 1 -> dist p -> dist q -> dist (mix lam p q).
Proof.
move=> l [p0 p1] [q0 q1]; split=> [a|]; last by rewrite sumD !sumZ p1 q1; lra.
by apply: Rplus_le_le_0_compat; apply: Rmult_le_pos => //; lra.
Qed.
(* convex: a mixture has at most lam times the KL *)
Lemma kl_mix lam p q : 0 <= lam <= 1 -> dist p -> dist q -> keeps p q -> kl p (mix lam p q) <= lam * kl p q.
Proof.
move=> l [p0 _] [q0 _] k; rewrite /kl -sumZ; apply: sum_le => a.
pose x (b : bool) := if b then (1 - lam) * p a else lam * p a.
pose y (b : bool) := if b then (1 - lam) * p a else lam * q a.
have x0 b : 0 <= x b by case: b; apply: Rmult_le_pos => //; lra.
have y0 b : 0 <= y b by case: b; apply: Rmult_le_pos => //; lra.
have kx : keeps x y.
  by case=> //= /(pos_factors (proj1 l) (p0 a)) [l0 pa]; apply: Rmult_lt_0_compat l0 (k a pa).
have := log_sum x0 y0 kx; rewrite /kl !big_bool /= -/(mix lam p q a) (_ : (1 - lam) * p a + lam * p a = p a); last ring.
rewrite (self_log (x0 true)).
suff -> : lam * p a * ln (lam * p a / (lam * q a)) = lam * (p a * ln (p a / q a)) by lra.
case: (pos_or_0 (proj1 l)) => [l0|->]; last lra.
case: (pos_or_0 (p0 a)) => [pa|->]; last lra.
by have qa := k a pa; rewrite (_ : lam * p a / (lam * q a) = p a / q a); [ring | field; lra].
Qed.
(* and a finite one whatever the newcomer drops *)
Lemma kl_mix_drop lam p q : 0 <= lam < 1 -> dist p -> dist q -> kl p (mix lam p q) <= - ln (1 - lam).
Proof.
move=> l [p0 p1] [q0 _]; rewrite -(sum_const (- ln (1 - lam)) p1); apply: sum_le => a.
case: (pos_or_0 (p0 a)) => [pa|->]; last lra.
apply: Rmult_le_compat_l (p0 a) _; have m0 : (1 - lam) * p a <= mix lam p q a.
  by rewrite /mix; have := Rmult_le_pos _ _ (proj1 l) (q0 a); lra.
have n0 : 0 < (1 - lam) * p a by apply: Rmult_lt_0_compat; lra.
rewrite ln_swap //; last lra; apply: Ropp_le_contravar.
apply: Rcomplements.ln_le; first lra.
apply: (Rmult_le_reg_r (p a)) => //; rewrite (_ : mix lam p q a / p a * p a = mix lam p q a) //; field; lra.
Qed.
End Mixture.

(* with c fixed the certificate of the update grows with L and falls with delta *)
Theorem P3_9 c L L' d d' : 0 <= c -> L <= L' -> d' <= d -> L - c * sqrt d <= L' - c * sqrt d'.
Proof. by move=> c0 hL hd; have := Rmult_le_compat_l _ _ _ c0 (sqrt_le_1_alt _ _ hd); lra. Qed.

(* the mixture of old and new rows: those of the team, or (product team) those of the one agent *)
Section Mixed.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (lam : R) (team : S -> A -> R) (m : S -> R).
Hypotheses (ht : policy team) (fl : flow P g rho team m).
Section Rows.
Variables (B : finType) (p q : S -> B -> R).
Hypotheses (hp : policy p) (hq : policy q).
Definition pmix s := mix lam (p s) (q s).
Notation d q := ((1 - g) * under m (fun s => kl (p s) (q s))).
Theorem P3_9_delta : 0 <= lam <= 1 -> (forall s, 0 < m s -> keeps (p s) (q s)) -> d pmix <= lam * d q.
Proof.
move=> l hs; rewrite -Rmult_assoc (Rmult_comm lam) Rmult_assoc; apply: Rmult_le_compat_l; first lra.
rewrite /under -sumZ; apply: sum_le => s; case: (pos_or_0 (proj1 fl s)) => [ms|->]; last lra.
by have := Rmult_le_compat_l _ _ _ (proj1 fl s) (kl_mix l (hp s) (hq s) (hs s ms)); rewrite /pmix; lra.
Qed.
Corollary P3_9_penalty c : 0 <= c -> 0 <= lam <= 1 -> (forall s, 0 < m s -> keeps (p s) (q s)) ->
  c * sqrt (d pmix) <= sqrt lam * (c * sqrt (d q)).
Proof.
move=> c0 l hs; rewrite -Rmult_assoc (Rmult_comm (sqrt lam)) Rmult_assoc -sqrt_mult_alt; last lra.
by apply: Rmult_le_compat_l c0 _; apply: sqrt_le_1_alt; exact: P3_9_delta.
Qed.
(* the newcomer may drop actions: every mixture with lam < 1 is finite *)
Theorem P3_9_drop : 0 <= lam < 1 -> d pmix <= - ln (1 - lam).
Proof.
move=> l; have le : under m (fun s => kl (p s) (pmix s)) <= (\sum_(s : S) m s) * - ln (1 - lam).
  rewrite -sumZr; apply: sum_le => s; exact: Rmult_le_compat_l (proj1 fl s) (kl_mix_drop l (hp s) (hq s)).
rewrite (mass g01 P_dist rho_dist ht fl) in le; have := Rmult_le_compat_l (1 - g) _ _ ltac:(lra) le.
by rewrite (_ : (1 - g) * (/ (1 - g) * - ln (1 - lam)) = - ln (1 - lam)); [| field; lra].
Qed.
End Rows.
(* the surrogate is linear *)
Theorem P3_9_surrogate r q v : surrogate P g r team (pmix team q) v m = lam * surrogate P g r team q v m.
Proof.
rewrite /surrogate /under -sumZ; apply: sumE => s; rewrite -Rmult_assoc (Rmult_comm lam) Rmult_assoc; congr (_ * _).
by rewrite -sumZ; apply: sumE => a; rewrite /pmix /mix; ring.
Qed.
End Mixed.
(* in a product team the mixture of one agent's rows is the mixture of the team's *)
Lemma joint_mix (I M : finType) (k : I) lam (old : I -> M -> R) (new : M -> R) f :
  joint (fun l => if l == k then mix lam (old k) new else old l) f
  = mix lam (joint old) (joint (fun l => if l == k then new else old l)) f.
Proof.
have E (x : M -> R) : joint (fun l => if l == k then x else old l) f = x (f k) * \big[Rmult/1]_(l | l != k) old l (f l).
  rewrite /joint (bigD1 k) //= eqxx; congr (_ * _).
  by apply: eq_bigr => l /negbTE ->.
have O : joint old f = joint (fun l => if l == k then old k else old l) f.
  by apply: eq_bigr => l _; case: eqP => [->|].
by rewrite /mix O !E; ring.
Qed.
