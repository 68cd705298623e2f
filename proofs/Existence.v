(* The objects of the discounted theorems exist and are unique, so that nothing was proved about nothing:
   every policy has exactly one value and one vector of visits. Then S7 and S9 without hypotheses on v and m. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals Lra Psatz.
From TeamTR Require Import Sums Episodic Discounted.
Set Implicit Arguments. Unset Strict Implicit. Unset Printing Implicit Defensive.
Local Open Scope R_scope.

Section Existence.
Variables (S A : finType) (P : S -> A -> S -> R) (g : R) (rho : S -> R).
Hypotheses (g01 : 0 <= g < 1) (P_dist : forall s a, dist (P s a)) (rho_dist : dist rho).
Variable p : S -> A -> R.
Hypothesis hp : policy p.
Notation Pp := (step_p P p).

(* a sequence whose steps shrink geometrically has a limit *)
Lemma limit (x : nat -> R) C : 0 <= C -> (forall T, Rabs (x T.+1 - x T) <= C * g ^ T) ->
  exists l, forall T, Rabs (l - x T) <= C / (1 - g) * g ^ T.
Proof.
move=> C0 h; set D := C / (1 - g); have D0 : 0 <= D by apply: Rmult_le_pos C0 _; apply/Rlt_le/Rinv_0_lt_compat; lra.
have DE : D * (1 - g) = C by rewrite /D; field; lra.
have pw T : 0 <= g ^ T by apply: pow_le; lra.
have st T : x T - D * g ^ T <= x T.+1 - D * g ^ T.+1 /\ x T.+1 + D * g ^ T.+1 <= x T + D * g ^ T.
  have := Rabs_def2_le (h T); have -> : g ^ T.+1 = g * g ^ T by [].
  by rewrite -{1 2}DE; lra.
have up T k : x T - D * g ^ T <= x (T + k)%nat - D * g ^ (T + k)%nat.
  elim: k => [|k ih]; first by rewrite addn0; lra.
  by rewrite addnS; have := proj1 (st (T + k)%nat); lra.
have dn T k : x (T + k)%nat + D * g ^ (T + k)%nat <= x T + D * g ^ T.
  elim: k => [|k ih]; first by rewrite addn0; lra.
  by rewrite addnS; have := proj2 (st (T + k)%nat); lra.
have cross T U : x T - D * g ^ T <= x U + D * g ^ U.
  have a := up T U; have b := dn U T; rewrite addnC in b.
  by have := Rmult_le_pos _ _ D0 (pw (T + U)%nat); lra.
pose E y := exists T, y = x T - D * g ^ T.
have bE : bound E by exists (x O + D * g ^ O) => _ [T ->]; exact: cross.
have [l [ub lub]] := completeness E bE (ex_intro _ _ (ex_intro _ O erefl)).
exists l => T; apply: Rabs_le; split; first by have := ub _ (ex_intro _ T erefl); lra.
have : l <= x T + D * g ^ T by apply: lub => _ [U ->]; exact: cross.
lra.
Qed.

Lemma Pp_abs f C s : (forall x, Rabs (f x) <= C) -> Rabs (Pp f s) <= C.
Proof. exact: step_p_abs. Qed.
Lemma PpB f h s : Pp (fun x => f x - h x) s = Pp f s - Pp h s.
Proof. exact: step_pB. Qed.

(* a family of numbers chosen state by state *)
Lemma choose (X : S -> R -> Prop) : (forall s, exists y, X s y) -> exists f, forall s, X s (f s).
Proof.
move=> h; suff : exists f : S -> R, forall s, s \in enum S -> X s (f s).
  by move=> [f hf]; exists f => s; apply: hf; rewrite mem_enum.
elim: (enum S) => [|s l [f hf]]; first by exists (fun _ => 0).
have [y hy] := h s; exists (fun x => if x == s then y else f x) => x; rewrite in_cons.
by case: eqP => [->|_] //=; exact: hf.
Qed.

Lemma solve b : exists v : S -> R, forall s, v s = b s + g * Pp v s.
Proof.
set C := \sum_(x : S) Rabs (b x); have C0 : 0 <= C by apply: sum_ge0 => x; exact: Rabs_pos.
have inc T s : Rabs (W P g p b T.+1 s - W P g p b T s) <= C * g ^ T.
  elim: T s => [|T ih] s.
    rewrite (_ : W P g p b 1 s - W P g p b 0 s = b s).
      by rewrite Rmult_1_r; apply: (term_le_sum s (fun x => Rabs_pos (b x))).
    rewrite /= /step_p sum0 => [|a]; first lra.
    by rewrite /ev sum0 => [|x]; lra.
  rewrite (_ : W P g p b T.+2 s = b s + g * Pp (W P g p b T.+1) s) //.
  rewrite (_ : W P g p b T.+1 s = b s + g * Pp (W P g p b T) s) //.
  rewrite (_ : _ - _ = g * Pp (fun x => W P g p b T.+1 x - W P g p b T x) s); last by rewrite PpB; lra.
  rewrite Rabs_mult (Rabs_pos_eq _ (proj1 g01)) (_ : g ^ T.+1 = g * g ^ T) //.
  by have := Rmult_le_compat_l _ _ _ (proj1 g01) (Pp_abs s ih); lra.
have [v hv] := choose (fun s => limit C0 (fun T => inc T s)).
set D := C / (1 - g) in hv; have D0 : 0 <= D by apply: Rmult_le_pos C0 _; apply/Rlt_le/Rinv_0_lt_compat; lra.
exists v => s.
have pw T : 0 <= g ^ T by apply: pow_le; lra.
have close T : Rabs (v s - (b s + g * Pp v s)) <= 0 + 2 * D * g ^ T.
  have a := hv s T.+1; have b' := Pp_abs s (fun x => hv x T); rewrite PpB in b'.
  have gT : g ^ T.+1 <= g ^ T by have := Rmult_le_compat_r _ _ _ (pw T) (Rlt_le _ _ (proj2 g01)); rewrite /=; lra.
  have aa := Rabs_def2_le a; have bb := Rabs_def2_le b'.
  rewrite (_ : W P g p b T.+1 s = b s + g * Pp (W P g p b T) s) // in aa.
  have d1 := Rmult_le_compat_l _ _ _ D0 gT.
  have d0 := Rmult_le_pos _ _ D0 (pw T).
  have e1 : g * (D * g ^ T) <= D * g ^ T by have := Rmult_le_compat_r _ _ _ d0 (Rlt_le _ _ (proj2 g01)); lra.
  have e2 := Rmult_le_compat_l _ _ _ (proj1 g01) (proj1 bb); have e3 := Rmult_le_compat_l _ _ _ (proj1 g01) (proj2 bb).
  by apply: Rabs_le; lra.
have c0 : 0 <= 2 * D by lra.
have := vanish g01 c0 close => /Rabs_def2_le; lra.
Qed.

Lemma unique v w b : (forall s, v s = b s + g * Pp v s) -> (forall s, w s = b s + g * Pp w s) -> forall s, v s = w s.
Proof.
move=> hv hw s; set C := \sum_(x : S) Rabs (v x - w x).
have C0 : 0 <= C by apply: sum_ge0 => x; exact: Rabs_pos.
suff h T : forall s, Rabs (v s - w s) <= 0 + C * g ^ T by have := vanish g01 C0 (fun T => h T s) => /Rabs_def2_le; lra.
elim: T => [|T ih] {}s; first by have := term_le_sum s (fun x => Rabs_pos (v x - w x)); rewrite /= -/C; lra.
have ih' x : Rabs (v x - w x) <= C * g ^ T by have := ih x; lra.
rewrite hv hw (_ : _ - _ = g * Pp (fun x => v x - w x) s); last by rewrite PpB; lra.
rewrite Rabs_mult (Rabs_pos_eq _ (proj1 g01)) (_ : g ^ T.+1 = g * g ^ T) //.
by have := Rmult_le_compat_l _ _ _ (proj1 g01) (Pp_abs s ih'); lra.
Qed.

Lemma bellmanE r v : bellman P g r p v <-> forall s, v s = \sum_(a : A) (p s a * r s a) + g * Pp v s.
Proof.
have E s : \sum_(a : A) (p s a * Qd P g r v s a) = \sum_(a : A) (p s a * r s a) + g * Pp v s.
  by rewrite /step_p -sumZ -sumD; apply: sumE => a; rewrite /Qd; lra.
by split=> h s; rewrite h E.
Qed.

Theorem value_exists r : exists v, bellman P g r p v.
Proof. by have [v h] := solve (fun s => \sum_(a : A) (p s a * r s a)); exists v; apply/bellmanE. Qed.
Theorem value_unique r v w : bellman P g r p v -> bellman P g r p w -> forall s, v s = w s.
Proof. by move=> /bellmanE hv /bellmanE hw; exact: unique hv hw. Qed.

Theorem visits_exist : exists m, flow P g rho p m.
Proof.
pose one (s' x : S) := if x == s' then 1 else 0.
have sol s' := solve (one s').
pose X s' m := exists2 v : S -> R, (forall s, v s = one s' s + g * Pp v s) & m = at_rho rho v.
have [m hm] : exists m, forall s', X s' (m s').
  by apply: choose => s'; have [v hv] := sol s'; exists (at_rho rho v); exists v.
exists m; split=> s'.
  have [v hv ->] := hm s'; apply: sum_ge0 => s; apply: Rmult_le_pos; first exact: (proj1 rho_dist).
  have f0 : floord P g (fun s (_ : A) => one s' s) (fun _ => 0) by move=> x a; rewrite ev1 // /one; case: eqP; lra.
  apply: (above g01 P_dist hp f0); apply/bellmanE => x; rewrite sum_const ?hv //; exact: (proj2 (hp x)).
pose Pt s := \sum_(a : A) (p s a * P s a s').
have [v hv ->] := hm s'.
pose u x := (v x - one s' x).
(* v_{s'}(x) = 1_{s'}(x) + g sum_s v_s(x) P_p(s, s'), at_rho of it is the flow equation *)
suff [w hw] : exists w : S -> S -> R, (forall s, m s = at_rho rho (w s)) /\
   (forall x, v x = one s' x + g * \sum_(s : S) (w s x * Pt s)).
  have [w1 w2] := hw; rewrite {1}/at_rho (sumE (G := fun x => rho x * one s' x + g * \sum_(s : S) (rho x * w s x * Pt s))) =>
    [|x].
    rewrite sumD sumZ sum_swap; congr (_ + g * _).
      rewrite (sumE (G := fun x => if x == s' then rho x else 0)) => [|x]; last by rewrite /one; case: eqP => _; lra.
      by rewrite -big_mkcond (big_pred1 s').
    by apply: sumE => s; rewrite w1 /at_rho sumZr.
  rewrite w2 (sumE (F := fun s => rho x * w s x * Pt s) (G := fun s => rho x * (w s x * Pt s))) => [|s]; last lra.
  by rewrite sumZ; lra.
have [w hw] : exists w : S -> S -> R, forall s, (forall x, w s x = one s x + g * Pp (w s) x) /\ m s = at_rho rho (w s).
  suff : exists w : S -> S -> R, forall s, s \in enum S -> (forall x, w s x = one s x + g * Pp (w s) x) /\ m s = at_rho rho (w s).
    by move=> [w hw]; exists w => s; apply: hw; rewrite mem_enum.
  elim: (enum S) => [|s l [w hw]]; first by exists (fun _ _ => 0).
  have [y hy1 hy2] := hm s; exists (fun x => if x == s then y else w x) => x; rewrite in_cons.
  by case: eqP => [->|_] //=; exact: hw.
exists w; split=> [s|x]; first by case: (hw s).
pose c x := one s' x + g * \sum_(s : S) (w s x * Pt s).
suff uc : forall y, c y = one s' y + g * Pp c y by exact: (unique hv uc x).
move=> {}x.
have -> : Pp c x = Pp (one s') x + g * \sum_(s : S) (Pp (w s) x * Pt s).
  rewrite /step_p (sumE (G := fun a => p x a * ev P x a (one s') + g * \sum_(s : S) (p x a * ev P x a (w s) * Pt s))) => [|a].
    rewrite sumD sumZ sum_swap; congr (_ + g * _); apply: sumE => s; by rewrite sumZr.
  have -> : ev P x a c = ev P x a (one s') + g * \sum_(s : S) (ev P x a (w s) * Pt s).
    rewrite /c /ev (sumE (G := fun y => P x a y * one s' y + g * \sum_(s : S) (P x a y * w s y * Pt s))) => [|y].
      rewrite sumD sumZ sum_swap; congr (_ + g * _); apply: sumE => s; by rewrite sumZr.
    rewrite (sumE (F := fun s => P x a y * w s y * Pt s) (G := fun s => P x a y * (w s y * Pt s))) => [|s]; last lra.
    by rewrite sumZ; lra.
  rewrite (sumE (F := fun s => p x a * _ * Pt s) (G := fun s => p x a * (ev P x a (w s) * Pt s))) => [|s]; last lra.
  by rewrite sumZ; lra.
have P1 : Pp (one s') x = Pt x.
  rewrite /step_p /Pt; apply: sumE => a; congr (_ * _).
  rewrite /ev (sumE (G := fun y => if y == s' then P x a y else 0)) => [|y]; last by rewrite /one; case: eqP => _; lra.
  by rewrite -big_mkcond (big_pred1 s').
have P2 : \sum_(s : S) (one s x * Pt s) = Pt x.
  rewrite (sumE (G := fun s => if s == x then Pt s else 0)) => [|s]; last by rewrite /one eq_sym; case: eqP => _; lra.
  by rewrite -big_mkcond (big_pred1 x).
rewrite /c P1; have -> : \sum_(s : S) (w s x * Pt s) = \sum_(s : S) (one s x * Pt s) + g * \sum_(s : S) (Pp (w s) x * Pt s).
  rewrite -sumZ -sumD; apply: sumE => s; rewrite {1}(proj1 (hw s) x); lra.
by rewrite P2; lra.
Qed.

(* m(s') = at_rho f for the f that solves f = 1_{s'} + g P_p f *)
Theorem visits_unique m m' : flow P g rho p m -> flow P g rho p m' -> forall s, m s = m' s.
Proof.
move=> fl fl' s'; have [f hf] := solve (fun s => if s == s' then 1 else 0).
have h mm : flow P g rho p mm -> mm s' = at_rho rho f.
  move=> fm; rewrite (dual f fm) /under (sumE (G := fun s => if s == s' then mm s else 0)) => [|s].
    by rewrite -big_mkcond (big_pred1 s').
  by rewrite {1}hf; case: eqP => _; lra.
by rewrite (h m) // (h m').
Qed.
End Existence.
