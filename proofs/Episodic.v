(* Finite horizon: S9 and S7 (S7c: Cached.v).
   One induction, for every weight lam > 0 that the path has collected so far, proves both:
     (1 + ln lam) (V^p - Phi) + sum_a p log(q/p) (Q^p - Phi), summed over the path of p,  <=  lam (V^q - Phi).
   A step multiplies lam by q/p and uses only ln x <= x - 1. S9 is lam = 1; S7 is S9 with a floor and with a ceiling.
   Theorems whose name ends in _visited ask q to keep actions of p only where p comes; the short names ask it everywhere. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Export Rows Horizon Path.
From TeamTR Require Import Sums.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Episodes.
Variables (A B : finType) (S : Type).
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Hypothesis e_dist : forall s a, dist (e s a).
Implicit Types (p q : S -> A -> R) (r : S -> A -> B -> R) (f : nat -> S -> R).
Notation after := (after e next). Notation path_sum := (path_sum e next). Notation V := (V e next). Notation Q := (Q e next).
Notation gain := (gain e next). Notation L := (L e next). Notation K := (K e next). Notation reach := (reach e next).
Arguments afterE {A B S} e next s a g h.

(* Phi is a floor of the return to go on the states in ok, for the actions that q can take *)
Definition floor q r (ok : nat -> S -> Prop) (Phi : nat -> S -> R) :=
  (forall s, ok O s -> Phi O s <= 0) /\
  (forall u s a, ok u.+1 s -> 0 < q s a -> Phi u.+1 s <= \sum_(b : B) (e s a b * (r s a b + Phi u (next s a b)))).
Definition ceiling q r ok (Psi : nat -> S -> R) := floor q (neg r) ok (fun u s => - Psi u s).
(* sum_a p log(q/p) (Q - Phi); and the charge, sum_a k (Q - Phi) with the terms k of the KL *)
Definition score p q r (Phi : nat -> S -> R) u s := \sum_(a : A) (p s a * (ln (q s a / p s a) * (Q r p u s a - Phi u.+1 s))).
Definition charge p q r (Phi : nat -> S -> R) u s := \sum_(a : A) (kterm (p s) (q s) a * (Q r p u s a - Phi u.+1 s)).

Section Floor.
Variables (q : S -> A -> R) (r : S -> A -> B -> R) (ok : nat -> S -> Prop) (Phi : nat -> S -> R).
Hypotheses (hr : reach q ok) (hf : floor q r ok Phi).

Lemma above_floor_Q (pi : S -> A -> R) u s a : ok u.+1 s -> 0 < q s a ->
  (forall x, ok u x -> Phi u x <= V r pi u x) -> Phi u.+1 s <= Q r pi u s a.
Proof.
move=> os qa ih; apply: Rle_trans ((proj2 hf) u s a os qa) _; rewrite QE.
have := after_le e_dist hr os qa ih.
rewrite (sumE (G := fun b => e s a b * r s a b + e s a b * Phi u (next s a b))) => [|b]; last lra.
by rewrite sumD /after; lra.
Qed.

Lemma above_floor (pi : S -> A -> R) t s : policy pi -> (forall x a, 0 < pi x a -> 0 < q x a) ->
  ok t s -> Phi t s <= V r pi t s.
Proof.
move=> hpi sub; elim: t s => [|t ih] s os; first exact: (proj1 hf).
rewrite VE -(sum_const (Phi t.+1 s) (proj2 (hpi s))).
apply: sum_pos_le => [a|a pa]; first exact: (proj1 (hpi s)).
by apply: above_floor_Q => //; apply: sub.
Qed.

End Floor.

Lemma both p use ok vis : (forall s a, 0 < p s a -> 0 < use s a) -> reach use ok -> reach p vis ->
  reach p (fun u x => vis u x /\ ok u x).
Proof. by move=> cp hr hv u s a b [vs os] pa eb; split; [exact: hv eb | exact: hr os (cp _ _ pa) eb]. Qed.

(* ---- S9, where p comes (vis: a set of states that p does not leave). use: a table that is positive where p or q is; ok: a set
   of states that use does not leave. q may drop an action of p after which the floor is certain, Q = Phi. *)
Section S9.
Variables (p q use : S -> A -> R) (r : S -> A -> B -> R) (ok vis : nat -> S -> Prop).
Hypotheses (hp : policy p) (hq : policy q) (cp : forall s a, 0 < p s a -> 0 < use s a)
  (cq : forall s a, 0 < q s a -> 0 < use s a).
Hypotheses (hr : reach use ok) (hv : reach p vis).
Lemma scoreE_at Phi u s : (forall a, 0 < p s a -> 0 < q s a \/ Q r p u s a = Phi u.+1 s) ->
  score p q r Phi u s = gain r p q u s - charge p q r Phi u s.
Proof.
move=> hd; rewrite gainE // VE /score /charge.
set w := fun a => Q r p u s a - Phi u.+1 s.
have -> : \sum_(a : A) (q s a * Q r p u s a) - \sum_(a : A) (p s a * Q r p u s a) = \sum_(a : A) ((q s a - p s a) * w a).
  rewrite (sumE (F := fun a => (q s a - p s a) * w a)
    (G := fun a => (q s a * Q r p u s a - p s a * Q r p u s a) - (q s a * Phi u.+1 s - p s a * Phi u.+1 s))) => [|a].
    by rewrite sumB !sumB !sumZr (proj2 (hq s)) (proj2 (hp s)); lra.
  by rewrite /w; lra.
rewrite -sumB; apply: sumE => a; rewrite /kterm -/(w a).
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
case: (hd a pa) => [qa|E]; first by rewrite (ln_swap pa qa); lra.
by have -> : w a = 0 by [rewrite /w; lra]; lra.
Qed.

Section Floor.
Variable Phi : nat -> S -> R.
Hypothesis hf : floor use r ok Phi.
Hypothesis hd : forall u s a, vis u.+1 s -> 0 < p s a -> 0 < q s a \/ Q r p u s a = Phi u.+1 s.
Lemma S9_ind_visited t s lam : vis t s -> ok t s -> 0 < lam ->
  (1 + ln lam) * (V r p t s - Phi t s) + path_sum p (score p q r Phi) t s <= lam * (V r q t s - Phi t s).
Proof.
elim: t s lam => [|t ih] s lam vs os l0.
  have := (proj1 hf) s os => f0 /=; have := ln_le l0 => h.
  have : (1 + ln lam) * - Phi O s <= lam * - Phi O s by apply: Rmult_le_compat_r; lra.
  by lra.
have hQ a : 0 < q s a -> Phi t.+1 s <= Q r q t s a.
  move=> qa; apply: (above_floor_Q hr hf) => // [|x ox]; first exact: cq.
  by apply: (above_floor hr hf) => // y b; exact: cq.
set w := fun pi a => Q r pi t s a - Phi t.+1 s.
set z := fun a => after s a (path_sum p (score p q r Phi) t).
have w0 a : 0 < q s a -> 0 <= w q a by move=> qa; have := hQ a qa; rewrite /w; lra.
have one a mu : 0 < p s a -> 0 < mu -> (1 + ln mu) * w p a + z a - 0 * (mu + 1) <= mu * w q a.
  move=> pa mu0; have ua : 0 < use s a by exact: cp.
  (* rt: the shaped reward of a, averaged over the outcomes *)
  set rt := \sum_(b : B) (e s a b * r s a b) + after s a (Phi t) - Phi t.+1 s.
  have rt0 : 0 <= rt.
    have := (proj2 hf) t s a os ua.
    rewrite (sumE (G := fun b => e s a b * r s a b + e s a b * Phi t (next s a b))) => [|b]; last lra.
    by rewrite sumD /rt /after; lra.
  have E pi : w pi a = rt + after s a (fun x => V r pi t x - Phi t x).
    by rewrite /w afterB QE /rt; lra.
  have Z c g : after s a (fun x => c * g x) = c * after s a g.
    by rewrite /after -sumZ; apply: sumE => b; lra.
  have h : after s a (fun x => (1 + ln mu) * (V r p t x - Phi t x) + path_sum p (score p q r Phi) t x)
           <= after s a (fun x => mu * (V r q t x - Phi t x)).
    by apply: (after_le e_dist (q := p) (ok := fun u x => vis u x /\ ok u x) (both cp hr hv) (conj vs os) pa) => x [vx ox];
      exact: ih.
  rewrite afterD !Z in h; have l1 := ln_le mu0.
  have : (1 + ln mu) * rt <= mu * rt by apply: Rmult_le_compat_r; lra.
  by rewrite !E /z; lra.
have hd' a : 0 < p s a -> 0 < q s a \/ w p a = 0 by move=> pa; case: (hd vs pa) => [|E]; [left | right; rewrite /w; lra].
have := step_drop (hp s) (hq s) hd' l0 (Rle_refl 0) w0 one.
have W (pi : S -> A -> R) pi' : dist (pi s) -> \sum_(a : A) (pi s a * w pi' a)
    = \sum_(a : A) (pi s a * Q r pi' t s a) - Phi t.+1 s.
  move=> d; rewrite /w (sumE (G := fun a => pi s a * Q r pi' t s a - pi s a * Phi t.+1 s)) => [|a]; last lra.
  by rewrite sumB sum_const //; apply: (proj2 d).
rewrite (W p) // (W q) // -!VE [path_sum _ _ t.+1 s]/= {1}/score.
rewrite (sumE (G := fun a => p s a * (ln (q s a / p s a) * w p a) + p s a * z a) (F := fun a => p s a * (_ + _))) => [|a];
  last lra.
rewrite sumD {1}/w {1}/z => h; move: h; rewrite /w /z; lra.
Qed.

(* S9: J(q) - J(p) >= sum over the path of p of sum_a p log(q/p) (Q - Phi) *)
Theorem S9_visited t s : vis t s -> ok t s -> path_sum p (score p q r Phi) t s <= V r q t s - V r p t s.
Proof. by move=> vs os; have := S9_ind_visited vs os Rlt_0_1; rewrite ln_1; lra. Qed.
(* (a): J(q) - J(p) - L >= - the charge *)
Theorem S9_charge_visited t s : vis t s -> ok t s ->
  - path_sum p (charge p q r Phi) t s <= V r q t s - V r p t s - L r p q t s.
Proof.
move=> vs os; have := S9_visited vs os.
rewrite (path_sum_eq_visited e_dist hp hv vs (g := fun u x => gain r p q u x - charge p q r Phi u x)) => [|u x vx].
  by rewrite path_sumB /Horizon.L; lra.
by apply: scoreE_at => a; apply: hd.
Qed.
End Floor.
End S9.

(* (b): J(q) - J(p) - L <= the charge of a ceiling, sum_a k (Psi - Q); with (a), |J(q) - J(p) - L| is at most the larger of the
   two *)
Theorem S9_ceiling_visited p q use r ok vis Psi t s : policy p -> policy q ->
  (forall s a, 0 < p s a -> 0 < use s a) -> (forall s a, 0 < q s a -> 0 < use s a) -> reach use ok -> reach p vis ->
  ceiling use r ok Psi -> (forall u s a, vis u.+1 s -> 0 < p s a -> 0 < q s a \/ Q r p u s a = Psi u.+1 s) -> vis t s -> ok t s ->
  V r q t s - V r p t s - L r p q t s <= path_sum p (fun u x =>
    \sum_(a : A) (kterm (p x) (q x) a * (Psi u.+1 x - Q r p u x a))) t s.
Proof.
move=> hp hq cp cq hr hv hc hd vs os.
have := @S9_charge_visited p q use (neg r) ok vis hp hq cp cq hr hv _ hc _ t s vs os; rewrite !V_neg L_neg.
rewrite (path_sumE e next p (f := charge p q (neg r) _)
  (g := fun u x => \sum_(a : A) (kterm (p x) (q x) a * (Psi u.+1 x - Q r p u x a)))) => [h|u x]; last first.
  by apply: sumE => a; rewrite Q_neg; lra.
suff : forall u x a, vis u.+1 x -> 0 < p x a -> 0 < q x a \/ Q (neg r) p u x a = - Psi u.+1 x by move=> /h; lra.
by move=> u x a vx pa; case: (hd u x a vx pa) => [|E]; [left | right; rewrite Q_neg E].
Qed.

(* ---- S7. One statement for all: S7 itself (q = p, one = q'), and one update or all of a stage on the rollouts of its start
   (Cached.v). q' is q with the changes one_k made too; each has its surrogate under p. By S9 and because logarithms add up, the
   error lies between s and -s, s = sum over the path of p of sum_a p log(q'/p) (Psi - Phi) <= 0: -s is the KL of q' weighted
   with Psi - Phi. *)
Section S7.
Variables (I : finType) (p q q' use : S -> A -> R) (one : I -> S -> A -> R) (ok vis : nat -> S -> Prop).
Hypotheses (hp : policy p) (hq : policy q) (hq' : policy q') (h1 : forall k, policy (one k)).
Hypotheses (cp : forall s a, 0 < p s a -> 0 < use s a) (cq : forall s a, 0 < q s a -> 0 < use s a).
Hypotheses (cq' : forall s a, 0 < q' s a -> 0 < use s a) (c1 : forall k s a, 0 < one k s a -> 0 < use s a).
Hypotheses (hr : reach use ok) (hv : reach p vis).
Hypotheses (kq : forall u x, vis u.+1 x -> keeps (p x) (q x)) (kq' : forall u x, vis u.+1 x -> keeps (p x) (q' x)).
Hypotheses (k1 : forall u x k, vis u.+1 x -> keeps (p x) (one k x)).
Hypothesis la : forall u x, vis u.+1 x -> log_adds (p x) (q x) (q' x) (fun k => one k x).

Let kept x r Phi : (forall u y, vis u.+1 y -> keeps (p y) (x y)) ->
  forall u s a, vis u.+1 s -> 0 < p s a -> 0 < x s a \/ Q r p u s a = Phi u.+1 s.
Proof. by move=> k u s a vs pa; left; apply: k vs _ pa. Qed.

Lemma score_adds r Phi u x : vis u.+1 x -> score p q' r Phi u x = score p q r Phi u x + \sum_(k : I) score p (one k) r Phi u x.
Proof.
move=> vx; rewrite /score sum_swap -sumD; apply: sumE => a; rewrite sumZ.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|<-]; last lra.
by rewrite sumZr (la vx pa (kq vx pa) (kq' vx pa)) => [|k]; [lra | exact: k1 vx _ pa].
Qed.
Lemma charge_ge0 r Phi x u s : policy x -> (forall s a, 0 < x s a -> 0 < use s a) -> keeps (p s) (x s) ->
  floor use r ok Phi -> ok u.+1 s -> 0 <= charge p x r Phi u s.
Proof.
move=> hx cx kx hf os; apply: sum_ge0 => a; have k0 := kterm_ge0 a (hp s) (hx s) kx.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hx s) a)) => [xa|xa].
  apply: Rmult_le_pos k0 _; suff : Phi u.+1 s <= Q r p u s a by lra.
  by apply: (above_floor_Q hr hf os (cx _ _ xa)) => y oy; apply: (above_floor hr hf).
suff -> : kterm (p s) (x s) a = 0 by lra.
have p0 : p s a = 0 by case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => // /kx; lra.
by rewrite /kterm p0 -xa; lra.
Qed.
Lemma one_side r Phi t s : floor use r ok Phi -> vis t s -> ok t s ->
  path_sum p (score p q' r Phi) t s <= V r q' t s - V r p t s /\
  path_sum p (score p q' r Phi) t s <= V r q t s - V r p t s + \sum_(k : I) L r p (one k) t s.
Proof.
move=> hf vs os; split; first exact: (S9_visited hp hq' cp cq' hr hv hf (kept _ _ kq')).
have := S9_visited hp hq cp cq hr hv hf (kept _ _ kq) vs os => h.
rewrite (path_sum_eq_visited e_dist hp hv vs (fun u x vx => score_adds r Phi vx)) path_sumD path_sum_sum.
apply: Rplus_le_compat => //; apply: sum_le => k; rewrite /Horizon.L.
apply: (path_sum_le_visited e_dist hp (both cp hr hv) (conj vs os)) => u x [vx ox].
rewrite (scoreE_at hp (h1 k) (Phi := Phi)) => [|a pa]; last by left; apply: k1 vx _ pa.
by have := charge_ge0 (h1 k) (@c1 k) (k1 k vx) hf ox; lra.
Qed.

Theorem S7_family r Phi Psi rho t s : floor use r ok Phi -> ceiling use r ok Psi ->
  (forall u x, ok u x -> Psi u x - Phi u x <= rho) -> vis t s -> ok t s ->
  Rabs (V r q' t s - V r q t s - \sum_(k : I) L r p (one k) t s) <= rho * K p q' t s.
Proof.
move=> hf hc hb vs os; have [b1 a1] := one_side hf vs os; have [b2 a2] := one_side hc vs os.
move: b2 a2; rewrite !V_neg (sumE (F := fun k => L (neg r) p (one k) t s) (fun k => L_neg e next r p (one k) t s)) sumN => b2 a2.
suff : - (rho * K p q' t s) <= path_sum p (score p q' r Phi) t s + path_sum p (score p q' (neg r) (fun u x => - Psi u x)) t s.
  by move=> h; apply: Rabs_le; lra.
rewrite -path_sumD /Horizon.K -path_sumZ.
have -> X : - X = -1 * X by lra. rewrite -path_sumZ.
apply: (path_sum_le_visited e_dist hp (both cp hr hv) (conj vs os)) => u x [vx ox].
have := hb _ _ ox; set D := Psi u.+1 x - Phi u.+1 x => hD.
have -> : score p q' r Phi u x + score p q' (neg r) (fun u x => - Psi u x) u x = - (D * kl (p x) (q' x)).
  rewrite /score -sumD -sumZ -sumN; apply: sumE => a; rewrite Q_neg /D.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|<-]; last lra.
  by rewrite (ln_swap pa (kq' vx pa)); lra.
by have := Rmult_le_compat_r _ _ _ (kl_pos (hp x) (hq' x) (kq' vx)) hD; lra.
Qed.
End S7.

Lemma log_adds_self (p q : A -> R) : log_adds p p q (fun _ : unit_finType => q).
Proof.
move=> a pa _ qa _; rewrite (big_pred1 tt) => [|[]] //.
by have -> : p a / p a = 1 by [field; lra]; rewrite ln_1; lra.
Qed.
(* S7 with a floor and a ceiling: |V^q - V^p - L_p(q)| <= rho K if Psi - Phi <= rho on the states that p or q can reach *)
Theorem S7_visited p q use r ok vis Phi Psi rho t s : policy p -> policy q ->
  (forall s a, 0 < p s a -> 0 < use s a) -> (forall s a, 0 < q s a -> 0 < use s a) -> reach use ok -> reach p vis ->
  (forall u x, vis u.+1 x -> keeps (p x) (q x)) -> floor use r ok Phi -> ceiling use r ok Psi ->
  (forall u x, ok u x -> Psi u x - Phi u x <= rho) -> vis t s -> ok t s ->
  Rabs (V r q t s - V r p t s - L r p q t s) <= rho * K p q t s.
Proof.
move=> hp hq cp cq hr hv hk hf hc hb vs os.
have <- : \sum_(k : unit_finType) L r p q t s = L r p q t s by rewrite (big_pred1 tt) => [|[]].
apply: (@S7_family _ p p q use (fun _ => q) ok vis hp hp hq (fun _ => hq) cp cp cq (fun _ => cq) hr hv _ hk
  (fun u x _ => hk u x) _ r Phi Psi) => // [u x _ a //|u x _]; exact: log_adds_self.
Qed.

(* ---- the same with everything kept: then q is at its place everywhere, and the states that q can reach suffice *)
Section Kept.
Variables (p q : S -> A -> R).
Hypotheses (hp : policy p) (hq : policy q) (hk : forall s, keeps (p s) (q s)).
Let cp s a : 0 < p s a -> 0 < q s a := hk (s := s) (a := a).
Let vis (u : nat) (s : S) := True.
Let hv : reach p vis. Proof. by []. Qed.
Let hd r Phi u s a : vis u.+1 s -> 0 < p s a -> 0 < q s a \/ Q r p u s a = Phi u.+1 s.
Proof. by left; apply: hk. Qed.
Lemma path_sum_le ok f g t s : reach q ok -> ok t s -> (forall u x, ok u.+1 x -> f u x <= g u x) ->
  path_sum p f t s <= path_sum p g t s.
Proof. by move=> hr os; apply: path_sum_le_visited hp _ os => // u x a b ox /cp qa; apply: hr qa. Qed.
Lemma scoreE r Phi u s : score p q r Phi u s = gain r p q u s - charge p q r Phi u s.
Proof. by apply: scoreE_at => // a pa; left; apply: hk. Qed.
Section Floor.
Variables (r : S -> A -> B -> R) (ok : nat -> S -> Prop) (Phi : nat -> S -> R).
Hypotheses (hr : reach q ok) (hf : floor q r ok Phi).
Lemma S9_ind t s lam : ok t s -> 0 < lam ->
  (1 + ln lam) * (V r p t s - Phi t s) + path_sum p (score p q r Phi) t s <= lam * (V r q t s - Phi t s).
Proof. exact: (@S9_ind_visited p q q r ok vis hp hq cp (fun _ _ h => h) hr hv Phi hf (@hd r Phi) t s lam I). Qed.
Theorem S9 t s : ok t s -> path_sum p (score p q r Phi) t s <= V r q t s - V r p t s.
Proof. exact: (@S9_visited p q q r ok vis hp hq cp (fun _ _ h => h) hr hv Phi hf (@hd r Phi) t s I). Qed.
End Floor.
Lemma S9_charge r ok Phi t s : reach q ok -> floor q r ok Phi -> ok t s ->
  - path_sum p (charge p q r Phi) t s <= V r q t s - V r p t s - L r p q t s.
Proof. by move=> hr hf; apply: (@S9_charge_visited p q q r ok vis hp hq cp (fun _ _ h => h) hr hv Phi hf (@hd r Phi) t s I). Qed.
Lemma S9_ceiling r ok Psi t s : reach q ok -> ceiling q r ok Psi -> ok t s ->
  V r q t s - V r p t s - L r p q t s <= path_sum p (fun u x =>
    \sum_(a : A) (kterm (p x) (q x) a * (Psi u.+1 x - Q r p u x a))) t s.
Proof. by move=> hr hc; apply: (@S9_ceiling_visited p q q r ok vis Psi t s hp hq cp (fun _ _ h => h) hr hv hc) => // u x a;
  apply: hd. Qed.
Theorem S7 r ok Phi Psi rho t s : reach q ok -> floor q r ok Phi -> ceiling q r ok Psi ->
  (forall u x, ok u x -> Psi u x - Phi u x <= rho) -> ok t s ->
  Rabs (V r q t s - V r p t s - L r p q t s) <= rho * K p q t s.
Proof. by move=> hr hf hc hb; apply: (S7_visited hp hq cp (fun _ _ h => h) hr hv _ hf hc hb) => // u x _; apply: hk. Qed.
End Kept.
End Episodes.

(* ------------------------------------------------------------------ S7 with the range of the return over whole episodes *)
Section Range.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Implicit Types p q : S -> A -> R.
(* states that remember what has been earned *)
Let ae (x : S * R) := e x.1.
Let an (x : S * R) a b := (next x.1 a b, x.2 + r x.1 a b).
Let ar (x : S * R) := r x.1.
Let up (pi : S -> A -> R) (x : S * R) := pi x.1.

Lemma V_up pi t x : V ae an ar (up pi) t x = V e next r pi t x.1.
Proof. by elim: t x => [//|t ih] x; rewrite /=; apply: sumE => a; congr (_ * _); apply: sumE => b; rewrite ih. Qed.
Lemma path_sum_up pi f g t x : (forall u y, f u y = g u y.1) ->
  path_sum ae an (up pi) f t x = path_sum e next pi g t x.1.
Proof.
move=> E; elim: t x => [//|t ih] x; rewrite /= E; congr (_ + _).
by apply: sumE => a; congr (_ * _); apply: sumE => b; rewrite ih.
Qed.


Notation law := (law e next). Notation ret := (ret next r). Notation V := (V e next r). Notation L := (L e next r).
Notation K := (K e next). Notation keeps_path := (keeps_path e next).

(* the return lies in [lo, hi] on every path that the actions in use can take, from s *)
Definition return_in (use : S -> A -> R) lo hi t s := forall w : path A B t, 0 < law use s w -> lo <= ret s w <= hi.

(* Phi = lo - earned, Psi = hi - earned *)
Theorem S7_family_range (I : finType) p q q' (use : S -> A -> R) (one : I -> S -> A -> R) lo hi t s :
  policy p -> policy q -> policy q' -> (forall k, policy (one k)) ->
  (forall s a, 0 < p s a -> 0 < use s a) -> (forall s a, 0 < q s a -> 0 < use s a) ->
  (forall s a, 0 < q' s a -> 0 < use s a) -> (forall k s a, 0 < one k s a -> 0 < use s a) ->
  keeps_path p q t s -> keeps_path p q' t s -> (forall k, keeps_path p (one k) t s) ->
  (forall x, log_adds (p x) (q x) (q' x) (fun k => one k x)) -> return_in use lo hi t s ->
  Rabs (V q' t s - V q t s - \sum_(k : I) L p (one k) t s) <= (hi - lo) * K p q' t s.
Proof.
move=> hp hq hq' h1 cp cq cq' c1 kq kq' k1 la hw.
have ed (x : S * R) a : dist (ae x a) := e_dist x.1 a.
have e1 x a : \sum_(b : B) ae x a b = 1 := proj2 (ed x a).
pose ok u (x : S * R) := forall w : path A B u, 0 < law use x.1 w -> lo <= x.2 + ret x.1 w <= hi.
pose vis u (x : S * R) := keeps_path p q u x.1 /\ keeps_path p q' u x.1 /\ forall k, keeps_path p (one k) u x.1.
have hr : reach ae an (up use) ok.
  move=> u [x c] a b ox qa eb w lw; have := ox ((a, b), w); rewrite /= => h.
  have := h (Rmult_lt_0_compat _ _ (Rmult_lt_0_compat _ _ qa eb) lw); rewrite /=; lra.
have hv : reach ae an (up p) vis.
  move=> u [x c] a b [v1 [v2 v3]] pa eb; do !split; [exact: (keeps_next e_dist hq v1) | exact: (keeps_next e_dist hq' v2) |].
  by move=> k; apply: (keeps_next e_dist (h1 k) (v3 k)).
have hf : floor ae an (up use) ar ok (fun _ x => lo - x.2).
  split=> [[x c] ox|u [x c] a ox qa]; first by have := ox tt; rewrite /=; lra.
  rewrite (sumE (G := fun b => ae (x, c) a b * (lo - c))) => [|b]; last by rewrite /ar /=; lra.
  by rewrite sum_const //= ; lra.
have hc : ceiling ae an (up use) ar ok (fun _ x => hi - x.2).
  split=> [[x c] ox|u [x c] a ox qa]; first by have := ox tt; rewrite /=; lra.
  rewrite (sumE (G := fun b => ae (x, c) a b * (- (hi - c)))) => [|b]; last by rewrite /ar /neg /=; lra.
  by rewrite sum_const //= ; lra.
have LE x : L p x t s = Horizon.L ae an ar (up p) (up x) t (s, 0).
  rewrite /Horizon.L (path_sum_up (f := gain ae an ar (up p) (up x)) (g := gain e next r p x) p) // => u y.
  rewrite /gain; apply: sumE => a; congr (_ * _); rewrite /Adv V_up; congr (_ - _).
  by apply: sumE => b; rewrite V_up.
have -> : K p q' t s = Horizon.K ae an (up p) (up q') t (s, 0) by symmetry; apply: path_sum_up.
rewrite (sumE (fun k => LE (one k))) -[s in V q' t s]/(s, 0).1 -[s in V q t s]/(s, 0).1 -!V_up.
apply: (@S7_family _ _ _ ae an ed I (up p) (up q) (up q') (up use) (fun k => up (one k)) ok vis (fun x => hp x.1)
  (fun x => hq x.1)
  (fun x => hq' x.1) (fun k x => h1 k x.1) (fun x => cp x.1) (fun x => cq x.1) (fun x => cq' x.1) (fun k x => c1 k x.1) hr hv)
  hf hc _ _ _ => //.
- by move=> u [x c] [v1 _]; apply: (keeps_step e_dist hp hq v1).
- by move=> u [x c] [_ [v2 _]]; apply: (keeps_step e_dist hp hq' v2).
- by move=> u [x c] k [_ [_ v3]]; apply: (keeps_step e_dist hp (h1 k) (v3 k)).
- by move=> u [x c] _; apply: la.
- by move=> u x _; lra.
by move=> w lw; have := hw w lw; rewrite /=; lra.
Qed.

(* S7: |J(q) - J(p) - L_p(q)| <= (hi - lo) K if every path of p is one of q *)
Theorem S7_range_visited p q (use : S -> A -> R) lo hi t s : policy p -> policy q ->
  (forall s a, 0 < p s a -> 0 < use s a) -> (forall s a, 0 < q s a -> 0 < use s a) ->
  keeps_path p q t s -> return_in use lo hi t s -> Rabs (V q t s - V p t s - L p q t s) <= (hi - lo) * K p q t s.
Proof.
move=> hp hq cp cq k hw.
have <- : \sum_(k : unit_finType) L p q t s = L p q t s by rewrite (big_pred1 tt) => [|[]].
apply: (@S7_family_range unit_finType p p q use (fun _ => q)) => // x; exact: log_adds_self.
Qed.
(* the same, said with the laws of the path alone: |E' R - E R - L| <= (hi - lo) KL(P || P') if P' keeps the paths of P *)
Corollary S7_path_visited p q (use : S -> A -> R) lo hi T s : policy p -> policy q ->
  (forall s a, 0 < p s a -> 0 < use s a) -> (forall s a, 0 < q s a -> 0 < use s a) ->
  let P := law p (t := T) s in let P' := law q (t := T) s in keeps P P' -> return_in use lo hi T s ->
  Rabs (\sum_(w : path A B T) (P' w * ret s w) - \sum_(w : path A B T) (P w * ret s w) - L p q T s) <= (hi - lo) * kl P P'.
Proof.
move=> hp hq cp cq P P' k hw; have := S7_range_visited hp hq cp cq k hw.
by rewrite (V_law next e_dist r T s hp) (V_law next e_dist r T s hq) (K_law_visited e_dist hp hq k).
Qed.

(* from a random first state *)
Section Start.
Variables (I : finType) (rho : I -> R) (start : I -> S).
Hypothesis rho_dist : dist rho.
Definition from_rho (f : S -> R) := \sum_(i : I) (rho i * f (start i)).
Lemma from_rho_abs f h c : (forall i, 0 < rho i -> Rabs (f (start i)) <= c * h (start i)) -> Rabs (from_rho f) <= c * from_rho h.
Proof.
move=> b; rewrite /from_rho -sumZ; apply: Rle_trans (sum_abs _) _; apply: sum_le => i.
case: (Rle_lt_or_eq_dec _ _ (proj1 rho_dist i)) => [ri|<-]; last by rewrite Rmult_0_l Rabs_R0; lra.
by rewrite Rabs_mult Rabs_pos_eq; [have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ ri) (b i ri); lra | lra].
Qed.
Lemma from_rhoB f h : from_rho (fun s => f s - h s) = from_rho f - from_rho h.
Proof. by rewrite /from_rho -sumB; apply: sumE => i; lra. Qed.
(* S7 for J: |J(q) - J(p) - L| <= rho K, all from the law of the first state *)
Theorem S7_J_visited p q (use : S -> A -> R) lo hi T : policy p -> policy q ->
  (forall s a, 0 < p s a -> 0 < use s a) -> (forall s a, 0 < q s a -> 0 < use s a) ->
  (forall i, 0 < rho i -> keeps_path p q T (start i)) -> (forall i, 0 < rho i -> return_in use lo hi T (start i)) ->
  Rabs (from_rho (V q T) - from_rho (V p T) - from_rho (L p q T)) <= (hi - lo) * from_rho (K p q T).
Proof.
move=> hp hq cp cq k hw; rewrite -!from_rhoB; apply: from_rho_abs => i ri.
by apply: S7_range_visited cp cq (k i ri) (hw i ri).
Qed.
End Start.

(* everything is kept: the range over the paths of q *)
Variables (p q : S -> A -> R).
Hypotheses (hp : policy p) (hq : policy q) (hk : forall s, keeps (p s) (q s)).
Theorem S7_range lo hi t s : (forall w : path A B t, 0 < law q s w -> lo <= ret s w <= hi) ->
  Rabs (V q t s - V p t s - L p q t s) <= (hi - lo) * K p q t s.
Proof. by apply: S7_range_visited => //; apply: keeps_all. Qed.
Corollary S7_path lo hi T s :
  let P := law p (t:=T) s in let P' := law q (t:=T) s in
  (forall w, 0 < P' w -> lo <= ret s w <= hi) ->
  Rabs (\sum_(w : path A B T) (P' w * ret s w) - \sum_(w : path A B T) (P w * ret s w) - L p q T s) <= (hi - lo) * kl P P'.
Proof. by move=> P P'; apply: S7_path_visited => //; apply: keeps_all. Qed.
Variables (I : finType) (rho : I -> R) (start : I -> S).
Hypothesis rho_dist : dist rho.
Theorem S7_J lo hi T :
  (forall i (w : path A B T), 0 < rho i -> 0 < law q (start i) w -> lo <= ret (start i) w <= hi) ->
  Rabs (from_rho rho start (V q T) - from_rho rho start (V p T) - from_rho rho start (L p q T)) <=
    (hi - lo) * from_rho rho start (K p q T).
Proof.
move=> h; apply: (@S7_J_visited I rho start rho_dist p q q lo hi T) => // i ri; [exact: keeps_all | move=> w; exact: h].
Qed.
End Range.

(* S7c, signed, any teams: |sum_i cached_i| <= rho K, the KL of the last team against the first *)
Theorem S7c (A B : finType) (S : Type) (e : S -> A -> B -> R) next r (team : nat -> S -> A -> R) n lo hi T s :
  (forall s a, dist (e s a)) -> (forall i, policy (team i)) -> (forall x, keeps (team O x) (team n x)) ->
  (forall w : path A B T, 0 < law e next (team n) s w -> lo <= ret next r s w <= hi) ->
  Rabs (\big[Rplus/0]_(i < n) (V e next r (team i.+1) T s - V e next r (team i) T s - L_cached e next r team T s i))
    <= (hi - lo) * K e next (team O) (team n) T s.
Proof. by move=> he h hk hw; rewrite L_cached_telescope //; apply: S7_range. Qed.

Theorem S7c_turns (A B : finType) (S : Type) (e : S -> A -> B -> R) next r (team : nat -> S -> A -> R) n
    (I : finType) (j : S -> I) lo hi T s :
  (forall s a, dist (e s a)) -> (forall i, policy (team i)) -> (forall x, keeps (team O x) (team n x)) ->
  (forall w : path A B T, 0 < law e next (team n) s w -> lo <= ret next r s w <= hi) ->
  Rabs (\big[Rplus/0]_(i < n) (V e next r (team i.+1) T s - V e next r (team i) T s - L_cached e next r team T s i))
    <= (hi - lo) * \sum_(k : I) path_sum e next (team O) (fun _ x => if j x == k then kl (team O x) (team n x) else 0) T s.
Proof. by move=> *; rewrite -K_turns; apply: S7c. Qed.
