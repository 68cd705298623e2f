(* One decision: rows of probabilities, their KL and its terms, the step of the induction behind S7 and S9, and P3.1 for the KL
   of a product team. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Rows.
Variable A : finType.
Definition dist (p : A -> R) := (forall a, 0 <= p a) /\ \sum_(a : A) p a = 1.
Definition kl (p q : A -> R) := \sum_(a : A) (p a * ln (p a / q a)).
(* the KL is finite: the new row keeps what the current one uses *)
Definition keeps (p q : A -> R) := forall a, 0 < p a -> 0 < q a.
(* k of S9, a term for each action; they are >= 0 and add up to the KL *)
Definition kterm (p q : A -> R) a := q a - p a + p a * ln (p a / q a).

Lemma ln_swap x y : 0 < x -> 0 < y -> ln (x / y) = - ln (y / x).
Proof.
move=> x0 y0; have := ln_mult (x / y) (y / x) (Rdiv_lt_0_compat _ _ x0 y0) (Rdiv_lt_0_compat _ _ y0 x0).
have -> : x / y * (y / x) = 1 by field; lra.
by rewrite ln_1; lra.
Qed.

Lemma kterm_ge0 p q a : dist p -> dist q -> keeps p q -> 0 <= kterm p q a.
Proof.
move=> [p0 _] [q0 _] k; rewrite /kterm; case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-]; last by have := q0 a; lra.
have qa := k a pa; rewrite (ln_swap pa qa).
have := ln_le (Rdiv_lt_0_compat _ _ qa pa) => h.
have : p a * ln (q a / p a) <= p a * (q a / p a - 1) by apply: Rmult_le_compat_l => //; lra.
have -> : p a * (q a / p a - 1) = q a - p a by field; lra.
lra.
Qed.

Lemma kterm_sum p q : dist p -> dist q -> \sum_(a : A) kterm p q a = kl p q.
Proof. by move=> [_ p1] [_ q1]; rewrite /kterm sumD sumB p1 q1 /kl; lra. Qed.

Lemma small x y c : (forall mu, 0 < mu -> x <= y + mu * c) -> x <= y.
Proof.
move=> h; case: (Rle_lt_dec x y) => // lt; have c1 : 0 < Rabs c + 1 by have := Rabs_pos c; lra.
have m0 : 0 < (x - y) / 2 / (Rabs c + 1) by apply: Rdiv_lt_0_compat; lra.
have := h _ m0; have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ m0) (_ : c <= Rabs c + 1).
by have -> : (x - y) / 2 / (Rabs c + 1) * (Rabs c + 1) = (x - y) / 2 by [field; lra]; have := Rle_abs c; lra.
Qed.

(* The step of the induction: if lam' w' >= (1 + ln lam') w + z for every lam' > 0 behind every action, then also before it.
   w, w' >= 0: what is still to come above the floor under the current and the new policy. An action of p may be dropped by q if
   nothing is to come after it, w a = 0: then lam' -> 0 leaves z a <= eps. *)
Lemma step_drop (p q w w' z : A -> R) lam eps :
  dist p -> dist q -> (forall a, 0 < p a -> 0 < q a \/ w a = 0) -> 0 < lam -> 0 <= eps ->
  (forall a, 0 < q a -> 0 <= w' a) ->
  (forall a mu, 0 < p a -> 0 < mu -> (1 + ln mu) * w a + z a - eps * (mu + 1) <= mu * w' a) ->
  (1 + ln lam) * (\sum_(a : A) (p a * w a))
    + \sum_(a : A) (p a * (ln (q a / p a) * w a + z a)) - eps * (lam + 1) <= lam * \sum_(a : A) (q a * w' a).
Proof.
move=> [p0 p1] [q0 q1] k l0 e0 w0 ih.
have h a : (1 + ln lam) * (p a * w a) + p a * (ln (q a / p a) * w a + z a) - eps * (lam * q a + p a)
           <= lam * (q a * w' a).
  case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-]; last first.
    case: (Rle_lt_or_eq_dec _ _ (q0 a)) => [qa|<-]; last lra.
    have := w0 a qa => wa; have e1 := Rmult_le_pos _ _ e0 (Rlt_le _ _ (Rmult_lt_0_compat _ _ l0 qa)).
    have := Rmult_le_pos _ _ (Rlt_le _ _ l0) (Rmult_le_pos _ _ (Rlt_le _ _ qa) wa); lra.
  case: (Rle_lt_or_eq_dec _ _ (q0 a)) => [qa|qa].
    have r0 := Rdiv_lt_0_compat _ _ qa pa.
    have := ih a (lam * (q a / p a)) pa (Rmult_lt_0_compat _ _ l0 r0).
    rewrite (ln_mult _ _ l0 r0) => h.
    have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) h.
    have -> : p a * (lam * (q a / p a) * w' a) = lam * (q a * w' a) by field; lra.
    have -> // : p a * ((1 + (ln lam + ln (q a / p a))) * w a + z a - eps * (lam * (q a / p a) + 1))
      = (1 + ln lam) * (p a * w a) + p a * (ln (q a / p a) * w a + z a) - eps * (lam * q a + p a) by field; lra.
  have wa : w a = 0 by case: (k a pa) => //; lra.
  have za : z a <= eps by apply: (small (c := w' a + eps)) => mu m0; have := ih a mu pa m0; rewrite wa; lra.
  by have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) za; rewrite wa -qa; lra.
have := sum_le h; rewrite sumB sumD !sumZ sumD sumZ p1 q1; lra.
Qed.
Lemma step (p q w w' z : A -> R) lam eps :
  dist p -> dist q -> keeps p q -> 0 < lam -> 0 <= eps ->
  (forall a, 0 < q a -> 0 <= w' a) ->
  (forall a mu, 0 < p a -> 0 < mu -> (1 + ln mu) * w a + z a - eps * (mu + 1) <= mu * w' a) ->
  (1 + ln lam) * (\sum_(a : A) (p a * w a))
    + \sum_(a : A) (p a * (ln (q a / p a) * w a + z a)) - eps * (lam + 1) <= lam * \sum_(a : A) (q a * w' a).
Proof. by move=> hp hq hk; apply: step_drop => // a pa; left; apply: hk. Qed.

(* some action is possible *)
Lemma dist_pos (p : A -> R) : dist p -> exists a, 0 < p a.
Proof.
move=> [p0 p1]; case: (pickP (fun a => if Rlt_dec 0 (p a) then true else false)) => [a|none].
  by case: Rlt_dec => // pa _; exists a.
suff : \sum_(a : A) p a = 0 by lra.
by apply: sum0 => a; have := none a; case: Rlt_dec => // n _; have := p0 a; lra.
Qed.
Lemma kl_self (p : A -> R) : kl p p = 0.
Proof.
apply: sum0 => a; case: (Req_dec (p a) 0) => [->|n]; first lra.
by have -> : p a / p a = 1 by [field]; rewrite ln_1; lra.
Qed.
Lemma kl_pos p q : dist p -> dist q -> keeps p q -> 0 <= kl p q.
Proof. by move=> hp hq hk; rewrite -(kterm_sum hp hq); apply: sum_ge0 => a; apply: kterm_ge0. Qed.

(* log q' = log q + sum_k log (one_k / p), where p, q, q' and all one_k are positive: in a team without shared parameters, q' is
   q with some more agents updated, p nobody, one_k agent k alone (turn-taking and product teams, Teams.v) *)
Definition log_adds (I : finType) (p q q' : A -> R) (one : I -> A -> R) := forall a,
  0 < p a -> 0 < q a -> 0 < q' a -> (forall k, 0 < one k a) ->
  ln (q' a / p a) = ln (q a / p a) + \sum_(k : I) ln (one k a / p a).
Lemma kl_adds (I : finType) (p q q' : A -> R) (one : I -> A -> R) : (forall a, 0 <= p a) -> log_adds p q q' one ->
  keeps p q -> keeps p q' -> (forall k, keeps p (one k)) -> kl p q' = kl p q + \sum_(k : I) kl p (one k).
Proof.
move=> p0 la k k' k1; rewrite /kl sum_swap -sumD; apply: sumE => a.
case: (Rle_lt_or_eq_dec _ _ (p0 a)) => [pa|<-]; last by rewrite sum0 => [|i]; lra.
have qa := k a pa; have qa' := k' a pa; rewrite sumZ (ln_swap pa qa) (ln_swap pa qa').
rewrite (la a pa qa qa') => [|i]; last exact: k1.
rewrite [in RHS](sumE (G := fun i => - ln (one i a / p a))) => [|i]; last by apply: ln_swap => //; apply: k1.
by rewrite sumN; lra.
Qed.
End Rows.

(* ---- product teams: all agents act at once, the joint row is the product of theirs *)
Section Product.
Variables (I M : finType).
Definition joint (p : I -> M -> R) (f : {ffun I -> M}) := \big[Rmult/1]_(k : I) p k (f k).
Lemma prod_ge0 (F : I -> R) : (forall k, 0 <= F k) -> 0 <= \big[Rmult/1]_(k : I) F k.
Proof. by move=> h; apply: (big_ind (Rle 0)) => //; [lra | move=> *; apply: Rmult_le_pos]. Qed.
Lemma joint_dist p : (forall k, dist (p k)) -> dist (joint p).
Proof.
move=> h; split=> [f|]; first by apply: prod_ge0 => k; apply: (proj1 (h k)).
rewrite -(bigA_distr_bigA (fun k m => p k m)) big1 // => k _; exact: (proj2 (h k)).
Qed.
Lemma marginal p k g : (forall k, dist (p k)) -> \sum_(f : {ffun I -> M}) (joint p f * g (f k)) = \sum_(m : M) (p k m * g m).
Proof.
move=> h.
have E (f : {ffun I -> M}) : joint p f * g (f k) = \big[Rmult/1]_(l : I) (p l (f l) * (if l == k then g (f l) else 1)).
  by rewrite big_split /= -big_mkcond (big_pred1 k).
rewrite (sumE E) -(bigA_distr_bigA (fun l m => p l m * (if l == k then g m else 1))) (bigD1 k) //= eqxx.
rewrite [X in _ * X]big1 ?Rmult_1_r // => l /negbTE nl; rewrite nl -[RHS](proj2 (h l)).
by apply: sumE => m; lra.
Qed.
(* P3.1, KL of a product team: KL(p || q) = sum_k KL(p_k || q_k) *)
Theorem P3_1 p q : (forall k, dist (p k)) -> (forall k, dist (q k)) -> (forall k, keeps (p k) (q k)) ->
  kl (joint p) (joint q) = \sum_(k : I) kl (p k) (q k).
Proof.
move=> hp hq hk.
rewrite (sumE (F := fun k => kl (p k) (q k)) (fun k => esym (marginal k (fun m => ln (p k m / q k m)) hp))).
rewrite sum_swap /kl; apply: sumE => f; rewrite sumZ.
case: (Rle_lt_or_eq_dec _ _ (proj1 (joint_dist hp) f)) => [jp|<-]; last lra.
congr (_ * _).
have pos k : 0 < p k (f k).
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp k) (f k))) => // E; move: jp; rewrite /joint (bigD1 k) //= -E; lra.
suff [_ [_ ->]] : 0 < joint p f /\ 0 < joint q f /\ ln (joint p f / joint q f) = \sum_(k : I) ln (p k (f k) / q k (f k)) by [].
rewrite /joint; apply: (big_ind3 (fun x y z => 0 < x /\ 0 < y /\ ln (x / y) = z)) => //.
- by split; [lra | split; [lra | rewrite (_ : 1 / 1 = 1) ?ln_1 //; field]].
- move=> x1 x2 x3 y1 y2 y3 [a1 [a2 <-]] [b1 [b2 <-]]; split; first exact: Rmult_lt_0_compat.
  split; first exact: Rmult_lt_0_compat.
  rewrite (_ : x1 * y1 / (x2 * y2) = (x1 / x2) * (y1 / y2)); last by field; lra.
  by rewrite ln_mult //; apply: Rdiv_lt_0_compat.
by move=> k _; have := pos k; split=> //; split=> //; apply: hk.
Qed.
End Product.
