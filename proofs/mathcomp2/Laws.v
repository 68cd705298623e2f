(* Sums and products of reals as mathcomp's big operators, and the finite types that have another name in mathcomp 1.
   The Makefile copies the file for the installed version to Laws.v. *)
From mathcomp Require Import all_ssreflect.
From HB Require Import structures.
Require Import Reals Lra.
Local Open Scope R_scope.

Fact RaddA : associative Rplus. Proof. by move=> x y z; lra. Qed.
Fact RaddC : commutative Rplus. Proof. by move=> x y; lra. Qed.
Fact Radd0 : left_id 0 Rplus. Proof. by move=> x; lra. Qed.
Fact Radd0r : right_id 0 Rplus. Proof. by move=> x; lra. Qed.
Fact RmulA : associative Rmult. Proof. by move=> x y z; lra. Qed.
Fact RmulC : commutative Rmult. Proof. by move=> x y; lra. Qed.
Fact Rmul1 : left_id 1 Rmult. Proof. by move=> x; lra. Qed.
Fact Rmul1r : right_id 1 Rmult. Proof. by move=> x; lra. Qed.
Fact Rmul0 : left_zero 0 Rmult. Proof. by move=> x; lra. Qed.
Fact Rmul0r : right_zero 0 Rmult. Proof. by move=> x; lra. Qed.
Fact RmulDl : left_distributive Rmult Rplus. Proof. by move=> x y z; lra. Qed.
Fact RmulDr : right_distributive Rmult Rplus. Proof. by move=> x y z; lra. Qed.
HB.instance Definition _ := Monoid.isComLaw.Build R 0 Rplus RaddA RaddC Radd0.
HB.instance Definition _ := Monoid.isComLaw.Build R 1 Rmult RmulA RmulC Rmul1.
HB.instance Definition _ := Monoid.isMulLaw.Build R 0 Rmult Rmul0 Rmul0r.
HB.instance Definition _ := Monoid.isAddLaw.Build R Rmult Rplus RmulDl RmulDr.

Notation prod_finType := Datatypes_prod__canonical__fintype_Finite.
Notation unit_finType := Datatypes_unit__canonical__fintype_Finite.
Notation bool_finType := Datatypes_bool__canonical__fintype_Finite.
Notation option_finType := Datatypes_option__canonical__fintype_Finite.
Notation ordinal_finType := fintype_ordinal__canonical__fintype_Finite.
Notation functions I M := (finfun_finfun_of__canonical__fintype_Finite I M).
