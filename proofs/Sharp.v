(* What S7 and S5 attain: S7 with kappa_0 subtracted (the first step costs nothing), the branch (S7 is sharp), the bandit (S5 is). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ S7 with kappa_0 *)
Section Kappa.
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
  have fE : f s = \sum_(a : A) (p s a * ln (q s a / p s a) * shaped r Phi s a) + g * \sum_(a : A) (p s a * ln (q s a / p s a) * w s a).
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

Let K := under m (fun s => kl (p s) (q s)).
Let kappa0 := at_rho rho (fun s => kl (p s) (q s)).
Lemma m_rho s : 0 <= m s - rho s.
Proof.
rewrite (proj2 fl s) (_ : _ - _ = g * \sum_(x : S) (m x * \sum_(a : A) (p x a * P x a s))); last lra.
apply: Rmult_le_pos (proj1 g01) _; apply: sum_ge0 => x; apply: Rmult_le_pos (proj1 fl x) _.
by apply: sum_ge0 => a; apply: Rmult_le_pos; [exact: (proj1 (hp x)) | exact: (proj1 (P_dist x a))].
Qed.

Lemma kappa_side r v v' lo hi : bellman P g r p v -> bellman P g r q v' -> (forall s a, lo <= r s a <= hi) ->
  - ((hi - lo) / (1 - g) * (K - (1 - g) * kappa0)) <= at_rho rho v' - at_rho rho v - under m (gaind P g r p v q).
Proof.
move=> bp bq hr; set R := (hi - lo) / (1 - g); pose Phi (_ : S) := lo / (1 - g).
have hf : floord P g r Phi by apply: const_floor => // s a; have := hr s a; lra.
have hn : floord P g (fun s a => - r s a) (fun _ => - hi / (1 - g)) by apply: const_floor => // s a; have := hr s a; lra.
have v1 s : v s - Phi s <= R.
  have := above g01 P_dist hp hn (bellman_neg bp) s; rewrite /R /Phi.
  have -> : (hi - lo) / (1 - g) = hi / (1 - g) - lo / (1 - g) by field; lra.
  have -> : - hi / (1 - g) = - (hi / (1 - g)) by field; lra.
  lra.
have w1 s a : ev P s a (fun x => v x - Phi x) <= R by rewrite -(ev1 P_dist s a R); apply: ev_le.
have ER : R = hi - lo + g * R by rewrite /R; field; lra.
have sh s a : 0 <= shaped r Phi s a <= hi - lo.
  rewrite /shaped ev1 // /Phi; have := hr s a.
  have : lo / (1 - g) = lo + g * (lo / (1 - g)) by field; lra.
  lra.
have := S9_first hf bp bq; rewrite /under (sumE (G := fun s => m s * gaind P g r p v q s - m s * charged P g p q r v Phi s)) => [|s].
  2: by rewrite (scoredE hp hq hk _ _ bp); lra.
rewrite sumB -/(under m _) -/(under m _) => h.
suff : under m (charged P g p q r v Phi) - at_rho rho (first r Phi) <= R * (K - (1 - g) * kappa0) by lra.
have -> : R * (K - (1 - g) * kappa0) = \sum_(s : S) (((m s - rho s) * R + rho s * (g * R)) * kl (p s) (q s)).
  rewrite (sumE (G := fun s => R * (m s * kl (p s) (q s)) - R * (1 - g) * (rho s * kl (p s) (q s)))) => [|s]; last lra.
  by rewrite sumB !sumZ /K /kappa0 /under /at_rho; lra.
rewrite /under /at_rho -sumB; apply: sum_le => s; rewrite -(kterm_sum (hp s) (hq s)) -sumZ /charged /first -!sumZ -sumB.
apply: sum_le => a; have k0 := kterm_ge0 a (hp s) (hq s) (hk (s := s)); rewrite (QdE _ _ Phi).
have rg := Rmult_le_compat_l _ _ _ (proj1 g01) (w1 s a); have [r0 _] := rho_dist; have [s0 s1] := sh s a.
set c := kterm _ _ _ in k0 *; set x := shaped _ _ _ _ in s0 s1 *; set y := g * ev _ _ _ _ in rg *.
have a1 := Rmult_le_compat_l _ _ _ (Rmult_le_pos _ _ (m_rho s) k0) (Rplus_le_compat _ _ _ _ s1 rg).
have a2 := Rmult_le_compat_l _ _ _ (Rmult_le_pos _ _ (r0 s) k0) rg.
rewrite -ER in a1; lra.
Qed.

(* ---- S7, the sharper discounted form: K may be replaced by K - (1-g) kappa_0, kappa_0 the expected KL of the first step *)
Theorem S7_kappa r v v' lo hi : bellman P g r p v -> bellman P g r q v' -> (forall s a, lo <= r s a <= hi) ->
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q)) <= (hi - lo) / (1 - g) * (K - (1 - g) * kappa0).
Proof.
move=> bp bq hr; have c1 := kappa_side bp bq hr.
have := kappa_side (bellman_neg bp) (bellman_neg bq) (lo := - hi) (hi := - lo) => c2.
have {}c2 := c2 (fun s a => conj (Ropp_le_contravar _ _ (proj2 (hr s a))) (Ropp_le_contravar _ _ (proj1 (hr s a)))).
have N f : at_rho rho (fun x => - f x) = - at_rho rho f by rewrite /at_rho -sumN; apply: sumE => s; lra.
have G : under m (gaind P g (fun s a => - r s a) p (fun x => - v x) q) = - under m (gaind P g r p v q).
  rewrite /under -sumN; apply: sumE => s; rewrite -Ropp_mult_distr_r_reverse; congr (_ * _).
  by rewrite /gaind -sumN; apply: sumE => a; rewrite Q_negr; lra.
rewrite !N G (_ : - lo - - hi = hi - lo) in c2; last lra.
by apply: Rabs_le; lra.
Qed.
End Kappa.

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
Definition vd (s : S) : R := if (s : nat) is O then g * (x * ((1 - x) / (1 - g))) else if (s == 2 :> nat)%nat then (1 - x) / (1 - g) else 0.
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
