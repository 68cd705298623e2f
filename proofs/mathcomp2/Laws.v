(* Sums and products of reals as mathcomp's big operators, and the finite types that have another name in mathcomp 1.
   The Makefile copies the file for the installed version to Laws.v. *)
From mathcomp Require Import all_ssreflect.
From HB Require Import structures.
Require Import Reals.
From TeamTR Require Import Rules.
Local Open Scope R_scope.

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
