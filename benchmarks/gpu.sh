#!/usr/bin/env bash
# What wants a GPU, in the order of what it is worth if time runs out.
#
#     benchmarks/gpu.sh [FOLDER]        # LoRA beside full fine-tuning, GPT-2's shape: 3 minutes
#     benchmarks/gpu.sh FOLDER all      # and the tests, the paper's shape, TRL, runs: 15 minutes
#
# Figures are printed as they come; logs go to FOLDER, runs/gpu. A step that fails or takes longer than
# it may is said at the end and does not stop the next ones. The card and the processor should have
# nothing else to do: small models wait for launches.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
mkdir -p "$out"
failed=()

step() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2
    shift 2
    echo "== $name: $*"
    timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log" || failed+=("$name (exit code ${PIPESTATUS[0]})")
}

if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "Expected an environment whose torch sees a GPU, got none: see constraints-cuda.txt." >&2
    exit 2
fi
train=(python -m benchmarks.training --device cuda --rounds 1)
step gpt2 120 "${train[@]}" --parts machine pair --shapes gpt2 --json "$out/gpt2.json"
step launches 75 "${train[@]}" --parts launches --iterations 1 --shapes gpt2 --json "$out/launches.json"
if [ "${2:-}" = all ]; then
    step tests 180 python -m pytest -m gpu
    step paper 180 "${train[@]}" --parts machine pair --iterations 1 --shapes paper --json "$out/paper.json"
    step trl 240 "${train[@]}" --parts trl --iterations 1 --shapes paper --json "$out/trl.json"
    step smollm2 240 python -m agents train arithmetic --preset smollm2 --seed 2 --out "$out/smollm2"
    if python -c 'import vllm' 2>/dev/null; then
        step vllm 240 python -m agents train imdb --engine vllm --iterations 5 --out "$out/vllm"
    fi
fi
for name in "${failed[@]}"; do echo "failed: $name"; done
[ ${#failed[@]} -eq 0 ]
