(* A rung of one's own, for docs/prove-a-rung.md: no update changes the return by more than its range times sqrt(K/2). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Change.
(* the world: states of any type, finitely many actions and outcomes *)
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
(* the current policy p and the new one q, which keeps what p uses: otherwise K is infinite *)
Variables (p q : S -> A -> R).
Hypotheses (hp : policy p) (hq : policy q) (hk : forall s, keeps (p s) (q s)).

(* the mean of a number between lo and hi moves by at most (hi - lo) TV *)
Lemma mean_moves (X : finType) (P Q f : X -> R) lo hi : dist P -> dist Q -> (forall x, lo <= f x <= hi) ->
  Rabs (\sum_(x : X) (Q x * f x) - \sum_(x : X) (P x * f x)) <= (hi - lo) * tv P Q.
Proof.
move=> [_ P1] [_ Q1] hf; set mid := (lo + hi) / 2.
have -> : \sum_(x : X) (Q x * f x) - \sum_(x : X) (P x * f x) = \sum_(x : X) ((Q x - P x) * (f x - mid)).
  rewrite (sumE (F := fun x => (Q x - P x) * (f x - mid)) (G := fun x => (Q x * f x - P x * f x) - (Q x * mid - P x * mid)))
    => [|x]; last lra.
  by rewrite !sumB !sumZr P1 Q1; lra.
rewrite /tv -Rmult_assoc -sumZ; apply: Rle_trans (sum_abs _) _; apply: sum_le => x.
rewrite Rabs_mult Rmult_comm; apply: Rmult_le_compat_r; first exact: Rabs_pos.
by apply: Rabs_le; have := hf x; rewrite /mid; lra.
Qed.

Theorem change lo hi T s : (forall w : path A B T, lo <= ret next r s w <= hi) ->
  Rabs (V e next r q T s - V e next r p T s) <= (hi - lo) * sqrt (K e next p q T s / 2).
Proof.
move=> hw; rewrite !V_law // (K_law next e_dist hp hq hk).
have d pi : policy pi -> dist (law e next pi (t:=T) s) := fun h => law_dist next e_dist T s h.
apply: Rle_trans (mean_moves (d p hp) (d q hq) hw) _.
have w0 : lo <= hi.
  case: (Rle_lt_dec lo hi) => // lt; have [_] := d p hp; rewrite sum0; first lra.
  by move=> w; have := hw w; lra.
apply: Rmult_le_compat_l; first lra.
rewrite -(sqrt_pow2 _ (tv_ge0 _ _)); apply: sqrt_le_1_alt.
by apply: pinsker (d p hp) (d q hq) _ => w; apply: law_pos.
Qed.
End Change.
