(* S9 (d)-(g), and the step of U1. The induction of S9 holds for every weight lam > 0 at once. Its best lam is the form (g),
   so Jensen's inequality is not needed; lam -> 0 allows an action to be dropped where Q = Phi. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz Ranalysis5.
From TeamTR Require Import Sums Episodic Discounted Existence.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Lemma small x y : (forall lam, 0 < lam -> x <= lam * y) -> x <= 0.
Proof.
move=> h; case: (Rle_lt_dec x 0) => // x0; case: (Rle_lt_dec y 0) => y0; first by have := h 1 Rlt_0_1; lra.
have y2 : 0 < 2 * y by lra.
have := h (x / (2 * y)) (Rdiv_lt_0_compat _ _ x0 y2); have -> : x / (2 * y) * y = x / 2 by field; lra.
lra.
Qed.

(* (I) for every weight is (g): its best weight is exp(-b/Jt), and e^x >= 1 + x and e^x >= 0 are the two simpler bounds *)
Lemma every_weight_g Jt b X : 0 < Jt -> (forall lam, 0 < lam -> (1 + ln lam) * Jt + b <= lam * X) ->
  Jt * (exp (b / Jt) - 1) <= X - Jt /\ Rmax b (- Jt) <= Jt * (exp (b / Jt) - 1).
Proof.
move=> J0 every; have := every _ (exp_pos (- (b / Jt))); rewrite ln_exp exp_Ropp => h.
have E0 := exp_pos (b / Jt); set E := exp (b / Jt) in E0 h *.
split.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ E0) h.
  have -> : E * ((1 + - (b / Jt)) * Jt + b) = E * Jt by field; lra.
  have -> : E * (/ E * X) = X by field; lra.
  by lra.
have l1 := exp_ineq1_le (b / Jt); rewrite -/E in l1.
have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ J0) l1; have -> : Jt * (1 + b / Jt) = Jt + b by field; lra.
have := Rmult_lt_0_compat _ _ J0 E0 => a1 a2.
by apply: Rmax_lub; lra.
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
move=> J0 Jt gain; have -> : gain = excess q - Jt.
  by rewrite /gain /Jt /excess /from_rho -!sumB; apply: sumE => i; lra.
by apply: every_weight_g => // lam l0; exact: S9_every_weight_rho.
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
  \sum_(k : I) (L e next r p (only k) t s - path_sum e next p (charge e next p (only k) r Phi) t s) <=
    V e next r q t s - V e next r p t s.
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
by split; [case: (Rle_lt_or_eq_dec _ _ p0) => // E; move: jp; rewrite -E
  | case: (Rle_lt_or_eq_dec _ _ o0) => // E; move: jp; rewrite -E]; lra.
Qed.
Lemma ln_joint p q f : (forall k, 0 < p k (f k)) -> (forall k, 0 < q k (f k)) ->
  ln (joint q f / joint p f) = \sum_(k : I) ln (q k (f k) / p k (f k)).
Proof.
move=> hp hq; suff [_ [_ ->]] : 0 < joint q f /\ 0 < joint p f /\ ln (joint q f / joint p f)
  = \sum_(k : I) ln (q k (f k) / p k (f k)) by [].
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
Lemma joint_keeps p q : (forall k, dist (p k)) -> (forall k, keeps (p k) (q k)) -> keeps (joint p) (joint q).
Proof.
move=> hp hk f jp; apply: (big_ind (Rlt 0)) => [|*|k _]; [lra | exact: Rmult_lt_0_compat |].
by apply: hk; exact: (proj1 (joint_pos hp jp k)).
Qed.
(* the mean of w over the others' actions, given one's own *)
Definition bar p (w : {ffun I -> M} -> R) k m := \sum_(f : {ffun I -> M}) (if f k == m then others p k f * w f else 0).
Lemma bar_mean p w k h : \sum_(f : {ffun I -> M}) (joint p f * (h (f k) * w f)) = \sum_(m : M) (p k m * (h m * bar p w k m)).
Proof.
rewrite [RHS](sumE (G := fun m => \sum_(f : {ffun I -> M}) (if f k == m then p k m * (h m * (others p k f * w f)) else 0))) =>
  [|m].
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
have := @term_le_sum _ (fun g : {ffun I -> M} => if g k == f k then others p k g * w g else 0) f => h;
  rewrite -/(bar p w k (f k)) bk eqxx in h.
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
(* no other rows of the same agents score more *)
Theorem bests_are_best q : (forall k, dist (q k)) -> (forall k m, ~~ moves k -> q k m = p k m) ->
  (forall f, 0 < joint p f * w f -> 0 < joint q f) ->
  \sum_(f : {ffun I -> M}) (joint p f * (ln (joint q f / joint p f) * w f))
  <= \sum_(f : {ffun I -> M}) (joint p f * (ln (joint bests f / joint p f) * w f)).
Proof.
move=> hq same hk.
have E (x : I -> M -> R) : (forall k, dist (x k)) -> (forall f, 0 < joint p f * w f -> 0 < joint x f) ->
    \sum_(f : {ffun I -> M}) (joint p f * (ln (joint x f / joint p f) * w f))
    = \sum_(k : I) \sum_(m : M) (p k m * (ln (x k m / p k m) * bar p w k m)).
  move=> hx hp0; rewrite (sumE (F := fun k => \sum_(m : M) _) (fun k => esym (bar_mean p w k (fun m => ln (x k m / p k m))))).
  rewrite sum_swap; apply: sumE => f; rewrite sumZ.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (joint_dist hp) f)) => [jp|<-]; last lra.
  congr (_ * _); rewrite sumZr; case: (Rle_lt_or_eq_dec _ _ (w0 f)) => [wf|<-]; last lra.
  have jx := hp0 f (Rmult_lt_0_compat _ _ jp wf); have pos := joint_pos hp jp; have pox := joint_pos hx jx.
  by rewrite ln_joint // => k; [exact: (proj1 (pos k)) | exact: (proj1 (pox k))].
have hb f : 0 < joint p f * w f -> 0 < joint bests f.
  move=> jw; have j0 := proj1 (joint_dist hp) f; case: (Rle_lt_or_eq_dec _ _ j0) => [jp|Z]; last by move: jw; rewrite -Z; lra.
  by case: (bests_drops jp) => // z; move: jw; rewrite z; lra.
rewrite (E q) // (E bests) //; last exact: bests_dist.
apply: sum_le => k; rewrite /bests; case mk : (moves k); last by apply: Req_le; apply: sumE => m; rewrite same ?mk.
apply: best_is_best => [//|m|//|m pb]; first exact: b0.
have pm : 0 < p k m by case: (Rle_lt_or_eq_dec _ _ (proj1 (hp k) m)) => // Z; move: pb; rewrite -Z; lra.
have bm : 0 < bar p w k m by case: (Rle_lt_or_eq_dec _ _ (b0 k m)) => // Z; move: pb; rewrite -Z; lra.
have o0 f : 0 <= others p k f by apply: (big_ind (Rle 0)) => [|*|l _]; [lra | exact: Rmult_le_pos | exact: (proj1 (hp l))].
case: (pickP (fun f : {ffun I -> M} => (f k == m) && (if Rlt_dec 0 (others p k f * w f) then true else false))) => [f|no].
  case/andP => /eqP fk; case: Rlt_dec => // ow _; have jq : 0 < joint q f.
    by apply: hk; rewrite (joint_split _ k) fk Rmult_assoc; exact: Rmult_lt_0_compat.
  by have [+ _] := joint_pos hq jq k; rewrite fk.
suff : bar p w k m <= 0 by lra.
rewrite -[X in _ <= X](@sum0 _ (fun _ : {ffun I -> M} => 0) (fun _ => erefl)); apply: sum_le => f; have := no f.
by case: eqP => _ /=; [case: Rlt_dec => // n _; lra | lra].
Qed.
End Best.
End Product.

Corollary S9_e_turns (A B I : finType) (S : Type) (e : S -> A -> B -> R) next r (p q : S -> A -> R) (j : S -> I) ok Phi t s :
  let only k x := if j x == k then q x else p x in
  (forall x a, dist (e x a)) -> policy p -> policy q -> (forall x, keeps (p x) (q x)) ->
  reach e next q ok -> floor e next q r ok Phi -> ok t s ->
  \sum_(k : I) (L e next r p (only k) t s - path_sum e next p (charge e next p (only k) r Phi) t s) <=
    V e next r q t s - V e next r p t s.
Proof.
move=> only he hp hq hk hr hf os; apply: (S9_e he hp hq _ hk _ _ hr hf os) => [k x|k x|x a].
- by rewrite /only; case: eqP.
- by rewrite /only; case: eqP => // _ a.
exact: fac_turns.
Qed.
Corollary S9_e_product (I M B : finType) (S : Type) (e : S -> {ffun I -> M} -> B -> R) next r (row new : S -> I -> M ->
  R) ok Phi t s :
  let p x := joint (row x) in let q x := joint (new x) in let only k x := joint (swap (row x) (new x) k) in
  (forall x a, dist (e x a)) -> (forall x k, dist (row x k)) -> (forall x k, dist (new x k)) ->
  (forall x k, keeps (row x k) (new x k)) -> reach e next q ok -> floor e next q r ok Phi -> ok t s ->
  \sum_(k : I) (L e next r p (only k) t s - path_sum e next p (charge e next p (only k) r Phi) t s) <=
    V e next r q t s - V e next r p t s.
Proof.
move=> p q only he hrow hnew hk hr hf os.
have hp : policy p by move=> x; exact: joint_dist.
have hq : policy q by move=> x; exact: joint_dist.
apply: (S9_e he hp hq _ _ _ _ hr hf os) => [k x|x|k x|x f jp].
- by apply: joint_dist => l; rewrite /swap; case: (l == k).
- exact: joint_keeps.
- by apply: joint_keeps => // l; rewrite /swap; case: (l == k) => // m.
by apply: fac_product => // k; apply: hk.
Qed.

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

Lemma path_sum_ok f g t s : ok t s -> (forall u x, ok u.+1 x -> f u x <= g u x) ->
  path_sum e next p f t s <= path_sum e next p g t s.
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
apply: (adv_ge0 (q := q) e_dist hp _ F_end _ os pa) => [v x c b ox ux|v x c ox ux];
  [exact: ok_next (us ux) | exact: F_step (us ux)].
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
(* ... and no other rows of the same agents have a greater bound in S9. (A row that drops an action with
   Q > Phi has bound -oo.) *)
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
Theorem S9_d_product_best q t s : (forall x k, dist (q x k)) -> (forall x k m, ~~ moves k -> q x k m = row x k m) ->
  (forall x f, 0 < p x f * w x f -> 0 < joint (q x) f) -> ok t s ->
  path_sum e next p (score e next p (fun x => joint (q x)) r Phi) t s
  <= path_sum e next p (fun _ x => \sum_(k : I) (tot (p x) (w x) * kl (new x k) (row x k))) t s.
Proof.
move=> hq same hk os; have hp : policy p by move=> x; exact: joint_dist.
apply: (path_sum_ok e_dist hp ok_next) os _ => u x ox.
have -> : \sum_(k : I) (tot (p x) (w x) * kl (new x k) (row x k))
    = \sum_(f : {ffun I -> M}) (p x f * (ln (joint (new x) f / p x f) * w x f)).
  by symmetry; apply: bests_value => // f; exact: worth_ge0.
rewrite /score (sumE (G := fun f => p x f * (ln (joint (q x) f / p x f) * w x f))) => [|f].
  have w0 f : 0 <= w x f by exact: worth_ge0.
  exact: (bests_are_best (hrow x) w0 (hq x) (same x) (hk x)).
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp x) f)) => [pf|<-]; last lra.
by rewrite /w (worthE (q := p) e_dist hp clock ok_next F_end F_step _ ox pf) // => y b [].
Qed.
End LearnProduct.

(* ------------------------------------------------------------------ (f): the range over which one agent can move the value
   What the agent faces is a world of its own, in which the others' actions belong to the environment; V, L and the KL are the
   same there, so that S9 applies with floors of that world. *)
Section Agent.
Variables (A B M : finType) (S : Type).
Variables (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R).
Hypothesis e_dist : forall s a, dist (e s a).
(* own action m leads to the joint action a with probability c s m a *)
Variables (c : S -> M -> A -> R) (mu nu : S -> M -> R) (p q : S -> A -> R).
Hypotheses (c_dist : forall s m, dist (c s m)) (hmu : policy mu) (hnu : policy nu).
Hypotheses (pE : forall s a, p s a = \sum_(m : M) (mu s m * c s m a)) (qE : forall s a, q s a = \sum_(m : M) (nu s m * c s m a)).

(* the agent's world: an outcome is what the others do, and what the environment does then *)
Definition e1 (s : S) (m : M) (o : A * B) := c s m o.1 * e s o.1 o.2.
Definition next1 (s : S) (m : M) (o : A * B) := next s o.1 o.2.
Definition r1 (s : S) (m : M) (o : A * B) := r s o.1 o.2.
Lemma sum_pair (F : A * B -> R) : \sum_(o : A * B) F o = \sum_(a : A) \sum_(b : B) F (a, b).
Proof. by rewrite pair_bigA; apply: eq_bigr => -[]. Qed.
Lemma e1_dist s m : dist (e1 s m).
Proof.
split=> [o|]; first exact: Rmult_le_pos (proj1 (c_dist s m) _) (proj1 (e_dist s _) _).
rewrite sum_pair -[RHS](proj2 (c_dist s m)); apply: sumE => a.
by rewrite /e1 /= sumZ (proj2 (e_dist s a)); lra.
Qed.
Lemma team_sum (kap : S -> M -> R) (t : S -> A -> R) s (F : A -> R) : (forall a, t s a = \sum_(m : M) (kap s m * c s m a)) ->
  \sum_(m : M) (kap s m * \sum_(a : A) (c s m a * F a)) = \sum_(a : A) (t s a * F a).
Proof.
move=> tE; rewrite (sumE (G := fun m => \sum_(a : A) (kap s m * c s m a * F a))) => [|m].
  by rewrite sum_swap; apply: sumE => a; rewrite sumZr -tE.
by rewrite -sumZ; apply: sumE => a; lra.
Qed.
Lemma after1 s m g : after e1 next1 s m g = \sum_(a : A) (c s m a * after e next s a g).
Proof. by rewrite /after sum_pair; apply: sumE => a; rewrite -sumZ; apply: sumE => b; rewrite /e1 /next1 /=; lra. Qed.
Lemma V1_Q1 kap t : (forall s a, t s a = \sum_(m : M) (kap s m * c s m a)) -> forall u s,
  V e1 next1 r1 kap u s = V e next r t u s /\
  forall m, Q e1 next1 r1 kap u s m = \sum_(a : A) (c s m a * Q e next r t u s a).
Proof.
move=> tE; have Q1 u s m : (forall x, V e1 next1 r1 kap u x = V e next r t u x) ->
    Q e1 next1 r1 kap u s m = \sum_(a : A) (c s m a * Q e next r t u s a).
  move=> h; rewrite /Q sum_pair; apply: sumE => a; rewrite -sumZ; apply: sumE => b.
  by rewrite /e1 /r1 /next1 /= h; lra.
have V1 u s : V e1 next1 r1 kap u s = V e next r t u s.
  elim: u s => [//|u ih] s; rewrite !VE -(team_sum (kap := kap) (fun a => Q e next r t u s a)) //.
  by apply: sumE => m; rewrite Q1.
by move=> u s; split=> // m; apply: Q1.
Qed.
Lemma path_sum1 f t s : path_sum e1 next1 mu f t s = path_sum e next p f t s.
Proof.
elim: t s => [//|t ih] s; rewrite /= -(team_sum (kap := mu) (fun a => after e next s a (path_sum e next p f t))) //.
congr (_ + _); apply: sumE => m; rewrite after1; congr (_ * _); apply: sumE => a; congr (_ * _).
by apply: sumE => b; rewrite ih.
Qed.
Lemma L1 t s : L e1 next1 r1 mu nu t s = L e next r p q t s.
Proof.
rewrite /L path_sum1; apply: path_sumE => u x; rewrite /gain -(team_sum (kap := nu) (fun a => Adv e next r p u x a)) //.
apply: sumE => m; congr (_ * _); have [_ Qm] := V1_Q1 pE u x; have [Vm _] := V1_Q1 pE u.+1 x.
rewrite /Adv Qm Vm (sumE (F := fun a => c x m a * (_ - _))
  (G := fun a => c x m a * Q e next r p u x a - c x m a * V e next r p u.+1 x)) => [|a]; last lra.
by rewrite sumB sumZr (proj2 (c_dist x m)); lra.
Qed.

(* rows differ at the agent's own states only; nothing is dropped *)
Variables (own : S -> bool) (ok : nat -> S -> Prop) (Phi Psi : nat -> S -> R) (rho : R).
Hypotheses (same : forall s m, ~~ own s -> nu s m = mu s m) (hk : forall s, keeps (mu s) (nu s)).
Hypothesis hr : reach e1 next1 nu ok.
Hypotheses (hf : floor e1 next1 nu r1 ok Phi) (hc : ceiling e1 next1 nu r1 ok Psi).
Hypothesis hrho : forall u s, ok u.+1 s -> own s -> Psi u.+1 s - Phi u.+1 s <= rho.

Lemma charge_own F t s : ok t s -> (forall u x m, ok u.+1 x -> 0 < nu x m -> F u x m <= Psi u.+1 x - Phi u.+1 x) ->
  path_sum e1 next1 mu (fun u x => \sum_(m : M) (kterm (mu x) (nu x) m * F u x m)) t s
    <= rho * path_sum e1 next1 mu (fun _ x => kl (mu x) (nu x)) t s.
Proof.
move=> os hF; rewrite -path_sumZ; apply: (path_sum_le e1_dist hmu hk hr os) => u x ox.
rewrite -(kterm_sum (hmu x) (hnu x)) -sumZ; apply: sum_le => m.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hmu x) m)) => pm; last first.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hnu x) m)) => qm; last by rewrite /kterm -pm -qm; lra.
  case ho : (own x); last by have := same m (negbT ho); rewrite -pm; lra.
  have := hF _ _ _ ox qm; have := hrho ox ho; have := kterm_ge0 m (hmu x) (hnu x) (hk (s := x)) => k0 a1 a2.
  by rewrite (Rmult_comm rho); apply: Rmult_le_compat_l; lra.
have qm := hk pm; have k0 := kterm_ge0 m (hmu x) (hnu x) (hk (s := x)).
case ho : (own x); last first.
  by rewrite /kterm (same m (negbT ho)) /Rdiv Rinv_r ?ln_1; lra.
have := hF _ _ _ ox qm; have := hrho ox ho => a1 a2.
by rewrite (Rmult_comm rho); apply: Rmult_le_compat_l; lra.
Qed.

(* ---- S9 (f): the gap of one agent's update is at most rho_i K_i, rho_i the largest range (Psi - Phi)(s) at its own visited
   states over which it alone can move the value *)
Theorem S9_f t s : ok t s ->
  Rabs (V e next r q t s - V e next r p t s - L e next r p q t s) <= rho * path_sum e next p (fun _ x => kl (mu x) (nu x)) t s.
Proof.
move=> os; have [<- _] := V1_Q1 qE t s; have [<- _] := V1_Q1 pE t s; rewrite -L1 -path_sum1.
have up_ u x m : ok u.+1 x -> 0 < nu x m -> Q e1 next1 r1 mu u x m <= Psi u.+1 x.
  move=> ox qm; have := above_floor_Q e1_dist (pi := mu) hr hc ox qm; rewrite Q_neg => h.
  suff : - Psi u.+1 x <= - Q e1 next1 r1 mu u x m by lra.
  by apply: h => y oy; apply: (above_floor e1_dist hr hc hmu) => // z b; apply: hk.
have lo u x m : ok u.+1 x -> 0 < nu x m -> Phi u.+1 x <= Q e1 next1 r1 mu u x m.
  by move=> ox qm; apply: (above_floor_Q e1_dist hr hf ox qm) => y oy; apply: (above_floor e1_dist hr hf hmu) => // z b;
    apply: hk.
have c1 := S9_charge e1_dist hmu hnu hk hr hf os; have c2 := S9_ceiling e1_dist hmu hnu hk hr hc os.
have b1 : path_sum e1 next1 mu (charge e1 next1 mu nu r1 Phi) t s <= rho * path_sum e1 next1 mu (fun _ x => kl (mu x) (nu x)) t s.
  by apply: (charge_own (F := fun u x m => Q e1 next1 r1 mu u x m - Phi u.+1 x) os) => u x m ox qm; have := up_ _ _ _ ox qm; lra.
have b2 := charge_own (F := fun u x m => Psi u.+1 x - Q e1 next1 r1 mu u x m) os.
have {}b2 := b2 (fun u x m ox qm => ltac:(have := lo _ _ _ ox qm; lra)).
by apply: Rabs_le; lra.
Qed.
End Agent.

(* ---- the floor and the ceiling of (f): the least and the greatest value of the agent's world, by backward induction *)
Section Least.
Variables (A B : finType) (S : Type) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (a0 : A).
Hypothesis e_dist : forall s a, dist (e s a).
Definition least (F : A -> R) := \big[Rmin/F a0]_(a : A) F a.
Lemma least_le F a : least F <= F a.
Proof.
rewrite /least; have : a \in index_enum A by rewrite mem_index_enum.
elim: (index_enum A) => [//|b l ih]; rewrite in_cons big_cons.
by case/orP => [/eqP <-|/ih]; [exact: Rmin_l | apply: Rle_trans (Rmin_r _ _)].
Qed.
Lemma least_is F : exists a, least F = F a.
Proof.
apply: (big_ind (fun x => exists a, x = F a)) => [|x y [a ->] [b ->]|a _]; [by exists a0 | | by exists a].
by rewrite /Rmin; case: Rle_dec => _; [exists a | exists b].
Qed.
Fixpoint Vmin (r : S -> A -> B -> R) t s : R :=
  if t is u.+1 then least (fun a => \sum_(b : B) (e s a b * (r s a b + Vmin r u (next s a b)))) else 0.
Definition Vmax r t s := - Vmin (neg r) t s.
Lemma Vmin_floor q r ok : floor e next q r ok (Vmin r).
Proof. by split=> [s _|u s a _ _]; [exact: Rle_refl | exact: least_le]. Qed.
Lemma Vmax_ceiling q r ok : ceiling e next q r ok (Vmax r).
Proof.
have [f0 f1] := Vmin_floor q (neg r) ok; split=> [s os|u s a os qa]; rewrite /Vmax Ropp_involutive; first exact: f0.
apply: Rle_trans (f1 u s a os qa) _; apply: Req_le; apply: sumE => b; lra.
Qed.
Lemma Vmin_le r pi t s : policy pi -> Vmin r t s <= V e next r pi t s.
Proof.
move=> hpi; apply: (above_floor e_dist (q := pi) (r := r) (ok := fun _ _ => True)) => //; exact: Vmin_floor.
Qed.
Lemma Vmax_ge r pi t s : policy pi -> V e next r pi t s <= Vmax r t s.
Proof. by move=> hpi; have := Vmin_le (neg r) t s hpi; rewrite V_neg /Vmax; lra. Qed.
(* attained: greedy rows, with the steps left as part of the state *)
Lemma Vmin_attained r (left_ : S -> nat) : (forall s a b, left_ (next s a b) = (left_ s).-1) ->
  exists2 pi, policy pi & forall t s, left_ s = t -> V e next r pi t s = Vmin r t s.
Proof.
move=> clock; pose F s a := \sum_(b : B) (e s a b * (r s a b + Vmin r (left_ s).-1 (next s a b))).
pose arg s := odflt a0 [pick a | (if Req_EM_T (F s a) (least (F s)) then true else false)].
have argE s : F s (arg s) = least (F s).
  rewrite /arg; case: pickP => [a|no] /=; first by case: Req_EM_T.
  by have [a E] := least_is (F s); have := no a; case: Req_EM_T => // ne; case: ne.
exists (fun s a => if a == arg s then 1 else 0) => [s|].
  by split=> [a|]; [case: eqP; lra | rewrite -big_mkcond (big_pred1 (arg s))].
elim=> [//|t ih] s hs; rewrite VE (sumE (G := fun a =>
    if a == arg s then Q e next r (fun s a => if a == arg s then 1 else 0) t s a else 0)) => [|a].
  rewrite -big_mkcond (big_pred1 (arg s)) // /Q.
  have -> : Vmin r t.+1 s = F s (arg s) by rewrite argE /F hs.
  by apply: sumE => b; rewrite ih ?clock hs.
by case: (a == arg s); rewrite /=; lra.
Qed.
End Least.

(* ---- S9 (f) in both protocols, with rho_i >= max (Vmax - Vmin) over the agent's own visited states *)
Section Protocols.
Variables (B : finType) (S : Type).
(* turn-taking: own s says that the agent acts at s. At the other states the team's row is part of the environment *)
Theorem S9_f_turns (A : finType) (e : S -> A -> B -> R) (next : S -> A -> B -> S) (r : S -> A -> B -> R) (p q : S -> A -> R)
    (own : S -> bool) (ok : nat -> S -> Prop) (a0 : A) rho t s :
  let c x m a := if own x then (if a == m then 1 else 0) else p x a in
  let Vlo := Vmin (e1 e c) (next1 next) a0 (r1 r) in let Vhi := Vmax (e1 e c) (next1 next) a0 (r1 r) in
  (forall x a, dist (e x a)) -> policy p -> policy q -> (forall x, keeps (p x) (q x)) ->
  (forall x a, ~~ own x -> q x a = p x a) ->
  reach e next q ok -> (forall u x, ok u.+1 x -> own x -> Vhi u.+1 x - Vlo u.+1 x <= rho) -> ok t s ->
  Rabs (V e next r q t s - V e next r p t s - L e next r p q t s) <= rho * K e next p q t s.
Proof.
move=> c Vlo Vhi he hp hq hk same hr hrho os.
have cd x m : dist (c x m).
  rewrite /c; case: (own x) => //; split=> [a|]; first by case: eqP; lra.
  by rewrite -big_mkcond (big_pred1 m).
have cE (pi : S -> A -> R) : policy pi -> (forall x a, ~~ own x -> pi x a = p x a) ->
  forall x a, pi x a = \sum_(m : A) (pi x m * c x m a).
  move=> hpi sm x a; rewrite /c; case ho : (own x); last by rewrite sum_const ?sm ?ho //; exact: (proj2 (hpi x)).
  rewrite (sumE (G := fun m => if m == a then pi x m else 0)) => [|m]; last by rewrite eq_sym; case: eqP => _; lra.
  by rewrite -big_mkcond (big_pred1 a).
have hr1 : reach (e1 e c) (next1 next) q ok.
  move=> u x m [a b] ox qm; rewrite /e1 /= => eo; apply: hr ox _ _.
    rewrite /c in eo; case ho : (own x) eo => eo; last first.
      rewrite same ?ho //; have p0 := proj1 (hp x) a.
      by case: (Rle_lt_or_eq_dec _ _ p0) => // E; move: eo; rewrite -E; lra.
    by case: eqP eo => [-> //|_]; lra.
  have [c0 _] := cd x m; have [e0 _] := he x a; have := c0 a; have := e0 b.
  by case: (Rle_lt_or_eq_dec _ _ (e0 b)) => // E; move: eo; rewrite -E; lra.
apply: (S9_f (c := c) he cd hp hq (cE p hp (fun _ _ _ => erefl)) (cE q hq same) same hk hr1 _ _ hrho os).
  exact: Vmin_floor.
exact: Vmax_ceiling.
Qed.

(* product team: agent k moves, the others' actions are drawn by the environment *)
Theorem S9_f_product (I M : finType) (e : S -> {ffun I -> M} -> B -> R) (next : S -> {ffun I -> M} -> B -> S)
    (r : S -> {ffun I -> M} -> B -> R) (row new : S -> I -> M -> R) (k : I) (ok : nat -> S -> Prop) (m0 : M) rho t s :
  let p x := joint (row x) in let q x := joint (swap (row x) (new x) k) in
  let c x m (f : {ffun I -> M}) := if f k == m then others (row x) k f else 0 in
  let Vlo := Vmin (e1 e c) (next1 next) m0 (r1 r) in let Vhi := Vmax (e1 e c) (next1 next) m0 (r1 r) in
  (forall x a, dist (e x a)) -> (forall x l, dist (row x l)) -> (forall x, dist (new x k)) ->
  (forall x, keeps (row x k) (new x k)) ->
  reach e next q ok -> (forall u x, ok u.+1 x -> Vhi u.+1 x - Vlo u.+1 x <= rho) -> ok t s ->
  Rabs (V e next r q t s - V e next r p t s - L e next r p q t s)
    <= rho * path_sum e next p (fun _ x => kl (row x k) (new x k)) t s.
Proof.
move=> p q c Vlo Vhi he hrow hnew hk hr hrho os.
have cd x m : dist (c x m).
  have d := @joint_dist I M (swap (row x) (fun _ m' => if m' == m then 1 else 0) k).
  have E f : c x m f = joint (swap (row x) (fun _ m' => if m' == m then 1 else 0) k) f.
    by rewrite joint_swap /c; case: eqP => _; lra.
  have [l|d0 d1] := d.
    rewrite /swap; case: (l == k) => //; split=> [m'|]; first by case: eqP; lra.
    by rewrite -big_mkcond (big_pred1 m).
  by split=> [f|]; [rewrite E | rewrite (sumE E)].
have cE (g : M -> R) x f : \sum_(m : M) (g m * c x m f) = g (f k) * others (row x) k f.
  rewrite /c (sumE (G := fun m => if m == f k then g m * others (row x) k f else 0)) => [|m].
    by rewrite -big_mkcond (big_pred1 (f k)).
  by rewrite eq_sym; case: eqP => _; lra.
have hr1 : reach (e1 e c) (next1 next) (fun x => new x k) ok.
  move=> u x m [f b] ox qm; rewrite /e1 /= => eo; have [c0 _] := cd x m; have [e0 _] := he x f.
  have eb : 0 < e x f b by case: (Rle_lt_or_eq_dec _ _ (e0 b)) => // E; move: eo; rewrite -E; lra.
  have cf : 0 < c x m f by case: (Rle_lt_or_eq_dec _ _ (c0 f)) => // E; move: eo; rewrite -E; lra.
  apply: hr ox _ eb; rewrite /q joint_swap; move: cf; rewrite /c; case: eqP => [->|_] o0; last lra.
  exact: Rmult_lt_0_compat.
have pE x f : p x f = \sum_(m : M) (row x k m * c x m f) by rewrite cE /p (joint_split _ k).
have qE x f : q x f = \sum_(m : M) (new x k m * c x m f) by rewrite cE /q joint_swap.
apply: (S9_f (own := fun _ => true) (mu := fun x => row x k) (nu := fun x => new x k) (c := c)
  he cd _ _ pE qE _ hk hr1 _ _ _ os) => //.
- exact: Vmin_floor.
- exact: Vmax_ceiling.
by move=> u x ox _; exact: hrho.
Qed.
End Protocols.

(* ------------------------------------------------------------------ U1: the exact step, by weak duality *)
Section Step.
Variables (A : finType) (p x adv : A -> R) (lam nu : R).
Hypotheses (hp : dist p) (l0 : 0 < lam) (above : forall a, 0 < p a -> adv a < nu).
(* (1) of the page *)
Hypotheses (xE : forall a, x a = lam * p a / (nu - adv a)) (x1 : \sum_(a : A) x a = 1).
Lemma step_pos a : 0 < p a -> 0 < x a.
Proof. by move=> pa; rewrite xE; apply: Rdiv_lt_0_compat; [exact: Rmult_lt_0_compat | have := above pa; lra]. Qed.
Lemma step_dist : dist x.
Proof.
split=> // a; case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => [pa|E]; first exact: Rlt_le (step_pos pa).
by rewrite xE -E /Rdiv Rmult_0_r Rmult_0_l; lra.
Qed.
(* at the price lam of a nat no row is better. An action that is not used may be taken up only if its advantage is at most nu *)
Lemma step_best q : dist q -> keeps p q -> (forall a, p a = 0 -> 0 < q a -> adv a <= nu) ->
  \sum_(a : A) (q a * adv a) - lam * kl p q <= \sum_(a : A) (x a * adv a) - lam * kl p x.
Proof.
move=> [q0 q1] hk hz.
have one a : q a * (adv a - nu) - lam * (p a * ln (p a / q a)) <= x a * (adv a - nu) - lam * (p a * ln (p a / x a)).
  case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => [pa|E]; last first.
    rewrite xE -E /Rdiv !Rmult_0_r !Rmult_0_l Rmult_0_r.
    case: (Rle_lt_or_eq_dec _ _ (q0 a)) => [qa|<-]; last lra.
    by have := hz a (esym E) qa => h; have := Rmult_le_compat_l _ _ _ (q0 a) h; lra.
  have qa := hk a pa; have xa := step_pos pa; have n0 : 0 < nu - adv a by have := above pa; lra.
  have h1 : x a * (nu - adv a) = lam * p a by rewrite xE; field; lra.
  have h2 : q a * (nu - adv a) = lam * p a * (q a / x a) by rewrite -h1; field; lra.
  have l1 := ln_le (Rdiv_lt_0_compat _ _ qa xa).
  have lE : ln (p a / x a) = ln (p a / q a) + ln (q a / x a).
    by rewrite -ln_mult; [congr ln; field; lra | exact: Rdiv_lt_0_compat | exact: Rdiv_lt_0_compat].
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ (Rmult_lt_0_compat _ _ l0 pa)) l1; rewrite lE; lra.
have := sum_le one; rewrite !sumB !sumZ -!/(kl _ _).
have E (y : A -> R) : \sum_(a : A) y a = 1 -> \sum_(a : A) (y a * (adv a - nu)) = \sum_(a : A) (y a * adv a) - nu.
  move=> y1; rewrite (sumE (G := fun a => y a * adv a - y a * nu)) => [|a]; last lra.
  by rewrite sumB sum_const.
rewrite !E //; lra.
Qed.
End Step.

(* all states: d any weights >= 0. With the radius of the step as constraint no rows gain more;
  at the price lam none certify more *)
Section U1.
Variables (S A : finType) (d : S -> R) (p x adv : S -> A -> R) (lam : R) (nu : S -> R).
Hypotheses (d0 : forall s, 0 <= d s) (hp : policy p) (l0 : 0 < lam).
Hypothesis above : forall s a, 0 < p s a -> adv s a < nu s.
Hypotheses (xE : forall s a, x s a = lam * p s a / (nu s - adv s a)) (x1 : forall s, \sum_(a : A) x s a = 1).
Notation value q := (\sum_(s : S) (d s * \sum_(a : A) (q s a * adv s a))).
Notation radius q := (\sum_(s : S) (d s * kl (p s) (q s))).
Section Other.
Variable q : S -> A -> R.
Hypotheses (hq : policy q) (hk : forall s, 0 < d s -> keeps (p s) (q s)).
Hypothesis hz : forall s a, 0 < d s -> p s a = 0 -> 0 < q s a -> adv s a <= nu s.
(* lam is a slope of the greatest gain in the radius, and the certificate L - rho K of S7 is greatest at lam = rho *)
Theorem U1_price : value q - lam * radius q <= value x - lam * radius x.
Proof.
rewrite -!sumZ -!sumB; apply: sum_le => s; case: (Rle_lt_or_eq_dec _ _ (d0 s)) => [ds|<-]; last lra.
have := step_best (hp s) l0 (above (s:=s)) (xE s) (x1 s) (hq s) (hk ds) (fun a => hz ds (a := a)) => h.
by have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ ds) h; lra.
Qed.
(* U1: (1) solves the problem with radius delta *)
Theorem U1 : radius q <= radius x -> value q <= value x.
Proof. by move=> h; have := U1_price; have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ l0) h; lra. Qed.
End Other.
End U1.

(* the root nu exists *)
Lemma cont_ext f h z : (forall x, f x = h x) -> continuity_pt f z -> continuity_pt h z.
Proof. by move=> E H eps e0; have [al [a0 d]] := H eps e0; exists al; split=> // x dx; rewrite -!E; apply: d. Qed.
Section Root.
Variables (A : finType) (p adv : A -> R) (lam : R).
Hypotheses (hp : dist p) (l0 : 0 < lam).
Lemma greatest : exists2 a, 0 < p a & forall b, 0 < p b -> adv b <= adv a.
Proof.
have some : exists a, 0 < p a.
  case: (pickP (fun a => if Rlt_dec 0 (p a) then true else false)) => [a ha|no]; first by exists a; move: ha; case: Rlt_dec.
  have := proj2 hp; rewrite sum0 => [|a]; first lra.
  have := proj1 hp a; have := no a; case: Rlt_dec => // n _; lra.
have [a0 pa0] := some.
have H (l : seq A) : exists2 a, 0 < p a & forall b, b \in a0 :: l -> 0 < p b -> adv b <= adv a.
  elim: l => [|x l [a pa h]]; first by exists a0 => // b; rewrite inE => /eqP ->; lra.
  case: (Rlt_dec 0 (p x)) => [px|nx]; last first.
    by exists a => // b; rewrite !inE orbCA => /orP [/eqP -> //|hb]; apply: h; rewrite inE.
  case: (Rle_lt_dec (adv x) (adv a)) => lx; [exists a => // b | exists x => // b]; rewrite !inE orbCA => /orP [/eqP -> _|hb pb];
    try lra.
    by apply: h; rewrite ?inE.
  by have := h b; rewrite inE => /(_ hb pb); lra.
have [a pa h] := H (enum A); exists a => // b; apply: h; by rewrite inE mem_enum orbT.
Qed.
Lemma root_exists : exists nu, (forall a, 0 < p a -> adv a < nu) /\ \sum_(a : A) (lam * p a / (nu - adv a)) = 1.
Proof.
have [s ps hs] := greatest.
pose f z := \sum_(a : A) (lam * p a / (adv s + z - adv a)) - 1.
suff [z z0 fz] : exists2 z, 0 < z & f z = 0.
  exists (adv s + z); split=> [a pa|]; first by have := hs a pa; lra.
  by move: fz; rewrite /f; lra.
have pos a z : 0 < p a -> 0 < z -> 0 < adv s + z - adv a by move=> pa z0; have := hs a pa; lra.
have term a z : 0 < z -> 0 <= lam * p a / (adv s + z - adv a).
  move=> z0; case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => [pa|<-]; last by rewrite /Rdiv Rmult_0_r Rmult_0_l; lra.
  by apply/Rlt_le/Rdiv_lt_0_compat; [exact: Rmult_lt_0_compat | exact: pos].
have z1 : 0 < lam * p s by exact: Rmult_lt_0_compat.
have p1 : p s <= 1 by rewrite -(proj2 hp); apply: term_le_sum => a; exact: (proj1 hp).
have lo : 0 <= f (lam * p s).
  have E : lam * p s / (adv s + lam * p s - adv s) = 1 by field; lra.
  by have := @term_le_sum _ (fun a => lam * p a / (adv s + lam * p s - adv a)) s (fun a => term a _ z1); rewrite /f E; lra.
have hi : f lam <= 0.
  suff : \sum_(a : A) (lam * p a / (adv s + lam - adv a)) <= \sum_(a : A) p a by rewrite (proj2 hp) /f; lra.
  apply: sum_le => a; case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => [pa|<-]; last by rewrite /Rdiv Rmult_0_r Rmult_0_l; lra.
  have d := pos a lam pa l0; apply: (Rmult_le_reg_r (adv s + lam - adv a)) => //.
  rewrite /Rdiv Rmult_assoc Rinv_l; last lra.
  have h := hs a pa; have le : lam <= adv s + lam - adv a by lra.
  by have := Rmult_le_compat_l _ _ _ (proj1 hp a) le; lra.
have cont z : 0 < z -> continuity_pt f z.
  move=> z0; apply: continuity_pt_minus; last by apply: continuity_pt_const => x y.
  rewrite /index_enum; elim: (Finite.enum A) => [|a l ih].
    by apply: (cont_ext (f := fun _ => 0)) => [x|]; [rewrite big_nil | apply: continuity_pt_const => x y].
  apply: (cont_ext (f := fun x => lam * p a / (adv s + x - adv a)
    + \big[Rplus/0]_(b <- l) (lam * p b / (adv s + x - adv b)))) => [x|].
    by rewrite big_cons.
  apply: continuity_pt_plus ih; case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => [pa|pa0]; last first.
    by apply: (cont_ext (f := fun _ => 0)) => [x|]; [rewrite -pa0 /Rdiv; lra | apply: continuity_pt_const => x y].
  apply: continuity_pt_mult; first by apply: continuity_pt_const => x y.
  apply: continuity_pt_inv; last by have := pos a z pa z0; lra.
  apply: continuity_pt_minus; last by apply: continuity_pt_const => x y.
  apply: continuity_pt_plus; first by apply: continuity_pt_const => x y.
  exact: derivable_continuous_pt (derivable_pt_id z).
case: (Rle_lt_or_eq_dec _ _ lo) => [lo'|E0]; last by exists (lam * p s); [|rewrite -E0].
case: (Rle_lt_or_eq_dec _ _ hi) => [hi'|]; last by exists lam.
have lt : lam * p s < lam.
  have : lam * p s <= lam by have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ l0) p1; lra.
  by case=> // E; rewrite E in lo'; lra.
have cn z : lam * p s <= z <= lam -> continuity_pt (fun z => - f z) z by move=> h; apply: continuity_pt_opp; apply: cont; lra.
have n1 : - f (lam * p s) < 0 by lra.
have n2 : 0 < - f lam by lra.
have [z [ab c]] := IVT_interv (fun z => - f z) _ _ cn lt n1 n2.
by exists z; lra.
Qed.
End Root.

(* the other direction, KL(pi' || pi): the step pi exp(A/lam) / Z (entries with pi = 0 stay zero) *)
Section Tilt.
Variables (A : finType) (p adv : A -> R) (lam : R).
Hypotheses (hp : dist p) (l0 : 0 < lam).
Definition Z := \sum_(a : A) (p a * exp (adv a / lam)).
Definition tilt a := p a * exp (adv a / lam) / Z.
Lemma Z_pos : 0 < Z.
Proof.
have [s ps _] := greatest adv hp; have e0 := exp_pos (adv s / lam).
apply: Rlt_le_trans (Rmult_lt_0_compat _ _ ps e0) _; apply: (@term_le_sum _ (fun a => p a * exp (adv a / lam))) => a.
exact: Rmult_le_pos (proj1 hp a) (Rlt_le _ _ (exp_pos _)).
Qed.
Lemma tilt_dist : dist tilt.
Proof.
have z0 := Z_pos; split=> [a|]; last by rewrite /tilt /Rdiv sumZr -/Z Rinv_r //; lra.
by apply: Rmult_le_pos; [exact: Rmult_le_pos (proj1 hp a) (Rlt_le _ _ (exp_pos _)) | apply/Rlt_le/Rinv_0_lt_compat].
Qed.
Theorem U1_tilt q : dist q -> keeps q p ->
  (\sum_(a : A) (q a * adv a)) - lam * kl q p <= (\sum_(a : A) (tilt a * adv a)) - lam * kl tilt p.
Proof.
move=> hq hk; have z0 := Z_pos.
have pos a : 0 < p a -> 0 < tilt a.
  by move=> pa; apply: Rdiv_lt_0_compat z0; exact: Rmult_lt_0_compat pa (exp_pos _).
have lt a : 0 < p a -> ln (tilt a / p a) = adv a / lam - ln Z.
  move=> pa; have e0 := exp_pos (adv a / lam).
  have -> : tilt a / p a = exp (adv a / lam) * / Z by rewrite /tilt; field; lra.
  by rewrite (ln_mult _ _ e0 (Rinv_0_lt_compat _ z0)) ln_exp ln_Rinv //; lra.
(* what a row gains at the price lam is lam ln Z - lam KL(q || tilt) *)
have E x : dist x -> keeps x p -> (\sum_(a : A) (x a * adv a)) - lam * kl x p = lam * ln Z - lam * kl x tilt.
  move=> [x0 x1] kx; rewrite -[lam * ln Z](sum_const (lam * ln Z) x1) /kl -!sumZ -!sumB; apply: sumE => a.
  case: (Rle_lt_or_eq_dec _ _ (x0 a)) => [xa|<-]; last lra.
  have pa := kx a xa; have ta := pos a pa.
  have -> : ln (x a / p a) = ln (x a / tilt a) + ln (tilt a / p a).
    by rewrite -ln_mult; [congr ln; field; lra | exact: Rdiv_lt_0_compat | exact: Rdiv_lt_0_compat].
  by rewrite lt //; field; lra.
have kt : keeps tilt p.
  move=> a ta; case: (Rle_lt_or_eq_dec _ _ (proj1 hp a)) => // E0; move: ta; rewrite /tilt -E0 /Rdiv; lra.
rewrite (E q) // (E tilt) //; last exact: tilt_dist.
have k0 : kl tilt tilt = 0.
  apply: sum0 => a; case: (Rle_lt_or_eq_dec _ _ (proj1 tilt_dist a)) => [ta|<-]; last lra.
  by rewrite /Rdiv Rinv_r ?ln_1; lra.
have : 0 <= kl q tilt.
  have kq : keeps q tilt by move=> a qa; apply: pos; apply: hk.
  by rewrite -(kterm_sum hq tilt_dist); apply: sum_ge0 => a; apply: kterm_ge0 hq tilt_dist kq.
by move=> k; have := Rmult_le_pos _ _ (Rlt_le _ _ l0) k; rewrite k0; lra.
Qed.
End Tilt.
(* ... so that there is a step of greatest certificate: L - price K, price = the range of the return *)
Theorem U1_exists (S A : finType) (d : S -> R) (p adv : S -> A -> R) price : (forall s, 0 <= d s) -> policy p -> 0 < price ->
  exists2 x, policy x /\ (forall s, keeps (p s) (x s)) & forall q, policy q -> (forall s, keeps (p s) (q s)) ->
    (forall s a, p s a = 0 -> q s a = 0) ->
    (\sum_(s : S) (d s * \sum_(a : A) (q s a * adv s a))) - price * (\sum_(s : S) (d s * kl (p s) (q s)))
    <= (\sum_(s : S) (d s * \sum_(a : A) (x s a * adv s a))) - price * (\sum_(s : S) (d s * kl (p s) (x s))).
Proof.
move=> d0 hp l0; have [nu hnu] := choose (fun s => root_exists (adv s) (hp s) l0).
pose x s a := price * p s a / (nu s - adv s a).
have ab s a : 0 < p s a -> adv s a < nu s by apply: (proj1 (hnu s)).
have x1 s : \sum_(a : A) x s a = 1 by apply: (proj2 (hnu s)).
exists x => [|q hq hk hz]; first split=> s.
- exact: step_dist (hp s) l0 (ab s) (fun _ => erefl) (x1 s).
- by move=> a; apply: (step_pos l0 (ab s)).
by apply: (U1_price d0 hp l0 ab) => // s a _ p0 q1; have := hz s a p0; lra.
Qed.

(* ------------------------------------------------------------------ discounted: (g), and (d) for any set of states *)
Section Discounted.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (p q : S -> A -> R) (v v' m : S -> R) (Phi : S -> R).
Hypotheses (hp : policy p) (hq : policy q) (fl : flow P g rho p m) (hf : floord P g r Phi).
Hypotheses (bp : bellman P g r p v) (bq : bellman P g r q v').
Hypothesis drops : forall s a, 0 < p s a -> 0 < q s a \/ Qd P g r v s a <= Phi s.
Let C := \sum_(s : S) Rabs (v s - Phi s).
Let C0 : 0 <= C. Proof. by apply: sum_ge0 => x; exact: Rabs_pos. Qed.
Notation sc := (scored P g p q r v Phi).

Lemma every_weight_T T s lam : 0 < lam ->
  (1 + ln lam) * (v s - Phi s) + W P g p sc T s - C * g ^ T * (lam + 1) <= lam * (v' s - Phi s).
Proof.
have av := above g01 P_dist hp hf bp; have av' := above g01 P_dist hq hf bq.
elim: T s lam => [|T ih] s lam l0.
  have b := le_sum (fun x => v x - Phi x) s; rewrite -/C in b.
  have := ln_le l0 => l1; have d0 : 0 <= v s - Phi s by have := av s; lra.
  have : (1 + ln lam) * (v s - Phi s) <= lam * (v s - Phi s) by apply: Rmult_le_compat_r; lra.
  have : lam * (v s - Phi s) <= lam * C by apply: Rmult_le_compat_l; lra.
  have : 0 <= lam * (v' s - Phi s) by apply: Rmult_le_pos; have := av' s; lra.
  by rewrite /=; lra.
pose rt a := r s a + g * ev P s a Phi - Phi s; pose eps := C * g ^ T.+1.
pose y f a := g * ev P s a (fun x => f x - Phi x); pose z a := g * ev P s a (W P g p sc T).
have rt0 a : 0 <= rt a by have := hf s a; rewrite /rt; lra.
have y0 f a : (forall x, Phi x <= f x) -> 0 <= y f a.
  by move=> h; apply: Rmult_le_pos (proj1 g01) _; rewrite -(ev1 P_dist s a 0); apply: ev_le => // x; have := h x; lra.
have QE f a : Qd P g r f s a - Phi s = rt a + y f a by rewrite /Qd /rt /y evB; lra.
have e0 : 0 <= eps by apply: Rmult_le_pos C0 (pow_le _ _ (proj1 g01)).
have behind a mu : 0 < mu -> (1 + ln mu) * y v a + z a - eps * (mu + 1) <= mu * y v' a.
  move=> m0; have := ev_le P_dist s a (fun x => ih x mu m0); rewrite evB evD !evZ ev1 // => h.
  by have := Rmult_le_compat_l _ _ _ (proj1 g01) h; rewrite /y /z /eps /=; lra.
have one a : (1 + ln lam) * (p s a * (rt a + y v a)) + p s a * (ln (q s a / p s a) * (rt a + y v a) + z a) -
  eps * (lam * q s a + p s a)
    <= lam * (q s a * (rt a + y v' a)).
  have q0 := proj1 (hq s) a; have r0 := rt0 a; have yv := y0 v a av; have yv' := y0 v' a av'.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last first.
    have x1 := Rmult_le_pos _ _ e0 (Rmult_le_pos _ _ (Rlt_le _ _ l0) q0).
    have x2 := Rmult_le_pos _ _ (Rlt_le _ _ l0) (Rmult_le_pos _ _ q0 (Rplus_le_le_0_compat _ _ r0 yv')); lra.
  case: (Rle_lt_or_eq_dec _ _ q0) => [qa|qa].
    have x0 := Rdiv_lt_0_compat _ _ qa pa; set x := q s a / p s a in x0 *; have m0 := Rmult_lt_0_compat _ _ l0 x0.
    have := behind a _ m0; have := ln_le m0; rewrite (ln_mult _ _ l0 x0) => l1 h.
    have h1 := Rmult_le_compat_r _ _ _ r0 l1.
    have h2 : (1 + (ln lam + ln x)) * (rt a + y v a) + z a - eps * (lam * x + 1) <= lam * x * (rt a + y v' a) by lra.
    have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) h2; have -> : q s a = x * p s a by rewrite /x; field; lra.
    lra.
  have w0 : Qd P g r v s a - Phi s <= 0 by case: (drops pa); lra.
  rewrite QE in w0; have z0 : z a - eps <= 0.
    by apply: (@small _ (y v' a + eps)) => mu m0; have := behind a mu m0; rewrite (_ : y v a = 0); lra.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ pa) z0; rewrite (_ : rt a + y v a = 0); last lra.
  rewrite -qa; lra.
have X (pi : S -> A -> R) f : dist (pi s) ->
    \sum_(a : A) (pi s a * (rt a + y f a)) = \sum_(a : A) (pi s a * Qd P g r f s a) - Phi s.
  move=> d; rewrite (sumE (G := fun a => pi s a * Qd P g r f s a - pi s a * Phi s)) => [|a]; last by have := QE f a; nra.
  by rewrite sumB sum_const //; apply: (proj2 d).
have E : \sum_(a : A) (p s a * (ln (q s a / p s a) * (rt a + y v a) + z a)) = W P g p sc T.+1 s.
  rewrite [W _ _ _ _ T.+1 s]/= {1}/scored /step_p -sumZ -sumD; apply: sumE => a; rewrite -QE /z; lra.
have := sum_le one; rewrite sumB sumD !sumZ sumD sumZ E !X // -bp -bq (proj2 (hp s)) (proj2 (hq s)) /eps; lra.
Qed.

(* (I), summed over the first states *)
Theorem every_weight_discounted lam : 0 < lam ->
  (1 + ln lam) * at_rho rho (fun s => v s - Phi s) + under m sc <= lam * at_rho rho (fun s => v' s - Phi s).
Proof.
move=> l0; set M := \sum_(s : S) m s; set D := \sum_(s : S) Rabs (sc s).
have D0 : 0 <= D by apply: sum_ge0 => x; exact: Rabs_pos.
have M0 : 0 <= M by apply: sum_ge0 => x; exact: (proj1 fl).
have c0 : 0 <= C * (lam + 1) + M * D by apply: Rplus_le_le_0_compat; apply: Rmult_le_pos => //; lra.
apply: (vanish g01 c0) => T; have := W_under g01 P_dist hp fl sc T; rewrite -/M -/D => u.
have h : (1 + ln lam) * at_rho rho (fun s => v s - Phi s) + at_rho rho (W P g p sc T.+1) - C * g ^ T.+1 * (lam + 1)
    <= lam * at_rho rho (fun s => v' s - Phi s).
  rewrite /at_rho -!sumZ -[X in _ - X](sum_const _ (proj2 rho_dist)) -sumD -sumB; apply: sum_le => s.
  have := Rmult_le_compat_l _ _ _ (proj1 rho_dist s) (every_weight_T T.+1 s l0); rewrite /=; lra.
have e0 : 0 <= C * g ^ T * (lam + 1) by apply: Rmult_le_pos; [apply: Rmult_le_pos C0 (pow_le _ _ (proj1 g01)) | lra].
rewrite (_ : g ^ T.+1 = g * g ^ T) // in h; have := Rmult_le_compat_r _ _ _ e0 (Rlt_le _ _ (proj2 g01)); lra.
Qed.
Theorem S9_drop_discounted : under m sc <= at_rho rho v' - at_rho rho v.
Proof.
have := every_weight_discounted Rlt_0_1; rewrite ln_1 /at_rho.
rewrite (sumE (F := fun s => rho s * (v s - Phi s)) (G := fun s => rho s * v s - rho s * Phi s)) => [|s]; last lra.
rewrite (sumE (F := fun s => rho s * (v' s - Phi s)) (G := fun s => rho s * v' s - rho s * Phi s)) => [|s]; last lra.
by rewrite !sumB; lra.
Qed.
Theorem S9_g_discounted : let Jt := at_rho rho (fun s => v s - Phi s) in let b := under m sc in 0 < Jt ->
  Jt * (exp (b / Jt) - 1) <= at_rho rho v' - at_rho rho v /\ Rmax b (- Jt) <= Jt * (exp (b / Jt) - 1).
Proof.
move=> Jt b J0; have -> : at_rho rho v' - at_rho rho v = at_rho rho (fun s => v' s - Phi s) - Jt.
  by rewrite /Jt /at_rho -!sumB; apply: sumE => i; lra.
by apply: every_weight_g => // lam l0; exact: every_weight_discounted.
Qed.
End Discounted.

(* (d), discounted *)
Section LearnDiscounted.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (p : S -> A -> R) (v m : S -> R) (Phi : S -> R).
Hypotheses (hp : policy p) (fl : flow P g rho p m) (hf : floord P g r Phi) (bp : bellman P g r p v).
Definition worthd s a := Qd P g r v s a - Phi s.
Lemma worthd_ge0 s a : 0 <= worthd s a.
Proof.
have := ev_le P_dist s a (above g01 P_dist hp hf bp); have := hf s a; rewrite /worthd /Qd => h1 h2.
by have := Rmult_le_compat_l _ _ _ (proj1 g01) h2; lra.
Qed.
Lemma update_improves_discounted q v' bound : policy q -> (forall s a, 0 < p s a -> 0 < q s a \/ worthd s a = 0) ->
  (forall s, \sum_(a : A) (p s a * (ln (q s a / p s a) * worthd s a)) = bound s) -> bellman P g r q v' ->
  under m bound <= at_rho rho v' - at_rho rho v.
Proof.
move=> hq hd value bq; rewrite (_ : under m bound = under m (scored P g p q r v Phi)).
  apply: (S9_drop_discounted g01 P_dist rho_dist hp hq fl hf bp bq) => s a pa.
  by case: (hd s a pa) => [|z]; [left | right; move: z; rewrite /worthd; lra].
by apply: sumE => s; rewrite -value.
Qed.
Variable own : S -> bool.
Definition learnd s := if own s then best (p s) (worthd s) else p s.
Definition learnd_bound s := if own s then tot (p s) (worthd s) * kl (learnd s) (p s) else 0.
Lemma learnd_policy : policy learnd.
Proof. by move=> s; rewrite /learnd; case: (own s) => //; apply: best_dist => // a; exact: worthd_ge0. Qed.
(* turn-taking; own = all states: all agents at once *)
Theorem S9_d_discounted v' : bellman P g r learnd v' -> 0 <= under m learnd_bound <= at_rho rho v' - at_rho rho v.
Proof.
move=> bq; split; last first.
  apply: (update_improves_discounted learnd_policy) bq => [s a pa|s]; rewrite /learnd_bound /learnd; case: (own s).
  - by apply: best_drops => // b; exact: worthd_ge0.
  - by left.
  - by rewrite (best_value (hp s) (worthd_ge0 s)).
  apply: sum0 => a; case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
  by rewrite /Rdiv Rinv_r ?ln_1; lra.
apply: sum_ge0 => s; apply: Rmult_le_pos; first exact: (proj1 fl).
rewrite /learnd_bound /learnd; case: (own s); last lra.
apply: Rmult_le_pos; first by apply: tot_ge0 => // a; exact: worthd_ge0.
by apply: best_kl_ge0 => // a; exact: worthd_ge0.
Qed.
End LearnDiscounted.
Theorem S9_d_product_discounted (S I M : finType) (P : S -> {ffun I -> M} -> S -> R) g rho r
    (row : S -> I -> M -> R) v v' m Phi moves :
  let p s := joint (row s) in let w := worthd P g r v Phi in let new s := bests (row s) (w s) moves in
  0 <= g < 1 -> (forall s a, dist (P s a)) -> dist rho -> (forall s k, dist (row s k)) -> flow P g rho p m -> floord P g r Phi ->
  bellman P g r p v -> bellman P g r (fun s => joint (new s)) v' ->
  0 <= under m (fun s => \sum_(k : I) (tot (p s) (w s) * kl (new s k) (row s k))) <= at_rho rho v' - at_rho rho v.
Proof.
move=> p w new g01 hP hr hrow fl hf bp bq; have hp : policy p by move=> x; exact: joint_dist.
have w0 := worthd_ge0 g01 hP hp hf bp; split; last first.
  apply: (update_improves_discounted g01 hP hr hp fl hf bp _ _ _ bq) => [s|s f|s].
  - by apply: joint_dist => k; exact: bests_dist.
  - exact: bests_drops.
  exact: bests_value.
apply: sum_ge0 => s; apply: Rmult_le_pos; first exact: (proj1 fl).
apply: sum_ge0 => k; apply: Rmult_le_pos; first exact: tot_ge0.
rewrite /new /bests; case: (moves k); first by apply: best_kl_ge0 => // f; exact: bar_ge0.
by rewrite -(kterm_sum (hrow s k) (hrow s k)); apply: sum_ge0 => f; apply: kterm_ge0.
Qed.
(* (e), discounted *)
Theorem S9_e_discounted (S A I : finType) (P : S -> A -> S -> R) g rho r (p q : S -> A -> R)
    (only : I -> S -> A -> R) v v' m Phi :
  0 <= g < 1 -> (forall s a, dist (P s a)) -> dist rho -> policy p -> policy q -> (forall k, policy (only k)) ->
  (forall s, keeps (p s) (q s)) -> (forall k s, keeps (p s) (only k s)) ->
  (forall s a, 0 < p s a -> ln (q s a / p s a) = \sum_(k : I) ln (only k s a / p s a)) ->
  flow P g rho p m -> floord P g r Phi -> bellman P g r p v -> bellman P g r q v' ->
  \sum_(k : I) (under m (gaind P g r p v (only k)) - under m (charged P g p (only k) r v Phi)) <= at_rho rho v' - at_rho rho v.
Proof.
move=> g01 hP hr hp hq ho hk hko fac fl hf bp bq; apply: Rle_trans (S9_discounted g01 hP hr hp hq hk fl hf bp bq).
apply: Req_le; symmetry.
transitivity (\sum_(k : I) under m (scored P g p (only k) r v Phi)).
  rewrite /under sum_swap; apply: sumE => s; rewrite sumZ; congr (_ * _); rewrite /scored sum_swap; apply: sumE => a;
    rewrite sumZ.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
  by congr (_ * _); rewrite fac // sumZr.
apply: sumE => k; rewrite /under -sumB; apply: sumE => s; rewrite (scoredE hp (ho k) (hko k) _ _ bp); lra.
Qed.

(* (f), discounted: Phi and Psi a floor and a ceiling of the agent's own world *)
Section AgentDiscounted.
Variables (S A M : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R) (r : S -> A -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (c : S -> M -> A -> R) (mu nu : S -> M -> R) (p q : S -> A -> R) (v v' m : S -> R).
Hypotheses (c_dist : forall s m, dist (c s m)) (hmu : policy mu) (hnu : policy nu).
Hypotheses (pE : forall s a, p s a = \sum_(m : M) (mu s m * c s m a)) (qE : forall s a, q s a = \sum_(m : M) (nu s m * c s m a)).
Hypotheses (fl : flow P g rho p m) (bp : bellman P g r p v) (bq : bellman P g r q v').
Definition P1d (s : S) (k : M) (s' : S) := \sum_(a : A) (c s k a * P s a s').
Definition r1d (s : S) (k : M) := \sum_(a : A) (c s k a * r s a).
Variables (own : S -> bool) (Phi Psi : S -> R) (range : R).
Hypotheses (same : forall s k, ~~ own s -> nu s k = mu s k) (hk : forall s, keeps (mu s) (nu s)).
Hypotheses (hf : floord P1d g r1d Phi) (hc : floord P1d g (fun s k => - r1d s k) (fun s => - Psi s)).
Hypothesis hrange : forall s, 0 < m s -> own s -> Psi s - Phi s <= range.

Lemma P1d_dist s k : dist (P1d s k).
Proof.
split=> [s'|]; first by apply: sum_ge0 => a; exact: Rmult_le_pos (proj1 (c_dist s k) a) (proj1 (P_dist s a) s').
rewrite sum_swap -[RHS](proj2 (c_dist s k)); apply: sumE => a.
by rewrite sumZ (proj2 (P_dist s a)); lra.
Qed.
Lemma Qd1 f s k : Qd P1d g r1d f s k = \sum_(a : A) (c s k a * Qd P g r f s a).
Proof.
rewrite (sumE (G := fun a => c s k a * r s a + g * (c s k a * ev P s a f))) => [|a]; last by rewrite /Qd; lra.
rewrite sumD sumZ /Qd; congr (_ + g * _); rewrite /ev /P1d (sumE (G := fun s' => \sum_(a : A) (c s k a * (P s a s' * f s')))) =>
  [|s'].
  by rewrite sum_swap; apply: sumE => a; rewrite sumZ.
by rewrite -sumZr; apply: sumE => a; lra.
Qed.
Lemma bellman1 kap t f : (forall s a, t s a = \sum_(k : M) (kap s k * c s k a)) -> bellman P g r t f -> bellman P1d g r1d kap f.
Proof. by move=> tE b s; rewrite b -(team_sum (kap := kap) (fun a => Qd P g r f s a) (tE s)); apply: sumE => k; rewrite Qd1. Qed.
Lemma flow1 : flow P1d g rho mu m.
Proof.
split=> [|s']; first exact: (proj1 fl).
rewrite (proj2 fl s'); congr (_ + g * _); apply: sumE => s; congr (_ * _).
by rewrite -(team_sum (kap := mu) (fun a => P s a s') (pE s)).
Qed.
Lemma gain1 s : gaind P1d g r1d mu v nu s = gaind P g r p v q s.
Proof.
rewrite /gaind -(team_sum (kap := nu) (fun a => Qd P g r v s a - v s) (qE s)); apply: sumE => k; congr (_ * _).
rewrite Qd1 (sumE (F := fun a => c s k a * (_ - _)) (G := fun a => c s k a * Qd P g r v s a - c s k a * v s)) => [|a]; last lra.
by rewrite sumB sum_const //; exact: (proj2 (c_dist s k)).
Qed.
Lemma charged_own rr f F : (forall s k, Qd P1d g rr f s k - F s <= Psi s - Phi s) ->
  under m (charged P1d g mu nu rr f F) <= range * under m (fun s => kl (mu s) (nu s)).
Proof.
move=> h; rewrite /under -sumZ; apply: sum_le => s.
case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|<-]; last lra.
have -> : range * (m s * kl (mu s) (nu s)) = m s * (range * kl (mu s) (nu s)) by lra.
apply: Rmult_le_compat_l; first lra.
rewrite -(kterm_sum (hmu s) (hnu s)) -sumZ; apply: sum_le => k; rewrite (Rmult_comm range).
have k0 := kterm_ge0 k (hmu s) (hnu s) (hk (s := s)); case ho : (own s); last first.
  suff -> : kterm (mu s) (nu s) k = 0 by lra.
  rewrite /kterm (same k (negbT ho)); case: (Rle_lt_or_eq_dec _ _ (proj1 (hmu s) k)) => [pk|<-]; last lra.
  by rewrite /Rdiv Rinv_r ?ln_1; lra.
by apply: Rmult_le_compat_l => //; have := h s k; have := hrange ms ho; lra.
Qed.
Theorem S9_f_discounted : Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q))
  <= range * under m (fun s => kl (mu s) (nu s)).
Proof.
have b := bellman1 pE bp; have b' := bellman1 qE bq; have bn := bellman_neg b; have bn' := bellman_neg b'.
have lo := above g01 P1d_dist hmu hf b; have up := above g01 P1d_dist hmu hc bn.
have q_lo s k : Phi s <= Qd P1d g r1d v s k.
  by apply: Rle_trans (hf s k) _; have := Rmult_le_compat_l _ _ _ (proj1 g01) (ev_le P1d_dist s k lo); rewrite /Qd; lra.
have q_up s k : Qd P1d g r1d v s k <= Psi s.
  suff : - Psi s <= Qd P1d g (fun s k => - r1d s k) (fun x => - v x) s k by rewrite Q_negr; lra.
  by apply: Rle_trans (hc s k) _; have := Rmult_le_compat_l _ _ _ (proj1 g01) (ev_le P1d_dist s k up); rewrite /Qd; lra.
have c1 := S9_charged g01 P1d_dist rho_dist hmu hnu hk flow1 b b' hf.
have c2 := S9_charged g01 P1d_dist rho_dist hmu hnu hk flow1 bn bn' hc.
have h1 := charged_own (rr := r1d) (f := v) (F := Phi) (fun s k => ltac:(have := q_up s k; lra)).
have h2 := @charged_own (fun s k => - r1d s k) (fun x => - v x) (fun x => - Psi x).
have {}h2 := h2 (fun s k => ltac:(rewrite Q_negr; have := q_lo s k; lra)).
have N f : at_rho rho (fun x => - f x) = - at_rho rho f by rewrite /at_rho -sumN; apply: sumE => s; lra.
have G : under m (gaind P1d g r1d mu v nu) = under m (gaind P g r p v q) by apply: sumE => s; rewrite gain1.
have Gn : under m (gaind P1d g (fun s k => - r1d s k) mu (fun x => - v x) nu) = - under m (gaind P g r p v q).
  rewrite -G /under -sumN; apply: sumE => s; rewrite -Ropp_mult_distr_r_reverse; congr (_ * _).
  by rewrite /gaind -sumN; apply: sumE => k; rewrite Q_negr; lra.
by rewrite !N Gn in c2; rewrite G in c1; apply: Rabs_le; lra.
Qed.
End AgentDiscounted.
