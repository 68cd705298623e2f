(* The evaluator of Eval.v as OCaml, written where coqc is run: proofs/golden.py does that. *)
From TeamTR Require Import Eval.
Require Import Extraction ExtrOcamlBasic ExtrOcamlNatInt ExtrOcamlZBigInt.
Extraction Language OCaml.
Set Extraction Output Directory ".".
Set Warnings "-extraction".
Extraction "teamtr_eval.ml" evalQ.
