#!/usr/bin/env bash
# Runs NeMo RL's own code on gym-ray's actor, on CPU:
#
#   scripts/nemo_rl.sh CHECKOUT              # tests/interop/test_nemo_rl.py
#   scripts/nemo_rl.sh CHECKOUT COMMAND…     # something else, in its place
#
# CHECKOUT is a working tree of NeMo RL, or a bare git directory, whose HEAD is taken. NeMo RL is not
# on the package index. Its environment, .nemo-rl, is made over the packages of .venv once: NeMo RL
# asks for Python 3.13 and a CUDA torch, and its rollout code runs with those of .venv, so that only
# what else that imports is installed beside them.
set -euo pipefail
checkout=$(cd "${1:?scripts/nemo_rl.sh CHECKOUT: where is a checkout of NeMo RL?}" && pwd)
shift
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" tests

needed=(
  'transformers==5.11.*' 'tokenizers==0.22.*' 'huggingface-hub<2' hf-xet
  'hydra-core>=1.3,<1.4' 'antlr4-python3-runtime==4.9.*'
  'tensordict==0.15.*' pyvers orjson 'torchdata==0.11.*' nvidia-ml-py 'importlib-metadata<9' 'zipp<4'
  wandb sentry-sdk gitpython gitdb smmap
  swanlab pyecharts prettytable simplejson pyroaring
  tensorboard absl-py markdown werkzeug
  matplotlib contourpy cycler fonttools kiwisolver pyparsing plotly narwhals
  'scipy<1.18' soundfile
)
stamp=$(sha256sum < scripts/nemo_rl.sh)
if [ "$(cat .nemo-rl/installed 2>/dev/null)" != "$stamp" ]; then
  say "creating .nemo-rl: what NeMo RL's rollout code imports, over .venv"
  bootstrap
  uv_sources .bootstrap/bin/python
  rm -rf .nemo-rl
  .bootstrap/bin/uv venv --quiet --python "$(readlink -f .venv/bin/python)" .nemo-rl
  site='import sysconfig; print(sysconfig.get_path("purelib"))'
  .venv/bin/python -c "$site" > "$(.nemo-rl/bin/python -c "$site")/over.pth"
  .bootstrap/bin/uv pip install --quiet --python .nemo-rl/bin/python "${UV_SOURCES[@]}" --no-deps \
    "${needed[@]}"
  echo "$stamp" > .nemo-rl/installed
fi
if [ ! -d "$checkout/nemo_rl" ]; then
  rm -rf .nemo-rl/source
  mkdir .nemo-rl/source
  git --git-dir="$checkout" archive HEAD nemo_rl | tar -x -C .nemo-rl/source
  checkout=$PWD/.nemo-rl/source
fi
export GYM_RAY_NEMO_RL=$checkout
[ $# -gt 0 ] || set -- python -m pytest tests/interop/test_nemo_rl.py
exec "$@"
