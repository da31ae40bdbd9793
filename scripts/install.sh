#!/usr/bin/env bash
# How packages get into an environment: the one place that setup.sh (which sources it) and the
# Dockerfile (which runs it) have for this. Whatever is installed has a version and hashes in
# scripts/lock-*.txt, what builds packages included; anything else is refused.
#
#   scripts/install.sh uv PYTHON                            # uv itself, by PYTHON's pip
#   scripts/install.sh packages PYTHON cpu|vllm EXTRA...    # what gym-ray[EXTRA,...] needs
#   scripts/install.sh gym-ray PYTHON [-e]                  # gym-ray itself, of this folder
#
#   UV=path/to/uv    # the uv that does it
set -euo pipefail

locks=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# uv as pip is configured on this machine: its index, extra indexes and wheel folders.
uv_sources() {
  local pip=("$1" -m pip config get) value
  UV_SOURCES=()
  if value=$("${pip[@]}" global.index-url 2>/dev/null); then UV_SOURCES+=(--index-url "$value"); fi
  for value in ${PIP_FIND_LINKS:-$("${pip[@]}" global.find-links 2>/dev/null || true)}; do
    UV_SOURCES+=(--find-links "$value")
  done
}

install_uv() {
  "$1" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps \
    --require-hashes -r "$locks/lock-uv.txt"
}

# `uv pip install` into the environment of the python given. UV_SOURCES are set. Set
# UV_COMPILE_BYTECODE=1 where what is installed cannot be written to when it runs.
uv_install() {
  local python=$1
  shift
  # Progress and errors, without a line for each of two hundred packages.
  "${UV:-uv}" pip install --python "$python" "${UV_SOURCES[@]}" \
    --preview-features build-dependency-hashes --require-build-hashes \
    --build-constraints "$locks/lock-build.txt" "$@" 2>&1 |
    sed '/^ [+~-] /d' >&2
}

install_packages() {
  local python=$1 engine=$2 extra
  local arguments=(--require-hashes -c "$locks/lock-$engine.txt" -r "$locks/../pyproject.toml")
  shift 2
  for extra in "$@"; do arguments+=(--extra "$extra"); done
  if [ "$engine" = cpu ]; then
    arguments+=(--override "$locks/overrides-cpu.txt" -c "$locks/lock-torch.txt")
    # Else from PyTorch's folder of it, which has torch alone, so that nothing else comes from there.
    if ! has_torch "$python"; then
      echo "torch's CPU build is not to be had as configured; taking it from PyTorch" >&2
      arguments+=(--find-links https://download.pytorch.org/whl/cpu/torch/)
    fi
  fi
  uv_install "$python" "${arguments[@]}"
}

# Whether sources have torch's CPU build, for the python given.
has_torch() {
  "${UV:-uv}" pip install --quiet --python "$1" "${UV_SOURCES[@]}" --dry-run --no-deps \
    --require-hashes -r "$locks/lock-torch.txt" 2>/dev/null
}

install_gym_ray() {
  local python=$1
  shift
  uv_install "$python" --no-deps "$@" "$locks/.."
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  what=${1:?uv, packages or gym-ray}
  shift
  uv_sources python3
  "install_${what//-/_}" "$@"
fi
