(* The real numbers of the standard library are a commutative semiring: what mathcomp's big operators ask for. *)
From mathcomp Require Import all_ssreflect.
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
