#!/usr/bin/env bash
# One prompt, one seed, two attentions: dense with the embedded model, and FPSAttention (FP8 + tile sparsity) with the one that
# was fine-tuned with it and carries its schedule.
# Leaves in out/: demo.mp4 (FPSAttention), demo_dense.mp4, demo.png (contact sheet of both) and demo.json.
# Usage: scripts/demo.sh ["a prompt"]
set -euo pipefail
cd "$(dirname "$0")/.."

fpsa=build/release/bin/fpsa
prompt=${1:-"a red circle moves left on a gray background"}
mkdir -p out

generate() {  # model, attention, output, perf record
  "$fpsa" generate --model "$1" --prompt "$prompt" --seed 1 --warmup --attention "$2" --output "$3" --perf-dump-path "$4"
}
generate models/tiny dense out/demo_dense.mp4 out/demo_dense.json
generate models/tiny_fps fps out/demo.mp4 out/demo_fps.json

"$fpsa" sheet out/demo.png out/demo_dense.mp4 out/demo.mp4 --label "dense" --label "FPSAttention"
"$fpsa" compare out/demo_dense.mp4 out/demo.mp4 --json >out/demo_compare.json
.venv/bin/python tools/demo_table.py out
