#!/usr/bin/env bash
# Creates .outside-clients, or finds that it is there already: agent libraries from PyPI and npm, for
# tests/gateway/test_outside_clients.py.
#
# They ask for other versions of what gym-ray uses, and none of them needs gym-ray. Needs node and
# npm.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" tests

python=(
  'openai==3.57.0' 'openai-agents==0.24.0' 'pydantic-ai-slim[openai]==2.68.0' 'inspect-ai==0.3.285'
)
node=(
  'openai@6.49.0' 'ai@6.0.326' '@ai-sdk/openai@3.0.141' '@ai-sdk/openai-compatible@2.0.92' 'zod@4.6.7'
)
stamp=$(sha256sum < scripts/outside-clients.sh)
if [ "$(cat .outside-clients/installed 2>/dev/null)" != "$stamp" ]; then
  say "creating .outside-clients: agent libraries from PyPI and npm"
  bootstrap
  uv_sources .bootstrap/bin/python
  rm -rf .outside-clients
  .bootstrap/bin/uv venv --quiet --python "$(readlink -f .venv/bin/python)" .outside-clients/venv
  .bootstrap/bin/uv pip install --quiet --python .outside-clients/venv/bin/python \
    "${UV_SOURCES[@]}" "${python[@]}"
  echo '{"private": true}' > .outside-clients/package.json
  npm install --silent --no-audit --no-fund --prefix .outside-clients "${node[@]}"
  echo "$stamp" > .outside-clients/installed
fi
