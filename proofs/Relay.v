(* R1, the coherent relay, for every number n of agents and c of rounds: exact gaps, their signs, the leading coefficients.
   The return is a polynomial in the step-up probabilities of the turns, of degree one in each. A surrogate is its derivative,
   so every gap is a difference of w_j, the probability of exactly one step-up in T-1 turns of which j have the new rate. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

(* ------------------------------------------------------------------ the number of step-ups: (probability of none, of one) *)
Definition two := (R * R)%type.
Definition tmul (x y : two) : two := (x.1 * y.1, x.1 * y.2 + x.2 * y.1).
Fact tmulA : associative tmul. Proof. by move=> [x x'] [y y'] [z z']; rewrite /tmul /=; congr (_, _); lra. Qed.
Fact tmulC : commutative tmul. Proof. by move=> [x x'] [y y']; rewrite /tmul /=; congr (_, _); lra. Qed.
Fact tmul1 : left_id (1, 0) tmul. Proof. by move=> [x x']; rewrite /tmul /=; congr (_, _); lra. Qed.
Fact tmul1r : right_id (1, 0) tmul. Proof. by move=> [x x']; rewrite /tmul /=; congr (_, _); lra. Qed.
Canonical tmul_monoid := Monoid.Law tmulA tmul1 tmul1r.
Canonical tmul_comoid := Monoid.ComLaw tmulC.

Definition law2 (l : seq R) : two := \big[tmul/(1, 0)]_(y <- l) (1 - y, y).
Definition P0 l := (law2 l).1.
Definition P1 l := (law2 l).2.
Lemma P0_nil : P0 [::] = 1. Proof. by rewrite /P0 /law2 big_nil. Qed.
Lemma P1_nil : P1 [::] = 0. Proof. by rewrite /P1 /law2 big_nil. Qed.
Lemma law2_cons y l : law2 (y :: l) = tmul (1 - y, y) (law2 l). Proof. by rewrite /law2 big_cons. Qed.
Lemma P0_cons y l : P0 (y :: l) = (1 - y) * P0 l. Proof. by rewrite /P0 law2_cons. Qed.
Lemma P1_cons y l : P1 (y :: l) = y * P0 l + (1 - y) * P1 l.
Proof. by rewrite /P1 /P0 law2_cons /=; lra. Qed.
Lemma law2_mid l1 y l2 : law2 (l1 ++ y :: l2) = law2 (y :: l1 ++ l2).
Proof. by rewrite /law2 big_cat !big_cons big_cat /=; apply: Monoid.mulmCA. Qed.
Lemma P0_mid l1 y l2 : P0 (l1 ++ y :: l2) = P0 (y :: l1 ++ l2). Proof. by rewrite /P0 law2_mid. Qed.
Lemma P1_mid l1 y l2 : P1 (l1 ++ y :: l2) = P1 (y :: l1 ++ l2). Proof. by rewrite /P1 law2_mid. Qed.
(* only the number of turns with the new rate matters *)
Notation idb := (fun b : bool => b).
Lemma law2_count x y (bs : seq bool) : law2 [seq if b then x else y | b <- bs]
  = law2 (nseq (count idb bs) x ++ nseq (size bs - count idb bs)%nat y).
Proof.
elim: bs => [//|[] bs ih]; rewrite /= ?add1n ?add0n ?subSS; first by rewrite !law2_cons ih.
by rewrite subSn ?count_size //= law2_mid !law2_cons ih.
Qed.

(* ------------------------------------------------------------------ the relay *)
(* contexts 0, 1, 2; 2 is absorbing *)
Definition up (x : nat) : nat := if x is O then 1%nat else 2%nat.
Fixpoint win (x : nat) (l : seq R) : R :=
  if l is y :: l' then y * win (up x) l' + (1 - y) * win x l' else if (2 <= x)%nat then 1 else 0.
Lemma win2 l : win 2 l = 1. Proof. by elim: l => [//|y l /= ->]; lra. Qed.
Lemma win1 l : win 1 l = 1 - P0 l.
Proof. by elim: l => [|y l /= ->]; rewrite ?P0_nil ?P0_cons ?win2 //=; lra. Qed.
Lemma win0 l : win 0 l = 1 - P0 l - P1 l.
Proof. by elim: l => [|y l /= ->]; rewrite ?P0_nil ?P1_nil ?P0_cons ?P1_cons ?win1 /=; lra. Qed.
(* the derivative of the return with respect to the rate of one turn *)
Lemma win_slope l1 l2 : win 0 (l1 ++ 1 :: l2) - win 0 (l1 ++ 0 :: l2) = P1 (l1 ++ l2).
Proof. by rewrite !win0 !P0_mid !P1_mid !P0_cons !P1_cons; lra. Qed.
Lemma win_swap x y l1 l2 : win 0 (x :: l1 ++ l2) - win 0 (l1 ++ y :: l2) = (x - y) * P1 (l1 ++ l2).
Proof. by rewrite !win0 P0_mid P1_mid !P0_cons !P1_cons; lra. Qed.

Section Relay.
Variable T : nat.                                  (* turns *)
(* a state: turns gone, context. The outcome reward is paid with the last turn *)
Definition env (s : nat * nat) (a : bool) (b : unit) : R := 1.
Definition nxt (s : nat * nat) (a : bool) (b : unit) : nat * nat := (s.1.+1, if a then up s.2 else s.2).
Definition rew (s : nat * nat) (a : bool) (b : unit) : R := if (s.1.+1 == T) && (2 <= (nxt s a b).2)%nat then 1 else 0.
(* at turn v the speaker steps up with probability l v, in every context *)
Definition relay (l : nat -> R) (s : nat * nat) (a : bool) : R := if a then l s.1 else 1 - l s.1.
Lemma env_dist s a : dist (env s a).
Proof. by split=> [b|]; rewrite /env; [lra | rewrite (big_pred1 tt) // => -[]]. Qed.
Lemma sum_bool (F : bool -> R) : \sum_(a : bool) F a = F true + F false.
Proof. by rewrite big_bool. Qed.
Lemma sum_unit (F : unit -> R) : \sum_(b : unit) F b = F tt.
Proof. by rewrite (big_pred1 tt) // => -[]. Qed.
Lemma relay_policy l : (forall v, 0 <= l v <= 1) -> policy (relay l).
Proof. by move=> h s; split=> [[]|]; rewrite ?sum_bool /=; have := h s.1; rewrite /relay; lra. Qed.

Notation VR := (V env nxt rew).
Notation QR := (Q env nxt rew).
Definition rest (l : nat -> R) v u := [seq l k | k <- iota v u].

Lemma Q_relay l u v x a : (v.+1 + u)%nat = T -> QR (relay l) u (v, x) a = win (if a then up x else x) (rest l v.+1 u).
Proof.
have -> : QR (relay l) u (v, x) a = rew (v, x) a tt + VR (relay l) u (v.+1, if a then up x else x).
  by rewrite /Q sum_unit /env Rmult_1_l.
elim: u v x a => [|u ih] v x a h.
  by rewrite /rew /= -{1}h addn0 eqxx /=; case: ifP; lra.
have hu : (v.+2 + u)%nat = T by rewrite -h addSnnS.
have Qu b y : QR (relay l) u (v.+1, y) b = rew (v.+1, y) b tt + VR (relay l) u (v.+2, if b then up y else y).
  by rewrite /Q sum_unit /env Rmult_1_l.
have -> : rew (v, x) a tt = 0 by rewrite /rew /= -h -{1}[v.+1]addn0 eqn_add2l.
rewrite VE sum_bool !Qu !ih // /relay /rest /=; lra.
Qed.
Lemma V_relay l : (0 < T)%nat -> VR (relay l) T (O, O) = win 0 (rest l 0 T).
Proof.
move=> T0; have h : (1 + T.-1)%nat = T by rewrite add1n prednK.
have -> : rest l 0 T = l O :: rest l 1 T.-1 by rewrite -{1}h.
transitivity (VR (relay l) T.-1.+1 (O, O)); first by rewrite prednK.
by rewrite VE sum_bool !Q_relay.
Qed.
Lemma gain_relay l l' u v x : (v.+1 + u)%nat = T ->
  gain env nxt rew (relay l) (relay l') u (v, x) = (l' v - l v) * (win (up x) (rest l v.+1 u) - win x (rest l v.+1 u)).
Proof. by move=> h; rewrite /gain /Adv VE !sum_bool !Q_relay //= /relay /=; lra. Qed.

(* sums along the path, l before the turn and m behind it *)
Lemma path_relay l m c f t v x : (v + t)%nat = T ->
  (forall u v x, (v.+1 + u)%nat = T -> f u (v, x) = c v * (win (up x) (rest m v.+1 u) - win x (rest m v.+1 u))) ->
  path_sum env nxt (relay l) f t (v, x) = \big[Rplus/0]_(k < t) (c (v + k)%nat *
    (win x (rest l v k ++ 1 :: rest m (v + k).+1 (t - k.+1)) - win x (rest l v k ++ 0 :: rest m (v + k).+1 (t - k.+1)))).
Proof.
elim: t v x => [|t ih] v x h hf; first by rewrite big_ord0.
have h' : (v.+1 + t)%nat = T by rewrite -h addSnnS.
rewrite [LHS]/= hf // sum_bool /after !sum_unit /env !Rmult_1_l /nxt /= !ih // big_ord_recl.
rewrite /= addn0 subn1 /=; congr (_ + _); first by lra.
rewrite -!sumZ -sumD; apply: sumE => k.
by rewrite addSnnS /bump /= add1n subSS /relay /= -/(rest l v.+1 k); lra.
Qed.
Lemma path_relay0 l m c f :
  (forall u v x, (v.+1 + u)%nat = T -> f u (v, x) = c v * (win (up x) (rest m v.+1 u) - win x (rest m v.+1 u))) ->
  path_sum env nxt (relay l) f T (O, O) = \big[Rplus/0]_(k < T) (c k * P1 (rest l 0 k ++ rest m k.+1 (T - k.+1))).
Proof. by move=> hf; rewrite (path_relay l (m := m) (c := c)) ?add0n //; apply: eq_bigr => k _; rewrite win_slope add0n. Qed.
End Relay.

(* ------------------------------------------------------------------ stages: n agents in turn, c rounds, rate p -> p+e *)
Section Team.
Variables (n c : nat) (p e : R).
Notation T := (c * n)%nat.
(* the first i agents are updated *)
Definition hyb (i v : nat) : R := if (v %% n < i)%nat then p + e else p.
Definition team (i : nat) := relay (hyb i).
Lemma hyb_step i v : hyb i.+1 v - hyb i v = if (v %% n == i)%nat then e else 0.
Proof. by rewrite /hyb ltnS; case: ltngtP => _; lra. Qed.

(* exactly one step-up in T-1 turns, j of which have the new rate *)
Definition w (j : nat) := P1 (nseq j (p + e) ++ nseq (T.-1 - j) p).

Definition before i v := count (fun u => (u %% n < i)%nat) (iota 0 v).
Lemma count_block i s j : (j <= n)%nat -> count (fun u => (u %% n < i)%nat) (iota (s * n) j) = minn i j.
Proof.
elim: j => [|j ih] h; first by rewrite minn0.
rewrite -addn1 iotaD count_cat ih ?(ltnW h) //= addn0 modnMDl modn_small // addn1.
by rewrite /minn ltnS; case: ltngtP => [||->]; rewrite ?ltnn ?addn0 ?addn1.
Qed.
Lemma beforeE i s j : (i <= n)%nat -> (j <= n)%nat -> before i (s * n + j) = (s * i + minn i j)%nat.
Proof.
move=> hi hj; rewrite /before iotaD count_cat add0n count_block //; congr addn.
elim: s => [//|s ih]; rewrite mulSnr iotaD count_cat ih add0n count_block //.
by rewrite mulSnr (minn_idPl hi).
Qed.
Lemma turn_lt s j : (j < n)%nat -> (s < c)%nat -> (s * n + j < T)%nat.
Proof. by move=> hj hs; apply: leq_trans (leq_mul hs (leqnn n)); rewrite mulSnr ltn_add2l. Qed.
Lemma after_turn i s j : (i <= n)%nat -> (j < n)%nat -> (s < c)%nat -> (i <= j.+1)%nat ->
  count (fun u => (u %% n < i)%nat) (iota (s * n + j).+1 (T - (s * n + j).+1)) = ((c.-1 - s) * i)%nat.
Proof.
move=> hi hj hs ij.
have lt := turn_lt hj hs.
have := beforeE c hi (leq0n n); rewrite minn0 !addn0 /before -{1}(subnKC lt) iotaD count_cat add0n.
rewrite -addnS -/(before _ _) beforeE // (minn_idPl ij) addnS => E.
have -> : ((c.-1 - s) * i = c * i - s.+1 * i)%nat by rewrite -mulnBl subnS -!subn1 subnAC.
by rewrite -E mulSnr addKn.
Qed.

Lemma rest_hyb i s u : rest (hyb i) s u = [seq if b then p + e else p | b <- [seq (u %% n < i)%nat | u <- iota s u]].
Proof. by rewrite -map_comp. Qed.
Lemma mixed i i' v : (v < T)%nat -> P1 (rest (hyb i) 0 v ++ rest (hyb i') v.+1 (T - v.+1))
  = w (before i v + count (fun u => (u %% n < i')%nat) (iota v.+1 (T - v.+1))).
Proof.
move=> h; have sz : (v + (T - v.+1) = T.-1)%nat by rewrite subnS -subn1 subnAC subn1 subnKC // -ltnS (ltn_predK h).
by rewrite !rest_hyb -map_cat /P1 law2_count count_cat !count_map size_cat !size_map !size_iota sz.
Qed.

Lemma sum_turns (F : nat -> R) i : (i < n)%nat ->
  \big[Rplus/0]_(v < T) (if (v %% n == i)%nat then F v else 0) = \big[Rplus/0]_(s < c) F (s * n + i)%nat.
Proof.
move=> hi; elim: c => [|k ih]; first by rewrite mul0n !big_ord0.
rewrite mulSnr big_split_ord /= ih big_ord_recr /=; congr (_ + _).
rewrite (bigD1 (Ordinal hi)) //= modnMDl modn_small // eqxx big1 ?Rplus_0_r // => v nv.
by rewrite modnMDl modn_small //; case: eqP => // E; case/eqP: nv; apply: val_inj.
Qed.

(* what update i credits itself with: occupancy of hybrid i0, values of hybrid i1 *)
Lemma surrogate i0 i1 i f : (i0 <= i)%nat -> (i1 <= i)%nat -> (i < n)%nat ->
  (forall u v x, (v.+1 + u)%nat = T ->
    f u (v, x) = (hyb i.+1 v - hyb i v) * (win (up x) (rest (hyb i1) v.+1 u) - win x (rest (hyb i1) v.+1 u))) ->
  path_sum env nxt (team i0) f T (O, O) = \big[Rplus/0]_(s < c) (e * w (s.+1 * i0 + (c.-1 - s) * i1)%nat).
Proof.
move=> h0 h1 hi hf; rewrite (path_relay0 _ hf).
pose F v := e * P1 (rest (hyb i0) 0 v ++ rest (hyb i1) v.+1 (T - v.+1)).
transitivity (\big[Rplus/0]_(v < T) (if (v %% n == i)%nat then F v else 0)).
  by apply: eq_bigr => v _; rewrite hyb_step /F; case: ifP => _; lra.
rewrite sum_turns //; apply: eq_bigr => s _; rewrite /F mixed ?turn_lt //.
have l0 := leq_trans h0 (ltnW hi); have l1 := leq_trans h1 (ltnW hi).
have l2 := ltnW hi; have l3 := leq_trans h1 (leqnSn i).
by rewrite beforeE // after_turn // (minn_idPl h0) mulSnr.
Qed.

(* the return of hybrid i, a polynomial *)
Definition F (j : nat) := win 0 (nseq j (p + e) ++ nseq (T - j) p).
Lemma F_step j : (j < T)%nat -> F j.+1 - F j = e * w j.
Proof.
move=> h; have E : (T.-1 - j = T - j.+1)%nat by rewrite subnS -!subn1 subnAC.
by rewrite /F /w E -(subnSK h) /= win_swap; lra.
Qed.
Lemma J_hyb i : (0 < T)%nat -> (i <= n)%nat -> V env nxt (rew T) (team i) T (O, O) = F (c * i)%nat.
Proof.
move=> T0 hi; rewrite V_relay // /F !win0 rest_hyb /P0 /P1 law2_count count_map size_map size_iota.
by have := beforeE c hi (leq0n n); rewrite minn0 !addn0 /before => ->.
Qed.
Lemma J_step i k : (i < n)%nat -> (k <= c)%nat ->
  F (c * i + k)%nat - F (c * i)%nat = \big[Rplus/0]_(s < k) (e * w (c * i + s)%nat).
Proof.
move=> hi; elim: k => [|k ih] hk; first by rewrite big_ord0 addn0; lra.
rewrite big_ord_recr /= -ih ?(ltnW hk) // addnS -F_step; first lra.
by apply: leq_trans (leq_mul (leqnn c) hi); rewrite mulnS addnC ltn_add2r.
Qed.

(* ---- R1, exactly: the three gaps of update i (i+1 on the page) *)
Notation JR i := (V env nxt (rew T) (team i) T (O, O)).
Definition fresh i := JR i.+1 - JR i - L env nxt (rew T) (team i) (team i.+1) T (O, O).
Definition stale i := JR i.+1 - JR i - path_sum env nxt (team O) (gain env nxt (rew T) (team i) (team i.+1)) T (O, O).
Definition cached i := JR i.+1 - JR i - L_cached env nxt (rew T) team T (O, O) i.
Theorem R1_exact i : (0 < c)%nat -> (i < n)%nat ->
  [/\ fresh i = e * \big[Rplus/0]_(s < c) (w (c * i + s) - w (c * i)),
      stale i = e * \big[Rplus/0]_(s < c) (w (c * i + s) - w ((c.-1 - s) * i)) &
      cached i = e * \big[Rplus/0]_(s < c) (w (c * i + s) - w 0)].
Proof.
move=> c0 hi; have T0 : (0 < T)%nat by rewrite muln_gt0 c0; apply: leq_ltn_trans hi.
have dJ : JR i.+1 - JR i = \big[Rplus/0]_(s < c) (e * w (c * i + s)%nat) by rewrite !J_hyb ?(ltnW hi) // mulnS addnC J_step.
have gl u v x : (v.+1 + u)%nat = T -> gain env nxt (rew T) (team i) (team i.+1) u (v, x)
  = (hyb i.+1 v - hyb i v) * (win (up x) (rest (hyb i) v.+1 u) - win x (rest (hyb i) v.+1 u)) by exact: gain_relay.
rewrite /fresh /stale /cached dJ -!sumZ; split.
- rewrite /L (surrogate (leqnn i) (leqnn i) hi gl) -sumB; apply: sumE => s.
  suff -> : (s.+1 * i + (c.-1 - s) * i = c * i)%nat by lra.
  by rewrite -mulnDl addSn subnKC -?ltnS ?prednK.
- by rewrite (surrogate (leq0n i) (leqnn i) hi gl) -sumB; apply: sumE => s; rewrite muln0 add0n; lra.
- rewrite /L_cached (surrogate (i0 := O) (i1 := O) (i := i)) // => [|u v x h]; last first.
    by rewrite sum_bool /Adv !Q_relay // /team /relay /=; lra.
  by rewrite -sumB; apply: sumE => s; rewrite !muln0; lra.
Qed.
End Team.
