#!/usr/bin/env bash
# Creates .verl, or finds that it is there already: verl over the packages of .venv, for
# tests/interop/test_verl.py.
#
# verl 0.9 asks for an older transformers than gym-ray's engine, and for a CUDA torch; its agent
# loops import and run with those of .venv, so it is installed as it is, and beside it only what
# they import.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" tests

needed=(
  'verl==0.9.1' 'tensordict==0.10.0' 'hydra-core>=1.3,<1.4' 'antlr4-python3-runtime==4.9.*'
  codetiming dill torchdata pyvers orjson peft pylatexenc importlib_metadata
)
stamp=$(sha256sum < scripts/verl.sh)
if [ "$(cat .verl/installed 2>/dev/null)" != "$stamp" ]; then
  say "creating .verl: verl 0.9.1 over .venv"
  bootstrap
  uv_sources .bootstrap/bin/python
  rm -rf .verl
  .bootstrap/bin/uv venv --quiet --python "$(readlink -f .venv/bin/python)" .verl
  site='import sysconfig; print(sysconfig.get_path("purelib"))'
  .venv/bin/python -c "$site" > "$(.verl/bin/python -c "$site")/over.pth"
  .bootstrap/bin/uv pip install --quiet --python .verl/bin/python "${UV_SOURCES[@]}" --no-deps \
    "${needed[@]}"
  echo "$stamp" > .verl/installed
fi
