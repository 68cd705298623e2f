(* U2 (b), (c) and U4: current advantages never lose where every context has a row of its own, or where the contexts of a row agree; a
   tied row can be promised a gain, exactly, and lose it; fresh rollouts can win by any factor; the pooled closed-form step never
   loses. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted.
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

Lemma path_sum_ge0 p f t s : policy p -> (forall u x, 0 <= f u x) -> 0 <= path_sum p f t s.
Proof.
move=> hp h; elim: t s => [|t ih] s; first by rewrite /=; lra.
apply: Rplus_le_le_0_compat (h _ _) _; apply: sum_ge0 => a; apply: Rmult_le_pos (proj1 (hp s) a) _.
by apply: sum_ge0 => b; apply: Rmult_le_pos (proj1 (e_dist s a) b) (ih _).
Qed.

(* U2 (b): current advantages never lose, whatever the radius and the occupancy the step was weighted with *)
Theorem U2 p q t s : policy q -> (forall u x, 0 <= gain p q u x) -> V p t s <= V q t s.
Proof. by move=> hq h; have := T0 e next r p t s hq; have := path_sum_ge0 t s hq h; lra. Qed.

(* U2 (c): one batch, turn-taking. Update k makes the rows of its own states what they are at the end; each with a gain under the
   advantages of the START that is not negative *)
Theorem U2_one_batch (I : finType) (j : S -> I) (team : nat -> S -> A -> R) (at_ : I -> nat) n t s : (forall i, policy (team i)) ->
  (forall x a, team n x a = team (at_ (j x)).+1 x a) ->
  (forall u x, 0 <= \sum_(a : A) (team (at_ (j x)).+1 x a * Adv (team O) u x a)) ->
  V (team O) t s <= V (team n) t s.
Proof.
move=> ht last h; apply: U2 => // u x; rewrite /Episodic.gain.
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
  rewrite (sumE (G := fun b => (p a * (f a * F a)) * p b + p a * (p b * (f b * F b)) - ((p a * f a) * (p b * F b) + (p a * F a) * (p b * f b))))
    => [|b]; last ring.
  by rewrite sumB !sumD !sumZ p1 /mf /mF /mm; ring.
suff : 0 <= \sum_(a : A) \sum_(b : A) (p a * p b * ((f a - f b) * (F a - F b))) by rewrite E; lra.
apply: sum_ge0 => a; apply: sum_ge0 => b.
case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-]; last lra.
case: (Rle_lt_or_eq_dec _ _ (p0 b)) => [pb|<-]; last lra.
by apply: Rmult_le_pos (h a b pa pb); apply: Rmult_le_pos; lra.
Qed.
End Episodic.
