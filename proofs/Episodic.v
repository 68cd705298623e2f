(* Finite horizon: T0, S9, S7, S7c (turn-taking), P3.2/S3 (chain rule).
   S: any type of states (histories, time-indexed contexts, ...). A: actions; B: outcomes of the environment, both finite.
   t counts the steps that are left. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ one decision *)
Section Rows.
Variable A : finType.
Definition dist (p : A -> R) := (forall a, 0 <= p a) /\ \sum_(a : A) p a = 1.
Definition kl (p q : A -> R) := \sum_(a : A) (p a * ln (p a / q a)).
(* the KL is finite: the new row keeps what the current one uses *)
Definition keeps (p q : A -> R) := forall a, 0 < p a -> 0 < q a.
(* k of S9, a term for each action; they are >= 0 and add up to the KL *)
Definition kterm (p q : A -> R) a := q a - p a + p a * ln (p a / q a).

Lemma ln_swap x y : 0 < x -> 0 < y -> ln (x / y) = - ln (y / x).
Proof.
move=> x0 y0; have := ln_mult (x / y) (y / x) (Rdiv_lt_0_compat _ _ x0 y0) (Rdiv_lt_0_compat _ _ y0 x0).
have -> : x / y * (y / x) = 1 by field; lra.
by rewrite ln_1; lra.
Qed.

Lemma kterm_ge0 p q a : dist p -> dist q -> keeps p q -> 0 <= kterm p q a.
Proof.
move=> [p0 _] [q0 _] k; rewrite /kterm; case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-]; last by have := q0 a; lra.
have qa := k a pa; rewrite (ln_swap pa qa).
have := ln_le (Rdiv_lt_0_compat _ _ qa pa) => h.
have : p a * ln (q a / p a) <= p a * (q a / p a - 1) by apply: Rmult_le_compat_l => //; lra.
have -> : p a * (q a / p a - 1) = q a - p a by field; lra.
lra.
Qed.

Lemma kterm_sum p q : dist p -> dist q -> \sum_(a : A) kterm p q a = kl p q.
Proof. by move=> [_ p1] [_ q1]; rewrite /kterm sumD sumB p1 q1 /kl; lra. Qed.

(* The step of the induction: if lam' w' >= (1 + ln lam') w + z for every lam' > 0 behind every action, then also before it.
   w, w' >= 0: what is still to come above the floor under the current and the new policy. *)
Lemma step (p q w w' z : A -> R) lam eps :
  dist p -> dist q -> keeps p q -> 0 < lam -> 0 <= eps ->
  (forall a, 0 < q a -> 0 <= w' a) ->
  (forall a mu, 0 < p a -> 0 < mu -> (1 + ln mu) * w a + z a - eps * (mu + 1) <= mu * w' a) ->
  (1 + ln lam) * (\sum_(a : A) (p a * w a))
    + \sum_(a : A) (p a * (ln (q a / p a) * w a + z a)) - eps * (lam + 1) <= lam * \sum_(a : A) (q a * w' a).
Proof.
move=> [p0 p1] [q0 q1] k l0 e0 w0 ih.
have h a : (1 + ln lam) * (p a * w a) + p a * (ln (q a / p a) * w a + z a) - eps * (lam * q a + p a)
           <= lam * (q a * w' a).
  case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-].
    have qa := k a pa; have r0 := Rdiv_lt_0_compat _ _ qa pa.
    have := ih a (lam * (q a / p a)) pa (Rmult_lt_0_compat _ _ l0 r0).
    rewrite (ln_mult _ _ l0 r0) => h.
    have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) h.
    have -> : p a * (lam * (q a / p a) * w' a) = lam * (q a * w' a) by field; lra.
    have -> : p a * ((1 + (ln lam + ln (q a / p a))) * w a + z a - eps * (lam * (q a / p a) + 1))
      = (1 + ln lam) * (p a * w a) + p a * (ln (q a / p a) * w a + z a) - eps * (lam * q a + p a) by field; lra.
    by [].
  case: (Rle_lt_or_eq_dec _ _ (q0 a)) => [qa|<-]; last lra.
  have := w0 a qa => wa; have e1 := Rmult_le_pos _ _ e0 (Rlt_le _ _ (Rmult_lt_0_compat _ _ l0 qa)).
  have := Rmult_le_pos _ _ (Rlt_le _ _ l0) (Rmult_le_pos _ _ (Rlt_le _ _ qa) wa); lra.
have := sum_le h; rewrite sumB sumD !sumZ sumD sumZ p1 q1; lra.
Qed.
End Rows.

(* ------------------------------------------------------------------ episodes *)
Section Episodes.
Variables (A B : finType) (S : Type).
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Hypothesis e_dist : forall s a, dist (e s a).
Implicit Types (p q : S -> A -> R) (r : S -> A -> B -> R) (f : nat -> S -> R).

Definition policy p := forall s, dist (p s).
(* expectation over what the environment does after a *)
Definition after s a (g : S -> R) := \sum_(b : B) (e s a b * g (next s a b)).
(* E_p of the sum of f over the t steps that are left, from s *)
Fixpoint path_sum p f t s : R :=
  if t is u.+1 then f u s + \sum_(a : A) (p s a * after s a (path_sum p f u)) else 0.

Section Values.
Variable r : S -> A -> B -> R.
Fixpoint V p t s : R :=
  if t is u.+1 then \sum_(a : A) (p s a * \sum_(b : B) (e s a b * (r s a b + V p u (next s a b)))) else 0.
Definition Q p u s a := \sum_(b : B) (e s a b * (r s a b + V p u (next s a b))).   (* u steps left after this one *)
Definition Adv p u s a := Q p u s a - V p u.+1 s.
End Values.

Definition gain r p q u s := \sum_(a : A) (q s a * Adv r p u s a).
(* L_p(q) = sum_t E_p E_{a~q} A^p *)
Definition L r p q := path_sum p (gain r p q).
(* expected KL of the path, step by step *)
Definition K p q := path_sum p (fun _ s => kl (p s) (q s)).

Lemma afterD s a g h : after s a (fun x => g x + h x) = after s a g + after s a h.
Proof. by rewrite /after -sumD; apply: sumE => b; lra. Qed.
Lemma afterB s a g h : after s a (fun x => g x - h x) = after s a g - after s a h.
Proof. by rewrite /after -sumB; apply: sumE => b; lra. Qed.
Lemma afterE s a g h : (forall x, g x = h x) -> after s a g = after s a h.
Proof. by move=> E; apply: sumE => b; rewrite E. Qed.
Arguments afterE : clear implicits.
Lemma QE r p u s a : Q r p u s a = \sum_(b : B) (e s a b * r s a b) + after s a (V r p u).
Proof. by rewrite /Q /after -sumD; apply: sumE => b; lra. Qed.
Lemma VE r p u s : V r p u.+1 s = \sum_(a : A) (p s a * Q r p u s a).
Proof. by []. Qed.
Lemma gainE r p q u s : policy q -> gain r p q u s = \sum_(a : A) (q s a * Q r p u s a) - V r p u.+1 s.
Proof.
move=> hq; rewrite /gain /Adv (sumE (G := fun a => q s a * Q r p u s a - q s a * V r p u.+1 s)) => [|a]; last lra.
by rewrite sumB sumZr (proj2 (hq s)); lra.
Qed.

(* ---- T0 *)
Theorem T0 r p q t s : policy q -> V r q t s - V r p t s = path_sum q (gain r p q) t s.
Proof.
move=> hq; elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite [path_sum _ _ _ _]/= gainE // !VE.
rewrite (sumE (G := fun a => q s a * Q r q t s a - q s a * Q r p t s a)
  (F := fun a => q s a * after s a (path_sum q (gain r p q) t))) ?sumB; first lra.
by move=> a; rewrite !QE (afterE s a _ (fun x => V r q t x - V r p t x)) ?afterB => [|x]; rewrite ?ih; lra.
Qed.

(* ---- S9 *)
(* Phi is a floor of the return to go on the states in ok; ok holds what either policy can reach. *)
Variables (p q : S -> A -> R).
Hypotheses (hp : policy p) (hq : policy q) (hk : forall s, keeps (p s) (q s)).
Definition reach (ok : nat -> S -> Prop) :=
  forall u s a b, ok u.+1 s -> 0 < q s a -> 0 < e s a b -> ok u (next s a b).
Definition floor r (ok : nat -> S -> Prop) (Phi : nat -> S -> R) :=
  (forall s, ok O s -> Phi O s <= 0) /\
  (forall u s a, ok u.+1 s -> 0 < q s a -> Phi u.+1 s <= \sum_(b : B) (e s a b * (r s a b + Phi u (next s a b)))).

(* sum_a p log(q/p) (Q - Phi) *)
Definition score r (Phi : nat -> S -> R) u s := \sum_(a : A) (p s a * (ln (q s a / p s a) * (Q r p u s a - Phi u.+1 s))).

Lemma after_le ok u s a g h : reach ok -> ok u.+1 s -> 0 < q s a -> (forall x, ok u x -> g x <= h x) ->
  after s a g <= after s a h.
Proof.
move=> hr os qa E; apply: sum_le => b; have [e0 _] := e_dist s a.
case: (Rle_lt_or_eq_dec _ _ (e0 b)) => [eb|<-]; last lra.
by apply: Rmult_le_compat_l; [lra | apply: E; apply: hr eb].
Qed.

Section Floor.
Variables (r : S -> A -> B -> R) (ok : nat -> S -> Prop) (Phi : nat -> S -> R).
Hypotheses (hr : reach ok) (hf : floor r ok Phi).

Lemma above_floor_Q (pi : S -> A -> R) u s a : ok u.+1 s -> 0 < q s a ->
  (forall x, ok u x -> Phi u x <= V r pi u x) -> Phi u.+1 s <= Q r pi u s a.
Proof.
move=> os qa ih; apply: Rle_trans ((proj2 hf) u s a os qa) _; rewrite QE.
have := after_le hr os qa ih.
rewrite (sumE (G := fun b => e s a b * r s a b + e s a b * Phi u (next s a b))) => [|b]; last lra.
by rewrite sumD /after; lra.
Qed.

Lemma above_floor (pi : S -> A -> R) t s : policy pi -> (forall x a, 0 < pi x a -> 0 < q x a) ->
  ok t s -> Phi t s <= V r pi t s.
Proof.
move=> hpi sub; elim: t s => [|t ih] s os; first exact: (proj1 hf).
rewrite VE -(sum_const (Phi t.+1 s) (proj2 (hpi s))).
apply: sum_pos_le => [a|a pa]; first exact: (proj1 (hpi s)).
by apply: above_floor_Q => //; apply: sub.
Qed.

(* the induction, with the weight lam that the path has collected so far *)
Lemma S9_ind t s lam : ok t s -> 0 < lam ->
  (1 + ln lam) * (V r p t s - Phi t s) + path_sum p (score r Phi) t s <= lam * (V r q t s - Phi t s).
Proof.
elim: t s lam => [|t ih] s lam os l0.
  have := (proj1 hf) s os => f0 /=; have := ln_le l0 => h.
  have : (1 + ln lam) * - Phi O s <= lam * - Phi O s by apply: Rmult_le_compat_r; lra.
  by lra.
have hQ a : 0 < q s a -> Phi t.+1 s <= Q r q t s a.
  by move=> qa; apply: above_floor_Q => // x ox; apply: above_floor.
set w := fun pi a => Q r pi t s a - Phi t.+1 s.
set z := fun a => after s a (path_sum p (score r Phi) t).
have w0 a : 0 < q s a -> 0 <= w q a by move=> qa; have := hQ a qa; rewrite /w; lra.
have one a mu : 0 < p s a -> 0 < mu -> (1 + ln mu) * w p a + z a - 0 * (mu + 1) <= mu * w q a.
  move=> pa mu0; have qa := hk pa.
  (* rt: the shaped reward of a, averaged over the outcomes *)
  set rt := \sum_(b : B) (e s a b * r s a b) + after s a (Phi t) - Phi t.+1 s.
  have rt0 : 0 <= rt.
    have := (proj2 hf) t s a os qa.
    rewrite (sumE (G := fun b => e s a b * r s a b + e s a b * Phi t (next s a b))) => [|b]; last lra.
    by rewrite sumD /rt /after; lra.
  have E pi : w pi a = rt + after s a (fun x => V r pi t x - Phi t x).
    by rewrite /w afterB QE /rt; lra.
  have Z c g : after s a (fun x => c * g x) = c * after s a g.
    by rewrite /after -sumZ; apply: sumE => b; lra.
  have h : after s a (fun x => (1 + ln mu) * (V r p t x - Phi t x) + path_sum p (score r Phi) t x)
           <= after s a (fun x => mu * (V r q t x - Phi t x)).
    by apply: (after_le hr os qa) => x ox; apply: ih.
  rewrite afterD !Z in h; have l1 := ln_le mu0.
  have : (1 + ln mu) * rt <= mu * rt by apply: Rmult_le_compat_r; lra.
  by rewrite !E /z; lra.
have := step (hp s) (hq s) (hk (s:=s)) l0 (Rle_refl 0) w0 one.
have W (pi : S -> A -> R) pi' : dist (pi s) -> \sum_(a : A) (pi s a * w pi' a)
    = \sum_(a : A) (pi s a * Q r pi' t s a) - Phi t.+1 s.
  move=> d; rewrite /w (sumE (G := fun a => pi s a * Q r pi' t s a - pi s a * Phi t.+1 s)) => [|a]; last lra.
  by rewrite sumB sum_const //; apply: (proj2 d).
rewrite (W p) // (W q) // -!VE [path_sum _ _ t.+1 s]/= {1}/score.
rewrite (sumE (G := fun a => p s a * (ln (q s a / p s a) * w p a) + p s a * z a) (F := fun a => p s a * (_ + _))) => [|a]; last lra.
rewrite sumD {1}/w {1}/z => h; move: h; rewrite /w /z; lra.
Qed.

Theorem S9 t s : ok t s -> path_sum p (score r Phi) t s <= V r q t s - V r p t s.
Proof. by move=> os; have := S9_ind os Rlt_0_1; rewrite ln_1; lra. Qed.
End Floor.
(* ---- S9, second form: surrogate minus charge *)
Definition charge r (Phi : nat -> S -> R) u s := \sum_(a : A) (kterm (p s) (q s) a * (Q r p u s a - Phi u.+1 s)).

Lemma path_sumE f g t s : (forall u x, f u x = g u x) -> path_sum p f t s = path_sum p g t s.
Proof.
move=> E; elim: t s => [//|t ih] s; rewrite /= E; congr (_ + _).
by apply: sumE => a; rewrite (afterE s a _ (path_sum p g t)) // => x; rewrite ih.
Qed.
Lemma path_sumB f g t s : path_sum p (fun u x => f u x - g u x) t s = path_sum p f t s - path_sum p g t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite /= (sumE (G := fun a => p s a * after s a (path_sum p f t) - p s a * after s a (path_sum p g t)));
  first by rewrite sumB; lra.
by move=> a; rewrite (afterE s a _ (fun x => path_sum p f t x - path_sum p g t x)) ?afterB => [|x]; rewrite ?ih; lra.
Qed.
Lemma path_sumZ c f t s : path_sum p (fun u x => c * f u x) t s = c * path_sum p f t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite /= (sumE (G := fun a => c * (p s a * after s a (path_sum p f t)))); first by rewrite sumZ; lra.
move=> a; rewrite (afterE s a _ (fun x => c * path_sum p f t x)) => [|x]; last by rewrite ih.
rewrite /after (sumE (G := fun b => c * (e s a b * path_sum p f t (next s a b)))) => [|b]; last lra.
by rewrite sumZ; lra.
Qed.
Lemma path_sum_le ok f g t s : reach ok -> ok t s -> (forall u x, ok u.+1 x -> f u x <= g u x) ->
  path_sum p f t s <= path_sum p g t s.
Proof.
move=> hr os E; elim: t s os => [|t ih] s os; first by rewrite /=; lra.
rewrite /=; apply: Rplus_le_compat; first exact: E.
apply: sum_pos_le => [a|a pa]; first exact: (proj1 (hp s)).
by apply: (after_le hr os (hk pa)) => x ox; apply: ih.
Qed.

Lemma scoreE r Phi u s : score r Phi u s = gain r p q u s - charge r Phi u s.
Proof.
rewrite gainE // VE /score /charge.
set w := fun a => Q r p u s a - Phi u.+1 s.
have -> : \sum_(a : A) (q s a * Q r p u s a) - \sum_(a : A) (p s a * Q r p u s a) = \sum_(a : A) ((q s a - p s a) * w a).
  rewrite (sumE (F := fun a => (q s a - p s a) * w a)
    (G := fun a => (q s a * Q r p u s a - p s a * Q r p u s a) - (q s a * Phi u.+1 s - p s a * Phi u.+1 s))) => [|a].
    by rewrite sumB !sumB !sumZr (proj2 (hq s)) (proj2 (hp s)); lra.
  by rewrite /w; lra.
rewrite -sumB; apply: sumE => a; rewrite /kterm -/(w a).
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
by rewrite (ln_swap pa (hk pa)); lra.
Qed.

Lemma S9_charge r ok Phi t s : reach ok -> floor r ok Phi -> ok t s ->
  - path_sum p (charge r Phi) t s <= V r q t s - V r p t s - L r p q t s.
Proof.
move=> hr hf os; have := S9 hr hf os.
rewrite (path_sumE (g := fun u x => gain r p q u x - charge r Phi u x)) => [|u x]; last exact: scoreE.
by rewrite path_sumB /L; lra.
Qed.

(* the same for costs: a ceiling of r is a floor of -r *)
Definition neg (r : S -> A -> B -> R) := fun s a b => - r s a b.
Lemma V_neg r pi t s : V (neg r) pi t s = - V r pi t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite /= -sumN; apply: sumE => a.
rewrite (sumE (G := fun b => - (e s a b * (r s a b + V r pi t (next s a b))))) => [|b]; last by rewrite ih /neg; lra.
by rewrite sumN; lra.
Qed.
Lemma Q_neg r pi u s a : Q (neg r) pi u s a = - Q r pi u s a.
Proof. by rewrite /Q -sumN; apply: sumE => b; rewrite V_neg /neg; lra. Qed.
Definition ceiling r ok (Psi : nat -> S -> R) := floor (neg r) ok (fun u s => - Psi u s).

Lemma S9_ceiling r ok Psi t s : reach ok -> ceiling r ok Psi -> ok t s ->
  V r q t s - V r p t s - L r p q t s <= path_sum p (fun u x => \sum_(a : A) (kterm (p x) (q x) a * (Psi u.+1 x - Q r p u x a))) t s.
Proof.
move=> hr hc os; have := S9_charge hr hc os; rewrite !V_neg.
have -> : L (neg r) p q t s = - L r p q t s.
  rewrite /L (path_sumE (g := fun u x => -1 * gain r p q u x)); first by rewrite path_sumZ; lra.
  move=> u x; rewrite /gain -sumZ; apply: sumE => a; rewrite /Adv Q_neg V_neg; lra.
rewrite (path_sumE (f := charge (neg r) _)
  (g := fun u x => \sum_(a : A) (kterm (p x) (q x) a * (Psi u.+1 x - Q r p u x a)))); first lra.
by move=> u x; apply: sumE => a; rewrite Q_neg; lra.
Qed.

(* ---- S7 *)
Lemma charge_le r ok (F : nat -> S -> A -> R) rho t s : reach ok -> ok t s ->
  (forall u x a, ok u.+1 x -> 0 < q x a -> F u x a <= rho) ->
  path_sum p (fun u x => \sum_(a : A) (kterm (p x) (q x) a * F u x a)) t s <= rho * K p q t s.
Proof.
move=> hr os hF; rewrite -path_sumZ; apply: (path_sum_le hr os) => u x ox.
rewrite -(kterm_sum (hp x) (hq x)) -sumZ; apply: sum_le => a.
have k0 := kterm_ge0 a (hp x) (hq x) (hk (s := x)).
case: (Rle_lt_or_eq_dec _ _ (proj1 (hq x) a)) => [qa|qa].
  by rewrite (Rmult_comm rho); apply: Rmult_le_compat_l => //; apply: hF.
suff -> : kterm (p x) (q x) a = 0 by lra.
have p0 : p x a = 0.
  by case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => // /(hk (s := x)); lra.
by rewrite /kterm p0 -qa; lra.
Qed.

Theorem S7 r ok Phi Psi rho t s : reach ok -> floor r ok Phi -> ceiling r ok Psi ->
  (forall u x, ok u x -> Psi u x - Phi u x <= rho) -> ok t s ->
  Rabs (V r q t s - V r p t s - L r p q t s) <= rho * K p q t s.
Proof.
move=> hr hf hc hb os.
have up u x a : ok u.+1 x -> 0 < q x a -> Q r p u x a <= Psi u.+1 x.
  move=> ox qa; have := above_floor_Q (pi := p) hr hc ox qa; rewrite Q_neg => h.
  suff : - Psi u.+1 x <= - Q r p u x a by lra.
  by apply: h => y oy; apply: (above_floor hr hc hp) => // z b; apply: hk.
have lo u x a : ok u.+1 x -> 0 < q x a -> Phi u.+1 x <= Q r p u x a.
  by move=> ox qa; apply: (above_floor_Q hr hf ox qa) => y oy; apply: (above_floor hr hf hp) => // z b; apply: hk.
have c1 := S9_charge hr hf os; have c2 := S9_ceiling hr hc os.
have b1 : path_sum p (charge r Phi) t s <= rho * K p q t s.
  apply: (charge_le r (F := fun u x a => Q r p u x a - Phi u.+1 x) hr os) => u x a ox qa.
  by have := hb _ _ ox; have := up _ _ _ ox qa; lra.
have b2 := charge_le r (F := fun u x a => Psi u.+1 x - Q r p u x a) (rho := rho) hr os.
have {}b2 : path_sum p (fun u x => \sum_(a : A) (kterm (p x) (q x) a * (Psi u.+1 x - Q r p u x a))) t s <= rho * K p q t s.
  by apply: b2 => u x a ox qa; have := hb _ _ ox; have := lo _ _ _ ox qa; lra.
by apply: Rabs_le; lra.
Qed.

(* ---- the law of the path: V is the expected return, K the KL of the path (P3.2, S3) *)
Fixpoint path (t : nat) : finType :=
  if t is u.+1 then prod_finType (prod_finType A B) (path u) else unit_finType.
Fixpoint law (pi : S -> A -> R) (t : nat) (s : S) : path t -> R :=
  match t return path t -> R with
  | O => fun _ => 1
  | u.+1 => fun w => pi s w.1.1 * e s w.1.1 w.1.2 * law pi (next s w.1.1 w.1.2) w.2
  end.
Fixpoint ret (r : S -> A -> B -> R) (t : nat) (s : S) : path t -> R :=
  match t return path t -> R with
  | O => fun _ => 0
  | u.+1 => fun w => r s w.1.1 w.1.2 + ret r (next s w.1.1 w.1.2) w.2
  end.

Lemma sum_pairs (X Y : finType) (F : X * Y -> R) :
  \sum_(w : prod_finType X Y) F w = \sum_(x : X) \sum_(y : Y) F (x, y).
Proof. by rewrite pair_bigA; apply: eq_bigr => -[]. Qed.
Lemma sum_path u (F : path u.+1 -> R) :
  \sum_(w : path u.+1) F w = \sum_(a : A) \sum_(b : B) \sum_(v : path u) F ((a, b), v).
Proof. by rewrite [LHS]sum_pairs sum_pairs. Qed.

Lemma law_dist pi t s : policy pi -> dist (law pi (t:=t) s).
Proof.
move=> h; split.
  elim: t s => [|t ih] s w; first by rewrite /=; lra.
  rewrite /=; apply: Rmult_le_pos (ih _ _); apply: Rmult_le_pos; [exact: (proj1 (h _)) | exact: (proj1 (e_dist _ _))].
elim: t s => [|t ih] s; first by rewrite /= (big_pred1 tt) // => -[].
rewrite sum_path /= -[RHS](proj2 (h s)); apply: sumE => a.
rewrite -[RHS]Rmult_1_r -(proj2 (e_dist s a)) -sumZ; apply: sumE => b.
by rewrite sumZ ih; lra.
Qed.

Lemma V_law r pi t s : policy pi -> V r pi t s = \sum_(w : path t) (law pi s w * ret r s w).
Proof.
move=> h; elim: t s => [|t ih] s; first by rewrite /= (big_pred1 tt) ?Rmult_0_r // => -[].
rewrite sum_path /=; apply: sumE => a; rewrite -sumZ; apply: sumE => b; rewrite ih.
set s' := next s a b.
rewrite (sumE (F := fun v : path t => _ * _ * _ * (_ + _))
  (G := fun v => pi s a * e s a b * r s a b * law pi s' v + pi s a * e s a b * (law pi s' v * ret r s' v))) => [|v]; last lra.
by rewrite sumD !sumZ (proj2 (law_dist t s' h)); lra.
Qed.

Lemma law_pos t s (v : path t) : 0 < law p s v -> 0 < law q s v.
Proof.
elim: t s v => [|t ih] s v; first by rewrite /=; lra.
rewrite /=; set a := v.1.1; set b := v.1.2 => h.
have [p0 _] := hp s; have [e0 _] := e_dist s a; have [l0 _] := law_dist t (next s a b) hp.
have pa : 0 < p s a by case: (Rle_lt_or_eq_dec _ _ (p0 a)) => // E; move: h; rewrite -E; lra.
have ea : 0 < e s a b by case: (Rle_lt_or_eq_dec _ _ (e0 b)) => // E; move: h; rewrite -E; lra.
have la : 0 < law p (next s a b) v.2 by case: (Rle_lt_or_eq_dec _ _ (l0 v.2)) => // E; move: h; rewrite -E; lra.
by apply: Rmult_lt_0_compat (ih _ _ la); apply: Rmult_lt_0_compat (hk pa) ea.
Qed.

Theorem K_law t s : K p q t s = kl (law p (t:=t) s) (law q (t:=t) s).
Proof.
elim: t s => [|t ih] s.
  by rewrite /K /kl /= (big_pred1 tt) => [|[]] //; have -> : 1 / 1 = 1 by [field]; rewrite ln_1; lra.
have -> : K p q t.+1 s = kl (p s) (q s) + \sum_(a : A) (p s a * after s a (K p q t)) by [].
rewrite /kl sum_path -sumD; apply: sumE => a /=.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last first.
  rewrite sum0; first lra.
  by move=> b; apply: sum0 => v; lra.
have qa := hk pa.
rewrite -{1}(Rmult_1_r (p s a)) -(proj2 (e_dist s a)) -sumZ -sumZr /after -sumZ -sumD; apply: sumE => b.
set s' := next s a b; rewrite ih /kl.
case: (Rle_lt_or_eq_dec _ _ (proj1 (e_dist s a) b)) => [eb|<-]; last first.
  by rewrite [RHS]sum0 => [|v]; lra.
rewrite (sumE (F := fun v : path t => _ * _ * _ * ln _)
 (G := fun v => p s a * e s a b * ln (p s a / q s a) * law p s' v
   + p s a * e s a b * (law p s' v * ln (law p s' v / law q s' v)))).
  by rewrite sumD !sumZ (proj2 (law_dist t s' hp)); lra.
move=> v; case: (Rle_lt_or_eq_dec _ _ (proj1 (law_dist t s' hp) v)) => [lv|<-]; last lra.
have kv := law_pos lv.
have -> : p s a * e s a b * law p s' v / (q s a * e s a b * law q s' v) = p s a / q s a * (law p s' v / law q s' v).
  by field; lra.
rewrite ln_mult; [lra | exact: Rdiv_lt_0_compat | exact: Rdiv_lt_0_compat].
Qed.

(* ---- S7c: the signed error of a stage that reuses its first rollouts, for any sequence of teams (any protocol, any order) *)
Section Stage.
Variables (r : S -> A -> B -> R) (team : nat -> S -> A -> R).
(* L_i^cached: occupancy and advantage of team 0, the step from team i to team i+1 *)
Definition L_cached t s i :=
  path_sum (team 0) (fun u x => \sum_(a : A) ((team i.+1 x a - team i x a) * Adv r (team 0) u x a)) t s.
Lemma L_cached_telescope t s n : (forall i, policy (team i)) ->
  \big[Rplus/0]_(i < n) (V r (team i.+1) t s - V r (team i) t s - L_cached t s i)
  = V r (team n) t s - V r (team 0) t s - L r (team 0) (team n) t s.
Proof.
move=> h; elim: n => [|n ih].
  rewrite big_ord0 /L -[path_sum _ _ t s]Rmult_1_l; suff -> : path_sum (team 0) (gain r (team 0) (team 0)) t s = 0 by lra.
  by rewrite -(T0 r (team 0)); [lra | exact: h].
rewrite big_ord_recr /= ih /L_cached.
suff -> : path_sum (team 0) (fun u x => \sum_(a : A) ((team n.+1 x a - team n x a) * Adv r (team 0) u x a)) t s
  = L r (team 0) (team n.+1) t s - L r (team 0) (team n) t s by lra.
rewrite /L; elim: t s {ih} => [|t ih] s; first by rewrite /=; lra.
rewrite /= (sumE (G := fun a => team n.+1 s a * Adv r (team 0) t s a - team n s a * Adv r (team 0) t s a)) ?sumB => [|a]; last lra.
rewrite (sumE (F := fun a => _ * after s a _) (G := fun a =>
  team 0 s a * after s a (path_sum (team 0) (gain r (team 0) (team n.+1)) t)
  - team 0 s a * after s a (path_sum (team 0) (gain r (team 0) (team n)) t))) ?sumB; first by rewrite /gain; lra.
move=> a; rewrite (afterE s a _ (fun x => path_sum (team 0) (gain r (team 0) (team n.+1)) t x
   - path_sum (team 0) (gain r (team 0) (team n)) t x)) ?afterB => [|x]; rewrite ?ih; lra.
Qed.
End Stage.

(* turn-taking: the path KL is the sum over the agents (S3) *)
Lemma path_sum_sum (I : finType) (f : I -> nat -> S -> R) t s :
  path_sum p (fun u x => \sum_(k : I) f k u x) t s = \sum_(k : I) path_sum p (f k) t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /= sum0.
rewrite /= sumD; congr (_ + _); rewrite sum_swap; apply: sumE => a.
rewrite sumZ; congr (_ * _); rewrite /after sum_swap; apply: sumE => b.
by rewrite ih sumZ.
Qed.
Lemma K_turns (I : finType) (j : S -> I) t s :
  K p q t s = \sum_(k : I) path_sum p (fun _ x => if j x == k then kl (p x) (q x) else 0) t s.
Proof.
rewrite -path_sum_sum; apply: path_sumE => _ x.
by rewrite -big_mkcond (big_pred1 (j x)) // => k /=; rewrite eq_sym.
Qed.
End Episodes.

(* ------------------------------------------------------------------ S7 with the range of the return over whole episodes *)
Section Range.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (p q : S -> A -> R).
Hypotheses (hp : policy p) (hq : policy q) (hk : forall s, keeps (p s) (q s)).

(* states that remember what has been earned *)
Let ae (x : S * R) := e x.1.
Let an (x : S * R) a b := (next x.1 a b, x.2 + r x.1 a b).
Let ar (x : S * R) := r x.1.
Let up (pi : S -> A -> R) (x : S * R) := pi x.1.

Lemma V_up pi t x : V ae an ar (up pi) t x = V e next r pi t x.1.
Proof. by elim: t x => [//|t ih] x; rewrite /=; apply: sumE => a; congr (_ * _); apply: sumE => b; rewrite ih. Qed.
Lemma path_sum_up pi f g t x : (forall u y, f u y = g u y.1) ->
  path_sum ae an (up pi) f t x = path_sum e next pi g t x.1.
Proof.
move=> E; elim: t x => [//|t ih] x; rewrite /= E; congr (_ + _).
by apply: sumE => a; congr (_ * _); apply: sumE => b; rewrite ih.
Qed.

Theorem S7_range lo hi t s :
  (forall w : path A B t, 0 < law e next q s w -> lo <= ret next r s w <= hi) ->
  Rabs (V e next r q t s - V e next r p t s - L e next r p q t s) <= (hi - lo) * K e next p q t s.
Proof.
move=> hw.
pose ok u (x : S * R) := forall w : path A B u, 0 < law e next q x.1 w -> lo <= x.2 + ret next r x.1 w <= hi.
have hr : reach ae an (up q) ok.
  move=> u [x c] a b ox qa eb w lw; have := ox ((a, b), w); rewrite /= => h.
  have := h (Rmult_lt_0_compat _ _ (Rmult_lt_0_compat _ _ qa eb) lw); rewrite /=; lra.
have e1 x a : \sum_(b : B) ae x a b = 1 := proj2 (e_dist x.1 a).
have hf : floor ae an (up q) ar ok (fun _ x => lo - x.2).
  split=> [[x c] ox|u [x c] a ox qa]; first by have := ox tt; rewrite /=; lra.
  rewrite (sumE (G := fun b => ae (x, c) a b * (lo - c))) => [|b]; last by rewrite /ar /=; lra.
  by rewrite sum_const //= ; lra.
have hc : ceiling ae an (up q) ar ok (fun _ x => hi - x.2).
  split=> [[x c] ox|u [x c] a ox qa]; first by have := ox tt; rewrite /=; lra.
  rewrite (sumE (G := fun b => ae (x, c) a b * (- (hi - c)))) => [|b]; last by rewrite /ar /neg /=; lra.
  by rewrite sum_const //= ; lra.
have ed (x : S * R) a : dist (ae x a) := e_dist x.1 a.
have := @S7 A B (S * R)%type ae an ed (up p) (up q) (fun x => hp x.1) (fun x => hq x.1) (fun x => hk (s:=x.1)) ar ok _ _
  (hi - lo) t (s, 0) hr hf hc.
rewrite !V_up.
have -> : L ae an ar (up p) (up q) t (s, 0) = L e next r p q t s.
  apply: path_sum_up => u y; rewrite /gain; apply: sumE => a; congr (_ * _); rewrite /Adv V_up; congr (_ - _).
  by apply: sumE => b; rewrite V_up.
have -> : K ae an (up p) (up q) t (s, 0) = K e next p q t s by apply: path_sum_up.
move=> h; apply: h => [u x ox|w lw]; first lra.
by have := hw w lw; rewrite /=; lra.
Qed.

(* the same, said with the law of the path alone *)
Corollary S7_path lo hi T s :
  let P := law e next p (t:=T) s in let P' := law e next q (t:=T) s in
  (forall w, 0 < P' w -> lo <= ret next r s w <= hi) ->
  Rabs (\sum_(w : path A B T) (P' w * ret next r s w) - \sum_(w : path A B T) (P w * ret next r s w) - L e next r p q T s)
    <= (hi - lo) * kl P P'.
Proof. by move=> P P' h; have := S7_range h; rewrite !V_law // K_law. Qed.

(* over an initial distribution *)
Variables (I : finType) (rho : I -> R) (start : I -> S).
Hypothesis rho_dist : dist rho.
Definition from_rho (f : S -> R) := \sum_(i : I) (rho i * f (start i)).
Theorem S7_J lo hi T :
  (forall i (w : path A B T), 0 < rho i -> 0 < law e next q (start i) w -> lo <= ret next r (start i) w <= hi) ->
  Rabs (from_rho (V e next r q T) - from_rho (V e next r p T) - from_rho (L e next r p q T))
    <= (hi - lo) * from_rho (K e next p q T).
Proof.
move=> h; rewrite /from_rho -!sumB -sumZ; apply: Rle_trans (sum_abs _) _; apply: sum_le => i.
case: (Rle_lt_or_eq_dec _ _ (proj1 rho_dist i)) => [ri|<-]; last by rewrite (_ : _ - _ = 0) ?Rabs_R0; lra.
have := S7_range (fun w => h i w ri) => b.
rewrite (_ : _ - _ = rho i * (V e next r q T (start i) - V e next r p T (start i) - L e next r p q T (start i))); last lra.
rewrite Rabs_mult Rabs_pos_eq; last lra.
have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ ri) b; lra.
Qed.
End Range.

(* ---- S7c: linear in the number of agents *)
Theorem S7c (A B : finType) (S : Type) (e : S -> A -> B -> R) next r (team : nat -> S -> A -> R) n lo hi T s :
  (forall s a, dist (e s a)) -> (forall i, policy (team i)) -> (forall x, keeps (team O x) (team n x)) ->
  (forall w : path A B T, 0 < law e next (team n) s w -> lo <= ret next r s w <= hi) ->
  Rabs (\big[Rplus/0]_(i < n) (V e next r (team i.+1) T s - V e next r (team i) T s - L_cached e next r team T s i))
    <= (hi - lo) * K e next (team O) (team n) T s.
Proof. by move=> he h hk hw; rewrite L_cached_telescope //; apply: S7_range. Qed.

Theorem S7c_turns (A B : finType) (S : Type) (e : S -> A -> B -> R) next r (team : nat -> S -> A -> R) n
    (I : finType) (j : S -> I) lo hi T s :
  (forall s a, dist (e s a)) -> (forall i, policy (team i)) -> (forall x, keeps (team O x) (team n x)) ->
  (forall w : path A B T, 0 < law e next (team n) s w -> lo <= ret next r s w <= hi) ->
  Rabs (\big[Rplus/0]_(i < n) (V e next r (team i.+1) T s - V e next r (team i) T s - L_cached e next r team T s i))
    <= (hi - lo) * \sum_(k : I) path_sum e next (team O) (fun _ x => if j x == k then kl (team O x) (team n x) else 0) T s.
Proof. by move=> *; rewrite -K_turns; apply: S7c. Qed.

(* ---- P3.1, product team *)
Section Product.
Variables (I M : finType).
Definition joint (p : I -> M -> R) (f : {ffun I -> M}) := \big[Rmult/1]_(k : I) p k (f k).
Lemma prod_ge0 (F : I -> R) : (forall k, 0 <= F k) -> 0 <= \big[Rmult/1]_(k : I) F k.
Proof. by move=> h; apply: (big_ind (Rle 0)) => //; [lra | move=> *; apply: Rmult_le_pos]. Qed.
Lemma joint_dist p : (forall k, dist (p k)) -> dist (joint p).
Proof.
move=> h; split=> [f|]; first by apply: prod_ge0 => k; apply: (proj1 (h k)).
rewrite -(bigA_distr_bigA (fun k m => p k m)) big1 // => k _; exact: (proj2 (h k)).
Qed.
Lemma marginal p k g : (forall k, dist (p k)) -> \sum_(f : {ffun I -> M}) (joint p f * g (f k)) = \sum_(m : M) (p k m * g m).
Proof.
move=> h.
have E (f : {ffun I -> M}) : joint p f * g (f k) = \big[Rmult/1]_(l : I) (p l (f l) * (if l == k then g (f l) else 1)).
  by rewrite big_split /= -big_mkcond (big_pred1 k).
rewrite (sumE E) -(bigA_distr_bigA (fun l m => p l m * (if l == k then g m else 1))) (bigD1 k) //= eqxx.
rewrite [X in _ * X]big1 ?Rmult_1_r // => l /negbTE nl; rewrite nl -[RHS](proj2 (h l)).
by apply: sumE => m; lra.
Qed.
Theorem P3_1 p q : (forall k, dist (p k)) -> (forall k, dist (q k)) -> (forall k, keeps (p k) (q k)) ->
  kl (joint p) (joint q) = \sum_(k : I) kl (p k) (q k).
Proof.
move=> hp hq hk.
rewrite (sumE (F := fun k => kl (p k) (q k)) (fun k => esym (marginal k (fun m => ln (p k m / q k m)) hp))).
rewrite sum_swap /kl; apply: sumE => f; rewrite sumZ.
case: (Rle_lt_or_eq_dec _ _ (proj1 (joint_dist hp) f)) => [jp|<-]; last lra.
congr (_ * _).
have pos k : 0 < p k (f k).
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp k) (f k))) => // E; move: jp; rewrite /joint (bigD1 k) //= -E; lra.
suff [_ [_ ->]] : 0 < joint p f /\ 0 < joint q f /\ ln (joint p f / joint q f) = \sum_(k : I) ln (p k (f k) / q k (f k)) by [].
rewrite /joint; apply: (big_ind3 (fun x y z => 0 < x /\ 0 < y /\ ln (x / y) = z)) => //.
- by split; [lra | split; [lra | rewrite (_ : 1 / 1 = 1) ?ln_1 //; field]].
- move=> x1 x2 x3 y1 y2 y3 [a1 [a2 <-]] [b1 [b2 <-]]; split; first exact: Rmult_lt_0_compat.
  split; first exact: Rmult_lt_0_compat.
  rewrite (_ : x1 * y1 / (x2 * y2) = (x1 / x2) * (y1 / y2)); last by field; lra.
  by rewrite ln_mult //; apply: Rdiv_lt_0_compat.
by move=> k _; have := pos k; split=> //; split=> //; apply: hk.
Qed.
End Product.
