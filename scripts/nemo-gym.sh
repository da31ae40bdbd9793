#!/usr/bin/env bash
# Creates .nemo-gym, or finds that it is there already: NVIDIA NeMo Gym's model server in an
# environment of its own, for tests/interop/test_nemo_gym_model_server.py, and its stored rollouts, for
# tests/interop/test_stored_rollouts.py.
#
# NeMo Gym asks for Python 3.13.14 and for packages that its model server never imports. The
# server itself runs unchanged on the Python of .venv, so the wheel is installed as it is and
# only what the server imports beside it, as NeMo Gym pins it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" tests

needed=(
  'openai==2.44.0' 'anthropic<=0.109.2' 'mcp>=1.28.1,<2' 'aiohttp>=3.14.4' 'yappi>=1.7.6'
  'ray>=2.58,<2.61' devtools fastapi gprof2dot httptools hydra-core itsdangerous omegaconf orjson
  psutil pydantic pydot requests rich tqdm uvicorn uvloop
)
stamp=$(sha256sum < scripts/nemo-gym.sh)
if [ "$(cat .nemo-gym/installed 2>/dev/null)" != "$stamp" ]; then
  say "creating .nemo-gym: NeMo Gym 0.7.0 in an environment of its own"
  bootstrap
  uv_sources .bootstrap/bin/python
  rm -rf .nemo-gym
  .bootstrap/bin/uv venv --quiet --python "$(readlink -f .venv/bin/python)" .nemo-gym
  install=(.bootstrap/bin/uv pip install --quiet --python .nemo-gym/bin/python "${UV_SOURCES[@]}")
  "${install[@]}" "${needed[@]}"
  "${install[@]}" --no-deps --python-version 3.13.14 'nemo-gym==0.7.0'
  echo "$stamp" > .nemo-gym/installed
fi
