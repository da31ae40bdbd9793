#!/usr/bin/env bash
# Creates .venv with everything installed, or finds that it is there already. Sourced by
# quickstart.sh and test.sh; needs only Python 3.11 to 3.13, pip's index, and a C compiler.
#
#   GYM_RAY_ENGINE=cpu|vllm   which vLLM build (default: vllm where nvidia-smi shows a GPU)
#   PYTHON=python3.12         which interpreter makes .venv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

pick_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
      2>/dev/null && { command -v "$candidate"; return; }
  done
  echo "gym-ray needs Python 3.11, 3.12 or 3.13 with venv; set PYTHON to one" >&2
  return 1
}

pick_engine() {
  if [ -n "${GYM_RAY_ENGINE:-}" ]; then echo "$GYM_RAY_ENGINE"
  elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then echo vllm
  else echo cpu; fi
}

# uv in an environment of its own, so that none need be installed on this machine.
bootstrap() {
  [ -x .bootstrap/bin/uv ] || {
    "$(pick_python)" -m venv .bootstrap
    .bootstrap/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
  }
}

install() {
  local python engine uv stamp
  engine=$(pick_engine)
  stamp="$engine $(cat pyproject.toml scripts/{setup,install}.sh scripts/overrides-cpu.txt | sha256sum)"
  if [ -x .venv/bin/gym-ray ] && [ "$(cat .venv/gym-ray-installed 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  python=$(pick_python)
  say "creating .venv with $("$python" --version) for vLLM's $engine build (minutes the first time)"
  bootstrap
  uv=.bootstrap/bin/uv
  uv_sources .bootstrap/bin/python
  [ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv
  say "installing gym-ray[$engine,bundled,dev]"
  if [ "$engine" = cpu ]; then
    UV=$uv install_packages .venv/bin/python cpu -e '.[cpu,dev]'
  else
    UV=$uv install_packages .venv/bin/python vllm -e '.[vllm,bundled,dev]'
  fi
  echo "$stamp" > .venv/gym-ray-installed
}

unset PYTHONDONTWRITEBYTECODE
install
export PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv"
