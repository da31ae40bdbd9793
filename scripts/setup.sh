#!/usr/bin/env bash
# Creates .venv with what a use needs installed, or finds that it is there already. Sourced, with
# the use as argument:
#
#   source scripts/setup.sh demo     # what `gym-ray collect` imports
#   source scripts/setup.sh tests    # the extra `dev` too
#
# What the machine must have for it: prerequisites.sh.
#
#   GYM_RAY_ENGINE=cpu|vllm   which vLLM build (default: vllm where nvidia-smi shows a GPU)
#   PYTHON=python3.12         which interpreter makes .venv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh
source scripts/prerequisites.sh

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

# uv in an environment of its own, so that none need be installed on this machine.
bootstrap() {
  if [ "$(cat .bootstrap/lock-uv.txt 2>/dev/null)" = "$(cat scripts/lock-uv.txt)" ]; then return; fi
  "$(pick_python)" -m venv .bootstrap
  install_uv .bootstrap/bin/python
  cp scripts/lock-uv.txt .bootstrap/
}

install() {
  local use=$1 engine=$2 python uv version extras done_for
  version="$engine $(cat pyproject.toml scripts/{setup,install}.sh scripts/{lock,overrides}-*.txt | sha256sum)"
  done_for=$(cat .venv/gym-ray-installed 2>/dev/null || true)
  # What is there for the tests does for the demo.
  if [ -x .venv/bin/gym-ray ] && [[ $done_for == "$use $version" || $done_for == "tests $version" ]]
  then return; fi
  python=$(pick_python)
  say "creating .venv with $("$python" --version) for vLLM's $engine build (minutes the first time)"
  bootstrap
  uv=.bootstrap/bin/uv
  uv_sources .bootstrap/bin/python
  [ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv
  extras=("$engine")
  [ "$engine" = cpu ] || extras+=(bundled)
  [ "$use" != tests ] || extras+=(dev)
  say "installing what gym-ray[$(IFS=,; echo "${extras[*]}")] needs"
  # Byte code once here, instead of in every process that the tests start. A demo imports the tenth
  # part.
  [ "$use" != tests ] || export UV_COMPILE_BYTECODE=1
  UV=$uv install_packages .venv/bin/python "$engine" "${extras[@]}"
  UV=$uv UV_COMPILE_BYTECODE=0 install_gym_ray .venv/bin/python -e
  echo "$use $version" > .venv/gym-ray-installed
}

unset PYTHONDONTWRITEBYTECODE
require "$1" "$(pick_engine)"
install "$1" "$(pick_engine)"
export PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv"
