(* Discounted: S7 with nothing assumed about values and visits; and S7c, what a stage loses by reusing the rollouts of its start,
   for turn-taking and product teams and every order (the episodic twin, with the idea: Cached.v). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Teams Discounted Existence.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.
Section Stage.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R) (lo hi : R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho) (hr : forall s a, lo <= r s a <= hi).

(* S7 for any two policies: their values and visits exist *)
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
(* L_i^cached: visits and advantages of team 0, the step from team i to team i+1 *)
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
(* S7c, signed, any teams: the KL is that of the last team against the first *)
Theorem S7c_discounted n : (forall s, keeps (team O s) (team n s)) ->
  Rabs (\big[Rplus/0]_(i < n) (at_rho rho (v i.+1) - at_rho rho (v i) - cached i))
    <= (hi - lo) / (1 - g) * under m (fun s => kl (team O s) (team n s)).
Proof. by move=> hk; rewrite cached_telescope; apply: S7_discounted. Qed.
End Stage.

(* ---- factored teams (Teams.v): no two agents share parameters *)
Section Factored.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R) (lo hi : R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho) (hr : forall s a, lo <= r s a <= hi).
Variables (I : eqType) (k0 : I) (team : seq I -> S -> A -> R) (order : seq I) (v : seq I -> S -> R) (m : S -> R).
Hypotheses (hf : factored team) (ht : forall u, policy (team u)) (ho : uniq order).
Notation p := (team [::]). Notation n := (size order).
Hypotheses (hv : forall u, bellman P g r (team u) (v u)) (fl : flow P g rho p m).
Hypothesis hk : forall s, 0 < m s -> keeps (p s) (team order s).

Definition J_ i := at_rho rho (v (take i order)).
Definition cached_ i := cached P g r (fun i => team (take i order)) (fun i => v (take i order)) m i.
Definition reused_ i := under m (gaind P g r p (v [::]) (team [:: nth k0 order i])).
(* K_k = delta^0_k / (1-g), under the visits of the current team; D_i, the sum of the first i *)
Definition K_ k := under m (fun s => kl (p s) (team [:: k] s)).
Definition D_ i := \big[Rplus/0]_(k <- take i order) K_ k.

Lemma keeps_take i s : 0 < m s -> keeps (p s) (team (take i order) s).
Proof. by move=> /hk; rewrite -{1}(cat_take_drop i order); apply: keeps_cat; rewrite ?cat_take_drop. Qed.
Lemma keeps_single k s : k \in order -> 0 < m s -> keeps (p s) (team [:: k] s).
Proof. by move=> ko /hk; apply: keeps_one. Qed.
Lemma take_next i : (i < n)%nat -> take i.+1 order = rcons (take i order) (nth k0 order i) /\ nth k0 order i \notin take i order.
Proof.
move=> ni; have E := take_nth k0 ni; split=> //.
by have := take_uniq i.+1 ho; rewrite E rcons_uniq => /andP[].
Qed.
(* P3.1 under m: the KL of the team is the sum over its agents *)
Lemma K_take i : under m (fun s => kl (p s) (team (take i order) s)) = D_ i.
Proof.
rewrite /D_ /under exchange_big /=; apply: sumE => s; rewrite -big_distrr /=.
case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|<-]; last lra.
by congr (_ * _); apply: (kl_seq hf ht); [exact: take_uniq | exact: keeps_take].
Qed.

(* S7c, one update, reused: |J(i+1) - J(i) - L^reused_i| <= rho D_i, both protocols *)
Theorem S7c_reused_discounted i : (i < n)%nat -> Rabs (J_ i.+1 - J_ i - reused_ i) <= (hi - lo) / (1 - g) * D_ i.+1.
Proof.
move=> ni; have [E kn] := take_next ni; rewrite -K_take.
have <- : \sum_(k : unit_finType) reused_ i = reused_ i by rewrite (big_pred1 tt) => [|[]].
apply: (S7_family_discounted (one := fun _ => team [:: nth k0 order i]) g01 P_dist rho_dist
  (ht _) (ht _) (ht _) (fun _ => ht _) fl (@keeps_take i) (@keeps_take i.+1) _ _ (hv _) (hv _) (hv _) hr).
  by move=> s _ ms; apply: keeps_single ms; apply: mem_nth.
by move=> s _; rewrite E; apply: log_rcons.
Qed.
(* S7c, the signed stage, reused: |sum_i (J(i+1) - J(i) - L^reused_i)| <= rho sum_k K_k *)
Theorem S7c_reused_stage_discounted :
  Rabs (\big[Rplus/0]_(i < n) (J_ i.+1 - J_ i - reused_ i)) <= (hi - lo) / (1 - g) * \big[Rplus/0]_(k <- order) K_ k.
Proof.
have := K_take n; rewrite /D_ take_size => <-.
have -> : \big[Rplus/0]_(i < n) (J_ i.+1 - J_ i - reused_ i) =
  at_rho rho (v order) - at_rho rho (v [::]) - \sum_(i : 'I_n) reused_ i.
  rewrite sumB; have -> : at_rho rho (v order) = J_ n by rewrite /J_ take_size.
  have -> : at_rho rho (v [::]) = J_ 0 by rewrite /J_ take0.
  by congr (_ - _); elim: n => [|k ih]; [rewrite big_ord0; lra | rewrite big_ord_recr /= ih; lra].
apply: (S7_family_discounted (one := fun i : 'I_n => team [:: nth k0 order i]) g01 P_dist rho_dist
  (ht _) (ht _) (ht _) (fun _ => ht _) fl _ hk _ _ (hv _) (hv _) (hv _) hr) => [s _ a //|s i ms|s ms a pa _ ka h].
  by apply: keeps_single ms; apply: mem_nth.
rewrite (log_seq hf ht ho pa ka) => [|k ko].
  have -> : p s a / p s a = 1 by [field; lra]; rewrite ln_1 Rplus_0_l (big_nth k0) big_mkord.
  by apply: eq_bigr.
by have := h (Ordinal (_ : index k order < n)%nat); rewrite /= nth_index // index_mem; apply.
Qed.
(* S7c, the signed stage, cached; and one update, cached, for which product teams pay twice *)
Theorem S7c_cached_stage_discounted i :
  Rabs (\big[Rplus/0]_(k < i) (J_ k.+1 - J_ k - cached_ k)) <= (hi - lo) / (1 - g) * D_ i.
Proof.
rewrite -K_take /J_ /cached_ (cached_telescope rho m (fun i => ht (take i order)) (fun i => hv (take i order)) i) /= take0.
by apply: (S7_discounted_visited g01 P_dist rho_dist (ht _) (ht _) (@keeps_take i) fl (hv _) (hv _) hr).
Qed.
Theorem S7c_cached_discounted i : Rabs (J_ i.+1 - J_ i - cached_ i) <= (hi - lo) / (1 - g) * (D_ i.+1 + D_ i).
Proof.
have a := Rabs_def2_le (S7c_cached_stage_discounted i); have := Rabs_def2_le (S7c_cached_stage_discounted i.+1).
rewrite big_ord_recr /=; move: a; set x := \big[Rplus/0]_(k < i) _; set y := J_ i.+1 - _ - _ => a b; apply: Rabs_le; lra.
Qed.
End Factored.

(* ---- turn-taking: K_k is the expected KL of agent k's turns. Cached and reused surrogates are the same, so one update
   has rho D_i. *)
Section Turns.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R) (lo hi : R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho) (hr : forall s a, lo <= r s a <= hi).
Variables (I : eqType) (k0 : I) (j : S -> I) (p p' : S -> A -> R) (order : seq I) (v : seq I -> S -> R) (m : S -> R).
Hypotheses (hp : policy p) (hp' : policy p') (ho : uniq order).
Notation team := (turns j p p'). Notation n := (size order).
Hypotheses (hv : forall u, bellman P g r (team u) (v u)) (fl : flow P g rho p m).
Hypothesis hk : forall s, 0 < m s -> keeps (p s) (team order s).
Let ht u : policy (team u) := turns_policy j u hp hp'.
Definition K_turn k := under m (fun s => if j s == k then kl (p s) (p' s) else 0).
Lemma K_turnE k : K_ team m k = K_turn k.
Proof. by apply: sumE => s; congr (_ * _); have := P3_1_turns j p p' [:: k] s; rewrite /= inE. Qed.
Lemma cached_reused_discounted i : (i < n)%nat -> cached_ P g r team order v m i = reused_ P g r k0 team order v m i.
Proof.
move=> ni; have [E kn] := take_next k0 ho ni; rewrite /cached_ /cached take0; apply: sumE => s; congr (_ * _).
have -> : gaind P g r (team [::]) (v [::]) (team [:: nth k0 order i]) s
  = \sum_(a : A) ((team [:: nth k0 order i] s a - team [::] s a) * (Qd P g r (v [::]) s a - v [::] s)).
  rewrite /gaind [RHS](sumE (G := fun a => team [:: nth k0 order i] s a * (Qd P g r (v [::]) s a - v [::] s)
    - team [::] s a * (Qd P g r (v [::]) s a - v [::] s))) => [|a]; last lra.
  by rewrite sumB -/(gaind P g r (team [::]) (v [::]) (team [::]) s) gaindE ?(hv [::] s); [lra | exact: (ht [::])].
apply: sumE => a; congr (_ * _).
rewrite E /turns mem_rcons !inE; case: eqP => [js|_] //=; last by lra.
by rewrite js (negbTE kn).
Qed.
(* |cached_i| <= rho sum_{k<=i} K_k, rho = (hi-lo)/(1-g) *)
Theorem S7c_cached_turns_discounted i : (i < n)%nat ->
  Rabs (J_ rho order v i.+1 - J_ rho order v i - cached_ P g r team order v m i)
    <= (hi - lo) / (1 - g) * \big[Rplus/0]_(k <- take i.+1 order) K_turn k.
Proof.
move=> ni; rewrite cached_reused_discounted // -(eq_bigr _ (fun k _ => K_turnE k)).
exact: (S7c_reused_discounted g01 P_dist rho_dist hr k0 (turns_factored _ _ _) ht ho hv fl hk ni).
Qed.
(* |sum_i cached_i| <= rho sum_k K_k *)
Theorem S7c_stage_turns_discounted :
  Rabs (\big[Rplus/0]_(i < n) (J_ rho order v i.+1 - J_ rho order v i - cached_ P g r team order v m i))
    <= (hi - lo) / (1 - g) * \big[Rplus/0]_(k <- order) K_turn k.
Proof.
rewrite -(eq_bigr _ (fun k _ => K_turnE k)).
have := S7c_cached_stage_discounted g01 P_dist rho_dist hr (turns_factored j p p') ht ho hv fl hk n.
by rewrite /D_ take_size.
Qed.
End Turns.

(* ---- product teams: K_k is the expected KL of agent k's rows *)
Section Product.
Variables (S I M : finType).
Let A := functions I M.
Variables (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R) (lo hi : R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho) (hr : forall s a, lo <= r s a <= hi).
Variables (k0 : I) (p p' : S -> I -> M -> R) (order : seq I) (v : seq I -> S -> R) (m : S -> R).
Hypotheses (hp : forall s k, dist (p s k)) (hp' : forall s k, dist (p' s k)) (ho : uniq order).
Notation team := (product p p'). Notation n := (size order).
Hypotheses (hv : forall u, bellman P g r (team u) (v u)) (fl : flow P g rho (team [::]) m).
Hypothesis hk : forall s, 0 < m s -> keeps (team [::] s) (team order s).
Let ht u : policy (team u) := product_policy hp hp' u.
Definition K_factor k := under m (fun s => kl (p s k) (p' s k)).
Lemma D_factor i : D_ team order m i = \big[Rplus/0]_(k <- take i order) K_factor k.
Proof.
rewrite /D_ big_seq [RHS]big_seq; apply: eq_bigr => k /mem_take ko; apply: sumE => s.
case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|<-]; last lra.
by congr (_ * _); apply: P3_1_product => //; apply: (keeps_one (product_factored p p') ht ho ko (hk ms)).
Qed.
(* |sum_i cached_i| <= rho sum_k K_k *)
Theorem S7c_stage_product_discounted :
  Rabs (\big[Rplus/0]_(i < n) (J_ rho order v i.+1 - J_ rho order v i - cached_ P g r team order v m i))
    <= (hi - lo) / (1 - g) * \big[Rplus/0]_(k <- order) K_factor k.
Proof.
have := D_factor n; rewrite take_size => <-.
exact: (S7c_cached_stage_discounted g01 P_dist rho_dist hr (product_factored p p') ht ho hv fl hk n).
Qed.
(* |cached_i| <= rho (D_i + D_{i-1}), D_i the sum of the first i of the K_k *)
Theorem S7c_cached_product_discounted i :
  Rabs (J_ rho order v i.+1 - J_ rho order v i - cached_ P g r team order v m i) <= (hi - lo) / (1 - g) *
    (\big[Rplus/0]_(k <- take i.+1 order) K_factor k + \big[Rplus/0]_(k <- take i order) K_factor k).
Proof. by rewrite -!D_factor; apply: (S7c_cached_discounted g01 P_dist rho_dist hr (product_factored p p') ht ho hv fl hk i). Qed.
(* |reused_i| <= rho D_i *)
Theorem S7c_reused_product_discounted i : (i < n)%nat ->
  Rabs (J_ rho order v i.+1 - J_ rho order v i - reused_ P g r k0 team order v m i)
    <= (hi - lo) / (1 - g) * \big[Rplus/0]_(k <- take i.+1 order) K_factor k.
Proof.
by move=> ni; rewrite -D_factor;
  apply: (S7c_reused_discounted g01 P_dist rho_dist hr k0 (product_factored p p') ht ho hv fl hk ni).
Qed.
(* |sum_i reused_i| <= rho sum_k K_k *)
Theorem S7c_reused_stage_product_discounted :
  Rabs (\big[Rplus/0]_(i < n) (J_ rho order v i.+1 - J_ rho order v i - reused_ P g r k0 team order v m i))
    <= (hi - lo) / (1 - g) * \big[Rplus/0]_(k <- order) K_factor k.
Proof.
have := D_factor n; rewrite take_size => <-.
have := S7c_reused_stage_discounted g01 P_dist rho_dist hr k0 (product_factored p p') ht ho hv fl hk.
by rewrite /D_ take_size.
Qed.
End Product.
