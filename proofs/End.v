(* Discounted worlds that may end: rows of P that sum to less than one. What is missing in a row goes to a new state None where
   nothing happens any more and nothing is earned; there every policy has one and the same row. The theorems of the files before
   then speak about the world with None, and say the same about the world without it. The reward 0 after the end counts in the
   range of the reward, lo <= 0 <= hi; T0 asks nothing of P (T0_discounted). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Existence Paper.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Lemma sum_option (S : finType) (F : option S -> R) :
  \sum_(x : option_finType S) F x = F None + \sum_(s : S) F (Some s).
Proof.
rewrite (perm_big (None :: [seq Some s | s <- index_enum S])) /=; first by rewrite big_cons big_map.
apply: uniq_perm; rewrite ?index_enum_uniq //=.
  by rewrite map_inj_uniq ?index_enum_uniq ?andbT => [|x y []] //; apply/negP => /mapP[].
by move=> [s|]; rewrite mem_index_enum inE //=; symmetry; apply/map_f; exact: mem_index_enum.
Qed.

Section End.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (rho_dist : dist rho).
Hypotheses (P0 : forall s a s', 0 <= P s a s') (P1 : forall s a, \sum_(s' : S) P s a s' <= 1).
Variable row : A -> R.
Hypothesis row_dist : dist row.
Notation S' := (option_finType S).
Definition P' (x : S') a (y : S') : R := match x, y with
  | Some s, Some s' => P s a s' | Some s, None => 1 - \sum_(s' : S) P s a s' | None, Some _ => 0 | None, None => 1 end.
Definition rho' (x : S') := if x is Some s then rho s else 0.
Definition pol (pi : S -> A -> R) (x : S') := if x is Some s then pi s else row.
Definition fn (f : S -> R) (x : S') := if x is Some s then f s else 0.
Definition rew (r : S -> A -> R) (x : S') a := if x is Some s then r s a else 0.
(* visits of the end *)
Definition vis p m (x : S') := if x is Some s then m s else
  g / (1 - g) * \sum_(s : S) (m s * \sum_(a : A) (p s a * (1 - \sum_(s' : S) P s a s'))).

Lemma P'_dist x a : dist (P' x a).
Proof.
split=> [[s'|]|]; case: x => [s|] /=; try lra; try exact: P0; try by have := P1 s a; lra.
  by rewrite sum_option /=; lra.
by rewrite sum_option /= sum0 ?Rplus_0_r.
Qed.
Lemma rho'_dist : dist rho'.
Proof. by split=> [[s|]|]; [exact: (proj1 rho_dist) | exact: Rle_refl | rewrite sum_option /= (proj2 rho_dist); lra]. Qed.
Lemma pol_policy pi : policy pi -> policy (pol pi).
Proof. by move=> h [s|]; [exact: h | exact: row_dist]. Qed.
Lemma ev_some s a f : ev P' (Some s) a (fn f) = ev P s a f.
Proof. by rewrite /ev sum_option /=; lra. Qed.
Lemma ev_none a f : ev P' None a (fn f) = 0.
Proof. by rewrite /ev sum_option /= sum0 => [|s]; lra. Qed.
Lemma Q_some r v s a : Qd P' g (rew r) (fn v) (Some s) a = Qd P g r v s a.
Proof. by rewrite /Qd ev_some. Qed.
Lemma Q_none r v a : Qd P' g (rew r) (fn v) None a = 0.
Proof. by rewrite /Qd ev_none /=; lra. Qed.
Lemma bellman_end r pi v : bellman P g r pi v -> bellman P' g (rew r) (pol pi) (fn v).
Proof.
move=> b [s|] /=; first by rewrite {1}b; apply: sumE => a; rewrite Q_some.
by rewrite sum0 // => a; rewrite Q_none; lra.
Qed.
Lemma leak0 s a : 0 <= 1 - \sum_(s' : S) P s a s'.
Proof. by have := P1 s a; lra. Qed.
Lemma flow_end pi m : policy pi -> flow P g rho pi m -> flow P' g rho' (pol pi) (vis pi m).
Proof.
move=> hp [m0 fl]; have i0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
split=> [[s|]|[s'|]] //=.
- apply: Rmult_le_pos i0 _; apply: sum_ge0 => s; apply: Rmult_le_pos (m0 s) _; apply: sum_ge0 => a.
  exact: Rmult_le_pos (proj1 (hp s) a) (leak0 s a).
- have Z : \sum_(a : A) (row a * 0) = 0 by apply: sum0 => a; lra.
  by rewrite fl sum_option /= Z; lra.
rewrite sum_option /= (sumE (F := fun a => row a * 1) (G := row)) => [|a]; last lra.
by rewrite (proj2 row_dist); set X := \sum_(s : S) _; field; lra.
Qed.
Lemma under_end pi m F : F None = 0 -> under (vis pi m) F = under m (fun s => F (Some s)).
Proof. by move=> F0; rewrite /under sum_option F0 /=; lra. Qed.
Lemma at_rho_end f : at_rho rho' (fn f) = at_rho rho f.
Proof. by rewrite /at_rho sum_option /=; lra. Qed.
Lemma gain_end r pi p v q m :
  under (vis pi m) (gaind P' g (rew r) (pol p) (fn v) (pol q)) = under m (gaind P g r p v q).
Proof.
rewrite under_end; first by apply: sumE => s; congr (_ * _); apply: sumE => a; rewrite Q_some.
by rewrite /gaind sum0 // => a; rewrite Q_none /=; lra.
Qed.
Lemma kl_end pi p q m : under (vis pi m) (fun x => kl (pol p x) (pol q x)) = under m (fun s => kl (p s) (q s)).
Proof. by rewrite under_end //=; exact: kl_self. Qed.
Lemma keeps_end pi p q m : (forall s, 0 < m s -> keeps (p s) (q s)) -> forall x, 0 < vis pi m x -> keeps (pol p x) (pol q x).
Proof. by move=> h [s|] ms; [exact: h | move=> a]. Qed.
Lemma floor_end r Phi : floord P g r Phi -> floord P' g (rew r) (fn Phi).
Proof. by move=> h [s|] a /=; [rewrite ev_some; exact: h | rewrite ev_none; lra]. Qed.

Theorem value_exists_end r pi : policy pi -> exists v, bellman P g r pi v.
Proof.
move=> hp; have [v hv] := value_exists g01 P'_dist (pol_policy hp) (rew r).
have v0 : v None = 0.
  have := hv None; rewrite /= (sumE (G := fun a => row a * (g * v None))) => [|a].
    by rewrite (sum_const _ (proj2 row_dist)); nra.
  by rewrite /Qd /ev sum_option /= sum0 => [|s]; lra.
exists (fun s => v (Some s)) => s; rewrite {1}hv; apply: sumE => a; congr (_ * _).
by rewrite /Qd /ev sum_option v0 /=; lra.
Qed.
Theorem visits_exist_end pi : policy pi -> exists m, flow P g rho pi m.
Proof.
move=> hp; have [m [m0 fl]] := visits_exist g01 P'_dist rho'_dist (pol_policy hp).
exists (fun s => m (Some s)); split=> // s'; rewrite {1}fl sum_option /= sum0 => [|a]; lra.
Qed.

Section Pair.
Variables (r : S -> A -> R) (p q : S -> A -> R) (v v' m m' : S -> R).
Hypotheses (hp : policy p) (hq : policy q) (bp : bellman P g r p v) (bq : bellman P g r q v').
Hypotheses (fl : flow P g rho p m) (fl' : flow P g rho q m').
(* S9 (a): Phi = 0 after the end *)
Theorem S9_end Phi : floord P g r Phi -> (forall s a, 0 < m s -> 0 < p s a -> 0 < q s a \/ Qd P g r v s a = Phi s) ->
  - under m (charged P g p q r v Phi) <= at_rho rho v' - at_rho rho v - under m (gaind P g r p v q).
Proof.
move=> hf hd.
have hd' x a : 0 < vis p m x -> 0 < pol p x a -> 0 < pol q x a \/ Qd P' g (rew r) (fn v) x a = fn Phi x.
  by case: x => [s|] mx pa; [rewrite Q_some; exact: hd | left].
have := S9_charge_discounted g01 P'_dist rho'_dist (pol_policy hp) (pol_policy hq) (flow_end hp fl) (floor_end hf)
  (bellman_end bp) (bellman_end bq) hd'.
rewrite !at_rho_end gain_end under_end; last by apply: sum0 => a; rewrite Q_none /=; lra.
suff -> : under m (fun s => charged P' g (pol p) (pol q) (rew r) (fn v) (fn Phi) (Some s)) =
  under m (charged P g p q r v Phi) by [].
by apply: sumE => s; congr (_ * _); apply: sumE => a; rewrite Q_some.
Qed.
(* S7 *)
Theorem S7_end lo hi : (forall s, 0 < m s -> keeps (p s) (q s)) -> (forall s a, lo <= r s a <= hi) -> lo <= 0 <= hi ->
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q)) <= (hi - lo) / (1 - g) * under m (fun s => kl (p s) (q s)).
Proof.
move=> hk hr h0; rewrite -!at_rho_end -(gain_end r p) -(kl_end p).
apply: (S7_discounted_visited g01 P'_dist rho'_dist (pol_policy hp) (pol_policy hq) (keeps_end hk) (flow_end hp fl)
  (bellman_end bp) (bellman_end bq)) => [[s|]] a //=.
Qed.
(* T1, T2 *)
Lemma l1_end : l1 m m' <= l1 (vis p m) (vis q m').
Proof. by rewrite {2}/l1 sum_option /= -/(l1 m m'); have := Rabs_pos (vis q m' None - vis p m None); rewrite /=; lra. Qed.
Theorem T1_end : l1 m m' <= 2 * g / (1 - g) * under m (fun s => tv (p s) (q s)).
Proof.
apply: Rle_trans l1_end _; have := T1 g01 P'_dist (pol_policy hp) (pol_policy hq) (flow_end hp fl) (flow_end hq fl').
by rewrite under_end //= /tv sum0 => [|a]; rewrite ?Rminus_eq_0 ?Rabs_R0; lra.
Qed.
Theorem T2_end : keeps_on m p q -> (1 - g) * l1 m m' <= sqrt 2 * g / (1 - g) * sqrt (delta g p q m).
Proof.
move=> hk; have := T2_visited g01 P'_dist rho'_dist (pol_policy hp) (pol_policy hq) (keeps_end hk) (flow_end hp fl) (flow_end hq
  fl').
rewrite /delta kl_end; apply: Rle_trans; apply: Rmult_le_compat_l l1_end; lra.
Qed.
End Pair.
End End.
