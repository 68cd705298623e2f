(* S10: a chi-square budget for every path. The error of the surrogate is at most sd(return) * sqrt(e^X - 1 - X).

   The proof is one induction over the steps that are left, without a space of paths and without a martingale. It carries the
   ratios l and m that two updates have collected so far, the budgets a and b that they may still spend, and says: for EVERY real
   number k

     2 k (m (V'' - V) - l (V' - V) - L) <= k^2 noise + F(l, m, a, b)

   where V, V', V'' are the values of three policies, L what the second update was credited with, noise the part of the variance
   of the return that is due to actions. A step is 2xy <= x^2 + y^2 and one inequality between polynomials in l, m (F is a
   supersolution). In the end the discriminant in k is Cauchy-Schwarz, both signs at once. Fresh, reused and cached gaps, single
   or summed up, in turn-taking and product teams, are instances that differ in the ratios and in the credit. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
Require QArith Qreals.
From TeamTR Require Import Sums Episodic.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ numbers *)
(* a quadratic form that is never negative *)
Lemma discriminant x y z : 0 <= x -> (forall k, 2 * k * z <= k ^ 2 * x + y) -> Rabs z <= sqrt x * sqrt y.
Proof.
move=> x0 h; have y0 : 0 <= y by have := h 0; lra.
have E : z ^ 2 <= x * y.
  case: (Rle_lt_or_eq_dec _ _ x0) => [xp|x1].
    have := Rmult_le_compat_l _ _ _ x0 (h (z / x)).
    have -> : x * (2 * (z / x) * z) = 2 * z ^ 2 by field; lra.
    have -> : x * ((z / x) ^ 2 * x + y) = z ^ 2 + x * y by field; lra.
    by lra.
  case: (Req_dec z 0) => [->|z0]; first by rewrite -x1; lra.
  have := h ((y + 1) / z); rewrite -x1; have -> : 2 * ((y + 1) / z) * z = 2 * (y + 1) by field.
  by lra.
rewrite -sqrt_mult // -(sqrt_Rsqr_abs z); apply: sqrt_le_1_alt.
by rewrite /Rsqr; lra.
Qed.

Lemma form_of_bound k z x y : 0 <= x -> 0 <= y -> Rabs z <= sqrt x * sqrt y -> 2 * k * z <= k ^ 2 * x + y.
Proof.
move=> x0 y0 /Rabs_def2_le [h1 h2]; rewrite -[X in _ * X + _](sqrt_sqrt _ x0) -[X in _ + X](sqrt_sqrt _ y0).
have s1 := pow2_ge_0 (k * sqrt x - sqrt y); have s2 := pow2_ge_0 (k * sqrt x + sqrt y).
case: (Rle_dec 0 k) => k0; first by have := Rmult_le_compat_l _ _ _ k0 h2; lra.
by have := Rmult_le_compat_l (- k) (- z) (sqrt x * sqrt y) ltac:(lra) ltac:(lra); lra.
Qed.

(* ------------------------------------------------------------------ rows *)
Section Rows.
Variable A : finType.
Implicit Types p q : A -> R.
(* the new row plays nothing that the current one never plays *)
Definition dominated p q := forall a, p a = 0 -> q a = 0.
Definition chi p q := \sum_(a : A) ((q a - p a) ^ 2 / p a).
Lemma term_ge0 p (x : R) a : dist p -> 0 <= x -> 0 <= x / p a.
Proof.
move=> [p0 _] x0; case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-].
  by apply: Rmult_le_pos x0 _; apply/Rlt_le/Rinv_0_lt_compat.
by rewrite /Rdiv Rinv_0; lra.
Qed.
Lemma chi_ge0 p q : dist p -> 0 <= chi p q.
Proof. by move=> hp; apply: sum_ge0 => a; apply: term_ge0 => //; apply: pow2_ge_0. Qed.
Lemma some_action p : dist p -> exists a, 0 < p a.
Proof.
move=> [p0 p1]; apply: Classical_Prop.NNPP => h.
suff : \sum_(a : A) p a = 0 by lra.
by apply: sum0 => a; case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|//]; case: h; exists a.
Qed.
End Rows.

(* ------------------------------------------------------------------ paths *)
Section Paths.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Implicit Types p q : S -> A -> R.
Notation after := (after e next).
Notation V := (V e next r).
Notation Q := (Q e next r).
Notation Adv := (Adv e next r).
Notation path_sum := (path_sum e next).

(* C holds at every state that p visits in the t steps from s *)
Fixpoint everywhere p (C : S -> Prop) t s : Prop :=
  if t is u.+1 then C s /\ forall a b, 0 < p s a -> 0 < e s a b -> everywhere p C u (next s a b) else True.
(* no path of p of positive probability spends more than x *)
Definition budget p (f : S -> R) t s x :=
  forall w : path A B t, 0 < law e next p s w -> ret next (fun y _ _ => f y) s w <= x.

Lemma everywhere_all p (C : S -> Prop) t s : (forall x, C x) -> everywhere p C t s.
Proof. by move=> h; elim: t s => [//|t ih] s; split. Qed.
Lemma everywhere_imp p (C D : S -> Prop) t s : (forall x, C x -> D x) -> everywhere p C t s -> everywhere p D t s.
Proof. by move=> h; elim: t s => [//|t ih] s [c n]; split=> [|a b pa eb]; [exact: h | exact: ih (n a b pa eb)]. Qed.
Lemma everywhere_and p (C D : S -> Prop) t s : everywhere p C t s -> everywhere p D t s -> everywhere p (fun x => C x /\ D x) t s.
Proof. by elim: t s => [//|t ih] s [c n] [d m]; split=> // a b pa eb; apply: ih; [exact: n | exact: m]. Qed.

Lemma budget_next p f t s x a b : budget p f t.+1 s x -> 0 < p s a -> 0 < e s a b -> budget p f t (next s a b) (x - f s).
Proof.
move=> h pa eb w lw; have := h ((a, b), w) => /=.
suff l0 : 0 < p s a * e s a b * law e next p (next s a b) w by move=> /(_ l0); lra.
by apply: Rmult_lt_0_compat lw; apply: Rmult_lt_0_compat.
Qed.
Lemma budget_ge0 p f t s x : policy p -> everywhere p (fun y => 0 <= f y) t s -> budget p f t s x -> 0 <= x.
Proof.
move=> hp; elim: t s x => [|t ih] s x; first by move=> _ /(_ tt); rewrite /=; lra.
move=> [f0 n] h; have [a pa] := some_action (hp s); have [b eb] := some_action (e_dist s a).
by have := ih _ _ (n a b pa eb) (budget_next h pa eb); lra.
Qed.

Lemma budget0 p f t s : (forall x, f x = 0) -> budget p f t s 0.
Proof.
move=> f0 w _; suff -> : ret next (fun y _ _ => f y) s w = 0 by lra.
by elim: t s w => [//|t ih] s w; rewrite /= ih f0; lra.
Qed.

Lemma after_lin s a (f1 f2 f3 : S -> R) k1 k2 k3 k4 :
  after s a (fun x => k1 * f1 x + k2 * f2 x + k3 * f3 x + k4)
  = k1 * after s a f1 + k2 * after s a f2 + k3 * after s a f3 + k4.
Proof.
rewrite /Horizon.after (sumE (G := fun b => k1 * (e s a b * f1 (next s a b)) + k2 * (e s a b * f2 (next s a b))
  + k3 * (e s a b * f3 (next s a b)) + e s a b * k4)) => [|b]; last lra.
by rewrite !sumD !sumZ sum_const // (proj2 (e_dist s a)).
Qed.
Lemma after_mono s a f h : (forall b, 0 < e s a b -> f (next s a b) <= h (next s a b)) -> after s a f <= after s a h.
Proof. by move=> E; apply: sum_pos_le => //; exact: (proj1 (e_dist s a)). Qed.

(* ---- the variance of the return, and the part of it that is due to actions *)
Definition variance p t s := \sum_(w : path A B t) (law e next p s w * (ret next r s w - V p t s) ^ 2).
(* turn: the states at which something is updated; the advantages of the other states do not count *)
Definition noise p (turn : S -> bool) :=
  path_sum p (fun u x => if turn x then \sum_(a : A) (p x a * Adv p u x a ^ 2) else 0).

Lemma variance_next p t s : policy p -> variance p t.+1 s
  = \sum_(a : A) (p s a * \sum_(b : B) (e s a b * ((r s a b + V p t (next s a b) - V p t.+1 s) ^ 2 + variance p t (next s a b)))).
Proof.
move=> hp; rewrite /variance sum_path; apply: sumE => a; rewrite -sumZ; apply: sumE => b.
set s' := next s a b; set d := r s a b + V p t s' - V p t.+1 s.
have := V_law next e_dist r t s' hp; have := proj2 (law_dist next e_dist t s' hp) => l1 vl.
rewrite (sumE (G := fun w : path A B t => p s a * e s a b * (d ^ 2 * law e next p s' w
  + 2 * d * (law e next p s' w * ret next r s' w - V p t s' * law e next p s' w)
  + law e next p s' w * (ret next r s' w - V p t s') ^ 2))) => [|w]; last first.
  by rewrite /d [law _ _ _ _ _]/= [ret _ _ _ _]/= -/s'; ring.
by rewrite sumZ !sumD !sumZ sumB sumZ l1 -vl; ring.
Qed.
(* the square of a mean is at most the mean of the square *)
Lemma jensen (c y : B -> R) : dist c -> (\sum_(b : B) (c b * y b)) ^ 2 <= \sum_(b : B) (c b * y b ^ 2).
Proof.
move=> [c0 c1]; set m := \sum_(b : B) (c b * y b).
have : 0 <= \sum_(b : B) (c b * (y b - m) ^ 2) by apply: sum_ge0 => b; apply: Rmult_le_pos (c0 b) (pow2_ge_0 _).
rewrite (sumE (G := fun b => c b * y b ^ 2 - 2 * m * (c b * y b) + m ^ 2 * c b)) => [|b]; last ring.
by rewrite sumD sumB !sumZ -/m c1; lra.
Qed.
Lemma noise_next p turn t s : noise p turn t.+1 s
  = (if turn s then \sum_(a : A) (p s a * Adv p t s a ^ 2) else 0) + \sum_(a : A) (p s a * after s a (noise p turn t)).
Proof. by []. Qed.
Lemma noise_ge0 p turn t s : policy p -> 0 <= noise p turn t s.
Proof.
move=> hp; rewrite /noise; elim: t s => [|t ih] s; first by rewrite /=; lra.
apply: Rplus_le_le_0_compat.
  by case: ifP => _; [apply: sum_ge0 => a; apply: Rmult_le_pos (proj1 (hp s) a) (pow2_ge_0 _) | lra].
apply: sum_ge0 => a; apply: Rmult_le_pos (proj1 (hp s) a) _.
by apply: sum_ge0 => b; apply: Rmult_le_pos (proj1 (e_dist s a) b) (ih _).
Qed.
(* the environment's part is left out, and so are the turns of those who are not updated *)
Lemma noise_le_variance p turn t s : policy p -> noise p turn t s <= variance p t s.
Proof.
move=> hp; elim: t s => [|t ih] s.
  by rewrite /noise /=; apply: sum_ge0 => w; apply: Rmult_le_pos (pow2_ge_0 _); rewrite /=; lra.
rewrite variance_next // /noise [path_sum _ _ _ _]/=.
rewrite (_ : (if turn s then _ else 0) + _
  = \sum_(a : A) (p s a * ((if turn s then Adv p t s a ^ 2 else 0) + after s a (noise p turn t)))).
  apply: sum_le => a; apply: Rmult_le_compat_l; first exact: (proj1 (hp s)).
  rewrite (sumE (F := fun b => e s a b * _) (G := fun b => e s a b * (r s a b + V p t (next s a b) - V p t.+1 s) ^ 2
    + e s a b * variance p t (next s a b))) => [|b]; last lra.
  rewrite sumD; apply: Rplus_le_compat; last by apply: after_mono => b _; exact: ih.
  apply: Rle_trans (jensen _ (e_dist s a)).
  have -> : \sum_(b : B) (e s a b * (r s a b + V p t (next s a b) - V p t.+1 s)) = Adv p t s a.
    rewrite (sumE (G := fun b => e s a b * (r s a b + V p t (next s a b)) - e s a b * V p t.+1 s)) => [|b]; last lra.
    by rewrite sumB sum_const // (proj2 (e_dist s a)).
  by case: ifP => _; [lra | exact: pow2_ge_0].
rewrite (sumE (F := fun a => p s a * (_ + _)) (G := fun a => p s a * (if turn s then Adv p t s a ^ 2 else 0)
  + p s a * after s a (noise p turn t))) => [|a]; last lra.
by rewrite sumD; congr (_ + _); case: ifP => _ //; rewrite sum0 // => a; lra.
Qed.

(* ------------------------------------------------------------------ the induction *)
Section Three.
Variables (p p' p'' : S -> A -> R) (y z c : S -> A -> R) (alpha beta : S -> R) (F : R -> R -> R -> R -> R) (turn : S -> bool).
Hypotheses (hp : policy p) (F0 : forall l m a b, 0 <= a -> 0 <= b -> 0 <= F l m a b).
(* increment of the martingale when the ratios are l and m: y, z are the ratios of p', p'' to p, c the credit *)
Definition incr l m x a := m * (z x a - 1) - l * (y x a - 1) - c x a.
(* what is asked of a visited state *)
Record fair x : Prop := Fair {
  fair1 : forall a, p' x a = p x a * y x a;
  fair2 : forall a, p'' x a = p x a * z x a;
  fair_y : \sum_(a : A) (p x a * y x a) = 1;
  fair_z : \sum_(a : A) (p x a * z x a) = 1;
  fair_c : \sum_(a : A) (p x a * c x a) = 0;
  fair_a : 0 <= alpha x;
  fair_b : 0 <= beta x;
  fair_still : turn x = false -> forall a l m, p x a * incr l m x a = 0;
  fair_step : forall l m a b, alpha x <= a -> beta x <= b ->
    \sum_(i : A) (p x i * (incr l m x i ^ 2 + F (l * y x i) (m * z x i) (a - alpha x) (b - beta x))) <= F l m a b }.
(* what the update was credited with *)
Definition credit := path_sum p (fun u x => \sum_(a : A) (p x a * (c x a * Q p u x a))).

Lemma induction t s a b k l m : everywhere p fair t s -> budget p alpha t s a -> budget p beta t s b ->
  2 * k * (m * (V p'' t s - V p t s) - l * (V p' t s - V p t s) - credit t s) <= k ^ 2 * noise p turn t s + F l m a b.
Proof.
elim: t s a b l m => [|t ih] s a b l m ev ba bb.
  have := F0 l m (ba tt Rlt_0_1) (bb tt Rlt_0_1).
  by rewrite /credit /noise /=; lra.
have [fs en] := ev; have [f1 f2 fy fz fc fa fb still step] := fs.
have [ca cb] : alpha s <= a /\ beta s <= b.
  have [i pi] := some_action (hp s); have [j ej] := some_action (e_dist s i); have n := en i j pi ej.
  have := budget_ge0 hp (everywhere_imp (fun x => @fair_a x) n) (budget_next ba pi ej).
  by have := budget_ge0 hp (everywhere_imp (fun x => @fair_b x) n) (budget_next bb pi ej); lra.
(* the next state, under the ratios after action i *)
pose rest i x := m * z s i * (V p'' t x - V p t x) - l * y s i * (V p' t x - V p t x) - credit t x.
have next_le i : 0 < p s i -> 2 * k * after s i (rest i)
    <= k ^ 2 * after s i (noise p turn t) + F (l * y s i) (m * z s i) (a - alpha s) (b - beta s).
  move=> pi; set f := F _ _ _ _.
  have h : after s i (fun x => 2 * k * rest i x + 0 * rest i x + 0 * rest i x + 0)
      <= after s i (fun x => k ^ 2 * noise p turn t x + 0 * rest i x + 0 * rest i x + f).
    apply: after_mono => j ej.
    have := ih _ _ _ (l * y s i) (m * z s i) (en i j pi ej) (budget_next ba pi ej) (budget_next bb pi ej).
    by rewrite /rest /f; lra.
  by move: h; rewrite !after_lin; lra.
(* what one step adds *)
pose own i := 2 * k * (incr l m s i * Adv p t s i).
have own_le : \sum_(i : A) (p s i * own i) <= k ^ 2 * (if turn s then \sum_(i : A) (p s i * Adv p t s i ^ 2) else 0)
    + \sum_(i : A) (p s i * incr l m s i ^ 2).
  case E : (turn s); last first.
    have st i x : p s i * (incr l m s i * x) = 0 by rewrite -Rmult_assoc still //; lra.
    rewrite sum0 => [|i]; last by rewrite /own Rmult_comm Rmult_assoc (Rmult_comm _ (p s i)) st; lra.
    by rewrite sum0 => [|i]; rewrite /= ?st; lra.
  rewrite -sumZ -sumD; apply: sum_le => i; rewrite /own; have [p0 _] := hp s.
  have sq : 2 * k * (incr l m s i * Adv p t s i) <= k ^ 2 * Adv p t s i ^ 2 + incr l m s i ^ 2.
    by have := pow2_ge_0 (k * Adv p t s i - incr l m s i); lra.
  by have := Rmult_le_compat_l _ _ _ (p0 i) sq; lra.
have one : m * (V p'' t.+1 s - V p t.+1 s) - l * (V p' t.+1 s - V p t.+1 s) - credit t.+1 s
    = \sum_(i : A) (p s i * (after s i (rest i) + incr l m s i * Adv p t s i)).
  have E i : p s i * (after s i (rest i) + incr l m s i * Adv p t s i)
    = m * (p'' s i * Q p'' t s i) - l * (p' s i * Q p' t s i) - (m - l) * (p s i * Q p t s i)
      - (p s i * (c s i * Q p t s i) + p s i * after s i (credit t))
      - V p t.+1 s * (m * (p s i * z s i - p s i) - l * (p s i * y s i - p s i) - p s i * c s i).
    have -> : after s i (rest i) = m * z s i * (after s i (V p'' t) - after s i (V p t))
        - l * y s i * (after s i (V p' t) - after s i (V p t)) - after s i (credit t).
      rewrite -!afterB (_ : after s i (rest i) = after s i (fun x => m * z s i * (V p'' t x - V p t x)
        + (- (l * y s i)) * (V p' t x - V p t x) + -1 * credit t x + 0)); last by apply: afterE => x; rewrite /rest; lra.
      by rewrite after_lin; lra.
    by rewrite f1 f2 /Horizon.Adv !QE /incr; ring.
  rewrite (sumE E) !sumB !sumD !sumZ !sumB !sumZ !sumB fy fz fc (proj2 (hp s)).
  by rewrite /credit [path_sum _ _ t.+1 s]/= !VE; lra.
rewrite one; apply: Rle_trans (_ : \sum_(i : A) (p s i * own i + p s i * (k ^ 2 * after s i (noise p turn t)
    + F (l * y s i) (m * z s i) (a - alpha s) (b - beta s))) <= _).
  rewrite -sumZ; apply: sum_le => i; rewrite /own.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) i)) => [pi|<-]; last lra.
  by have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pi) (next_le i pi); lra.
have := step l m a b ca cb.
rewrite (sumE (G := fun i => p s i * incr l m s i ^ 2 + p s i * F (l * y s i) (m * z s i) (a - alpha s) (b - beta s)))
  => [|i]; last lra.
rewrite sumD => st.
rewrite (sumE (G := fun i => p s i * own i + (k ^ 2 * (p s i * after s i (noise p turn t))
  + p s i * F (l * y s i) (m * z s i) (a - alpha s) (b - beta s)))) => [|i]; last lra.
by rewrite !sumD sumZ noise_next; lra.
Qed.
End Three.
End Paths.

(* ------------------------------------------------------------------ the supersolution *)
(* V(l,m,a,b) of s10.md (d); with l = m = 1 it is G(a+b) - G(a), with a = 0 the V of the statement *)
Definition F l m a b := m ^ 2 * (exp (a + b) - 1) + (l ^ 2 - 2 * m * l) * (exp a - 1) - 2 * m * b + b.
Definition G x := exp x - 1 - x.

Lemma F11 a b : F 1 1 a b = G (a + b) - G a.
Proof. by rewrite /F /G; lra. Qed.
Lemma F_ge0 l m a b : 0 <= a -> 0 <= b -> 0 <= F l m a b.
Proof.
move=> a0 b0; have ea := exp_ineq1_le a; have eb := exp_ineq1_le b; rewrite /F exp_plus.
have -> : m ^ 2 * (exp a * exp b - 1) + (l ^ 2 - 2 * m * l) * (exp a - 1) - 2 * m * b + b
  = (exp a - 1) * (m - l) ^ 2 + m ^ 2 * (exp a * (exp b - 1) - b) + b * (m - 1) ^ 2 by ring.
have h1 := Rmult_le_pos _ _ (_ : 0 <= exp a - 1) (pow2_ge_0 (m - l)).
have h2 : 0 <= exp a * (exp b - 1) - b by have := Rmult_le_compat_r (exp b - 1) 1 (exp a); lra.
by have := Rmult_le_pos _ _ (pow2_ge_0 m) h2; have := Rmult_le_pos _ _ b0 (pow2_ge_0 (m - 1)); have := h1 ltac:(lra); lra.
Qed.

Section Moments.
Variable A : finType.
(* second moments of one row: y ratio of the updates before, z ratio with this one, c its credit *)
Record moments (p y z c : A -> R) al be M N : Prop := Moments {
  mo_1 : \sum_(i : A) p i = 1;
  mo_y : \sum_(i : A) (p i * y i) = 1;
  mo_z : \sum_(i : A) (p i * z i) = 1;
  mo_c : \sum_(i : A) (p i * c i) = 0;
  mo_yy : \sum_(i : A) (p i * (y i * y i)) = M;
  mo_yz : \sum_(i : A) (p i * (y i * z i)) = M;
  mo_zz : \sum_(i : A) (p i * (z i * z i)) = N;
  mo_cy : \sum_(i : A) (p i * (c i * y i)) = 0;
  mo_cz : \sum_(i : A) (p i * (c i * z i)) = be;
  mo_cc : \sum_(i : A) (p i * (c i * c i)) = be;
  mo_M : M <= exp al;
  mo_N : N <= M * exp be }.

Lemma supersolution p y z c al be M N l m a b : moments p y z c al be M N -> 0 <= b ->
  \sum_(i : A) (p i * ((m * (z i - 1) - l * (y i - 1) - c i) ^ 2 + F (l * y i) (m * z i) (a - al) (b - be))) <= F l m a b.
Proof.
move=> [m1 my mz mc myy myz mzz mcy mcz mcc hM hN] b0.
set E1 := exp (a - al); set E2 := exp (a - al + (b - be)).
have -> : \sum_(i : A) (p i * ((m * (z i - 1) - l * (y i - 1) - c i) ^ 2 + F (l * y i) (m * z i) (a - al) (b - be)))
  = m ^ 2 * N * E2 + (l ^ 2 - 2 * m * l) * M * E1 - (m - l) ^ 2 - 2 * m * b + b.
  rewrite (sumE (G := fun i => m ^ 2 * E2 * (p i * (z i * z i)) + l ^ 2 * E1 * (p i * (y i * y i))
    + (- (2 * m * l * E1)) * (p i * (y i * z i)) + 1 * (p i * (c i * c i)) + (- (2 * m)) * (p i * (c i * z i))
    + 2 * l * (p i * (c i * y i)) + (- (2 * m * (m - l) + 2 * m * (b - be))) * (p i * z i)
    + 2 * l * (m - l) * (p i * y i) + 2 * (m - l) * (p i * c i) + ((m - l) ^ 2 + (b - be)) * p i)) => [|i].
    by rewrite !sumD !sumZ m1 my mz mc myy myz mzz mcy mcz mcc; ring.
  by rewrite /F -/E1 -/E2; ring.
have ea : M * E1 <= exp a.
  have -> : exp a = exp al * E1 by rewrite /E1 -exp_plus; congr exp; ring.
  by apply: Rmult_le_compat_r hM; apply/Rlt_le/exp_pos.
have eb := exp_ineq1_le b.
have e2 : N * E2 <= M * E1 * exp b.
  have -> : M * E1 * exp b = M * exp be * E2.
    rewrite /E1 /E2 !Rmult_assoc -!exp_plus; congr (_ * exp _); ring.
  by apply: Rmult_le_compat_r hN; apply/Rlt_le/exp_pos.
have d1 : 0 <= (exp a - M * E1) * (m - l) ^ 2 by apply: Rmult_le_pos (pow2_ge_0 _); lra.
have d2 : exp a - M * E1 <= exp (a + b) - N * E2.
  by rewrite exp_plus; have := Rmult_le_compat_l (exp a - M * E1) 1 (exp b); lra.
have := Rmult_le_compat_l _ _ _ (pow2_ge_0 m) d2; rewrite /F; lra.
Qed.

(* the same for a product team's own chi-squares: d is what the agents spend, the joint chi-square C may be as large as e^d - 1 *)
Definition W (l m a b : R) := m ^ 2 * (b * exp b) - 2 * m * (exp b - 1) + (exp b - 1).
Lemma W_ge0 l m a b : 0 <= a -> 0 <= b -> 0 <= W l m a b.
Proof.
move=> _ b0; have eb := exp_ineq1_le b.
have h : 0 <= (b - 1) * exp b + 1.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ (exp_pos b)) (exp_ineq1_le (- b)).
  by rewrite -exp_plus Rplus_opp_r exp_0; lra.
have h1 := Rmult_le_pos _ _ (pow2_ge_0 m) h; have h2 := Rmult_le_pos (exp b - 1) _ ltac:(lra) (pow2_ge_0 (m - 1)).
by rewrite /W; lra.
Qed.
Lemma W_step p y z c C d l m a b : moments p y z c 0 C 1 (1 + C) -> 0 <= d -> d <= b -> C <= exp d - 1 ->
  \sum_(i : A) (p i * ((m * (z i - 1) - l * (y i - 1) - c i) ^ 2 + W (l * y i) (m * z i) a (b - d))) <= W l m a b.
Proof.
move=> [m1 my mz mc myy myz mzz mcy mcz mcc _ _] d0 db hC.
set E := exp (b - d).
have -> : \sum_(i : A) (p i * ((m * (z i - 1) - l * (y i - 1) - c i) ^ 2 + W (l * y i) (m * z i) a (b - d)))
  = C * (m - 1) ^ 2 + (1 + C) * m ^ 2 * ((b - d) * E) - 2 * m * (E - 1) + (E - 1).
  rewrite (sumE (G := fun i => m ^ 2 * (1 + (b - d) * E) * (p i * (z i * z i)) + l ^ 2 * (p i * (y i * y i))
    + (- (2 * m * l)) * (p i * (y i * z i)) + 1 * (p i * (c i * c i)) + (- (2 * m)) * (p i * (c i * z i))
    + 2 * l * (p i * (c i * y i)) + (- (2 * m * (m - l) + 2 * m * (E - 1))) * (p i * z i)
    + 2 * l * (m - l) * (p i * y i) + 2 * (m - l) * (p i * c i) + ((m - l) ^ 2 + (E - 1)) * p i)) => [|i].
    by rewrite !sumD !sumZ m1 my mz mc myy myz mzz mcy mcz mcc; ring.
  by rewrite /W -/E; ring.
have Eb : exp b = exp d * E by rewrite /E -exp_plus; congr exp; ring.
have E1 : 1 <= E by have := exp_ineq1_le (b - d); rewrite -/E; lra.
have e1 : 0 <= E * (exp d - 1) - C.
  by have := Rmult_le_compat_r (exp d - 1) 1 E; have := exp_ineq1_le d; lra.
have f1 : 0 <= (b - 1) * exp b + E - (1 + C) * (b - d) * E.
  have h := Rmult_le_compat_r ((b - d) * E) _ _ (Rmult_le_pos _ _ (_ : 0 <= b - d) (_ : 0 <= E)) hC.
  have {}h := h ltac:(lra) ltac:(lra).
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ (exp_pos d)) (exp_ineq1_le (- d)); rewrite -exp_plus Rplus_opp_r exp_0 => g.
  by have := Rmult_le_pos E (exp d * d - exp d + 1) ltac:(lra) ltac:(lra); rewrite Eb; lra.
have := Rmult_le_pos _ _ (pow2_ge_0 m) f1; have := Rmult_le_pos _ _ e1 (pow2_ge_0 (m - 1)).
by rewrite /W Eb; lra.
Qed.

(* a step from q1 to q2, credited on rollouts of p: orthogonal to what was done before. Turn-taking: one of q1 = p, q2 = q1 holds
   at every state. Product team: the updated agent's action is independent of the others'. *)
Definition orthogonal (p q1 q2 : A -> R) := \sum_(i : A) (q1 i * (q2 i - q1 i) / p i) = 0.
Definition step2 (p q1 q2 : A -> R) := \sum_(i : A) ((q2 i - q1 i) ^ 2 / p i).
Lemma orthogonal_moments p q1 q2 : dist p -> dist q1 -> dist q2 -> dominated p q1 -> dominated p q2 -> orthogonal p q1 q2 ->
  moments p (fun i => q1 i / p i) (fun i => q2 i / p i) (fun i => (q2 i - q1 i) / p i)
    (chi p q1) (step2 p q1 q2) (1 + chi p q1) (1 + chi p q1 + step2 p q1 q2).
Proof.
move=> hp [q10 q11] [q20 q21] d1 d2 o; have [p0 p1] := hp.
have c0 := chi_ge0 q1 hp; have s0 : 0 <= step2 p q1 q2 by apply: sum_ge0 => i; apply: term_ge0 => //; apply: pow2_ge_0.
have sp f h : (forall i, 0 < p i -> f i = h i) -> (forall i, p i = 0 -> f i = h i) -> \sum_(i : A) f i = \sum_(i : A) h i.
  by move=> e1 e2; apply: sumE => i; case: (Rle_lt_or_eq_dec _ _ (p0 i)) => [/e1 //|/esym/e2].
have yy : \sum_(i : A) (p i * (q1 i / p i * (q1 i / p i))) = 1 + chi p q1.
  rewrite (sp _ (fun i => (2 * q1 i - p i) + (q1 i - p i) ^ 2 / p i)) => [|i pi|i pi]; last by rewrite pi d1 // /Rdiv; ring.
    by rewrite sumD sumB sumZ q11 p1 /chi; lra.
  by field; lra.
have cy : \sum_(i : A) (p i * ((q2 i - q1 i) / p i * (q1 i / p i))) = 0.
  by rewrite -[RHS]o; apply: sp => i pi; [field; lra | rewrite pi d1 // d2 // /Rdiv; ring].
have cc : \sum_(i : A) (p i * ((q2 i - q1 i) / p i * ((q2 i - q1 i) / p i))) = step2 p q1 q2.
  by apply: sp => i pi; [field; lra | rewrite pi d1 // d2 // /Rdiv; ring].
split=> //.
- by rewrite -[RHS]q11; apply: sp => i pi; [field; lra | rewrite pi d1 //; ring].
- by rewrite -[RHS]q21; apply: sp => i pi; [field; lra | rewrite pi d2 //; ring].
- rewrite (sp _ (fun i => q2 i - q1 i)) ?sumB ?q21 ?q11 => [|i pi|i pi]; [lra | field; lra | rewrite pi d1 // d2 //; ring].
- rewrite (sumE (G := fun i => p i * (q1 i / p i * (q1 i / p i)) + p i * ((q2 i - q1 i) / p i * (q1 i / p i))))
    ?sumD ?yy ?cy => [|i]; first lra.
  by rewrite /Rdiv; ring.
- rewrite (sumE (G := fun i => p i * (q1 i / p i * (q1 i / p i)) + 2 * (p i * ((q2 i - q1 i) / p i * (q1 i / p i)))
    + p i * ((q2 i - q1 i) / p i * ((q2 i - q1 i) / p i)))) ?sumD ?sumZ ?yy ?cy ?cc => [|i]; first lra.
  by rewrite /Rdiv; ring.
- rewrite (sumE (G := fun i => p i * ((q2 i - q1 i) / p i * (q1 i / p i))
    + p i * ((q2 i - q1 i) / p i * ((q2 i - q1 i) / p i)))) ?sumD ?cy ?cc => [|i]; first lra.
  by rewrite /Rdiv; ring.
- exact: exp_ineq1_le.
- have := exp_ineq1_le (step2 p q1 q2) => h; have := Rmult_le_compat_l (1 + chi p q1) _ _ ltac:(lra) h.
  by have := Rmult_le_pos _ _ c0 s0; lra.
Qed.
End Moments.

(* ------------------------------------------------------------------ S10 *)
Section Bounds.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Implicit Types p q : S -> A -> R.
Notation V := (V e next r).
Notation L := (L e next r).
Notation everywhere := (everywhere e next).
Notation budget := (budget e next).
Notation variance := (variance e next r).
Notation noise := (noise e next r).
Notation credit := (credit e next r).
Notation path_sum := (path_sum e next).

(* only visited states count *)
Lemma path_sum_visited p (f g : nat -> S -> R) t s : policy p -> everywhere p (fun x => forall u, f u x = g u x) t s ->
  path_sum p f t s = path_sum p g t s.
Proof.
move=> hp; elim: t s => [//|t ih] s [E n]; rewrite /= E; congr (_ + _); apply: sumE => a.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
congr (_ * _); apply: sumE => b; case: (Rle_lt_or_eq_dec _ _ (proj1 (e_dist s a) b)) => [eb|<-]; last lra.
by rewrite ih //; apply: n.
Qed.

(* from a row with its moments to a visited state of the induction *)
Lemma fair_state p p' p'' (y z c : S -> A -> R) alpha beta turn M N x :
  moments (p x) (y x) (z x) (c x) (alpha x) (beta x) M N ->
  (forall a, p' x a = p x a * y x a) -> (forall a, p'' x a = p x a * z x a) -> 0 <= alpha x -> 0 <= beta x ->
  (turn x = false -> forall a, p x a * (y x a - 1) = 0 /\ p x a * (z x a - 1) = 0 /\ p x a * c x a = 0) ->
  fair p p' p'' y z c alpha beta F turn x.
Proof.
move=> mo f1 f2 a0 b0 st; split=> //; [exact: mo_y mo | exact: mo_z mo | exact: mo_c mo | | ].
  move=> tx a l m; have [h1 [h2 h3]] := st tx a; rewrite /incr.
  rewrite (_ : p x a * _ = m * (p x a * (z x a - 1)) - l * (p x a * (y x a - 1)) - p x a * c x a); last ring.
  by rewrite h1 h2 h3; lra.
by move=> l m a b ca cb; apply: (supersolution l m a mo); lra.
Qed.

(* every form of S10 is this one with its ratios *)
Lemma S10_form p p' p'' (y z c : S -> A -> R) alpha beta turn a b t s : policy p ->
  everywhere p (fair p p' p'' y z c alpha beta F turn) t s -> budget p alpha t s a -> budget p beta t s b ->
  Rabs (V p'' t s - V p' t s - credit p c t s) <= sqrt (noise p turn t s) * sqrt (G (a + b) - G a).
Proof.
move=> hp ev ba bb; apply: discriminant; first exact: noise_ge0.
move=> k; have := @induction _ _ _ e next r e_dist _ _ _ _ _ _ _ _ _ _ hp F_ge0 _ _ _ _ k 1 1 ev ba bb.
by rewrite F11; lra.
Qed.

(* Two policies q1, q2 and the rollouts of a third, p. *)
Section Two.
Variables p q1 q2 : S -> A -> R.
Hypotheses (hp : policy p) (h1 : policy q1) (h2 : policy q2).
Definition ratio q x a : R := q x a / p x a.
Definition L_between t s := path_sum p (fun u x => \sum_(a : A) ((q2 x a - q1 x a) * Adv e next r p u x a)) t s.
Variable turn : S -> bool.
Definition visited_ok x := dominated (p x) (q1 x) /\ dominated (p x) (q2 x) /\ orthogonal (p x) (q1 x) (q2 x) /\
  (turn x = false -> forall a, q1 x a = p x a /\ q2 x a = p x a).

Lemma L_between_credit t s : everywhere p visited_ok t s ->
  L_between t s = credit p (fun x a => (q2 x a - q1 x a) / p x a) t s.
Proof.
move=> ev; apply: path_sum_visited => //; apply: everywhere_imp ev => x [d1 [d2 _]] u.
rewrite /Adv (sumE (G := fun a => (q2 x a - q1 x a) * Q e next r p u x a - V p u.+1 x * (q2 x a - q1 x a))) => [|a]; last lra.
rewrite sumB sumZ sumB (proj2 (h1 x)) (proj2 (h2 x)) Rminus_eq_0 Rmult_0_r Rminus_0_r; apply: sumE => a.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|/esym pa]; first by field; lra.
by rewrite d1 // d2 // pa /Rdiv; ring.
Qed.

Lemma S10_between a b t s : everywhere p visited_ok t s ->
  budget p (fun x => chi (p x) (q1 x)) t s a -> budget p (fun x => step2 (p x) (q1 x) (q2 x)) t s b ->
  Rabs (V q2 t s - V q1 t s - L_between t s) <= sqrt (noise p turn t s) * sqrt (G (a + b) - G a).
Proof.
move=> ev ba bb; rewrite (L_between_credit ev); apply: (S10_form (p' := q1) (p'' := q2) (y := ratio q1) (z := ratio q2) hp) ba bb.
apply: everywhere_imp ev => x [d1 [d2 [o st]]].
have back q : dominated (p x) (q x) -> forall i, q x i = p x i * ratio q x i.
  move=> d i; rewrite /ratio; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) i)) => [pi|/esym pi]; first by field; lra.
  by rewrite d // pi; lra.
apply: (fair_state (orthogonal_moments (hp x) (h1 x) (h2 x) d1 d2 o)) => //.
- exact: back.
- exact: back.
- exact: chi_ge0.
- by apply: sum_ge0 => i; apply: term_ge0 => //; apply: pow2_ge_0.
move=> tx i; have [e1 e2] := st tx i.
by rewrite !Rmult_minus_distr_l -!back // e1 e2 /Rdiv; split; [lra | split; [lra | ring]].
Qed.
End Two.

(* L_p(q) is what the step from p to q is credited with on p's own rollouts *)
Lemma L_between_L p q t s : policy p -> L_between p p q t s = L p q t s.
Proof.
move=> hp; apply: path_sumE => u x; rewrite /gain.
rewrite (sumE (G := fun a => q x a * Adv e next r p u x a - p x a * Adv e next r p u x a)) ?sumB => [|a]; last lra.
by have := gainE e next r p u x hp; rewrite VE /gain => ->; lra.
Qed.

Lemma own_ok p q turn x : dist (p x) -> dist (q x) -> dominated (p x) (q x) /\ (turn x = false -> forall a, q x a = p x a) ->
  visited_ok p p q turn x.
Proof.
move=> hp hq [d st]; split=> //; split=> //; split; last by move=> tx a; split=> //; exact: st.
rewrite /orthogonal -[RHS](Rminus_eq_0 1) -{1}(proj2 hq) -(proj2 hp) -sumB; apply: sumE => a.
case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => [pa|/esym pa]; first by field; lra.
by rewrite d // pa /Rdiv; ring.
Qed.

(* S10, with less than the variance: only the advantages of the turns that are updated count, not the start, not the environment,
   not the other agents' turns *)
Theorem S10_turns p q turn t s X : policy p -> policy q ->
  everywhere p (fun x => dominated (p x) (q x) /\ (turn x = false -> forall a, q x a = p x a)) t s ->
  budget p (fun x => chi (p x) (q x)) t s X ->
  Rabs (V q t s - V p t s - L p q t s) <= sqrt (noise p turn t s) * sqrt (exp X - 1 - X).
Proof.
move=> hp hq ev bx; have := @S10_between p p q hp hp hq turn 0 X t s.
rewrite L_between_L // Rplus_0_l (_ : G X - G 0 = exp X - 1 - X); last by rewrite /G exp_0; lra.
apply=> //; first by apply: everywhere_imp ev => x; apply: own_ok.
apply: budget0 => x; rewrite /chi sum0 // => a.
by rewrite Rminus_eq_0 /Rdiv; ring.
Qed.

(* S10. |J(q) - J(p) - L_p(q)| <= sd_p(R) * sqrt(e^X - 1 - X), if the chi-square of the steps adds up to at most X on every path
   of p of positive probability, and q plays nothing at visited states that p never plays there *)
Theorem S10 p q t s X : policy p -> policy q -> everywhere p (fun x => dominated (p x) (q x)) t s ->
  budget p (fun x => chi (p x) (q x)) t s X ->
  Rabs (V q t s - V p t s - L p q t s) <= sqrt (variance p t s) * sqrt (exp X - 1 - X).
Proof.
move=> hp hq ev bx; apply: Rle_trans (S10_turns (turn := fun _ => true) hp hq _ bx) _.
  by apply: everywhere_imp ev => x d; split.
apply: Rmult_le_compat_r; first exact: sqrt_pos.
by apply: sqrt_le_1_alt; apply: noise_le_variance.
Qed.

(* S10 with a budget beta of which the joint chi-square may be as large as e^beta - 1 *)
Theorem S10_loose p q beta t s X : policy p -> policy q ->
  everywhere p (fun x => dominated (p x) (q x) /\ 0 <= beta x /\ chi (p x) (q x) <= exp (beta x) - 1) t s ->
  budget p beta t s X ->
  Rabs (V q t s - V p t s - L p q t s) <= sqrt (variance p t s) * sqrt ((X - 1) * exp X + 1).
Proof.
move=> hp hq ev bx.
have same x : chi (p x) (p x) = 0 by rewrite /chi sum0 // => a; rewrite Rminus_eq_0 /Rdiv; ring.
have one : everywhere p (visited_ok p p q (fun _ => true)) t s.
  by apply: everywhere_imp ev => x [d _]; apply: own_ok.
rewrite -(L_between_L q t s hp) (L_between_credit hp hp hq one).
apply: Rle_trans (_ : sqrt (noise p (fun _ => true) t s) * sqrt ((X - 1) * exp X + 1) <= _); last first.
  by apply: Rmult_le_compat_r; [exact: sqrt_pos | apply: sqrt_le_1_alt; exact: noise_le_variance].
apply: discriminant; first exact: noise_ge0.
move=> k; suff fw : everywhere p (fair p p q (ratio p p) (ratio p q) (fun x a => (q x a - p x a) / p x a)
    (fun _ => 0) beta W (fun _ => true)) t s.
  have z : budget p (fun _ => 0) t s 0 by apply: budget0.
  by have := @induction _ _ _ e next r e_dist _ _ _ _ _ _ _ _ _ _ hp W_ge0 t s 0 X k 1 1 fw z bx; rewrite /W; lra.
apply: everywhere_imp ev => x [d [b0 hC]].
have [_ [_ [o _]]] : visited_ok p p q (fun _ => true) x by apply: own_ok.
have := orthogonal_moments (hp x) (hp x) (hq x) (fun _ h => h) d o; rewrite same Rplus_0_r => mo.
have back f : dominated (p x) (f x) -> forall i, f x i = p x i * ratio p f x i.
  move=> df i; rewrite /ratio; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) i)) => [pi|/esym pi]; first by field; lra.
  by rewrite df // pi; lra.
split=> //; [exact: back | exact: back | exact: mo_y mo | exact: mo_z mo | exact: mo_c mo | lra | ].
by move=> l m a b _ cb; rewrite Rminus_0_r; apply: (W_step l m a mo).
Qed.

(* ---- over an initial distribution *)
Section Start.
Variables (I : finType) (rho : I -> R) (start : I -> S).
Hypothesis rho_dist : dist rho.
Notation from := (from_rho rho start).
(* the variance of the return of the whole episode, the start included *)
Definition variance_J p t := \sum_(i : I) (rho i * \sum_(w : path A B t)
  (law e next p (start i) w * (ret next r (start i) w - from (V p t)) ^ 2)).
Lemma variance_J_ge p t : policy p -> from (variance p t) <= variance_J p t.
Proof.
move=> hp; apply: sum_le => i; apply: Rmult_le_compat_l; first exact: (proj1 rho_dist i).
set s := start i; set J := from _; have l1 := proj2 (law_dist next e_dist t s hp); have vl := V_law next e_dist r t s hp.
rewrite [X in _ <= X](sumE (G := fun w : path A B t => law e next p s w * (ret next r s w - V p t s) ^ 2
  + 2 * (V p t s - J) * (law e next p s w * ret next r s w - V p t s * law e next p s w)
  + (V p t s - J) ^ 2 * law e next p s w)) => [|w]; last ring.
by rewrite !sumD !sumZ sumB sumZ l1 -vl; have := pow2_ge_0 (V p t s - J); rewrite /variance; lra.
Qed.

(* S10 over a start distribution, with less than the variance: within the episodes of one start (the spread of the values of the
   starts does not count), and of the updated turns only *)
Theorem S10_J_turns p q turn t X : policy p -> policy q ->
  (forall i, 0 < rho i -> everywhere p (fun x => dominated (p x) (q x) /\
    (turn x = false -> forall a, q x a = p x a)) t (start i)) ->
  (forall i, 0 < rho i -> budget p (fun x => chi (p x) (q x)) t (start i) X) ->
  Rabs (from (V q t) - from (V p t) - from (L p q t)) <= sqrt (from (noise p turn t)) * sqrt (exp X - 1 - X).
Proof.
move=> hp hq ev bx; have G0 : 0 <= exp X - 1 - X by have := exp_ineq1_le X; lra.
have v0 s : 0 <= noise p turn t s := noise_ge0 next r e_dist turn t s hp.
apply: discriminant => [|k]; first by apply: sum_ge0 => i; apply: Rmult_le_pos (proj1 rho_dist i) (v0 _).
rewrite /from_rho -!sumB -!sumZ -[X in _ + X](sum_const _ (proj2 rho_dist)) -sumD; apply: sum_le => i; set s := start i.
case: (Rle_lt_or_eq_dec _ _ (proj1 rho_dist i)) => [ri|<-]; last lra.
have := form_of_bound k (v0 s) G0 (S10_turns hp hq (ev i ri) (bx i ri)) => h.
by have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ ri) h; rewrite -/s; lra.
Qed.
(* S10: |J(q) - J(p) - L_p(q)| <= sd_p(R) * sqrt(e^X - 1 - X), the variance that of the whole episode *)
Theorem S10_J p q t X : policy p -> policy q ->
  (forall i, 0 < rho i -> everywhere p (fun x => dominated (p x) (q x)) t (start i)) ->
  (forall i, 0 < rho i -> budget p (fun x => chi (p x) (q x)) t (start i) X) ->
  Rabs (from (V q t) - from (V p t) - from (L p q t)) <= sqrt (variance_J p t) * sqrt (exp X - 1 - X).
Proof.
move=> hp hq ev bx; apply: Rle_trans (S10_J_turns (turn := fun _ => true) hp hq _ bx) _.
  by move=> i ri; apply: everywhere_imp (ev i ri) => x d; split.
apply: Rmult_le_compat_r; first exact: sqrt_pos.
apply: sqrt_le_1_alt; apply: Rle_trans (variance_J_ge t hp); apply: sum_le => i.
by apply: Rmult_le_compat_l (proj1 rho_dist i) _; exact: noise_le_variance.
Qed.
End Start.

(* ---- a stage: team 0, team 1, ..., rollouts of team 0 *)
Section Team.
Variable team : nat -> S -> A -> R.
Hypothesis ht : forall i, policy (team i).
Notation cached_gap t s i := (V (team i.+1) t s - V (team i) t s - L_cached e next r team t s i).

(* S10 (a): fresh, rollouts of team i; only the turns of the updated agent count *)
Theorem S10_fresh i turn t s X :
  everywhere (team i) (fun x => dominated (team i x) (team i.+1 x) /\
    (turn x = false -> forall a, team i.+1 x a = team i x a)) t s ->
  budget (team i) (fun x => chi (team i x) (team i.+1 x)) t s X ->
  Rabs (V (team i.+1) t s - V (team i) t s - L (team i) (team i.+1) t s)
    <= sqrt (noise (team i) turn t s) * sqrt (exp X - 1 - X).
Proof. exact: S10_turns. Qed.

(* S10 (c): the signed cached sum of n updates, any protocol, any order, with the joint chi-square of team 0 and team n *)
Theorem S10_cached n t s X : everywhere (team O) (fun x => dominated (team O x) (team n x)) t s ->
  budget (team O) (fun x => chi (team O x) (team n x)) t s X ->
  Rabs (\big[Rplus/0]_(i < n) cached_gap t s i) <= sqrt (variance (team O) t s) * sqrt (exp X - 1 - X).
Proof. by move=> ev bx; rewrite L_cached_telescope //; apply: S10. Qed.

(* turn-taking: the joint chi-square is the sum of the agents', that of the one who acts *)
Lemma chi_turns (I : finType) (j : S -> I) n x :
  chi (team O x) (team n x) = \sum_(k : I) (if j x == k then chi (team O x) (team n x) else 0).
Proof. by rewrite -big_mkcond (big_pred1 (j x)) // => k /=; rewrite eq_sym. Qed.

(* S10 (d), cached: one update of a stage; what the updates before it spend is chi-square(team 0, team i), what it spends itself
   sum (team (i+1) - team i)^2 / team 0: two budgets, each the most over all paths *)
Theorem S10_cached_update i a b t s :
  everywhere (team O) (fun x => dominated (team O x) (team i x) /\ dominated (team O x) (team i.+1 x) /\
    orthogonal (team O x) (team i x) (team i.+1 x)) t s ->
  budget (team O) (fun x => chi (team O x) (team i x)) t s a ->
  budget (team O) (fun x => step2 (team O x) (team i x) (team i.+1 x)) t s b ->
  Rabs (cached_gap t s i) <= sqrt (variance (team O) t s) * sqrt (G (a + b) - G a).
Proof.
move=> ev ba bb; apply: Rle_trans (S10_between (turn := fun _ => true) (ht O) (ht i) (ht i.+1) _ ba bb) _.
  by apply: everywhere_imp ev => x [d1 [d2 o]].
apply: Rmult_le_compat_r; first exact: sqrt_pos.
by apply: sqrt_le_1_alt; apply: noise_le_variance.
Qed.

(* turn-taking: the update leaves the row alone, or nobody has moved it before *)
Lemma orthogonal_turns x i : (forall a, team i.+1 x a = team i x a) \/ (forall a, team i x a = team O x a) ->
  dominated (team O x) (team i.+1 x) -> orthogonal (team O x) (team i x) (team i.+1 x).
Proof.
move=> [E|E] d; rewrite /orthogonal; first by apply: sum0 => a; rewrite E /Rdiv; ring.
rewrite -[RHS](Rminus_eq_0 1) -{1}(proj2 (ht i.+1 x)) -(proj2 (ht O x)) -sumB; apply: sumE => a; rewrite E.
case: (Rle_lt_or_eq_dec _ _ (proj1 (ht O x) a)) => [pa|/esym pa]; first by field; lra.
by rewrite d // pa /Rdiv; ring.
Qed.
End Team.
End Bounds.

(* ------------------------------------------------------------------ product teams: the agents' own chi-square *)
Section ProductRows.
Variables (I M : finType) (p q : I -> M -> R).
Hypotheses (hp : forall k, dist (p k)) (hq : forall k, dist (q k)) (hd : forall k, dominated (p k) (q k)).
Implicit Types (D E : pred I) (h : I -> M -> R).
Definition own k m := q k m / p k m.
(* ratio of the agents in D *)
Definition part D k m := if D k then own k m else 1.
Definition ratio_of D (f : {ffun I -> M}) := \big[Rmult/1]_(k : I) part D k (f k).
Definition rows_of D k := if D k then q k else p k.
Definition spend k := chi (p k) (q k).

(* independence *)
Lemma mean_prod h : \sum_(f : {ffun I -> M}) (joint p f * \big[Rmult/1]_(k : I) h k (f k))
  = \big[Rmult/1]_(k : I) \sum_(m : M) (p k m * h k m).
Proof.
rewrite (sumE (G := fun f : {ffun I -> M} => \big[Rmult/1]_(k : I) (p k (f k) * h k (f k)))) => [|f].
  by rewrite -(bigA_distr_bigA (fun k m => p k m * h k m)).
by rewrite big_split.
Qed.
Lemma mean_off h k : \sum_(m : M) (p k m * h k m) = 0 ->
  \sum_(f : {ffun I -> M}) (joint p f * \big[Rmult/1]_(l : I) h l (f l)) = 0.
Proof. by move=> z; rewrite mean_prod (bigD1 k) //= z Rmult_0_l. Qed.
Lemma mean_one h k : (forall l, l != k -> \sum_(m : M) (p l m * h l m) = 1) ->
  \sum_(f : {ffun I -> M}) (joint p f * \big[Rmult/1]_(l : I) h l (f l)) = \sum_(m : M) (p k m * h k m).
Proof. by move=> o; rewrite mean_prod (bigD1 k) //= [X in _ * X]big1 ?Rmult_1_r // => l; exact: o. Qed.

Lemma ownE k m : p k m * own k m = q k m.
Proof.
rewrite /own; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp k) m)) => [pm|/esym pm]; first by field; lra.
by rewrite hd // pm; lra.
Qed.
Lemma own1 k : \sum_(m : M) (p k m * own k m) = 1.
Proof. by rewrite (sumE (ownE k)); exact: (proj2 (hq k)). Qed.
Lemma own0 k : \sum_(m : M) (p k m * (own k m - 1)) = 0.
Proof.
rewrite (sumE (G := fun m => p k m * own k m - p k m)) ?sumB ?own1 ?(proj2 (hp k)) => [|m]; lra.
Qed.
Lemma own_cc k : \sum_(m : M) (p k m * ((own k m - 1) * (own k m - 1))) = spend k.
Proof.
apply: sumE => m; rewrite /own; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp k) m)) => [pm|/esym pm]; first by field; lra.
by rewrite hd // pm /Rdiv; ring.
Qed.
Lemma own_cz k : \sum_(m : M) (p k m * ((own k m - 1) * own k m)) = spend k.
Proof.
rewrite (sumE (G := fun m => p k m * ((own k m - 1) * (own k m - 1)) + p k m * (own k m - 1))) => [|m]; last ring.
by rewrite sumD own_cc own0; lra.
Qed.
Lemma own_zz k : \sum_(m : M) (p k m * (own k m * own k m)) = 1 + spend k.
Proof.
rewrite (sumE (G := fun m => p k m * own k m + p k m * ((own k m - 1) * own k m))) => [|m]; last ring.
by rewrite sumD own1 own_cz.
Qed.
Lemma part1 D k : \sum_(m : M) (p k m * part D k m) = 1.
Proof.
rewrite /part; case: (D k); first exact: own1.
by rewrite (sumE (G := p k)) ?(proj2 (hp k)) => [|m]; lra.
Qed.

Lemma joint_rows D f : joint (rows_of D) f = joint p f * ratio_of D f.
Proof.
rewrite /joint /ratio_of -big_split /=; apply: eq_bigr => k _; rewrite /rows_of /part.
by case: (D k); rewrite ?ownE //; lra.
Qed.
Lemma ratio_mean D : \sum_(f : {ffun I -> M}) (joint p f * ratio_of D f) = 1.
Proof. by rewrite mean_prod big1 // => k _; exact: part1. Qed.
Lemma ratio_mul D E f : ratio_of D f * ratio_of E f = \big[Rmult/1]_(k : I) (part D k (f k) * part E k (f k)).
Proof. by rewrite -big_split. Qed.
(* second moment: the product of the agents', when the one is part of the other *)
Definition second D := \big[Rmult/1]_(k : I) (if D k then 1 + spend k else 1).
Lemma ratio_second D E : (forall k, D k -> E k) ->
  \sum_(f : {ffun I -> M}) (joint p f * (ratio_of D f * ratio_of E f)) = second D.
Proof.
move=> sub; rewrite (sumE (fun f => congr1 (Rmult (joint p f)) (ratio_mul D E f))).
rewrite (mean_prod (fun k m => part D k m * part E k m)); apply: eq_bigr => k _.
case dk : (D k); first by rewrite -own_zz; apply: sumE => m; rewrite /part dk sub.
by rewrite -(part1 E k); apply: sumE => m; rewrite /part dk; lra.
Qed.
Lemma spend_ge0 k : 0 <= spend k. Proof. exact: chi_ge0. Qed.
Lemma second_le D : second D <= exp (\sum_(k : I) (if D k then spend k else 0)).
Proof.
suff h : 0 <= second D <= exp (\sum_(k : I) (if D k then spend k else 0)) by lra.
rewrite /second; apply: (big_ind2 (fun x y => 0 <= x <= exp y)) => [|x1 x2 y1 y2 h1 h2|k _]; first by rewrite exp_0; lra.
  rewrite exp_plus; split; first by apply: Rmult_le_pos; lra.
  by apply: Rmult_le_compat; lra.
by have := spend_ge0 k; have := exp_ineq1_le (spend k); case: (D k); rewrite ?exp_0; lra.
Qed.
Lemma second_ge0 D : 0 <= second D.
Proof. by apply: prod_ge0 => k; have := spend_ge0 k; case: (D k); lra. Qed.

(* the credit of agent j in the reused surrogate *)
Definition gain_of j (f : {ffun I -> M}) := own j (f j) - 1.
Lemma ratio_one j f : ratio_of (pred1 j) f = own j (f j).
Proof. by rewrite /ratio_of (bigD1 j) //= /part /= eqxx big1 ?Rmult_1_r // => k /negbTE ->. Qed.
Lemma ratio_none f : ratio_of pred0 f = 1.
Proof. by rewrite /ratio_of big1. Qed.
Lemma gain_prod j D f : gain_of j f * ratio_of D f
  = \big[Rmult/1]_(k : I) ((if k == j then own k (f k) - 1 else 1) * part D k (f k)).
Proof. by rewrite big_split /= -big_mkcond (big_pred1 j). Qed.
Lemma gain_ratio j D : \sum_(f : {ffun I -> M}) (joint p f * (gain_of j f * ratio_of D f)) = if D j then spend j else 0.
Proof.
rewrite (sumE (fun f => congr1 (Rmult (joint p f)) (gain_prod j D f))).
rewrite (mean_one (h := fun k m => (if k == j then own k m - 1 else 1) * part D k m) (k := j)) => [|l /negbTE lj].
  rewrite eqxx /part; case: (D j); first exact: own_cz.
  by rewrite -[RHS](own0 j); apply: sumE => m; lra.
by rewrite lj -[RHS](part1 D l); apply: sumE => m; lra.
Qed.
Lemma gain_gain j l : \sum_(f : {ffun I -> M}) (joint p f * (gain_of j f * gain_of l f)) = if l == j then spend j else 0.
Proof.
have -> : \sum_(f : {ffun I -> M}) (joint p f * (gain_of j f * gain_of l f))
  = \sum_(f : {ffun I -> M}) (joint p f * (gain_of j f * ratio_of (pred1 l) f))
    - \sum_(f : {ffun I -> M}) (joint p f * (gain_of j f * ratio_of pred0 f)).
  by rewrite -sumB; apply: sumE => f; rewrite ratio_one ratio_none /gain_of; ring.
by rewrite !gain_ratio /= eq_sym; case: eqP => _; lra.
Qed.

(* one reused update of agent j after those in D *)
Lemma reused_moments D j : ~~ D j -> moments (joint p) (ratio_of D) (ratio_of (predU1 j D)) (gain_of j)
  (\sum_(k : I) (if D k then spend k else 0)) (spend j) (second D) (second (predU1 j D)).
Proof.
move=> /negbTE dj; have sub k : D k -> predU1 j D k by move=> dk; rewrite /= dk orbT.
have g0 := gain_ratio j pred0.
split.
- exact: (proj2 (joint_dist hp)).
- exact: ratio_mean.
- exact: ratio_mean.
- by rewrite -[RHS]g0; apply: sumE => f; rewrite ratio_none; lra.
- exact: ratio_second.
- exact: ratio_second.
- exact: ratio_second.
- by rewrite gain_ratio dj.
- by rewrite gain_ratio /= eqxx.
- by rewrite gain_gain eqxx.
- exact: second_le.
have -> : second (predU1 j D) = second D * (1 + spend j).
  rewrite /second (bigD1 j) //= eqxx /= [in RHS](bigD1 j) //= dj.
  rewrite (eq_bigr (fun k => if D k then 1 + spend k else 1)) => [|k /negbTE kj]; last by rewrite kj.
  by ring.
by apply: Rmult_le_compat_l (exp_ineq1_le _); exact: second_ge0.
Qed.

(* all agents at once *)
Lemma joint_moments : moments (joint p) (ratio_of pred0) (ratio_of predT) (fun f => \sum_(j : I) gain_of j f)
  0 (\sum_(k : I) spend k) (second pred0) (second predT).
Proof.
have s0 : second pred0 = 1 by rewrite /second big1.
have lin (h : {ffun I -> M} -> R) : \sum_(f : {ffun I -> M}) (joint p f * ((\sum_(j : I) gain_of j f) * h f))
   = \sum_(j : I) \sum_(f : {ffun I -> M}) (joint p f * (gain_of j f * h f)).
  by rewrite sum_swap; apply: sumE => f; rewrite -sumZr -sumZ.
have c0 : \sum_(f : {ffun I -> M}) (joint p f * ((\sum_(j : I) gain_of j f) * ratio_of pred0 f)) = 0.
  by rewrite lin sum0 // => j; rewrite gain_ratio.
split=> //.
- exact: (proj2 (joint_dist hp)).
- exact: ratio_mean.
- exact: ratio_mean.
- by rewrite -[RHS]c0; apply: sumE => f; rewrite ratio_none; lra.
- exact: ratio_second.
- exact: ratio_second.
- exact: ratio_second.
- by rewrite lin; apply: sumE => j; rewrite gain_ratio.
- rewrite lin; apply: sumE => j; rewrite (sumE (G := fun f => \sum_(l : I) (joint p f * (gain_of j f * gain_of l f)))) => [|f].
    by rewrite sum_swap (sumE (gain_gain j)) -big_mkcond (big_pred1 j).
  by rewrite -sumZ -sumZ.
- by rewrite s0 exp_0; lra.
by rewrite s0 Rmult_1_l; exact: second_le.
Qed.

(* cached: the updated agent's action is independent of the others' *)
Lemma orthogonal_product D j : ~~ D j -> orthogonal (joint p) (joint (rows_of D)) (joint (rows_of (predU1 j D))).
Proof.
move=> dj; have mo := reused_moments dj; rewrite /orthogonal.
rewrite -[RHS](Rminus_eq_0 (second D)) -{1}(mo_yz mo) -(mo_yy mo) -sumB; apply: sumE => f; rewrite !joint_rows.
case: (Rle_lt_or_eq_dec _ _ (proj1 (joint_dist hp) f)) => [jp|<-]; first by field; lra.
by rewrite /Rdiv; ring.
Qed.
End ProductRows.

Section ProductTeam.
Variables (I M B : finType) (S : Type).
Notation A := {ffun I -> M}.
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
(* the agents' rows before and after the stage *)
Variables cur new : S -> I -> M -> R.
Hypotheses (hc : forall x k, dist (cur x k)) (hn : forall x k, dist (new x k)).
Notation V := (V e next r).
(* the team in which the agents of D are updated *)
Definition team_of (D : pred I) x : A -> R := joint (rows_of (cur x) (new x) D).
Notation pi0 := (team_of pred0).
Definition opens_nothing x := forall k, dominated (cur x k) (new x k).
Notation own_chi k := (fun x => spend (cur x) (new x) k).
Definition reused j t s := L e next r pi0 (team_of (pred1 j)) t s.

Lemma team_dist D : policy (team_of D).
Proof. by move=> x; apply: joint_dist => k; rewrite /rows_of; case: (D k). Qed.
Lemma team_ratio D x : opens_nothing x -> forall a, team_of D x a = pi0 x a * ratio_of (cur x) (new x) D a.
Proof. by move=> d a; rewrite /team_of (joint_rows (hc x) d). Qed.
Lemma team_dominated D x : opens_nothing x -> dominated (pi0 x) (team_of D x).
Proof. by move=> d a z; rewrite team_ratio // z; lra. Qed.
Lemma reused_credit j t s : everywhere e next pi0 opens_nothing t s ->
  reused j t s = credit e next r pi0 (fun x => gain_of (cur x) (new x) j) t s.
Proof.
move=> ev; rewrite /reused -(L_between_L _ _ _ _ _ _ (team_dist pred0)).
rewrite (@L_between_credit _ _ _ e next r e_dist _ _ _ (team_dist pred0) (team_dist pred0) (team_dist (pred1 j)) (fun _ => true)).
  apply: path_sum_visited (team_dist _) _ => //; apply: everywhere_imp ev => x d u; apply: sumE => a.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (team_dist pred0 x) a)) => [pa|<-]; last lra.
  by rewrite (team_ratio (pred1 j)) // ratio_one /gain_of; field; lra.
apply: everywhere_imp ev => x d; apply: own_ok; [exact: team_dist | exact: team_dist |].
by split=> //; apply: team_dominated.
Qed.

(* both forms: the updates of D, then those of E, with a credit that has its moments *)
Lemma S10_product D E (c : S -> A -> R) (alpha beta : S -> R) (MN : S -> R * R) a b t s :
  (forall x, opens_nothing x -> moments (pi0 x) (ratio_of (cur x) (new x) D) (ratio_of (cur x) (new x) E) (c x)
    (alpha x) (beta x) (MN x).1 (MN x).2) -> (forall x, 0 <= alpha x) -> (forall x, 0 <= beta x) ->
  everywhere e next pi0 opens_nothing t s -> budget e next pi0 alpha t s a -> budget e next pi0 beta t s b ->
  Rabs (V (team_of E) t s - V (team_of D) t s - credit e next r pi0 c t s)
    <= sqrt (variance e next r pi0 t s) * sqrt (G (a + b) - G a).
Proof.
move=> mo a0 b0 ev ba bb; apply: Rle_trans (S10_form (turn := fun _ => true) (p' := team_of D) (p'' := team_of E)
  (y := fun x => ratio_of (cur x) (new x) D) (z := fun x => ratio_of (cur x) (new x) E) r e_dist (team_dist pred0) _ ba bb) _.
  apply: everywhere_imp ev => x d; apply: (fair_state (mo x d)) => //; exact: team_ratio.
apply: Rmult_le_compat_r; first exact: sqrt_pos.
by apply: sqrt_le_1_alt; apply: noise_le_variance => //; exact: team_dist.
Qed.

(* S10 (b): the signed reused sum of a stage of a product team. J(all updated) - J(none) - sum_j L_j^reused (the stage sum
   telescopes to it in every order), with X of the sum of the agents' own chi-squares along one and the same path *)
Theorem S10_reused t s X : everywhere e next pi0 opens_nothing t s ->
  budget e next pi0 (fun x => \sum_(k : I) own_chi k x) t s X ->
  Rabs (V (team_of predT) t s - V pi0 t s - \sum_(j : I) reused j t s)
    <= sqrt (variance e next r pi0 t s) * sqrt (exp X - 1 - X).
Proof.
move=> ev bx; rewrite (sumE (fun j => reused_credit j ev)).
have -> : \sum_(j : I) credit e next r pi0 (fun x => gain_of (cur x) (new x) j) t s
    = credit e next r pi0 (fun x f => \sum_(j : I) gain_of (cur x) (new x) j f) t s.
  rewrite /credit -path_sum_sum; apply: path_sumE => u x; rewrite sum_swap; apply: sumE => f.
  by rewrite -sumZr -sumZ.
have := @S10_product pred0 predT (fun x f => \sum_(j : I) gain_of (cur x) (new x) j f) (fun _ => 0)
  (fun x => \sum_(k : I) own_chi k x) (fun x => (second (cur x) (new x) pred0, second (cur x) (new x) predT)) 0 X t s.
rewrite Rplus_0_l (_ : G X - G 0 = exp X - 1 - X); last by rewrite /G exp_0; lra.
apply=> //.
- by move=> x d; exact: (joint_moments (hc x) (hn x) d).
- by move=> x; lra.
- by move=> x; apply: sum_ge0 => k; apply: spend_ge0.
exact: budget0.
Qed.

(* S10 (d), reused, product team: agent j after those of D *)
Theorem S10_reused_update (D : pred I) j a b t s : ~~ D j -> everywhere e next pi0 opens_nothing t s ->
  budget e next pi0 (fun x => \sum_(k : I) (if D k then own_chi k x else 0)) t s a -> budget e next pi0 (own_chi j) t s b ->
  Rabs (V (team_of (predU1 j D)) t s - V (team_of D) t s - reused j t s)
    <= sqrt (variance e next r pi0 t s) * sqrt (G (a + b) - G a).
Proof.
move=> dj ev ba bb; rewrite reused_credit //.
apply: (S10_product (MN := fun x => (second (cur x) (new x) D, second (cur x) (new x) (predU1 j D))) _ _ _ ev ba bb).
- by move=> x d; apply: (reused_moments (hc x) (hn x) d).
- by move=> x; apply: sum_ge0 => k; have := spend_ge0 (new x) (hc x) k; case: (D k); lra.
by move=> x; apply: spend_ge0.
Qed.

(* S10 (d), cached, product team *)
Theorem S10_cached_product (D : pred I) j a b t s : ~~ D j -> everywhere e next pi0 opens_nothing t s ->
  budget e next pi0 (fun x => chi (pi0 x) (team_of D x)) t s a ->
  budget e next pi0 (fun x => step2 (pi0 x) (team_of D x) (team_of (predU1 j D) x)) t s b ->
  Rabs (V (team_of (predU1 j D)) t s - V (team_of D) t s - L_between e next r pi0 (team_of D) (team_of (predU1 j D)) t s)
    <= sqrt (variance e next r pi0 t s) * sqrt (G (a + b) - G a).
Proof.
move=> dj ev ba bb.
apply: Rle_trans (S10_between (turn := fun _ => true) r e_dist (team_dist _) (team_dist _) (team_dist _) _ ba bb) _.
  apply: everywhere_imp ev => x d; split; first exact: team_dominated.
  by split; [exact: team_dominated | split=> //; exact: (orthogonal_product (hc x) (hn x) d)].
apply: Rmult_le_compat_r; first exact: sqrt_pos.
by apply: sqrt_le_1_alt; apply: noise_le_variance => //; exact: team_dist.
Qed.

(* S10 (c) in the agents' own chi-squares alone: |signed cached sum| <= sd(R) sqrt((X - 1) e^X + 1) *)
Lemma chi_joint x : opens_nothing x -> 1 + chi (pi0 x) (team_of predT x) = second (cur x) (new x) predT.
Proof.
move=> d; rewrite -(ratio_second (hc x) (hn x) d (D := predT) (E := predT)) // -(proj2 (team_dist pred0 x)).
have dp := team_dist pred0 x; have q1 := proj2 (team_dist predT x).
rewrite (sumE (F := fun f => joint (cur x) f * _) (G := fun f => (2 * team_of predT x f - pi0 x f)
  + (team_of predT x f - pi0 x f) ^ 2 / pi0 x f)) => [|f].
  by rewrite sumD sumB sumZ q1 (proj2 dp) /chi; lra.
rewrite (team_ratio predT) //; have -> : joint (cur x) f = pi0 x f by [].
case: (Rle_lt_or_eq_dec _ _ (proj1 dp f)) => [pf|<-]; first by field; lra.
by rewrite /Rdiv; ring.
Qed.
Theorem S10_cached_own t s X : everywhere e next pi0 opens_nothing t s ->
  budget e next pi0 (fun x => \sum_(k : I) own_chi k x) t s X ->
  Rabs (V (team_of predT) t s - V pi0 t s - L e next r pi0 (team_of predT) t s)
    <= sqrt (variance e next r pi0 t s) * sqrt ((X - 1) * exp X + 1).
Proof.
move=> ev; apply: (S10_loose r e_dist (team_dist _) (team_dist _)); apply: everywhere_imp ev => x d.
split; first exact: team_dominated.
split; first by apply: sum_ge0 => k; exact: spend_ge0.
have := second_le (new x) (hc x) (predT : pred I); rewrite -chi_joint //.
by have -> : \sum_(k : I) (if predT k then own_chi k x else 0) = \sum_(k : I) own_chi k x by []; lra.
Qed.
End ProductTeam.

(* ------------------------------------------------------------------ what is false *)
(* A return that is the martingale itself: the gap IS the variance. (Cauchy-Schwarz is attained.) *)
Section Martingale.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (p q : S -> A -> R) (l : S -> R).
Hypotheses (hp : policy p) (hq : policy q) (hd : forall x, dominated (p x) (q x)).
Notation u x a := (q x a / p x a - 1).
Hypothesis hl : forall x a b, l (next x a b) = l x * (q x a / p x a).
Definition mart (x : S) a (b : B) := (l x - 1) * u x a.
Notation V := (V e next mart).
Definition spread := path_sum e next p (fun _ x => (l x - 1) ^ 2 * chi (p x) (q x)).

Lemma mart_back x a : p x a * (q x a / p x a) = q x a.
Proof.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|/esym pa]; first by field; lra.
by rewrite hd // pa; lra.
Qed.
Lemma mart_u x : \sum_(a : A) (p x a * u x a) = 0.
Proof.
rewrite (sumE (G := fun a => q x a - p x a)) => [|a]; last by rewrite Rmult_minus_distr_l mart_back; lra.
by rewrite sumB (proj2 (hq x)) (proj2 (hp x)); lra.
Qed.
Lemma mart_uu x : \sum_(a : A) (p x a * u x a ^ 2) = chi (p x) (q x).
Proof.
apply: sumE => a; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|/esym pa]; first by field; lra.
by rewrite hd // pa /Rdiv; ring.
Qed.
Lemma mart_qu x : \sum_(a : A) (q x a * u x a) = chi (p x) (q x).
Proof.
rewrite -mart_uu -[LHS]Rminus_0_r -[X in _ - X](mart_u x) -sumB; apply: sumE => a.
by rewrite -{1}(mart_back x a); ring.
Qed.
Lemma mart_mean x a : \sum_(b : B) (e x a b * mart x a b) = (l x - 1) * u x a.
Proof. by rewrite /mart sum_const // (proj2 (e_dist x a)). Qed.
Lemma mart_V t s : V p t s = 0.
Proof.
elim: t s => [//|t ih] s; rewrite /= (sumE (G := fun a => (l s - 1) * (p s a * u s a))) => [|a].
  by rewrite sumZ mart_u; lra.
rewrite (sumE (G := fun b => e s a b * mart s a b)) => [|b]; last by rewrite ih; lra.
by rewrite mart_mean; ring.
Qed.
Lemma mart_variance t s : variance e next mart p t s = spread t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /variance /spread mart_V /= (big_pred1 tt) => [|[] //] /=; ring.
rewrite variance_next // /spread [path_sum _ _ _ _ _ _]/= -/(spread) -mart_uu -sumZ -sumD; apply: sumE => a.
rewrite (sumE (G := fun b => e s a b * ((l s - 1) ^ 2 * u s a ^ 2) + e s a b * spread t (next s a b))) => [|b].
  by rewrite sumD sum_const ?(proj2 (e_dist s a)) // /after; ring.
by rewrite ih !mart_V /mart; ring.
Qed.
Lemma mart_gap t s : l s * V q t s - L e next mart p q t s = spread t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /L /spread /=; lra.
have adv a : Adv e next mart p t s a = (l s - 1) * u s a.
  rewrite /Adv mart_V Rminus_0_r /Q -mart_mean; apply: sumE => b; rewrite mart_V; lra.
have Vq : V q t.+1 s = \sum_(a : A) (q s a * ((l s - 1) * u s a)) + \sum_(a : A) (q s a * after e next s a (V q t)).
  rewrite -sumD /=; apply: sumE => a; rewrite -mart_mean /after -Rmult_plus_distr_l -sumD; congr (_ * _).
  by apply: sumE => b; lra.
have qz : \sum_(a : A) (q s a * ((l s - 1) * u s a)) = (l s - 1) * chi (p s) (q s).
  by rewrite -mart_qu -sumZ; apply: sumE => a; ring.
have Lq : L e next mart p q t.+1 s = (l s - 1) * chi (p s) (q s) + \sum_(a : A) (p s a * after e next s a (L e next mart p q t)).
  by rewrite -qz /L [LHS]/= /gain; congr (_ + _); apply: sumE => a; rewrite adv.
have nx : \sum_(a : A) (p s a * after e next s a (spread t))
    = l s * (\sum_(a : A) (q s a * after e next s a (V q t))) - \sum_(a : A) (p s a * after e next s a (L e next mart p q t)).
  rewrite -sumZ -sumB; apply: sumE => a.
  have -> : after e next s a (spread t)
      = l s * (q s a / p s a) * after e next s a (V q t) - after e next s a (L e next mart p q t).
    by rewrite /after -sumZ -sumB; apply: sumE => b; rewrite -ih hl; ring.
  by rewrite -{2}(mart_back s a); ring.
by rewrite Vq Lq qz /spread [path_sum _ _ _ _ t.+1 s]/= -/spread nx; ring.
Qed.
End Martingale.

(* Two agents. Agent 0 stops with probability 1/33 at each of 30 steps and is updated never to stop; then, or where it has
   stopped, both agents spend what is left of a budget of 1 in one step. *)
Module Spent.
(* n + 1 more chances to stop; the last step, in which each agent spends m/64; the end *)
Inductive kind := Go of nat | Shot of nat | Done.
Notation state := (kind * R)%type.                  (* with the ratio so far *)
Definition low m := INR (minn m 64) / 64.
Definition row_cur (x : state) (i m : bool) : R := match x.1 with
  | Go _ => if i then (if m then / 33 else 32 / 33) else (if m then 0 else 1)
  | Shot k => if m then low k / (1 + low k) else / (1 + low k)
  | Done => if m then 0 else 1 end.
Definition row_new (x : state) (i m : bool) : R := match x.1 with
  | Shot k => if m then 2 * low k / (1 + low k) else (1 - low k) / (1 + low k)
  | _ => if m then 0 else 1 end.
Definition go_on n := if n is k.+1 then Go k else Shot 2.
Notation team := (team_of row_cur row_new).
Notation A := {ffun bool -> bool}.
Definition sp_e (_ : state) (_ : A) (_ : unit) := 1.
Definition sp_next (x : state) (f : A) (_ : unit) : state :=
  (match x.1 with Go n => if f true then Shot n.+2 else go_on n | _ => Done end, x.2 * (team predT x f / team pred0 x f)).
Definition sp_r (x : state) (f : A) (_ : unit) := (x.2 - 1) * (team predT x f / team pred0 x f - 1).

Lemma sum_bool (F : bool -> R) : \sum_(b : bool) F b = F true + F false.
Proof. by rewrite (bigD1 true) //= (bigD1 false) //= big_pred0 ?Rplus_0_r // => -[]. Qed.
Lemma prod_bool (F : bool -> R) : \big[Rmult/1]_(b : bool) F b = F true * F false.
Proof. by rewrite (bigD1 true) //= (bigD1 false) //= big_pred0 ?Rmult_1_r // => -[]. Qed.
Definition two (a b : bool) : A := [ffun i => if i then a else b].
Lemma sum_two (F : A -> R) :
  \sum_(f : A) F f = F (two true true) + F (two true false) + (F (two false true) + F (two false false)).
Proof.
rewrite (reindex (fun w : bool * bool => two w.1 w.2)) /=; last first.
  exists (fun f => (f true, f false)) => [[a b] _|f _]; first by rewrite !ffunE.
  by apply/ffunP => -[]; rewrite ffunE.
by rewrite -(pair_bigA _ (fun a b => F (two a b))) /= !sum_bool.
Qed.
Lemma team_two D x a b :
  team D x (two a b) = rows_of (row_cur x) (row_new x) D true a * rows_of (row_cur x) (row_new x) D false b.
Proof. by rewrite /team_of /joint prod_bool !ffunE. Qed.

Lemma low01 m : 0 <= low m <= 1.
Proof.
have h : INR (minn m 64) <= INR 64 by apply/le_INR/leP; exact: geq_minr.
have e : INR 64 = 64 by rewrite INR_IZR_INZ.
by rewrite /low; have := pos_INR (minn m 64); lra.
Qed.
Lemma sp_cur x i : dist (row_cur x i).
Proof.
split; last by rewrite sum_bool /row_cur; case: x.1 => [n|m|]; [case: i; field | have := low01 m => h; field; lra | lra].
move=> m; rewrite /row_cur; case: x.1 => [n|k|]; [by case: i; case: m; lra | | by case: m; lra].
have h := low01 k; have i1 : 0 < / (1 + low k) by apply: Rinv_0_lt_compat; lra.
by case: m; [apply: Rmult_le_pos; lra | lra].
Qed.
Lemma sp_new x i : dist (row_new x i).
Proof.
split; last by rewrite sum_bool /row_new; case: x.1 => [n|m|]; [lra | have := low01 m => h; field; lra | lra].
move=> m; rewrite /row_new; case: x.1 => [n|k|]; [by case: m; lra | | by case: m; lra].
have h := low01 k; have i1 : 0 < / (1 + low k) by apply: Rinv_0_lt_compat; lra.
by case: m; apply: Rmult_le_pos; lra.
Qed.
Lemma sp_opens x : opens_nothing row_cur row_new x.
Proof.
move=> i m; rewrite /row_cur /row_new; case: x.1 => [n|k|]; [by case: i; case: m; lra | | by case: m; lra].
have h := low01 k; have i1 : 0 < / (1 + low k) by apply: Rinv_0_lt_compat; lra.
case: m => z; last by lra.
by have [|] := Rmult_integral _ _ z; [move=> -> | ]; lra.
Qed.
(* what the agents spend *)
Lemma sp_spend x i : spend (row_cur x) (row_new x) i =
  match x.1 with Go _ => if i then / 32 else 0 | Shot k => low k | Done => 0 end.
Proof.
have z y : (y - y) ^ 2 / y = 0 by rewrite Rminus_eq_0 /Rdiv; ring.
rewrite /spend /chi sum_bool /row_cur /row_new; case: x.1 => [n|k|].
- by case: i; [field | rewrite !z; ring].
- have h := low01 k; case: (Req_dec (low k) 0) => [->|n]; last by field; lra.
  have -> : 2 * 0 / (1 + 0) = 0 / (1 + 0) by lra.
  have -> : (1 - 0) / (1 + 0) = / (1 + 0) by lra.
  by rewrite !z; ring.
by rewrite !z; ring.
Qed.
Definition left_over k := match k with Go n => (INR n + 3) / 32 | Shot m => 2 * low m | Done => 0 end.
Lemma left_over_ge0 k : 0 <= left_over k.
Proof. by case: k => [n|m|] /=; [have := pos_INR n | have := low01 m |]; lra. Qed.
Lemma shot_le m : 2 * low m <= INR m / 32.
Proof. by have : INR (minn m 64) <= INR m by [apply/le_INR/leP; exact: geq_minl]; rewrite /low; lra. Qed.
Lemma sp_budget t x :
  budget sp_e sp_next (team pred0) (fun y => \sum_(k : bool) spend (row_cur y) (row_new y) k) t x (left_over x.1).
Proof.
move=> w _; elim: t x w => [|t ih] x w; first exact: left_over_ge0.
have := ih (sp_next x w.1.1 w.1.2) w.2; rewrite /= sum_bool !sp_spend.
case: x => [[n|m|] l] /=; last 2 first.
- by lra.
- by lra.
case: ifP => _; first by have := shot_le n.+2; rewrite !S_INR /left_over; lra.
case: n => [|n]; first by have := shot_le 2; rewrite /left_over /go_on /=; lra.
by rewrite /go_on /left_over S_INR; lra.
Qed.

Notation spread := (spread sp_e sp_next (team pred0) (team predT) snd).
Definition shot m := (1 + low m) ^ 2 - 1.
Lemma sp_chi x : chi (team pred0 x) (team predT x) = match x.1 with Go _ => / 32 | Shot m => shot m | Done => 0 end.
Proof.
have := chi_joint sp_cur sp_new (@sp_opens x); rewrite /second prod_bool /= !sp_spend.
by case: x.1 => [n|m|]; rewrite /shot; lra.
Qed.
Lemma spread_next t x : spread t.+1 x = (x.2 - 1) ^ 2 * chi (team pred0 x) (team predT x)
  + \sum_(f : A) (team pred0 x f * spread t (sp_next x f tt)).
Proof.
by congr (_ + _); apply: sumE => f; congr (_ * _); rewrite /after (big_pred1 tt) => [|[] //]; exact: Rmult_1_l.
Qed.
Lemma spread_done t l : spread t (Done, l) = 0.
Proof.
elim: t l => [//|t ih] l; rewrite spread_next sp_chi sum0 => [|f] /=; first lra.
by rewrite ih; lra.
Qed.
Lemma spread_shot t m l : spread t.+1 (Shot m, l) = (l - 1) ^ 2 * shot m.
Proof. by rewrite spread_next sp_chi sum0 => [|f] /=; rewrite ?spread_done; lra. Qed.
Lemma spread_go t n l : spread t.+1 (Go n, l)
  = (l - 1) ^ 2 * / 32 + / 33 * spread t (Shot n.+2, 0) + 32 / 33 * spread t (go_on n, l * (33 / 32)).
Proof.
have P a b : team pred0 (Go n, l) (two a b) = (if a then / 33 else 32 / 33) * (if b then 0 else 1) by rewrite team_two.
have N a b : team predT (Go n, l) (two a b) = (if a then 0 else 1) * (if b then 0 else 1) by rewrite team_two.
have E a b : sp_next (Go n, l) (two a b) tt = (if a then Shot n.+2 else go_on n,
    l * ((if a then 0 else 1) * (if b then 0 else 1) / ((if a then / 33 else 32 / 33) * (if b then 0 else 1)))).
  by rewrite /sp_next -N -P /= ffunE.
rewrite spread_next sp_chi sum_two !E !P /=.
have -> : l * (0 * 1 / (/ 33 * 1)) = 0 by field.
have -> : l * (1 * 1 / (32 / 33 * 1)) = l * (33 / 32) by field.
by lra.
Qed.

(* from the first chance on, with numbers *)
Fixpoint total n l := (l - 1) ^ 2 * / 32 + / 33 * shot n.+2 + 32 / 33 *
  (if n is k.+1 then total k (l * (33 / 32)) else (l * (33 / 32) - 1) ^ 2 * shot 2).
Lemma spread_total n l : spread n.+2 (Go n, l) = total n l.
Proof.
elim: n l => [|n ih] l; rewrite spread_go spread_shot /=; first by rewrite spread_shot; ring.
by rewrite ih; ring.
Qed.

(* the same in rationals, and its value *)
Notation Q := QArith_base.Q.
Notation "x # y" := (QArith_base.Qmake x y) (at level 55, no associativity).
Notation qD := QArith_base.Qplus.
Notation qM := QArith_base.Qmult.
Notation qB := QArith_base.Qminus.
Definition shotQ m := let w := qD (1 # 1) (Z.of_nat (minn m 64) # 64) in qB (qM w w) (1 # 1).
Definition squareQ l := let d := qB l (1 # 1) in qM d d.
Definition nextQ l := Qreduction.Qred (qM l (33 # 32)).
Definition stepQ n l z := Qreduction.Qred (qD (qD (qM (squareQ l) (1 # 32)) (qM (1 # 33) (shotQ n.+2))) (qM (32 # 33) z)).
Fixpoint totalQ n l := stepQ n l (if n is k.+1 then totalQ k (nextQ l) else qM (squareQ (nextQ l)) (shotQ 2)).
Notation Q2R := Rdefinitions.Q2R.
Lemma Q2R_red x : Q2R (Qreduction.Qred x) = Q2R x. Proof. by apply: Qreals.Qeq_eqR; apply: Qreduction.Qred_correct. Qed.
Lemma Q2R_num z d : Q2R (z # d) = IZR z / IZR (Z.pos d). Proof. by []. Qed.
Lemma shotQE m : Q2R (shotQ m) = shot m.
Proof.
rewrite /shotQ /shot /low INR_IZR_INZ Qreals.Q2R_minus Qreals.Q2R_mult Qreals.Q2R_plus !Q2R_num.
by rewrite /=; field.
Qed.
Lemma squareQE l : Q2R (squareQ l) = (Q2R l - 1) ^ 2.
Proof. by rewrite /squareQ Qreals.Q2R_mult Qreals.Q2R_minus Q2R_num; field. Qed.
Lemma nextQE l : Q2R (nextQ l) = Q2R l * (33 / 32).
Proof. by rewrite Q2R_red Qreals.Q2R_mult Q2R_num. Qed.
Lemma stepQE n l z : Q2R (stepQ n l z) = (Q2R l - 1) ^ 2 * / 32 + / 33 * shot n.+2 + 32 / 33 * Q2R z.
Proof.
rewrite Q2R_red !Qreals.Q2R_plus (Qreals.Q2R_mult (squareQ l)) (Qreals.Q2R_mult (1 # 33)) (Qreals.Q2R_mult (32 # 33)).
by rewrite shotQE squareQE !Q2R_num; field.
Qed.
Lemma totalQE n l : Q2R (totalQ n l) = total n (Q2R l).
Proof.
elim: n l => [|n ih] l.
  by rewrite -[totalQ 0 l]/(stepQ 0 l (qM (squareQ (nextQ l)) (shotQ 2))) stepQE Qreals.Q2R_mult squareQE nextQE shotQE.
by rewrite -[totalQ n.+1 l]/(stepQ n.+1 l (totalQ n (nextQ l))) stepQE ih nextQE.
Qed.
Lemma total_value : 7378 / 10000 < total 29 1.
Proof.
have -> : 1 = Q2R (1 # 1) by rewrite Q2R_num; field.
rewrite -totalQE (_ : 7378 / 10000 = Q2R (7378 # 10000)) //; apply: Qreals.Qlt_Rlt.
by vm_compute.
Qed.

Lemma exp1_lt : exp 1 < 27378 / 10000.
Proof.
have sq x b c : exp x <= b -> b * b <= c -> exp (x + x) <= c.
  move=> h1 h2; rewrite exp_plus; apply: Rle_trans h2.
  by have := exp_pos x => h0; apply: Rmult_le_compat; lra.
have e0 : exp (/ 128) <= 128 / 127.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ (exp_pos (/ 128))) (exp_ineq1_le (- / 128)).
  by rewrite -exp_plus Rplus_opp_r exp_0; lra.
have := sq _ _ (101582 / 100000) e0 ltac:(lra) => e1; have := sq _ _ (10319 / 10000) e1 ltac:(lra) => e2.
have := sq _ _ (106482 / 100000) e2 ltac:(lra) => e3; have := sq _ _ (113385 / 100000) e3 ltac:(lra) => e4.
have := sq _ _ (128562 / 100000) e4 ltac:(lra) => e5; have := sq _ _ (165282 / 100000) e5 ltac:(lra) => e6.
have := sq _ _ (273182 / 100000) e6 ltac:(lra); set x := _ + _; have -> : x = 1 by rewrite /x; field.
by lra.
Qed.

(* S10 (c) is false in a product team with the sum of the agents' own chi-squares in place of the joint one: two agents, 31
   steps, X = 1 *)
Theorem S10_own_sum_fails : exists x : state, (forall y i, dist (row_cur y i) /\ dist (row_new y i)) /\
  (forall y, opens_nothing row_cur row_new y) /\
  budget sp_e sp_next (team pred0) (fun y => \sum_(k : bool) spend (row_cur y) (row_new y) k) 31 x 1 /\
  sqrt (variance sp_e sp_next sp_r (team pred0) 31 x) * sqrt (exp 1 - 1 - 1)
    < Rabs (V sp_e sp_next sp_r (team predT) 31 x - V sp_e sp_next sp_r (team pred0) 31 x
        - L sp_e sp_next sp_r (team pred0) (team predT) 31 x).
Proof.
exists (Go 29, 1); split; first by move=> y i; split; [exact: sp_cur | exact: sp_new].
split; first exact: sp_opens.
split.
  have E : left_over (Go 29) = 1 by rewrite /left_over INR_IZR_INZ /=; lra.
  by move=> w lw; have := sp_budget lw; rewrite [(Go 29, 1).1]/= E.
have ed x a : dist (sp_e x a) by split=> [b|]; rewrite /sp_e; [lra | rewrite (big_pred1 tt) // => -[]].
have hp := team_dist sp_cur sp_new pred0; have hq := team_dist sp_cur sp_new predT.
have hd x : dominated (team pred0 x) (team predT x) := team_dominated sp_cur predT (@sp_opens x).
have D := spread_total 29 1; have lt := total_value; rewrite -D in lt.
have hl x a (b : unit) : snd (sp_next x a b) = snd x * (team predT x a / team pred0 x a) by [].
pose x0 : state := (Go 29, 1).
have zero : V sp_e sp_next sp_r (team pred0) 31 x0 = 0 := mart_V sp_next ed snd hp hq hd 31 x0.
have var : variance sp_e sp_next sp_r (team pred0) 31 x0 = spread 31 x0 := mart_variance sp_next ed snd hp hq hd 31 x0.
have gap : 1 * V sp_e sp_next sp_r (team predT) 31 x0 - L sp_e sp_next sp_r (team pred0) (team predT) 31 x0 = spread 31 x0
  := mart_gap ed hp hq hd hl 31 x0.
rewrite D in var gap; rewrite D in lt; rewrite -/x0 zero var Rminus_0_r -[V _ _ _ _ _ _]Rmult_1_l gap.
set x := total 29 1 in lt *; have e1 := exp1_lt; have xp : 0 < x by lra.
rewrite Rabs_pos_eq; last lra.
have s0 := sqrt_lt_R0 _ xp; rewrite -{2}(sqrt_sqrt x); last lra.
apply: Rmult_lt_compat_l => //; apply: sqrt_lt_1_alt; have := exp_ineq1_le 1; lra.
Qed.
End Spent.
