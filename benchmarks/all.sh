#!/usr/bin/env bash
# `make bench NAME=cpu-2core`: everything that has a target in twelve minutes at most, on a machine that does nothing else.
# Each program writes benchmarks/results/…-NAME.json as soon as it has something, and is cut off at its share of the time.
set -u
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-.venv/bin/python}
NAME=${NAME:-$(uname -s)-$(nproc)core}
failed=0

run() { # seconds, stem of the file, program and its words
  local seconds=$1 stem=$2 program=$3
  shift 3
  echo "== $program $*"
  timeout "$seconds" "$PYTHON" -m "benchmarks.$program" --json "benchmarks/results/$stem-$NAME.json" "$@" ||
    { echo "$program: ended with exit code $?"; failed=1; }
}

run 240 command_line command_line --rounds 5
[ -f benchmarks/large.py ] && run 120 large stage --groups large --setups blas-all --budget 20 --timeout 110
run 120 hybrids stage --groups hybrids --setups blas-all --budget 4 --timeout 110
[ -x .venv-torch/bin/python ] && run 150 llm llm --groups sample step --sizes large --rounds 5
run 90 monitor monitor --rounds 3 --groups parquet
"$PYTHON" -m benchmarks.report || failed=1
exit $failed
