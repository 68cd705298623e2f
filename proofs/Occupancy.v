(* How far the occupancy moves: S2 (path Pinsker), S3 (joint path) and S1 (activity share), discounted and by
   layers of an episode.

   S2 without paths. By log-sum one step of the world adds at most the KL of the rows,
   KL(nP_p, n'P_q) <= KL(n, n') + E_n KL(p, q), and mixing with rho costs nothing. With d = (1-g) rho + g d_+, d_+ = d P_p,
   the numbers D = KL(d, d') and D_+ = KL(d_+, d'_+) obey D <= g D_+ and D_+ <= D + delta: hence D_+ <= delta/(1-g).
   Pinsker on d_+, and TV(d', d) = g TV(d'_+, d_+), is S2. No clock, no path, no limit. All that is asked of the supports
   is that the new policy keeps what the current one uses at the states that it visits (seen); that the new visits then
   cover the current ones is proved (visits_keep). *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Pinsker Discounted Paper Existence.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Lemma pos_or_0 x : 0 <= x -> 0 < x \/ x = 0. Proof. lra. Qed.
Lemma pos_factors x y : 0 <= x -> 0 <= y -> 0 < x * y -> 0 < x /\ 0 < y. Proof. by move=> *; nra. Qed.
Lemma self_log x : 0 <= x -> x * ln (x / x) = 0.
Proof. by case/pos_or_0 => [h|->]; [rewrite (_ : x / x = 1) ?ln_1; [lra | field; lra] | lra]. Qed.
Lemma le_root x y : 0 <= x -> x ^ 2 <= y -> x <= sqrt y.
Proof. by move=> x0 h; rewrite -(sqrt_pow2 x x0); apply: sqrt_le_1_alt. Qed.

(* the sum of roots: sqrt x <= 2/3 ((x+1)^(3/2) - x^(3/2)) *)
Lemma root_step x : 0 <= x -> 2 / 3 * (x * sqrt x) + sqrt x <= 2 / 3 * ((x + 1) * sqrt (x + 1)).
Proof.
move=> x0; have x1 : 0 <= x + 1 by lra.
have ab : sqrt x <= sqrt (x + 1) by apply: sqrt_le_1_alt; lra.
move: (sqrt_sqrt x x0) (sqrt_sqrt _ x1) (sqrt_pos x) ab; set a := sqrt x; set b := sqrt (x + 1) => a2 b2 a0 ab.
have -> : x + 1 = b * b by []. have E : x = a * a by []. rewrite [in X in X <= _]E.
have e : a = a * (b * b - a * a) by rewrite a2 b2; ring.
have : 0 <= (b - a) * ((b - a) * (b + a / 2)) by apply: Rmult_le_pos; [lra | apply: Rmult_le_pos; lra].
nra.
Qed.

Lemma sum_le_const (f : nat -> R) c n : (forall i, (i < n)%nat -> f i <= c) -> \big[Rplus/0]_(i < n) f i <= INR n * c.
Proof.
elim: n => [|n ih] h; first by rewrite big_ord0 /=; lra.
have {}ih : \big[Rplus/0]_(i < n) f i <= INR n * c by apply: ih => i lt; apply/h/ltnW.
by rewrite big_ord_recr S_INR; apply: Rle_trans (Rplus_le_compat _ _ _ _ ih (h n (ltnSn n))) _; lra.
Qed.
Lemma nat_sum_ge0 (f : nat -> R) n : (forall k, 0 <= f k) -> 0 <= \big[Rplus/0]_(k < n) f k.
Proof. by move=> h; apply: (big_ind (Rle 0)) => [|? ? ? ?|k _]; [lra | lra | exact: h]. Qed.
Lemma nat_sum_mono (f : nat -> R) i n : (forall k, 0 <= f k) -> (i <= n)%nat ->
  \big[Rplus/0]_(k < i) f k <= \big[Rplus/0]_(k < n) f k.
Proof.
move=> h; elim: n => [|n ih]; first by rewrite leqn0 => /eqP ->; lra.
rewrite leq_eqVlt => /orP [/eqP ->|/ih le]; first lra.
rewrite big_ord_recr; apply: Rle_trans le _; rewrite -[X in X <= _]Rplus_0_r; exact: Rplus_le_compat_l.
Qed.

(* of n agents at most one speaks *)
Definition ind (b : bool) : R := if b then 1 else 0.
Lemma ind_sum (a n : nat) : \big[Rplus/0]_(k < n) ind (a == k) = ind (a < n)%nat.
Proof.
elim: n => [|n ih]; first by rewrite big_ord0.
rewrite big_ord_recr ih /= ltnS [(a <= n)%nat]leq_eqVlt; case: (eqVneq a n) => [->|_]; rewrite ?ltnn /ind /=; lra.
Qed.

(* Cauchy-Schwarz over the agents *)
Lemma roots_sum (w d : nat -> R) n : (forall k, 0 <= w k) -> (forall k, 0 <= d k) ->
  \big[Rplus/0]_(k < n) sqrt (w k * d k) <= sqrt (\big[Rplus/0]_(k < n) w k) * sqrt (\big[Rplus/0]_(k < n) d k).
Proof.
move=> w0 d0; elim: n => [|n ih]; first by rewrite !big_ord0 sqrt_0; lra.
rewrite !big_ord_recr; apply: Rle_trans (Rplus_le_compat_r _ _ _ ih) _.
have W0 := nat_sum_ge0 n w0; have D0 := nat_sum_ge0 n d0.
rewrite -[X in _ <= X]sqrt_mult_alt; last by apply: Rplus_le_le_0_compat.
move: (sqrt_sqrt _ W0) (sqrt_sqrt _ D0) (sqrt_sqrt _ (w0 n)) (sqrt_sqrt _ (d0 n)); rewrite sqrt_mult_alt // /=.
move: (sqrt_pos (\big[Rplus/0]_(k < n) w k)) (sqrt_pos (\big[Rplus/0]_(k < n) d k)) (sqrt_pos (w n)) (sqrt_pos (d n)).
set a := sqrt _; set b := sqrt _; set x := sqrt (w n); set y := sqrt (d n) => a0 b0 x0 y0 <- <- <- <-.
apply: le_root; first by have := Rmult_le_pos _ _ a0 b0; have := Rmult_le_pos _ _ x0 y0; lra.
have := pow2_ge_0 (a * y - x * b); lra.
Qed.

Section LogSum.
Variable I : finType.
Implicit Types a b : I -> R.
Lemma all_0 a : (forall i, 0 <= a i) -> \sum_(i : I) a i = 0 -> forall i, a i = 0.
Proof. by move=> h z i; have := term_le_sum i h; have := h i; lra. Qed.

(* the inequality of log-sum: adding up loses KL *)
Lemma log_sum a b : (forall i, 0 <= a i) -> (forall i, 0 <= b i) -> keeps a b ->
  (\sum_(i : I) a i) * ln ((\sum_(i : I) a i) / \sum_(i : I) b i) <= kl a b.
Proof.
move=> a0 b0 k; set X := \sum_(i : I) a i; set Y := \sum_(i : I) b i.
have Xp : 0 <= X := sum_ge0 a0; case: (pos_or_0 Xp) => [X0|Xz]; last first.
  rewrite Xz /kl sum0 => [|i]; first by lra.
  by rewrite (all_0 a0 Xz); lra.
have Y0 : 0 < Y.
  case: (pos_or_0 (sum_ge0 b0)) => // Yz; move: X0; rewrite /X sum0 => [|i]; first lra.
  by case: (pos_or_0 (a0 i)) => // /k; rewrite (all_0 b0 Yz); lra.
have one i : a i * ln (X / Y) <= a i * ln (a i / b i) + (b i * (X / Y) - a i).
  have r0 := Rdiv_lt_0_compat _ _ X0 Y0.
  case: (pos_or_0 (a0 i)) => [ai|->]; last first.
    by have := Rmult_le_pos _ _ (b0 i) (Rlt_le _ _ r0); rewrite !Rmult_0_l; lra.
  have bi := k i ai; have q0 := Rdiv_lt_0_compat _ _ bi ai.
  have := ln_le (Rmult_lt_0_compat _ _ r0 q0); rewrite ln_mult // (ln_swap ai bi) => h.
  have := Rmult_le_compat_l _ _ _ (a0 i) h.
  have -> : a i * (X / Y * (b i / a i) - 1) = b i * (X / Y) - a i by field; lra.
  lra.
have := sum_le one; rewrite sumD sumB !sumZr -/X -/Y /kl.
by have -> : Y * (X / Y) = X by [field; lra]; lra.
Qed.
End LogSum.

Section Push.
Variables (S A : finType) (P : S -> A -> S -> R).
Hypothesis P_dist : forall s a, dist (P s a).
Implicit Types (p q : S -> A -> R) (n : S -> R).

(* one step of the world: n P_p *)
Definition push p n s' := \sum_(s : S) (n s * \sum_(a : A) (p s a * P s a s')).
(* where n counts, the new policy keeps what the current one uses *)
Definition seen n p q := forall s, 0 < n s -> keeps (p s) (q s).

Lemma pushE p n s' : push p n s' = \sum_(w : prod_finType S A) (n w.1 * p w.1 w.2 * P w.1 w.2 s').
Proof. by rewrite sum_pairs; apply: sumE => s; rewrite -sumZ; apply: sumE => a /=; lra. Qed.
Lemma push_ge0 p n s' : policy p -> (forall s, 0 <= n s) -> 0 <= push p n s'.
Proof.
move=> hp n0; apply: sum_ge0 => s; apply: Rmult_le_pos (n0 s) _; apply: sum_ge0 => a.
by apply: Rmult_le_pos; [exact: (proj1 (hp s)) | exact: (proj1 (P_dist s a))].
Qed.
Lemma push_sum p n f : \sum_(s' : S) (push p n s' * f s') = \sum_(s : S) (n s * step_p P p f s).
Proof.
rewrite (sumE (G := fun s' => \sum_(s : S) (n s * \sum_(a : A) (p s a * P s a s' * f s')))) => [|s']; last first.
  by rewrite -sumZr; apply: sumE => s; rewrite sumZr; lra.
rewrite sum_swap; apply: sumE => s.
rewrite sumZ sum_swap; congr (_ * _); apply: sumE => a; rewrite /ev -sumZ; apply: sumE => x; lra.
Qed.
Lemma push_mass p n : policy p -> \sum_(s' : S) push p n s' = \sum_(s : S) n s.
Proof.
move=> hp; have := push_sum p n (fun _ => 1); rewrite (sumE (G := push p n)) => [->|s]; last lra.
apply: sumE => s; suff -> : step_p P p (fun _ => 1) s = 1 by lra.
by rewrite /step_p -[RHS](proj2 (hp s)); apply: sumE => a; rewrite ev1 //; lra.
Qed.

Lemma push_keeps p q n n' : policy p -> policy q -> (forall s, 0 <= n s) -> (forall s, 0 <= n' s) ->
  keeps n n' -> seen n p q -> keeps (push p n) (push q n').
Proof.
move=> hp hq n0 n0' k hs s'.
have z' w : 0 <= n' w.1 * q w.1 w.2 * P w.1 w.2 s'.
  by apply: Rmult_le_pos (proj1 (P_dist _ _) _); apply: Rmult_le_pos (n0' _) (proj1 (hq _) _).
case: (pos_or_0 (sum_ge0 z')); rewrite -pushE => // z; rewrite pushE sum0 => [|w]; first lra.
rewrite pushE in z; have := all_0 z' z w.
case: (pos_or_0 (n0 w.1)) => [nw|->]; last lra.
case: (pos_or_0 (proj1 (hp w.1) w.2)) => [pw|->]; last lra.
case: (pos_or_0 (proj1 (P_dist w.1 w.2) s')) => [Pw|->]; last lra.
by have := Rmult_lt_0_compat _ _ (Rmult_lt_0_compat _ _ (k _ nw) (hs _ nw _ pw)) Pw; lra.
Qed.

(* data processing: a step adds at most the KL of the rows *)
Lemma push_kl p q n n' : policy p -> policy q -> (forall s, 0 <= n s) -> (forall s, 0 <= n' s) ->
  keeps n n' -> seen n p q -> kl (push p n) (push q n') <= kl n n' + under n (fun s => kl (p s) (q s)).
Proof.
move=> hp hq n0 n0' k hs.
have pos w s' : 0 < n w.1 * p w.1 w.2 * P w.1 w.2 s' -> 0 < n w.1 /\ 0 < p w.1 w.2 /\ 0 < P w.1 w.2 s'.
  have p0 := proj1 (hp w.1) w.2; have P0 := proj1 (P_dist w.1 w.2) s'.
  by case/(pos_factors (Rmult_le_pos _ _ (n0 _) p0) P0) => /(pos_factors (n0 _) p0) [? ?].
have z w s' : 0 <= n w.1 * p w.1 w.2 * P w.1 w.2 s'.
  by apply: Rmult_le_pos (proj1 (P_dist _ _) _); apply: Rmult_le_pos (n0 _) (proj1 (hp _) _).
have z' w s' : 0 <= n' w.1 * q w.1 w.2 * P w.1 w.2 s'.
  by apply: Rmult_le_pos (proj1 (P_dist _ _) _); apply: Rmult_le_pos (n0' _) (proj1 (hq _) _).
have kp s' : keeps (fun w => n w.1 * p w.1 w.2 * P w.1 w.2 s') (fun w => n' w.1 * q w.1 w.2 * P w.1 w.2 s').
  move=> w /pos [ns [ps Ps]]; apply: Rmult_lt_0_compat => //.
  by apply: Rmult_lt_0_compat; [exact: k | exact: hs].
have one s' := log_sum (fun w => z w s') (fun w => z' w s') (kp s').
apply: Rle_trans (_ : \sum_(s' : S) kl (fun w : prod_finType S A => n w.1 * p w.1 w.2 * P w.1 w.2 s')
  (fun w => n' w.1 * q w.1 w.2 * P w.1 w.2 s') <= _).
  by apply: sum_le => s'; rewrite !pushE.
apply: Req_le; rewrite /kl sum_swap sum_pairs /under -sumD; apply: sumE => s /=.
rewrite (sumE (G := fun a => p s a * (n s * ln (n s / n' s)) + n s * (p s a * ln (p s a / q s a)))).
  by rewrite sumD sumZr sumZ (proj2 (hp s)); lra.
move=> a; rewrite -[RHS]Rmult_1_r -(proj2 (P_dist s a)) -sumZ; apply: sumE => s'.
case: (pos_or_0 (z (s, a) s')) => [h|] /=; last first.
  move=> h; rewrite h Rmult_0_l; suff : n s * p s a * P s a s' * (ln (n s / n' s) + ln (p s a / q s a)) = 0 by lra.
  by rewrite h; lra.
have [/= ns [ps Ps]] := pos _ _ h; have ns' := k s ns; have qs := hs s ns a ps.
have -> : n s * p s a * P s a s' / (n' s * q s a * P s a s') = n s / n' s * (p s a / q s a) by field; lra.
by rewrite ln_mult; [lra | exact: Rdiv_lt_0_compat | exact: Rdiv_lt_0_compat].
Qed.
End Push.

(* ------------------------------------------------------------------ the agent that moves speaks at the states of T only *)
Section Share.
Variables (S A : finType).
Implicit Types (p q : S -> A -> R) (n : S -> R) (T : pred S).
Definition only T p q := forall s a, ~~ T s -> q s a = p s a.
Lemma ind01 b : 0 <= ind b <= 1. Proof. by rewrite /ind; case: b; lra. Qed.
Lemma kl_mean_ge0 p q n : policy p -> policy q -> (forall s, 0 <= n s) -> seen n p q -> 0 <= under n (fun s => kl (p s) (q s)).
Proof.
move=> hp hq n0 hs; apply: sum_ge0 => s; case: (pos_or_0 (n0 s)) => [ns|->]; last lra.
apply: Rmult_le_pos (n0 s) _; rewrite -(kterm_sum (hp s) (hq s)); apply: sum_ge0 => a.
by apply: kterm_ge0 => //; exact: hs.
Qed.
(* Cauchy-Schwarz and Pinsker *)
Lemma share_mean p q n T : policy p -> policy q -> (forall s, 0 <= n s) -> seen n p q -> only T p q ->
  under n (fun s => tv (p s) (q s)) <= sqrt (under n (fun s => ind (T s)) * under n (fun s => kl (p s) (q s)) / 2).
Proof.
move=> hp hq n0 hs ho; pose c s := n s * ind (T s).
have c0 s : 0 <= c s by apply: Rmult_le_pos (n0 s) _; have := ind01 (T s); lra.
have -> : under n (fun s => tv (p s) (q s)) = \sum_(s : S) (c s * tv (p s) (q s)).
  apply: sumE => s; rewrite /c /ind; case: ifP => [_|/negbT nt]; first lra.
  by rewrite /tv sum0 => [|a]; [lra | rewrite ho // Rminus_eq_0 Rabs_R0].
apply: le_root; first by apply: sum_ge0 => s; apply: Rmult_le_pos (c0 s) (tv_ge0 _ _).
apply: Rle_trans (cauchy (fun s => tv (p s) (q s)) c0) _; rewrite /Rdiv Rmult_assoc.
apply: Rmult_le_compat_l; first exact: sum_ge0.
rewrite -sumZr; apply: sum_le => s; case: (pos_or_0 (n0 s)) => [ns|z]; last by rewrite /c z; lra.
apply: Rle_trans (_ : n s * tv (p s) (q s) ^ 2 <= _).
  by apply: Rmult_le_compat_r; [exact: pow2_ge_0 | rewrite /c; have := ind01 (T s); nra].
by have := Rmult_le_compat_l _ _ _ (n0 s) (pinsker (hp s) (hq s) (hs s ns)); lra.
Qed.
End Share.

(* ------------------------------------------------------------------ discounted *)
Section Discounted.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Implicit Types (p q : S -> A -> R) (m : S -> R).
Notation flow := (flow P g rho).
Notation push := (push P).
Notation delta := (delta g).
Let pos1 : 0 < 1 - g := Rlt_Rminus _ _ (proj2 g01).

(* the occupancy *)
Definition occ m s := (1 - g) * m s.
Lemma occ_dist p m : policy p -> flow p m -> dist (occ m).
Proof.
move=> hp fl; split=> [s|]; first by apply: Rmult_le_pos; [lra | exact: (proj1 fl)].
by rewrite sumZ (mass g01 P_dist rho_dist hp fl); field; lra.
Qed.
Lemma push_dist p m : policy p -> flow p m -> dist (occ (push p m)).
Proof.
move=> hp fl; split=> [s|]; first by apply: Rmult_le_pos; [lra | apply: push_ge0 (proj1 fl)].
by rewrite sumZ push_mass // (mass g01 P_dist rho_dist hp fl); field; lra.
Qed.
Lemma flowE p m s : flow p m -> m s = rho s + g * push p m s. Proof. by move=> [_ h]; exact: h. Qed.
(* both occupancies begin with rho: what differs is what comes after the first step *)
Lemma tv_push p q m m' : flow p m -> flow q m' -> tv (occ m) (occ m') = g * tv (occ (push p m)) (occ (push q m')).
Proof.
move=> fp fq; rewrite /tv -Rmult_assoc (Rmult_comm g) Rmult_assoc; congr (_ * _); rewrite -sumZ; apply: sumE => s.
have -> : occ m' s - occ m s = g * (occ (push q m') s - occ (push p m) s) by rewrite /occ (flowE s fp) (flowE s fq); lra.
by rewrite Rabs_mult Rabs_pos_eq; lra.
Qed.
Lemma tv_l1 m m' : tv (occ m) (occ m') = (1 - g) / 2 * l1 m m'.
Proof.
rewrite /tv /l1 (sumE (G := fun s => (1 - g) * Rabs (m' s - m s))) => [|s]; first by rewrite sumZ; lra.
by rewrite /occ -Rmult_minus_distr_l Rabs_mult Rabs_pos_eq; lra.
Qed.

(* what the current policy visits the new one visits too *)
Lemma visits_keep p q m m' : policy p -> policy q -> flow p m -> flow q m' -> seen m p q -> keeps m m'.
Proof.
move=> hp hq fp fq hs; have [m0 _] := fp; have [m0' _] := fq.
pose N s := if Req_EM_T (m' s) 0 then m s else 0.
have N0 s : 0 <= N s by rewrite /N; case: (Req_EM_T _ _) => h /=; [exact: m0 | lra].
have le s' : N s' <= g * push p N s'.
  rewrite {1}/N; case: (Req_EM_T _ _) => [z|h] /=; last by apply: Rmult_le_pos; [lra | exact: push_ge0].
  have t0 s a : 0 <= m' s * (q s a * P s a s').
    by apply: Rmult_le_pos (m0' s) _; apply: Rmult_le_pos; [exact: (proj1 (hq s)) | exact: (proj1 (P_dist s a))].
  have pq : push q m' s' = \sum_(s : S) \sum_(a : A) (m' s * (q s a * P s a s')) by apply: sumE => s; rewrite -sumZ.
  have E n : g * push p n s' = \sum_(s : S) \sum_(a : A) (g * (n s * (p s a * P s a s'))).
    by rewrite -sumZ; apply: sumE => s; rewrite sumZ; congr (_ * _); rewrite sumZ.
  have gq : 0 <= g * push q m' s' by apply: Rmult_le_pos; [lra | exact: push_ge0].
  have := flowE s' fq; rewrite z => f'; have r0 := proj1 rho_dist s'.
  rewrite (flowE s' fp) (_ : rho s' = 0) ?Rplus_0_l; last lra.
  rewrite !E; apply/Req_le/sumE => s; apply: sumE => a.
  rewrite /N; case: (Req_EM_T _ _) => [h //|nz] /=.
  case: (pos_or_0 (m0 s)) => [ms|->]; last lra.
  case: (pos_or_0 (proj1 (hp s) a)) => [pa|->]; last lra.
  case: (pos_or_0 (proj1 (P_dist s a) s')) => [Pa|->]; last lra.
  have ms' : 0 < m' s by have := m0' s; lra.
  have : 0 < m' s * (q s a * P s a s') by apply: Rmult_lt_0_compat ms' _; apply: Rmult_lt_0_compat (hs s ms a pa) Pa.
  have := term_le_sum a (t0 s); have := term_le_sum s (fun s => sum_ge0 (t0 s)); rewrite -pq => h1 h2 h3.
  have -> : g = 0 by nra.
  lra.
have := sum_le le; rewrite sumZ push_mass // => h.
have Z : \sum_(s : S) N s = 0 by have := sum_ge0 N0; nra.
move=> s ms; case: (pos_or_0 (m0' s)) => // z.
by have := all_0 N0 Z s; rewrite /N; case: (Req_EM_T _ _) => e //=; lra.
Qed.

(* mixing with rho costs no KL *)
Lemma kl_mixed p q m m' : policy p -> policy q -> flow p m -> flow q m' -> seen m p q ->
  kl m m' <= g * kl (push p m) (push q m').
Proof.
move=> hp hq fl fl' hs; have [m0 _] := fl; have [m0' _] := fl'.
have kp := push_keeps P_dist hp hq m0 m0' (visits_keep hp hq fl fl' hs) hs.
rewrite /kl -sumZ; apply: sum_le => s.
pose a pi n (b : bool) := if b then rho s else g * push pi n s.
have a0 pi n : policy pi -> (forall x, 0 <= n x) -> forall b, 0 <= a pi n b.
  by move=> h n0 [] /=; [exact: (proj1 rho_dist) | apply: Rmult_le_pos; [lra | exact: push_ge0]].
have ka : keeps (a p m) (a q m').
  move=> [] //= h; have x0 := push_ge0 P_dist s hp m0.
  by have [g0 x] := pos_factors (proj1 g01) x0 h; apply: Rmult_lt_0_compat (kp s x).
have := log_sum (a0 p m hp m0) (a0 q m' hq m0') ka; rewrite /kl !big_bool /= -!flowE //.
rewrite (self_log (proj1 rho_dist s)).
case: (pos_or_0 (proj1 g01)) => [gp|->]; last by rewrite !Rmult_0_l; lra.
case: (pos_or_0 (push_ge0 P_dist s hp m0)) => [x|->]; last by rewrite Rmult_0_r !Rmult_0_l; lra.
by have := kp s x => y; rewrite (_ : g * _ / (g * _) = push p m s / push q m' s); [lra | field; lra].
Qed.
(* the KL of what comes after the first step: D_+ <= g D_+ + K *)
Lemma kl_visits p q m m' : policy p -> policy q -> flow p m -> flow q m' -> seen m p q ->
  (1 - g) * kl (push p m) (push q m') <= under m (fun s => kl (p s) (q s)).
Proof.
move=> hp hq fl fl' hs; have := kl_mixed hp hq fl fl' hs.
by have := push_kl P_dist hp hq (proj1 fl) (proj1 fl') (visits_keep hp hq fl fl' hs) hs; lra.
Qed.
Lemma kl_occ X Y : (forall s, 0 <= X s) -> keeps X Y -> kl (occ X) (occ Y) = (1 - g) * kl X Y.
Proof.
move=> X0 k; rewrite /kl -sumZ; apply: sumE => s; case: (pos_or_0 (X0 s)) => [x|z]; last by rewrite /occ z; lra.
by have y := k s x; rewrite /occ (_ : (1 - g) * X s / _ = X s / Y s); [lra | field; lra].
Qed.

(* ---- S2: TV(d', d) <= g sqrt(delta / (2 (1 - g))) *)
Theorem S2 p q m m' : policy p -> policy q -> flow p m -> flow q m' -> seen m p q ->
  tv (occ m) (occ m') <= g * sqrt (delta p q m / (2 * (1 - g))).
Proof.
move=> hp hq fl fl' hs; rewrite (tv_push fl fl'); apply: Rmult_le_compat_l (proj1 g01) _.
apply: le_root (tv_ge0 _ _) _; set X := push p m; set Y := push q m'.
have X0 s : 0 <= X s := push_ge0 P_dist s hp (proj1 fl).
have kp : keeps X Y := push_keeps P_dist hp hq (proj1 fl) (proj1 fl') (visits_keep hp hq fl fl' hs) hs.
have ko : keeps (occ X) (occ Y) by move=> s /(pos_factors (Rlt_le _ _ pos1) (X0 s)) [_ /kp y]; apply: Rmult_lt_0_compat.
apply: Rle_trans (pinsker (push_dist hp fl) (push_dist hq fl') ko) _; rewrite (kl_occ X0 kp).
have -> : delta p q m / (2 * (1 - g)) = under m (fun s => kl (p s) (q s)) / 2 by rewrite /delta; field; lra.
by have := kl_visits hp hq fl fl' hs; rewrite /X /Y; lra.
Qed.
(* the KL of the occupancies themselves: KL(d, d') <= g/(1-g) delta *)
Corollary S2_kl p q m m' : policy p -> policy q -> flow p m -> flow q m' -> seen m p q ->
  kl (occ m) (occ m') <= g / (1 - g) * delta p q m.
Proof.
move=> hp hq fl fl' hs; rewrite (kl_occ (proj1 fl) (visits_keep hp hq fl fl' hs)).
have -> : g / (1 - g) * delta p q m = g * under m (fun s => kl (p s) (q s)) by rewrite /delta; field; lra.
apply: Rle_trans (Rmult_le_compat_l _ _ _ (Rlt_le _ _ pos1) (kl_mixed hp hq fl fl' hs)) _.
by have := Rmult_le_compat_l _ _ _ (proj1 g01) (kl_visits hp hq fl fl' hs); lra.
Qed.
(* beside T2: better by the root of 1 - g, for every g and every pair *)
Corollary S2_T2 p q m m' : policy p -> policy q -> flow p m -> flow q m' -> seen m p q ->
  (1 - g) * l1 m m' <= sqrt (1 - g) * (sqrt 2 * g / (1 - g) * sqrt (delta p q m)).
Proof.
move=> hp hq fl fl' hs; have := S2 hp hq fl fl' hs; rewrite tv_l1 => h.
have d0 : 0 <= delta p q m by apply: Rmult_le_pos; [lra | apply: kl_mean_ge0 => //; exact: (proj1 fl)].
have i0 : 0 < / (1 - g) by exact: Rinv_0_lt_compat.
have r := sqrt_sqrt (1 - g) (Rlt_le _ _ pos1); have r0 := sqrt_lt_R0 _ pos1.
suff -> : sqrt (1 - g) * (sqrt 2 * g / (1 - g) * sqrt (delta p q m)) = 2 * (g * sqrt (delta p q m / (2 * (1 - g)))) by lra.
have -> : delta p q m / (2 * (1 - g)) = delta p q m / 2 / (1 - g) by field; lra.
rewrite [sqrt (_ / (1 - g))]sqrt_div; [| lra | lra].
have -> : 2 * (g * (sqrt (delta p q m / 2) / sqrt (1 - g))) = g / sqrt (1 - g) * (2 * sqrt (delta p q m / 2)) by field; lra.
by rewrite sqrt_half // -{2}r; field; lra.
Qed.

(* ---- gaps: measures of the same mass see only the span of g *)
Lemma tv_le1 (x y : S -> R) : dist x -> dist y -> tv x y <= 1.
Proof.
move=> [x0 x1] [y0 y1]; have : \sum_(s : S) Rabs (y s - x s) <= \sum_(s : S) (y s + x s).
  by apply: sum_le => s; have := x0 s; have := y0 s => h h0; apply: Rabs_le; lra.
by rewrite sumD x1 y1 /tv; lra.
Qed.
Lemma equal_mass (x y : S -> R) f lo hi : \sum_(s : S) x s = \sum_(s : S) y s -> (forall s, lo <= f s <= hi) ->
  Rabs (under y f - under x f) <= (hi - lo) * tv x y.
Proof.
move=> e h; pose c := (lo + hi) / 2.
have -> : under y f - under x f = \sum_(s : S) ((y s - x s) * (f s - c)).
  rewrite /under -sumB (sumE (F := fun s => (y s - x s) * _) 
    (G := fun s => (y s * f s - x s * f s) - (y s * c - x s * c))) => [|s]; last lra.
  by rewrite !sumB !sumZr e; lra.
apply: Rle_trans (sum_abs _) _; rewrite /tv -Rmult_assoc -sumZ; apply: sum_le => s.
rewrite Rabs_mult Rmult_comm; apply: Rmult_le_compat_r; first exact: Rabs_pos.
by have := h s; rewrite /c => hs; apply: Rabs_le; lra.
Qed.
Lemma occ_under m f : under (occ m) f = (1 - g) * under m f.
Proof. by rewrite /under -sumZ; apply: sumE => s; rewrite /occ; lra. Qed.

(* fresh (n = visits of p) and stale (n = visits of any team) *)
Lemma gap_tv r p q p0 v v' m' n lo hi : policy q -> policy p0 -> bellman P g r p v -> bellman P g r q v' ->
  flow q m' -> flow p0 n -> (forall s, lo <= gaind P g r p v q s <= hi) ->
  Rabs (at_rho rho v' - at_rho rho v - under n (gaind P g r p v q)) <= (hi - lo) / (1 - g) * tv (occ n) (occ m').
Proof.
move=> hq hp0 bp bq fl fn h; rewrite (T0_discounted hq bp bq fl).
have := equal_mass (etrans (proj2 (occ_dist hp0 fn)) (esym (proj2 (occ_dist hq fl)))) h.
rewrite !occ_under -Rmult_minus_distr_l Rabs_mult Rabs_pos_eq; last lra.
move=> b; apply: (Rmult_le_reg_l (1 - g)) => //; apply: Rle_trans b _; apply: Req_le; field; lra.
Qed.

(* |fresh| <= g/(1-g) sqrt(delta / (2 (1 - g))) span(g) *)
Theorem S2_gap r p q v v' m m' lo hi : policy p -> policy q -> bellman P g r p v -> bellman P g r q v' ->
  flow p m -> flow q m' -> seen m p q -> (forall s, lo <= gaind P g r p v q s <= hi) ->
  Rabs (at_rho rho v' - at_rho rho v - under m (gaind P g r p v q))
    <= g / (1 - g) * sqrt (delta p q m / (2 * (1 - g))) * (hi - lo).
Proof.
move=> hp hq bp bq fl fl' hs h; apply: Rle_trans (gap_tv hq hp bp bq fl' fl h) _.
have sp : 0 <= (hi - lo) / (1 - g).
  case: (@pickP S predT) => [s _|no]; first by have := h s => h'; apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat].
  by have := proj2 rho_dist; rewrite big_pred0 => //; lra.
have := Rmult_le_compat_l _ _ _ sp (S2 hp hq fl fl' hs);
  rewrite (_ : _ * (g * _) = g / (1 - g) * sqrt (delta p q m / (2 * (1 - g))) * (hi - lo)) //.
by field; lra.
Qed.

(* two occupancies share the mass of the first step *)
Lemma tv_le_g p q m m' : policy p -> policy q -> flow p m -> flow q m' -> tv (occ m) (occ m') <= g.
Proof.
move=> hp hq fl fl'; rewrite (tv_push fl fl') -[X in _ <= X]Rmult_1_r; apply: Rmult_le_compat_l (proj1 g01) _.
by apply: tv_le1; apply: push_dist.
Qed.
Lemma span_ge0 (f : S -> R) lo hi : (forall s, lo <= f s <= hi) -> 0 <= hi - lo.
Proof.
move=> h; case: (@pickP S predT) => [s _|no]; first by have := h s; lra.
by have := proj2 rho_dist; rewrite big_pred0 => //; lra.
Qed.

Section Stage.
Variables (team : nat -> S -> A -> R) (m : nat -> S -> R).
Hypotheses (ht : forall i, policy (team i)) (hm : forall i, flow (team i) (m i)).
(* KL of update k, and its mean under the first team *)
Definition klu k s := kl (team k s) (team k.+1 s).
Definition delta0 k := (1 - g) * under (m O) (klu k).
(* the KL of the team adds up over the updates, where the first team goes *)
Definition additive i := forall s, 0 < m O s -> kl (team O s) (team i s) = \big[Rplus/0]_(k < i) klu k s.

Lemma delta_sum i : additive i -> delta (team O) (team i) (m O) = \big[Rplus/0]_(k < i) delta0 k.
Proof.
move=> h; rewrite /delta /delta0 -(big_distrr (1 - g)) /=; congr (_ * _).
rewrite /under exchange_big; apply: sumE => s.
case: (pos_or_0 (proj1 (hm O) s)) => [ms|->]; last by rewrite big1 => [|k _]; lra.
by rewrite h // (big_distrr (m O s)).
Qed.
Lemma S3_additive i : seen (m O) (team O) (team i) -> additive i ->
  tv (occ (m O)) (occ (m i)) <= g * sqrt ((\big[Rplus/0]_(k < i) delta0 k) / (2 * (1 - g))).
Proof. by move=> hs /delta_sum <-; apply: S2. Qed.

(* |stale_i| <= g/(1-g) sqrt(sum_{k<=i} delta0_k / (2 (1 - g))) span(g_i) *)
Theorem S3_gap r v i lo hi : (forall k, bellman P g r (team k) (v k)) -> seen (m O) (team O) (team i.+1) -> additive i.+1 ->
  (forall s, lo <= gaind P g r (team i) (v i) (team i.+1) s <= hi) ->
  Rabs (at_rho rho (v i.+1) - at_rho rho (v i) - under (m O) (gaind P g r (team i) (v i) (team i.+1)))
    <= g / (1 - g) * sqrt ((\big[Rplus/0]_(k < i.+1) delta0 k) / (2 * (1 - g))) * (hi - lo).
Proof.
move=> hv hs ha h; apply: Rle_trans (gap_tv (ht _) (ht O) (hv _) (hv _) (hm _) (hm O) h) _.
have sp : 0 <= (hi - lo) / (1 - g) by apply: Rmult_le_pos (span_ge0 h) _; apply/Rlt_le/Rinv_0_lt_compat.
apply: Rle_trans (Rmult_le_compat_l _ _ _ sp (S3_additive hs ha)) _; apply: Req_le; field; lra.
Qed.

(* D_occ = sum of TV(d^i, d^0), i < n: a power n^(3/2), with the mean KL; with 2/3 for equal KLs *)
Definition D_occ n := \big[Rplus/0]_(i < n) tv (occ (m O)) (occ (m i)).
Hypotheses (hk : forall k, seen (m O) (team k) (team k.+1)) (ha : forall i, additive i).
Lemma seen_stage i : seen (m O) (team O) (team i).
Proof. by elim: i => [|i ih] s ms a // h; apply: hk => //; apply: ih. Qed.
Lemma delta0_ge0 k : 0 <= delta0 k.
Proof. by apply: Rmult_le_pos; [lra | apply: kl_mean_ge0 => //; exact: (proj1 (hm O))]. Qed.
(* D_occ <= n^(3/2) g sqrt(mean delta0 / (2 (1 - g))): no team has D_occ of order n^2 at a fixed delta0 *)
Theorem S3_D_occ n : (0 < n)%nat -> let dbar := (\big[Rplus/0]_(k < n) delta0 k) / INR n in
  D_occ n <= INR n * sqrt (INR n) * (g * sqrt (dbar / (2 * (1 - g)))).
Proof.
move=> n0 dbar; have N0 : 0 < INR n by apply/lt_0_INR/ltP.
have d0 : 0 <= \big[Rplus/0]_(k < n) delta0 k by exact: nat_sum_ge0 delta0_ge0.
have i0 : 0 <= / (2 * (1 - g)) by apply/Rlt_le/Rinv_0_lt_compat; lra.
have one i : (i < n)%nat -> tv (occ (m O)) (occ (m i)) <= sqrt (INR n) * (g * sqrt (dbar / (2 * (1 - g)))).
  move=> lt; apply: Rle_trans (S3_additive (@seen_stage i) (ha i)) _; rewrite -Rmult_assoc (Rmult_comm _ g) Rmult_assoc.
  apply: Rmult_le_compat_l (proj1 g01) _; rewrite -sqrt_mult_alt; last exact: pos_INR.
  apply: sqrt_le_1_alt; have -> : INR n * (dbar / (2 * (1 - g))) = (\big[Rplus/0]_(k < n) delta0 k) / (2 * (1 - g)).
    by rewrite /dbar; field; lra.
  by apply: Rmult_le_compat_r => //; apply: nat_sum_mono delta0_ge0 (ltnW lt).
by apply: Rle_trans (sum_le_const one) _; lra.
Qed.
(* ... and 2/3 of it for equal KLs *)
Theorem S3_D_occ_equal n d : 0 <= d -> (forall k, delta0 k <= d) ->
  D_occ n <= 2 / 3 * (INR n * sqrt (INR n)) * (g * sqrt (d / (2 * (1 - g)))).
Proof.
move=> d0 hd; set c := g * _; have c0 : 0 <= c by apply: Rmult_le_pos (sqrt_pos _); lra.
rewrite /D_occ; elim: n => [|n ih]; first by rewrite big_ord0 /=; lra.
rewrite big_ord_recr S_INR /=.
have one : tv (occ (m O)) (occ (m n)) <= sqrt (INR n) * c.
  apply: Rle_trans (S3_additive (@seen_stage n) (ha n)) _; rewrite /c -Rmult_assoc (Rmult_comm _ g) Rmult_assoc.
  apply: Rmult_le_compat_l (proj1 g01) _; rewrite -sqrt_mult_alt; last exact: pos_INR.
  apply: sqrt_le_1_alt; rewrite /Rdiv -Rmult_assoc; apply: Rmult_le_compat_r; first by apply/Rlt_le/Rinv_0_lt_compat; lra.
  exact: sum_le_const.
apply: Rle_trans (Rplus_le_compat _ _ _ _ ih one) _; rewrite -Rmult_plus_distr_r; apply: Rmult_le_compat_r => //.
by have := root_step (pos_INR n); lra.
Qed.
End Stage.

Lemma kl_self (I : finType) (x y : I -> R) : dist x -> (forall a, x a = y a) -> kl x y = 0.
Proof.
by move=> [x0 _] e; apply: sum0 => a; rewrite -e self_log.
Qed.
Lemma klE (I : finType) (x x' y y' : I -> R) : (forall a, x a = x' a) -> (forall a, y a = y' a) -> kl x y = kl x' y'.
Proof. by move=> e e'; apply: sumE => a; rewrite e e'. Qed.

(* turn-taking: update k changes the rows of agent k only (j s >= n: nobody speaks) *)
Section Turns.
Variables (team : nat -> S -> A -> R) (m : nat -> S -> R) (j : S -> nat).
Hypotheses (ht : forall i, policy (team i)) (hm : forall i, flow (team i) (m i)).
Hypothesis turns : forall k s a, j s <> k -> team k.+1 s a = team k s a.
Lemma before i s a : (i <= j s)%nat -> team i s a = team O s a.
Proof.
elim: i => [//|i ih] h; rewrite turns ?ih //; first exact: ltnW.
by move=> e; rewrite e ltnn in h.
Qed.
Lemma additive_turns i : additive team m i.
Proof.
move=> s _; elim: i => [|i ih]; first by rewrite big_ord0 (kl_self (ht O s)).
rewrite big_ord_recr /= -ih; case: (eqVneq (j s) i) => [e|/eqP ne].
  have b a : team i s a = team O s a by apply: before; rewrite e.
  by rewrite (@kl_self _ _ (team i s) (ht O s)) => [|a]; rewrite ?Rplus_0_l ?b //; apply: klE.
rewrite [klu team i s](kl_self (ht i s)) => [|a]; last by rewrite turns.
by rewrite Rplus_0_r; apply: klE => // a; rewrite turns.
Qed.
(* ---- S3, turn-taking: TV(d^i, d^0) <= g sqrt(sum_{k<=i} delta0_k / (2 (1 - g))), the KLs under the first team *)
Theorem S3 i : seen (m O) (team O) (team i) ->
  tv (occ (m O)) (occ (m i)) <= g * sqrt ((\big[Rplus/0]_(k < i) delta0 team m k) / (2 * (1 - g))).
Proof. by move=> hs; apply: S3_additive => //; apply: additive_turns. Qed.
End Turns.

(* ---- S1 *)
(* T: the turns of the agent that moves *)
Definition share m (T : pred S) := under (occ m) (fun s => ind (T s)).
Lemma occ_ge0 p m s : flow p m -> 0 <= occ m s.
Proof. by move=> [m0 _]; apply: Rmult_le_pos; [lra | exact: m0]. Qed.
Lemma share_ge0 p m T : flow p m -> 0 <= share m T.
Proof. by move=> fl; apply: sum_ge0 => s; apply: Rmult_le_pos (occ_ge0 s fl) _; have := ind01 (T s); lra. Qed.
Lemma share_le1 p m T : policy p -> flow p m -> share m T <= 1.
Proof.
move=> hp fl; rewrite -(proj2 (occ_dist hp fl)); apply: sum_le => s.
by have := Rmult_le_compat_l _ _ _ (occ_ge0 s fl) (proj2 (ind01 (T s))); lra.
Qed.
Lemma seen_occ m p q : seen m p q -> seen (occ m) p q.
Proof. by move=> h s; rewrite /occ => o; apply: h; nra. Qed.
(* E_d TV <= sqrt(w delta / 2) *)
Lemma S1_mean p q m T : policy p -> policy q -> flow p m -> seen m p q -> only T p q ->
  (1 - g) * under m (fun s => tv (p s) (q s)) <= sqrt (share m T * delta p q m / 2).
Proof.
move=> hp hq fl hs ho; rewrite -occ_under /delta -occ_under.
by apply: share_mean => //; [move=> s; exact: occ_ge0 fl | exact: seen_occ].
Qed.
Lemma seen_delta_ge0 p q m : policy p -> policy q -> flow p m -> seen m p q -> 0 <= delta p q m.
Proof. by move=> hp hq [m0 _] hs; apply: Rmult_le_pos; [lra | exact: kl_mean_ge0]. Qed.

(* T2 with the share w of the time in which the agent speaks: |d' - d|_1 <= sqrt 2 g/(1-g) sqrt(w delta) *)
Theorem S1 p q m m' T : policy p -> policy q -> flow p m -> flow q m' -> seen m p q -> only T p q ->
  (1 - g) * l1 m m' <= sqrt 2 * g / (1 - g) * sqrt (share m T * delta p q m).
Proof.
move=> hp hq fl fl' hs ho; have t1 := T1 g01 P_dist hp hq fl fl'; have t := S1_mean hp hq fl hs ho.
have x0 : 0 <= share m T * delta p q m by apply: Rmult_le_pos; [exact: share_ge0 fl | exact: seen_delta_ge0].
have c0 : 0 <= g / (1 - g) by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat; lra].
have -> : sqrt 2 * g / (1 - g) * sqrt (share m T * delta p q m) = g / (1 - g) * (sqrt 2 * sqrt (share m T * delta p q m)).
  by field; lra.
rewrite -sqrt_half //; have := Rmult_le_compat_l _ _ _ c0 t.
have := Rmult_le_compat_l (1 - g) _ _ ltac:(lra) t1; lra.
Qed.

(* a stage of turns: P3.3, P3.4, P3.6, P3.7 with sqrt (w_k delta_k) *)
Section Shares.
Variables (r : S -> A -> R) (team : nat -> S -> A -> R) (v m : nat -> S -> R) (j : S -> nat) (Amax : nat -> R).
Hypotheses (ht : forall i, policy (team i)) (hm : forall i, flow (team i) (m i)) (hv : forall i, bellman P g r (team i) (v i)).
Hypothesis turns : forall k s a, j s <> k -> team k.+1 s a = team k s a.
Hypothesis hs : forall i, seen (m i) (team i) (team i.+1).
Hypothesis hA : forall i s a, Rabs (Qd P g r (v i) s a - v i s) <= Amax i.
Definition share_of i := share (m i) (fun s => j s == i).
Definition root_share i := sqrt (share_of i * delta (team i) (team i.+1) (m i)).
Definition gain_of i := gaind P g r (team i) (v i) (team i.+1).
Definition c_of i := sqrt 2 * g * Amax i / (1 - g) ^ 2.
Notation J i := (at_rho rho (v i)).

Lemma shift1 i : l1 (m i) (m i.+1) <= sqrt 2 * g / (1 - g) ^ 2 * root_share i.
Proof.
have o : only (fun s => j s == i) (team i) (team i.+1) by move=> s a /eqP; exact: turns.
have := S1 (ht i) (ht i.+1) (hm i) (hm i.+1) (@hs i) o; rewrite -/(share_of i) -/(root_share i) => h.
apply: (Rmult_le_reg_l (1 - g)); first lra.
by apply: Rle_trans h _; apply: Req_le; field; lra.
Qed.
Lemma shift_to i : l1 (m O) (m i) <= sqrt 2 * g / (1 - g) ^ 2 * \big[Rplus/0]_(k < i) root_share k.
Proof.
elim: i => [|i ih]; first by rewrite big_ord0 /l1 sum0 => [|s]; rewrite ?Rminus_eq_0 ?Rabs_R0; lra.
rewrite big_ord_recr Rmult_plus_distr_l; apply: Rle_trans (l1_triangle _ (m i) _) _.
exact: Rplus_le_compat ih (shift1 i).
Qed.
Lemma moved n n' i y : l1 n n' <= sqrt 2 * g / (1 - g) ^ 2 * y -> Rabs (under n' (gain_of i) - under n (gain_of i)) <= c_of i * y.
Proof.
move=> h; have gl s : Rabs (gain_of i s) <= Amax i.
  rewrite -(sum_const (Amax i) (proj2 (ht i.+1 s))); apply: Rle_trans (sum_abs _) _; apply: sum_le => a.
  rewrite Rabs_mult Rabs_pos_eq; last exact: (proj1 (ht i.+1 s)).
  by apply: Rmult_le_compat_l (hA i s a); exact: (proj1 (ht i.+1 s)).
apply: Rle_trans (_ : Amax i * l1 n n' <= _).
  rewrite /under -sumB -sumZ; apply: Rle_trans (sum_abs _) _; apply: sum_le => s.
  rewrite -Rmult_minus_distr_r Rabs_mult Rmult_comm; apply: Rmult_le_compat_r (gl s); exact: Rabs_pos.
rewrite (_ : c_of i * y = Amax i * (sqrt 2 * g / (1 - g) ^ 2 * y)); last by rewrite /c_of; field; lra.
case: (@pickP S predT) => [s _|no]; first by apply: Rmult_le_compat_l h; apply: Rle_trans (gl s); exact: Rabs_pos.
by have := proj2 rho_dist; rewrite big_pred0 => //; lra.
Qed.

(* |L_seq - L_stale| <= c_i sum_{k<i} sqrt(w_k delta_k) *)
Theorem S1_P3_3 i : Rabs (under (m i) (gain_of i) - under (m O) (gain_of i)) <= c_of i * \big[Rplus/0]_(k < i) root_share k.
Proof. exact: moved (shift_to i). Qed.
(* |fresh_i| <= c_i sqrt(w_i delta_i) *)
Theorem S1_fresh i : Rabs (J i.+1 - J i - under (m i) (gain_of i)) <= c_of i * root_share i.
Proof. by rewrite (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)); exact: moved (shift1 i). Qed.
(* the same from below, with an estimate Lhat of L_seq *)
Theorem S1_P3_4 i zeta Lhat : (1 - g) * Rabs (Lhat - under (m i) (gain_of i)) <= zeta ->
  J i.+1 - J i >= Lhat - c_of i * root_share i - zeta / (1 - g).
Proof.
move=> z; have z' : Rabs (Lhat - under (m i) (gain_of i)) <= zeta / (1 - g).
  by apply: (Rmult_le_reg_l (1 - g)) => //; rewrite (_ : (1 - g) * (zeta / (1 - g)) = zeta); [| field; lra].
by have := Rabs_def2_le (S1_fresh i); have := Rabs_def2_le z'; lra.
Qed.
(* |stale_i| <= c_i sum_{k<=i} sqrt(w_k delta_k) *)
Theorem S1_P3_7 i : Rabs (J i.+1 - J i - under (m O) (gain_of i)) <= c_of i * \big[Rplus/0]_(k < i.+1) root_share k.
Proof. by rewrite (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)); exact: moved (shift_to i.+1). Qed.
Lemma stage_sum (L : nat -> R) (pen : nat -> R) n : (forall i, Rabs (J i.+1 - J i - L i) <= pen i) ->
  J n - J O >= \big[Rplus/0]_(i < n) (L i - pen i).
Proof.
move=> h; apply: Rle_ge; elim: n => [|n ih]; first by rewrite big_ord0; lra.
have e : J n.+1 - J O = (J n - J O) + (J n.+1 - J n) by lra.
have t : L n - pen n <= J n.+1 - J n by have := Rabs_def2_le (h n); lra.
by rewrite big_ord_recr e; exact: Rplus_le_compat ih t.
Qed.
(* whole stages, fresh and stale *)
Theorem S1_P3_6 n : J n - J O >= \big[Rplus/0]_(i < n) (under (m i) (gain_of i) - c_of i * root_share i).
Proof. exact: (stage_sum (pen := fun i => c_of i * root_share i)) S1_fresh. Qed.
Theorem S1_stale n :
  J n - J O >= \big[Rplus/0]_(i < n) (under (m O) (gain_of i) - c_of i * \big[Rplus/0]_(k < i.+1) root_share k).
Proof. exact: (stage_sum (pen := fun i => c_of i * \big[Rplus/0]_(k < i.+1) root_share k)) S1_P3_7. Qed.

(* what the sum of the shares buys: a root of n *)
Corollary S1_rate n : \big[Rplus/0]_(k < n) root_share k
  <= sqrt (\big[Rplus/0]_(k < n) share_of k) * sqrt (\big[Rplus/0]_(k < n) delta (team k) (team k.+1) (m k)).
Proof.
apply: (@roots_sum share_of (fun k => delta (team k) (team k.+1) (m k))) => k; first exact: share_ge0 (hm k).
exact: seen_delta_ge0.
Qed.
(* any router, also one that reads the messages: sum_k w_k <= 1 + D_occ *)
Theorem S1_router n : \big[Rplus/0]_(k < n) share_of k <= 1 + D_occ m n.
Proof.
have [d0 d1] := occ_dist (ht O) (hm O).
have one (k : 'I_n) : share_of k <= under (occ (m O)) (fun s => ind (j s == k)) + tv (occ (m O)) (occ (m k)).
  have b s : 0 <= ind (j s == k) <= 1 by rewrite /ind; case: eqP => _; lra.
  have := equal_mass (etrans d1 (esym (proj2 (occ_dist (ht k) (hm k))))) b;
    rewrite -/(share _ _) -/(share_of k) => /Rabs_def2_le; rewrite -/(share_of k); lra.
apply: Rle_trans (_ : \big[Rplus/0]_(k < n) (under (occ (m O)) (fun s => ind (j s == k)) + tv (occ (m O)) (occ (m k))) <= _).
  by apply: (big_ind2 Rle) => [|? ? ? ?|k _]; [lra | lra | exact: one].
rewrite big_split /=; apply: Rplus_le_compat_r; rewrite -{1}d1 /under exchange_big; apply: sum_le => s.
rewrite -(big_distrr (occ (m O) s)) /= ind_sum; have := d0 s; rewrite /ind; case: ifP => _; lra.
Qed.

(* stale, in delta0 and the shares under the first team: no assumption on the router, and at most the root of the sum *)
Hypothesis hs0 : forall k, seen (m O) (team k) (team k.+1).
Definition root_share0 k := sqrt (share (m O) (fun s => j s == k) * delta0 team m k).
Lemma shift0 i : l1 (m O) (m i) <= sqrt 2 * g / (1 - g) ^ 2 * \big[Rplus/0]_(k < i) root_share0 k.
Proof.
have o0 s := occ_ge0 s (hm O).
have one k : under (occ (m O)) (fun s => tv (team k s) (team k.+1 s)) <= sqrt 2 / 2 * root_share0 k.
  have o : only (fun s => j s == k) (team k) (team k.+1) by move=> s a /eqP; exact: turns.
  apply: Rle_trans (share_mean (ht k) (ht k.+1) o0 (seen_occ (@hs0 k)) o) _.
  have d0 := kl_mean_ge0 (ht k) (ht k.+1) o0 (seen_occ (@hs0 k)).
  have w0 := share_ge0 (fun s => j s == k) (hm O).
  have -> : sqrt 2 / 2 * root_share0 k = sqrt 2 * root_share0 k / 2 by field.
  rewrite -sqrt_half; last by rewrite /delta0 -occ_under; exact: Rmult_le_pos.
  by apply: Req_le; rewrite /delta0 -occ_under /share /klu; field.
have all : under (occ (m O)) (fun s => tv (team O s) (team i s)) <= sqrt 2 / 2 * \big[Rplus/0]_(k < i) root_share0 k.
  elim: i => [|i ih].
    by rewrite big_ord0 /under sum0 => [|s]; [lra | rewrite /tv sum0 => [|a]; rewrite ?Rminus_eq_0 ?Rabs_R0; lra].
  rewrite big_ord_recr Rmult_plus_distr_l; apply: Rle_trans (Rplus_le_compat _ _ _ _ ih (one i)).
  rewrite /under -sumD; apply: sum_le => s; rewrite -Rmult_plus_distr_l; apply: Rmult_le_compat_l (o0 s) _.
  by have := l1_triangle (team O s) (team i s) (team i.+1 s); rewrite /l1 /tv; lra.
have := T1 g01 P_dist (ht O) (ht i) (hm O) (hm i) => t1; rewrite occ_under in all.
apply: Rle_trans t1 _; have k0 : 0 <= 2 * g / (1 - g) ^ 2.
  by apply: Rmult_le_pos; [lra | apply/Rlt_le/Rinv_0_lt_compat/pow_lt; lra].
have := Rmult_le_compat_l _ _ _ k0 all.
have -> : 2 * g / (1 - g) ^ 2 * ((1 - g) * under (m O) (fun s => tv (team O s) (team i s))) =
  2 * g / (1 - g) * under (m O) (fun s => tv (team O s) (team i s)) by field; lra.
have -> // : 2 * g / (1 - g) ^ 2 * (sqrt 2 / 2 * \big[Rplus/0]_(k < i) root_share0 k)
  = sqrt 2 * g / (1 - g) ^ 2 * \big[Rplus/0]_(k < i) root_share0 k.
by field; lra.
Qed.
(* |stale_i| <= c_i sum_{k<=i} sqrt(w0_k delta0_k), and this sum is at most sqrt(sum delta0_k) *)
Theorem S1_stale0 i : Rabs (J i.+1 - J i - under (m O) (gain_of i)) <= c_of i * \big[Rplus/0]_(k < i.+1) root_share0 k.
Proof. by rewrite (T0_discounted (ht i.+1) (hv i) (hv i.+1) (hm i.+1)); exact: moved (shift0 i.+1). Qed.
Lemma root_share0_sum n : \big[Rplus/0]_(k < n) root_share0 k <= sqrt (\big[Rplus/0]_(k < n) delta0 team m k).
Proof.
have [d0 d1] := occ_dist (ht O) (hm O).
have D0 k : 0 <= delta0 team m k by apply: Rmult_le_pos; [lra | apply: kl_mean_ge0 => //; exact: (proj1 (hm O))].
apply: Rle_trans (roots_sum (w := fun k => share (m O) (fun s => j s == k)) n (fun k => share_ge0 _ (hm O)) D0) _.
rewrite -[X in _ <= X]Rmult_1_l; apply: Rmult_le_compat_r (sqrt_pos _) _; rewrite -[X in _ <= X]sqrt_1; apply: sqrt_le_1_alt.
rewrite -d1 /share /under exchange_big; apply: sum_le => s; rewrite -(big_distrr (occ (m O) s)) /= ind_sum.
by have := Rmult_le_compat_l _ _ _ (d0 s) (proj2 (ind01 (j s < n)%nat)); lra.
Qed.
End Shares.
End Discounted.

(* ---- S3, product team *)
Section Product.
Variables (S M : finType) (n : nat).
Let A := functions ('I_n) M.
Variables (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (old new : 'I_n -> S -> M -> R) (m : nat -> S -> R).
Hypotheses (h_old : forall k, policy (old k)) (h_new : forall k, policy (new k)).
Definition hybrid i s (k : 'I_n) := if (k < i)%nat then new k s else old k s.
Definition product_team i s (a : A) := joint (hybrid i s) a.
Hypothesis hm : forall i, flow P g rho (product_team i) (m i).
Hypothesis hk : forall k s, 0 < m O s -> keeps (old k s) (new k s).
Lemma hybrid_dist i s k : dist (hybrid i s k).
Proof. by rewrite /hybrid; case: ifP => _; [exact: h_new | exact: h_old]. Qed.
Lemma keeps_self (x : M -> R) : keeps x x. Proof. by []. Qed.
Lemma kl_team i l s : 0 < m O s -> (i <= l)%nat ->
  kl (product_team i s) (product_team l s) = \sum_(k : 'I_n) kl (hybrid i s k) (hybrid l s k).
Proof.
move=> ms il; apply: P3_1 => [k|k|k]; try exact: hybrid_dist.
rewrite /hybrid; case: (ltnP k l) => kl; first by case: (ltnP k i) => _ //; exact: hk.
by rewrite ltnNge (leq_trans il kl).
Qed.
Lemma additive_product i : additive product_team m i.
Proof.
move=> s ms; elim: i => [|i ih].
  by rewrite big_ord0 kl_team // sum0 // => k; apply: (kl_self (hybrid_dist 0 s k)).
rewrite big_ord_recr /= -ih /klu !kl_team // -sumD; apply: sumE => k.
have d x : kl (old k x) (old k x) = 0 := kl_self (h_old k x) (fun a => erefl).
have d' x : kl (new k x) (new k x) = 0 := kl_self (h_new k x) (fun a => erefl).
by rewrite /hybrid ltn0 ltnS; case: (ltngtP k i) => _; rewrite ?d ?d'; lra.
Qed.
Lemma keeps_joint i s : 0 < m O s -> keeps (product_team O s) (product_team i s).
Proof.
move=> ms f h; apply: (big_ind (Rlt 0)) => [|x y|k _]; [lra | exact: Rmult_lt_0_compat |].
have o : 0 < old k s (f k).
  case: (pos_or_0 (proj1 (h_old k s) (f k))) => // z; move: h; rewrite /product_team /joint (bigD1 k) //= /hybrid ltn0 z; lra.
by rewrite /hybrid; case: ifP => // _; apply: hk.
Qed.
(* here KL of update k is that of agent k *)
Lemma klu_product (k : 'I_n) s : 0 < m O s -> klu product_team k s = kl (old k s) (new k s).
Proof.
move=> ms; rewrite /klu kl_team // (bigD1 k) //= {1 2}/hybrid ltnn ltnSn big1 => [|l ne]; first lra.
apply: kl_self => [|a]; first exact: hybrid_dist.
by rewrite /hybrid ltnS [(l <= k)%nat]leq_eqVlt; have /negbTE -> : nat_of_ord l != k by exact: ne.
Qed.
Lemma product_team_dist i : policy (product_team i). Proof. by move=> s; apply: joint_dist => k; exact: hybrid_dist. Qed.
(* TV(d^i, d^0) <= g sqrt(sum_{k<=i} delta0_k / (2 (1 - g))): KL of update k is that of agent k (klu_product) *)
Theorem S3_product i :
  tv (occ g (m O)) (occ g (m i)) <= g * sqrt ((\big[Rplus/0]_(k < i) delta0 g product_team m k) / (2 * (1 - g))).
Proof.
apply: (S3_additive g01 P_dist rho_dist product_team_dist hm) (@additive_product i).
by move=> s ms; exact: keeps_joint.
Qed.
End Product.

(* ------------------------------------------------------------------ episodes, by layers *)
(* Finite states (which may carry the time, and the end as a state that is never left); layer p t: the law of the state after
   t steps. V, gain of Episodic with the next state as the outcome. *)
Section Layers.
Variables (S A : finType) (P : S -> A -> S -> R) (rho : S -> R).
Hypotheses (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Implicit Types (p q : S -> A -> R).
Definition layer p t := ssrnat.iter t (push P p) rho.
Let nx (s : S) (a : A) (s' : S) := s'.
Notation path_sum := (path_sum P nx).

Lemma layer_dist p t : policy p -> dist (layer p t).
Proof.
move=> hp; elim: t => [|t [d0 d1]] //; split=> [s|]; first exact: push_ge0.
by rewrite -d1; exact: push_mass.
Qed.
Lemma path_sum_layer p f T : policy p ->
  at_rho rho (path_sum p f T) = \big[Rplus/0]_(t < T) under (layer p t) (f (T - t.+1)%nat).
Proof.
move=> hp; rewrite /layer; elim: T (rho) => [|T ih] n; first by rewrite big_ord0 /at_rho sum0 => [|s] /=; lra.
rewrite big_ord_recl subn1 /=
  (eq_bigr (fun t : 'I_T => under (ssrnat.iter t (push P p) (push P p n)) (f (T - t.+1)%nat))) => [|t _].
  rewrite -ih /at_rho (sumE (F := fun s => n s * _) (G := fun s => n s * f T s + n s * step_p P p (path_sum p f T) s)) => [|s].
    by rewrite sumD push_sum.
  by rewrite /= Rmult_plus_distr_l.
by rewrite -iterS iterSr subSS.
Qed.

Section Shift.
Variables (p q : S -> A -> R).
Hypotheses (hp : policy p) (hq : policy q).
Definition kappa u := under (layer p u) (fun s => kl (p s) (q s)).
Lemma layer_kl t : (forall u, (u < t)%nat -> seen (layer p u) p q) ->
  keeps (layer p t) (layer q t) /\ kl (layer p t) (layer q t) <= \big[Rplus/0]_(u < t) kappa u.
Proof.
elim: t => [|t ih] hs; first by rewrite big_ord0 (kl_self rho_dist) //; split=> //; lra.
have [k le] : keeps (layer p t) (layer q t) /\ kl (layer p t) (layer q t) <= \big[Rplus/0]_(u < t) kappa u.
  by apply: ih => u lt; apply/hs/ltnW.
have [p0 _] := layer_dist t hp; have [q0 _] := layer_dist t hq; have h := hs t (ltnSn t).
split; first exact: push_keeps.
by rewrite big_ord_recr; apply: Rle_trans (push_kl P_dist hp hq p0 q0 k h) _; apply: Rplus_le_compat_r.
Qed.

(* ---- S2, episodic: TV(d'_t, d_t) <= min(1, sqrt(1/2 sum_{u<t} kappa_u)) *)
Theorem S2_episodic t : (forall u, (u < t)%nat -> seen (layer p u) p q) ->
  tv (layer p t) (layer q t) <= Rmin 1 (sqrt ((\big[Rplus/0]_(u < t) kappa u) / 2)).
Proof.
move=> hs; have dp := layer_dist t hp; have dq := layer_dist t hq; have [k le] := layer_kl hs.
apply: Rmin_glb; first exact: tv_le1.
apply: le_root (tv_ge0 _ _) _; apply: Rle_trans (pinsker dp dq k) _; lra.
Qed.

(* ---- T1, episodic: TV(d'_t, d_t) <= sum_{u<t} E_{d_u} TV_u *)
Lemma T1_layer t : tv (layer p t) (layer q t) <= \big[Rplus/0]_(u < t) under (layer p u) (fun s => tv (p s) (q s)).
Proof.
elim: t => [|t ih]; first by rewrite big_ord0 /tv sum0 => [|s]; rewrite ?Rminus_eq_0 ?Rabs_R0; lra.
rewrite big_ord_recr; apply: Rle_trans (Rplus_le_compat_r _ _ _ ih) => /=.
move: (proj1 (layer_dist t hp)); rewrite -!/(layer _ t); move: (layer p t) (layer q t) => n n' n0.
have one s' : Rabs (push P q n' s' - push P p n s')
   <= \sum_(s : S) \sum_(a : A) ((Rabs (n' s - n s) * q s a + n s * Rabs (q s a - p s a)) * P s a s').
  rewrite /push -sumB; apply: Rle_trans (sum_abs _) _; apply: sum_le => s.
  rewrite -!sumZ -sumB; apply: Rle_trans (sum_abs _) _; apply: sum_le => a.
  have -> : n' s * (q s a * P s a s') - n s * (p s a * P s a s')
    = ((n' s - n s) * q s a + n s * (q s a - p s a)) * P s a s' by ring.
  rewrite Rabs_mult (Rabs_pos_eq (P s a s')); last exact: (proj1 (P_dist s a)).
  apply: Rmult_le_compat_r; first exact: (proj1 (P_dist s a)).
  apply: Rle_trans (Rabs_triang _ _) _; rewrite !Rabs_mult (Rabs_pos_eq (q s a)) ?(Rabs_pos_eq (n s)) //;
    last exact: (proj1 (hq s)).
  lra.
have := sum_le one; rewrite sum_swap /tv (sumE (F := fun s => \sum_(s' : S) _)
  (G := fun s => Rabs (n' s - n s) + n s * \sum_(a : A) Rabs (q s a - p s a))) => [h|s].
  have -> : under n (fun s => / 2 * \sum_(a : A) Rabs (q s a - p s a))
    = / 2 * \sum_(s : S) (n s * \sum_(a : A) Rabs (q s a - p s a)).
    by rewrite /under -sumZ; apply: sumE => s; lra.
  by rewrite sumD in h; lra.
rewrite sum_swap (sumE (G := fun a => Rabs (n' s - n s) * q s a + n s * Rabs (q s a - p s a))) => [|a].
  by rewrite sumD !sumZ (proj2 (hq s)); lra.
by rewrite sumZ (proj2 (P_dist s a)); lra.
Qed.

(* ---- S1, episodic *)
Variable T : pred S.
Hypothesis ho : only T p q.
Definition share_t u := under (layer p u) (fun s => ind (T s)).
Lemma S1_layer u : seen (layer p u) p q -> under (layer p u) (fun s => tv (p s) (q s)) <= sqrt (share_t u * kappa u / 2).
Proof. by move=> hs; apply: share_mean => //; exact: (proj1 (layer_dist u hp)). Qed.
(* TV(d'_t, d_t) <= min(1, sum_{u<t} sqrt(w_u kappa_u / 2)) *)
Theorem S1_episodic t : (forall u, (u < t)%nat -> seen (layer p u) p q) ->
  tv (layer p t) (layer q t) <= Rmin 1 (\big[Rplus/0]_(u < t) sqrt (share_t u * kappa u / 2)).
Proof.
move=> hs; apply: Rmin_glb; first by apply: tv_le1; exact: layer_dist.
apply: Rle_trans (T1_layer t) _; elim: t hs => [|t ih] hs; first by rewrite !big_ord0; lra.
rewrite !big_ord_recr; apply: Rplus_le_compat; first by apply: ih => u lt; apply/hs/ltnW.
exact/S1_layer/hs.
Qed.
(* the root of the sum: share_t adds up to the expected number of turns *)
Corollary S1_episodic_turns t : (forall u, seen (layer p u) p q) ->
  tv (layer p t) (layer q t) <= sqrt (\big[Rplus/0]_(u < t) share_t u) * sqrt (\big[Rplus/0]_(u < t) (kappa u / 2)).
Proof.
move=> hs; have h := @S1_episodic t (fun u _ => hs u); apply: Rle_trans h _; apply: Rle_trans (Rmin_r _ _) _.
rewrite (eq_bigr (fun u : 'I_t => sqrt (share_t u * (kappa u / 2)))) => [|u _]; last by rewrite /Rdiv Rmult_assoc.
have p0 u := proj1 (layer_dist u hp).
apply: (@roots_sum share_t (fun u => kappa u / 2)) => u.
  by apply: sum_ge0 => s; apply: Rmult_le_pos (p0 u s) _; have := ind01 (T s); lra.
by have := kl_mean_ge0 hp hq (p0 u) (hs u); rewrite /kappa; lra.
Qed.
End Shift.

(* ---- S3, episodic, both protocols *)
Section Stage.
Variable team : nat -> S -> A -> R.
Hypothesis ht : forall i, policy (team i).
(* KL of update k at step u, under the first team *)
Definition kappa0 k u := under (layer (team O) u) (klu team k).
(* TV(d^i_t, d^0_t) <= min(1, sqrt(1/2 sum_{u<t} sum_{k<=i} kappa0_{k,u})) *)
Theorem S3_episodic i t : (forall u, (u < t)%nat -> seen (layer (team O) u) (team O) (team i)) ->
  (forall u, additive team (fun _ => layer (team O) u) i) ->
  tv (layer (team O) t) (layer (team i) t) <= Rmin 1 (sqrt ((\big[Rplus/0]_(u < t) (\big[Rplus/0]_(k < i) kappa0 k u)) / 2)).
Proof.
move=> hs ha; apply: Rle_trans (S2_episodic (ht O) (ht i) hs) _; apply: Req_le.
congr (Rmin 1 (sqrt (_ / 2))); apply: eq_bigr => u _.
rewrite /kappa /kappa0 /under exchange_big; apply: sumE => s.
case: (pos_or_0 (proj1 (layer_dist u (ht O)) s)) => [ms|->]; last by rewrite big1 => [|k _]; lra.
by rewrite (ha u s ms) (big_distrr (layer (team O) u s)).
Qed.
End Stage.

(* ---- gaps, layer by layer: T steps, g_t = gain with T-1-t steps to go *)
Section Gap.
Variables (r : S -> A -> S -> R) (p q p0 : S -> A -> R) (T : nat).
Hypotheses (hq : policy q) (hp0 : policy p0).
Definition Jep pi := at_rho rho (V P nx r pi T).
(* the surrogate on the visits of p0: fresh p0 = p, stale p0 = the first team *)
Definition Lep := at_rho rho (path_sum p0 (gain P nx r p q) T).
Definition g_at t := gain P nx r p q (T - t.+1)%nat.
Lemma gap_sum : Jep q - Jep p - Lep = \big[Rplus/0]_(t < T) (under (layer q t) (g_at t) - under (layer p0 t) (g_at t)).
Proof.
have -> : Jep q - Jep p = at_rho rho (path_sum q (gain P nx r p q) T).
  by rewrite /Jep /at_rho -sumB; apply: sumE => s; rewrite -(T0 P nx r p T s hq); lra.
by rewrite /Lep !path_sum_layer // -sumB.
Qed.
Lemma gap_layers (lo hi : nat -> R) : (forall t s, (t < T)%nat -> lo t <= g_at t s <= hi t) ->
  Rabs (Jep q - Jep p - Lep) <= \big[Rplus/0]_(t < T) (tv (layer p0 t) (layer q t) * (hi t - lo t)).
Proof.
move=> h; rewrite gap_sum; apply: Rle_trans (sum_abs _) _; apply: sum_le => t.
rewrite Rmult_comm; apply: equal_mass => [|s]; last exact: h.
by rewrite (proj2 (layer_dist t hp0)) (proj2 (layer_dist t hq)).
Qed.
End Gap.

(* the bounds of S2, S1 and S3 on the gap; for S1 |A| <= Amax gives span(g) <= 2 Amax *)
Lemma layered r p q p0 T (lo hi x : nat -> R) : policy q -> policy p0 ->
  (forall t s, (t < T)%nat -> lo t <= g_at r p q T t s <= hi t) ->
  (forall t, (t < T)%nat -> tv (layer p0 t) (layer q t) <= x t) ->
  Rabs (Jep r T q - Jep r T p - Lep r p q p0 T) <= \big[Rplus/0]_(t < T) (x t * (hi t - lo t)).
Proof.
move=> hq hp0 h hx; apply: Rle_trans (gap_layers hq hp0 h) _; apply: sum_le => t.
apply: Rmult_le_compat_r; last exact: hx.
case: (@pickP S predT) => [s _|no]; first by have := h t s (ltn_ord t); lra.
by have := proj2 rho_dist; rewrite big_pred0 => //; lra.
Qed.
(* |fresh| <= sum_t min(1, sqrt(1/2 sum_{u<t} kappa_u)) span(g_t) *)
Theorem S2_episodic_gap r p q T (lo hi : nat -> R) : policy p -> policy q ->
  (forall u, (u < T)%nat -> seen (layer p u) p q) -> (forall t s, (t < T)%nat -> lo t <= g_at r p q T t s <= hi t) ->
  Rabs (Jep r T q - Jep r T p - Lep r p q p T)
    <= \big[Rplus/0]_(t < T) (Rmin 1 (sqrt ((\big[Rplus/0]_(u < t) kappa p q u) / 2)) * (hi t - lo t)).
Proof.
move=> hp hq hs h; apply: (layered (x := fun t => Rmin 1 (sqrt ((\big[Rplus/0]_(u < t) kappa p q u) / 2))) hq hp h) => t lt.
by apply: S2_episodic => // u ut; apply/hs/(ltn_trans ut).
Qed.
(* |fresh| <= sum_t 2 Amax_t min(1, sum_{u<t} sqrt(w_u kappa_u / 2)) *)
Theorem S1_episodic_gap r p q T (U : pred S) (Amax : nat -> R) : policy p -> policy q ->
  (forall u, (u < T)%nat -> seen (layer p u) p q) -> only U p q ->
  (forall t s a, (t < T)%nat -> Rabs (Adv P nx r p (T - t.+1)%nat s a) <= Amax t) ->
  Rabs (Jep r T q - Jep r T p - Lep r p q p T)
    <= \big[Rplus/0]_(t < T) (2 * Amax t * Rmin 1 (\big[Rplus/0]_(u < t) sqrt (share_t p U u * kappa p q u / 2))).
Proof.
move=> hp hq hs ho hA; pose x t := Rmin 1 (\big[Rplus/0]_(u < t) sqrt (share_t p U u * kappa p q u / 2)).
have h t s : (t < T)%nat -> - Amax t <= g_at r p q T t s <= Amax t.
  move=> lt; apply: Rabs_def2_le; rewrite -(sum_const (Amax t) (proj2 (hq s))); apply: Rle_trans (sum_abs _) _;
    apply: sum_le => a.
  by rewrite Rabs_mult Rabs_pos_eq; [apply: Rmult_le_compat_l; [exact: (proj1 (hq s)) | exact: hA] | exact: (proj1 (hq s))].
have := layered (x := x) hq hp h; rewrite (eq_bigr (fun t : 'I_T => 2 * Amax t * x t)) => [|t _]; last lra.
by apply=> t lt; apply: S1_episodic => // u ut; apply/hs/(ltn_trans ut).
Qed.
(* |stale_i| <= sum_t min(1, sqrt(1/2 sum_{u<t} sum_{k<=i} kappa0_{k,u})) span(g_t) *)
Theorem S3_episodic_gap r (team : nat -> S -> A -> R) i T (lo hi : nat -> R) : (forall i, policy (team i)) ->
  (forall u, (u < T)%nat -> seen (layer (team O) u) (team O) (team i.+1)) ->
  (forall u, additive team (fun _ => layer (team O) u) i.+1) ->
  (forall t s, (t < T)%nat -> lo t <= g_at r (team i) (team i.+1) T t s <= hi t) ->
  Rabs (Jep r T (team i.+1) - Jep r T (team i) - Lep r (team i) (team i.+1) (team O) T)
    <= \big[Rplus/0]_(t < T)
      (Rmin 1 (sqrt ((\big[Rplus/0]_(u < t) (\big[Rplus/0]_(k < i.+1) kappa0 team k u)) / 2)) * (hi t - lo t)).
Proof.
move=> ht hs ha h.
apply: (layered (x := fun t => Rmin 1 (sqrt ((\big[Rplus/0]_(u < t) (\big[Rplus/0]_(k < i.+1) kappa0 team k u)) / 2)))
  (ht i.+1) (ht O) h) => t lt.
by apply: S3_episodic => // u ut; apply/hs/(ltn_trans ut).
Qed.
End Layers.

(* the two protocols *)
Corollary S3_episodic_turns (S A : finType) (P : S -> A -> S -> R) rho (team : nat -> S -> A -> R) (j : S -> nat) i t :
  (forall s a, dist (P s a)) -> dist rho -> (forall i, policy (team i)) ->
  (forall k s a, j s <> k -> team k.+1 s a = team k s a) ->
  (forall u, (u < t)%nat -> seen (layer P rho (team O) u) (team O) (team i)) ->
  tv (layer P rho (team O) t) (layer P rho (team i) t)
    <= Rmin 1 (sqrt ((\big[Rplus/0]_(u < t) (\big[Rplus/0]_(k < i) kappa0 P rho team k u)) / 2)).
Proof. by move=> hP hr ht turns hs; apply: S3_episodic => // u; apply: additive_turns turns _. Qed.
Corollary S3_episodic_product (S M : finType) n (A := functions ('I_n) M) (P : S -> A -> S -> R) rho
    (old new : 'I_n -> S -> M -> R) i t :
  (forall s a, dist (P s a)) -> dist rho -> (forall k, policy (old k)) -> (forall k, policy (new k)) ->
  (forall u k s, 0 < layer P rho (product_team old new O) u s -> keeps (old k s) (new k s)) ->
  tv (layer P rho (product_team old new O) t) (layer P rho (product_team old new i) t)
    <= Rmin 1 (sqrt ((\big[Rplus/0]_(u < t) (\big[Rplus/0]_(k < i) kappa0 P rho (product_team old new) k u)) / 2)).
Proof.
move=> hP hr ho hn hk; apply: S3_episodic => // [j|u _ s ms|u s ms]; first exact: product_team_dist.
  by apply: (keeps_joint (m := fun _ => layer P rho (product_team old new O) u)) => // k x; exact: hk.
by apply: (additive_product (m := fun _ => layer P rho (product_team old new O) u)) => // k x; exact: hk.
Qed.

(* ------------------------------------------------------------------ S1: the shares of exogenous speakers *)
(* Exogenous speakers: a chain z that no action moves says who speaks (round robin, i.i.d., Markov router), as long as the
   episode is live; when it ends may depend on the actions. At the end nobody speaks. *)
Section Exogenous.
Variables (S A Z : finType) (P : S -> A -> S -> R) (rho : S -> R).
Hypotheses (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variables (z : S -> Z) (jz : Z -> nat) (Rz : Z -> Z -> R) (live : pred S) (j : S -> nat) (n : nat).
Hypotheses (hR : forall x, dist (Rz x)) (speaks : forall s, (j s < n)%nat -> live s /\ j s = jz (z s)).
Hypothesis router : forall s a y, live s -> \sum_(s' : S) (P s a s' * ind (live s' && (z s' == y))) <= Rz (z s) y.
Hypothesis end_stays : forall s a s', ~~ live s -> live s' -> P s a s' = 0.
Notation turn k := (fun s => ind (j s == k)).

Lemma pick (x : Z) (F : Z -> R) : \sum_(y : Z) (ind (x == y) * F y) = F x.
Proof.
rewrite (sumE (G := fun y => if y == x then F y else 0)) => [|y]; last by rewrite /ind eq_sym; case: eqP => _; lra.
by rewrite -big_mkcond (big_pred1 x).
Qed.
(* the live part of a measure, seen in the chain *)
Definition chain_law (d : S -> R) y := \sum_(s : S) (d s * ind (live s && (z s == y))).
Lemma chain_sum k d : \sum_(y : Z) (ind (jz y == k) * chain_law d y) = \sum_(s : S) (d s * ind (live s && (jz (z s) == k))).
Proof.
rewrite (sumE (G := fun y => \sum_(s : S) (ind (z s == y) * (ind (jz y == k) * (d s * ind (live s)))))) => [|y].
  rewrite sum_swap; apply: sumE => s; rewrite (pick (z s) (fun y => ind (jz y == k) * (d s * ind (live s)))).
  by rewrite /ind; case: (live s) => /=; case: eqP => _; lra.
rewrite -!sumZ; apply: sumE => s; rewrite /ind; case: (live s) => /=; case: (z s == y); lra.
Qed.
Lemma chain_push p d y : policy p -> (forall s, 0 <= d s) -> chain_law (push P p d) y <= \sum_(x : Z) (chain_law d x * Rz x y).
Proof.
move=> hp d0; rewrite /chain_law push_sum [X in _ <= X](_ : _ = \sum_(s : S) (d s * (ind (live s) * Rz (z s) y))); last first.
  rewrite (sumE (G := fun x => \sum_(s : S) (ind (z s == x) * (d s * ind (live s) * Rz x y)))) => [|x].
    by rewrite sum_swap; apply: sumE => s; rewrite (pick (z s) (fun x => d s * ind (live s) * Rz x y)); lra.
  by rewrite -sumZr; apply: sumE => s; rewrite /ind; case: (live s) => /=; case: eqP => _; lra.
apply: sum_le => s; apply: Rmult_le_compat_l (d0 s) _.
have [p0 p1] := hp s; rewrite -[X in _ <= X](sum_const _ p1); apply: sum_le => a; apply: Rmult_le_compat_l (p0 a) _.
rewrite /ev; case l : (live s); first by rewrite [ind true]/ind Rmult_1_l; apply: router.
rewrite sum0 => [|s']; first by rewrite /ind /=; lra.
by case l' : (live s'); [rewrite end_stays ?l //; lra | rewrite /ind /=; lra].
Qed.
(* where the chain starts *)
Definition rho_z y := \sum_(s : S) (ind (z s == y) * rho s).
Lemma rho_z_dist : dist rho_z.
Proof.
split=> [y|]; first by apply: sum_ge0 => s; apply: Rmult_le_pos (proj1 rho_dist s); have := ind01 (z s == y); lra.
by rewrite sum_swap -[RHS](proj2 rho_dist); apply: sumE => s; rewrite (pick (z s) (fun _ => rho s)).
Qed.
Lemma chain_rho y : chain_law rho y <= rho_z y.
Proof. by apply: sum_le => s; have := proj1 rho_dist s; rewrite /ind; case: (live s) => /=; case: eqP => _; lra. Qed.

(* if the law u of the chain is above all laws d_k of the states, the shares add up to at most one ... *)
Lemma turns_once (u : Z -> R) :
  \big[Rplus/0]_(k < n) (\sum_(y : Z) (ind (jz y == k) * u y)) = \sum_(y : Z) (ind (jz y < n)%nat * u y).
Proof. by rewrite exchange_big; apply: sumE => y; rewrite -(big_distrl (u y)) /= ind_sum. Qed.
Lemma shares_le (d : nat -> S -> R) u : (forall k s, 0 <= d k s) -> dist u -> (forall k y, chain_law (d k) y <= u y) ->
  \big[Rplus/0]_(k < n) under (d k) (turn k) <= 1.
Proof.
move=> d0 [u0 u1] h; apply: Rle_trans (_ : \big[Rplus/0]_(k < n) (\sum_(y : Z) (ind (jz y == k) * u y)) <= _).
  apply: (big_ind2 Rle) => [|? ? ? ?|k _]; [lra | lra |].
  apply: Rle_trans (_ : \sum_(y : Z) (ind (jz y == k) * chain_law (d k) y) <= _); last first.
    by apply: sum_le => y; apply: Rmult_le_compat_l (h k y); have := ind01 (jz y == k); lra.
  rewrite chain_sum; apply: sum_le => s; apply: Rmult_le_compat_l (d0 k s) _.
  rewrite {1}/ind; case: eqP => [e|_]; last by have := ind01 (live s && (jz (z s) == k)); lra.
  by have [|-> <-] := @speaks s; rewrite e ?ltn_ord // eqxx /ind /=; lra.
by rewrite turns_once -[X in _ <= X]u1; apply: sum_le => y; have := u0 y; rewrite /ind; case: ifP => _; lra.
Qed.
(* ... and to one if somebody always speaks *)
Lemma shares_eq (d : nat -> S -> R) u : (forall s, (j s < n)%nat) -> (forall y, (jz y < n)%nat) ->
  (forall k, dist (d k)) -> dist u -> (forall k y, chain_law (d k) y <= u y) -> \big[Rplus/0]_(k < n) under (d k) (turn k) = 1.
Proof.
move=> hj hz hd [u0 u1] h.
have e k y : chain_law (d k) y = u y.
  have dz x : 0 <= u x - chain_law (d k) x by have := h k x; lra.
  suff /(all_0 dz) a : \sum_(x : Z) (u x - chain_law (d k) x) = 0 by have := a y; lra.
  rewrite sumB u1 /chain_law (sumE (G := fun x => \sum_(s : S) (ind (z s == x) * d k s))) => [|x].
    by rewrite sum_swap (sumE (G := d k)) ?(proj2 (hd k)) => [|s]; [lra | rewrite (pick (z s) (fun _ => d k s))].
  by apply: sumE => s; have [-> _] := speaks (hj s); rewrite /=; lra.
rewrite -u1 (sumE (G := fun y => ind (jz y < n)%nat * u y)) => [|y]; last by rewrite hz /ind; lra.
rewrite -turns_once; apply: eq_bigr => k _.
rewrite (sumE (G := fun y => ind (jz y == k) * chain_law (d k) y)) => [|y]; last by rewrite e.
by rewrite chain_sum; apply: sumE => s; have [-> <-] := speaks (hj s).
Qed.

Variable team : nat -> S -> A -> R.
Hypothesis ht : forall i, policy (team i).

(* discounted *)
Section Visits.
Variables (g : R) (m : nat -> S -> R).
Hypotheses (g01 : 0 <= g < 1) (hm : forall i, flow P g rho (team i) (m i)).
(* the occupancy of the chain is above all of them *)
Lemma chain : exists u, dist u /\ forall k y, chain_law (occ g (m k)) y <= u y.
Proof.
have p1 : @policy unit_finType Z (fun _ _ => 1) by move=> _; split=> [_|]; [lra | rewrite (big_pred1 tt) // => -[]].
have [u fu] := visits_exist g01 (fun x (_ : unit_finType) => hR x) rho_z_dist p1; have [u0 _] := fu.
have um := mass g01 (fun x (_ : unit_finType) => hR x) rho_z_dist p1 fu.
have ue y : u y = rho_z y + g * \sum_(x : Z) (u x * Rz x y).
  rewrite {1}(proj2 fu y); congr (_ + g * _); apply: sumE => x; rewrite (big_pred1 tt) => [|[]] //; lra.
exists (fun y => (1 - g) * u y); split; first split=> [y|].
- by apply: Rmult_le_pos; [lra | exact: u0].
- by rewrite sumZ um; field; lra.
move=> k y; have -> : chain_law (occ g (m k)) y = (1 - g) * chain_law (m k) y.
  by rewrite /chain_law -sumZ; apply: sumE => s; rewrite /occ; lra.
apply: Rmult_le_compat_l; first lra.
have one x : chain_law (m k) x <= rho_z x + g * \sum_(x' : Z) (chain_law (m k) x' * Rz x' x).
  have -> : chain_law (m k) x = chain_law rho x + g * chain_law (push P (team k) (m k)) x.
    by rewrite /chain_law -sumZ -sumD; apply: sumE => s; rewrite {1}(flowE s (hm k)); lra.
  apply: Rplus_le_compat (chain_rho x) _; apply: Rmult_le_compat_l (proj1 g01) _; exact: chain_push (ht k) (proj1 (hm k)).
(* the excess e over u is at most g times what it was a step before *)
pose e x := Rmax 0 (chain_law (m k) x - u x).
have e0 x : 0 <= e x := Rmax_l _ _.
have le x : e x <= g * \sum_(x' : Z) (e x' * Rz x' x).
  have r0 : 0 <= \sum_(x' : Z) (e x' * Rz x' x) by apply: sum_ge0 => x'; apply: Rmult_le_pos (e0 _) (proj1 (hR x') x).
  apply: Rmax_lub; first by apply: Rmult_le_pos; lra.
  have : \sum_(x' : Z) (chain_law (m k) x' * Rz x' x) <= \sum_(x' : Z) (u x' * Rz x' x) + \sum_(x' : Z) (e x' * Rz x' x).
    rewrite -sumD; apply: sum_le => x'; rewrite -Rmult_plus_distr_r; apply: Rmult_le_compat_r; first exact: (proj1 (hR x') x).
    by have := Rmax_r 0 (chain_law (m k) x' - u x'); rewrite -/(e x'); lra.
  move=> h; have := Rmult_le_compat_l _ _ _ (proj1 g01) h; have := one x; rewrite (ue x); lra.
have := sum_le le; rewrite sumZ sum_swap (sumE (F := fun x => \sum_(_ : Z) _) (G := e)) => [h|x]; last first.
  by rewrite sumZ (proj2 (hR x)); lra.
have E : \sum_(x : Z) e x = 0 by have := sum_ge0 e0; nra.
by have := Rmax_r 0 (chain_law (m k) y - u y); rewrite -/(e y) (all_0 e0 E); lra.
Qed.
(* each agent's share under its own hybrid: sum_k w_k <= 1 *)
Theorem S1_exogenous : \big[Rplus/0]_(k < n) share g (m k) (fun s => j s == k) <= 1.
Proof.
have [u [hu h]] := chain; apply: (shares_le (d := fun k => occ g (m k)) _ hu h) => k s.
exact: occ_ge0 g01 _ _ _ (hm k).
Qed.
Theorem S1_exogenous_eq : (forall s, (j s < n)%nat) -> (forall y, (jz y < n)%nat) ->
  \big[Rplus/0]_(k < n) share g (m k) (fun s => j s == k) = 1.
Proof.
move=> hj hz; have [u [hu h]] := chain; apply: (shares_eq (d := fun k => occ g (m k)) hj hz _ hu h) => k.
exact: (occ_dist g01 P_dist rho_dist (ht k) (hm k)).
Qed.
End Visits.

(* episodic, in every layer; so the expected turns before t add up to at most t *)
Theorem S1_exogenous_layer t : \big[Rplus/0]_(k < n) share_t P rho (team k) (fun s => j s == k) t <= 1.
Proof.
have l0 k u s := proj1 (layer_dist P_dist rho_dist u (ht k)) s.
have [u [hu h]] : exists u, dist u /\ forall k y, chain_law (layer P rho (team k) t) y <= u y.
  elim: t => [|t [u [hu h]]]; first by exists rho_z; split; [exact: rho_z_dist | move=> k; exact: chain_rho].
  exists (fun y => \sum_(x : Z) (u x * Rz x y)); split; first split=> [y|].
  - by apply: sum_ge0 => x; apply: Rmult_le_pos; [exact: (proj1 hu) | exact: (proj1 (hR x))].
  - by rewrite sum_swap -[RHS](proj2 hu); apply: sumE => x; rewrite sumZ (proj2 (hR x)); lra.
  move=> k y; apply: Rle_trans (chain_push y (ht k) (l0 k t)) _; apply: sum_le => x.
  by apply: Rmult_le_compat_r (h k x); exact: (proj1 (hR x)).
exact: (shares_le (d := fun k => layer P rho (team k) t)) hu h.
Qed.
Corollary S1_exogenous_turns t :
  \big[Rplus/0]_(k < n) (\big[Rplus/0]_(u < t) share_t P rho (team k) (fun s => j s == k) u) <= INR t.
Proof.
rewrite exchange_big -[INR t]Rmult_1_r.
apply: (sum_le_const (f := fun u => \big[Rplus/0]_(k < n) share_t P rho (team k) (fun s => j s == k) u)) => u _.
exact: S1_exogenous_layer.
Qed.
End Exogenous.
