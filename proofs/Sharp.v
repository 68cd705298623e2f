(* What S7 and S5 attain: the branch (S7 is sharp, and so is its form with kappa_0, First.v), the bandit (S5 is). And S9 in which
   the first step does not pay for its own reward. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ S9: the first step *)
Section FirstStep.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (p q : S -> A -> R) (m : S -> R).
Hypotheses (hp : policy p) (hq : policy q) (hk : forall s, keeps (p s) (q s)) (fl : flow P g rho p m).

(* what is earned above the floor by one action *)
Definition shaped (r : S -> A -> R) (Phi : S -> R) s a := r s a + g * ev P s a Phi - Phi s.
Definition first r Phi s := \sum_(a : A) (kterm (p s) (q s) a * shaped r Phi s a).
Lemma QdE r f Phi s a : Qd P g r f s a = Phi s + shaped r Phi s a + g * ev P s a (fun x => f x - Phi x).
Proof. by rewrite /Qd /shaped evB; lra. Qed.

(* S9 in which the first step does not pay for its own reward: start the induction behind the first action, at lam = q/p *)
Theorem S9_first r Phi v v' : floord P g r Phi -> bellman P g r p v -> bellman P g r q v' ->
  under m (scored P g p q r v Phi) + at_rho rho (first r Phi) <= at_rho rho v' - at_rho rho v.
Proof.
move=> hf bp bq; set f := scored P g p q r v Phi.
set C := \sum_(s : S) Rabs (v s - Phi s); set M := \sum_(s : S) m s; set D := \sum_(s : S) Rabs (f s).
have C0 : 0 <= C by apply: sum_ge0 => x; exact: Rabs_pos.
have D0 : 0 <= D by apply: sum_ge0 => x; exact: Rabs_pos.
have M0 : 0 <= M by apply: sum_ge0 => x; exact: (proj1 fl).
have c0 : 0 <= 2 * C + M * D by have := Rmult_le_pos _ _ M0 D0; lra.
have av' := above g01 P_dist hq hf bq.
apply: (vanish g01 c0) => T.
pose w s a := ev P s a (fun x => v x - Phi x); pose w' s a := ev P s a (fun x => v' x - Phi x).
pose z s a := ev P s a (W P g p f T).
have gT : 0 <= C * g ^ T by apply: Rmult_le_pos C0 (pow_le _ _ (proj1 g01)).
have one s a : p s a * w s a + p s a * ln (q s a / p s a) * w s a + p s a * z s a - C * g ^ T * (q s a + p s a) <= q s a * w' s a.
  have q0 := proj1 (hq s) a.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last first.
    have w0 : 0 <= w' s a by rewrite /w' -(ev1 P_dist s a 0); apply: ev_le => // x; have := av' x; lra.
    by have := Rmult_le_pos _ _ q0 w0; have := Rmult_le_pos _ _ gT q0; lra.
  have l0 := Rdiv_lt_0_compat _ _ (hk pa) pa; set lam := q s a / p s a in l0 *.
  have := ev_le P_dist s a (fun x => S9_ind_discounted g01 P_dist hp hq hk hf bp bq T x l0).
  rewrite -/C -/f evB evD ev1 // !evZ -/(w s a) -/(w' s a) -/(z s a) => h.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) h; have -> : q s a = lam * p s a by rewrite /lam; field; lra.
  lra.
have state s : first r Phi s + W P g p f T.+1 s - 2 * C * g ^ T.+1 <= v' s - v s.
  have sum := sum_le (one s); rewrite sumB !sumD sumZ sumD (proj2 (hp s)) (proj2 (hq s)) in sum.
  have vE pi u : dist (pi s) -> u s = \sum_(a : A) (pi s a * Qd P g r u s a) -> u s = Phi s
    + \sum_(a : A) (pi s a * shaped r Phi s a) + g * \sum_(a : A) (pi s a * ev P s a (fun x => u x - Phi x)).
    move=> d {1}->; rewrite (sumE (G := fun a => (pi s a * Phi s + pi s a * shaped r Phi s a)
      + g * (pi s a * ev P s a (fun x => u x - Phi x)))) => [|a]; last by rewrite (QdE _ _ Phi); lra.
    by rewrite !sumD sumZ (sum_const _ (proj2 d)).
  have e1 := vE p v (hp s) (bp s); have e2 := vE q v' (hq s) (bq s).
  have fE : f s = \sum_(a : A) (p s a * ln (q s a / p s a) * shaped r Phi s a) +
    g * \sum_(a : A) (p s a * ln (q s a / p s a) * w s a).
    by rewrite -sumZ -sumD; apply: sumE => a; rewrite (QdE _ _ Phi) /w; lra.
  have kE : first r Phi s = \sum_(a : A) (q s a * shaped r Phi s a) - \sum_(a : A) (p s a * shaped r Phi s a)
     - \sum_(a : A) (p s a * ln (q s a / p s a) * shaped r Phi s a).
    rewrite -!sumB; apply: sumE => a; rewrite /kterm.
    case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
    by rewrite (ln_swap pa (hk pa)); lra.
  rewrite e1 e2 kE [W P g p f T.+1 s]/= fE /step_p (_ : g ^ T.+1 = g * g ^ T) //.
  have := Rmult_le_compat_l _ _ _ (proj1 g01) sum; rewrite /w /w' /z; lra.
have u := W_under g01 P_dist hp fl f T; rewrite -/M -/D in u.
have : at_rho rho (first r Phi) + at_rho rho (W P g p f T.+1) - 2 * C * g ^ T <= at_rho rho v' - at_rho rho v.
  rewrite /at_rho -[X in _ - X](sum_const _ (proj2 rho_dist)) -sumD -!sumB; apply: sum_le => s.
  have := Rmult_le_compat_l _ _ _ (proj1 rho_dist s) (state s).
  have gg : g * (C * g ^ T) <= C * g ^ T by have := Rmult_le_compat_r _ _ _ gT (Rlt_le _ _ (proj2 g01)); lra.
  have := Rmult_le_compat_l _ _ _ (proj1 rho_dist s) gg; rewrite /=; lra.
lra.
Qed.
End FirstStep.

(* ------------------------------------------------------------------ S7 is sharp: the branch *)
Lemma log_branch x : 0 < x < 1 -> 0 < - ln (1 - x) /\ - ln (1 - x) * (1 - x) <= x.
Proof.
move=> x1; have := @ln_increasing (1 - x) 1 ltac:(lra) ltac:(lra); rewrite ln_1 => l.
split; first lra.
have i0 : 0 < / (1 - x) by apply: Rinv_0_lt_compat; lra.
have := ln_le i0; rewrite ln_Rinv => [h|]; last lra.
have := Rmult_le_compat_r (1 - x) _ _ ltac:(lra) h; rewrite Rmult_minus_distr_r Rinv_l; lra.
Qed.
Lemma near_one x : 0 <= x < 1 -> exists y, 0 < y < 1 /\ x * (- ln (1 - y)) < y * (1 - y) /\ 0 < - ln (1 - y).
Proof.
move=> x1; exists ((1 - x) / 2); set y := (1 - x) / 2; have y1 : 0 < y < 1 by rewrite /y; lra.
have [l0 l1] := log_branch y1; do 2!split=> //; try lra.
have l2 : - ln (1 - y) * (1 - y) ^ 2 <= y * (1 - y) by have := Rmult_le_compat_r (1 - y) _ _ ltac:(lra) l1; lra.
have x2 : x < (1 - y) ^ 2 by rewrite /y; nra.
have := Rmult_lt_compat_r _ _ _ l0 x2; lra.
Qed.

(* State 0 is left at once: action true opens the branch 2, action false leads to 1. Only action true in the branch earns. *)
Definition goes (s : nat) (a : bool) : nat := if s is O then (if a then 2%nat else 1%nat) else s.
Definition pays (s : nat) (a : bool) : R := if (s == 2)%nat && a then 1 else 0.
Definition stays (s : nat) (a : bool) : R := if a then 0 else 1.
(* the new policy opens it with probability x and earns in it with probability 1-x (not 1, so that no action is dropped) *)
Definition opens x (s : nat) (a : bool) : R :=
  if s is O then (if a then x else 1 - x) else if (s == 2)%nat then (if a then 1 - x else x) else stays s a.
Lemma sum_bool (F : bool -> R) : \sum_(a : bool) F a = F true + F false.
Proof. by rewrite big_bool. Qed.
Lemma sum_unit (F : unit -> R) : \sum_(b : unit) F b = F tt.
Proof. by rewrite (big_pred1 tt) // => -[]. Qed.
Lemma stays_dist s : dist (stays s).
Proof. by split=> [[]|]; rewrite ?sum_bool /stays; lra. Qed.
Lemma opens_dist x s : 0 < x < 1 -> dist (opens x s).
Proof.
by move=> hx; case: s => [|[|[|s]]]; split=> [[]|]; rewrite ?sum_bool /opens /stays /=; lra.
Qed.
Lemma opens_keeps x s : 0 < x < 1 -> keeps (stays s) (opens x s).
Proof. by move=> hx; case: s => [|[|[|s]]] [] /=; rewrite /stays /=; lra. Qed.
Lemma kl_branch x s : 0 < x < 1 -> (s < 2)%nat -> kl (stays s) (opens x s) = if s is O then - ln (1 - x) else 0.
Proof.
move=> hx; have E : ln (1 / (1 - x)) = - ln (1 - x) by rewrite /Rdiv Rmult_1_l ln_Rinv //; lra.
have E1 : 1 / 1 = 1 by field.
by case: s => [|[|s]] // _; rewrite /kl sum_bool /opens /stays /= ?E ?E1 ?ln_1; lra.
Qed.

Section Branch.
Variable x : R.
Hypothesis hx : 0 < x < 1.
Let envi (s : nat) (a : bool) (b : unit) := 1.
Let nxti (s : nat) (a : bool) (b : unit) := goes s a.
Let rewi (s : nat) (a : bool) (b : unit) := pays s a.
(* no rollout shows anything *)
Lemma branch : [/\ V envi nxti rewi (opens x) 2 0%nat = x * (1 - x), V envi nxti rewi stays 2 0%nat = 0,
  L envi nxti rewi stays (opens x) 2 0%nat = 0 & K envi nxti stays (opens x) 2 0%nat = - ln (1 - x)].
Proof.
split.
- by rewrite /= !sum_bool !sum_unit ?sum_bool ?sum_unit /envi /rewi /pays /=; lra.
- by rewrite /= !sum_bool !sum_unit ?sum_bool ?sum_unit /envi /rewi /pays /stays /=; lra.
- by rewrite /L /gain /Adv /Q /= ?sum_bool /after ?sum_unit /= ?sum_bool ?sum_unit /= ?sum_bool ?sum_unit
    /envi /rewi /pays /stays /=; lra.
- rewrite /K /= kl_branch // !sum_bool /after !sum_unit /nxti /= (@kl_branch x 1) //.
  by rewrite [\big[Rplus/0]_a (stays 1 a * _)]sum0 /envi => [|a]; rewrite ?sum_unit; lra.
Qed.

(* ---- S7 is sharp, episodic: in the return range [0, 1] no constant below one does *)
Lemma branch_ret (w : path bool_finType unit_finType 2) : 0 <= ret nxti rewi 0%nat w <= 1.
Proof. by case: w => [[a b] [[a' b'] u]]; rewrite /ret /rewi /pays /=; case: a; case: a' => /=; lra. Qed.
End Branch.

Theorem S7_sharp k : 0 <= k < 1 ->
  let e (_ : nat) (_ : bool) (_ : unit) := 1 in let next s a (_ : unit) := goes s a in let r s a (_ : unit) := pays s a in
  exists p q : nat -> bool -> R, [/\ policy p, policy q, forall s, keeps (p s) (q s) &
    (forall w : path bool_finType unit_finType 2, 0 <= ret next r 0%nat w <= 1) /\ 0 < K e next p q 2 0%nat /\
    k * K e next p q 2 0%nat < V e next r q 2 0%nat - V e next r p 2 0%nat - L e next r p q 2 0%nat].
Proof.
move=> hk e next r; have [x [hx [lt pos]]] := near_one hk; have [v1 v0 l0 k0] := branch hx.
exists stays, (opens x); split; [exact: stays_dist | by move=> s; exact: opens_dist | by move=> s; exact: opens_keeps |].
by rewrite /e /next /r v1 v0 l0 k0; split; [exact: branch_ret | split=> //; lra].
Qed.

(* ---- discounted: states 0, 1, 2; 1 and 2 are absorbing *)
Section BranchDiscounted.
Variables (g x : R).
Hypotheses (g01 : 0 <= g < 1) (hx : 0 < x < 1).
Let S := ordinal_finType 3.
Definition Pd (s : S) (a : bool) (s' : S) : R := if (s' == goes s a :> nat)%nat then 1 else 0.
Definition rd (s : S) (a : bool) : R := pays s a.
Definition rhod (s : S) : R := if (s : nat) is O then 1 else 0.
Definition pd (s : S) (a : bool) : R := stays s a.
Definition qd (s : S) (a : bool) : R := opens x s a.
Definition md (s : S) : R := if (s : nat) is O then 1 else if (s == 1 :> nat)%nat then g / (1 - g) else 0.
Definition vd (s : S) : R := if (s : nat) is O then g * (x * ((1 - x) / (1 - g)))
  else if (s == 2 :> nat)%nat then (1 - x) / (1 - g) else 0.
Definition o0 : S := @Ordinal 3 0 isT.
Definition o1 : S := @Ordinal 3 1 isT.
Definition o2 : S := @Ordinal 3 2 isT.
Lemma sum3 (F : S -> R) : \sum_(s : S) F s = F o0 + F o1 + F o2.
Proof.
rewrite !big_ord_recr big_ord0 /= Rplus_0_l.
by congr (F _ + F _ + F _); apply: val_inj.
Qed.
Lemma Pd_dist s a : dist (Pd s a).
Proof.
split=> [s'|]; first by rewrite /Pd; case: ifP; lra.
by rewrite sum3 /Pd /=; case: s => [[|[|[|i]]] h] //=; case: a; rewrite /=; lra.
Qed.
Lemma rhod_dist : dist rhod.
Proof. by split=> [[[|i] h]|]; rewrite ?sum3 /rhod /=; lra. Qed.
Lemma pd_policy : policy pd. Proof. by move=> s; exact: (stays_dist s). Qed.
Lemma qd_policy : policy qd. Proof. by move=> s; exact: (opens_dist s hx). Qed.
Lemma pq_keeps s : keeps (pd s) (qd s). Proof. exact: (@opens_keeps x s hx). Qed.
Lemma md_flow : flow Pd g rhod pd md.
Proof.
have g0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
split=> [[[|[|i]] h]|[[|[|[|i]]] h]] //; rewrite /md /rhod /=; try lra;
  rewrite sum3 !sum_bool /md /pd /Pd /stays /=; [lra | field; lra | lra].
Qed.
Lemma ev_Pd f s a : ev Pd s a f = f (match goes s a with 0%nat => o0 | 1%nat => o1 | _ => o2 end).
Proof. by rewrite /ev sum3 /Pd; case: s => [[|[|[|i]]] h] //=; case: a; rewrite /=; lra. Qed.
Lemma bp : bellman Pd g rd pd (fun _ => 0).
Proof. by move=> s; rewrite sum_bool /Qd !ev_Pd /pd /rd /stays /pays; case: s => [[|[|[|i]]] h] //=; lra. Qed.
Lemma bq : bellman Pd g rd qd vd.
Proof.
move=> s; rewrite sum_bool /Qd !ev_Pd /qd /rd /opens /stays /pays /vd; case: s => [[|[|[|i]]] h] //=; [lra | lra | field; lra].
Qed.
Lemma branch_d : [/\ at_rho rhod vd = g * (x * ((1 - x) / (1 - g))), under md (gaind Pd g rd pd (fun _ => 0) qd) = 0,
  under md (fun s => kl (pd s) (qd s)) = - ln (1 - x) & at_rho rhod (fun s => kl (pd s) (qd s)) = - ln (1 - x)].
Proof.
have k0 : kl (pd o0) (qd o0) = - ln (1 - x) by exact: (@kl_branch x 0).
have k1 : kl (pd o1) (qd o1) = 0 by exact: (@kl_branch x 1).
split.
- by rewrite /at_rho sum3 /rhod /vd /=; lra.
- by rewrite /under sum3 /md /gaind !sum_bool /Qd !ev_Pd /rd /pays /=; lra.
- by rewrite /under sum3 k0 k1 /md /=; lra.
by rewrite /at_rho sum3 k0 k1 /rhod /=; lra.
Qed.
End BranchDiscounted.

(* ---- S7 is sharp, discounted: rewards in [0, 1]; the ratio tends to g, and to one if kappa_0 is subtracted *)
Theorem S7_discounted_sharp g k : 0 < g < 1 -> 0 <= k < 1 ->
  exists (p q : 'I_3 -> bool -> R) (v v' m : 'I_3 -> R), [/\ policy p, policy q, (forall s, keeps (p s) (q s)) &
    [/\ bellman Pd g rd p v, bellman Pd g rd q v', flow Pd g rhod p m &
    let gap := at_rho rhod v' - at_rho rhod v - under m (gaind Pd g rd p v q) in
    let K := under m (fun s => kl (p s) (q s)) in let kappa0 := at_rho rhod (fun s => kl (p s) (q s)) in
    [/\ 0 < K, k * g * (K / (1 - g)) < gap & k * ((K - (1 - g) * kappa0) / (1 - g)) < gap]]].
Proof.
move=> hg hk; have g01 : 0 <= g < 1 by lra.
have [x [hx [lt pos]]] := near_one hk; have [j0 l0 k0 kap] := branch_d g hx.
exists pd, (qd x), (fun _ => 0), (vd g x), (md g).
split; [exact: pd_policy | exact: qd_policy | exact: pq_keeps | split; [exact: bp | exact: bq | exact: md_flow |]].
have z : at_rho rhod (fun _ : ordinal_finType 3 => 0) = 0 by rewrite /at_rho sum0 // => s; lra.
rewrite /= j0 l0 k0 kap z.
have c : 0 < g / (1 - g) by apply: Rdiv_lt_0_compat; lra.
have := Rmult_lt_compat_l _ _ _ c lt => h.
have E1 : k * g * (- ln (1 - x) / (1 - g)) = g / (1 - g) * (k * - ln (1 - x)) by field; lra.
have E2 : k * ((- ln (1 - x) - (1 - g) * - ln (1 - x)) / (1 - g)) = g / (1 - g) * (k * - ln (1 - x)) by field; lra.
have E3 : g * (x * ((1 - x) / (1 - g))) - 0 - 0 = g / (1 - g) * (x * (1 - x)) by field; lra.
by rewrite E1 E2 E3.
Qed.

(* ------------------------------------------------------------------ S5: the thresholds are exact *)
Section Bandit.
Variables (g x : R).
Hypotheses (g01 : 0 <= g < 1) (hx : 0 < x < / 2).
(* one state, two actions with rewards 1 and -1, moved by x towards the better one *)
Definition Pb (s : unit) (a : bool) (s' : unit) : R := 1.
Definition rb (s : unit) (a : bool) : R := if a then 1 else -1.
Definition fair (s : unit) (a : bool) : R := / 2.
Definition lean (s : unit) (a : bool) : R := if a then / 2 + x else / 2 - x.
Definition mb (s : unit) : R := / (1 - g).
Lemma bandit : [/\ policy fair, policy lean, forall s, keeps (fair s) (lean s) &
  [/\ flow Pb g (fun _ => 1) fair mb, bellman Pb g rb fair (fun _ => 0), adv_le Pb g rb 1 fair (fun _ => 0) &
      under mb (gaind Pb g rb fair (fun _ => 0) lean) = 2 * x / (1 - g)]].
Proof.
have i0 : 0 < / (1 - g) by apply: Rinv_0_lt_compat; lra.
have evb s a f : ev Pb s a f = f tt by rewrite /ev sum_unit /Pb; lra.
split; [by split=> [a|]; rewrite ?sum_bool /fair; lra | by split=> [[]|]; rewrite ?sum_bool /lean; lra
  | by move=> s [] _; rewrite /lean; lra | split].
- split=> [s|[]]; first by rewrite /mb; lra.
  by rewrite sum_unit sum_bool /mb /fair /Pb; field; lra.
- by move=> s; rewrite sum_bool /Qd !evb /fair /rb; lra.
- by move=> s []; rewrite /Qd evb /rb; apply: Rabs_le; lra.
by rewrite /under sum_unit /gaind sum_bool /Qd !evb /rb /lean /mb; field; lra.
Qed.
Lemma bandit_delta : 2 * delta g fair lean mb * (1 - 4 * x ^ 2) <= 4 * x ^ 2.
Proof.
have y0 : 0 < 1 - 4 * x ^ 2 by nra.
have -> : delta g fair lean mb = / 2 * ln (/ (1 - 4 * x ^ 2)).
  rewrite /delta /under sum_unit /kl sum_bool /mb /fair /lean -Rmult_plus_distr_l -ln_mult; [| apply: Rdiv_lt_0_compat; lra..].
  have -> : / 2 / (/ 2 + x) * (/ 2 / (/ 2 - x)) = / (1 - 4 * x ^ 2) by field; nra.
  by field; lra.
have i0 : 0 < / (1 - 4 * x ^ 2) by apply: Rinv_0_lt_compat.
have := Rmult_le_compat_r _ _ _ (Rlt_le _ _ y0) (ln_le i0); rewrite Rmult_minus_distr_r Rinv_l; lra.
Qed.
End Bandit.

(* a first-order penalty sqrt 2 h A_max sqrt delta with h (1-g) < 1 does not always win *)
Lemma first_order_exact g h : 0 <= g < 1 -> 0 <= h -> h * (1 - g) < 1 -> exists2 x, 0 < x < / 2 &
  0 < under (mb g) (gaind Pb g rb fair (fun _ => 0) (lean x)) - sqrt 2 * h * sqrt (delta g fair (lean x) (mb g)).
Proof.
move=> g01 h0 h1; set y := h * (1 - g) in h1; have y0 : 0 <= y by apply: Rmult_le_pos; lra.
exists ((1 - y) / 4); first lra.
set x := (1 - y) / 4; have hx : 0 < x < / 2 by rewrite /x; lra.
have [hp hq hk [fl _ _ ->]] := bandit g01 hx.
have d1 := bandit_delta g01 hx.
have d0 : 0 <= delta g fair (lean x) (mb g).
  apply: (delta_ge0 g01 (P := Pb) (rho := fun _ => 1)) fl => //.
set d := delta _ _ _ _ in d0 d1 *.
have x1 : y ^ 2 < 1 - 4 * x ^ 2 by rewrite /x; nra.
have r2 : (sqrt 2 * sqrt d) ^ 2 = 2 * d by have := sqrt_sqrt 2 ltac:(lra); have := sqrt_sqrt d d0; nra.
set z := sqrt 2 * sqrt d in r2; have z0 : 0 <= z by apply: Rmult_le_pos; exact: sqrt_pos.
have yz : y * z < 2 * x.
  apply: Rnot_le_lt => le; have y2 : 0 < 1 - 4 * x ^ 2 by nra.
  have a1 : (2 * x) ^ 2 <= y ^ 2 * (2 * d) by rewrite -r2 -Rpow_mult_distr; apply: pow_incr; lra.
  have d2 : 0 < d by nra.
  have a2 : y ^ 2 * (2 * d) < (1 - 4 * x ^ 2) * (2 * d) by apply: Rmult_lt_compat_r; lra.
  lra.
have i0 : 0 < / (1 - g) by apply: Rinv_0_lt_compat; lra.
have := Rmult_lt_compat_r _ _ _ i0 yz; have -> : sqrt 2 * h * sqrt d = y * z * / (1 - g) by rewrite /y /z; field; lra.
rewrite /Rdiv; lra.
Qed.

(* ---- S5: below 1/2 the paper's certificate L - c sqrt delta is positive for some team (c: P3_4, A_max = 1) *)
Theorem S5_exact g : 0 <= g < / 2 ->
  exists p q : unit -> bool -> R, exists v m, [/\ policy p, policy q, forall s, keeps (p s) (q s) &
    [/\ flow Pb g (fun _ => 1) p m, bellman Pb g rb p v, adv_le Pb g rb 1 p v &
      0 < under m (gaind Pb g rb p v q) - c g 1 * sqrt (delta g p q m)]].
Proof.
move=> hg; have g01 : 0 <= g < 1 by lra.
have i0 : 0 < / (1 - g) ^ 2 by apply: Rinv_0_lt_compat; apply: pow_lt; lra.
have h0 : 0 <= g / (1 - g) ^ 2 by apply: Rmult_le_pos; lra.
have h1 : g / (1 - g) ^ 2 * (1 - g) < 1.
  apply: (Rmult_lt_reg_r (1 - g)); first lra.
  by rewrite (_ : g / (1 - g) ^ 2 * (1 - g) * (1 - g) = g); [lra | field; lra].
have [x hx pos] := first_order_exact g01 h0 h1; have [hp hq hk [fl be ad _]] := bandit g01 hx.
exists fair, (lean x), (fun _ => 0), (mb g); split=> //; split=> //.
have -> : c g 1 = sqrt 2 * (g / (1 - g) ^ 2) by rewrite /c; field; lra.
exact: pos.
Qed.

(* ---- S5 with the shift bound of S2: the penalty is sqrt 2 A_max sqrt delta g/(1-g)^(3/2), the threshold (sqrt 5 - 1)/2 *)
Definition c_path g Amax := sqrt 2 * g * Amax / ((1 - g) * sqrt (1 - g)).
Lemma golden g : 0 <= g < 1 -> (sqrt 5 - 1) / 2 <= g <-> sqrt (1 - g) <= g.
Proof.
move=> g01; have s5 := sqrt_sqrt 5 ltac:(lra); have p5 := sqrt_pos 5.
have s := sqrt_sqrt (1 - g) ltac:(lra); have p0 := sqrt_pos (1 - g); split=> h; apply: Rnot_lt_le => lt; nra.
Qed.
Theorem S5_path (S A : finType) (P : S -> A -> S -> R) g rho (r : S -> A -> R) Amax
    (team : nat -> S -> A -> R) (v m : nat -> S -> R) i :
  0 <= g < 1 -> (forall s a, dist (P s a)) -> dist rho -> 0 <= Amax -> (forall i, policy (team i)) ->
  (forall i, keepsS (team i) (team i.+1)) -> (forall i, flow P g rho (team i) (m i)) ->
  (forall i, bellman P g r (team i) (v i)) -> (forall i, adv_le P g r Amax (team i) (v i)) ->
  (sqrt 5 - 1) / 2 <= g -> L_seq P g r team v m i - c_path g Amax * sqrt (d_ g team m i) <= 0.
Proof.
move=> g01 hP hr A0 ht hk hm hv hA /(golden g01) gold.
have := S5 g01 hP hr A0 ht hk hm hv hA i; set X := sqrt 2 * Amax * sqrt _ => s5.
have X0 : 0 <= X by apply: Rmult_le_pos (sqrt_pos _); apply: Rmult_le_pos (sqrt_pos _) A0.
have q0 : 0 < sqrt (1 - g) by apply: sqrt_lt_R0; lra.
have -> : c_path g Amax * sqrt (d_ g team m i) = X / (1 - g) * (g * / sqrt (1 - g)) by rewrite /X /c_path; field; lra.
have Y0 : 0 <= X / (1 - g) by apply: Rmult_le_pos => //; apply/Rlt_le/Rinv_0_lt_compat; lra.
have one : 1 <= g * / sqrt (1 - g).
  by have := Rmult_le_compat_r _ _ _ (Rlt_le _ _ (Rinv_0_lt_compat _ q0)) gold; rewrite Rinv_r; lra.
have := Rmult_le_compat_l _ _ _ Y0 one; lra.
Qed.
Theorem S5_path_exact g : 0 <= g < (sqrt 5 - 1) / 2 ->
  exists p q : unit -> bool -> R, exists v m, [/\ policy p, policy q, forall s, keeps (p s) (q s) &
    [/\ flow Pb g (fun _ => 1) p m, bellman Pb g rb p v, adv_le Pb g rb 1 p v &
      0 < under m (gaind Pb g rb p v q) - c_path g 1 * sqrt (delta g p q m)]].
Proof.
move=> hg; have s5 := sqrt_sqrt 5 ltac:(lra); have p5 := sqrt_pos 5.
have g01 : 0 <= g < 1 by split; [lra | apply: Rlt_trans (proj2 hg) _; nra].
have q0 : 0 < sqrt (1 - g) by apply: sqrt_lt_R0; lra.
have gold : g < sqrt (1 - g) by apply: Rnot_le_lt => /(golden g01); lra.
have i0 := Rinv_0_lt_compat _ q0; have i1 : 0 < / (1 - g) by apply: Rinv_0_lt_compat; lra.
have h0 : 0 <= g * / sqrt (1 - g) * / (1 - g) by apply: Rmult_le_pos; [apply: Rmult_le_pos|]; lra.
have h1 : g * / sqrt (1 - g) * / (1 - g) * (1 - g) < 1.
  by rewrite Rmult_assoc Rinv_l ?Rmult_1_r; [have := Rmult_lt_compat_r _ _ _ i0 gold; rewrite Rinv_r; lra | lra].
have [x hx pos] := first_order_exact g01 h0 h1; have [hp hq hk [fl be ad _]] := bandit g01 hx.
exists fair, (lean x), (fun _ => 0), (mb g); split=> //; split=> //.
have -> : c_path g 1 = sqrt 2 * (g * / sqrt (1 - g) * / (1 - g)) by rewrite /c_path; field; lra.
exact: pos.
Qed.
