(* S7d: agents that share parameters. S7 asks for any two policies; what has to be counted is the KL of the messages of ALL
   sharers. KLs from the start, K(0 -> i), bound a chain of updates; the KLs of the increments do not: coins, exactly. *)
Require Import Reals Lra Psatz.
From Coquelicot Require Import Coquelicot.
From mathcomp Require Import all_ssreflect.
From TeamTR Require Import Sums Episodic Pinsker Discounted Stage.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Episodic.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Notation V := (V e next r).
Notation L := (L e next r).
Notation K := (K e next).
Notation path_sum := (path_sum e next).

(* what a trainer sums up: the KL of the messages whose author is in the set *)
Definition K_in (mine : S -> bool) p q := path_sum p (fun _ x => if mine x then kl (p x) (q x) else 0).
Lemma kl_same (p q : A -> R) : (forall a, q a = p a) -> kl p q = 0.
Proof.
move=> E; rewrite /kl sum0 // => a; rewrite E; case: (Req_dec (p a) 0) => [->|n]; first lra.
by rewrite /Rdiv Rinv_r // ln_1; lra.
Qed.
(* P3.1 for a set: an update of the set changes the rows of all who share, and no others *)
Lemma K_set mine p q t s : (forall x, mine x = false -> forall a, q x a = p x a) -> K p q t s = K_in mine p q t s.
Proof. by move=> h; apply: path_sumE => _ x; case E : (mine x) => //; apply: kl_same; apply: h. Qed.

(* S7d, fresh: L too is a sum over the messages of all sharers *)
Theorem S7d_fresh mine p q lo hi t s : policy p -> policy q -> (forall x, keeps (p x) (q x)) ->
  (forall x, mine x = false -> forall a, q x a = p x a) ->
  (forall w : path A B t, 0 < law e next q s w -> lo <= ret next r s w <= hi) ->
  Rabs (V q t s - V p t s - L p q t s) <= (hi - lo) * K_in mine p q t s.
Proof. by move=> hp hq hk hs hw; rewrite -(K_set _ _ hs); apply: S7_range. Qed.

(* a chain of updates, of whomever, on one batch *)
Section Chain.
Variable team : nat -> S -> A -> R.
Hypotheses (ht : forall i, policy (team i)) (hk : forall i x, keeps (team O x) (team i x)).
Notation cached_gap t s i := (V (team i.+1) t s - V (team i) t s - L_cached e next r team t s i).
Notation K0 i := (K (team O) (team i)).
Definition in_range lo hi t s i := forall w : path A B t, 0 < law e next (team i) s w -> lo <= ret next r s w <= hi.

(* S7d, cached: the signed sum; and K(0 -> i) is a sum over the sets of sharers, set x being the set of the author of message x *)
Theorem S7d_cached lo hi n t s : in_range lo hi t s n ->
  Rabs (\big[Rplus/0]_(i < n) cached_gap t s i) <= (hi - lo) * K0 n t s.
Proof. by move=> hw; apply: S7c. Qed.
Theorem S7d_sets (I : finType) (set : S -> I) n t s :
  K0 n t s = \sum_(g : I) K_in (fun x => set x == g) (team O) (team n) t s.
Proof. exact: K_turns. Qed.
(* one gap is the difference of two such sums *)
Theorem S7d_cached_one lo hi i t s : in_range lo hi t s i -> in_range lo hi t s i.+1 ->
  Rabs (cached_gap t s i) <= (hi - lo) * (K0 i.+1 t s + K0 i t s).
Proof.
move=> h h1; have a := Rabs_def2_le (S7d_cached h); have := Rabs_def2_le (S7d_cached h1).
rewrite big_ord_recr /=; move: a; set x := \big[Rplus/0]_(k < i) _; set y := _ - _ => a b.
by apply: Rabs_le; rewrite Rmult_plus_distr_l; lra.
Qed.

(* what adds up: the logarithms of the increments on the batch *)
Definition log_step i := path_sum (team O) (fun _ x => \sum_(a : A) (team O x a * ln (team i x a / team i.+1 x a))).
Theorem S7d_adds n t s : K0 n t s = \big[Rplus/0]_(i < n) log_step i t s.
Proof.
rewrite -(path_sum_sum e next (team O) (fun (i : 'I_n) _ x => \sum_(a : A) (team O x a * ln (team i x a / team i.+1 x a)))).
apply: path_sumE => _ x; rewrite /kl.
rewrite (sum_swap (fun (i : 'I_n) a => team O x a * ln (team i x a / team i.+1 x a))); apply: sumE => a.
case: (Rle_lt_or_eq_dec _ _ (proj1 (ht O x) a)) => [pa|<-]; last by rewrite sum0 => [|i]; lra.
have pos i : 0 < team i x a := hk i pa.
elim: n => [|n ih]; first by rewrite big_ord0 /Rdiv Rinv_r ?ln_1; lra.
rewrite big_ord_recr /= -ih.
rewrite (_ : team O x a / team n.+1 x a = team O x a / team n x a * (team n x a / team n.+1 x a)).
  by rewrite ln_mult; [lra | apply: Rdiv_lt_0_compat | apply: Rdiv_lt_0_compat].
by have := pos n; have := pos n.+1 => u v; field; lra.
Qed.
End Chain.
End Episodic.

(* ------------------------------------------------------------------ discounted *)
Section DiscountedForm.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R) (lo hi : R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho) (hr : forall s a, lo <= r s a <= hi).

Theorem S7d_fresh_discounted (mine : S -> bool) p q v v' m : policy p -> policy q -> (forall s, keeps (p s) (q s)) ->
  (forall s, mine s = false -> forall a, q s a = p s a) -> flow P g rho p m -> bellman P g r p v -> bellman P g r q v' ->
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q))
    <= (hi - lo) / (1 - g) * under m (fun s => if mine s then kl (p s) (q s) else 0).
Proof.
move=> hp hq hk hs fl bp bq; have := S7_discounted g01 P_dist rho_dist hp hq hk fl bp bq hr.
suff -> : under m (fun s => if mine s then kl (p s) (q s) else 0) = under m (fun s => kl (p s) (q s)) by [].
by apply: sumE => s; case E : (mine s) => //; rewrite kl_same //; apply: hs.
Qed.

Section Chain.
Variables (team : nat -> S -> A -> R) (v : nat -> S -> R) (m : S -> R).
Hypotheses (ht : forall i, policy (team i)) (hv : forall i, bellman P g r (team i) (v i)) (fl : flow P g rho (team O) m).
Hypothesis hk : forall i s, keeps (team O s) (team i s).
Notation cached_gap i := (at_rho rho (v i.+1) - at_rho rho (v i) - cached P g r team v m i).
Notation K0 i := (under m (fun s => kl (team O s) (team i s))).
Theorem S7d_cached_discounted n : Rabs (\big[Rplus/0]_(i < n) cached_gap i) <= (hi - lo) / (1 - g) * K0 n.
Proof. by apply: S7c_discounted. Qed.
Theorem S7d_cached_one_discounted i : Rabs (cached_gap i) <= (hi - lo) / (1 - g) * (K0 i.+1 + K0 i).
Proof.
have := Rabs_def2_le (S7d_cached_discounted i.+1); have := Rabs_def2_le (S7d_cached_discounted i).
rewrite big_ord_recr /=; set x := \big[Rplus/0]_(k < i) _; set y := _ / _ => a b.
by apply: Rabs_le; rewrite Rmult_plus_distr_l; lra.
Qed.
End Chain.
End DiscountedForm.

(* ------------------------------------------------------------------ in increments it is false *)
Lemma sum_bool (F : bool -> R) : \sum_(b : bool) F b = F true + F false.
Proof. by rewrite (bigD1 true) //= (bigD1 false) //= big_pred0 ?Rplus_0_r // => -[]. Qed.
Lemma sum_unit (F : unit -> R) : \sum_(b : unit) F b = F tt.
Proof. by rewrite (big_pred1 tt) // => -[]. Qed.

(* upper estimates of the logarithm that are right to second order *)
Lemma ln_up x : 1 <= x -> ln x <= (x - / x) / 2.
Proof.
move=> x1; case: (Req_dec x 1) => [->|n]; first by rewrite ln_1 Rinv_1; lra.
pose f y := (y - / y) / 2 - ln y; suff : f 1 <= f x by rewrite /f ln_1 Rinv_1; lra.
apply: (@mono f (fun c => (1 - / c) ^ 2 / 2)) => [||c hc|c hc]; try lra.
  by rewrite /f; auto_derive; [split; lra | field; lra].
by have := pow2_ge_0 (1 - / c); lra.
Qed.
Lemma ln_low x : 1 <= x -> 2 * (x - 1) / (x + 1) <= ln x.
Proof.
move=> x1; case: (Req_dec x 1) => [->|n]; first by rewrite ln_1; lra.
by have := @k_mono 1 x ltac:(lra) ltac:(lra); rewrite k1 /k; lra.
Qed.

Lemma sum_last (F : nat -> R) n : \big[Rplus/0]_(k < n.+1) F k = \big[Rplus/0]_(k < n) F k + F n.
Proof. exact: big_ord_recr. Qed.

Section Coins.
Variable eps : R.
(* two messages by sharers, the reward is 1 if they agree; S: what was written first *)
Definition coin_e (_ : option bool) (_ : bool) (_ : unit) := 1.
Definition coin_next (s : option bool) (a : bool) (_ : unit) := if s is Some b then Some b else Some a.
Definition coin_r (s : option bool) (a : bool) (_ : unit) := if s is Some b then (if a == b then 1 else 0) else 0.
(* the one row of all sharers after k updates *)
Definition row k (_ : option bool) (a : bool) := if a then / 2 + INR k * eps else / 2 - INR k * eps.
Notation V := (V coin_e coin_next coin_r).
Notation gap k := (V (row k.+1) 2 None - V (row k) 2 None - L_cached coin_e coin_next coin_r row 2 None k).

Lemma coin_V k : V (row k) 2 None = (/ 2 + INR k * eps) ^ 2 + (/ 2 - INR k * eps) ^ 2.
Proof. by rewrite /= !(sum_bool, sum_unit) /= /coin_e /row; ring. Qed.
Lemma coin_gap k : gap k = 2 * (2 * INR k + 1) * eps ^ 2.
Proof.
rewrite !coin_V /L_cached /Adv /Q /row !S_INR.
by rewrite /= /after !(sum_bool, sum_unit) /= /coin_e; field.
Qed.
Lemma coin_sum n : \big[Rplus/0]_(k < n) gap k = 2 * INR n ^ 2 * eps ^ 2.
Proof.
elim: n => [|n ih]; first by rewrite big_ord0 /=; ring.
by rewrite (sum_last (fun k => gap k)) ih coin_gap S_INR; ring.
Qed.
(* the KL of the increment, measured on the batch: both messages *)
Definition coin_K k := path_sum coin_e coin_next (row 0) (fun _ x => kl (row k x) (row k.+1 x)) 2 None.
Lemma kl_step p : / 2 <= p -> 0 < eps -> p + eps < 1 ->
  p * ln (p / (p + eps)) + (1 - p) * ln ((1 - p) / (1 - p - eps)) <= eps ^ 2 * (/ (2 * p + eps) + / (2 * (1 - p - eps))).
Proof.
move=> p2 e0 pe; have a : 1 <= (p + eps) / p.
  by apply: (Rmult_le_reg_r p); [lra | rewrite /Rdiv Rmult_assoc Rinv_l; lra].
have b : 1 <= (1 - p) / (1 - p - eps).
  by apply: (Rmult_le_reg_r (1 - p - eps)); [lra | rewrite /Rdiv Rmult_assoc Rinv_l; lra].
rewrite ln_swap; try lra.
have h1 := Rmult_le_compat_l p _ _ ltac:(lra) (ln_low a); have h2 := Rmult_le_compat_l (1 - p) _ _ ltac:(lra) (ln_up b).
have E1 : p * (2 * ((p + eps) / p - 1) / ((p + eps) / p + 1)) = 2 * p * eps / (2 * p + eps) by field; lra.
have E2 : (1 - p) * (((1 - p) / (1 - p - eps) - / ((1 - p) / (1 - p - eps))) / 2)
  = eps + eps ^ 2 / (2 * (1 - p - eps)) by field; lra.
have E3 : 2 * p * eps / (2 * p + eps) = eps - eps ^ 2 / (2 * p + eps) by field; lra.
by rewrite E1 E3 in h1; rewrite E2 in h2; rewrite /Rdiv in h1 h2 *; lra.
Qed.
Lemma coin_K_le n k : 0 < eps -> 2 * (INR n * eps) < 1 -> (k < n)%N -> coin_K k <= 2 * eps ^ 2 * (1 + / (1 - 2 * (INR n * eps))).
Proof.
move=> e0 ne kn; set p := / 2 + INR k * eps; set w := 1 - 2 * (INR n * eps).
have k0 := pos_INR k; have ke := Rmult_le_pos _ _ k0 (Rlt_le _ _ e0).
have kn1 : INR k + 1 <= INR n by rewrite -S_INR; apply/le_INR/ltP.
have kne := Rmult_le_compat_r eps _ _ (Rlt_le _ _ e0) kn1.
have one x : kl (row k x) (row k.+1 x) = p * ln (p / (p + eps)) + (1 - p) * ln ((1 - p) / (1 - p - eps)).
  by rewrite /kl sum_bool /row S_INR; congr (_ * ln (_ / _) + _ * ln (_ / _)); rewrite /p; field.
have -> : coin_K k = 2 * (p * ln (p / (p + eps)) + (1 - p) * ln ((1 - p) / (1 - p - eps))).
  by rewrite /coin_K /= /after !(sum_bool, sum_unit) /= /coin_e !one; field.
have := @kl_step p ltac:(rewrite /p; lra) e0 ltac:(rewrite /p; lra).
have i1 : / (2 * p + eps) <= 1 by rewrite -[X in _ <= X]Rinv_1; apply: Rinv_le_contravar; rewrite /p; lra.
have i2 : / (2 * (1 - p - eps)) <= / w by apply: Rinv_le_contravar; rewrite /w /p; lra.
have := Rmult_le_compat_l _ _ _ (pow2_ge_0 eps) (Rplus_le_compat _ _ _ _ i1 i2); lra.
Qed.

(* S7d, in increments it is false: n sharers of one row, updated one after another on one batch. The range of the return is 1,
   and the signed cached sum over the sum of the KLs of the increments tends to n/2 as eps -> 0. *)
Theorem S7d_coins n : 0 < eps -> 2 * (INR n * eps) < 1 -> let ne := INR n * eps in
  INR n / 2 * ((1 - 2 * ne) / (1 - ne)) * \big[Rplus/0]_(k < n) coin_K k <= \big[Rplus/0]_(k < n) gap k.
Proof.
move=> e0 h ne; rewrite coin_sum; have n0 := pos_INR n; have ne0 := Rmult_le_pos _ _ n0 (Rlt_le _ _ e0).
have h' : 2 * ne < 1 by []. have w0 : 0 < / (1 - 2 * ne) by apply: Rinv_0_lt_compat; lra.
have b : \big[Rplus/0]_(k < n) coin_K k <= INR n * (2 * eps ^ 2 * (1 + / (1 - 2 * ne))).
  have : forall k, (k <= n)%N -> \big[Rplus/0]_(i < k) coin_K i <= INR k * (2 * eps ^ 2 * (1 + / (1 - 2 * ne))).
    elim=> [|k ih] kn; first by rewrite big_ord0 /=; lra.
    by rewrite sum_last S_INR; have := ih (ltnW kn); have := coin_K_le e0 h kn; rewrite -/ne; lra.
  by apply.
have c0 : 0 <= INR n / 2 * ((1 - 2 * ne) / (1 - ne)).
  by apply: Rmult_le_pos; [lra | apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; rewrite -/ne in ne0; lra]].
apply: Rle_trans (Rmult_le_compat_l _ _ _ c0 b) _; apply: Req_le; field; rewrite -/ne in ne0; lra.
Qed.
Lemma coin_policy n k : 0 <= eps -> 2 * (INR n * eps) < 1 -> (k <= n)%N -> policy (row k).
Proof.
move=> e0 h kn x; have kn1 : INR k <= INR n by apply/le_INR/leP.
have := Rmult_le_compat_r eps _ _ e0 kn1; have := Rmult_le_pos _ _ (pos_INR k) e0 => a b.
by split; [case; rewrite /row; lra | rewrite sum_bool /row; field].
Qed.
End Coins.

(* three sharers: the sum of the KLs of their increments is below the signed cached sum, whose return has range 1 *)
Corollary S7d_increments_fail : let eps := / 24 in (forall k, (k <= 3)%N -> policy (row eps k)) /\
  \big[Rplus/0]_(k < 3) coin_K eps k
  < \big[Rplus/0]_(k < 3) (V coin_e coin_next coin_r (row eps k.+1) 2 None - V coin_e coin_next coin_r (row eps k) 2 None
      - L_cached coin_e coin_next coin_r (row eps) 2 None k).
Proof.
move=> eps; have e0 : 0 < eps by rewrite /eps; lra.
have three : INR 3 = 3 by rewrite /=; ring.
have h : 2 * (INR 3 * eps) < 1 by rewrite three /eps; lra.
split; first by move=> k; apply: coin_policy => //; lra.
have := S7d_coins e0 h; rewrite /= coin_sum -/(INR 3) three.
have -> : 3 / 2 * ((1 - 2 * (3 * eps)) / (1 - 3 * eps)) = 9 / 7 by rewrite /eps; field.
set K := \big[Rplus/0]_(k < 3) _; have : 0 < 2 * 3 ^ 2 * eps ^ 2 by rewrite /eps; lra.
lra.
Qed.
