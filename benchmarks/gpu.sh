#!/usr/bin/env bash
# What is measured and trained on a GPU, a part at a time; each part is meant for ten minutes.
#
#   benchmarks/gpu.sh PART FOLDER [GAME...]
#
# PART    tests    the GPU tests, and 20 whole real games of the shipped Pong
#         speed    dreams, emulator and training by part, without and with CUDA graphs
#         profile  the heaviest kernels of a training iteration; Mamba's scan by implementation
#         zoo      trains the GAMEs side by side (`--preset small`)
#         exports  exports the finished runs of the GAMEs, side by side
#         paper    trains Pong with `--preset paper`, then plays what was kept
# FOLDER  gets the results, few and small files; steps.txt says what each step took and whether it
#         failed. The exit code is 1 if one did.
#
# Environment:
#   PYTHON        the Python that has the package and what it needs (python3)
#   GLAM_RUNS     the folder of the runs (build/gpu-runs): another call goes on with them
#   GLAM_MINUTES  of a training (8)
#   GLAM_TINY=1   everything small. With the stand-in this tries the script without a GPU:
#                 PYTHONPATH=tests/cuda_stand_in/site GLAM_TINY=1 benchmarks/gpu.sh profile /tmp/gpu
set -uo pipefail
cd "$(dirname "$0")/.."

part=${1:?usage: benchmarks/gpu.sh tests|speed|profile|zoo|exports|paper FOLDER [GAME...]}
out=${2:?give a folder for the results}
shift 2
python=${PYTHON:-python3}
runs=${GLAM_RUNS:-build/gpu-runs}
minutes=${GLAM_MINUTES:-8}
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD:$PWD/agents"

if [ "${GLAM_TINY:-}" = 1 ]; then
  small=debug paper=debug episodes=1
  training=(--total-steps 300 --random-steps 100)
  envs=(--envs 1 4 --repeats 1 --seconds 0.05)
  profile=(--preset debug --turns 1) scans=(--lengths 4 --batch 2 --inner 32 --repeats 1)
  export_=(--episodes 1 --fidelity-steps 400 --behavior-steps 400 --branch-steps 0 --ranking-moments 0
    --ceiling-moments 0)
else
  small=small paper=paper episodes=20
  training=()
  envs=(--envs 1 256 4096 16384 65536 --repeats 3 --seconds 0.2)
  profile=() scans=()
  export_=()
fi

mkdir -p "$out" "$runs"
failed=0

# step NAME SECONDS COMMAND...: runs it, and notes what it took; a failure does not end the part.
step() {
  local name=$1 limit=$2 begun=$SECONDS code=0
  shift 2
  timeout --kill-after=20 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  tail -n 5 "$out/$name.log"
  note "$name" "$code" $((SECONDS - begun))
}

# start NAME COMMAND...: runs it beside others; wait_for_all notes what each took.
declare -A jobs=()
start() {
  local name=$1
  shift
  "$@" >"$runs/$name.log" 2>&1 &
  jobs[$name]=$!
}

wait_for_all() {
  local name code
  for name in "${!jobs[@]}"; do
    code=0
    wait "${jobs[$name]}" || code=$?
    tail -n 1 "$runs/$name.log"
    note "$name" "$code" "$SECONDS"
  done
}

note() {
  local verdict=done
  case $2 in 0) ;; 124 | 137) verdict="ran out of time" ;; *) verdict="failed ($2)" ;; esac
  [ "$2" = 0 ] || failed=1
  echo "$1: $verdict, $3 s" | tee -a "$out/steps.txt"
}

cli=("$python" -m glam_env.cli)
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' \
  >"$out/machine.txt" || { echo "gpu.sh: no CUDA device" >&2; exit 2; }

if [[ $part = zoo || $part = exports ]] && [ $# = 0 ]; then
  echo "gpu.sh: $part needs the names of games" >&2
  exit 2
fi
case $part in
tests)
  step tests 360 "$python" -m pytest -m gpu -q -p no:cacheprovider --durations=10 tests/test_gpu*.py
  step eval 180 "${cli[@]}" eval Pong --device cuda --episodes "$episodes"
  ;;
speed)
  # A preset at a time: figures are written when all of them are measured.
  step speed-small 180 "${cli[@]}" bench Pong --device cuda --preset "$small" "${envs[@]}" \
    --skip long training --to "$out/speed-small.json"
  step speed-paper 240 "${cli[@]}" bench Pong --device cuda --preset "$paper" "${envs[@]}" \
    --skip emulator long training --to "$out/speed-paper.json"
  for how in no-graphs graphs; do
    step "training-$how" 90 "${cli[@]}" bench Pong --device cuda --preset "$small" "$paper" --repeats 3 \
      "--$how" --skip emulator dreams long --to "$out/training-$how.json"
  done
  step hours 30 "$python" benchmarks/gpu_hours.py "$out/training-graphs.json"
  ;;
profile)
  step profile 300 "$python" benchmarks/gpu_profile.py "${profile[@]}" --to "$out/profile.json"
  step scans 200 "$python" benchmarks/scans.py --device cuda "${scans[@]}" --to "$out/scans.json"
  ;;
zoo)
  for game; do
    run=$runs/$game how=(--preset "$small" "${training[@]}")
    [ -d "$run/checkpoints" ] && how=(--resume)
    start "train-$game" "${cli[@]}" train "$game" "${how[@]}" --run "$run" --device cuda --graphs \
      --threads $(($(nproc) / $# > 0 ? $(nproc) / $# : 1)) --minutes "$minutes"
  done
  wait_for_all
  tail -n 20 "$runs"/train-*.log >"$out/trainings.log"
  ;;
exports)
  for game; do
    start "export-$game" timeout 500 "${cli[@]}" export "$game" --run "$runs/$game" --device cuda \
      "${export_[@]}" --to "$runs/exports/$game"
  done
  wait_for_all
  for game; do
    [ -d "$runs/exports/$game" ] || continue
    cp "$runs/$game/metrics.jsonl" "$runs/exports/$game/"
    tar -cf "$out/$game.tar" -C "$runs/exports" "$game"
  done
  tail -n 60 "$runs"/export-*.log >"$out/exports.log"
  ;;
paper)
  run=$runs/paper-Pong
  how=(--preset "$paper")
  [ -d "$run/checkpoints" ] && how=(--resume)
  limit=$(awk "BEGIN { print int(60 * $minutes + 90) }")
  step paper "$limit" "${cli[@]}" train Pong "${how[@]}" --run "$run" --device cuda --graphs \
    --minutes "$minutes"
  cp "$run/metrics.jsonl" "$out/paper-metrics.jsonl"
  if grep -q "^finished" "$out/paper.log"; then
    step paper-eval 180 "${cli[@]}" eval "$run" --device cuda --episodes "$episodes" --json
  fi
  ;;
*)
  echo "gpu.sh: unknown part $part" >&2
  exit 2
  ;;
esac
exit $failed
