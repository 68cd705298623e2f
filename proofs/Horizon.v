(* Finite horizon: the world, values, surrogates, and T0.
   S: any type of states (histories, time-indexed contexts, ...). A: actions; B: outcomes of the environment, both finite.
   t counts the steps that are left. An episode that ends early goes on in a state where nothing is earned. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Rows.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

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

Lemma gain_step r p q u s : policy p -> policy q -> gain r p q u s = \sum_(a : A) ((q s a - p s a) * Adv r p u s a).
Proof.
move=> hp hq; have z : gain r p p u s = 0 by rewrite gainE // VE; lra.
rewrite (sumE (F := fun a => (q s a - p s a) * _) (G := fun a => q s a * Adv r p u s a - p s a * Adv r p u s a)) => [|a];
  last lra.
by rewrite sumB -/(gain r p q u s) -/(gain r p p u s) z; lra.
Qed.

(* T0: J(q) - J(p) = E_q of the sum of E_{a~q} A^p over the path. Nothing is asked of supports. *)
Theorem T0 r p q t s : policy q -> V r q t s - V r p t s = path_sum q (gain r p q) t s.
Proof.
move=> hq; elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite [path_sum _ _ _ _]/= gainE // !VE.
rewrite (sumE (G := fun a => q s a * Q r q t s a - q s a * Q r p t s a)
  (F := fun a => q s a * after s a (path_sum q (gain r p q) t))) ?sumB; first lra.
by move=> a; rewrite !QE (afterE s a _ (fun x => V r q t x - V r p t x)) ?afterB => [|x]; rewrite ?ih; lra.
Qed.
(* a stage, in any order: the improvements add up *)
Corollary T0_stage r (team : nat -> S -> A -> R) n t s : (forall i, policy (team i)) ->
  V r (team n) t s - V r (team O) t s = \big[Rplus/0]_(i < n) path_sum (team i.+1) (gain r (team i) (team i.+1)) t s.
Proof.
move=> h; elim: n => [|n ih]; first by rewrite big_ord0; lra.
by rewrite big_ord_recr /= -ih -T0 //; lra.
Qed.

(* ---- sums over a path *)
Lemma path_sumE p f g t s : (forall u x, f u x = g u x) -> path_sum p f t s = path_sum p g t s.
Proof.
move=> E; elim: t s => [//|t ih] s; rewrite /= E; congr (_ + _).
by apply: sumE => a; rewrite (afterE s a _ (path_sum p g t)) // => x; rewrite ih.
Qed.
Lemma path_sumD p f g t s : path_sum p (fun u x => f u x + g u x) t s = path_sum p f t s + path_sum p g t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite /= (sumE (G := fun a => p s a * after s a (path_sum p f t) + p s a * after s a (path_sum p g t)));
  first by rewrite sumD; lra.
by move=> a; rewrite (afterE s a _ (fun x => path_sum p f t x + path_sum p g t x)) ?afterD => [|x]; rewrite ?ih; lra.
Qed.
Lemma path_sumB p f g t s : path_sum p (fun u x => f u x - g u x) t s = path_sum p f t s - path_sum p g t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite /= (sumE (G := fun a => p s a * after s a (path_sum p f t) - p s a * after s a (path_sum p g t)));
  first by rewrite sumB; lra.
by move=> a; rewrite (afterE s a _ (fun x => path_sum p f t x - path_sum p g t x)) ?afterB => [|x]; rewrite ?ih; lra.
Qed.
Lemma path_sumZ p c f t s : path_sum p (fun u x => c * f u x) t s = c * path_sum p f t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /=; lra.
rewrite /= (sumE (G := fun a => c * (p s a * after s a (path_sum p f t)))); first by rewrite sumZ; lra.
move=> a; rewrite (afterE s a _ (fun x => c * path_sum p f t x)) => [|x]; last by rewrite ih.
rewrite /after (sumE (G := fun b => c * (e s a b * path_sum p f t (next s a b)))) => [|b]; last lra.
by rewrite sumZ; lra.
Qed.
Lemma path_sum_sum p (I : finType) (f : I -> nat -> S -> R) t s :
  path_sum p (fun u x => \sum_(k : I) f k u x) t s = \sum_(k : I) path_sum p (f k) t s.
Proof.
elim: t s => [|t ih] s; first by rewrite /= sum0.
rewrite /= sumD; congr (_ + _); rewrite sum_swap; apply: sumE => a.
rewrite sumZ; congr (_ * _); rewrite /after sum_swap; apply: sumE => b.
by rewrite ih sumZ.
Qed.

(* turn-taking: the KL of a path is a sum over agents *)
Lemma K_turns p q (I : finType) (j : S -> I) t s :
  K p q t s = \sum_(k : I) path_sum p (fun _ x => if j x == k then kl (p x) (q x) else 0) t s.
Proof.
rewrite -path_sum_sum; apply: path_sumE => _ x.
by rewrite -big_mkcond (big_pred1 (j x)) // => k /=; rewrite eq_sym.
Qed.

(* ---- states that can be reached: a set ok (for each number of steps left) that the steps of q do not leave.
   Of q only its support is used, so q may be any table of numbers: fun _ _ => 1 stands for all actions *)
Definition reach q (ok : nat -> S -> Prop) :=
  forall u s a b, ok u.+1 s -> 0 < q s a -> 0 < e s a b -> ok u (next s a b).
Lemma after_le q ok u s a g h : reach q ok -> ok u.+1 s -> 0 < q s a -> (forall x, ok u x -> g x <= h x) ->
  after s a g <= after s a h.
Proof.
move=> hr os qa E; apply: sum_le => b; have [e0 _] := e_dist s a.
case: (Rle_lt_or_eq_dec _ _ (e0 b)) => [eb|<-]; last lra.
by apply: Rmult_le_compat_l; [lra | apply: E; apply: hr eb].
Qed.

Lemma path_sum_le_visited p vis f g t s : policy p -> reach p vis -> vis t s -> (forall u x, vis u.+1 x -> f u x <= g u x) ->
  path_sum p f t s <= path_sum p g t s.
Proof.
move=> hp hv vs E; elim: t s vs => [|t ih] s vs; first by rewrite /=; lra.
rewrite /=; apply: Rplus_le_compat; first exact: E.
apply: sum_pos_le => [a|a pa]; first exact: (proj1 (hp s)).
by apply: (after_le hv vs pa) => x ox; apply: ih.
Qed.
Lemma path_sum_eq_visited p vis f g t s : policy p -> reach p vis -> vis t s -> (forall u x, vis u.+1 x -> f u x = g u x) ->
  path_sum p f t s = path_sum p g t s.
Proof. by move=> hp hv vs E; apply: Rle_antisym; apply: (path_sum_le_visited hp hv vs) => u x ox; rewrite E //; lra. Qed.

(* ---- costs: a ceiling of r is a floor of -r *)
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
Lemma gain_neg r p q u s : gain (neg r) p q u s = - gain r p q u s.
Proof. by rewrite /gain -sumN; apply: sumE => a; rewrite /Adv Q_neg V_neg; lra. Qed.
Lemma L_neg r p q t s : L (neg r) p q t s = - L r p q t s.
Proof.
rewrite /L (path_sumE p (g := fun u x => -1 * gain r p q u x)); first by rewrite path_sumZ; lra.
by move=> u x; rewrite gain_neg; lra.
Qed.

(* ---- a stage: team 0, team 1, ... L_i^cached: occupancy and advantage of team 0, the step from team i to team i+1 *)
Section Stage.
Variables (r : S -> A -> B -> R) (team : nat -> S -> A -> R).
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
rewrite /= (sumE (G := fun a => team n.+1 s a * Adv r (team 0) t s a - team n s a * Adv r (team 0) t s a)) ?sumB => [|a];
  last lra.
rewrite (sumE (F := fun a => _ * after s a _) (G := fun a =>
  team 0 s a * after s a (path_sum (team 0) (gain r (team 0) (team n.+1)) t)
  - team 0 s a * after s a (path_sum (team 0) (gain r (team 0) (team n)) t))) ?sumB; first by rewrite /gain; lra.
move=> a; rewrite (afterE s a _ (fun x => path_sum (team 0) (gain r (team 0) (team n.+1)) t x
   - path_sum (team 0) (gain r (team 0) (team n)) t x)) ?afterB => [|x]; rewrite ?ih; lra.
Qed.
End Stage.

End Episodes.
