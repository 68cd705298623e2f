#!/usr/bin/env bash
# The package on an accelerator, in at most eight minutes: one JSON file for each group of benchmarks/device.py, in $OUT.
#   benchmarks/device.sh                figures, and the verdicts of a few thousand stages
#   benchmarks/device.sh --smallest     every comparison once, untimed: does it run here?
# PYTHON is an interpreter with jax for the device (python3). What else the package needs and is not there comes from wheels in
# .whl, or else from pip; what cannot be had is left out with a line. Nothing is installed but into a temporary environment.
set -u
cd "$(dirname "$0")/.." || exit 2
OUT=${OUT:-build/device}
PYTHON=${PYTHON:-python3}
BEGAN=$SECONDS
mkdir -p "$OUT" || exit 2
place=$(mktemp -d) || exit 2
trap 'rm -rf "$place"' EXIT

"$PYTHON" -c 'import jax' || { echo "$PYTHON has no jax" >&2; exit 2; }
mkdir "$place/site"
for pair in python-flint=flint flax=flax optax=optax jaxtyping=jaxtyping rich=rich scipy=scipy; do
  "$PYTHON" -c "import ${pair#*=}" 2>/dev/null && continue
  install=("$PYTHON" -m pip install --quiet --no-deps --disable-pip-version-check --target "$place/site")
  "${install[@]}" --no-index --find-links .whl "${pair%=*}" 2>/dev/null ||
    timeout 30 "${install[@]}" --retries 0 --timeout 5 "${pair%=*}" 2>/dev/null ||
    echo "${pair%=*}: not there and not to be had: what needs it is left out"
done
export PYTHONPATH="$PWD:$place/site" XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

failed=0
for group in verdicts audit hybrids networks words; do
  left=$((470 - (SECONDS - BEGAN)))
  [ "$left" -gt 5 ] || { echo "$group: no time left"; failed=1; break; }
  echo "== $group"
  timeout $((left < 120 ? left : 120)) "$PYTHON" -m benchmarks.device --groups "$group" --json "$OUT/device-$group.json" "$@" ||
    { echo "$group: ended with exit code $?"; failed=1; }
done
exit $failed
