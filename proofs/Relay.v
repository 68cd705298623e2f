(* R1, the coherent relay, for every number n of agents and c of rounds and every order of updates: exact gaps, their signs, the
   leading coefficients.
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
Lemma tmulCA x y z : tmul x (tmul y z) = tmul y (tmul x z).
Proof. by case: x y z => [x x'] [y y'] [z z']; rewrite /tmul /=; congr (_, _); lra. Qed.

Definition law2 (l : seq R) : two := foldr (fun y x => tmul (1 - y, y) x) (1, 0) l.
Arguments law2 : simpl never.
Definition P0 l := (law2 l).1.
Definition P1 l := (law2 l).2.
Lemma P0_nil : P0 [::] = 1. Proof. by []. Qed.
Lemma P1_nil : P1 [::] = 0. Proof. by []. Qed.
Lemma law2_cons y l : law2 (y :: l) = tmul (1 - y, y) (law2 l). Proof. by []. Qed.
Lemma P0_cons y l : P0 (y :: l) = (1 - y) * P0 l. Proof. by rewrite /P0 law2_cons. Qed.
Lemma P1_cons y l : P1 (y :: l) = y * P0 l + (1 - y) * P1 l.
Proof. by rewrite /P1 /P0 law2_cons /=; lra. Qed.
Lemma law2_mid l1 y l2 : law2 (l1 ++ y :: l2) = law2 (y :: l1 ++ l2).
Proof. by elim: l1 => [//|x l1 ih]; rewrite !cat_cons law2_cons ih !law2_cons tmulCA. Qed.
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

Lemma P1_swap x y l1 l2 : P1 (x :: l1 ++ l2) - P1 (l1 ++ y :: l2) = (x - y) * (P0 (l1 ++ l2) - P1 (l1 ++ l2)).
Proof. by rewrite P1_mid !P1_cons; lra. Qed.

(* rates between 0 and x *)
Definition rates x (l : seq R) : Prop := foldr (fun y h => 0 <= y <= x /\ h) True l.
Lemma rates_cat x l1 l2 : rates x l1 -> rates x l2 -> rates x (l1 ++ l2).
Proof. by move=> + h2; elim: l1 => [//|y l ih] /= [hy /ih]. Qed.
Lemma rates_nseq x y k : 0 <= y <= x -> rates x (nseq k y).
Proof. by move=> hy; elim: k => [//|k ih]; split. Qed.
(* (a) at most one of the two is large, (b) none is likelier than one while the rates are small *)
Lemma law2_rates x l : x <= 1 -> rates x l ->
  [/\ 0 <= P0 l <= 1, 0 <= P1 l, 1 - 2 * (INR (size l) * x) <= P0 l - P1 l <= 1 & (1 - x) * P1 l <= INR (size l) * x * P0 l].
Proof.
move=> x1; elim: l => [_|y l ih]; first by rewrite P0_nil P1_nil /=; split; lra.
rewrite /rates /= -/(rates x l) -/(INR (size l).+1) S_INR => -[hy /ih [a b d f]].
have N0 := pos_INR (size l); rewrite P0_cons P1_cons; set N := INR _ in N0 d f *.
have a1 : 0 <= (1 - y) * P0 l <= 1 by nra.
have a2 : 0 <= y * P0 l by nra.
have a3 : 0 <= (1 - y) * P1 l by nra.
have a4 : 0 <= y * P1 l by nra.
split; [lra | lra | split; nra | ].
have f1 := Rmult_le_compat_l (1 - y) _ _ ltac:(lra) f.
have : (1 - x) * (y * P0 l) <= x * ((1 - y) * P0 l).
  have : (1 - x) * y <= x * (1 - y) by lra.
  by move=> h; have := Rmult_le_compat_r _ _ _ (proj1 a) h; lra.
lra.
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
(* agents speak in the order 0, 1, ..., n-1; they are updated in any order: spk i is updated as number i, rank is the inverse *)
Variables (rank spk : nat -> nat).
Hypotheses (spk_lt : forall i, (i < n)%nat -> (spk i < n)%nat) (rank_spk : forall i, (i < n)%nat -> rank (spk i) = i).
Hypothesis spk_rank : forall k, (k < n)%nat -> spk (rank k) = k.
Definition old (i u : nat) : bool := (rank (u %% n) < i)%nat.
Definition hyb (i v : nat) : R := if old i v then p + e else p.
Definition team (i : nat) := relay (hyb i).
Lemma hyb_step i v : hyb i.+1 v - hyb i v = if (rank (v %% n) == i)%nat then e else 0.
Proof. by rewrite /hyb /old ltnS; case: ltngtP => _; lra. Qed.

(* exactly one step-up in T-1 turns, j of which have the new rate *)
Definition w (j : nat) := P1 (nseq j (p + e) ++ nseq (T.-1 - j) p).

(* updated agents among the first j to speak *)
Definition rk i j := count (fun k => (rank k < i)%nat) (iota 0 j).
Lemma rkS i j : rk i j.+1 = (rk i j + (rank j < i))%nat.
Proof. by rewrite /rk -addn1 iotaD count_cat /= add0n addn0. Qed.
Lemma rk_all i : (i <= n)%nat -> rk i n = i.
Proof.
elim: i => [_|i ih hi]; first by rewrite /rk (eq_count (a2 := pred0)) ?count_pred0.
have one : count_mem (spk i) (iota 0 n) = 1%nat by rewrite count_uniq_mem ?iota_uniq // mem_iota /= add0n spk_lt.
transitivity (rk i n + count_mem (spk i) (iota 0 n))%nat; last by rewrite ih ?(ltnW hi) // one addn1.
rewrite /rk -(count_predUI (fun k => (rank k < i)%nat)) -[LHS]addn0; congr addn.
  apply: eq_in_count => k; rewrite mem_iota /= add0n => hk; rewrite ltnS leq_eqVlt orbC; congr orb.
  by apply/eqP/eqP => [<-|->]; [rewrite spk_rank | rewrite rank_spk].
rewrite (eq_in_count (a2 := pred0)) ?count_pred0 // => k; rewrite mem_iota /= add0n => hk.
by apply/negbTE/negP => /andP[lt /eqP E]; move: lt; rewrite E rank_spk ?ltnn.
Qed.
Lemma rk_le i j : (i <= n)%nat -> (j <= n)%nat -> (rk i j <= i)%nat.
Proof.
move=> hi hj; have := rk_all hi; rewrite /rk -{1}(subnKC hj) iotaD count_cat => E.
by rewrite -[X in (_ <= X)%nat]E leq_addr.
Qed.

Definition before i v := count (old i) (iota 0 v).
Lemma count_block i s j : (j <= n)%nat -> count (old i) (iota (s * n) j) = rk i j.
Proof.
elim: j => [//|j ih] h; rewrite rkS -addn1 iotaD count_cat ih ?(ltnW h) //= addn0.
by rewrite /old modnMDl modn_small.
Qed.
Lemma beforeE i s j : (i <= n)%nat -> (j <= n)%nat -> before i (s * n + j) = (s * i + rk i j)%nat.
Proof.
move=> hi hj; rewrite /before iotaD count_cat add0n count_block //; congr addn.
elim: s => [//|s ih]; rewrite mulSnr iotaD count_cat ih add0n count_block //.
by rewrite mulSnr rk_all.
Qed.
Lemma turn_lt s j : (j < n)%nat -> (s < c)%nat -> (s * n + j < T)%nat.
Proof. by move=> hj hs; apply: leq_trans (leq_mul hs (leqnn n)); rewrite mulSnr ltn_add2l. Qed.
Lemma after_turn i s j : (i <= n)%nat -> (j < n)%nat -> (s < c)%nat -> (i <= rank j)%nat ->
  count (old i) (iota (s * n + j).+1 (T - (s * n + j).+1)) = ((c.-1 - s) * i + (i - rk i j))%nat.
Proof.
move=> hi hj hs ij; have lt := turn_lt hj hs.
have := beforeE c hi (leq0n n); rewrite !addn0 /before -{1}(subnKC lt) iotaD count_cat add0n.
rewrite -addnS -/(before _ _) beforeE // rkS (ltnNge (rank j)) ij addn0 addnS => E.
have X : (c * i = s * i + i + (c.-1 - s) * i)%nat.
  have c0 : (0 < c)%nat by apply: leq_ltn_trans hs.
  have sc : (s <= c.-1)%nat by rewrite -ltnS prednK.
  by rewrite -mulSnr -mulnDl addSn subnKC // prednK.
apply/eqP; rewrite -(eqn_add2l (s * i + rk i j)) E X; apply/eqP.
by rewrite -!addnA; congr addn; rewrite [RHS]addnCA subnKC ?rk_le ?(ltnW hj) // addnC.
Qed.

Lemma rest_hyb i s u : rest (hyb i) s u = [seq if b then p + e else p | b <- [seq old i v | v <- iota s u]].
Proof. by rewrite -map_comp. Qed.
Lemma mixed i i' v : (v < T)%nat -> P1 (rest (hyb i) 0 v ++ rest (hyb i') v.+1 (T - v.+1))
  = w (before i v + count (old i') (iota v.+1 (T - v.+1))).
Proof.
move=> h; have sz : (v + (T - v.+1) = T.-1)%nat by rewrite subnS -subn1 subnAC subn1 subnKC // -ltnS (ltn_predK h).
by rewrite !rest_hyb -map_cat /P1 law2_count count_cat !count_map size_cat !size_map !size_iota sz.
Qed.

Lemma sum_turns (F : nat -> R) i : (i < n)%nat ->
  \big[Rplus/0]_(v < T) (if (rank (v %% n) == i)%nat then F v else 0) = \big[Rplus/0]_(s < c) F (s * n + spk i)%nat.
Proof.
move=> hi; elim: c => [|k ih]; first by rewrite mul0n !big_ord0.
rewrite mulSnr big_split_ord /= ih big_ord_recr /=; congr (_ + _).
have hs := spk_lt hi; rewrite (bigD1 (Ordinal hs)) //= modnMDl modn_small // rank_spk // eqxx big1 ?Rplus_0_r // => v nv.
rewrite modnMDl modn_small //; case: eqP => // E; case/eqP: nv; apply: val_inj.
by rewrite /= -E spk_rank.
Qed.

(* what update i credits itself with: occupancy of hybrid i0, values of hybrid i1 *)
Lemma surrogate i0 i1 i f : (i0 <= i)%nat -> (i1 <= i)%nat -> (i < n)%nat ->
  (forall u v x, (v.+1 + u)%nat = T ->
    f u (v, x) = (hyb i.+1 v - hyb i v) * (win (up x) (rest (hyb i1) v.+1 u) - win x (rest (hyb i1) v.+1 u))) ->
  path_sum env nxt (team i0) f T (O, O)
    = \big[Rplus/0]_(s < c) (e * w (s * i0 + rk i0 (spk i) + ((c.-1 - s) * i1 + (i1 - rk i1 (spk i))))%nat).
Proof.
move=> h0 h1 hi hf; rewrite (path_relay0 _ hf).
pose F v := e * P1 (rest (hyb i0) 0 v ++ rest (hyb i1) v.+1 (T - v.+1)).
transitivity (\big[Rplus/0]_(v < T) (if (rank (v %% n) == i)%nat then F v else 0)).
  by apply: eq_bigr => v _; rewrite hyb_step /F; case: ifP => _; lra.
have hs := spk_lt hi; rewrite sum_turns //; apply: eq_bigr => s _; rewrite /F mixed ?turn_lt //.
have l0 := leq_trans h0 (ltnW hi); have l1 := leq_trans h1 (ltnW hi).
have l2 := ltnW hs; have l3 : (i1 <= rank (spk i))%nat by rewrite rank_spk.
by rewrite beforeE // after_turn.
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
by have := beforeE c hi (leq0n n); rewrite !addn0 /before => ->.
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
(* agents that are updated before i and speak after it *)
Definition later i := (i - rk i (spk i))%nat.
Lemma later_le i : (later i <= i)%nat. Proof. exact: leq_subr. Qed.
Theorem R1_exact i : (0 < c)%nat -> (i < n)%nat ->
  [/\ fresh i = e * \big[Rplus/0]_(s < c) (w (c * i + s) - w (c * i)),
      stale i = e * \big[Rplus/0]_(s < c) (w (c * i + s) - w ((c.-1 - s) * i + later i)) &
      cached i = e * \big[Rplus/0]_(s < c) (w (c * i + s) - w 0)].
Proof.
move=> c0 hi; have T0 : (0 < T)%nat by rewrite muln_gt0 c0; apply: leq_ltn_trans hi.
have dJ : JR i.+1 - JR i = \big[Rplus/0]_(s < c) (e * w (c * i + s)%nat) by rewrite !J_hyb ?(ltnW hi) // mulnS addnC J_step.
have gl u v x : (v.+1 + u)%nat = T -> gain env nxt (rew T) (team i) (team i.+1) u (v, x)
  = (hyb i.+1 v - hyb i v) * (win (up x) (rest (hyb i) v.+1 u) - win x (rest (hyb i) v.+1 u)) by exact: gain_relay.
have r0 j : rk 0 j = 0%nat by rewrite /rk (eq_count (a2 := pred0)) ?count_pred0.
rewrite /fresh /stale /cached dJ -!sumZ; split.
- rewrite /L (surrogate (leqnn i) (leqnn i) hi gl) -sumB; apply: sumE => s.
  suff -> : (s * i + rk i (spk i) + ((c.-1 - s) * i + (i - rk i (spk i))) = c * i)%nat by lra.
  have sc : (s <= c.-1)%nat by rewrite -ltnS prednK.
  have le := rk_le (ltnW hi) (ltnW (spk_lt hi)).
  rewrite addnACA subnKC // -mulnDl subnKC // -mulSnr prednK //.
- by rewrite (surrogate (leq0n i) (leqnn i) hi gl) -sumB; apply: sumE => s; rewrite muln0 r0 !add0n /later; lra.
- rewrite /L_cached (surrogate (i0 := O) (i1 := O) (i := i)) // => [|u v x h]; last first.
    by rewrite sum_bool /Adv !Q_relay // /team /relay /=; lra.
  by rewrite -sumB; apply: sumE => s; rewrite !muln0 r0 sub0n !addn0; lra.
Qed.

(* ---- signs and leading coefficients *)
Hypotheses (p0 : 0 <= p) (e0 : 0 <= e) (pe1 : p + e <= 1).
Notation kap := (2 * (INR (T - 2) * (p + e))).
Lemma w_step j : (j.+1 < T)%nat -> (1 - kap) * e <= w j.+1 - w j <= e /\ (INR T.-1 * (p + e) <= 1 -> 0 <= w j.+1 - w j).
Proof.
move=> h; set o := nseq j (p + e) ++ nseq (T - 2 - j) p.
have -> : w j.+1 - w j = e * (P0 o - P1 o).
  have E1 : (T.-1 - j.+1 = T - 2 - j)%nat by rewrite -subn1 -!subnDA.
  have E2 : (T.-1 - j = (T - 2 - j).+1)%nat by rewrite -E1 subnSK // -ltnS (ltn_predK h).
  by rewrite /w E1 E2 /= P1_swap -/o; lra.
have ho : rates (p + e) o by apply: rates_cat; apply: rates_nseq; lra.
have so : size o = (T - 2)%nat by rewrite size_cat !size_nseq subnKC // leq_subRL //; exact: leq_trans h.
have [a b d f] := law2_rates pe1 ho; rewrite so in d f.
split=> [|hT].
  have := Rmult_le_compat_l _ _ _ e0 (proj1 d); have := Rmult_le_compat_l _ _ _ e0 (proj2 d); lra.
apply: Rmult_le_pos => //.
have ET : INR T.-1 = INR (T - 2) + 1.
  by rewrite -S_INR; congr INR; rewrite subnSK ?subn1 //; apply: leq_trans h.
rewrite ET in hT; case: (Rle_lt_or_eq_dec _ _ pe1) => [lt|eq]; last first.
  have : INR (T - 2) = 0 by have := pos_INR (T - 2); rewrite eq in hT; lra.
  by move=> z; rewrite z in d; lra.
have f1 : INR (T - 2) * (p + e) * P0 o <= (1 - (p + e)) * P0 o by apply: Rmult_le_compat_r; lra.
have : (1 - (p + e)) * P1 o <= (1 - (p + e)) * P0 o by lra.
by move=> g; have := Rmult_le_reg_l (1 - (p + e)) _ _ ltac:(lra) g; lra.
Qed.
Lemma w_diff j k : (j + k < T)%nat ->
  (1 - kap) * e * INR k <= w (j + k) - w j <= e * INR k /\ (INR T.-1 * (p + e) <= 1 -> 0 <= w (j + k) - w j).
Proof.
elim: k => [|k ih] h; first by rewrite addn0 /=; split; lra.
have h' : (j + k < T)%nat by apply: leq_ltn_trans h; rewrite leq_add2l.
rewrite addnS in h *; have [a1 a2] := w_step h; have [b1 b2] := ih h'.
by rewrite S_INR; split=> [|s]; [lra | have := a2 s; have := b2 s; lra].
Qed.
(* a gap with counts k s: turns of new rate more in w than in the surrogate *)
Lemma gap_bounds (hi lo : nat -> nat) (C : R) : (forall s, (s < c)%nat -> (lo s <= hi s < T)%nat) ->
  \big[Rplus/0]_(s < c) INR (hi s - lo s) = C ->
  let G := e * \big[Rplus/0]_(s < c) (w (hi s) - w (lo s)) in
  (1 - kap) * (C * e ^ 2) <= G <= C * e ^ 2 /\ (INR T.-1 * (p + e) <= 1 -> 0 <= G).
Proof.
move=> h <- G; rewrite /G.
have one (s : 'I_c) : (1 - kap) * e * INR (hi s - lo s) <= w (hi s) - w (lo s) <= e * INR (hi s - lo s) /\
    (INR T.-1 * (p + e) <= 1 -> 0 <= w (hi s) - w (lo s)).
  by have /andP[l u] := h s (ltn_ord s); have := @w_diff (lo s) (hi s - lo s); rewrite subnKC //; apply.
have a := sum_le (fun s => proj1 (proj1 (one s))); have b := sum_le (fun s => proj2 (proj1 (one s))).
rewrite !sumZ in a b; split; last by move=> t; apply: Rmult_le_pos => //; apply: sum_ge0 => s; apply: (proj2 (one s)).
set D := \big[Rplus/0]_(s < c) (_ - _) in a b *; set Z := \big[Rplus/0]_(s < c) _ in a b *.
by split; [have := Rmult_le_compat_l _ _ _ e0 a | have := Rmult_le_compat_l _ _ _ e0 b]; lra.
Qed.

Lemma sum_INR k : \big[Rplus/0]_(s < k) INR s = INR k * (INR k - 1) / 2.
Proof. by elim: k => [|k ih]; rewrite ?big_ord0 ?big_ord_recr ?ih ?S_INR /=; lra. Qed.
Lemma sum_lin k x y : \big[Rplus/0]_(s < k) (x + INR s * y) = INR k * x + INR k * (INR k - 1) / 2 * y.
Proof.
by elim: k => [|k ih]; rewrite ?big_ord0 ?big_ord_recr ?ih ?S_INR /=; lra.
Qed.

(* every gap has its leading coefficient times e^2 from above, and from below up to the factor 1 - 2(T-2)(p+e) *)
Definition near (C G : R) := (1 - kap) * (C * e ^ 2) <= G <= C * e ^ 2 /\ (INR T.-1 * (p + e) <= 1 -> 0 <= G).
Theorem R1_update i : (0 < c)%nat -> (i < n)%nat ->
  let x := INR c in let own := x * (x - 1) / 2 in
  [/\ near own (fresh i), near (own + INR i * (x * (x + 1) / 2) - x * INR (later i)) (stale i) &
      near (own + INR i * x ^ 2) (cached i)].
Proof.
move=> c0 hi x own; have [-> -> ->] := R1_exact c0 hi.
have lt s : (s < c)%nat -> (c * i + s < T)%nat.
  by move=> hs; apply: leq_trans (leq_mul (leqnn c) hi); rewrite mulnS addnC ltn_add2r.
split.
- apply: (@gap_bounds (fun s => c * i + s)%nat (fun _ => c * i)%nat _) => [s hs|]; first by rewrite leq_addr lt.
  by rewrite /own /x -sum_INR; apply: eq_bigr => s _; rewrite addKn.
- have le s : (s < c)%nat -> ((c.-1 - s) * i + later i <= c * i + s)%nat.
    move=> hs; apply: leq_trans (leq_addr _ _); rewrite -{2}(prednK c0) mulSnr; apply: leq_add (later_le i).
    by rewrite leq_mul2r leq_subr orbT.
  apply: (@gap_bounds (fun s => c * i + s)%nat (fun s => (c.-1 - s) * i + later i)%nat _) => [s hs|]; first by rewrite lt // le.
  rewrite (eq_bigr (fun s : 'I_c => (INR i - INR (later i)) + INR s * (1 + INR i))) => [|s _].
    by rewrite sum_lin /own /x; lra.
  have sc : (s <= c.-1)%nat by rewrite -ltnS prednK.
  have cE : INR c = INR c.-1 + 1 by rewrite -S_INR prednK.
  have lE := le s (ltn_ord s); rewrite minus_INR; last exact/leP.
  by rewrite !plus_INR !mult_INR minus_INR ?cE; [lra | exact/leP].
- apply: (@gap_bounds (fun s => c * i + s)%nat (fun _ => O) _) => [s hs|]; first by rewrite lt.
  rewrite (eq_bigr (fun s : 'I_c => x * INR i + INR s * 1)) => [|s _]; first by rewrite sum_lin /own /x; lra.
  by rewrite subn0 plus_INR mult_INR /x; lra.
Qed.

(* the sums of absolute gaps over a stage, c rounds *)
Lemma near_sum (G Z : nat -> R) C : INR T.-1 * (p + e) <= 1 -> (forall i, (i < n)%nat -> near (Z i) (G i)) ->
  \big[Rplus/0]_(i < n) Z i = C -> (1 - kap) * (C * e ^ 2) <= \big[Rplus/0]_(i < n) Rabs (G i) <= C * e ^ 2.
Proof.
move=> hT h <-.
have one (i : 'I_n) : (1 - kap) * e ^ 2 * Z i <= Rabs (G i) <= e ^ 2 * Z i.
  by have [a b] := h i (ltn_ord i); rewrite Rabs_pos_eq; [lra | exact: b].
have a := sum_le (fun i => proj1 (one i)); have b := sum_le (fun i => proj2 (one i)).
rewrite !sumZ in a b; set X := \big[Rplus/0]_(s < n) Z _ in a b *.
by set Y := \big[Rplus/0]_(i < n) _ in a b *; lra.
Qed.
(* pairs of agents in which the one that is updated first speaks last *)
Definition crossed := \big[Rplus/0]_(i < n) INR (later i).
Theorem R1_rounds : (0 < c)%nat -> INR T.-1 * (p + e) <= 1 ->
  let x := INR c in let own := INR n * (x * (x - 1) / 2) in let pairs := INR n * (INR n - 1) / 2 in
  let within C G := (1 - kap) * (C * e ^ 2) <= \big[Rplus/0]_(i < n) Rabs (G i) <= C * e ^ 2 in
  [/\ within own fresh, within (own + pairs * (x * (x + 1) / 2) - x * crossed) stale & within (own + pairs * x ^ 2) cached].
Proof.
move=> c0 hT x own pairs within; split.
- apply: (near_sum hT (Z := fun _ => x * (x - 1) / 2 + INR 0 * 0)) => [i hi|].
    by rewrite Rmult_0_r Rplus_0_r; have [h _ _] := R1_update c0 hi.
  have := sum_lin n (x * (x - 1) / 2) 0; rewrite (eq_bigr (fun _ => x * (x - 1) / 2 + INR 0 * 0)) => [->|i _]; rewrite /own; lra.
- apply: (near_sum hT (Z := fun i => x * (x - 1) / 2 + INR i * (x * (x + 1) / 2) - x * INR (later i))) => [i hi|].
    by have [_ h _] := R1_update c0 hi.
  by rewrite sumB sumZ sum_lin -/crossed.
- apply: (near_sum hT (Z := fun i => x * (x - 1) / 2 + INR i * x ^ 2)) => [i hi|]; last by rewrite sum_lin.
  by have [_ _ h] := R1_update c0 hi.
Qed.
End Team.

(* ---- one round: an agent that speaks once cannot shift its own context. The fresh gaps vanish exactly *)
Theorem R1_once n p e (rank spk : nat -> nat) i : (forall i, (i < n)%nat -> (spk i < n)%nat) ->
  (forall i, (i < n)%nat -> rank (spk i) = i) -> (forall k, (k < n)%nat -> spk (rank k) = k) ->
  (i < n)%nat -> fresh n 1 p e rank i = 0.
Proof.
move=> s1 s2 s3 hi; have [-> _ _] := @R1_exact n 1 p e rank spk s1 s2 s3 i isT hi.
by rewrite big_ord_recl big_ord0 /= addn0; lra.
Qed.

(* ---- R1, two rounds, agents updated in any order. At every finite step with (2n-1)(p+e) <= 1 all gaps are >= 0, and their sums
   over the stage are n, (3n^2-n)/2 - 2 crossed and 2n^2-n times e^2 up to the factor 1 - 4(n-1)(p+e). *)
Theorem R1_order n p e (rank spk : nat -> nat) : (forall i, (i < n)%nat -> (spk i < n)%nat) ->
  (forall i, (i < n)%nat -> rank (spk i) = i) -> (forall k, (k < n)%nat -> spk (rank k) = k) ->
  (0 < n)%nat -> 0 <= p -> 0 <= e -> (2 * INR n - 1) * (p + e) <= 1 ->
  let N := INR n in
  let within C G := (1 - 4 * (N - 1) * (p + e)) * (C * e ^ 2) <= \big[Rplus/0]_(i < n) Rabs (G i) <= C * e ^ 2 in
  [/\ within N (fresh n 2 p e rank), within ((3 * N ^ 2 - N) / 2 - 2 * crossed n rank spk) (stale n 2 p e rank) &
      within (2 * N ^ 2 - N) (cached n 2 p e rank)].
Proof.
move=> s1 s2 s3 n0 p0 e0 hT N within; have N1 : 1 <= N by rewrite /N -(prednK n0) S_INR; have := pos_INR n.-1; lra.
have E k : (k <= 2 * n)%nat -> INR (2 * n - k) = 2 * N - INR k by move=> h; rewrite minus_INR ?mult_INR //; apply/leP.
have pe : p + e <= 1 by have := Rmult_le_compat_r (p + e) 1 (2 * N - 1) ltac:(lra) ltac:(lra); rewrite /N; lra.
have n2 : (2 <= 2 * n)%nat by rewrite leq_pmulr.
have := @R1_rounds n 2 p e rank spk s1 s2 s3 p0 e0 pe isT; rewrite -subn1 !E ?(ltnW n2) //= => h; have [a b c] := h hT.
have k : 2 * ((2 * N - (1 + 1)) * (p + e)) = 4 * (N - 1) * (p + e) by lra.
rewrite k -/N in a b c; rewrite /within; split; [move: a | move: b | move: c].
- by rewrite (_ : N * ((1 + 1) * (1 + 1 - 1) / 2) = N) //; lra.
- by rewrite (_ : N * _ + _ - _ = (3 * N ^ 2 - N) / 2 - 2 * crossed n rank spk) //; lra.
by rewrite (_ : N * _ + _ = 2 * N ^ 2 - N) //; lra.
Qed.

(* in the order of speaking no pair is crossed *)
Definition in_order (k : nat) : nat := k.
Theorem R1 n p e : (0 < n)%nat -> 0 <= p -> 0 <= e -> (2 * INR n - 1) * (p + e) <= 1 ->
  let N := INR n in
  let within C G := (1 - 4 * (N - 1) * (p + e)) * (C * e ^ 2) <= \big[Rplus/0]_(i < n) Rabs (G i) <= C * e ^ 2 in
  [/\ within N (fresh n 2 p e in_order), within ((3 * N ^ 2 - N) / 2) (stale n 2 p e in_order) &
      within (2 * N ^ 2 - N) (cached n 2 p e in_order)].
Proof.
move=> n0 p0 e0 hT N within; have := @R1_order n p e in_order in_order.
have -> : crossed n in_order in_order = 0.
  apply: big1 => i _; rewrite /later /rk (_ : count _ _ = i) ?subnn //.
  by rewrite -[RHS](size_iota 0); apply/eqP; rewrite -all_count; apply/allP => k; rewrite mem_iota.
move=> h; have [//|//|//|a b c] := h _ _ _ n0 p0 e0 hT; split=> //.
by move: b; rewrite /within -/N (_ : (3 * N ^ 2 - N) / 2 - 2 * 0 = (3 * N ^ 2 - N) / 2) //; lra.
Qed.

(* in reverse order all of them are *)
Theorem R1_reverse n p e : (0 < n)%nat -> 0 <= p -> 0 <= e -> (2 * INR n - 1) * (p + e) <= 1 ->
  let N := INR n in let rank k := (n.-1 - k)%nat in
  let within C G := (1 - 4 * (N - 1) * (p + e)) * (C * e ^ 2) <= \big[Rplus/0]_(i < n) Rabs (G i) <= C * e ^ 2 in
  [/\ within N (fresh n 2 p e rank), within ((N ^ 2 + N) / 2) (stale n 2 p e rank) &
      within (2 * N ^ 2 - N) (cached n 2 p e rank)].
Proof.
move=> n0 p0 e0 hT N rank within; have := @R1_order n p e rank rank.
have le i : (i < n)%nat -> (i <= n.-1)%nat by move=> hi; rewrite -ltnS prednK.
have -> : crossed n rank rank = N * (N - 1) / 2.
  rewrite -sum_INR; apply: eq_bigr => i _; rewrite /later /rk (eq_in_count (a2 := pred0)) ?count_pred0 ?subn0 // => k.
  rewrite mem_iota /= add0n /rank => hk; apply/negbTE; rewrite -leqNgt leq_subRL;
    last by apply: leq_trans (ltnW hk) (leq_subr _ _).
  by rewrite addnC -leq_subRL ?le // ltnW.
have inv i : (i < n)%nat -> rank (rank i) = i by move=> hi; rewrite /rank subKn ?le.
have lt i : (i < n)%nat -> (rank i < n)%nat.
  by move=> hi; rewrite /rank; apply: leq_ltn_trans (leq_subr _ _) _; rewrite prednK.
move=> h; have [a b c] := h lt inv inv n0 p0 e0 hT; split=> //.
by move: b; rewrite /within -/N (_ : (3 * N ^ 2 - N) / 2 - 2 * (N * (N - 1) / 2) = (N ^ 2 + N) / 2) //; lra.
Qed.

(* ... so the coefficients are limits, as p and e go to 0 in any way (no bound on p/e is needed) *)
Corollary R1_limit n eta : (0 < n)%nat -> 0 < eta -> exists2 d, 0 < d & forall p e, 0 <= p -> 0 < e -> p + e < d ->
  let N := INR n in let close C G := Rabs (\big[Rplus/0]_(i < n) Rabs (G i) / e ^ 2 - C) < eta in
  [/\ close N (fresh n 2 p e in_order), close ((3 * N ^ 2 - N) / 2) (stale n 2 p e in_order) &
      close (2 * N ^ 2 - N) (cached n 2 p e in_order)].
Proof.
move=> n0 eta0; set N := INR n.
have N1 : 1 <= N by rewrite /N -(prednK n0) S_INR; have := pos_INR n.-1; lra.
pose M := 4 * N * (2 * N ^ 2); have M0 : 0 < M by rewrite /M; nra.
exists (Rmin (/ (2 * N)) (eta / M)); first by apply: Rmin_pos; [apply: Rinv_0_lt_compat; lra | exact: Rdiv_lt_0_compat].
move=> p e p0 e0 lt; have lt1 := Rlt_le_trans _ _ _ lt (Rmin_l _ _); have lt2 := Rlt_le_trans _ _ _ lt (Rmin_r _ _).
have h1 : (p + e) * (2 * N) < 1.
  by have := Rmult_lt_compat_r (2 * N) _ _ ltac:(lra) lt1; rewrite Rinv_l; lra.
have h2 : (p + e) * M < eta.
  by have := Rmult_lt_compat_r M _ _ M0 lt2; rewrite /Rdiv Rmult_assoc Rinv_l; lra.
have close C G : 0 <= C <= 2 * N ^ 2 -> (1 - 4 * (N - 1) * (p + e)) * (C * e ^ 2) <= G <= C * e ^ 2 -> Rabs (G / e ^ 2 - C) < eta.
  move=> hC [lo hi]; have e2 : 0 < e ^ 2 by apply: pow_lt.
  set X := G / e ^ 2; have EX : G = X * e ^ 2 by rewrite /X; field; lra.
  rewrite EX in lo hi; have hi' : X <= C by apply: (Rmult_le_reg_r (e ^ 2)).
  have lo' : (1 - 4 * (N - 1) * (p + e)) * C <= X by apply: (Rmult_le_reg_r (e ^ 2)) => //; lra.
  have : 4 * (N - 1) * (p + e) * C <= (p + e) * M.
    have := Rmult_le_compat (4 * (N - 1) * (p + e)) (4 * N * (p + e)) C (2 * N ^ 2).
    by rewrite /M => h; apply: Rle_trans (h _ _ _ _) _; [nra | lra | nra | lra | lra].
  by move=> k; apply: Rabs_def1; lra.
have := @R1 n p e n0 p0 (Rlt_le _ _ e0); rewrite -/N => h.
by have [a b c] := h ltac:(nra); split; apply: close => //; nra.
Qed.
