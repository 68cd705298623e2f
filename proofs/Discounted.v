(* Discounted, finite states: T0, S9, S7. v, v' are any solutions of their Bellman equations, m any solution of the flow equation
   (Existence.v: there is exactly one of each). The induction is that of Episodic.v; after T steps an error C g^T (lam + 1) is
   left, which vanishes. A state is visited if m s > 0; q must keep what p uses only there. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Lemma vanish g x y C : 0 <= g < 1 -> 0 <= C -> (forall T : nat, x <= y + C * g ^ T) -> x <= y.
Proof.
move=> g01 C0 E; case: (Rle_lt_dec x y) => // lt.
have d0 : 0 < (x - y) / (C + 1) by apply: Rdiv_lt_0_compat; lra.
have [N hN] := @pow_lt_1_zero g ltac:(rewrite Rabs_pos_eq; lra) _ d0.
have := hN N (Nat.le_refl N); rewrite Rabs_pos_eq => [h|]; last by apply: pow_le; lra.
have := Rmult_lt_compat_l (C + 1) _ _ ltac:(lra) h.
have -> : (C + 1) * ((x - y) / (C + 1)) = x - y by field; lra.
have := E N; have := pow_le g N (proj1 g01); lra.
Qed.

Section Discounted.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Implicit Types (p q : S -> A -> R) (r : S -> A -> R) (f m : S -> R).

Definition ev s a f := \sum_(s' : S) (P s a s' * f s').                       (* E[f(s') | s, a] *)
Definition step_p p f s := \sum_(a : A) (p s a * ev s a f).                    (* P_p f *)
Definition Qd r v s a := r s a + g * ev s a v.
Definition bellman r p v := forall s, v s = \sum_(a : A) (p s a * Qd r v s a).
Definition flow p m := (forall s, 0 <= m s) /\
  forall s', m s' = rho s' + g * \sum_(s : S) (m s * \sum_(a : A) (p s a * P s a s')).
Definition at_rho f := \sum_(s : S) (rho s * f s).                            (* J = at_rho V *)
Definition under m f := \sum_(s : S) (m s * f s).
Definition gaind r p v q s := \sum_(a : A) (q s a * (Qd r v s a - v s)).      (* g(s) *)

Lemma ev_le s a f h : (forall x, f x <= h x) -> ev s a f <= ev s a h.
Proof. by move=> E; apply: sum_le => x; apply: Rmult_le_compat_l (proj1 (P_dist s a) x) (E x). Qed.
Lemma evD s a f h : ev s a (fun x => f x + h x) = ev s a f + ev s a h.
Proof. by rewrite /ev -sumD; apply: sumE => x; lra. Qed.
Lemma evB s a f h : ev s a (fun x => f x - h x) = ev s a f - ev s a h.
Proof. by rewrite /ev -sumB; apply: sumE => x; lra. Qed.
Lemma evZ s a c f : ev s a (fun x => c * f x) = c * ev s a f.
Proof. by rewrite /ev -sumZ; apply: sumE => x; lra. Qed.
Lemma ev1 s a c : ev s a (fun _ => c) = c.
Proof. exact: sum_const (proj2 (P_dist s a)). Qed.
Lemma evE s a f h : (forall x, f x = h x) -> ev s a f = ev s a h.
Proof. by move=> E; apply: sumE => x; rewrite E. Qed.

Lemma dual p m f : flow p m -> at_rho f = under m (fun s => f s - g * step_p p f s).
Proof.
move=> [_ fl]; rewrite /under (sumE (G := fun s => m s * f s - g * (m s * step_p p f s))) => [|s]; last lra.
rewrite sumB sumZ.
suff -> : \sum_(s : S) (m s * step_p p f s) = \sum_(s' : S) ((\sum_(s : S) (m s * \sum_(a : A) (p s a * P s a s'))) * f s').
  by rewrite -sumZ -sumB /at_rho; apply: sumE => s; rewrite {1}fl; lra.
rewrite [RHS](sumE (G := fun s' => \sum_(s : S) ((m s * (\sum_(a : A) (p s a * P s a s'))) * f s'))) => [|s'];
  last by rewrite -sumZr.
rewrite sum_swap; apply: sumE => s; rewrite (sumE (F := fun s' => _ * _ * f s')
  (G := fun s' => m s * \sum_(a : A) (p s a * (P s a s' * f s')))) => [|s'].
  by rewrite sumZ sum_swap /step_p; congr (_ * _); apply: sumE => a; rewrite sumZ.
by rewrite Rmult_assoc -sumZr; congr (_ * _); apply: sumE => a; lra.
Qed.

Lemma gaindE r p v q s : dist (q s) -> gaind r p v q s = \sum_(a : A) (q s a * Qd r v s a) - v s.
Proof.
move=> [_ q1]; rewrite /gaind (sumE (G := fun a => q s a * Qd r v s a - q s a * v s)) => [|a]; last lra.
by rewrite sumB sumZr q1; lra.
Qed.

(* T0: J(q) - J(p) = sum_s m^q(s) E_{a~q} A^p. Nothing is asked of supports or of the rows of P. *)
Theorem T0_discounted r p q v v' m' : policy q -> bellman r p v -> bellman r q v' -> flow q m' ->
  at_rho v' - at_rho v = under m' (gaind r p v q).
Proof.
move=> hq _ bq fl; rewrite /at_rho -sumB (sumE (G := fun s => rho s * (v' s - v s))) => [|s]; last lra.
rewrite -/(at_rho _) (dual _ fl); apply: sumE => s; congr (_ * _).
rewrite gaindE // {1}bq /step_p (sumE (F := fun a => _ * ev s a _)
  (G := fun a => q s a * ev s a v' - q s a * ev s a v)) => [|a]; last by rewrite evB; lra.
rewrite sumB /Qd (sumE (F := fun a => q s a * (r s a + g * ev s a v'))
  (G := fun a => q s a * r s a + g * (q s a * ev s a v'))) => [|a]; last lra.
rewrite (sumE (F := fun a => q s a * (r s a + g * ev s a v))
  (G := fun a => q s a * r s a + g * (q s a * ev s a v))) => [|a]; last lra.
by rewrite !sumD !sumZ; lra.
Qed.
(* a stage, in any order *)
Corollary T0_stage_discounted r (team : nat -> S -> A -> R) (u mm : nat -> S -> R) n : (forall i, policy (team i)) ->
  (forall i, bellman r (team i) (u i)) -> (forall i, flow (team i) (mm i)) ->
  at_rho (u n) - at_rho (u O) = \big[Rplus/0]_(i < n) under (mm i.+1) (gaind r (team i) (u i) (team i.+1)).
Proof.
move=> ht hu hm; elim: n => [|n ih]; first by rewrite big_ord0; lra.
by rewrite big_ord_recr /= -ih -(T0_discounted (ht n.+1) (hu n) (hu n.+1) (hm n.+1)); lra.
Qed.

Variables (r : S -> A -> R) (p q : S -> A -> R) (v v' m : S -> R).
Hypotheses (hp : policy p) (hq : policy q) (fl : flow p m).

(* a floor of the value, for every action *)
Definition floord r Phi := forall s a, Phi s <= r s a + g * ev s a Phi.
(* sum_a p log(q/p) (Q - Phi); and the charge, sum_a k (Q - Phi) with the terms k of the KL *)
Definition scored r v Phi s := \sum_(a : A) (p s a * (ln (q s a / p s a) * (Qd r v s a - Phi s))).

Definition charged r v Phi s := \sum_(a : A) (kterm (p s) (q s) a * (Qd r v s a - Phi s)).

Lemma le_sum f s : f s <= \sum_(x : S) Rabs (f x).
Proof. exact: Rle_trans (Rle_abs _) (term_le_sum s (fun x => Rabs_pos (f x))). Qed.

Lemma above pi f Phi : policy pi -> floord r Phi -> bellman r pi f -> forall s, Phi s <= f s.
Proof.
move=> hpi hf be s; set C := \sum_(x : S) Rabs (Phi x - f x).
have C0 : 0 <= C by apply: sum_ge0 => x; exact: Rabs_pos.
apply: (vanish (C := C) g01 C0) => T; elim: T s => [|T ih] s.
  by have := le_sum (fun x => Phi x - f x) s; rewrite /= -/C; lra.
suff : \sum_(a : A) (pi s a * Phi s) <= \sum_(a : A) (pi s a * (Qd r f s a + C * g ^ T.+1)).
  rewrite (sum_const _ (proj2 (hpi s))) (sumE (G := fun a => pi s a * Qd r f s a + pi s a * (C * g ^ T.+1))) => [|a]; last lra.
  by rewrite sumD -be (sum_const _ (proj2 (hpi s))).
apply: sum_le => a; apply: Rmult_le_compat_l; first exact: (proj1 (hpi s)).
apply: Rle_trans (hf s a) _; rewrite /Qd.
have := ev_le s a (ih); rewrite evD ev1 => h.
have := Rmult_le_compat_l _ _ _ (proj1 g01) h; rewrite /=; lra.
Qed.

(* the sum of f over the next T steps of p, discounted *)
Fixpoint W (f : S -> R) T s : R := if T is u.+1 then f s + g * step_p p (W f u) s else 0.

Lemma step_p_abs f C s : (forall x, Rabs (f x) <= C) -> Rabs (step_p p f s) <= C.
Proof.
move=> h; have [p0 p1] := hp s.
rewrite -(sum_const C p1); apply: Rle_trans (sum_abs _) _; apply: sum_le => a.
rewrite Rabs_mult (Rabs_pos_eq _ (p0 a)); apply: Rmult_le_compat_l => //.
rewrite -(ev1 s a C); apply: Rle_trans (sum_abs _) _; apply: sum_le => x.
have [e0 _] := P_dist s a; rewrite Rabs_mult (Rabs_pos_eq _ (e0 x)); exact: Rmult_le_compat_l.
Qed.
Lemma step_pB f h s : step_p p (fun x => f x - h x) s = step_p p f s - step_p p h s.
Proof. by rewrite /step_p -sumB; apply: sumE => a; rewrite evB; lra. Qed.

(* the T-step sums tend to the sum under m *)
Lemma W_under f : let M := \sum_(s : S) m s in let C := \sum_(s : S) Rabs (f s) in
  forall T, under m f <= at_rho (W f T.+1) + M * C * g ^ T.
Proof.
move=> M C T; rewrite (dual _ fl).
have C0 : 0 <= C by apply: sum_ge0 => x; exact: Rabs_pos.
have inc U s : Rabs (W f U.+1 s - W f U s) <= C * g ^ U.
  elim: U s => [|U ih] s.
    rewrite /= /step_p sum0 => [|a]; last by rewrite /ev sum0 ?Rmult_0_r // => x; lra.
    rewrite (_ : _ - _ = f s); last lra.
    by have := le_sum (fun x => Rabs (f x)) s; rewrite (sumE (G := fun x => Rabs (f x))) => [|x]; rewrite ?Rabs_Rabsolu -/C; lra.
  have -> : W f U.+2 s - W f U.+1 s = g * step_p p (fun x => W f U.+1 x - W f U x) s.
    rewrite step_pB (_ : W f U.+2 s = f s + g * step_p p (W f U.+1) s) //.
    by rewrite (_ : W f U.+1 s = f s + g * step_p p (W f U) s) //; lra.
  rewrite Rabs_mult (Rabs_pos_eq _ (proj1 g01)) (_ : g ^ U.+1 = g * g ^ U) //.
  have := Rmult_le_compat_l _ _ _ (proj1 g01) (step_p_abs s ih); lra.
have key s : m s * f s <= m s * (W f T.+1 s - g * step_p p (W f T.+1) s) + m s * (C * g ^ T).
  rewrite -Rmult_plus_distr_l; apply: Rmult_le_compat_l; first exact: (proj1 fl).
  rewrite {1}(_ : W f T.+1 s = f s + g * step_p p (W f T) s) //.
  have := step_p_abs s (inc T); rewrite step_pB => h.
  have := Rmult_le_compat_l _ _ _ (proj1 g01) (Rle_trans _ _ _ (Rle_abs _) h).
  have : g * (C * g ^ T) <= 1 * (C * g ^ T) by apply: Rmult_le_compat_r; [apply: Rmult_le_pos C0 (pow_le _ _ (proj1 g01)) | lra].
  lra.
have := sum_le key; rewrite sumD sumZr -/M /under; lra.
Qed.

(* p does not leave the visited states *)
Lemma start_visited s : 0 < rho s -> 0 < m s.
Proof.
move=> rs; have [m0 ->] := fl; have := Rmult_le_pos _ _ (proj1 g01) 
  (_ : 0 <= \sum_(x : S) (m x * \sum_(a : A) (p x a * P x a s))).
suff : 0 <= \sum_(x : S) (m x * \sum_(a : A) (p x a * P x a s)) by move=> h /(_ h); lra.
apply: sum_ge0 => x; apply: Rmult_le_pos (m0 x) _; apply: sum_ge0 => a.
exact: Rmult_le_pos (proj1 (hp x) a) (proj1 (P_dist x a) s).
Qed.
Lemma next_visited s a s' : 0 < m s -> 0 < p s a -> 0 < P s a s' -> 0 < g -> 0 < m s'.
Proof.
move=> ms pa Pa g0; have [m0 ->] := fl; have := proj1 rho_dist s'.
have f0 x b : 0 <= p x b * P x b s' := Rmult_le_pos _ _ (proj1 (hp x) b) (proj1 (P_dist x b) s').
have t1 := term_le_sum a (f0 s).
have t2 := term_le_sum s (fun x => Rmult_le_pos _ _ (m0 x) (sum_ge0 (f0 x))).
have t3 := Rmult_le_compat_l _ _ _ (m0 s) t1.
have := Rmult_lt_0_compat _ _ ms (Rmult_lt_0_compat _ _ pa Pa) => t4.
by have := Rmult_lt_0_compat _ _ g0 (Rlt_le_trans _ _ _ t4 (Rle_trans _ _ _ t3 t2)); lra.
Qed.
Section Floor.
Variable Phi : S -> R.
Hypotheses (hf : floord r Phi) (bp : bellman r p v) (bq : bellman r q v').

(* vis: a set of states that p does not leave. What p uses there is kept, or dropped where the floor is certain after it *)
Section Visited.
Variable vis : S -> Prop.
Hypothesis hv : forall s a s', vis s -> 0 < p s a -> 0 < P s a s' -> 0 < g -> vis s'.
Hypothesis hd : forall s a, vis s -> 0 < p s a -> 0 < q s a \/ Qd r v s a = Phi s.
Lemma ev_le_visited s a f h : vis s -> 0 < p s a -> (forall x, vis x -> f x <= h x) -> g * ev s a f <= g * ev s a h.
Proof.
move=> vs pa E; case: (Rle_lt_or_eq_dec _ _ (proj1 g01)) => [g0|<-]; last lra.
apply: Rmult_le_compat_l (proj1 g01) _; apply: sum_pos_le => [|x Px]; first exact: (proj1 (P_dist s a)).
by apply: E; apply: hv vs pa Px g0.
Qed.

Lemma S9_ind_discounted_visited : let C := \sum_(s : S) Rabs (v s - Phi s) in
  forall T s lam, vis s -> 0 < lam ->
  (1 + ln lam) * (v s - Phi s) + W (scored r v Phi) T s - C * g ^ T * (lam + 1) <= lam * (v' s - Phi s).
Proof.
move=> C; have C0 : 0 <= C by apply: sum_ge0 => x; exact: Rabs_pos.
have av := above hp hf bp; have av' := above hq hf bq.
elim=> [|T ih] s lam ms l0.
  have b := le_sum (fun x => v x - Phi x) s; rewrite -/C in b.
  have := ln_le l0 => l1; have d0 : 0 <= v s - Phi s by have := av s; lra.
  have : (1 + ln lam) * (v s - Phi s) <= lam * (v s - Phi s) by apply: Rmult_le_compat_r; lra.
  have : lam * (v s - Phi s) <= lam * C by apply: Rmult_le_compat_l; lra.
  have : 0 <= lam * (v' s - Phi s) by apply: Rmult_le_pos; have := av' s; lra.
  rewrite /=; lra.
set w := fun f a => Qd r f s a - Phi s.
set z := fun a => g * ev s a (W (scored r v Phi) T).
have E f a : w f a = (r s a + g * ev s a Phi - Phi s) + g * ev s a (fun x => f x - Phi x).
  by rewrite /w /Qd evB; lra.
have rt0 a : 0 <= r s a + g * ev s a Phi - Phi s by have := hf s a; lra.
have w0 a : 0 < q s a -> 0 <= w v' a.
  move=> _; rewrite E; apply: Rplus_le_le_0_compat => //; apply: Rmult_le_pos (proj1 g01) _.
  by rewrite -(ev1 s a 0); apply: ev_le => x; have := av' x; lra.
have one a mu : 0 < p s a -> 0 < mu -> (1 + ln mu) * w v a + z a - C * g ^ T.+1 * (mu + 1) <= mu * w v' a.
  move=> pa mu0; have h := ev_le_visited ms pa (fun x mx => ih x mu mx mu0).
  have {}h : g * ((1 + ln mu) * ev s a (fun x => v x - Phi x) + ev s a (W (scored r v Phi) T) - C * g ^ T * (mu + 1))
     <= g * (mu * ev s a (fun x => v' x - Phi x)).
    by move: h; rewrite evB evD !evZ ev1.
  have l1 := ln_le mu0.
  have : (1 + ln mu) * (r s a + g * ev s a Phi - Phi s) <= mu * (r s a + g * ev s a Phi - Phi s)
    by apply: Rmult_le_compat_r; [exact: rt0 | lra].
  rewrite !E /z /=; lra.
have e0 : 0 <= C * g ^ T.+1 by apply: Rmult_le_pos C0 (pow_le _ _ (proj1 g01)).
have hd' a : 0 < p s a -> 0 < q s a \/ w v a = 0 by move=> pa; case: (hd ms pa) => [|Z]; [left | right; rewrite /w; lra].
have := step_drop (hp s) (hq s) hd' l0 e0 w0 one.
have X (pi : S -> A -> R) f : dist (pi s) -> \sum_(a : A) (pi s a * w f a) = \sum_(a : A) (pi s a * Qd r f s a) - Phi s.
  move=> d; rewrite /w (sumE (G := fun a => pi s a * Qd r f s a - pi s a * Phi s)) => [|a]; last lra.
  by rewrite sumB sum_const //; apply: (proj2 d).
rewrite (X p) // (X q) // -bp -bq.
rewrite (sumE (G := fun a => p s a * (ln (q s a / p s a) * w v a) + g * (p s a * ev s a (W (scored r v Phi) T)))
  (F := fun a => p s a * (_ + _)))
  => [|a]; last by rewrite /z; lra.
by rewrite sumD sumZ [W _ T.+1 s]/= /scored /step_p /w; lra.
Qed.
End Visited.
Hypothesis hd : forall s a, 0 < m s -> 0 < p s a -> 0 < q s a \/ Qd r v s a = Phi s.

(* S9: J(q) - J(p) >= sum_s m(s) sum_a p log(q/p) (Q - Phi) *)
Theorem S9_discounted_visited : under m (scored r v Phi) <= at_rho v' - at_rho v.
Proof.
set C := \sum_(s : S) Rabs (v s - Phi s); set M := \sum_(s : S) m s; set D := \sum_(s : S) Rabs (scored r v Phi s).
have C0 : 0 <= C by apply: sum_ge0 => x; exact: Rabs_pos.
have D0 : 0 <= D by apply: sum_ge0 => x; exact: Rabs_pos.
have M0 : 0 <= M by apply: sum_ge0 => x; exact: (proj1 fl).
have c0 : 0 <= 2 * C + M * D by have := Rmult_le_pos _ _ M0 D0; lra.
apply: (vanish g01 c0) => T.
have h s : 0 < m s -> W (scored r v Phi) T.+1 s - 2 * C * g ^ T <= v' s - v s.
  move=> ms; have := S9_ind_discounted_visited next_visited hd T.+1 ms Rlt_0_1; rewrite ln_1 -/C /= => i.
  have : g * g ^ T <= 1 * g ^ T by apply: Rmult_le_compat_r; [exact: pow_le (proj1 g01) | lra].
  by move=> gg; have := Rmult_le_compat_l _ _ _ C0 gg; lra.
have := W_under (scored r v Phi) T; rewrite -/M -/D => u.
have : at_rho (W (scored r v Phi) T.+1) - 2 * C * g ^ T <= at_rho v' - at_rho v.
  rewrite /at_rho -[X in _ - X](sum_const _ (proj2 rho_dist)) -!sumB; apply: sum_le => s.
  case: (Rle_lt_or_eq_dec _ _ (proj1 rho_dist s)) => [rs|<-]; last lra.
  have := Rmult_le_compat_l _ _ _ (Rlt_le _ _ rs) (h s (start_visited rs)); lra.
lra.
Qed.

Lemma scoredE_at s : 0 < m s -> scored r v Phi s = gaind r p v q s - charged r v Phi s.
Proof.
move=> ms; rewrite gaindE // (bp s) /scored /charged; set w := fun a => Qd r v s a - Phi s.
have -> : \sum_(a : A) (q s a * Qd r v s a) - \sum_(a : A) (p s a * Qd r v s a) = \sum_(a : A) ((q s a - p s a) * w a).
  rewrite (sumE (F := fun a => (q s a - p s a) * w a)
    (G := fun a => (q s a * Qd r v s a - p s a * Qd r v s a) - (q s a * Phi s - p s a * Phi s))) => [|a].
    by rewrite sumB !sumB !sumZr (proj2 (hq s)) (proj2 (hp s)); lra.
  by rewrite /w; lra.
rewrite -sumB; apply: sumE => a; rewrite /kterm -/(w a).
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
case: (hd ms pa) => [qa|E]; first by rewrite (ln_swap pa qa); lra.
by have -> : w a = 0 by [rewrite /w; lra]; lra.
Qed.
(* (a), (c): J(q) - J(p) - L >= - the charge *)
Theorem S9_charge_discounted : - under m (charged r v Phi) <= at_rho v' - at_rho v - under m (gaind r p v q).
Proof.
have := S9_discounted_visited; rewrite /under.
rewrite (sumE (F := fun s => _ * scored _ _ _ s) (G := fun s => m s * gaind r p v q s - m s * charged r v Phi s)) => [|s].
  by rewrite sumB; lra.
by case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|<-]; [rewrite scoredE_at //; lra | lra].
Qed.
End Floor.

End Discounted.

(* ---- costs: a ceiling of r is a floor of -r *)
Section Costs.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variable r : S -> A -> R.
Notation negd r := (fun s a => - r s a).
Notation nv f := (fun x => - f x).
Lemma Q_negr f s a : Qd P g (negd r) (nv f) s a = - Qd P g r f s a.
Proof. by rewrite /Qd (evE P s a (h := fun x => -1 * f x)) => [|x]; rewrite ?evZ; lra. Qed.
Lemma bellman_neg pi f : bellman P g r pi f -> bellman P g (negd r) pi (nv f).
Proof. by move=> b s; rewrite b -sumN; apply: sumE => a; rewrite Q_negr; lra. Qed.
Lemma at_rho_neg f : at_rho rho (nv f) = - at_rho rho f.
Proof. by rewrite /at_rho -sumN; apply: sumE => s; lra. Qed.
Lemma surrogate_neg p q v m : under m (gaind P g (negd r) p (nv v) q) = - under m (gaind P g r p v q).
Proof.
rewrite /under -sumN; apply: sumE => s; rewrite -Ropp_mult_distr_r_reverse; congr (_ * _).
by rewrite /gaind -sumN; apply: sumE => a; rewrite Q_negr; lra.
Qed.
Lemma const_floor (rr : S -> A -> R) c : (forall s a, c <= rr s a) -> floord P g rr (fun _ => c / (1 - g)).
Proof.
move=> h s a; rewrite ev1 //; have := h s a.
have : c / (1 - g) = c + g * (c / (1 - g)) by field; lra.
lra.
Qed.
Definition ceilingd (r : S -> A -> R) (Psi : S -> R) := forall s a, r s a + g * ev P s a Psi <= Psi s.
Lemma ceilingd_neg Psi : ceilingd r Psi -> floord P g (negd r) (nv Psi).
Proof. by move=> h s a; have := h s a; rewrite (evE P s a (f := nv Psi) (h := fun x => -1 * Psi x)) => [|x];
  rewrite ?evZ; lra. Qed.

(* (b): J(q) - J(p) - L <= the charge of a ceiling, sum_a k (Psi - Q) *)
Theorem S9_ceiling_discounted p q v v' m Psi : policy p -> policy q -> flow P g rho p m -> ceilingd r Psi ->
  bellman P g r p v -> bellman P g r q v' -> (forall s a, 0 < m s -> 0 < p s a -> 0 < q s a \/ Qd P g r v s a = Psi s) ->
  at_rho rho v' - at_rho rho v - under m (gaind P g r p v q)
    <= under m (fun s => \sum_(a : A) (kterm (p s) (q s) a * (Psi s - Qd P g r v s a))).
Proof.
move=> hp hq fl hc bp bq hd.
have hd' s a : 0 < m s -> 0 < p s a -> 0 < q s a \/ Qd P g (negd r) (nv v) s a = - Psi s.
  by move=> ms pa; case: (hd s a ms pa) => [|E]; [left | right; rewrite Q_negr E].
have := S9_charge_discounted g01 P_dist rho_dist hp hq fl (ceilingd_neg hc) (bellman_neg bp) (bellman_neg bq) hd'.
rewrite !at_rho_neg surrogate_neg.
have -> : under m (charged P g p q (negd r) (nv v) (nv Psi))
  = under m (fun s => \sum_(a : A) (kterm (p s) (q s) a * (Psi s - Qd P g r v s a))); last lra.
by apply: sumE => s; congr (_ * _); apply: sumE => a; rewrite Q_negr; congr (_ * _); lra.
Qed.
End Costs.

(* ---- S7. As in Episodic.v: q' is q with the changes one_k made too, each with its surrogate under p. S7: q = p, one = q'. *)
Section S7.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Notation bellman := (bellman P g). Notation gaind := (gaind P g). Notation scored := (scored P g).

Notation negd r := (fun s a => - r s a).
Section Family.
Variables (I : finType) (p q q' : S -> A -> R) (one : I -> S -> A -> R) (m : S -> R).
Hypotheses (hp : policy p) (hq : policy q) (hq' : policy q') (h1 : forall k, policy (one k)) (fl : flow P g rho p m).
Hypotheses (kq : forall s, 0 < m s -> keeps (p s) (q s)) (kq' : forall s, 0 < m s -> keeps (p s) (q' s)).
Hypotheses (k1 : forall s k, 0 < m s -> keeps (p s) (one k s)).
Hypothesis la : forall s, 0 < m s -> log_adds (p s) (q s) (q' s) (fun k => one k s).

Lemma one_side_discounted rr vp vq vq' Phi : bellman rr p vp -> bellman rr q vq -> bellman rr q' vq' -> floord P g rr Phi ->
  under m (scored p q' rr vp Phi) <= at_rho rho vq' - at_rho rho vp /\
  under m (scored p q' rr vp Phi) <= at_rho rho vq - at_rho rho vp + \sum_(k : I) under m (gaind rr p vp (one k)).
Proof.
move=> bp bq bq' hf.
have hd (x : S -> A -> R) : (forall s, 0 < m s -> keeps (p s) (x s)) -> forall s a, 0 < m s -> 0 < p s a ->
  0 < x s a \/ Qd P g rr vp s a = Phi s.
  by move=> k s a ms pa; left; apply: k.
split; first exact: (S9_discounted_visited g01 P_dist rho_dist hp hq' fl hf bp bq' (hd _ kq')).
have := S9_discounted_visited g01 P_dist rho_dist hp hq fl hf bp bq (hd _ kq) => h.
suff : under m (scored p q' rr vp Phi) <= under m (scored p q rr vp Phi) + \sum_(k : I) under m (gaind rr p vp (one k)) by lra.
rewrite /under sum_swap -sumD; apply: sum_le => s; rewrite sumZ.
case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|<-]; last lra.
rewrite -Rmult_plus_distr_l; apply: Rmult_le_compat_l; first lra.
have -> : scored p q' rr vp Phi s = scored p q rr vp Phi s + \sum_(k : I) scored p (one k) rr vp Phi s.
  rewrite /Discounted.scored sum_swap -sumD; apply: sumE => a; rewrite sumZ.
  case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
  by rewrite sumZr (la ms pa (kq ms pa) (kq' ms pa)) => [|k]; [lra | exact: k1 ms _ pa].
apply: Rplus_le_compat_l; apply: sum_le => k.
rewrite (scoredE_at hp (h1 k) bp (hd _ (fun s => @k1 s k)) ms).
suff : 0 <= charged P g p (one k) rr vp Phi s by lra.
apply: sum_ge0 => a; apply: Rmult_le_pos; first exact: kterm_ge0 (hp s) (h1 k s) (k1 k ms).
have := ev_le P_dist s a (above g01 P_dist hp hf bp) => e1; have := hf s a.
by have := Rmult_le_compat_l _ _ _ (proj1 g01) e1; rewrite /Qd; lra.
Qed.

Theorem S7_family_discounted r vp vq vq' lo hi : bellman r p vp -> bellman r q vq -> bellman r q' vq' ->
  (forall s a, lo <= r s a <= hi) ->
  Rabs (at_rho rho vq' - at_rho rho vq - \sum_(k : I) under m (gaind r p vp (one k)))
    <= (hi - lo) / (1 - g) * under m (fun s => kl (p s) (q' s)).
Proof.
move=> bp bq bq' hr.
have fr : floord P g r (fun _ => lo / (1 - g)) by apply: const_floor => // s a; have := hr s a; lra.
have fn : floord P g (negd r) (fun _ => - hi / (1 - g)) by apply: const_floor => // s a; have := hr s a; lra.
have [b1 a1] := one_side_discounted bp bq bq' fr.
have [b2 a2] := one_side_discounted (bellman_neg bp) (bellman_neg bq) (bellman_neg bq') fn.
move: b2 a2; rewrite !at_rho_neg (sumE (F := fun k => under m (gaind (negd r) _ _ (one k)))
  (fun k => surrogate_neg P g r p (one k) vp m)) sumN.
set s1 := under m (scored p q' r vp _) in b1 a1 *; set s2 := under m _ => b2 a2.
suff : s1 + s2 = - ((hi - lo) / (1 - g) * under m (fun s => kl (p s) (q' s))) by move=> E; apply: Rabs_le; lra.
rewrite /s1 /s2 /under -sumD -sumZ -sumN; apply: sumE => s.
case: (Rle_lt_or_eq_dec _ _ (proj1 fl s)) => [ms|<-]; last lra.
rewrite -Rmult_plus_distr_l -Rmult_assoc (Rmult_comm _ (m s)) Rmult_assoc -Ropp_mult_distr_r_reverse; congr (_ * _).
rewrite /Discounted.scored -sumD /kl -sumZ -sumN; apply: sumE => a; rewrite Q_negr.
case: (Rle_lt_or_eq_dec _ _ (proj1 (hp s) a)) => [pa|<-]; last lra.
by rewrite (ln_swap pa (kq' ms pa)); field; lra.
Qed.
End Family.

Variables (r : S -> A -> R) (p q : S -> A -> R) (v v' m : S -> R) (lo hi : R).
Hypotheses (hp : policy p) (hq : policy q).
(* S7: |fresh gap| <= (hi-lo)/(1-g) K, K = delta/(1-g), if q keeps what p uses at visited states *)
Theorem S7_discounted_visited : (forall s, 0 < m s -> keeps (p s) (q s)) -> flow P g rho p m -> bellman r p v -> bellman r q v' ->
  (forall s a, lo <= r s a <= hi) ->
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind r p v q)) <= (hi - lo) / (1 - g) * under m (fun s => kl (p s) (q s)).
Proof.
move=> hk fl bp bq hr.
have <- : \sum_(k : unit_finType) under m (gaind r p v q) = under m (gaind r p v q) by rewrite (big_pred1 tt) => [|[]].
apply: (@S7_family_discounted unit_finType p p q (fun _ => q) m hp hp hq (fun _ => hq) fl _ hk (fun s _ => hk s)) => // s ms.
  by [].
exact: log_adds_self.
Qed.
(* in the paper's units: delta = (1-g) sum_s m(s) KL(s) is the expected KL under the occupancy *)
Corollary S7_delta_visited : (forall s, 0 < m s -> keeps (p s) (q s)) -> flow P g rho p m -> bellman r p v -> bellman r q v' ->
  (forall s a, lo <= r s a <= hi) -> let delta := (1 - g) * under m (fun s => kl (p s) (q s)) in
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind r p v q)) <= (hi - lo) * delta / (1 - g) ^ 2.
Proof.
move=> hk fl bp bq hr d; have := S7_discounted_visited hk fl bp bq hr.
set K := under m (fun s => kl _ _).
by have -> : (hi - lo) / (1 - g) * K = (hi - lo) * d / (1 - g) ^ 2 by rewrite /d -/K; field; lra.
Qed.

(* ---- the same with everything kept *)
Hypothesis hk : forall s, keeps (p s) (q s).
Lemma S9_ind_discounted rr f f' Phi : floord P g rr Phi -> bellman rr p f -> bellman rr q f' ->
  let C := \sum_(s : S) Rabs (f s - Phi s) in forall T s lam, 0 < lam ->
  (1 + ln lam) * (f s - Phi s) + W P g p (scored p q rr f Phi) T s - C * g ^ T * (lam + 1) <= lam * (f' s - Phi s).
Proof.
move=> hf b b' C T s lam.
by apply: (S9_ind_discounted_visited g01 P_dist hp hq hf b b' (vis := fun _ => True)) => // x a _ pa; left; apply: hk.
Qed.
Lemma scoredE rr f Phi s : bellman rr p f -> scored p q rr f Phi s = gaind rr p f q s - charged P g p q rr f Phi s.
Proof. by move=> b; apply: (scoredE_at hp hq b (m := fun _ => 1)) => [x a _ pa|]; [left; apply: hk | lra]. Qed.
Hypothesis fl : flow P g rho p m.
Let hd (Phi : S -> R) rr f s a : 0 < m s -> 0 < p s a -> 0 < q s a \/ Qd P g rr f s a = Phi s.
Proof. by left; apply: hk. Qed.
Theorem S9_discounted rr f f' Phi : floord P g rr Phi -> bellman rr p f -> bellman rr q f' ->
  under m (scored p q rr f Phi) <= at_rho rho f' - at_rho rho f.
Proof. by move=> hf b b'; apply: (S9_discounted_visited g01 P_dist rho_dist hp hq fl hf b b') => s a; apply: hd. Qed.
Lemma S9_charged rr f f' Phi : bellman rr p f -> bellman rr q f' -> floord P g rr Phi ->
  - under m (charged P g p q rr f Phi) <= at_rho rho f' - at_rho rho f - under m (gaind rr p f q).
Proof. by move=> b b' hf; apply: (S9_charge_discounted g01 P_dist rho_dist hp hq fl hf b b') => s a; apply: hd. Qed.
Hypotheses (bp : bellman r p v) (bq : bellman r q v') (hr : forall s a, lo <= r s a <= hi).
Theorem S7_discounted :
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind r p v q)) <= (hi - lo) / (1 - g) * under m (fun s => kl (p s) (q s)).
Proof. by apply: S7_discounted_visited. Qed.
Corollary S7_delta : let delta := (1 - g) * under m (fun s => kl (p s) (q s)) in
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind r p v q)) <= (hi - lo) * delta / (1 - g) ^ 2.
Proof. by apply: S7_delta_visited. Qed.
End S7.
