#!/usr/bin/env bash
# One prompt, one seed, two attentions: dense BF16 and FPSAttention (FP8 + tile sparsity), with the embedded model.
# Leaves in out/: demo.mp4 (FPSAttention), demo_dense.mp4, demo.png (contact sheet of both) and demo.json.
# Usage: scripts/demo.sh ["a prompt"]
set -euo pipefail
cd "$(dirname "$0")/.."

fpsa=build/release/bin/fpsa
prompt=${1:-"a red circle moves left on a gray background"}
mkdir -p out

generate() {  # attention, output, perf record, further flags
  "$fpsa" generate --model models/tiny --prompt "$prompt" --seed 1 --warmup \
    --attention "$1" --output "$2" --perf-dump-path "$3" "${@:4}"
}
generate dense out/demo_dense.mp4 out/demo_dense.json
generate fps out/demo.mp4 out/demo_fps.json --schedule models/tiny/fps.toml

"$fpsa" sheet out/demo.png out/demo_dense.mp4 out/demo.mp4 --label "dense" --label "FPSAttention"
"$fpsa" compare out/demo_dense.mp4 out/demo.mp4 --json >out/demo_compare.json
.venv/bin/python tools/demo_table.py out
