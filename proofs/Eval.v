(* An executable evaluator of V, A, L (finite horizon, states and actions numbered), proved equal to the definitions of the theorems.
   It is written once for any numbers; on rationals it runs (vm_compute, or OCaml by extraction), and Q2R of what it returns is
   the real number that the theorems speak about. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra QArith Qreals Qround.
From TeamTR Require Import Sums Episodic.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.

Section Eval.
Variables (N : Type) (zero : N) (add mul sub : N -> N -> N).
Variables (nS nA : nat) (e r : nat -> nat -> nat -> N).      (* e s a s', r s a s' *)
Fixpoint esum (n : nat) (f : nat -> N) : N := if n is k.+1 then add (esum k f) (f k) else zero.
Definition eQ (v : seq N) s a := esum nS (fun b => mul (e s a b) (add (r s a b) (nth zero v b))).
Fixpoint eV (p : nat -> nat -> N) t : seq N :=
  if t is u.+1 then let v := eV p u in mkseq (fun s => esum nA (fun a => mul (p s a) (eQ v s a))) nS
  else nseq nS zero.
(* (V_t, L_t) together *)
Fixpoint eVL (p q : nat -> nat -> N) t : seq N * seq N :=
  if t is u.+1 then
    let (v, l) := eVL p q u in
    (mkseq (fun s => esum nA (fun a => mul (p s a) (eQ v s a))) nS,
     mkseq (fun s => let vs := esum nA (fun a => mul (p s a) (eQ v s a)) in
       add (esum nA (fun a => mul (q s a) (sub (eQ v s a) vs)))
           (esum nA (fun a => mul (p s a) (esum nS (fun b => mul (e s a b) (nth zero l b)))))) nS)
  else (nseq nS zero, nseq nS zero).
End Eval.

(* ---- on the reals it is the definition *)
Section OnR.
Local Open Scope R_scope.
Variables (nS nA : nat) (e r : nat -> nat -> nat -> R) (p q : nat -> nat -> R).
Notation S := 'I_nS. Notation A := 'I_nA.
Let E (s : S) (a : A) (b : S) := e s a b.
Let nx (s : S) (a : A) (b : S) := b.
Let rr (s : S) (a : A) (b : S) := r s a b.
Let pp (s : S) (a : A) := p s a.
Let qq (s : S) (a : A) := q s a.
Lemma esumE n f : esum 0 Rplus n f = \big[Rplus/0]_(k < n) f k.
Proof. by elim: n => [|n ih]; rewrite ?big_ord0 // big_ord_recr /= ih. Qed.
Lemma eQE v (F : S -> R) (s : S) (a : A) : (forall b : S, nth 0 v b = F b) ->
  eQ 0 Rplus Rmult nS e r v s a = \big[Rplus/0]_(b < nS) (e s a b * (r s a b + F b)).
Proof. by move=> h; rewrite /eQ esumE; apply: eq_bigr => b _; rewrite h. Qed.
Theorem eVL_R t (s : S) : let vl := eVL 0 Rplus Rmult Rminus nS nA e r p q t in
  nth 0 vl.1 s = V E nx rr pp t s /\ nth 0 vl.2 s = L E nx rr pp qq t s.
Proof.
elim: t s => [|t ih] s /=; first by rewrite !nth_nseq !if_same.
case D : (eVL _ _ _ _ _ _ _ _ _ _ t) => [v l] /=; rewrite D /= in ih.
have hv (b : S) : nth 0 v b = V E nx rr pp t b by case: (ih b).
have hl (b : S) : nth 0 l b = L E nx rr pp qq t b by case: (ih b).
rewrite !nth_mkseq //; have hV : esum 0 Rplus nA (fun a => p s a * eQ 0 Rplus Rmult nS e r v s a) = V E nx rr pp t.+1 s.
  by rewrite esumE; apply: eq_bigr => a _; rewrite (eQE s a hv).
split; first exact: hV.
rewrite /L /= hV !esumE; congr (_ + _); apply: eq_bigr => a _.
  by rewrite (eQE s a hv).
by rewrite esumE; congr (_ * _); apply: eq_bigr => b _; rewrite hl.
Qed.
End OnR.

(* ---- a homomorphism of numbers goes through *)
Section Morphism.
Variables (N M : Type) (z : N) (ad mu su : N -> N -> N) (z' : M) (ad' mu' su' : M -> M -> M) (f : N -> M).
Hypotheses (fz : f z = z') (fa : forall x y, f (ad x y) = ad' (f x) (f y))
  (fm : forall x y, f (mu x y) = mu' (f x) (f y)) (fs : forall x y, f (su x y) = su' (f x) (f y)).
Variables (nS nA : nat) (e r : nat -> nat -> nat -> N) (p q : nat -> nat -> N).
Lemma esum_f n g h : (forall k, f (g k) = h k) -> f (esum z ad n g) = esum z' ad' n h.
Proof. by move=> H; elim: n => [//|n ih] /=; rewrite fa ih H. Qed.
Lemma nth_f v k : f (nth z v k) = nth z' (map f v) k.
Proof. by elim: v k => [|x v ih] [|k] //=. Qed.
Let e' s a b := f (e s a b). Let r' s a b := f (r s a b). Let p' s a := f (p s a). Let q' s a := f (q s a).
Lemma eQ_f v s a : f (eQ z ad mu nS e r v s a) = eQ z' ad' mu' nS e' r' (map f v) s a.
Proof. by apply: esum_f => b; rewrite fm fa nth_f. Qed.
Theorem eVL_f t : let w := eVL z ad mu su nS nA e r p q t in
  eVL z' ad' mu' su' nS nA e' r' p' q' t = (map f w.1, map f w.2).
Proof.
elim: t => [|t ih] /=; first by rewrite !map_nseq fz.
case D : (eVL z ad mu su _ _ _ _ _ _ t) => [v l] /=; rewrite ih D /= /mkseq -!map_comp.
have hV s : f (esum z ad nA (fun a => mu (p s a) (eQ z ad mu nS e r v s a))) = esum z' ad' nA (fun a => mu' (p' s a) (eQ z' ad' mu' nS e' r' (map f v) s a)).
  by apply: esum_f => a; rewrite fm eQ_f.
congr (_, _); apply: eq_map => s /=; first by rewrite hV.
rewrite fa; congr (ad' _ _); symmetry; apply: esum_f => a; first by rewrite fm fs eQ_f hV.
by rewrite fm; congr (mu' _ _); apply: esum_f => b; rewrite fm nth_f.
Qed.
End Morphism.

(* ---- rationals *)
Definition addQ x y := Qred (Qplus x y).
Definition mulQ x y := Qred (Qmult x y).
Definition subQ x y := Qred (Qminus x y).
Definition evalQ := eVL (Qmake 0 1) addQ mulQ subQ.
Lemma Q2R_red x : Q2R (Qred x) = Q2R x. Proof. by apply: Qeq_eqR; apply: Qred_correct. Qed.

Theorem evalQ_correct nS nA e r p q t (s : 'I_nS) : let w := evalQ nS nA e r p q t in
  let E (s : 'I_nS) (a : 'I_nA) (b : 'I_nS) := Q2R (e s a b) in
  let rr (s : 'I_nS) (a : 'I_nA) (b : 'I_nS) := Q2R (r s a b) in
  let pp (s : 'I_nS) (a : 'I_nA) := Q2R (p s a) in let qq (s : 'I_nS) (a : 'I_nA) := Q2R (q s a) in
  Q2R (nth (Qmake 0 1) w.1 s) = V E (fun _ _ b => b) rr pp t s /\
  Q2R (nth (Qmake 0 1) w.2 s) = L E (fun _ _ b => b) rr pp qq t s.
Proof.
move=> w E rr pp qq.
have fz : Q2R (Qmake 0 1) = 0%R by rewrite /Q2R /= ; lra.
have := @eVL_R nS nA (fun s a b => Q2R (e s a b)) (fun s a b => Q2R (r s a b)) (fun s a => Q2R (p s a)) (fun s a => Q2R (q s a)) t s.
rewrite (@eVL_f QArith_base.Q R (Qmake 0 1) addQ mulQ subQ 0%R Rplus Rmult Rminus Q2R fz
  (fun x y => etrans (Q2R_red _) (Q2R_plus x y)) (fun x y => etrans (Q2R_red _) (Q2R_mult x y))
  (fun x y => etrans (Q2R_red _) (Q2R_minus x y))) /=.
by rewrite -!(nth_f fz).
Qed.
