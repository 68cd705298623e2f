(* Discounted S7c (any protocol, any order), and S7 with the objects that exist. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted Existence.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.
Section Stage.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R) (lo hi : R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho) (hr : forall s a, lo <= r s a <= hi).

Theorem S7_closed p q : policy p -> policy q -> (forall s, keeps (p s) (q s)) ->
  exists v v' m, bellman P g r p v /\ bellman P g r q v' /\ flow P g rho p m /\
    Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q))
      <= (hi - lo) * ((1 - g) * under m (fun s => kl (p s) (q s))) / (1 - g) ^ 2.
Proof.
move=> hp hq hk; have [v bp] := value_exists g01 P_dist hp r; have [v' bq] := value_exists g01 P_dist hq r.
have [m fl] := visits_exist g01 P_dist rho_dist hp.
by exists v, v', m; do !split=> //; try exact: (proj1 fl); try exact: (proj2 fl); apply: S7_delta.
Qed.

Variables (team : nat -> S -> A -> R) (v : nat -> S -> R) (m : S -> R).
Hypotheses (ht : forall i, policy (team i)) (hv : forall i, bellman P g r (team i) (v i)) (fl : flow P g rho (team O) m).
Definition cached i := under m (fun s => \sum_(a : A) ((team i.+1 s a - team i s a) * (Qd P g r (v O) s a - v O s))).
Lemma cached_telescope n :
  \big[Rplus/0]_(i < n) (at_rho rho (v i.+1) - at_rho rho (v i) - cached i)
  = at_rho rho (v n) - at_rho rho (v O) - under m (gaind P g r (team O) (v O) (team n)).
Proof.
elim: n => [|n ih].
  rewrite big_ord0 /under sum0 => [|s]; first lra.
  by rewrite gaindE ?(hv O s); [lra | exact: ht].
rewrite big_ord_recr [LHS]/= ih.
have -> : cached n = under m (gaind P g r (team O) (v O) (team n.+1)) - under m (gaind P g r (team O) (v O) (team n)).
  rewrite /cached /under -sumB; apply: sumE => s; rewrite -Rmult_minus_distr_l; congr (_ * _).
  by rewrite /gaind -sumB; apply: sumE => a; lra.
lra.
Qed.
Theorem S7c_discounted n : (forall s, keeps (team O s) (team n s)) ->
  Rabs (\big[Rplus/0]_(i < n) (at_rho rho (v i.+1) - at_rho rho (v i) - cached i))
    <= (hi - lo) / (1 - g) * under m (fun s => kl (team O s) (team n s)).
Proof. by move=> hk; rewrite cached_telescope; apply: S7_discounted. Qed.
End Stage.
