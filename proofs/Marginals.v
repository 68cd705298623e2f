(* E1: episodic teams layer by layer. d_t is the law of the state after t steps; a gap is the sum over the layers of
   (d'_t - d_t) g_t, and TV(d'_t, d_t) is bounded by the steps made before t. The KL of d_t grows in a step by at most the
   expected KL of the step (LogSum.kl_step), so that no law of a path is needed. An episode that can end early has the end
   among its states, as one at which nobody acts.
   Here also: the rule of equal masses, and for both protocols that the KL of a stage is the sum over its updates. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted LogSum.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* big_ord_recr with the plain +, so that lra sees it *)
Lemma sum_recr n (F : nat -> R) : \big[Rplus/0]_(k < n.+1) F k = \big[Rplus/0]_(k < n) F k + F n.
Proof. exact: big_ord_recr. Qed.

(* ---- equal masses: a difference of two measures of one mass sees only the span of f, and only where the measures differ *)
Section Masses.
Variable I : finType.
Implicit Types m f : I -> R.
Lemma least (D : I -> Prop) f : (forall i, D i \/ ~ D i) ->
  (forall i, ~ D i) \/ exists j, D j /\ forall i, D i -> f j <= f i.
Proof.
move=> dec; suff H (l : seq I) : (forall i, i \in l -> ~ D i) \/ exists j, D j /\ forall i, i \in l -> D i -> f j <= f i.
  case: (H (enum I)) => [h|[j [Dj h]]]; [left | right; exists j; split=> //] => i; apply: h; exact: mem_enum.
elim: l => [|i l ih]; first by left.
case: (dec i) => Di; last first.
  case: ih => [h|[j [Dj h]]]; [left | right; exists j; split=> //] => k; rewrite in_cons => /orP[/eqP->|] //; exact: h.
right; case: ih => [h|[j [Dj h]]].
  exists i; split=> // k; rewrite in_cons => /orP[/eqP-> _|/h] //; lra.
case: (Rle_lt_dec (f i) (f j)) => ij; [exists i | exists j]; split=> // k; rewrite in_cons => /orP[/eqP->|kl Dk] //; try lra.
  by have := h k kl Dk; lra.
exact: h.
Qed.

Lemma bounded_masses m m' f lo hi : \sum_(x : I) m x = \sum_(x : I) m' x -> (forall x, m x <> m' x -> lo <= f x <= hi) ->
  Rabs (\sum_(x : I) ((m' x - m x) * f x)) <= tv m m' * (hi - lo).
Proof.
move=> M h; set c := (lo + hi) / 2.
have -> : \sum_(x : I) ((m' x - m x) * f x) = \sum_(x : I) ((m' x - m x) * (f x - c)).
  rewrite [RHS](sumE (G := fun x => (m' x - m x) * f x - (m' x * c - m x * c))) => [|x]; last lra.
  by rewrite sumB sumB !sumZr M; lra.
have -> : tv m m' * (hi - lo) = \sum_(x : I) (Rabs (m' x - m x) * ((hi - lo) / 2)) by rewrite sumZr /tv; lra.
apply: Rle_trans (sum_abs _) _; apply: sum_le => x; rewrite Rabs_mult.
case: (Req_dec (m x) (m' x)) => [->|n]; first by rewrite Rminus_eq_0 Rabs_R0; lra.
by apply: Rmult_le_compat_l (Rabs_pos _) _; apply: Rabs_le; have := h x n; rewrite /c; lra.
Qed.

Lemma equal_masses m m' f B : \sum_(x : I) m x = \sum_(x : I) m' x ->
  (forall x y, m x <> m' x -> m y <> m' y -> f x - f y <= B) -> Rabs (\sum_(x : I) ((m' x - m x) * f x)) <= tv m m' * B.
Proof.
move=> M h; have dec x : (m x <> m' x) \/ ~ (m x <> m' x) by case: (Req_dec (m x) (m' x)); [right | left].
have -> : tv m m' * B = tv m m' * (B + 0) by lra.
case: (least f dec) => [n|[y [my ly]]].
  have E x : m' x - m x = 0 by case: (Req_dec (m x) (m' x)) => [->|/n //]; lra.
  rewrite /tv !sum0; rewrite ?Rabs_R0; try lra; move=> x; rewrite E ?Rabs_R0; lra.
have := @bounded_masses m m' f (f y) (f y + B) M; rewrite (_ : f y + B - f y = B + 0); last lra.
by apply=> x mx; have := ly x mx; have := h x y mx my; lra.
Qed.

Lemma tv_triangle m1 m2 m3 : tv m1 m3 <= tv m1 m2 + tv m2 m3.
Proof.
rewrite /tv; suff : \sum_(x : I) Rabs (m3 x - m1 x) <= \sum_(x : I) Rabs (m2 x - m1 x) + \sum_(x : I) Rabs (m3 x - m2 x) by lra.
rewrite -sumD; apply: sum_le => x; have := Rabs_triang (m2 x - m1 x) (m3 x - m2 x).
by rewrite (_ : m2 x - m1 x + (m3 x - m2 x) = m3 x - m1 x) //; lra.
Qed.
Lemma tv_self m m' : (forall x, m' x = m x) -> tv m m' = 0.
Proof. by move=> E; rewrite /tv sum0 => [|x]; [lra | rewrite E Rminus_eq_0 Rabs_R0]. Qed.
Lemma tv_chain (m : nat -> I -> R) n : tv (m O) (m n) <= \big[Rplus/0]_(k < n) tv (m k) (m k.+1).
Proof.
elim: n => [|n ih]; first by rewrite big_ord0 tv_self //; lra.
by rewrite (sum_recr n (fun k => tv (m k) (m k.+1))); have := tv_triangle (m O) (m n) (m n.+1); lra.
Qed.
Lemma tv_le1 m m' : dist m -> dist m' -> tv m m' <= 1.
Proof.
move=> [m0 m1] [m0' m1']; rewrite /tv.
suff : \sum_(x : I) Rabs (m' x - m x) <= \sum_(x : I) (m' x + m x) by rewrite sumD m1 m1'; lra.
by apply: sum_le => x; apply: Rabs_le; have := m0 x; have := m0' x; lra.
Qed.
Lemma kl_pos m m' : measure m -> measure m' -> \sum_(x : I) m x = \sum_(x : I) m' x -> keeps m m' -> 0 <= kl m m'.
Proof.
move=> m0 m0' M k; have := sum_le (fun x => log_tangent (m0 x) (m0' x) (@k x) Rlt_0_1).
rewrite ln_1 sumB sumD sumZr sumZ M /kl; lra.
Qed.
End Masses.

(* ---- a stage: row by row, its KL is the sum over its updates (P3.1, both protocols); rk: the place of an agent in the order *)
Section Protocols.
Variables (S I A : finType) (rk : I -> nat).
Definition adds (team : nat -> S -> A -> R) n x := kl (team O x) (team n x) = \big[Rplus/0]_(k < n) kl (team k x) (team k.+1 x).

(* what has moved after k updates *)
Lemma moved_sum (F : R) (r n : nat) : (if (r < n)%nat then F else 0) = \big[Rplus/0]_(k < n) (if r == k then F else 0).
Proof.
elim: n => [|n ih]; first by rewrite big_ord0.
rewrite (sum_recr n (fun k => if r == k then F else 0)) -ih ltnS leq_eqVlt.
by case: (ltngtP r n) => _ /=; lra.
Qed.

Variables (j : S -> I) (cur new : S -> A -> R).
Definition turns k x := if (rk (j x) < k)%nat then new x else cur x.
Lemma adds_turns n x : policy cur -> policy new -> adds turns n x.
Proof.
move=> hc hn; have s1 := kl_self (proj1 (hc x)); have s2 := kl_self (proj1 (hn x)).
have E : kl (turns O x) (turns n x) = if (rk (j x) < n)%nat then kl (cur x) (new x) else 0.
  by rewrite /turns ltn0; case: ifP.
rewrite /adds E moved_sum; apply: eq_bigr => k _; rewrite /turns ltnS (leq_eqVlt (rk (j x)) k).
by case: (ltngtP (rk (j x)) k).
Qed.
End Protocols.
Section ProductTeam.
Variables (S I M : finType) (rk : I -> nat) (cur new : S -> I -> M -> R).
Definition together k x := joint (fun l => if (rk l < k)%nat then new x l else cur x l).
Lemma adds_together n x : (forall l, dist (cur x l)) -> (forall l, dist (new x l)) -> (forall l, keeps (cur x l) (new x l)) ->
  adds together n x.
Proof.
move=> hc hn hk; have s1 l := kl_self (proj1 (hc l)); have s2 l := kl_self (proj1 (hn l)).
have K1 l (b c : bool) : (b -> c) -> keeps (if b then new x l else cur x l) (if c then new x l else cur x l).
  by case: b c => [] [] h a //; [have := h isT | exact: hk].
have D l (b : bool) : dist (if b then new x l else cur x l) by case: b.
have P k k' : (k <= k')%nat -> kl (together k x) (together k' x)
    = \sum_(l : I) (if (k <= rk l < k')%nat then kl (cur x l) (new x l) else 0).
  move=> kk; rewrite P3_1 => [|l|l|l]; try exact: D; last by apply: K1 => /leq_trans; apply.
  apply: sumE => l; rewrite (leqNgt k); case: (ltnP (rk l) k) => h /=; last by case: ifP.
  by rewrite (leq_trans h kk).
rewrite /adds P // (sumE (G := fun l => \big[Rplus/0]_(k < n) (if rk l == k then kl (cur x l) (new x l) else 0))) => [|l].
  rewrite sum_swap; apply: eq_bigr => k _; rewrite P //; apply: sumE => l.
  by rewrite ltnS eqn_leq andbC.
by rewrite leq0n /= moved_sum.
Qed.
(* the total variation of the team is that of the one agent that moved *)
Lemma tv_together (y z : I -> M -> R) l : (forall k, dist (y k)) -> (forall k, k != l -> forall m, z k m = y k m) ->
  tv (joint y) (joint z) = tv (y l) (z l).
Proof.
move=> hy E; pose w k m := if k == l then Rabs (z l m - y l m) else y k m.
have D (u : I -> M -> R) (f : {ffun I -> M}) : joint u f = u l (f l) * \big[Rmult/1]_(k | k != l) u k (f k).
  by rewrite /joint (bigD1 l).
have W (f : {ffun I -> M}) : Rabs (joint z f - joint y f) = joint w f.
  set Y := \big[Rmult/1]_(k | k != l) y k (f k).
  have pos : 0 <= Y by apply: (big_ind (Rle 0)) => [||k _]; [lra | exact: Rmult_le_pos | exact: (proj1 (hy k))].
  have Z : \big[Rmult/1]_(k | k != l) z k (f k) = Y by apply: eq_bigr => k kl; rewrite E.
  have X : \big[Rmult/1]_(k | k != l) w k (f k) = Y by apply: eq_bigr => k /negbTE kl; rewrite /w kl.
  rewrite (D z) (D y) (D w) Z X -/Y {1}/w eqxx -(Rabs_pos_eq _ pos) -Rabs_mult (Rabs_pos_eq _ pos).
  by congr Rabs; lra.
rewrite /tv (sumE W) -(bigA_distr_bigA (fun k m => w k m)) (bigD1 l) //= /w eqxx.
rewrite [X in _ * (_ * X)]big1 ?Rmult_1_r // => k /negbTE kl; rewrite kl; exact: (proj2 (hy k)).
Qed.
End ProductTeam.

(* ---- the laws of the layers *)
Section Layers.
Variables (S A B : finType) (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Hypothesis e_dist : forall s a, dist (e s a).
Implicit Types (p q b : S -> A -> R) (m : S -> R) (f : nat -> S -> R).
Definition hit s a x := \sum_(c : B) (if next s a c == x then e s a c else 0).
Lemma after_hit s a (f : S -> R) : after e next s a f = \sum_(x : S) (hit s a x * f x).
Proof.
rewrite /after /hit (sumE (F := fun x => _ * f x) (G := fun x => \sum_(c : B) (if next s a c == x then e s a c * f x else 0))).
  by rewrite sum_swap; apply: sumE => c; rewrite -big_mkcond (big_pred1 (next s a c)) // => x; rewrite eq_sym.
by move=> x; rewrite -sumZr; apply: sumE => c; case: eqP; lra.
Qed.
Lemma hit_dist s a : dist (hit s a).
Proof.
have [e0 e1] := e_dist s a; split=> [x|]; first by apply: sum_ge0 => c; case: eqP => _; [exact: e0 | lra].
have := after_hit s a (fun _ => 1); rewrite /after sumZr e1 sumZr; lra.
Qed.

Definition layer p m (t : nat) := ssrnat.iter t (push hit p) m.
Lemma layer_dist p m t : policy p -> dist m -> dist (layer p m t).
Proof.
move=> hp hm; elim: t => [//|t [d0 d1]]; split; first by move=> x; exact: (push_pos hit_dist d0 hp x).
by rewrite [layer _ _ _]/= push_mass //; exact: hit_dist.
Qed.
Lemma layers_sum p f T m :
  \sum_(x : S) (m x * path_sum e next p f T x) = \big[Rplus/0]_(t < T) \sum_(x : S) (layer p m t x * f (T - t.+1)%nat x).
Proof.
elim: T m => [|T ih] m; first by rewrite big_ord0 sum0 // => x; rewrite /=; lra.
rewrite big_ord_recl /= subSS subn0 (eq_bigr (fun t : 'I_T => \sum_(x : S) (layer p (push hit p m) t x * f (T - t.+1)%nat x))).
  rewrite -ih -sumD.
  rewrite (sumE (F := fun x => m x * (_ + _))
    (G := fun x => m x * f T x + m x * \sum_(a : A) (p x a * after e next x a (path_sum e next p f T)))) => [|x]; last lra.
  rewrite !sumD; congr (_ + _).
  rewrite /push [RHS](sumE (G := fun y => \sum_(x : S) (m x * (\sum_(a : A) (p x a * hit x a y)) * path_sum e next p f T y)));
    last by move=> y; rewrite sumZr.
  rewrite sum_swap; apply: sumE => x.
  rewrite [RHS](sumE (G := fun y => m x * \sum_(a : A) (p x a * (hit x a y * path_sum e next p f T y)))) => [|y].
    by rewrite sumZ sum_swap; congr (_ * _); apply: sumE => a; rewrite sumZ after_hit.
  by rewrite Rmult_assoc -sumZr; congr (_ * _); apply: sumE => a; lra.
by move=> t _; rewrite /bump /= add1n subSS /layer -iterSr.
Qed.

(* ---- how far the layers move *)
Section Shift.
Variables (rho : S -> R) (b q : S -> A -> R).
Hypotheses (hr : dist rho) (hb : policy b) (hq : policy q).
Notation d := (layer b rho). Notation d' := (layer q rho).
Definition etv t := \sum_(x : S) (d t x * tv (b x) (q x)).
Definition kappa t := \sum_(x : S) (d t x * kl (b x) (q x)).
Lemma d_ge0 t : measure (d t). Proof. exact: proj1 (layer_dist t hb hr). Qed.

(* TV(d'_t, d_t) <= min (1, sum_{u<t} E TV_u); nothing is asked of supports *)
Theorem E1_shift_tv t : tv (d t) (d' t) <= Rmin 1 (\big[Rplus/0]_(u < t) etv u).
Proof.
apply: Rmin_glb; first by apply: tv_le1; apply: layer_dist.
elim: t => [|t ih]; first by rewrite big_ord0 tv_self //; lra.
rewrite (sum_recr t etv); apply: Rle_trans (tv_step hit_dist (d' t) (d_ge0 t) hb hq) _; rewrite -/(etv t); lra.
Qed.

Lemma keeps_layer t : (forall u, (u < t)%nat -> keeps_at (d u) b q) -> keeps (d t) (d' t).
Proof.
elim: t => [|t ih] hk; first by move=> x.
apply: (keeps_push hit_dist (d_ge0 t) _ hb hq); last exact: hk.
  exact: proj1 (layer_dist t hq hr).
by apply: ih => u ut; apply: hk; apply: ltnW.
Qed.
(* the KL of the law of the state at time t is at most the KL of the path before t *)
Theorem kl_layer t : (forall u, (u < t)%nat -> keeps_at (d u) b q) -> kl (d t) (d' t) <= \big[Rplus/0]_(u < t) kappa u.
Proof.
elim: t => [|t ih] hk; first by rewrite big_ord0 kl_self; [lra | exact: proj1 hr].
have hk' u : (u < t)%nat -> keeps_at (d u) b q by move=> ut; apply: hk; apply: ltnW.
rewrite (sum_recr t kappa).
apply: Rle_trans (kl_step hit_dist (d_ge0 t) (proj1 (layer_dist t hq hr)) hb hq (keeps_layer hk') (hk t (ltnSn t))) _.
by have := ih hk'; rewrite -/(kappa t); lra.
Qed.
(* the whole minimum, where the KLs at visited states are finite *)
Theorem E1_shift t : (forall u, (u < t)%nat -> keeps_at (d u) b q) ->
  tv (d t) (d' t) <= Rmin 1 (Rmin (\big[Rplus/0]_(u < t) etv u) (sqrt (/ 2 * \big[Rplus/0]_(u < t) kappa u))).
Proof.
move=> hk; have h := E1_shift_tv t; set X := \big[Rplus/0]_(u < t) etv u in h *.
have h1 := Rmin_l 1 X; have h2 := Rmin_r 1 X; do 2?apply: Rmin_glb; try lra.
rewrite -(sqrt_Rsqr _ (tv_ge0 _ _)); apply: sqrt_le_1_alt; rewrite /Rsqr.
have := pinsker (layer_dist t hb hr) (layer_dist t hq hr) (keeps_layer hk); have := kl_layer hk; lra.
Qed.
(* E TV_u <= sqrt (kappa_u / 2) *)
Lemma etv_kappa t : keeps_at (d t) b q -> etv t <= sqrt (kappa t / 2).
Proof.
move=> hk; have E0 : 0 <= etv t by apply: sum_ge0 => x; apply: Rmult_le_pos (d_ge0 t x) (tv_ge0 _ _).
rewrite -(sqrt_Rsqr _ E0); apply: sqrt_le_1_alt.
have := cauchy (fun x => tv (b x) (q x)) (d_ge0 t); rewrite (proj2 (layer_dist t hb hr)) -/(etv t) /Rsqr.
suff : \sum_(x : S) (d t x * tv (b x) (q x) ^ 2) <= kappa t / 2 by lra.
rewrite /kappa /Rdiv -sumZr; apply: sum_le => x; case: (Rle_lt_or_eq_dec _ _ (d_ge0 t x)) => [dx|<-]; last lra.
by have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ dx) (pinsker (hb x) (hq x) (hk x dx)); lra.
Qed.
End Shift.

(* ---- E1: rollouts of b, update from p to q. Fresh: b = p. Stale: b is the team at the start of the stage. *)
Section Gap.
Variables (r : S -> A -> B -> R) (rho : S -> R) (b p q : S -> A -> R) (T : nat).
Hypotheses (hr : dist rho) (hb : policy b) (hp : policy p) (hq : policy q).
Notation d := (layer b rho). Notation d' := (layer q rho).
Definition at_layer t x := gain e next r p q (T - t.+1)%nat x.                                (* g_t *)
Definition gap := at_rho rho (V e next r q T) - at_rho rho (V e next r p T)
  - at_rho rho (path_sum e next b (gain e next r p q) T).
(* what the updated agent's layers are; elsewhere no row moves that is met *)
Variable can : nat -> bool.
Definition seen t x := 0 < d t x \/ 0 < d' t x.
Hypothesis cannot : forall t x, (t < T)%nat -> ~~ can t -> seen t x -> forall a, q x a = p x a.

Lemma gap_layers : gap = \big[Rplus/0]_(t < T | can t) \sum_(x : S) ((d' t x - d t x) * at_layer t x).
Proof.
have -> : gap = \sum_(x : S) (rho x * path_sum e next q (gain e next r p q) T x)
    - \sum_(x : S) (rho x * path_sum e next b (gain e next r p q) T x).
  rewrite /gap /at_rho -!sumB; apply: sumE => x.
  by rewrite -(T0 e next r p T x hq); lra.
rewrite !layers_sum -sumB [RHS]big_mkcond; apply: eq_bigr => t _; rewrite -sumB.
case: ifP => [_|/negbT ct]; first by apply: sumE => x; rewrite /at_layer; lra.
apply: sum0 => x.
have [d0 _] := layer_dist t hb hr; have [d0' _] := layer_dist t hq hr.
have [n|E] : seen t x \/ (d t x = 0 /\ d' t x = 0).
  by rewrite /seen; case: (Rle_lt_or_eq_dec _ _ (d0 x)) => [|<-]; [tauto | case: (Rle_lt_or_eq_dec _ _ (d0' x)) => [|<-]; tauto].
  suff -> : gain e next r p q (T - t.+1)%nat x = 0 by lra.
  rewrite gainE // VE -sumB; apply: sum0 => a; rewrite (cannot (ltn_ord t) ct n a); lra.
by case: E => -> ->; lra.
Qed.

(* |gap| <= sum over the agent's layers of TV(d'_t, d_t) span(g_t), the span over the states of the layer that are met *)
Theorem E1 (spn : nat -> R) :
  (forall t x y, (t < T)%nat -> can t -> seen t x -> seen t y -> at_layer t x - at_layer t y <= spn t) ->
  Rabs gap <= \big[Rplus/0]_(t < T | can t) (tv (d t) (d' t) * spn t).
Proof.
move=> hs; rewrite gap_layers big_mkcond [X in _ <= X]big_mkcond; apply: Rle_trans (sum_abs _) _; apply: sum_le => t.
case: ifP => ct; last by rewrite Rabs_R0; lra.
have [d0 d1] := layer_dist t hb hr; have [d0' d1'] := layer_dist t hq hr.
have n x : d t x <> d' t x -> seen t x.
  rewrite /seen; case: (Rle_lt_or_eq_dec _ _ (d0 x)) => [|<-]; [tauto | case: (Rle_lt_or_eq_dec _ _ (d0' x)) => [|<-]; tauto].
by apply: equal_masses => [|x y /n sx /n sy]; [rewrite d1 d1' | exact: hs].
Qed.

(* the paper's form: |gap| <= 2 A_max sum_t min (1, sum_{u<t} sqrt (kappa_u / 2)) *)
Theorem E1_paper Amax : (forall t x a, (t < T)%nat -> can t -> seen t x -> Rabs (Adv e next r p (T - t.+1)%nat x a) <= Amax) ->
  (forall t, (t < T)%nat -> keeps_at (d t) b q) ->
  Rabs gap <= 2 * Amax * \big[Rplus/0]_(t < T | can t) Rmin 1 (\big[Rplus/0]_(u < t) sqrt (kappa rho b q u / 2)).
Proof.
move=> hA hk.
have gA t x : (t < T)%nat -> can t -> seen t x -> Rabs (at_layer t x) <= Amax.
  move=> tT ct sx; rewrite -(sum_const Amax (proj2 (hq x))); apply: Rle_trans (sum_abs _) _; apply: sum_le => a.
  rewrite Rabs_mult Rabs_pos_eq; last exact: (proj1 (hq x)).
  by apply: Rmult_le_compat_l (hA t x a tT ct sx); exact: (proj1 (hq x)).
have := @E1 (fun _ => 2 * Amax); move=> h; apply: Rle_trans (h _) _ => [t x y tT ct sx sy|].
  by have := Rabs_def2_le (gA t x tT ct sx); have := Rabs_def2_le (gA t y tT ct sy); lra.
rewrite big_mkcond [X in _ <= _ * X]big_mkcond -sumZ; apply: sum_le => t; case: ifP => ct; last lra.
have A0 : 0 <= Amax.
  have [x dx] : exists x, 0 < d t x by apply: sum_pos_ex; rewrite (proj2 (layer_dist t hb hr)); lra.
  exact: Rle_trans (Rabs_pos _) (gA t x (ltn_ord t) ct (or_introl dx)).
rewrite Rmult_comm; apply: Rmult_le_compat_l; first lra.
apply: Rle_trans (E1_shift_tv hr hb hq t) _; apply: Rle_min_compat_l; apply: sum_le => u.
by apply: etv_kappa => //; apply: hk; apply: ltn_trans (ltn_ord u) (ltn_ord t).
Qed.
End Gap.

(* ---- E1, stale: the layers of a stage *)
Section Stale.
Variables (rho : S -> R) (team : nat -> S -> A -> R) (n t : nat).
Hypotheses (hr : dist rho) (ht : forall k, policy (team k)).
Notation d k := (layer (team k) rho).
(* with the E TV of each update under its own team *)
Theorem E1_stale_tv : tv (d O t) (d n t) <= Rmin 1 (\big[Rplus/0]_(k < n) \big[Rplus/0]_(u < t) etv rho (team k) (team k.+1) u).
Proof.
apply: Rmin_glb; first by apply: tv_le1; apply: layer_dist.
apply: Rle_trans (tv_chain (fun k => d k t) n) _; apply: sum_le => k.
exact: Rle_trans (E1_shift_tv hr (ht k) (ht k.+1) t) (Rmin_r _ _).
Qed.
(* all under the team at the start of the stage *)
Definition etv0 k u := \sum_(x : S) (d O u x * tv (team k x) (team k.+1 x)).
Definition kappa0 k u := \sum_(x : S) (d O u x * kl (team k x) (team k.+1 x)).
Lemma etv0_sum u : etv rho (team O) (team n) u <= \big[Rplus/0]_(k < n) etv0 k u.
Proof.
rewrite /etv0 sum_swap; apply: sum_le => x; rewrite sumZ; apply: Rmult_le_compat_l; first exact: d_ge0.
exact: (tv_chain (fun k => team k x)).
Qed.
Lemma kappa0_sum u : (forall x, 0 < d O u x -> adds team n x) -> kappa rho (team O) (team n) u = \big[Rplus/0]_(k < n) kappa0 k u.
Proof.
move=> ha; rewrite /kappa0 sum_swap; apply: sumE => x; rewrite sumZ.
case: (Rle_lt_or_eq_dec _ _ (d_ge0 hr (ht O) u x)) => [dx|<-]; last lra.
by rewrite ha.
Qed.
Theorem E1_stale_tv0 : tv (d O t) (d n t) <= Rmin 1 (\big[Rplus/0]_(u < t) \big[Rplus/0]_(k < n) etv0 k u).
Proof.
apply: Rle_trans (E1_shift_tv hr (ht O) (ht n) t) _; apply: Rle_min_compat_l; apply: sum_le => u; exact: etv0_sum.
Qed.
Theorem E1_stale_kl : (forall u x, (u < t)%nat -> 0 < d O u x -> adds team n x) ->
  (forall u, (u < t)%nat -> keeps_at (d O u) (team O) (team n)) ->
  tv (d O t) (d n t) <= sqrt (/ 2 * \big[Rplus/0]_(u < t) \big[Rplus/0]_(k < n) kappa0 k u).
Proof.
move=> ha hk; apply: Rle_trans (E1_shift hr (ht O) (ht n) hk) _.
apply: Rle_trans (Rmin_r _ _) _; apply: Rle_trans (Rmin_r _ _) _.
by rewrite (sumE (fun u : 'I_t => kappa0_sum (fun x => @ha u x (ltn_ord u)))); apply: Rle_refl.
Qed.
End Stale.
End Layers.
