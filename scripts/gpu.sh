#!/usr/bin/env bash
# What a GPU says of lrtune, in nine minutes: each step has a limit of its own, and a failure ends
# nothing but its step. Where there is no GPU, what needs one is skipped, and the rest is short.
#
#   scripts/gpu.sh [FOLDER]        results as JSON; $OUT, else studies/results/gpu
#   scripts/gpu.sh wheels [NAME…]  makes wheels/, to be carried to a machine without a registry:
#                                  all that lrtune needs but torch and what its image has (THERE in
#                                  gpu.py), and packages that are named. Python 3.12, x86-64.
set -u
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3}
if [ "${1:-}" = wheels ]; then exec "$python" scripts/gpu.py "$@"; fi
out=${1:-${OUT:-studies/results/gpu}}
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
if [ -d wheels ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    timeout 30 "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --upgrade --target "$site" wheels/*.whl || exit
    PYTHONPATH=$PWD:$site # lrtune itself is the working tree's
fi
codes=()
for one in $("$python" scripts/gpu.py limits); do
    step=${one%:*} began=$SECONDS
    timeout -k 5 "${one#*:}" "$python" scripts/gpu.py "$step" --out "$out"
    codes+=("$step:$?:$((SECONDS - began))")
    echo "== ${codes[-1]}"
done
"$python" scripts/gpu.py summary "${codes[@]}" --out "$out"
