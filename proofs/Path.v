(* The law of a path of t steps: V is the expected return, K is the KL of the law of the path (P3.2, and the chain rule of S3),
   and that KL is finite exactly if q keeps what p uses at every state that p visits. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Rows Horizon.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Episodes.
Variables (A B : finType) (S : Type).
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S).
Hypothesis e_dist : forall s a, dist (e s a).
Implicit Types (p q : S -> A -> R) (r : S -> A -> B -> R).
Notation after := (after e next). Notation path_sum := (path_sum e next). Notation V := (V e next).
Notation K := (K e next). Notation reach := (reach e next).

Fixpoint path (t : nat) : finType :=
  if t is u.+1 then prod_finType (prod_finType A B) (path u) else unit_finType.
Fixpoint law (pi : S -> A -> R) (t : nat) (s : S) : path t -> R :=
  match t return path t -> R with
  | O => fun _ => 1
  | u.+1 => fun w => pi s w.1.1 * e s w.1.1 w.1.2 * law pi (next s w.1.1 w.1.2) w.2
  end.
Fixpoint ret (r : S -> A -> B -> R) (t : nat) (s : S) : path t -> R :=
  match t return path t -> R with
  | O => fun _ => 0
  | u.+1 => fun w => r s w.1.1 w.1.2 + ret r (next s w.1.1 w.1.2) w.2
  end.

(* the sum of f over the steps of a path *)
Fixpoint along (f : nat -> S -> R) (t : nat) (s : S) : path t -> R :=
  match t return path t -> R with
  | O => fun _ => 0
  | u.+1 => fun w => f u s + along f (next s w.1.1 w.1.2) w.2
  end.

Lemma sum_pairs (X Y : finType) (F : X * Y -> R) :
  \sum_(w : prod_finType X Y) F w = \sum_(x : X) \sum_(y : Y) F (x, y).
Proof. by rewrite pair_bigA; apply: eq_bigr => -[]. Qed.
Lemma sum_path u (F : path u.+1 -> R) :
  \sum_(w : path u.+1) F w = \sum_(a : A) \sum_(b : B) \sum_(v : path u) F ((a, b), v).
Proof. by rewrite [LHS]sum_pairs sum_pairs. Qed.

Lemma law_dist pi t s : policy pi -> dist (law pi (t:=t) s).
Proof.
move=> h; split.
  elim: t s => [|t ih] s w; first by rewrite /=; lra.
  rewrite /=; apply: Rmult_le_pos (ih _ _); apply: Rmult_le_pos; [exact: (proj1 (h _)) | exact: (proj1 (e_dist _ _))].
elim: t s => [|t ih] s; first by rewrite /= (big_pred1 tt) // => -[].
rewrite sum_path /= -[RHS](proj2 (h s)); apply: sumE => a.
rewrite -[RHS]Rmult_1_r -(proj2 (e_dist s a)) -sumZ; apply: sumE => b.
by rewrite sumZ ih; lra.
Qed.

Lemma V_law r pi t s : policy pi -> V r pi t s = \sum_(w : path t) (law pi s w * ret r s w).
Proof.
move=> h; elim: t s => [|t ih] s; first by rewrite /= (big_pred1 tt) ?Rmult_0_r // => -[].
rewrite sum_path /=; apply: sumE => a; rewrite -sumZ; apply: sumE => b; rewrite ih.
set s' := next s a b.
rewrite (sumE (F := fun v : path t => _ * _ * _ * (_ + _))
  (G := fun v => pi s a * e s a b * r s a b * law pi s' v + pi s a * e s a b * (law pi s' v * ret r s' v))) => [|v]; last lra.
by rewrite sumD !sumZ (proj2 (law_dist t s' h)); lra.
Qed.

Lemma path_sum_law pi f t s : policy pi -> path_sum pi f t s = \sum_(w : path t) (law pi s w * along f s w).
Proof.
move=> h; elim: t s => [|t ih] s; first by rewrite /= (big_pred1 tt) ?Rmult_0_r // => -[].
rewrite sum_path /= -{1}(Rmult_1_r (f t s)) -(proj2 (h s)) -sumZ -sumD; apply: sumE => a.
rewrite -[X in X + _]Rmult_1_r -(proj2 (e_dist s a)) /Horizon.after -!sumZ -sumD; apply: sumE => b; rewrite ih.
set s' := next s a b.
rewrite (sumE (F := fun v : path t => _ * _ * _ * (_ + _))
  (G := fun v => pi s a * e s a b * f t s * law pi s' v + pi s a * e s a b * (law pi s' v * along f s' v))) => [|v]; last lra.
by rewrite sumD !sumZ (proj2 (law_dist t s' h)); lra.
Qed.

Lemma factors x y z : 0 <= x -> 0 <= y -> 0 <= z -> 0 < x * y * z -> 0 < x /\ 0 < y /\ 0 < z.
Proof.
move=> x0 y0 z0 h; do !split; (case: (Rle_lt_or_eq_dec _ _ x0) => [//|E]; move: h; rewrite -E; lra) ||
  (case: (Rle_lt_or_eq_dec _ _ y0) => [//|E]; move: h; rewrite -E; lra) ||
  (case: (Rle_lt_or_eq_dec _ _ z0) => [//|E]; move: h; rewrite -E; lra).
Qed.
Lemma law_factors pi t s (w : path t.+1) : policy pi -> 0 < law pi s w ->
  0 < pi s w.1.1 /\ 0 < e s w.1.1 w.1.2 /\ 0 < law pi (next s w.1.1 w.1.2) w.2.
Proof. by move=> h; apply: factors; [apply: (proj1 (h s)) | apply: (proj1 (e_dist s _)) | apply: (proj1 (law_dist t _ h))]. Qed.

Section Two.
Variables (p q : S -> A -> R).
Hypotheses (hp : policy p) (hq : policy q).

(* The KL of the path is finite: every path of p is one of q. Said step by step: *)
Definition keeps_path t s := keeps (law p (t:=t) s) (law q (t:=t) s).
Lemma keeps_step t s : keeps_path t.+1 s -> keeps (p s) (q s).
Proof.
move=> k a pa; have [b eb] := dist_pos (e_dist s a); have [w lw] := dist_pos (law_dist t (next s a b) hp).
have l0 : 0 < law p s (((a, b), w) : path t.+1) by apply: Rmult_lt_0_compat lw; apply: Rmult_lt_0_compat.
by have [] := law_factors hq (k _ l0).
Qed.
Lemma keeps_next t s a b : keeps_path t.+1 s -> 0 < p s a -> 0 < e s a b -> keeps_path t (next s a b).
Proof.
move=> k pa eb w lw.
have l0 : 0 < law p s (((a, b), w) : path t.+1) by apply: Rmult_lt_0_compat lw; apply: Rmult_lt_0_compat.
by have [_ []] := law_factors hq (k _ l0).
Qed.
Lemma keeps_reach : reach p keeps_path.
Proof. by move=> u s a b; exact: keeps_next. Qed.
(* and from a set of states that p does not leave *)
Lemma keeps_visited vis t s : reach p vis -> vis t s -> (forall u x, vis u.+1 x -> keeps (p x) (q x)) -> keeps_path t s.
Proof.
move=> hv vs hk; elim: t s vs => [|t ih] s vs w; first by rewrite /=; lra.
move=> /(law_factors hp) [pa [eb lw]].
by apply: Rmult_lt_0_compat (ih _ (hv _ _ _ _ vs pa eb) _ lw); apply: Rmult_lt_0_compat eb; apply: hk vs _ pa.
Qed.

(* P3.2: the KL of the path is the expected sum of the KLs of its steps, along paths of p *)
Theorem K_law_visited t s : keeps_path t s -> K p q t s = kl (law p (t:=t) s) (law q (t:=t) s).
Proof.
elim: t s => [|t ih] s k.
  by rewrite /Horizon.K /kl /= (big_pred1 tt) => [|[]] //; have -> : 1 / 1 = 1 by [field]; rewrite ln_1; lra.
have -> : K p q t.+1 s = kl (p s) (q s) + \sum_(a : A) (p s a * after s a (K p q t)) by [].
rewrite /kl sum_path -sumD; apply: sumE => a /=.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last first.
  rewrite sum0; first lra.
  by move=> b; apply: sum0 => v; lra.
have qa := keeps_step k pa.
rewrite -{1}(Rmult_1_r (p s a)) -(proj2 (e_dist s a)) -sumZ -sumZr /Horizon.after -sumZ -sumD; apply: sumE => b.
set s' := next s a b.
case: (Rle_lt_or_eq_dec _ _ (proj1 (e_dist s a) b)) => [eb|<-]; last first.
  by rewrite [RHS]sum0 => [|v]; lra.
have k' := keeps_next k pa eb; rewrite -/s' in k'; rewrite ih // /kl.
rewrite (sumE (F := fun v : path t => _ * _ * _ * ln _)
 (G := fun v => p s a * e s a b * ln (p s a / q s a) * law p s' v
   + p s a * e s a b * (law p s' v * ln (law p s' v / law q s' v)))).
  by rewrite sumD !sumZ (proj2 (law_dist t s' hp)); lra.
move=> v; case: (Rle_lt_or_eq_dec _ _ (proj1 (law_dist t s' hp) v)) => [lv|<-]; last lra.
have kv := k' v lv.
have -> : p s a * e s a b * law p s' v / (q s a * e s a b * law q s' v) = p s a / q s a * (law p s' v / law q s' v).
  by field; lra.
rewrite ln_mult; [lra | exact: Rdiv_lt_0_compat | exact: Rdiv_lt_0_compat].
Qed.
Corollary K_law_along t s : keeps_path t s ->
  kl (law p (t:=t) s) (law q (t:=t) s) = \sum_(w : path t) (law p s w * along (fun _ x => kl (p x) (q x)) s w).
Proof. by move=> k; rewrite -K_law_visited // /Horizon.K path_sum_law. Qed.

Hypothesis hk : forall s, keeps (p s) (q s).
Lemma keeps_all t s : keeps_path t s.
Proof. by apply: (keeps_visited (vis := fun _ _ => True)). Qed.
Lemma law_pos t s (v : path t) : 0 < law p s v -> 0 < law q s v.
Proof. exact: keeps_all. Qed.
Theorem K_law t s : K p q t s = kl (law p (t:=t) s) (law q (t:=t) s).
Proof. by apply: K_law_visited; apply: keeps_all. Qed.
End Two.
End Episodes.

(* ---- P3.2: KL(pi || pi') of a message y of U tokens is E_{y ~ pi} of the sum over u of KL(pi(.|y_<u) || pi'(.|y_<u)).
   A message is a path on which nothing happens but that tokens are written (outcomes: one), and the state is the prefix. If
   lengths vary, both write padding after the end. *)
Section Message.
Variable A : finType.
Let silent (s : seq A) (a : A) (b : unit_finType) := 1.
Let write (s : seq A) (a : A) (b : unit_finType) := rcons s a.
Definition message pi U := law silent write pi (t := U) [::].
Theorem P3_2 (p q : seq A -> A -> R) U : policy p -> policy q -> keeps (message p (U := U)) (message q (U := U)) ->
  kl (message p (U := U)) (message q (U := U))
    = \sum_(y : path A unit_finType U) (message p y * along write (fun _ prefix => kl (p prefix) (q prefix)) [::] y).
Proof.
move=> hp hq k.
have silent_dist s a : dist (silent s a) by split=> [b|]; rewrite /silent; [lra | rewrite (big_pred1 tt) // => -[]].
exact: (K_law_along silent_dist hp hq k).
Qed.
End Message.
