#!/usr/bin/env bash
# Submits a collection to a Ray cluster as a job, and follows its logs:
#
#   export RAY_API_SERVER_ADDRESS=http://HEAD:8265 RAY_AUTH_MODE=token RAY_AUTH_TOKEN=…
#   scripts/submit.sh deployments/cluster-autoscale.yaml collect.output=/shared/runs/demo
#   scripts/submit.sh --no-wait --submission-id demo-1 CONFIG [KEY=VALUE]...
#
# What stands before the config is for `ray job submit`. The current folder goes along without
# runs/, .git, .env, virtual environments and what .gitignore names; so do HF_TOKEN, AWS_…, the
# variables the config reads, and those named in GYM_RAY_JOB_VARIABLES. Submitting the same again
# continues the run; `ray job stop ID` drains it.
set -euo pipefail

# Its own, when it is called from a clone that was set up.
venv=$(dirname "${BASH_SOURCE[0]}")/../.venv/bin
if [ -d "$venv" ]; then PATH=$(cd "$venv" && pwd):$PATH; fi

options=()
while [ $# -gt 0 ] && [[ "$1" != *.yaml && "$1" != *.yml ]]; do options+=("$1"); shift; done
if [ $# -eq 0 ]; then
  echo "usage: scripts/submit.sh [OPTION of ray job submit]... CONFIG.yaml [KEY=VALUE]..." >&2
  exit 2
fi

# Secrets travel in a file only this user can read, not in arguments that everyone sees.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m gym_ray.serving.job "$@" > "$folder/job"
sed -n 1p "$folder/job" > "$folder/environment.yaml"
ray job submit "${options[@]}" --runtime-env "$folder/environment.yaml" \
  --metadata-json "$(sed -n 2p "$folder/job")" -- python -m gym_ray collect "$@"
