(* U2 (b), (c) and U4: current advantages never lose where every context has a row of its own, or where the contexts of a row
   agree; a tied row can be promised a gain, exactly, and lose it; fresh rollouts can win by any factor; the pooled closed-form
   step never loses. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted ChiSquare.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ U2 *)
Section Episodic.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Notation V := (V e next r).
Notation Q := (Q e next r).
Notation Adv := (Adv e next r).
Notation gain := (gain e next r).
Notation path_sum := (path_sum e next).

(* what is asked of a state is asked where p comes in the t steps from s, with u steps left after the one at hand *)
Fixpoint comes p (C : nat -> S -> Prop) t s : Prop :=
  if t is u.+1 then C u s /\ forall a b, 0 < p s a -> 0 < e s a b -> comes p C u (next s a b) else True.
Lemma comes_all p (C : nat -> S -> Prop) t s : (forall u x, C u x) -> comes p C t s.
Proof. by move=> h; elim: t s => [//|t ih] s; split. Qed.
Lemma path_sum_ge0 p f t s : policy p -> comes p (fun u x => 0 <= f u x) t s -> 0 <= path_sum p f t s.
Proof.
move=> hp; elim: t s => [|t ih] s; first by rewrite /=; lra.
move=> [h n]; apply: Rplus_le_le_0_compat h _; apply: sum_ge0 => a.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
apply: Rmult_le_pos; first lra.
apply: sum_ge0 => b; case: (Rle_lt_or_eq_dec _ _ (proj1 (e_dist s a) b)) => [eb|<-]; last lra.
by apply: Rmult_le_pos; [lra | apply: ih; exact: n].
Qed.

(* U2 (b): current advantages never lose, whatever the radius and the occupancy the step was weighted with *)
Theorem U2 p q t s : policy q -> comes q (fun u x => 0 <= gain p q u x) t s -> V p t s <= V q t s.
Proof. by move=> hq h; have := T0 e next r p t s hq; have := path_sum_ge0 hq h; lra. Qed.

(* U2 (c): one batch, turn-taking. Update k makes the rows of its own states what they are at the end; each with a gain under the
   advantages of the START that is not negative *)
Theorem U2_one_batch (I : finType) (j : S -> I) (team : nat -> S -> A -> R) (at_ : I -> nat) n t s :
  (forall i, policy (team i)) ->
  (forall x a, team n x a = team (at_ (j x)).+1 x a) ->
  (forall u x, 0 <= \sum_(a : A) (team (at_ (j x)).+1 x a * Adv (team O) u x a)) ->
  V (team O) t s <= V (team n) t s.
Proof.
move=> ht last h; apply: U2 => //; apply: comes_all => u x; rewrite /Horizon.gain.
by rewrite (sumE (G := fun a => team (at_ (j x)).+1 x a * Adv (team O) u x a)) => [|a]; rewrite ?last.
Qed.

(* ------------------------------------------------------------------ U4 (c): contexts that agree *)
(* Chebyshev: a ratio that orders the actions as their advantages do has a mean of the product of at least zero *)
Lemma chebyshev (p f F : A -> R) : dist p -> (forall a b, 0 < p a -> 0 < p b -> 0 <= (f a - f b) * (F a - F b)) ->
  (\sum_(a : A) (p a * f a)) * (\sum_(a : A) (p a * F a)) <= \sum_(a : A) (p a * (f a * F a)).
Proof.
move=> [p0 p1] h.
set mf := \sum_(a : A) (p a * f a); set mF := \sum_(a : A) (p a * F a); set mm := \sum_(a : A) (p a * (f a * F a)).
have E : \sum_(a : A) \sum_(b : A) (p a * p b * ((f a - f b) * (F a - F b))) = 2 * mm - 2 * (mf * mF).
  rewrite (sumE (F := fun a => \sum_(b : A) (p a * p b * ((f a - f b) * (F a - F b))))
    (G := fun a => p a * (f a * F a) + p a * mm - ((p a * f a) * mF + (p a * F a) * mf))) => [|a].
    by rewrite sumB !sumD !sumZr p1 -/mf -/mF -/mm; ring.
  rewrite (sumE (G := fun b => (p a * (f a * F a)) * p b + p a * (p b * (f b * F b))
    - ((p a * f a) * (p b * F b) + (p a * F a) * (p b * f b))))
    => [|b]; last ring.
  by rewrite sumB !sumD !sumZ p1 /mf /mF /mm; ring.
suff : 0 <= \sum_(a : A) \sum_(b : A) (p a * p b * ((f a - f b) * (F a - F b))) by rewrite E; lra.
apply: sum_ge0 => a; apply: sum_ge0 => b.
case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-]; last lra.
case: (Rle_lt_or_eq_dec _ _ (p0 b)) => [pb|<-]; last lra.
by apply: Rmult_le_pos (h a b pa pb); apply: Rmult_le_pos; lra.
Qed.

(* a row whose ratio does not fall where the advantage rises *)
Lemma agree_row (p q F : A -> R) : dist p -> (forall a, p a = 0 -> q a = 0) -> \sum_(a : A) (p a * F a) = 0 ->
  (forall a b, 0 < p a -> 0 < p b -> F b < F a -> q b / p b <= q a / p a) -> 0 <= \sum_(a : A) (q a * F a).
Proof.
move=> hp st z up; have := @chebyshev p (fun a => q a / p a) F hp; rewrite z Rmult_0_r.
rewrite (sumE (F := fun a => p a * _) (G := fun a => q a * F a)) => [|a].
  apply=> a b pa pb; case: (Rtotal_order (F a) (F b)) => [lt|[->|lt]]; last 2 first.
  - by lra.
  - by have := up _ _ pa pb lt => h; apply: Rmult_le_pos; lra.
  by have := up _ _ pb pa lt => h; rewrite -[_ * _](Rmult_opp_opp); apply: Rmult_le_pos; lra.
case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => [pa|/esym pa]; first by field; lra.
by rewrite st // pa; lra.
Qed.

(* One row for all contexts with the same observation. Two contexts agree if their advantages order the actions alike. What the
   step was given, alpha, is any pooling that respects an order on which all contexts of the row agree (pooled_order: sums with
   weights of any occupancy); the step is one for which the ratio q/p is a nondecreasing function of it. *)
Section Agree.
Variables (O : Type) (obs : S -> O) (mine : S -> bool) (p q : S -> A -> R) (alpha : O -> A -> R).
Hypotheses (hp : policy p) (hq : policy q).
Hypothesis others : forall x, mine x = false -> forall a, q x a = p x a.
Hypothesis stays : forall x, mine x -> forall a, p x a = 0 -> q x a = 0.
Hypothesis agree : forall u u' x x' a b, mine x -> mine x' -> obs x = obs x' -> 0 < p x a -> 0 < p x b ->
  0 <= (Adv p u x a - Adv p u x b) * (Adv p u' x' a - Adv p u' x' b).
Hypothesis pooling : forall x a b, mine x ->
  (forall u x', mine x' -> obs x' = obs x -> Adv p u x' b <= Adv p u x' a) -> alpha (obs x) b <= alpha (obs x) a.
Hypothesis rising : forall x a b, mine x -> 0 < p x a -> 0 < p x b -> alpha (obs x) b <= alpha (obs x) a ->
  q x b / p x b <= q x a / p x a.

Lemma mean_adv u x : \sum_(a : A) (p x a * Adv p u x a) = 0.
Proof. by have := gainE e next r p u x hp; rewrite VE /Horizon.gain => ->; lra. Qed.

Lemma U4_gain u x : 0 <= gain p q u x.
Proof.
rewrite /Horizon.gain; case mx : (mine x); last first.
  by rewrite (sumE (G := fun a => p x a * Adv p u x a)) ?mean_adv => [|a]; rewrite ?others //; lra.
apply: (agree_row (hp x) (stays mx) (mean_adv u x)) => a b pa pb lt.
apply: rising => //; apply: pooling => // u' x' mx' ox; have h := agree u u' mx mx' (esym ox) pa pb.
by apply: Rnot_lt_le => lt'; have := Rmult_lt_0_compat (Adv p u x a - Adv p u x b) (Adv p u' x' b - Adv p u' x' a); lra.
Qed.

(* U4 (c): contexts that agree never lose, on any occupancy, at any radius *)
Theorem U4_agree t s : V p t s <= V q t s.
Proof. by apply: U2 => //; apply: comes_all => u x; exact: U4_gain. Qed.
End Agree.

(* sums over contexts with weights of any occupancy are a pooling *)
Lemma pooled_order (X : finType) (w : X -> R) (F : X -> A -> R) a b :
  (forall x, 0 <= w x) -> (forall x, 0 < w x -> F x b <= F x a) ->
  \sum_(x : X) (w x * F x b) <= \sum_(x : X) (w x * F x a).
Proof. by move=> w0 h; apply: sum_pos_le. Qed.
(* the steps of U1 and S9 (d) are rising in what they were given *)
Section Steps.
Variables (p q al : A -> R) (a b : A).
Hypotheses (pa : 0 < p a) (pb : 0 < p b) (le : al b <= al a).
Lemma rising_exp lam Z : 0 < lam -> 0 < Z -> (forall i, q i = p i * exp (al i / lam) / Z) -> q b / p b <= q a / p a.
Proof.
move=> l0 z0 E; have l1 := Rinv_0_lt_compat _ l0; have z1 := Rinv_0_lt_compat _ z0.
have E' i : 0 < p i -> q i / p i = exp (al i / lam) * / Z by move=> pi; rewrite E; field; lra.
rewrite !E' //; apply: Rmult_le_compat_r; first lra.
case: (Rle_lt_or_eq_dec _ _ le) => [lt|->]; last lra.
by apply/Rlt_le/exp_increasing; apply: Rmult_lt_compat_r.
Qed.
Lemma rising_root lam nu : 0 < lam -> al a < nu -> (forall i, 0 < p i -> q i = lam * p i / (nu - al i)) -> q b / p b <= q a / p a.
Proof.
move=> l0 h E; have E' i : 0 < p i -> al i < nu -> q i / p i = lam * / (nu - al i) by move=> pi ai; rewrite E //; field; lra.
rewrite !E'; try lra.
by apply: Rmult_le_compat_l; [lra | apply: Rinv_le_contravar; lra].
Qed.
Lemma rising_weighted Z : 0 < Z -> (forall i, q i = p i * al i / Z) -> q b / p b <= q a / p a.
Proof.
move=> z0 E; have z1 := Rinv_0_lt_compat _ z0.
have E' i : 0 < p i -> q i / p i = al i * / Z by move=> pi; rewrite E; field; lra.
by rewrite !E' //; apply: Rmult_le_compat_r; lra.
Qed.
End Steps.
End Episodic.

(* ------------------------------------------------------------------ U4 (d): to first order *)
Lemma G_le x : 0 <= x <= / 4 -> exp x - 1 - x <= x ^ 2.
Proof.
move=> h; have h1 := exp_ineq1_le (- (x / 2)); have := exp_pos (x / 2); have := exp_plus (x / 2) (x / 2).
rewrite (_ : x / 2 + x / 2 = x) => [E p|]; last field.
have i : exp (x / 2) * (1 - x / 2) <= 1.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ p) h1.
  by rewrite -exp_plus Rplus_opp_r exp_0; lra.
have j : exp x * (1 - x / 2) ^ 2 <= 1.
  rewrite E (_ : _ * _ * _ = (exp (x / 2) * (1 - x / 2)) ^ 2); last ring.
  have q : 0 <= exp (x / 2) * (1 - x / 2) by apply: Rmult_le_pos; lra.
  by move: (exp (x / 2) * _) i q => z i q; have := Rmult_le_compat z 1 z 1 q q i i; lra.
have k : 1 <= (1 + x + x ^ 2) * (1 - x / 2) ^ 2.
  have -> : (1 + x + x ^ 2) * (1 - x / 2) ^ 2 = 1 + x ^ 2 * ((1 - 3 * x + x ^ 2) / 4) by field.
  by have := Rmult_le_pos (x ^ 2) ((1 - 3 * x + x ^ 2) / 4) (pow2_ge_0 _); have := pow2_ge_0 x; lra.
suff : exp x <= 1 + x + x ^ 2 by lra.
apply: (Rmult_le_reg_r ((1 - x / 2) ^ 2)); last by lra.
by apply: pow_lt; lra.
Qed.

(* A step of size tau along beta, equal where the observation is: beta is what the update was given, its pooled advantage over the
   weight of the row. What it brings is tau X up to order tau^2, X the mean under the CURRENT team of the covariance of beta and
   the current advantage; for beta of another occupancy m0 this is (1) of the page. *)
Section FirstOrder.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (p beta : S -> A -> R) (b : R) (T : nat) (s : S).
Hypotheses (hp : policy p) (hb : forall x a, - b <= beta x a <= b).
Notation V := (V e next r).
Definition along tau x a := p x a * (1 + tau * beta x a).
Definition first_order := path_sum e next p (fun u x => \sum_(a : A) (p x a * (beta x a * Adv e next r p u x a))) T s.
Definition remainder := sqrt (variance e next r p T s) * (INR T * b ^ 2).

Lemma along_chi tau x : chi (p x) (along tau x) <= tau ^ 2 * b ^ 2.
Proof.
rewrite -[X in _ <= X](sum_const _ (proj2 (hp x))); apply: sum_le => a; rewrite /along.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|<-]; last by rewrite Rmult_0_l Rminus_eq_0 /Rdiv; lra.
have -> : (p x a * (1 + tau * beta x a) - p x a) ^ 2 / p x a = p x a * (tau ^ 2 * beta x a ^ 2) by field; lra.
apply: Rmult_le_compat_l; first lra.
apply: Rmult_le_compat_l (pow2_ge_0 _) _; have h := hb x a.
by have := Rmult_le_pos (b - beta x a) (b + beta x a) ltac:(lra) ltac:(lra); lra.
Qed.
Lemma each_step (f : S -> R) c t x : (forall y, f y <= c) -> budget e next p f t x (INR t * c).
Proof.
move=> fc w _; elim: t x w => [|t ih] x w; first by rewrite /=; lra.
by rewrite S_INR; apply: Rle_trans (Rplus_le_compat _ _ _ _ (fc x) (ih (next x w.1.1 w.1.2) w.2)) _; lra.
Qed.
Theorem U4_first_order tau : policy (along tau) -> INR T * (tau ^ 2 * b ^ 2) <= / 4 ->
  Rabs (V (along tau) T s - V p T s - tau * first_order) <= remainder * tau ^ 2.
Proof.
move=> hq small; have c0 : 0 <= tau ^ 2 * b ^ 2 by apply: Rmult_le_pos (pow2_ge_0 _) (pow2_ge_0 _).
have <- : L e next r p (along tau) T s = tau * first_order.
  rewrite /first_order -path_sumZ; apply: path_sumE => u x; rewrite /gain -sumZ.
  have z : \sum_(a : A) (p x a * Adv e next r p u x a) = 0 by have := gainE e next r p u x hp; rewrite VE /gain => ->; lra.
  rewrite (sumE (G := fun a => p x a * Adv e next r p u x a + tau * (p x a * (beta x a * Adv e next r p u x a)))) => [|a].
    by rewrite sumD z; lra.
  by rewrite /along; ring.
apply: Rle_trans (S10 (X := INR T * (tau ^ 2 * b ^ 2)) r e_dist hp hq _ _) _.
- by apply: everywhere_all => x a z; rewrite /along z; lra.
- by apply: each_step => x; exact: along_chi.
rewrite /remainder Rmult_assoc; apply: Rmult_le_compat_l; first exact: sqrt_pos.
have x0 : 0 <= INR T * (tau ^ 2 * b ^ 2) by apply: Rmult_le_pos c0; exact: pos_INR.
rewrite (_ : INR T * b ^ 2 * tau ^ 2 = INR T * (tau ^ 2 * b ^ 2)); last ring.
rewrite -[X in _ <= X](sqrt_pow2 _ x0); apply: sqrt_le_1_alt; exact: G_le.
Qed.
(* so it loses for all small steps if X < 0, and gains if X > 0 *)
Corollary U4_small tau : 0 < tau -> policy (along tau) -> INR T * (tau ^ 2 * b ^ 2) <= / 4 ->
  remainder * tau < Rabs first_order ->
  (first_order < 0 -> V (along tau) T s < V p T s) /\ (0 < first_order -> V p T s < V (along tau) T s).
Proof.
move=> t0 hq small h; have := Rabs_def2_le (U4_first_order hq small).
have := Rmult_lt_compat_l _ _ _ t0 h => h'.
by split=> s0; [rewrite Rabs_left // in h' | rewrite Rabs_pos_eq in h'; last lra]; lra.
Qed.
End FirstOrder.

(* ------------------------------------------------------------------ U4 (b): the closed-form step pools *)
Section Pool.
Variables (O A : finType) (w P : O -> A -> R).
Hypotheses (w0 : forall o a, 0 <= w o a) (wP : forall o a, P o a = 0 -> w o a = 0) (hP : forall o, dist (P o)).
Definition W o := \sum_(a : A) w o a.
(* the row that is greatest: in proportion to the pooled weights; stay where nothing is weighed *)
Definition pooled o a := if Rlt_dec 0 (W o) then w o a / W o else P o a.

Lemma W_ge0 o : 0 <= W o. Proof. exact: sum_ge0. Qed.
Lemma pooledE o a : W o * pooled o a = w o a.
Proof.
rewrite /pooled; case: Rlt_dec => /= h; first by field; lra.
have z : W o = 0 by have := W_ge0 o; lra.
by have := term_le_sum a (w0 o); rewrite -/(W o) z; have := w0 o a; lra.
Qed.
Lemma pooled_dist o : dist (pooled o).
Proof.
split=> [a|]; rewrite /pooled; case: Rlt_dec => /= h.
- by apply: Rmult_le_pos (w0 o a) _; apply/Rlt_le/Rinv_0_lt_compat.
- exact: (proj1 (hP o)).
- by rewrite sumZr -/(W o); field; lra.
exact: (proj2 (hP o)).
Qed.
Lemma pooled_keeps o : keeps (pooled o) (P o).
Proof.
move=> a; rewrite /pooled; case: Rlt_dec => //= h pa.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hP o) a)) => // /esym /wP z.
by move: pa; rewrite z /Rdiv; lra.
Qed.
Definition pooled_score (N : O -> A -> R) := \sum_(o : O) \sum_(a : A) (w o a * ln (N o a / P o a)).
(* its value *)
Lemma pooled_value : pooled_score pooled = \sum_(o : O) (W o * kl (pooled o) (P o)).
Proof. by apply: sumE => o; rewrite /kl -sumZ; apply: sumE => a; rewrite -pooledE; ring. Qed.
Lemma pooled_ge0 : 0 <= pooled_score pooled.
Proof.
rewrite pooled_value; apply: sum_ge0 => o; apply: Rmult_le_pos (W_ge0 o) _.
rewrite -(kterm_sum (pooled_dist o) (hP o)); apply: sum_ge0 => a.
by apply: kterm_ge0 => //; [exact: pooled_dist | exact: pooled_keeps].
Qed.
(* Gibbs: no other tied rows have a greater score *)
Lemma pooled_greatest (N : O -> A -> R) : (forall o, dist (N o)) -> (forall o, keeps (P o) (N o)) ->
  pooled_score N <= pooled_score pooled.
Proof.
move=> hN hk; apply: sum_le => o.
have kN : keeps (pooled o) (N o) by move=> a /pooled_keeps /hk.
have k0 : 0 <= W o * kl (pooled o) (N o).
  apply: Rmult_le_pos (W_ge0 o) _; rewrite -(kterm_sum (pooled_dist o) (hN o)).
  by apply: sum_ge0 => a; apply: kterm_ge0 => //; exact: pooled_dist.
suff -> : \sum_(a : A) (w o a * ln (N o a / P o a))
    = \sum_(a : A) (w o a * ln (pooled o a / P o a)) - W o * kl (pooled o) (N o) by lra.
rewrite /kl -sumZ -sumB; apply: sumE => a; rewrite -pooledE.
case: (Rle_lt_or_eq_dec _ _ (proj1 (pooled_dist o) a)) => [pa|<-]; last lra.
have Pa := pooled_keeps pa; have na := kN a pa.
rewrite (_ : pooled o a / P o a = pooled o a / N o a * (N o a / P o a)); last by field; lra.
by rewrite ln_mult; [lra | apply: Rdiv_lt_0_compat | apply: Rdiv_lt_0_compat].
Qed.
End Pool.

Section PooledStep.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (O : finType) (obs : S -> O) (P : O -> A -> R) (Phi : nat -> S -> R) (t : nat) (s : S).
Hypothesis hP : forall o, dist (P o).
Let p x := P (obs x).
(* pi(a|o) times what is expected above the floor after a, summed over the visits to the contexts of o *)
Definition pooled_weight o a :=
  path_sum e next p (fun u x => if obs x == o then p x a * (Q e next r p u x a - Phi u.+1 x) else 0) t s.
Notation w := pooled_weight.
(* the step of all agents at once: obs says who acts and what he sees *)
Definition pooled_step x := pooled w P (obs x).
Variable ok : nat -> S -> Prop.
Hypotheses (hk : forall o, keeps (P o) (pooled w P o)) (hr : reach e next pooled_step ok)
  (hf : floor e next pooled_step r ok Phi) (os : ok t s).

Lemma score_pooled (N : O -> A -> R) :
  path_sum e next p (score e next p (fun x => N (obs x)) r Phi) t s = pooled_score w P N.
Proof.
rewrite (path_sumE e next p (g := fun u x => \sum_(o : O) \sum_(a : A)
  (ln (N o a / P o a) * (if obs x == o then p x a * (Q e next r p u x a - Phi u.+1 x) else 0)))) => [|u x].
  rewrite path_sum_sum; apply: sumE => o; rewrite path_sum_sum; apply: sumE => a.
  by rewrite path_sumZ Rmult_comm.
rewrite (bigD1 (obs x)) //= [X in _ + X]big1 => [|o /negbTE no]; last by apply: sum0 => a; rewrite eq_sym no; lra.
by rewrite Rplus_0_r; apply: sumE => a; rewrite eqxx /p; lra.
Qed.

Let hp : policy p. Proof. by move=> x; exact: hP. Qed.
Let hkp x : keeps (p x) (pooled_step x). Proof. exact: hk. Qed.
Lemma pooled_weight_ge0 o a : 0 <= w o a.
Proof.
rewrite -[X in X <= _](Rmult_0_l (path_sum e next p (fun _ _ => 0) t s)) -path_sumZ.
apply: (path_sum_le e_dist hp hkp hr os) => u x ox; rewrite Rmult_0_l; case: eqP => _; last lra.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|<-]; last lra.
apply: Rmult_le_pos; first lra.
have qa := hkp pa; suff : Phi u.+1 x <= Q e next r p u x a by lra.
apply: (above_floor_Q e_dist hr hf ox qa) => y oy.
by apply: (above_floor e_dist hr hf hp _ oy) => z b; exact: hkp.
Qed.
Lemma pooled_weight_P o a : P o a = 0 -> w o a = 0.
Proof.
move=> z; rewrite -[RHS](Rmult_0_l (path_sum e next p (fun _ _ => 0) t s)) -path_sumZ; apply: path_sumE => u x.
by rewrite Rmult_0_l; case: eqP => // E; rewrite /p E z; lra.
Qed.

(* U4 (b): all agents at once, each by the pooled step, on one set of rollouts: what it is sure to bring is sum_o W(o)
   KL(pi'||pi)(o), not negative, and no other tied rows score more *)
Theorem U4_pooled : let gained := \sum_(o : O) (W w o * kl (pooled w P o) (P o)) in
  0 <= gained /\ gained <= V e next r pooled_step t s - V e next r p t s /\
  forall N, (forall o, dist (N o)) -> (forall o, keeps (P o) (N o)) ->
    path_sum e next p (score e next p (fun x => N (obs x)) r Phi) t s <= gained.
Proof.
have w0 := pooled_weight_ge0; have wP := pooled_weight_P; rewrite /= -(pooled_value _ w0).
split; first exact: (pooled_ge0 w0 wP hP).
split; last by move=> N hN kN; rewrite score_pooled; exact: (pooled_greatest w0 wP hP).
rewrite -score_pooled; apply: (S9 e_dist hp _ hkp hr hf os) => x; exact: (pooled_dist w0 hP).
Qed.
End PooledStep.

(* ------------------------------------------------------------------ discounted *)
Section DiscountedForm.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Implicit Types p q : S -> A -> R.

(* U2 (b); asked where the new policy comes *)
Theorem U2_discounted p q v v' m' : policy q -> bellman P g r p v -> bellman P g r q v' -> flow P g rho q m' ->
  (forall s, 0 < m' s -> 0 <= gaind P g r p v q s) -> at_rho rho v <= at_rho rho v'.
Proof.
move=> hq bp bq fl h; have := T0_discounted hq bp bq fl.
suff : 0 <= under m' (gaind P g r p v q) by lra.
apply: sum_ge0 => s; case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|<-]; last lra.
by apply: Rmult_le_pos (h s ms); lra.
Qed.
(* U2 (c) *)
Theorem U2_one_batch_discounted (I : finType) (j : S -> I) (team : nat -> S -> A -> R) (at_ : I -> nat) n v v' m' :
  (forall i, policy (team i)) -> bellman P g r (team O) v -> bellman P g r (team n) v' -> flow P g rho (team n) m' ->
  (forall s a, team n s a = team (at_ (j s)).+1 s a) ->
  (forall s, 0 <= \sum_(a : A) (team (at_ (j s)).+1 s a * (Qd P g r v s a - v s))) -> at_rho rho v <= at_rho rho v'.
Proof.
move=> ht b b' fl last h; apply: (U2_discounted (ht n) b b' fl) => s _; rewrite /gaind.
by rewrite (sumE (G := fun a => team (at_ (j s)).+1 s a * (Qd P g r v s a - v s))) => [|a]; rewrite ?last.
Qed.

(* U4 (c) *)
Theorem U4_agree_discounted (O : Type) (obs : S -> O) (mine : S -> bool) p q v v' m' (alpha : O -> A -> R) :
  policy p -> policy q -> bellman P g r p v -> bellman P g r q v' -> flow P g rho q m' ->
  let Av s a := Qd P g r v s a - v s in
  (forall s, mine s = false -> forall a, q s a = p s a) -> (forall s, mine s -> forall a, p s a = 0 -> q s a = 0) ->
  (forall s s' a b, mine s -> mine s' -> obs s = obs s' -> 0 < p s a -> 0 < p s b ->
    0 <= (Av s a - Av s b) * (Av s' a - Av s' b)) ->                                                    (* contexts agree *)
  (forall s a b, mine s -> (forall s', mine s' -> obs s' = obs s -> Av s' b <= Av s' a) ->
    alpha (obs s) b <= alpha (obs s) a) ->                                                               (* pooling *)
  (forall s a b, mine s -> 0 < p s a -> 0 < p s b -> alpha (obs s) b <= alpha (obs s) a ->
    q s b / p s b <= q s a / p s a) ->                                                                   (* rising *)
  at_rho rho v <= at_rho rho v'.
Proof.
move=> hp hq bp bq fl Av others stays agree pooling rising; apply: (U2_discounted hq bp bq fl) => s _.
have mean : \sum_(a : A) (p s a * Av s a) = 0.
  by have := gaindE P g r p v (hp s); rewrite /gaind => ->; rewrite -bp; lra.
rewrite /gaind -/(Av s); case ms : (mine s); last first.
  by rewrite (sumE (G := fun a => p s a * Av s a)) ?mean => [|a]; rewrite ?others //; lra.
apply: (agree_row (hp s) (stays s ms) mean) => a b pa pb lt.
apply: rising => //; apply: pooling => // s' ms' os; have h := agree s s' a b ms ms' (esym os) pa pb.
by apply: Rnot_lt_le => lt'; have := Rmult_lt_0_compat (Av s a - Av s b) (Av s' b - Av s' a); lra.
Qed.

(* U4 (b) *)
Section Pooled.
Variables (O : finType) (obs : S -> O) (Pi : O -> A -> R) (Phi v m : S -> R).
Hypothesis hP : forall o, dist (Pi o).
Let p s := Pi (obs s).
Hypotheses (bp : bellman P g r p v) (fl : flow P g rho p m) (hf : floord P g r Phi).
Definition weightd o a := \sum_(s : S) (m s * (if obs s == o then p s a * (Qd P g r v s a - Phi s) else 0)).
Notation w := weightd.
Definition pooled_stepd s := pooled w Pi (obs s).
Hypothesis hk : forall o, keeps (Pi o) (pooled w Pi o).
Let hp : policy p. Proof. by move=> s; exact: hP. Qed.

Lemma scored_pooled (N : O -> A -> R) : under m (scored P g p (fun s => N (obs s)) r v Phi) = pooled_score w Pi N.
Proof.
rewrite /pooled_score (sumE (F := fun o => \sum_(a : A) _) (G := fun o => \sum_(s : S) (m s *
  \sum_(a : A) (if obs s == o then ln (N o a / Pi o a) * (p s a * (Qd P g r v s a - Phi s)) else 0)))) => [|o].
  rewrite sum_swap; apply: sumE => s; rewrite sumZ; congr (_ * _).
  rewrite (bigD1 (obs s)) //= [X in _ + X]big1 => [|o /negbTE no].
    by rewrite Rplus_0_r; apply: sumE => a; rewrite eqxx /p; lra.
  by apply: sum0 => a; rewrite eq_sym no.
rewrite (sumE (F := fun s => m s * _) (G := fun s => \sum_(a : A) (m s *
  (if obs s == o then ln (N o a / Pi o a) * (p s a * (Qd P g r v s a - Phi s)) else 0)))) => [|s]; last by rewrite sumZ.
rewrite sum_swap; apply: sumE => a; rewrite Rmult_comm -sumZ; apply: sumE => s.
by case: eqP => _; lra.
Qed.
Lemma weightd_ge0 o a : 0 <= w o a.
Proof.
apply: sum_ge0 => s; apply: Rmult_le_pos (proj1 fl s) _; case: eqP => _; last lra.
apply: Rmult_le_pos (proj1 (hp s) a) _; have := hf s a.
have := ev_le P_dist s a (above g01 P_dist hp hf bp) => h; have := Rmult_le_compat_l _ _ _ (proj1 g01) h.
by rewrite /Qd; lra.
Qed.
Lemma weightd_P o a : Pi o a = 0 -> w o a = 0.
Proof. by move=> z; apply: sum0 => s; case: eqP => [E|_]; rewrite ?/p ?E ?z; lra. Qed.

Theorem U4_pooled_discounted v' : bellman P g r pooled_stepd v' ->
  let gained := \sum_(o : O) (W w o * kl (pooled w Pi o) (Pi o)) in
  0 <= gained /\ gained <= at_rho rho v' - at_rho rho v /\
  forall N, (forall o, dist (N o)) -> (forall o, keeps (Pi o) (N o)) ->
    under m (scored P g p (fun s => N (obs s)) r v Phi) <= gained.
Proof.
move=> bq; have w0 := weightd_ge0; have wP := weightd_P; rewrite /= -(pooled_value _ w0).
split; first exact: (pooled_ge0 w0 wP hP).
split; last by move=> N hN kN; rewrite scored_pooled; exact: (pooled_greatest w0 wP hP).
rewrite -scored_pooled; apply: (S9_discounted g01 P_dist rho_dist hp _ _ fl hf bp bq) => s; first exact: (pooled_dist w0 hP).
exact: hk.
Qed.
End Pooled.
End DiscountedForm.

(* ------------------------------------------------------------------ U4 (e), (f): a tied row is promised a gain and loses it *)
Lemma sum_bool (F : bool -> R) : \sum_(b : bool) F b = F true + F false.
Proof. by rewrite (bigD1 true) //= (bigD1 false) //= big_pred0 ?Rplus_0_r // => -[]. Qed.
Lemma sum_unit (F : unit -> R) : \sum_(b : unit) F b = F tt.
Proof. by rewrite (big_pred1 tt) // => -[]. Qed.

Section Crossing.
(* The first agent acts at None: true leads to x = Some true, false to y = Some false. The second has one row for x and y. *)
Variables lead tilt : R.
Definition x_e (_ : option bool) (_ : bool) (_ : unit) := 1.
Definition x_next (s : option bool) (a : bool) (_ : unit) := if s is Some b then Some b else Some a.
Definition x_r (s : option bool) (a : bool) (_ : unit) :=
  if s is Some b then (if b then (if a then 1 else 0) else (if a then 0 else 1 - tilt)) else (if a then 0 else lead + tilt / 2).
Definition x_row u v (s : option bool) (a : bool) := let d := if s is Some _ then v else u in if a then / 2 + d else / 2 - d.
Definition x_obs (s : option bool) := if s is Some _ then true else false.
Notation V := (V x_e x_next x_r).
(* the value, and what a step of the second agent from 0 to v is promised *)
Definition J u v := V (x_row u v) 2 None.
Definition promised_first u := L x_e x_next x_r (x_row 0 0) (x_row u 0) 2 None.
Definition promised_stale u0 u v := path_sum x_e x_next (x_row u0 0) (gain x_e x_next x_r (x_row u 0) (x_row u v)) 2 None.
Definition promised_cached u0 u v := path_sum x_e x_next (x_row u0 0) (fun k s =>
  \sum_(a : bool) ((x_row u v s a - x_row u 0 s a) * Adv x_e x_next x_r (x_row u0 0) k s a)) 2 None.

Lemma x_policy u v : - / 2 <= u <= / 2 -> - / 2 <= v <= / 2 -> policy (x_row u v).
Proof.
move=> hu hv s; split; last by rewrite sum_bool /x_row; field.
by case; case: s => [b|]; rewrite /x_row; lra.
Qed.
Lemma x_tied u v s s' : x_obs s = x_obs s' -> x_row u v s = x_row u v s'.
Proof. by case: s => [b|]; case: s' => [b'|]. Qed.
Lemma JE u v : J u v = (/ 2 - u) * (lead + tilt / 2) + (/ 2 + u) * (/ 2 + v) + (/ 2 - u) * (/ 2 - v) * (1 - tilt).
Proof. by rewrite /J /= !(sum_bool, sum_unit) /= /x_e /x_row; field. Qed.
Lemma staleE u0 u v : promised_stale u0 u v = v * (/ 2 + u0 - (/ 2 - u0) * (1 - tilt)).
Proof. by rewrite /promised_stale /gain /Adv /Q /= /after !(sum_bool, sum_unit) /= /x_e /x_row; field. Qed.
Lemma cachedE u0 u v : promised_cached u0 u v = v * (/ 2 + u0 - (/ 2 - u0) * (1 - tilt)).
Proof. by rewrite /promised_cached /Adv /Q /= /after !(sum_bool, sum_unit) /= /x_e /x_row; field. Qed.
Lemma firstE u : promised_first u = u * (- lead).
Proof. by rewrite /promised_first /L /gain /Adv /Q /= /after !(sum_bool, sum_unit) /= /x_e /x_row; field. Qed.
End Crossing.

(* The exact step at the radius KL(half || half + e), from a row (1/2, 1/2): no row within the radius is promised more. *)
Definition half d (a : bool) := if a then / 2 + d else / 2 - d.
Definition radius d := kl (half 0) (half d).
Definition exact_step (promise : R -> R) e v :=
  radius v <= radius e /\ forall d, - / 2 < d < / 2 -> radius d <= radius e -> promise d <= promise v.

Lemma radiusE d : - / 2 < d < / 2 -> radius d = / 2 * ln (/ 4) - / 2 * ln (/ 4 - d ^ 2).
Proof.
move=> h; rewrite /radius /kl sum_bool /half Rplus_0_r Rminus_0_r.
have E x y : 0 < x -> 0 < y -> ln (x / y) = ln x - ln y.
  by move=> x0 y0; have := Rinv_0_lt_compat y y0 => y1; rewrite /Rdiv ln_mult // ln_Rinv //; lra.
rewrite !E; try lra.
have -> : / 4 - d ^ 2 = (/ 2 + d) * (/ 2 - d) by field.
have -> : / 4 = / 2 * / 2 by field.
by rewrite !ln_mult; lra.
Qed.
Lemma radius_le d e : - / 2 < d < / 2 -> 0 <= e < / 2 -> radius d <= radius e -> - e <= d <= e.
Proof.
move=> hd he; rewrite !radiusE; try lra. move=> h.
have sq : d ^ 2 <= e ^ 2.
  apply: Rnot_lt_le => lt; have : ln (/ 4 - d ^ 2) < ln (/ 4 - e ^ 2) by apply: ln_increasing; nra.
  by lra.
by split; nra.
Qed.
Lemma radius_opp e : 0 <= e < / 2 -> radius (- e) = radius e.
Proof. by move=> h; rewrite !radiusE; try lra; congr (_ - _ * ln (_ - _)); ring. Qed.
Lemma exact_up f c e : 0 <= e < / 2 -> (forall d, f d = d * c) -> 0 <= c -> exact_step f e e.
Proof.
move=> he E c0; split=> [|d hd r]; first lra.
by rewrite !E; have := radius_le hd he r => h; apply: Rmult_le_compat_r; lra.
Qed.
Lemma exact_down f c e : 0 <= e < / 2 -> (forall d, f d = d * c) -> c <= 0 -> exact_step f e (- e).
Proof.
move=> he E c0; split=> [|d hd r]; first by rewrite radius_opp //; lra.
by rewrite !E; have := radius_le hd he r => h; have := Rmult_le_compat_l (- c) (- e) d ltac:(lra) ltac:(lra); lra.
Qed.

(* U4 (e): one agent, one row for two contexts, exact current advantages on a stale occupancy. It is promised 2 eta eps and loses
   2 eta eps; its step is the exact one, at every radius. (U2 (b) is false here: the rows are tied.) *)
Theorem U4_loses eta eps : 0 < eta < / 2 -> 0 < eps < / 2 ->
  exact_step (promised_stale 0 0 eta (- eta)) eps eps /\
  promised_stale 0 0 eta (- eta) eps = 2 * eta * eps /\ J 0 0 (- eta) eps - J 0 0 (- eta) 0 = - (2 * eta * eps).
Proof.
move=> h1 h2; split; first by apply: (exact_up (c := 2 * eta)) => [|d|]; rewrite ?staleE; lra.
by rewrite staleE !JE; split; field.
Qed.
(* in numbers: promised + 2/10^6, brought - 2/10^6 *)
Corollary U4_loses_millionths : let eta := / 1000 in let eps := / 1000 in
  promised_stale 0 0 eta (- eta) eps = 2 / 1000000 /\ J 0 0 (- eta) eps - J 0 0 (- eta) 0 = - 2 / 1000000.
Proof. by move=> eta eps; have [|| _ [-> ->]] := @U4_loses eta eps; rewrite /eta /eps; try lra; split; field. Qed.

(* U4 (f): two agents, two rows, all rows (1/2, 1/2); every update is the exact step at the radius of eps. D: what the second
   agent's step on new rollouts brings, and what it costs on old ones. *)
Definition D tilt eps := 2 * eps - tilt * (/ 2 + eps).
Definition exact_steps lead tilt eps :=
  exact_step (promised_first lead tilt) eps (- eps) /\                        (* the first agent *)
  exact_step (promised_stale lead tilt (- eps) (- eps)) eps (- eps) /\         (* the second, fresh rollouts *)
  exact_step (promised_stale lead tilt 0 (- eps)) eps eps /\                   (* stale occupancy *)
  exact_step (promised_cached lead tilt 0 (- eps)) eps eps.                    (* cached *)
Section Stage.
Variables lead tilt eps : R.
Hypotheses (l0 : 0 < lead) (t0 : 0 < tilt) (e0 : 0 < eps < / 2).
Hypothesis D0 : 0 < D tilt eps.
Notation J := (J lead tilt).
Lemma U4_steps : exact_steps lead tilt eps.
Proof.
have he : 0 <= eps < / 2 by lra. have d := D0; rewrite /D in d.
split; first by apply: (exact_down he (firstE _ _)); lra.
split; first by apply: (exact_down he (staleE _ _ _ _)); lra.
by split; [apply: (exact_up he (staleE _ _ _ _)) | apply: (exact_up he (cachedE _ _ _ _))]; lra.
Qed.
Lemma U4_stage_fresh : J (- eps) (- eps) - J 0 0 = eps * (lead + D tilt eps).
Proof. by rewrite !JE /D; field. Qed.
Lemma U4_stage_stale : J (- eps) eps - J 0 0 = eps * (lead - D tilt eps).
Proof. by rewrite !JE /D; field. Qed.
End Stage.

(* for every factor and every radius there is a team whose fresh stage gains exactly that factor times what its stale and its
   cached stage gain *)
Theorem U4_factor Fac eps : 1 < Fac -> 0 < eps < / 2 -> exists lead tilt, exact_steps lead tilt eps /\
  J lead tilt (- eps) (- eps) - J lead tilt 0 0 = Fac * (J lead tilt (- eps) eps - J lead tilt 0 0) /\
  0 < J lead tilt (- eps) eps - J lead tilt 0 0.
Proof.
move=> f1 he; have d0 : 0 < D eps eps by rewrite /D; nra.
have fi : 0 < / (Fac - 1) by apply: Rinv_0_lt_compat; lra.
exists (D eps eps * (Fac + 1) / (Fac - 1)), eps; rewrite U4_stage_fresh U4_stage_stale.
have E : D eps eps * (Fac + 1) / (Fac - 1) - D eps eps = 2 * (D eps eps * / (Fac - 1)) by field; lra.
have df := Rmult_lt_0_compat _ _ d0 fi.
split; first by apply: U4_steps => //; lra.
split; first by field; lra.
by rewrite E; apply: Rmult_lt_0_compat; lra.
Qed.
(* and one whose fresh stage gains while those two lose *)
Theorem U4_reversed eps : 0 < eps < / 2 -> exists lead tilt, exact_steps lead tilt eps /\
  0 < J lead tilt (- eps) (- eps) - J lead tilt 0 0 /\ J lead tilt (- eps) eps - J lead tilt 0 0 < 0.
Proof.
move=> he; have d0 : 0 < D eps eps by rewrite /D; nra.
exists (D eps eps / 2), eps; rewrite U4_stage_fresh U4_stage_stale.
have h := Rmult_lt_0_compat _ _ (proj1 he) d0.
by split; [apply: U4_steps => //; lra | split; lra].
Qed.
