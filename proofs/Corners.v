(* Small worlds: S0 is attained, S3 fails with the fresh delta, shares add up to 1 + D_occ (S1), and a closer newcomer can have
   the larger later penalty (P3.9). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper Occupancy Ladder Replacement.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* states 0 .. n, two actions, transitions by a table *)
Section World.
Variable n : nat.
Notation S := 'I_n.+1.
Variable to : nat -> bool -> nat.
Definition go (s : S) (a : bool) (s' : S) := ind (nat_of_ord s' == to s a).
Hypothesis inside : forall s a, (s < n.+1)%nat -> (to s a < n.+1)%nat.
Lemma go_sum s a (f : S -> R) : \sum_(s' : S) (go s a s' * f s') = f (inord (to s a)).
Proof.
rewrite (sumE (G := fun s' => if s' == inord (to s a) then f s' else 0)) => [|s'].
  by rewrite -big_mkcond (big_pred1 (inord (to s a))).
by rewrite /go /ind -val_eqE /= inordK; [case: eqP => _; lra | apply: inside].
Qed.
Lemma go_dist s a : dist (go s a).
Proof.
split=> [s'|]; first by have := ind01 (nat_of_ord s' == to s a); rewrite /go; lra.
by rewrite (sumE (G := fun s' => go s a s' * 1)) ?go_sum // => s'; lra.
Qed.
Definition at0 (s : S) := ind (nat_of_ord s == 0%nat).
Lemma at0_dist : dist at0.
Proof.
split=> [s|]; first by have := ind01 (nat_of_ord s == 0%nat); rewrite /at0; lra.
rewrite big_ord_recl big1 => [|s _]; rewrite /at0 /ind /=; lra.
Qed.
End World.

(* a policy: the probability x s of action true *)
Definition coin (n : nat) (x : nat -> R) (s : 'I_n.+1) (a : bool) := if a then x s else 1 - x s.
Lemma coin_dist n x : (forall s, 0 <= x s <= 1) -> policy (@coin n x).
Proof. by move=> h s; split=> [[]|] /=; rewrite ?big_bool /=; have := h s; lra. Qed.

(* ---- S0 is attained: gap = g/(1-g) span(g) *)
Section Parting.
Variable g : R.
Hypothesis g01 : 0 <= g < 1.
Let to (s : nat) (a : bool) := match s, a with 0, false => 1 | 0, true => 2 | s, _ => s end%nat.
Let P := @go 2 to.
Let r (s : 'I_3) (a : bool) := match nat_of_ord s, a with
  1%nat, false => 1 | 2%nat, true => 1 | 0%nat, true => g / (1 - g) | _, _ => 0 end.
Let p := @coin 2 (fun _ => 0).
Let q := @coin 2 (fun _ => 1).
Let v (s : 'I_3) := match nat_of_ord s with 0%nat => g / (1 - g) | 1%nat => / (1 - g) | _ => 0 end.
Let v' (s : 'I_3) := match nat_of_ord s with 0%nat => 2 * g / (1 - g) | 1%nat => 0 | _ => / (1 - g) end.
Let m (s : 'I_3) := match nat_of_ord s with 0%nat => 1 | 1%nat => g / (1 - g) | _ => 0 end.
Let inside s a : (s < 3)%nat -> (to s a < 3)%nat. Proof. by case: s => [|[|[|]]] //; case: a. Qed.
Let Qv w s a : Qd P g r w s a = r s a + g * w (inord (to s a)).
Proof. by rewrite /Qd /ev (go_sum inside). Qed.
Let g1 : 1 - g <> 0. Proof. lra. Qed.
Let bp : bellman P g r p v.
Proof. by case=> [[|[|[|s]]] h] //; rewrite big_bool /= !Qv /p /coin /v /r /= ?inordK //=; field. Qed.
Let bq : bellman P g r q v'.
Proof. by case=> [[|[|[|s]]] h] //; rewrite big_bool /= !Qv /q /coin /v' /r /= ?inordK //=; field. Qed.
Let fm : flow P g (@at0 2) p m.
Proof.
have i0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
split=> [[[|[|[|s]]] h]|[[|[|[|s]]] h]] //; rewrite /m /=; try lra.
all: by rewrite /at0 !big_ord_recl big_ord0 !big_bool /P /go /p /coin /ind /=; field.
Qed.
Let gv s : gaind P g r p v q s = match nat_of_ord s with 0%nat => 0 | 1%nat => -1 | _ => 1 end.
Proof. by case: s => [[|[|[|s]]] h] //; rewrite /gaind big_bool /= !Qv /q /coin /v /r /= ?inordK //=; field. Qed.
Theorem S0_attained : exists (P : 'I_3 -> bool -> 'I_3 -> R) rho r p q v v' m lo hi,
  (forall s a, dist (P s a)) /\ dist rho /\ policy p /\ policy q /\ bellman P g r p v /\ bellman P g r q v' /\ flow P g rho p m /\
  (forall s, lo <= gaind P g r p v q s <= hi) /\ lo < hi /\
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q)) = g / (1 - g) * (hi - lo).
Proof.
exists P, (@at0 2), r, p, q, v, v', m, (-1), 1.
split; first exact: (go_dist inside). split; first exact: at0_dist.
split; first by apply: coin_dist => _; lra. split; first by apply: coin_dist => _; lra.
do 3![split; first by []]; split; first by move=> s; rewrite gv; case: (nat_of_ord s) => [|[|?]]; lra.
split; first lra.
have -> : under m (gaind P g r p v q) = - (g / (1 - g)).
  by rewrite /under !big_ord_recl big_ord0 !gv /m /=; field.
have -> : at_rho (@at0 2) v' - at_rho (@at0 2) v = g / (1 - g).
  by rewrite /at_rho !big_ord_recl !big_ord0 /at0 /ind /v /v' /=; field.
have i0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
rewrite Rabs_pos_eq; lra.
Qed.
End Parting.

(* the same team over two steps: the gap is (T-1) span(g) = 2 *)
Section PartingEpisodic.
Let to (s : nat) (a : bool) := match s, a with 0, false => 1 | 0, true => 2 | s, _ => s end%nat.
Let P := @go 2 to.
Let r (s : 'I_3) (a : bool) (s' : 'I_3) :=
  match nat_of_ord s, a with 1%nat, false => 1 | 2%nat, true | 0%nat, true => 1 | _, _ => 0 end.
Let p := @coin 2 (fun _ => 0).
Let q := @coin 2 (fun _ => 1).
Let nx (s : 'I_3) (a : bool) (s' : 'I_3) := s'.
Let inside s a : (s < 3)%nat -> (to s a < 3)%nat. Proof. by case: s => [|[|[|]]] //; case: a. Qed.
Let Qe pi u s a : Q P nx r pi u s a = r s a s + V P nx r pi u (inord (to s a)).
Proof. by rewrite /Q (go_sum inside s a (fun b => r s a b + V P nx r pi u b)). Qed.
Let Ve x u s : V P nx r (@coin 2 (fun _ => x)) u.+1 s
  = x * Q P nx r (@coin 2 (fun _ => x)) u s true + (1 - x) * Q P nx r (@coin 2 (fun _ => x)) u s false.
Proof. by rewrite VE big_bool /coin /=. Qed.
Let g0 s : gain P nx r p q 0 s = match nat_of_ord s with 1%nat => -1 | _ => 1 end.
Proof.
rewrite gainE; last by apply: coin_dist => _; lra.
by rewrite Ve big_bool /q /coin !Qe /r; case: s => [[|[|[|s]]] h] //=; lra.
Qed.
Let g1 s : gain P nx r p q 1 s = match nat_of_ord s with 0%nat => 0 | 1%nat => -1 | _ => 1 end.
Proof.
rewrite gainE; last by apply: coin_dist => _; lra.
by rewrite Ve big_bool /q /coin !Qe !Ve !Qe /r; case: s => [[|[|[|s]]] h] //=; rewrite ?inordK //=; lra.
Qed.
Let pushed x s : push P (@coin 2 (fun _ => x)) (@at0 2) s = match nat_of_ord s with 0%nat => 0 | 1%nat => 1 - x | _ => x end.
Proof.
by case: s => [[|[|[|s]]] h] //; rewrite /push /at0 !big_ord_recl big_ord0 !big_bool /P /go /coin /ind /=; lra.
Qed.
Theorem S0_episodic_attained : (forall t s, (t < 2)%nat -> -1 <= g_at P r p q 2 t s <= 1) /\
  Jep P (@at0 2) r 2 q - Jep P (@at0 2) r 2 p - Lep P (@at0 2) r p q p 2 = INR 1 * (1 - -1).
Proof.
split; first by case=> [|[|t]] s //= _; rewrite /g_at ?g0 ?g1; case: (nat_of_ord s) => [|[|?]]; lra.
have hp : policy p by apply: coin_dist => _; lra. have hq : policy q by apply: coin_dist => _; lra.
rewrite gap_sum // !big_ord_recl big_ord0 /under !big_ord_recl !big_ord0 /g_at /= /bump /= !g0 !g1 !pushed /=.
by rewrite /at0 /ind /=; lra.
Qed.
End PartingEpisodic.

(* ---- S3 is false in the fresh delta, for every g > 4 ln 2 - 2 = .7726 *)
Section Fresh.
Variable g : R.
Hypothesis g01 : 0 <= g < 1.
(* state k belongs to agent k, k = 0, 1: false goes on, true leaves to 2 *)
Let to (s : nat) (a : bool) := match s, a with 0, false => 1 | 0, true => 2 | 1, false => 3 | 1, true => 2 | s, _ => s end%nat.
Let P := @go 3 to.
(* in team i the agents before i leave with probability 1/2 *)
Let x i (s : nat) := if (s < i)%nat && (s < 2)%nat then / 2 else 0.
Let team i := @coin 3 (x i).
Let m i (s : 'I_4) := match nat_of_ord s with 0%nat => 1 | 1%nat => g * (1 - x i 0)
  | 2%nat => g * (x i 0 + g * (1 - x i 0) * x i 1) / (1 - g) | _ => g * (g * (1 - x i 0) * (1 - x i 1)) / (1 - g) end.
Let inside s a : (s < 4)%nat -> (to s a < 4)%nat. Proof. by case: s => [|[|[|[|]]]] //; case: a. Qed.
Let x01 i s : 0 <= x i s <= / 2. Proof. by rewrite /x; case: ifP => _; lra. Qed.
Let ht i : policy (team i). Proof. by apply: coin_dist => s; have := x01 i s; lra. Qed.
Let fm i : flow P g (@at0 3) (team i) (m i).
Proof.
have g1 : 1 - g <> 0 by lra.
have i0 : 0 <= / (1 - g) by apply/Rlt_le/Rinv_0_lt_compat; lra.
have y := x01 i 1; have z := x01 i 0; have x2 : x i 2 = 0 by rewrite /x andbF. have x3 : x i 3 = 0 by rewrite /x andbF.
have u0 : 0 <= g * (1 - x i 0) by apply: Rmult_le_pos; lra.
have u1 : 0 <= g * (1 - x i 0) * x i 1 by apply: Rmult_le_pos; lra.
have u2 : 0 <= g * (1 - x i 0) * (1 - x i 1) by apply: Rmult_le_pos; lra.
split=> [[[|[|[|[|s]]]] h]|[[|[|[|[|s]]]] h]] //; rewrite /m /=; try lra.
- by apply: Rmult_le_pos i0; apply: Rmult_le_pos; lra.
- by apply: Rmult_le_pos i0; apply: Rmult_le_pos; lra.
all: by rewrite /at0 !big_ord_recl big_ord0 !big_bool /P /go /team /coin /ind /= /bump /= ?addn0 ?x2 ?x3; field.
Qed.
Let turns k (s : 'I_4) a : nat_of_ord s <> k -> team k.+1 s a = team k s a.
Proof. by move=> /eqP ne; rewrite /team /coin /x ltnS [(s <= k)%nat]leq_eqVlt (negbTE ne). Qed.
Let seen_k k : seen (m k) (team k) (team k.+1).
Proof.
move=> s _ a; case: (eqVneq (nat_of_ord s) k) => [e|/eqP/turns -> //].
have := x01 k.+1 s; rewrite /team /coin; case: a; last lra.
by rewrite /x e ltnn ltnSn /=; case: ifP => _; lra.
Qed.
Let klk k s : kl (team k s) (team k.+1 s) = if (nat_of_ord s == k) && (k < 2)%nat then ln 2 else 0.
Proof.
case: (eqVneq (nat_of_ord s) k) => [e|/eqP ne] /=; last by apply: (kl_self (ht k s)) => a; rewrite turns.
rewrite /kl big_bool /= /team /coin /x e ltnn ltnSn /=; case: ifP => _; rewrite Rmult_0_l Rplus_0_l Rminus_0_r.
  by rewrite (_ : 1 / (1 - / 2) = 2); [lra | field].
by rewrite (_ : 1 / 1 = 1) ?ln_1; [lra | field].
Qed.
(* the shift exceeds g sqrt((delta_1 + delta_2) / (2 (1 - g))) *)
Theorem S3_fresh_false : 4 * ln 2 - 2 < g -> exists (P : 'I_4 -> bool -> 'I_4 -> R) rho team m,
  (forall s a, dist (P s a)) /\ dist rho /\ (forall i, policy (team i)) /\ (forall i, flow P g rho (team i) (m i)) /\
  (forall k s a, nat_of_ord s <> k -> team k.+1 s a = team k s a) /\ (forall k, seen (m k) (team k) (team k.+1)) /\
  g * sqrt ((\big[Rplus/0]_(k < 2) delta g (team k) (team k.+1) (m k)) / (2 * (1 - g))) < tv (occ g (m 0%nat)) (occ g (m 2%nat)).
Proof.
move=> lg; exists P, (@at0 3), team, m.
split; first exact: (go_dist inside). split; first exact: at0_dist.
do 4![split; first by []].
have x00 : x 0 0 = 0 by []. have x01' : x 0 1 = 0 by []. have x10 : x 1 0 = / 2 by []. have x20 : x 2 0 = / 2 by [].
have x21 : x 2 1 = / 2 by [].
have g0 : 0 < g by have := ln_lt_2; lra.
have -> : \big[Rplus/0]_(k < 2) delta g (team k) (team k.+1) (m k) = (1 - g) * (ln 2 * (1 + g / 2)).
  by rewrite !big_ord_recl big_ord0 /delta /under !big_ord_recl !big_ord0 !klk /m /= /bump /= ?addn0 ?x10; lra.
have -> : tv (occ g (m 0%nat)) (occ g (m 2%nat)) = g / 2 * (1 + g / 2).
  have D s : Rabs (occ g (m 2) s - occ g (m 0) s)
    = match nat_of_ord s with 0%nat => 0 | 1%nat => (1 - g) * g / 2 | 2%nat => g * (/ 2 + g / 4) | _ => 3 / 4 * g ^ 2 end.
    have g2 : 0 <= g * g by nra.
    case: s => [[|[|[|[|s]]]] h] //; rewrite /occ /m /= ?x00 ?x01' ?x20 ?x21.
    - by rewrite Rminus_eq_0 Rabs_R0.
    - by rewrite Rabs_left1; nra.
    - rewrite (_ : _ - _ = g * (/ 2 + g / 4)); last by field; lra.
      by apply: Rabs_pos_eq; nra.
    rewrite (_ : _ - _ = - (3 / 4 * (g * g))); last by field; lra.
    by rewrite Rabs_left1; lra.
  by rewrite /tv !big_ord_recl big_ord0 !D /=; field.
have -> : (1 - g) * (ln 2 * (1 + g / 2)) / (2 * (1 - g)) = ln 2 * (1 + g / 2) / 2 by field; lra.
have -> : g / 2 * (1 + g / 2) = g * ((1 + g / 2) / 2) by field.
apply: Rmult_lt_compat_l => //.
rewrite -[X in _ < X]sqrt_pow2; last nra.
by have := ln_lt_2 => l; apply: sqrt_lt_1_alt; split; nra.
Qed.
(* and there is such a g *)
Lemma S3_fresh_range : 4 * ln 2 - 2 < 1.
Proof.
(* 2 < (1 + 3/32)^8 < exp (3/4) *)
suff : ln 2 < 3 / 4 by lra.
rewrite -(ln_exp (3 / 4)); apply: ln_increasing; first lra.
have e := exp_ineq1_le (3 / 32); have {e} : (1 + 3 / 32) ^ 8 <= exp (3 / 32) ^ 8 by apply: pow_incr; lra.
have -> : exp (3 / 4) = exp (3 / 32) ^ 8 by rewrite /= Rmult_1_r -!exp_plus; congr exp; lra.
by move=> h; apply: Rlt_le_trans h; lra.
Qed.
End Fresh.

(* ---- S2 and S1 are sharp for every g: the fork. State 0 leads to the absorbing states 1 and 2; the agent moves from 1/2 to
   1/2 + e. As e -> 0 the ratio tends to 1. *)
Section Fork.
Variables (g e : R).
Hypotheses (g01 : 0 <= g < 1) (e0 : 0 < e < / 2).
Let to (s : nat) (a : bool) := match s, a with 0, false => 1 | 0, true => 2 | s, _ => s end%nat.
Let P := @go 2 to.
Let agent y := @coin 2 (fun s => if s is 0%nat then y else / 2).
Let m y (s : 'I_3) := match nat_of_ord s with 0%nat => 1 | 1%nat => g * (1 - y) / (1 - g) | _ => g * y / (1 - g) end.
Let inside s a : (s < 3)%nat -> (to s a < 3)%nat. Proof. by case: s => [|[|[|]]] //; case: a. Qed.
Let fm y : 0 <= y <= 1 -> flow P g (@at0 2) (agent y) (m y).
Proof.
move=> y01; have g1 : 1 - g <> 0 by lra. have i0 : 0 <= / (1 - g) by apply/Rlt_le/Rinv_0_lt_compat; lra.
split=> [[[|[|[|s]]] h]|[[|[|[|s]]] h]] //; rewrite /m /=; try lra.
1, 2: by apply: Rmult_le_pos i0; apply: Rmult_le_pos; lra.
all: by rewrite /at0 !big_ord_recl big_ord0 !big_bool /P /go /agent /coin /ind /=; field.
Qed.
Let p := agent (/ 2).
Let q := agent (/ 2 + e).
Let kappa := kl (p ord0) (q ord0).
Let kappa_le : (1 - 4 * e ^ 2) * kappa <= 2 * e ^ 2.
Proof.
have x : 0 < 1 - 4 * e ^ 2 by nra.
have -> : kappa = / 2 * ln (/ (1 - 4 * e ^ 2)).
  rewrite /kappa /kl big_bool /p /q /agent /coin /=.
  have a : 0 < / 2 / (/ 2 + e) by apply: Rdiv_lt_0_compat; lra.
  have b : 0 < (1 - / 2) / (1 - (/ 2 + e)) by apply: Rdiv_lt_0_compat; lra.
  have -> : / (1 - 4 * (e * (e * 1))) = / 2 / (/ 2 + e) * ((1 - / 2) / (1 - (/ 2 + e))) by field; split; nra.
  by rewrite ln_mult //; lra.
have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ x) (ln_le (Rinv_0_lt_compat _ x)).
by rewrite Rmult_minus_distr_l Rinv_r; lra.
Qed.
Theorem S2_sharp : exists (P : 'I_3 -> bool -> 'I_3 -> R) rho p q m m',
  (forall s a, dist (P s a)) /\ dist rho /\ policy p /\ policy q /\ flow P g rho p m /\ flow P g rho q m' /\ seen m p q /\
  only (fun s => nat_of_ord s == 0%nat) p q /\ share g m (fun s => nat_of_ord s == 0%nat) = 1 - g /\
  sqrt (1 - 4 * e ^ 2) * (g * sqrt (delta g p q m / (2 * (1 - g)))) <= tv (occ g m) (occ g m').
Proof.
exists P, (@at0 2), p, q, (m (/ 2)), (m (/ 2 + e)).
split; first exact: (go_dist inside). split; first exact: at0_dist.
split; first by apply: coin_dist => -[|s]; lra. split; first by apply: coin_dist => -[|s]; lra.
split; first by apply: fm; lra. split; first by apply: fm; lra.
split; first by move=> s _ [] _; rewrite /q /agent /coin; case: (nat_of_ord s) => [|?]; lra.
split; first by move=> s a; rewrite /p /q /agent /coin; case: (nat_of_ord s).
split; first by rewrite /share /under !big_ord_recl big_ord0 /occ /m /ind /=; lra.
have -> : delta g p q (m (/ 2)) / (2 * (1 - g)) = kappa / 2.
  have z (i : 'I_2) : kl (p (lift ord0 i)) (q (lift ord0 i)) = 0.
    by apply: kl_self => [|[]] //; apply: coin_dist => -[|s]; lra.
  by rewrite /delta /under big_ord_recl big1 => [|i _]; [rewrite /m /= -/kappa; field; lra | rewrite z; lra].
have -> : tv (occ g (m (/ 2))) (occ g (m (/ 2 + e))) = g * e.
  rewrite /tv !big_ord_recl big_ord0 /occ /m /=.
  rewrite (_ : (1 - g) * (g * (1 - (/ 2 + e)) / (1 - g)) - (1 - g) * (g * (1 - / 2) / (1 - g)) = - (g * e)); last by field; lra.
  rewrite (_ : (1 - g) * (g * (/ 2 + e) / (1 - g)) - (1 - g) * (g * / 2 / (1 - g)) = g * e); last by field; lra.
  have ge : 0 <= g * e by apply: Rmult_le_pos; lra.
  by rewrite Rminus_eq_0 Rabs_R0 Rabs_Ropp Rabs_pos_eq //; field.
rewrite -Rmult_assoc (Rmult_comm _ g) Rmult_assoc; apply: Rmult_le_compat_l (proj1 g01) _.
rewrite -sqrt_mult_alt; last nra.
rewrite -[X in _ <= X]sqrt_pow2; last lra.
by apply: sqrt_le_1_alt; have := kappa_le; lra.
Qed.
End Fork.

(* ---- S1: the shares of two agents add up to 1 + D_occ, for every g. State 0 belongs to agent 0, who stays before the update and
   passes to state 1, that of agent 1, after it. *)
Section Router.
Variable g : R.
Hypothesis g01 : 0 <= g < 1.
Let to (s : nat) (a : bool) := match s, a with 0, false => 0 | _, _ => 1 end%nat.
Let P := @go 1 to.
Let team i := @coin 1 (fun s => if i is 0%nat then 0 else if s is 0%nat then 1 else 0).
Let m i (s : 'I_2) := if i is 0%nat then (if nat_of_ord s is 0%nat then / (1 - g) else 0)
  else (if nat_of_ord s is 0%nat then 1 else g / (1 - g)).
Let inside s a : (s < 2)%nat -> (to s a < 2)%nat. Proof. by case: s => [|[|]] //; case: a. Qed.
Let fm i : flow P g (@at0 1) (team i) (m i).
Proof.
have i0 : 0 < / (1 - g) by apply: Rinv_0_lt_compat; lra.
have x0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; lra.
case: i => [|i]; split=> [[[|[|s]] h]|[[|[|s]] h]] //; rewrite /m /=; try lra.
all: by rewrite /at0 !big_ord_recl big_ord0 !big_bool /P /go /team /coin /ind /=; field; lra.
Qed.
Theorem S1_router_attained : exists (P : 'I_2 -> bool -> 'I_2 -> R) rho team m,
  (forall s a, dist (P s a)) /\ dist rho /\ (forall i, policy (team i)) /\
  (forall k (s : 'I_2) a, nat_of_ord s <> k -> team k.+1 s a = team k s a) /\ (forall i, flow P g rho (team i) (m i)) /\
  \big[Rplus/0]_(k < 2) share_of g m (@nat_of_ord 2) k = 1 + D_occ g m 2 /\ D_occ g m 2 = g.
Proof.
exists P, (@at0 1), team, m; split; first exact: (go_dist inside). split; first exact: at0_dist.
split; first by move=> i; apply: coin_dist => s; case: i => [|i]; case: s => [|s]; lra.
split; first by move=> k s a; case: k => [|k] //; case: s => [[|[|s]] h] //=.
split; first exact: fm.
have tv0 : tv (occ g (m 0)) (occ g (m 0)) = 0 by rewrite /tv sum0 => [|s]; [lra | rewrite Rminus_eq_0 Rabs_R0].
have tv1 : tv (occ g (m 0)) (occ g (m 1)) = g.
  rewrite /tv !big_ord_recl big_ord0 /occ /m /=.
  rewrite (_ : (1 - g) * 1 - (1 - g) * / (1 - g) = - g); last by field; lra.
  rewrite (_ : (1 - g) * (g / (1 - g)) - (1 - g) * 0 = g); last by field; lra.
  by rewrite Rabs_Ropp Rabs_pos_eq; lra.
have D : D_occ g m 2 = g by rewrite /D_occ !big_ord_recl big_ord0 /= /bump /= ?addn0 tv0 tv1; lra.
split=> //; rewrite D !big_ord_recl big_ord0 /share_of /share /under !big_ord_recl !big_ord0 /occ /m /ind /=; field; lra.
Qed.
End Router.

(* ---- P3.9: a newcomer who is closer can have the larger A_max, hence the larger penalty, in the next update. At state 0
   the agent earns 1 by action true; state 1, of another agent, follows whatever it does. *)
Section Later.
Variable g : R.
Hypothesis g01 : 0 <= g < 1.
Let P := @go 1 (fun _ _ => 1%nat).
Let r (s : 'I_2) (a : bool) := if nat_of_ord s is 0%nat then (if a then 1 else 0) else 0.
Let v x (s : 'I_2) := if nat_of_ord s is 0%nat then x else 0.
Let m (s : 'I_2) := if nat_of_ord s is 0%nat then 1 else g / (1 - g).
Let agent x := @coin 1 (fun s => if s is 0%nat then x else / 2).
Let inside (s : nat) (a : bool) : (s < 2)%nat -> (1 < 2)%nat. Proof. by []. Qed.
Let Qv w s a : Qd P g r w s a = r s a + g * w (inord 1).
Proof. by rewrite /Qd /ev (@go_sum 1 (fun _ _ => 1%nat) inside). Qed.
Let fm x : flow P g (@at0 1) (agent x) m.
Proof.
have x0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
split=> [[[|[|s]] h]|[[|[|s]] h]] //; rewrite /m /=; try lra.
all: by rewrite /at0 !big_ord_recl big_ord0 !big_bool /P /go /agent /coin /ind /=; field; lra.
Qed.
Let bv x : bellman P g r (agent x) (v x).
Proof. by case=> [[|[|s]] h] //; rewrite big_bool /= !Qv /agent /coin /v /r /= ?inordK //=; field. Qed.
Let dist_agent x : 0 <= x <= 1 -> policy (agent x).
Proof. by move=> h; apply: coin_dist => -[|s]; lra. Qed.
Let adv0 x a : adv P g r (v x) ord0 a = (if a then 1 else 0) - x.
Proof. by rewrite /adv Qv /v /r /= inordK //=; case: a; lra. Qed.
(* the visits, hence the delta of the next update, are the same; A_max is 7/10 against 1/2 *)
Theorem P3_9_later (old := agent (9 / 10)) (near := agent (7 / 10)) (far := agent (5 / 10)) :
  flow P g (@at0 1) near m /\ flow P g (@at0 1) far m /\ bellman P g r near (v (7 / 10)) /\ bellman P g r far (v (5 / 10)) /\
  (1 - g) * under m (fun s => kl (old s) (near s)) < (1 - g) * under m (fun s => kl (old s) (far s)) /\
  (exists s a, Rabs (adv P g r (v (7 / 10)) s a) = 7 / 10) /\ (forall s a, Rabs (adv P g r (v (5 / 10)) s a) <= 5 / 10).
Proof.
split; first exact: fm. split; first exact: fm. split; first exact: bv. split; first exact: bv.
split; last first.
  split; first by exists ord0, false; rewrite adv0 Rabs_left1; lra.
  move=> s a; have -> : adv P g r (v (5 / 10)) s a = if nat_of_ord s is 0%nat then (if a then 1 else 0) - 5 / 10 else 0.
    case: s => [[|[|s]] h] //; rewrite /adv Qv /v /r /= inordK //=; case: a; lra.
  by case: s => [[|[|s]] h] //=; [case: a; apply: Rabs_le; lra | rewrite Rabs_R0; lra].
apply: Rmult_lt_compat_l; first lra.
have ho := dist_agent (x := 9 / 10) ltac:(lra); have hf := dist_agent (x := 5 / 10) ltac:(lra).
have one x : under m (fun s => kl (old s) (agent x s)) = kl (old ord0) (agent x ord0).
  rewrite /under !big_ord_recl big_ord0 /m /= [kl (old (lift _ _)) _]kl_self; [lra | exact: ho | by []].
rewrite !one.
(* near is half way between old and far *)
have k : keeps (old ord0) (far ord0) by case=> _; rewrite /far /agent /coin /=; lra.
have le := kl_mix (lam := / 2) ltac:(lra) (ho ord0) (hf ord0) k.
have e : kl (old ord0) (mix (/ 2) (old ord0) (far ord0)) = kl (old ord0) (near ord0).
  by apply: klE => // -[]; rewrite /mix /old /far /near /agent /coin /=; lra.
have t : tv (old ord0) (far ord0) = 4 / 10.
  by rewrite /tv big_bool /old /far /agent /coin /= Rabs_left1 ?Rabs_pos_eq; lra.
have := pinsker (ho ord0) (hf ord0) k; rewrite -/old -/far t.
rewrite -/old -/far e in le; rewrite -/near -/far; lra.
Qed.
End Later.
