(* S12: rollouts of a sampler mu, a step from p to q. Both pairs (mu, p) and (mu, q) are pairs of policies like any other, and
   J(mu) cancels in the difference of their gaps. The path-weight forms (c), (d) are one line for a path, R P' + (1-R) P - M. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ (c), (d): laws of whole rollouts, an outcome in [0,1] *)
Section Weights.
Variables (W : finType) (M P P' Rw : W -> R).
Hypotheses (hM : dist M) (hP : dist P) (hP' : dist P').
Hypotheses (R0 : forall w, 0 < P' w -> 0 <= Rw w) (R1 : forall w, 0 < P w -> Rw w <= 1).
Definition weight w := M w * (Rw w * (P' w / M w - 1) + (1 - Rw w) * (P w / M w - 1)).
Definition log_weight w := M w * (Rw w * ln (P' w / M w) + (1 - Rw w) * ln (P w / M w)).

Lemma weightE w : 0 < M w -> weight w = Rw w * P' w + (1 - Rw w) * P w - M w.
Proof. by move=> m0; rewrite /weight; field; lra. Qed.
Let total := \sum_(w : W) (Rw w * P' w + (1 - Rw w) * P w - M w).
Lemma totalE : total = \sum_(w : W) (P' w * Rw w) - \sum_(w : W) (P w * Rw w).
Proof.
rewrite /total (sumE (G := fun w => (P' w * Rw w - P w * Rw w) + (P w - M w))) => [|w]; last lra.
by rewrite sumD !sumB (proj2 hP) (proj2 hM); lra.
Qed.

(* (d): J' - J >= E_M[R (P'/M - 1) + (1-R) (P/M - 1)]; what only P and P' write has R P' + (1-R) P >= 0 *)
Theorem weights : \sum_(w : W) weight w <= \sum_(w : W) (P' w * Rw w) - \sum_(w : W) (P w * Rw w).
Proof.
rewrite -totalE; apply: sum_le => w.
case: (Rle_lt_or_eq_dec _ _ (proj1 hM w)) => [m0|m0]; first by rewrite weightE //; lra.
rewrite /weight -m0.
have a : 0 <= Rw w * P' w.
  case: (Rle_lt_or_eq_dec _ _ (proj1 hP' w)) => [p0|<-]; last lra.
  by apply: Rmult_le_pos; [exact: R0 | lra].
have b : 0 <= (1 - Rw w) * P w.
  case: (Rle_lt_or_eq_dec _ _ (proj1 hP w)) => [p0|<-]; last lra.
  by apply: Rmult_le_pos; [have := R1 p0; lra | lra].
lra.
Qed.
(* with equality if P and P' write nothing that M never writes *)
Theorem weights_eq : (forall w, M w = 0 -> P w = 0 /\ P' w = 0) ->
  \sum_(w : W) weight w = \sum_(w : W) (P' w * Rw w) - \sum_(w : W) (P w * Rw w).
Proof.
move=> h; rewrite -totalE; apply: sumE => w.
case: (Rle_lt_or_eq_dec _ _ (proj1 hM w)) => [m0|m0]; first by rewrite weightE //; lra.
by have [-> ->] := h w (esym m0); rewrite /weight -m0; lra.
Qed.

(* (c) is below (d) rollout by rollout; where an action was dropped the logarithm must have no weight, else (c) is -oo *)
Lemma log_weight_le w : 0 <= Rw w <= 1 -> (0 < M w -> 0 < P' w \/ Rw w = 0) -> (0 < M w -> 0 < P w \/ Rw w = 1) ->
  log_weight w <= weight w.
Proof.
move=> r01 k' k; rewrite /log_weight /weight; case: (Rle_lt_or_eq_dec _ _ (proj1 hM w)) => [m0|<-]; last lra.
have one c x : 0 <= c -> 0 < x / M w \/ c = 0 -> c * ln (x / M w) <= c * (x / M w - 1).
  by move=> c0 [x0|->]; [apply: Rmult_le_compat_l c0 (ln_le x0) | lra].
apply: Rmult_le_compat_l; first lra.
apply: Rplus_le_compat; apply: one; try lra.
  by case: (k' m0) => [q0|->]; [left; exact: Rdiv_lt_0_compat | right].
by case: (k m0) => [q0|->]; [left; exact: Rdiv_lt_0_compat | right; lra].
Qed.
Theorem log_weights : (forall w, 0 < M w -> 0 <= Rw w <= 1) -> (forall w, 0 < M w -> 0 < P' w \/ Rw w = 0) ->
  (forall w, 0 < M w -> 0 < P w \/ Rw w = 1) ->
  \sum_(w : W) log_weight w <= \sum_(w : W) (P' w * Rw w) - \sum_(w : W) (P w * Rw w).
Proof.
move=> r01 k' k; apply: Rle_trans weights; apply: sum_le => w.
case: (Rle_lt_or_eq_dec _ _ (proj1 hM w)) => [m0|m0]; first by apply: log_weight_le; auto.
by rewrite /log_weight /weight -m0; lra.
Qed.
End Weights.

(* ------------------------------------------------------------------ episodic *)
Section Episodic.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (mu p q : S -> A -> R).
Hypotheses (hm : policy mu) (hp : policy p) (hq : policy q).
Notation V := (V e next r). Notation L := (L e next r mu). Notation K := (K e next mu).
Definition gap3 t s := V q t s - V p t s - (L q t s - L p t s).

(* S12 (a): |J' - J - (L_mu(q) - L_mu(p))| <= range * (K(mu,p) + K(mu,q)); lo, hi: the returns that p or q can have *)
Theorem S12 lo hi t s : (forall x, keeps (mu x) (p x)) -> (forall x, keeps (mu x) (q x)) ->
  (forall w : path A B t, 0 < law e next p s w -> lo <= ret next r s w <= hi) ->
  (forall w : path A B t, 0 < law e next q s w -> lo <= ret next r s w <= hi) ->
  Rabs (gap3 t s) <= (hi - lo) * (K p t s + K q t s).
Proof.
move=> kp kq wp wq; have a := Rabs_def2_le (S7_range e_dist hm hp kp wp); have b := Rabs_def2_le (S7_range e_dist hm hq kq wq).
by apply: Rabs_le; rewrite /gap3; lra.
Qed.

(* S12 (b): S9's floor for one policy and its ceiling for the other; k, k' the terms of the two KLs *)
Definition charge3 (pi : S -> A -> R) (F : nat -> S -> A -> R) :=
  path_sum e next mu (fun u x => \sum_(a : A) (kterm (mu x) (pi x) a * F u x a)).
Theorem S12_weighted (ok : nat -> S -> Prop) Phi Psi t s : (forall x, keeps (mu x) (p x)) -> (forall x, keeps (mu x) (q x)) ->
  reach e next p ok -> reach e next q ok ->
  floor e next p r ok Phi -> floor e next q r ok Phi -> ceiling e next p r ok Psi -> ceiling e next q r ok Psi -> ok t s ->
  let low u x a := Q e next r mu u x a - Phi u.+1 x in let high u x a := Psi u.+1 x - Q e next r mu u x a in
  - (charge3 q low t s + charge3 p high t s) <= gap3 t s <= charge3 q high t s + charge3 p low t s.
Proof.
move=> kp kq rp rq fp fq cp cq os low high.
have := S9_charge e_dist hm hp kp rp fp os; have := S9_ceiling e_dist hm hp kp rp cp os.
have := S9_charge e_dist hm hq kq rq fq os; have := S9_ceiling e_dist hm hq kq rq cq os.
by rewrite /gap3 /charge3 /charge /low /high; lra.
Qed.

(* S12 (c), (d): an outcome reward in [0,1] *)
Section Outcome.
Variables (t : nat) (s : S).
Notation Law pi := (law e next pi (t := t) s). Notation Ret := (ret next r s : path A B t -> R).
(* (d): no condition on supports; the returns of p are at most 1, those of q at least 0 *)
Theorem S12_weights : (forall w, 0 < Law q w -> 0 <= Ret w) -> (forall w, 0 < Law p w -> Ret w <= 1) ->
  \sum_(w : path A B t) weight (Law mu) (Law p) (Law q) Ret w <= V q t s - V p t s.
Proof. by move=> a b; rewrite !V_law //; apply: weights => //; apply: law_dist. Qed.
Theorem S12_weights_eq : (forall w, Law mu w = 0 -> Law p w = 0 /\ Law q w = 0) ->
  \sum_(w : path A B t) weight (Law mu) (Law p) (Law q) Ret w = V q t s - V p t s.
Proof. by move=> h; rewrite !V_law //; apply: weights_eq => //; apply: law_dist. Qed.
(* each rollout's number is at least -1 *)
Lemma weight_bounded w : 0 < Law mu w -> 0 <= Ret w <= 1 ->
  -1 <= Ret w * (Law q w / Law mu w - 1) + (1 - Ret w) * (Law p w / Law mu w - 1).
Proof.
move=> m0 r01; have d pi : policy pi -> 0 <= Law pi w / Law mu w.
  by move=> h; apply: Rmult_le_pos; [exact: (proj1 (law_dist next e_dist t s h) w) | apply/Rlt_le/Rinv_0_lt_compat].
have := d _ hp; have := d _ hq; set x := Law q w / _; set y := Law p w / _ => x0 y0; nra.
Qed.
(* (c) *)
Theorem S12_logs : (forall w, 0 < Law mu w -> 0 <= Ret w <= 1) ->
  (forall w, 0 < Law q w -> 0 <= Ret w) -> (forall w, 0 < Law p w -> Ret w <= 1) ->
  (forall w, 0 < Law mu w -> 0 < Law q w \/ Ret w = 0) -> (forall w, 0 < Law mu w -> 0 < Law p w \/ Ret w = 1) ->
  \sum_(w : path A B t) log_weight (Law mu) (Law p) (Law q) Ret w <= V q t s - V p t s.
Proof. by move=> *; rewrite !V_law //; apply: log_weights => //; apply: law_dist. Qed.
End Outcome.
End Episodic.

(* ------------------------------------------------------------------ discounted *)
Section DiscountedForm.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (r : S -> A -> R) (mu p q : S -> A -> R) (u v w m : S -> R).
Hypotheses (hm : policy mu) (hp : policy p) (hq : policy q).
Hypotheses (kp : forall s, keeps (mu s) (p s)) (kq : forall s, keeps (mu s) (q s)).
Hypotheses (fl : flow P g rho mu m) (bm : bellman P g r mu u) (bp : bellman P g r p v) (bq : bellman P g r q w).
Definition gap3d := at_rho rho w - at_rho rho v - (under m (gaind P g r mu u q) - under m (gaind P g r mu u p)).

(* S12 (a): range = span(r)/(1-g) *)
Theorem S12_discounted lo hi : (forall s a, lo <= r s a <= hi) ->
  Rabs gap3d <= (hi - lo) / (1 - g) * (under m (fun s => kl (mu s) (p s)) + under m (fun s => kl (mu s) (q s))).
Proof.
move=> hr; have a := Rabs_def2_le (S7_discounted g01 P_dist rho_dist hm hp kp fl bm bp hr).
have b := Rabs_def2_le (S7_discounted g01 P_dist rho_dist hm hq kq fl bm bq hr).
by apply: Rabs_le; rewrite /gap3d; lra.
Qed.

(* S12 (b) *)
Definition charge3d (pi : S -> A -> R) (F : S -> A -> R) := under m (fun s => \sum_(a : A) (kterm (mu s) (pi s) a * F s a)).
Theorem S12_weighted_discounted Phi Psi :
  floord P g r Phi -> floord P g (fun s a => - r s a) (fun s => - Psi s) ->
  let low s a := Qd P g r u s a - Phi s in let high s a := Psi s - Qd P g r u s a in
  - (charge3d q low + charge3d p high) <= gap3d <= charge3d q high + charge3d p low.
Proof.
move=> hf hc low high.
have two pi z (hpi : policy pi) (k : forall s, keeps (mu s) (pi s)) (b : bellman P g r pi z) :
    - charge3d pi low <= at_rho rho z - at_rho rho u - under m (gaind P g r mu u pi) <= charge3d pi high.
  have lo := S9_charged g01 P_dist rho_dist hm hpi k fl bm b hf.
  have := S9_charged g01 P_dist rho_dist hm hpi k fl (bellman_neg bm) (bellman_neg b) hc.
  have -> : at_rho rho (fun s => - z s) - at_rho rho (fun s => - u s) = - (at_rho rho z - at_rho rho u).
    by rewrite /at_rho -!sumB -sumN; apply: sumE => s; lra.
  have -> : under m (gaind P g (fun s a => - r s a) mu (fun s => - u s) pi) = - under m (gaind P g r mu u pi).
    rewrite /under -sumN; apply: sumE => s; rewrite -Ropp_mult_distr_r_reverse; congr (_ * _).
    by rewrite /gaind -sumN; apply: sumE => a; rewrite (Q_negr P g r u); lra.
  have -> : under m (charged P g mu pi (fun s a => - r s a) (fun s => - u s) (fun s => - Psi s)) = charge3d pi high.
    apply: sumE => s; congr (_ * _); apply: sumE => a.
    by rewrite /high (Q_negr P g r u); lra.
  by move: lo; rewrite -/(charge3d pi low); lra.
by have := two _ _ hp kp bp; have := two _ _ hq kq bq; rewrite /gap3d; lra.
Qed.
End DiscountedForm.
