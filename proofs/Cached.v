(* S7c: what a stage loses by reusing the rollouts of its start, in episodes, for turn-taking and product teams and every order.
   team u is the team in which the agents in u are updated (Teams.v). Logarithms of ratios add up over agents, so that S7_family
   of Episodic.v covers one update as well as the stage, and no measures on paths are needed. KLs are under team [::], and must
   be finite only there: every path of the current team is one of the team that is updated. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Teams.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Cached.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (I : eqType) (k0 : I) (team : seq I -> S -> A -> R) (order : seq I).
Hypotheses (hf : factored team) (ht : forall u, policy (team u)) (ho : uniq order).
Notation p := (team [::]). Notation n := (size order).
Notation V := (V e next r). Notation L := (L e next r). Notation K := (K e next). Notation keeps_path := (keeps_path e next).

(* the team after i updates, its improvement by the next one, and that update's surrogates on the rollouts of team [::]:
   cached (the step of the team) and reused (the step that the agent would make alone) *)
Definition hyb i := team (take i order).
Definition improvement i t s := V (hyb i.+1) t s - V (hyb i) t s.
Notation cached := (fun i t s => L_cached e next r hyb t s i).
Definition reused i := L p (team [:: nth k0 order i]).
(* D_i = sum of the KLs of the first i agents, each under team [::] *)
Definition D i t s := \big[Rplus/0]_(k <- take i order) K p (team [:: k]) t s.

Lemma hyb0 : hyb 0 = p. Proof. by rewrite /hyb take0. Qed.
Lemma hyb_next i : (i < n)%nat -> take i.+1 order = rcons (take i order) (nth k0 order i) /\ nth k0 order i \notin take i order.
Proof.
move=> ni; have E := take_nth k0 ni; split=> //.
by have := take_uniq i.+1 ho; rewrite E rcons_uniq => /andP[].
Qed.

(* the actions that some policy can take: all *)
Definition all_actions (s : S) (a : A) := 1.

Section At.
Variables (lo hi : R) (t : nat) (s : S).
Hypotheses (hw : return_in e next r all_actions lo hi t s) (hk : keeps_path p (team order) t s).

Lemma keeps_part u : (forall x, keeps (p x) (team order x) -> keeps (p x) (team u x)) -> keeps_path p (team u) t s.
Proof.
move=> h; apply: (keeps_visited e_dist (ht _) (keeps_reach e_dist (p := p) (ht order)) hk) => v x kx.
by apply: h; apply: (keeps_step e_dist (ht _) (ht _) kx).
Qed.
Lemma keeps_hyb i : keeps_path p (hyb i) t s.
Proof. by apply: keeps_part => x; rewrite -{1}(cat_take_drop i order); apply: keeps_cat; rewrite ?cat_take_drop. Qed.
Lemma keeps_alone k : k \in order -> keeps_path p (team [:: k]) t s.
Proof. by move=> ko; apply: keeps_part => x; apply: keeps_one. Qed.

Lemma path_sum_seq (u : seq I) (f : I -> nat -> S -> R) :
  path_sum e next p (fun v x => \big[Rplus/0]_(k <- u) f k v x) t s = \big[Rplus/0]_(k <- u) path_sum e next p (f k) t s.
Proof.
elim: u => [|k u ih].
  rewrite big_nil (path_sumE e next p (g := fun v x => 0 * 0)) => [|v x]; last by rewrite big_nil; lra.
  by rewrite (path_sumZ e next p 0 (fun _ _ => 0)); lra.
rewrite big_cons -ih -path_sumD; apply: path_sumE => v x; exact: big_cons.
Qed.
(* P3.1 along the path: the KL of the team is the sum over its agents *)
Lemma K_hyb i : K p (hyb i) t s = D i t s.
Proof.
rewrite /D /Horizon.K -path_sum_seq.
apply: (path_sum_eq_visited e_dist (ht _) (keeps_reach e_dist (ht (take i order))) (keeps_hyb i)) => v x kx.
by rewrite (kl_seq hf ht) ?take_uniq //; apply: (keeps_step e_dist (ht _) (ht _) kx).
Qed.

(* S7_family with all actions in use *)
Lemma family (J : finType) q q' (one : J -> S -> A -> R) : policy q -> policy q' -> (forall k, policy (one k)) ->
  keeps_path p q t s -> keeps_path p q' t s -> (forall k, keeps_path p (one k) t s) ->
  (forall x, log_adds (p x) (q x) (q' x) (fun k => one k x)) ->
  Rabs (V q' t s - V q t s - \sum_(k : J) L p (one k) t s) <= (hi - lo) * K p q' t s.
Proof.
move=> hq hq' h1 kq kq' k1 la; have c x a : 0 < all_actions x a by rewrite /all_actions; lra.
exact: (S7_family_range e_dist (ht _) hq hq' h1 (fun x a _ => c x a) (fun x a _ => c x a) (fun x a _ => c x a) 
  (fun _ x a _ => c x a)).
Qed.

(* S7c, one update, reused: |improvement - L^reused_i| <= rho D_i, both protocols *)
Theorem S7c_reused i : (i < n)%nat -> Rabs (improvement i t s - reused i t s) <= (hi - lo) * D i.+1 t s.
Proof.
move=> ni; have [E kn] := hyb_next ni; rewrite -K_hyb /improvement.
have <- : \sum_(k : unit_finType) reused i t s = reused i t s by rewrite (big_pred1 tt) => [|[]].
apply: (family (one := fun _ => team [:: nth k0 order i]) (ht _) (ht _) (fun _ => ht _) (keeps_hyb i) (keeps_hyb i.+1)).
  by move=> _; apply: keeps_alone; apply: mem_nth.
by move=> x; rewrite /hyb E; apply: log_rcons.
Qed.

(* S7c, the signed stage, reused: |sum_i (improvement_i - L^reused_i)| <= rho sum_k K_k *)
Theorem S7c_reused_stage :
  Rabs (\big[Rplus/0]_(i < n) (improvement i t s - reused i t s)) <= (hi - lo) * \big[Rplus/0]_(k <- order) K p (team [:: k]) t s.
Proof.
have -> : \big[Rplus/0]_(k <- order) K p (team [:: k]) t s = K p (team order) t s by have := K_hyb n;
  rewrite /hyb /D take_size => ->.
have -> : \big[Rplus/0]_(i < n) (improvement i t s - reused i t s) = V (team order) t s - V p t s - \sum_(i : 'I_n) reused i t s.
  rewrite sumB -hyb0; have {1}<- : hyb n = team order by rewrite /hyb take_size.
  by congr (_ - _); elim: n => [|m ih]; [rewrite big_ord0; lra | rewrite big_ord_recr /= ih /improvement; lra].
apply: (family (q := p) (one := fun i : 'I_n => team [:: nth k0 order i]) (ht _) (ht _) (fun _ => ht _) _ hk) => //.
  by move=> i; apply: keeps_alone; apply: mem_nth.
move=> x a pa _ ka h; rewrite (log_seq hf ht ho pa ka) => [|k ko].
  have -> : p x a / p x a = 1 by [field; lra]; rewrite ln_1 Rplus_0_l (big_nth k0) big_mkord.
  by apply: eq_bigr.
by have := h (Ordinal (_ : index k order < n)%nat); rewrite /= nth_index // index_mem; apply.
Qed.

(* S7c, the signed stage, cached; and one update, cached, for which product teams pay twice *)
Theorem S7c_cached_stage i : Rabs (\big[Rplus/0]_(k < i) (improvement k t s - cached k t s)) <= (hi - lo) * D i t s.
Proof.
rewrite -K_hyb -hyb0 /improvement L_cached_telescope => [|k]; last exact: ht.
have c x a : 0 < all_actions x a by rewrite /all_actions; lra.
by rewrite hyb0; apply: (S7_range_visited e_dist (ht _) (ht _) (fun x a _ => c x a) (fun x a _ => c x a) (keeps_hyb i) hw).
Qed.
Theorem S7c_cached i : Rabs (improvement i t s - cached i t s) <= (hi - lo) * (D i.+1 t s + D i t s).
Proof.
have a := Rabs_def2_le (S7c_cached_stage i); have := Rabs_def2_le (S7c_cached_stage i.+1).
rewrite big_ord_recr /=; move: a; set x := \big[Rplus/0]_(k < i) _; set y := improvement i t s - _ => a b; apply: Rabs_le; lra.
Qed.
End At.
End Cached.

(* ---- turn-taking: K_k is the expected KL of agent k's turns. Cached and reused surrogates are the same, so one update
   has rho D_i. *)
Section Turns.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (I : eqType) (k0 : I) (j : S -> I) (p p' : S -> A -> R) (order : seq I).
Hypotheses (hp : policy p) (hp' : policy p') (ho : uniq order).
Notation team := (turns j p p'). Notation n := (size order).
Let ht u : policy (team u) := turns_policy j u hp hp'.
Lemma D_turns i t s : D e next team order i t s
  = \big[Rplus/0]_(k <- take i order) path_sum e next p (fun _ x => if j x == k then kl (p x) (p' x) else 0) t s.
Proof.
apply: eq_bigr => k _; apply: path_sumE => v x.
by have := P3_1_turns j p p' [:: k] x; rewrite /= inE.
Qed.
Lemma cached_reused i t s : (i < n)%nat -> L_cached e next r (hyb team order) t s i = reused e next r k0 team order i t s.
Proof.
move=> ni; have [E kn] := hyb_next k0 ho ni; rewrite /L_cached hyb0; apply: path_sumE => v x.
rewrite (gain_step e next r v x (ht [::]) (ht _)); apply: sumE => a; congr (_ * _).
rewrite /hyb E /turns mem_rcons !inE; case: eqP => [jx|_] //=; last by lra.
by rewrite jx (negbTE kn).
Qed.
(* |cached_i| <= rho sum_{k<=i} K_k *)
Theorem S7c_cached_turns lo hi t s i : return_in e next r (@all_actions A S) lo hi t s ->
  keeps_path e next p (team order) t s -> (i < n)%nat ->
  Rabs (improvement e next r team order i t s - L_cached e next r (hyb team order) t s i) <= (hi - lo) *
    \big[Rplus/0]_(k <- take i.+1 order) path_sum e next p (fun _ x => if j x == k then kl (p x) (p' x) else 0) t s.
Proof. by move=> hw hk ni; rewrite -D_turns cached_reused //;
  apply: S7c_reused (turns_factored _ _ _) ht ho _ _ _ _ hw hk _ ni. Qed.
(* |sum_i cached_i| <= rho sum_k K_k *)
Theorem S7c_stage_turns lo hi t s : return_in e next r (@all_actions A S) lo hi t s -> keeps_path e next p (team order) t s ->
  Rabs (\big[Rplus/0]_(i < n) (improvement e next r team order i t s - L_cached e next r (hyb team order) t s i)) <= (hi - lo) *
    \big[Rplus/0]_(k <- order) path_sum e next p (fun _ x => if j x == k then kl (p x) (p' x) else 0) t s.
Proof.
move=> hw hk; have := D_turns n t s; rewrite take_size => <-.
exact: S7c_cached_stage (turns_factored _ _ _) ht ho _ _ _ _ hw hk n.
Qed.
End Turns.

(* ---- product teams: K_k is the expected KL of agent k's rows *)
Section Product.
Variables (I M B : finType) (S : Type).
Let A := functions I M.
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (k0 : I) (p p' : S -> I -> M -> R) (order : seq I).
Hypotheses (hp : forall s k, dist (p s k)) (hp' : forall s k, dist (p' s k)) (ho : uniq order).
Notation team := (product p p'). Notation n := (size order).
Let ht u : policy (team u) := product_policy hp hp' u.
Definition K_agent k := path_sum e next (team [::]) (fun _ x => kl (p x k) (p' x k)).
Lemma D_product i t s : keeps_path e next (team [::]) (team order) t s ->
  D e next team order i t s = \big[Rplus/0]_(k <- take i order) K_agent k t s.
Proof.
move=> hk; rewrite /D big_seq [RHS]big_seq; apply: eq_bigr => k /mem_take ko.
have kk := keeps_alone e_dist (product_factored p p') ht ho hk ko.
apply: (path_sum_eq_visited e_dist (ht _) (keeps_reach e_dist (ht [:: k])) kk) => v x kx.
by apply: P3_1_product => //; apply: (keeps_step e_dist (ht _) (ht _) kx).
Qed.
Section At.
Variables (lo hi : R) (t : nat) (s : S).
Hypotheses (hw : return_in e next r (@all_actions A S) lo hi t s) (hk : keeps_path e next (team [::]) (team order) t s).
(* |sum_i cached_i| <= rho sum_k K_k *)
Theorem S7c_stage_product :
  Rabs (\big[Rplus/0]_(i < n) (improvement e next r team order i t s - L_cached e next r (hyb team order) t s i))
    <= (hi - lo) * \big[Rplus/0]_(k <- order) K_agent k t s.
Proof.
have := D_product n hk; rewrite take_size => <-.
exact: S7c_cached_stage (product_factored _ _) ht ho _ _ _ _ hw hk n.
Qed.
(* |cached_i| <= rho (D_i + D_{i-1}), D_i the sum of the first i of the K_k *)
Theorem S7c_cached_product i :
  Rabs (improvement e next r team order i t s - L_cached e next r (hyb team order) t s i)
    <= (hi - lo) * (\big[Rplus/0]_(k <- take i.+1 order) K_agent k t s + \big[Rplus/0]_(k <- take i order) K_agent k t s).
Proof. by rewrite -!(D_product _ hk); apply: S7c_cached (product_factored _ _) ht ho _ _ _ _ hw hk i. Qed.
(* |reused_i| <= rho D_i *)
Theorem S7c_reused_product i : (i < n)%nat ->
  Rabs (improvement e next r team order i t s - reused e next r k0 team order i t s)
    <= (hi - lo) * \big[Rplus/0]_(k <- take i.+1 order) K_agent k t s.
Proof. by move=> ni; rewrite -(D_product _ hk); apply: S7c_reused (product_factored _ _) ht ho _ _ _ _ hw hk _ ni. Qed.
(* |sum_i reused_i| <= rho sum_k K_k *)
Theorem S7c_reused_stage_product :
  Rabs (\big[Rplus/0]_(i < n) (improvement e next r team order i t s - reused e next r k0 team order i t s))
    <= (hi - lo) * \big[Rplus/0]_(k <- order) K_agent k t s.
Proof.
have := D_product n hk; rewrite take_size => <-.
have := S7c_reused_stage e_dist k0 (product_factored _ _) ht ho hw hk; rewrite /D take_size; apply.
Qed.
End At.
End Product.
