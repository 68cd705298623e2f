(* Sums and products of reals as mathcomp's big operators.
   The Makefile copies the file for the installed version to Laws.v. *)
From mathcomp Require Import all_ssreflect.
Require Import Reals.
From TeamTR Require Import Rules.
Local Open Scope R_scope.

Canonical Radd_monoid := Monoid.Law RaddA Radd0 Radd0r.
Canonical Radd_comoid := Monoid.ComLaw RaddC.
Canonical Rmul_monoid := Monoid.Law RmulA Rmul1 Rmul1r.
Canonical Rmul_comoid := Monoid.ComLaw RmulC.
Canonical Rmul_muloid := Monoid.MulLaw Rmul0 Rmul0r.
Canonical Radd_addoid := Monoid.AddLaw RmulDl RmulDr.
Notation functions I M := [finType of {ffun I -> M}].
