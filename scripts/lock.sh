#!/usr/bin/env bash
# Writes scripts/lock-cpu.txt and scripts/lock-vllm.txt anew: the versions the images are built of.
# For x86-64 and the Dockerfile's Python; run it after a change of dependencies in pyproject.toml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh
uv_sources python3

compile() {
  "${UV:-uv}" pip compile --quiet pyproject.toml "$@" --extra reasoning-gym --extra mcp --extra verifiers \
    --python-version 3.11 --python-platform x86_64-manylinux_2_34 "${UV_SOURCES[@]}" \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links
}

compile --extra vllm --extra bundled -o scripts/lock-vllm.txt
cpu=(--extra cpu --override scripts/overrides-cpu.txt -o scripts/lock-cpu.txt)
compile "${cpu[@]}" ||
  compile "${cpu[@]}" --extra-index-url https://download.pytorch.org/whl/cpu \
    --index-strategy unsafe-best-match
