(* T1 is attained, at every g and every step: the fork. From the first state action b leads to the absorbing state b; the agent
   goes from (1/2, 1/2) to (1/2 - x, 1/2 + x). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper End.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Fork.
Notation S := (option_finType bool_finType).
Variables (g x : R).
Hypotheses (g01 : 0 <= g < 1) (x01 : 0 <= x <= / 2).
Definition leads (s : S) (a : bool_finType) (y : S) : R :=
  match y with Some b => if b == (if s is Some c then c else a) then 1 else 0 | None => 0 end.
Definition first (s : S) : R := if s is None then 1 else 0.
Definition coin (y : R) (s : S) (a : bool_finType) : R := if s is None then (if a then / 2 + y else / 2 - y) else / 2.
Definition seen (y : R) (s : S) : R := match s with None => 1 | Some b => g * coin y None b / (1 - g) end.

Lemma bool2 (F : bool_finType -> R) : \sum_(b : bool_finType) F b = F true + F false.
Proof. exact: big_bool. Qed.
Lemma leads_dist s a : dist (leads s a).
Proof.
split=> [[b|]|] /=; first by case: eqP; lra. by lra.
by rewrite sum_option bool2 /=; case: s a => [[]|] [] /=; lra.
Qed.
Lemma first_dist : dist first.
Proof. by split=> [[b|]|] /=; try lra; rewrite sum_option bool2 /=; lra. Qed.
Lemma coin_policy y : 0 <= y <= / 2 -> policy (coin y).
Proof. by move=> h [b|]; split=> [[]|] /=; try lra; rewrite bool2 /=; lra. Qed.
Lemma seen_flow y : 0 <= y <= / 2 -> flow leads g first (coin y) (seen y).
Proof.
move=> h; have i0 : 0 < / (1 - g) by apply: Rinv_0_lt_compat; lra.
split=> [[b|]|[b|]] /=.
- by apply: Rmult_le_pos (Rlt_le _ _ i0); apply: Rmult_le_pos; [lra | case: b; lra].
- by lra.
- by rewrite sum_option !bool2 /=; case: b => /=; field; lra.
by rewrite sum0 => [|s]; [lra | rewrite bool2 /=; lra].
Qed.
Theorem T1_attained : l1 (seen 0) (seen x) = 2 * g / (1 - g) * under (seen 0) (fun s => tv (coin 0 s) (coin x s)).
Proof.
have c0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
have z : / 2 - / 2 = 0 by lra.
rewrite /l1 /under /tv !sum_option !bool2 /= z !Rabs_R0.
have -> : 1 - 1 = 0 by lra.
have -> : g * (/ 2 + x) / (1 - g) - g * (/ 2 + 0) / (1 - g) = g / (1 - g) * x by field; lra.
have -> : g * (/ 2 - x) / (1 - g) - g * (/ 2 - 0) / (1 - g) = - (g / (1 - g) * x) by field; lra.
have -> : / 2 + x - (/ 2 + 0) = x by lra. have -> : / 2 - x - (/ 2 - 0) = - x by lra.
rewrite !Rabs_Ropp Rabs_R0 Rabs_mult !(Rabs_pos_eq x) ?(Rabs_pos_eq (g / (1 - g))); lra.
Qed.
End Fork.
