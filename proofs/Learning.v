(* S9 (d), (e), (g), and the step of U1. The induction of S9 holds for every weight lam > 0 at once. Its best lam is the form (g),
   so Jensen's inequality is not needed; lam -> 0 allows an action to be dropped where Q = Phi. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Lemma small x y : (forall lam, 0 < lam -> x <= lam * y) -> x <= 0.
Proof.
move=> h; case: (Rle_lt_dec x 0) => // x0; case: (Rle_lt_dec y 0) => y0; first by have := h 1 Rlt_0_1; lra.
have y2 : 0 < 2 * y by lra.
have := h (x / (2 * y)) (Rdiv_lt_0_compat _ _ x0 y2); have -> : x / (2 * y) * y = x / 2 by field; lra.
lra.
Qed.

(* ------------------------------------------------------------------ S9, with actions dropped at the floor *)
Section General.
Variables (A B : finType) (S : Type).
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (p q : S -> A -> R) (ok : nat -> S -> Prop) (Phi : nat -> S -> R).
Hypotheses (hp : policy p) (hq : policy q).
Notation VV := (V e next r).
Notation QQ := (Q e next r p).
Notation aft := (after e next).
(* ok holds what either policy visits; Phi satisfies (F) there for every action that either can take *)
Definition uses s a := 0 < p s a \/ 0 < q s a.
Hypothesis ok_next : forall u s a b, ok u.+1 s -> uses s a -> 0 < e s a b -> ok u (next s a b).
Hypothesis F_end : forall s, ok O s -> Phi O s <= 0.
Hypothesis F_step : forall u s a, ok u.+1 s -> uses s a -> Phi u.+1 s <= \sum_(b : B) (e s a b * (r s a b + Phi u (next s a b))).
(* an action may be dropped where the least possible return is certain *)
Hypothesis drops : forall u s a, ok u.+1 s -> 0 < p s a -> 0 < q s a \/ QQ u s a <= Phi u.+1 s.

Lemma aft_le u s a g h : ok u.+1 s -> uses s a -> (forall x, ok u x -> g x <= h x) -> aft s a g <= aft s a h.
Proof.
move=> os us E; apply: sum_le => b; have [e0 _] := e_dist s a.
case: (Rle_lt_or_eq_dec _ _ (e0 b)) => [eb|<-]; last lra.
by apply: Rmult_le_compat_l; [lra | apply: E; apply: ok_next eb].
Qed.
Lemma aftZ s a c g : aft s a (fun x => c * g x) = c * aft s a g.
Proof. by rewrite /after -sumZ; apply: sumE => b; lra. Qed.
(* the shaped reward *)
Definition rt u s a := \sum_(b : B) (e s a b * r s a b) + aft s a (Phi u) - Phi u.+1 s.
Lemma rt_ge0 u s a : ok u.+1 s -> uses s a -> 0 <= rt u s a.
Proof.
move=> os us; have := F_step os us.
rewrite (sumE (G := fun b => e s a b * r s a b + e s a b * Phi u (next s a b))) => [|b]; last lra.
by rewrite sumD /rt /after; lra.
Qed.
Lemma Q_rt pi u s a : Q e next r pi u s a - Phi u.+1 s = rt u s a + aft s a (fun x => VV pi u x - Phi u x).
Proof. by rewrite afterB QE /rt; lra. Qed.

Lemma above_Q pi u s a : ok u.+1 s -> uses s a -> (forall x, ok u x -> Phi u x <= VV pi u x) ->
  0 <= aft s a (fun x => VV pi u x - Phi u x) /\ 0 <= Q e next r pi u s a - Phi u.+1 s.
Proof.
move=> os us ih; rewrite Q_rt; have r0 := rt_ge0 os us.
have := aft_le (g := fun x => 0 * 0) (h := fun x => VV pi u x - Phi u x) os us (fun x ox => ltac:(have := ih x ox; lra)).
by rewrite aftZ; lra.
Qed.
Lemma above_V pi t s : policy pi -> (forall x a, 0 < pi x a -> uses x a) -> ok t s -> Phi t s <= VV pi t s.
Proof.
move=> hpi sub; elim: t s => [|t ih] s os; first exact: F_end.
rewrite VE -(sum_const (Phi t.+1 s) (proj2 (hpi s))).
apply: sum_pos_le => [a|a pa]; first exact: (proj1 (hpi s)).
by have [_] := above_Q os (sub _ _ pa) ih; lra.
Qed.
Lemma above_p t s : ok t s -> Phi t s <= VV p t s. Proof. by apply: above_V => // x a; left. Qed.
Lemma above_q t s : ok t s -> Phi t s <= VV q t s. Proof. by apply: above_V => // x a; right. Qed.
Lemma adv_ge0 u s a : ok u.+1 s -> 0 < p s a -> 0 <= QQ u s a - Phi u.+1 s.
Proof. by move=> os pa; have [] := above_Q os (or_introl pa) (@above_p u). Qed.

Notation D := (path_sum e next p (score e next p q r Phi)).
(* (I) of the page *)
Theorem S9_every_weight t s lam : ok t s -> 0 < lam -> (1 + ln lam) * (VV p t s - Phi t s) + D t s <= lam * (VV q t s - Phi t s).
Proof.
elim: t s lam => [|t ih] s lam os l0.
  have f0 := F_end os; have l1 := ln_le l0.
  have : (1 + ln lam) * - Phi O s <= lam * - Phi O s by apply: Rmult_le_compat_r; lra.
  by rewrite /=; lra.
pose w a := QQ t s a - Phi t.+1 s; pose w' a := Q e next r q t s a - Phi t.+1 s; pose z a := aft s a (D t).
have behind a mu : uses s a -> 0 < mu ->
    (1 + ln mu) * aft s a (fun x => VV p t x - Phi t x) + z a <= mu * aft s a (fun x => VV q t x - Phi t x).
  move=> us m0; have := aft_le (g := fun x => (1 + ln mu) * (VV p t x - Phi t x) + D t x)
    (h := fun x => mu * (VV q t x - Phi t x)) os us (fun x ox => ih x mu ox m0).
  by rewrite afterD !aftZ.
have one a : (1 + ln lam) * (p s a * w a) + p s a * (ln (q s a / p s a) * w a + z a) <= lam * (q s a * w' a).
  have q0 := proj1 (hq s) a; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last first.
    case: (Rle_lt_or_eq_dec _ _ q0) => [qa|<-]; last lra.
    have [_ w0] := above_Q os (or_intror qa) (@above_q t); rewrite -/(w' a) in w0.
    have := Rmult_le_pos _ _ (Rlt_le _ _ l0) (Rmult_le_pos _ _ (Rlt_le _ _ qa) w0); lra.
  have us : uses s a by left.
  have rt0 := rt_ge0 os us; have [d0 _] := above_Q os us (@above_p t).
  case: (Rle_lt_or_eq_dec _ _ q0) => [qa|qa].
    have x0 := Rdiv_lt_0_compat _ _ qa pa; set x := q s a / p s a in x0 *; have m0 := Rmult_lt_0_compat _ _ l0 x0.
    have := behind a _ us m0; have := ln_le m0; rewrite (ln_mult _ _ l0 x0) => l1 h.
    have h1 := Rmult_le_compat_r _ _ _ rt0 l1.
    have h2 : (1 + (ln lam + ln x)) * w a + z a <= lam * x * w' a by rewrite /w /w' !Q_rt; lra.
    have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) h2; have -> : q s a = x * p s a by rewrite /x; field; lra.
    lra.
  have wa : w a = 0.
    by case: (drops os pa) => [|le]; [lra | have := adv_ge0 os pa; rewrite /w; lra].
  have dz : aft s a (fun x => VV p t x - Phi t x) = 0 by move: wa; rewrite /w Q_rt; lra.
  have z0 : z a <= 0.
    by apply: (@small _ (aft s a (fun x => VV q t x - Phi t x))) => mu m0; have := behind a mu us m0; rewrite dz; lra.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) z0; rewrite wa -qa; lra.
have W (pi pi' : S -> A -> R) : dist (pi s) -> \sum_(a : A) (pi s a * (Q e next r pi' t s a - Phi t.+1 s))
    = \sum_(a : A) (pi s a * Q e next r pi' t s a) - Phi t.+1 s.
  move=> d; rewrite (sumE (G := fun a => pi s a * Q e next r pi' t s a - pi s a * Phi t.+1 s)) => [|a]; last lra.
  by rewrite sumB sum_const //; apply: (proj2 d).
have E : \sum_(a : A) (p s a * (ln (q s a / p s a) * w a + z a)) = D t.+1 s.
  by rewrite [D t.+1 s]/= {1}/score -sumD; apply: sumE => a; rewrite /w /z; lra.
by have := sum_le one; rewrite sumD !sumZ E /w' /w !W // -!VE.
Qed.

(* ---- S9, first form. Asked of dropped actions: Q = Phi; nothing is asked of actions that are taken up *)
Theorem S9_drop t s : ok t s -> D t s <= VV q t s - VV p t s.
Proof. by move=> os; have := S9_every_weight os Rlt_0_1; rewrite ln_1; lra. Qed.

(* over a law of first states *)
Variables (I : finType) (rho : I -> R) (start : I -> S) (T : nat).
Hypotheses (rho0 : forall i, 0 <= rho i) (ok_start : forall i, 0 < rho i -> ok T (start i)).
Notation mean := (from_rho rho start).
Lemma meanE f h : (forall s, f s = h s) -> mean f = mean h.
Proof. by move=> E; apply: sumE => i; rewrite E. Qed.
Lemma meanD f h : mean (fun s => f s + h s) = mean f + mean h.
Proof. by rewrite /from_rho -sumD; apply: sumE => i; lra. Qed.
Lemma meanZ c f : mean (fun s => c * f s) = c * mean f.
Proof. by rewrite /from_rho -sumZ; apply: sumE => i; lra. Qed.
Let excess pi := mean (fun s => VV pi T s - Phi T s).
Let b := mean (D T).
Lemma S9_every_weight_rho lam : 0 < lam -> (1 + ln lam) * excess p + b <= lam * excess q.
Proof.
move=> l0; rewrite /excess /b -!meanZ -meanD; apply: sum_le => i.
case: (Rle_lt_or_eq_dec _ _ (rho0 i)) => [ri|<-]; last lra.
by apply: Rmult_le_compat_l; [lra | apply: S9_every_weight => //; apply: ok_start].
Qed.

(* ---- S9 (g): Jt = J - sum rho Phi > 0 and b the bound of S9: the improvement is at least Jt (exp(b/Jt) - 1) >= max(b, -Jt) *)
Theorem S9_g : 0 < excess p -> let Jt := excess p in let gain := mean (VV q T) - mean (VV p T) in
  Jt * (exp (b / Jt) - 1) <= gain /\ Rmax b (- Jt) <= Jt * (exp (b / Jt) - 1).
Proof.
move=> J0 Jt gain; rewrite -/Jt in J0; have := S9_every_weight_rho (exp_pos (- (b / Jt))); rewrite ln_exp exp_Ropp -/Jt => h.
have E0 := exp_pos (b / Jt); set E := exp (b / Jt) in E0 h *.
have gE : gain = excess q - Jt.
  by rewrite /gain /Jt /excess /from_rho -!sumB; apply: sumE => i; lra.
split.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ E0) h.
  have -> : E * ((1 + - (b / Jt)) * Jt + b) = E * Jt by field; lra.
  have -> : E * (/ E * excess q) = excess q by field; lra.
  by rewrite gE; lra.
have l1 := exp_ineq1_le (b / Jt); rewrite -/E in l1.
have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ J0) l1; have -> : Jt * (1 + b / Jt) = Jt + b by field; lra.
have := Rmult_lt_0_compat _ _ J0 E0 => a1 a2.
by apply: Rmax_lub; lra.
Qed.
End General.
(* ... and it increases with b, so that the step of (d) maximises it too *)
Lemma S9_g_increases Jt b b' : 0 < Jt -> b <= b' -> Jt * (exp (b / Jt) - 1) <= Jt * (exp (b' / Jt) - 1).
Proof.
move=> J0 bb; apply: Rmult_le_compat_l; first lra.
suff : exp (b / Jt) <= exp (b' / Jt) by lra.
have i0 := Rinv_0_lt_compat _ J0; have : b / Jt <= b' / Jt by apply: Rmult_le_compat_r; lra.
by case=> [lt|->]; [have := exp_increasing _ _ lt; lra | lra].
Qed.

(* ------------------------------------------------------------------ one row: the best step for weights w >= 0 *)
Section Row.
Variables (A : finType) (p w : A -> R).
Hypotheses (hp : dist p) (w0 : forall a, 0 <= w a).
Definition tot := \sum_(a : A) (p a * w a).
(* p w / tot; if tot = 0: stay *)
Definition best a := if Rlt_dec 0 tot then p a * w a / tot else p a.
Lemma pw_ge0 a : 0 <= p a * w a. Proof. exact: Rmult_le_pos (proj1 hp a) (w0 a). Qed.
Lemma tot_ge0 : 0 <= tot. Proof. by apply: sum_ge0 => a; exact: pw_ge0. Qed.
Lemma best_tot a : tot * best a = p a * w a.
Proof.
rewrite /best; case: Rlt_dec => [t0|t0] /=; first by rewrite /Rdiv -Rmult_assoc (Rmult_comm tot) Rmult_assoc Rinv_r; lra.
have t1 := tot_ge0; have x0 := pw_ge0 a; have := @term_le_sum _ (fun a => p a * w a) a pw_ge0; rewrite -/tot => x1.
have -> : tot = 0 by lra.
lra.
Qed.
Lemma best_dist : dist best.
Proof.
rewrite /best; case: Rlt_dec => [t0|_] //; split=> [a|].
  by apply: Rmult_le_pos; [exact: pw_ge0 | apply/Rlt_le/Rinv_0_lt_compat].
by rewrite /Rdiv sumZr -/tot Rinv_r //; lra.
Qed.
Lemma best_uses a : 0 < best a -> 0 < p a.
Proof.
case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => // E; rewrite /best -E.
by case: (Rlt_dec 0 tot) => t /=; rewrite /Rdiv ?Rmult_0_l; lra.
Qed.
Lemma best_drops a : 0 < p a -> 0 < best a \/ w a = 0.
Proof.
move=> pa; case: (Rle_lt_or_eq_dec _ _ (proj1 best_dist a)) => [|E]; first by left.
right; have := best_tot a; rewrite -E => h; have : p a * w a = 0 by lra.
by case/Rmult_integral; lra.
Qed.
(* its value, (4) of the page *)
Lemma best_value : \sum_(a : A) (p a * (ln (best a / p a) * w a)) = tot * kl best p.
Proof.
rewrite /kl -sumZ; apply: sumE => a.
have -> : p a * (ln (best a / p a) * w a) = ln (best a / p a) * (p a * w a) by lra.
by rewrite -best_tot; lra.
Qed.
Lemma best_kl_ge0 : 0 <= kl best p.
Proof. by rewrite -(kterm_sum best_dist hp); apply: sum_ge0 => a; apply: kterm_ge0 best_dist hp _; exact: best_uses. Qed.
(* Gibbs: no other row has a greater score *)
Lemma best_is_best q : dist q -> (forall a, 0 < p a * w a -> 0 < q a) ->
  \sum_(a : A) (p a * (ln (q a / p a) * w a)) <= \sum_(a : A) (p a * (ln (best a / p a) * w a)).
Proof.
move=> [q0 q1] hk.
suff : \sum_(a : A) (p a * (ln (q a / p a) * w a)) <= \sum_(a : A) (p a * (ln (best a / p a) * w a) + tot * (q a - best a)).
  by rewrite sumD sumZ sumB q1 (proj2 best_dist); lra.
apply: sum_le => a; case: (Rle_lt_or_eq_dec _ _ (pw_ge0 a)) => [x0|E]; last first.
  have -> : p a * (ln (q a / p a) * w a) = ln (q a / p a) * (p a * w a) by lra.
  have -> : p a * (ln (best a / p a) * w a) = ln (best a / p a) * (p a * w a) by lra.
  have := Rmult_le_pos _ _ tot_ge0 (q0 a); have := best_tot a; rewrite -E; lra.
have qa := hk a x0; have pa : 0 < p a.
  by case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => // E; move: x0; rewrite -E; lra.
have ba : 0 < best a by case: (best_drops pa) => // wa; move: x0; rewrite wa; lra.
have l1 := ln_le (Rdiv_lt_0_compat _ _ qa ba).
have lE : ln (q a / p a) = ln (q a / best a) + ln (best a / p a).
  rewrite -ln_mult; [congr ln; field; lra | exact: Rdiv_lt_0_compat | exact: Rdiv_lt_0_compat].
rewrite lE; have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ x0) l1.
have -> : p a * w a * (q a / best a - 1) = tot * (q a - best a) by rewrite -best_tot; field; lra.
lra.
Qed.
End Row.

(* ------------------------------------------------------------------ (e): one term for each agent, from one evaluation *)
Section Stage.
Variables (A B I : finType) (S : Type).
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (p q : S -> A -> R) (only : I -> S -> A -> R) (ok : nat -> S -> Prop) (Phi : nat -> S -> R).
Hypotheses (hp : policy p) (hq : policy q) (ho : forall k, policy (only k)).
Hypotheses (hk : forall s, keeps (p s) (q s)) (hko : forall k s, keeps (p s) (only k s)).
(* (5) of the page: the ratio of the team is the product of the ratios of the teams in which one agent is new *)
Hypothesis fac : forall s a, 0 < p s a -> ln (q s a / p s a) = \sum_(k : I) ln (only k s a / p s a).
Theorem S9_e t s : reach e next q ok -> floor e next q r ok Phi -> ok t s ->
  \sum_(k : I) (L e next r p (only k) t s - path_sum e next p (charge e next p (only k) r Phi) t s) <= V e next r q t s - V e next r p t s.
Proof.
move=> hr hf os; apply: Rle_trans (S9 e_dist hp hq hk hr hf os); apply: Req_le; symmetry.
transitivity (path_sum e next p (fun u x => \sum_(k : I) score e next p (only k) r Phi u x) t s).
  apply: path_sumE => u x; rewrite /score sum_swap; apply: sumE => a; rewrite sumZ.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|<-]; last lra.
  by congr (_ * _); rewrite fac // sumZr.
rewrite path_sum_sum; apply: sumE => k; rewrite /L -path_sumB; apply: path_sumE => u x; exact: scoreE.
Qed.
End Stage.
(* turn-taking: agent j s acts at s *)
Lemma fac_turns (A I : finType) (S : Type) (j : S -> I) (p q : S -> A -> R) s a :
  0 < p s a -> ln (q s a / p s a) = \sum_(k : I) ln ((if j s == k then q s else p s) a / p s a).
Proof.
move=> pa; rewrite (sumE (G := fun k => if j s == k then ln (q s a / p s a) else 0)) => [|k]; last first.
  by case: eqP => // _; rewrite /Rdiv Rinv_r ?ln_1; lra.
by rewrite -big_mkcond (big_pred1 (j s)) // => k /=; rewrite eq_sym.
Qed.
(* product team: all act at once *)
Section Product.
Variables (I M : finType).
Implicit Types (p q : I -> M -> R) (f : {ffun I -> M}).
Definition swap p q k l := if l == k then q l else p l.
Definition others p k f := \big[Rmult/1]_(l : I | l != k) p l (f l).
Lemma joint_split p k f : joint p f = p k (f k) * others p k f.
Proof. by rewrite /joint (bigD1 k). Qed.
Lemma joint_swap p q k f : joint (swap p q k) f = q k (f k) * others p k f.
Proof.
rewrite (joint_split _ k) {1}/swap eqxx; congr (_ * _); apply: eq_bigr => l /negbTE nl; by rewrite /swap nl.
Qed.
Lemma joint_pos p f : (forall k, dist (p k)) -> 0 < joint p f -> forall k, 0 < p k (f k) /\ 0 < others p k f.
Proof.
move=> h jp k; rewrite (joint_split _ k) in jp.
have o0 : 0 <= others p k f by apply: (big_ind (Rle 0)) => [|*|l _]; [lra | exact: Rmult_le_pos | exact: (proj1 (h l))].
have p0 := proj1 (h k) (f k).
by split; [case: (Rle_lt_or_eq_dec _ _ p0) => // E; move: jp; rewrite -E | case: (Rle_lt_or_eq_dec _ _ o0) => // E; move: jp; rewrite -E]; lra.
Qed.
Lemma ln_joint p q f : (forall k, 0 < p k (f k)) -> (forall k, 0 < q k (f k)) ->
  ln (joint q f / joint p f) = \sum_(k : I) ln (q k (f k) / p k (f k)).
Proof.
move=> hp hq; suff [_ [_ ->]] : 0 < joint q f /\ 0 < joint p f /\ ln (joint q f / joint p f) = \sum_(k : I) ln (q k (f k) / p k (f k)) by [].
rewrite /joint; apply: (big_ind3 (fun x y z => 0 < x /\ 0 < y /\ ln (x / y) = z)) => //.
- by split; [lra | split; [lra | rewrite /Rdiv Rinv_r ?ln_1; lra]].
- move=> x1 x2 x3 y1 y2 y3 [a1 [a2 <-]] [b1 [b2 <-]]; split; first exact: Rmult_lt_0_compat.
  split; first exact: Rmult_lt_0_compat.
  have -> : x1 * y1 / (x2 * y2) = (x1 / x2) * (y1 / y2) by field; lra.
  by rewrite ln_mult //; apply: Rdiv_lt_0_compat.
Qed.
Lemma fac_product p q f : (forall k, dist (p k)) -> (forall k, 0 < p k (f k) -> 0 < q k (f k)) -> 0 < joint p f ->
  ln (joint q f / joint p f) = \sum_(k : I) ln (joint (swap p q k) f / joint p f).
Proof.
move=> hp hk jp; have pos := joint_pos hp jp.
rewrite ln_joint => [|k|k]; [|exact: (proj1 (pos k)) | exact: hk (proj1 (pos k))].
apply: sumE => k; have [p0 o0] := pos k; rewrite joint_swap (joint_split _ k); congr ln; field; lra.
Qed.
(* the mean of w over the others' actions, given one's own *)
Definition bar p (w : {ffun I -> M} -> R) k m := \sum_(f : {ffun I -> M}) (if f k == m then others p k f * w f else 0).
Lemma bar_mean p w k h : \sum_(f : {ffun I -> M}) (joint p f * (h (f k) * w f)) = \sum_(m : M) (p k m * (h m * bar p w k m)).
Proof.
rewrite [RHS](sumE (G := fun m => \sum_(f : {ffun I -> M}) (if f k == m then p k m * (h m * (others p k f * w f)) else 0))) => [|m].
  rewrite sum_swap; apply: sumE => f; rewrite -big_mkcond (big_pred1 (f k)) => [|m /=]; last by rewrite eq_sym.
  by rewrite (joint_split _ k); lra.
by rewrite /bar -!sumZ; apply: sumE => f; case: eqP => _; lra.
Qed.
Lemma bar_ge0 p w k m : (forall l, dist (p l)) -> (forall f, 0 <= w f) -> 0 <= bar p w k m.
Proof.
move=> hp w0; apply: sum_ge0 => f; case: eqP => _; last lra.
by apply: Rmult_le_pos => //; apply: (big_ind (Rle 0)) => [|*|l _]; [lra | exact: Rmult_le_pos | exact: (proj1 (hp l))].
Qed.
(* every agent takes its best row at once: the scores add up, and what is dropped has weight zero *)
Section Best.
Variables (p : I -> M -> R) (w : {ffun I -> M} -> R) (moves : pred I).
Hypotheses (hp : forall k, dist (p k)) (w0 : forall f, 0 <= w f).
Definition bests k := if moves k then best (p k) (bar p w k) else p k.
Let b0 k m := bar_ge0 k m hp w0.
Lemma bests_dist k : dist (bests k). Proof. by rewrite /bests; case: (moves k) => //; exact: best_dist. Qed.
Lemma bests_uses f : 0 < joint bests f -> 0 < joint p f.
Proof.
move=> jb; apply: (big_ind (Rlt 0)) => [|*|k _]; [lra | exact: Rmult_lt_0_compat |].
have [+ _] := joint_pos bests_dist jb k; rewrite /bests; case: (moves k) => //; exact: best_uses.
Qed.
Lemma bests_drops f : 0 < joint p f -> 0 < joint bests f \/ w f = 0.
Proof.
move=> jp; have pos := joint_pos hp jp; case: (Rle_lt_or_eq_dec _ _ (proj1 (joint_dist bests_dist) f)) => [|E]; [by left | right].
have [k bk] : exists k, bar p w k (f k) = 0.
  case: (pickP (fun k => if Rlt_dec 0 (bests k (f k)) then false else true)) => [k hk|no].
    exists k; move: hk; case: Rlt_dec => // nb _; have [p0 _] := pos k; move: nb; rewrite /bests.
    by case: (moves k) => nb //; case: (best_drops (hp k) (b0 k) p0).
  suff : 0 < joint bests f by lra.
  by apply: (big_ind (Rlt 0)) => [|*|k _]; [lra | exact: Rmult_lt_0_compat | have := no k; case: Rlt_dec].
have [_ o0] := pos k.
have := @term_le_sum _ (fun g : {ffun I -> M} => if g k == f k then others p k g * w g else 0) f => h; rewrite -/(bar p w k (f k)) bk eqxx in h.
have {}h : others p k f * w f <= 0.
  apply: h => g; case: eqP => _; last lra.
  by apply: Rmult_le_pos => //; apply: (big_ind (Rle 0)) => [|*|l _]; [lra | exact: Rmult_le_pos | exact: (proj1 (hp l))].
by have := w0 f; nra.
Qed.
Theorem bests_value : \sum_(f : {ffun I -> M}) (joint p f * (ln (joint bests f / joint p f) * w f))
  = \sum_(k : I) ((\sum_(f : {ffun I -> M}) (joint p f * w f)) * kl (bests k) (p k)).
Proof.
have E k : (\sum_(f : {ffun I -> M}) (joint p f * w f)) * kl (bests k) (p k)
    = \sum_(f : {ffun I -> M}) (joint p f * (ln (bests k (f k) / p k (f k)) * w f)).
  rewrite (bar_mean p w k (fun m => ln (bests k m / p k m))) /bests; case: (moves k); last first.
    have z m : p k m * ln (p k m / p k m) = 0.
      case: (Rle_lt_or_eq_dec _ _ (proj1 (hp k) m)) => [pm|<-]; last lra.
      by rewrite /Rdiv Rinv_r ?ln_1; lra.
    rewrite /kl (sum0 z) sum0 => [|m]; first lra.
    by rewrite -Rmult_assoc z; lra.
  rewrite (best_value (hp k) (b0 k)).
  congr (_ * _); rewrite (sumE (G := fun f => joint p f * (1 * w f))) => [|f]; last lra.
  by rewrite (bar_mean p w k (fun _ => 1)); apply: sumE => m; lra.
rewrite (sumE E) sum_swap; apply: sumE => f; rewrite sumZ.
case: (Rle_lt_or_eq_dec _ _ (proj1 (joint_dist hp) f)) => [jp|<-]; last lra.
congr (_ * _); rewrite sumZr; case: (bests_drops jp) => [jb|->]; last lra.
have pos := joint_pos hp jp; have pob := joint_pos bests_dist jb.
by rewrite ln_joint // => k; [exact: (proj1 (pos k)) | exact: (proj1 (pob k))].
Qed.
End Best.
End Product.

Lemma path_sum_zero (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) p t s :
  path_sum e next p (fun _ _ => 0) t s = 0.
Proof.
elim: t s => [//|t ih] s; rewrite /= sum0 => [|a]; first lra.
by rewrite /after sum0 => [|b]; rewrite ?ih; lra.
Qed.

(* ------------------------------------------------------------------ (d): the closed step, episodic *)
Section Learn.
Variables (A B : finType) (S : Type).
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
(* the number of steps left is part of the state, as in every episodic team; ok holds what the current policy visits *)
Variables (p : S -> A -> R) (ok : nat -> S -> Prop) (left_ : S -> nat) (Phi : nat -> S -> R).
Hypotheses (hp : policy p) (clock : forall u s, ok u s -> left_ s = u).
Hypothesis ok_next : forall u s a b, ok u.+1 s -> 0 < p s a -> 0 < e s a b -> ok u (next s a b).
Hypothesis F_end : forall s, ok O s -> Phi O s <= 0.
Hypothesis F_step : forall u s a, ok u.+1 s -> 0 < p s a -> Phi u.+1 s <= \sum_(b : B) (e s a b * (r s a b + Phi u (next s a b))).

Lemma path_sum_ok f g t s : ok t s -> (forall u x, ok u.+1 x -> f u x <= g u x) -> path_sum e next p f t s <= path_sum e next p g t s.
Proof.
move=> + E; elim: t s => [|t ih] s os; first by rewrite /=; lra.
rewrite /=; apply: Rplus_le_compat; first exact: E.
apply: sum_pos_le => [a|a pa]; first exact: (proj1 (hp s)).
apply: sum_le => b; have [e0 _] := e_dist s a; case: (Rle_lt_or_eq_dec _ _ (e0 b)) => [eb|<-]; last lra.
by apply: Rmult_le_compat_l; [lra | apply: ih; apply: ok_next eb].
Qed.
(* Q - Phi, which is >= 0 at what is visited (elsewhere it is cut) *)
Definition worth s a := Rmax 0 (Q e next r p (left_ s).-1 s a - Phi (left_ s) s).
Lemma worth_ge0 s a : 0 <= worth s a. Proof. exact: Rmax_l. Qed.

Section Update.
Variables (q : S -> A -> R) (bound : S -> R).
Hypotheses (hq : policy q) (q_uses : forall s a, 0 < q s a -> 0 < p s a).
Hypothesis q_drops : forall s a, 0 < p s a -> 0 < q s a \/ worth s a = 0.
Hypothesis value : forall s, \sum_(a : A) (p s a * (ln (q s a / p s a) * worth s a)) = bound s.
Let us s a : uses p q s a -> 0 < p s a. Proof. by case=> // /q_uses. Qed.
Lemma worthE u s a : ok u.+1 s -> 0 < p s a -> worth s a = Q e next r p u s a - Phi u.+1 s.
Proof.
move=> os pa; rewrite /worth (clock os) /= Rmax_right //.
apply: (adv_ge0 (q := q) e_dist hp _ F_end _ os pa) => [v x c b ox ux|v x c ox ux]; [exact: ok_next (us ux) | exact: F_step (us ux)].
Qed.
Lemma update_improves t s : ok t s -> path_sum e next p (fun _ x => bound x) t s <= V e next r q t s - V e next r p t s.
Proof.
move=> os.
have next_u u x a b : ok u.+1 x -> uses p q x a -> 0 < e x a b -> ok u (next x a b) by move=> ox ux; exact: ok_next (us ux).
have F_u u x a : ok u.+1 x -> uses p q x a -> Phi u.+1 x <= \sum_(b : B) (e x a b * (r x a b + Phi u (next x a b))).
  by move=> ox ux; exact: F_step (us ux).
have drops_u u x a : ok u.+1 x -> 0 < p x a -> 0 < q x a \/ Q e next r p u x a <= Phi u.+1 x.
  move=> ox pa; case: (q_drops pa) => [|z]; [by left | right].
  by have := worthE ox pa; lra.
apply: Rle_trans (S9_drop e_dist hp hq next_u F_end F_u drops_u os).
apply: (path_sum_ok os) => u x ox; rewrite -value; apply: Req_le; apply: sumE => a.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|<-]; last lra.
by rewrite (worthE ox pa).
Qed.
End Update.

(* ---- turn-taking: own s says that an agent that updates acts at s (one agent, or all of them at once) *)
Variable own : S -> bool.
Definition learn s := if own s then best (p s) (worth s) else p s.
Definition learn_bound s := if own s then tot (p s) (worth s) * kl (learn s) (p s) else 0.
Lemma stay_value s : \sum_(a : A) (p s a * (ln (p s a / p s a) * worth s a)) = 0.
Proof.
apply: sum0 => a; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
by rewrite /Rdiv Rinv_r ?ln_1; lra.
Qed.
Lemma learn_policy : policy learn.
Proof. by move=> s; rewrite /learn; case: (own s) => //; apply: best_dist => // a; exact: worth_ge0. Qed.
Lemma learn_value s : \sum_(a : A) (p s a * (ln (learn s a / p s a) * worth s a)) = learn_bound s.
Proof.
rewrite /learn_bound /learn; case: (own s); last exact: stay_value.
by rewrite (best_value (hp s) (worth_ge0 s)).
Qed.
(* S9 (d): after the step pi' ~ pi (Q - Phi) the value is larger by at least sum_s m Vt KL(pi'||pi) >= 0, Vt = sum_a pi (Q - Phi),
   whoever moves: one agent, some, or all at once, from the rollouts of the current team *)
Theorem S9_d t s : ok t s ->
  0 <= path_sum e next p (fun _ x => learn_bound x) t s <= V e next r learn t s - V e next r p t s.
Proof.
move=> os; split; last first.
  apply: (update_improves (q := learn) (bound := learn_bound)) os => [|x a|x a pa|x].
  - exact: learn_policy.
  - by rewrite /learn; case: (own x) => //; apply: best_uses.
  - by rewrite /learn; case: (own x); [apply: best_drops => // c; exact: worth_ge0 | left].
  exact: learn_value.
rewrite -(path_sum_zero e next p t s).
apply: (path_sum_ok os) => u x _; rewrite /learn_bound /learn; case: (own x); last lra.
apply: Rmult_le_pos; first by apply: tot_ge0 => // a; exact: worth_ge0.
by apply: best_kl_ge0 => // a; exact: worth_ge0.
Qed.
(* ... and no other rows of the same agents have a greater bound in S9. (A row that drops an action with Q > Phi has bound -oo.) *)
Theorem S9_d_best q t s : policy q -> (forall x a, ~~ own x -> q x a = p x a) ->
  (forall u x a, ok u.+1 x -> 0 < p x a -> Phi u.+1 x < Q e next r p u x a -> 0 < q x a) -> ok t s ->
  path_sum e next p (score e next p q r Phi) t s <= path_sum e next p (fun _ x => learn_bound x) t s.
Proof.
move=> hq same hk os; apply: (path_sum_ok os) => u x ox; rewrite -learn_value.
have wE a : 0 < p x a -> worth x a = Q e next r p u x a - Phi u.+1 x.
  by move=> pa; apply: (worthE (q := p)) => // y c [].
rewrite /score (sumE (G := fun a => p x a * (ln (q x a / p x a) * worth x a))) => [|a]; last first.
  by case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => [pa|<-]; [rewrite (wE _ pa) | lra].
rewrite /learn; case ho : (own x); last by apply: Req_le; apply: sumE => a; rewrite same ?ho.
apply: best_is_best => // [a|a pw]; first exact: worth_ge0.
have pa : 0 < p x a by case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) a)) => // E; move: pw; rewrite -E; lra.
apply: (hk u) => //; rewrite (wE _ pa) in pw; nra.
Qed.
End Learn.

(* ---- product team: all agents (or those in moves) take pi_k' ~ pi_k mean(Q - Phi over the others) at once *)
Section LearnProduct.
Variables (I M B : finType) (S : Type).
Variables (e : S -> {ffun I -> M} -> B -> R) (next : S -> {ffun I -> M} -> B -> S) (r : S -> {ffun I -> M} -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
Variables (row : S -> I -> M -> R) (ok : nat -> S -> Prop) (left_ : S -> nat) (Phi : nat -> S -> R) (moves : pred I).
Hypotheses (hrow : forall s k, dist (row s k)) (clock : forall u s, ok u s -> left_ s = u).
Let p s := joint (row s).
Hypothesis ok_next : forall u s a b, ok u.+1 s -> 0 < p s a -> 0 < e s a b -> ok u (next s a b).
Hypothesis F_end : forall s, ok O s -> Phi O s <= 0.
Hypothesis F_step : forall u s a, ok u.+1 s -> 0 < p s a -> Phi u.+1 s <= \sum_(b : B) (e s a b * (r s a b + Phi u (next s a b))).
Let w := worth e next r p left_ Phi.
Definition new s := bests (row s) (w s) moves.
Theorem S9_d_product t s : ok t s ->
  let bound x := \sum_(k : I) (tot (p x) (w x) * kl (new x k) (row x k)) in
  0 <= path_sum e next p (fun _ x => bound x) t s <= V e next r (fun x => joint (new x)) t s - V e next r p t s.
Proof.
move=> os bound; have hp : policy p by move=> x; exact: joint_dist.
have w0 x f : 0 <= w x f by exact: worth_ge0.
split; last first.
  apply: (update_improves e_dist hp clock ok_next F_end F_step) os => [x|x f|x f|x].
  - by apply: joint_dist => k; exact: bests_dist.
  - exact: bests_uses.
  - exact: bests_drops.
  exact: bests_value.
rewrite -(path_sum_zero e next p t s).
apply: (path_sum_ok e_dist hp ok_next) os _ => u x _; apply: sum_ge0 => k; apply: Rmult_le_pos; first exact: tot_ge0.
rewrite /new /bests; case: (moves k); first by apply: best_kl_ge0 => // m; exact: bar_ge0.
by rewrite -(kterm_sum (hrow x k) (hrow x k)); apply: sum_ge0 => m; apply: kterm_ge0.
Qed.
End LearnProduct.
