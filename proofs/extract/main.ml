(* Reads nS nA T, then e[s,a,s'], r[s,a,s'], p[s,a], q[s,a], each number as numerator and denominator.
   Writes V_p, L_p(q) and V_q at every state, a line each. *)
open Teamtr_eval

let number () =
  Scanf.scanf " %s %s" (fun a b -> { qnum = Big_int_Z.big_int_of_string a; qden = Big_int_Z.big_int_of_string b })

let () =
  let states, actions, horizon = Scanf.scanf " %d %d %d" (fun a b c -> (a, b, c)) in
  let table n = Array.init n (fun _ -> number ()) in
  let e = table (states * actions * states) in
  let r = table (states * actions * states) in
  let p = table (states * actions) in
  let q = table (states * actions) in
  let moves x s a b = x.((s * actions + a) * states + b) and rows x s a = x.(s * actions + a) in
  let written x = Big_int_Z.string_of_big_int x.qnum ^ "/" ^ Big_int_Z.string_of_big_int x.qden in
  let show l = print_endline (String.concat " " (List.map written l)) in
  let v, l = evalQ states actions (moves e) (moves r) (rows p) (rows q) horizon in
  let v', _ = evalQ states actions (moves e) (moves r) (rows q) (rows p) horizon in
  show v; show l; show v'
