#!/usr/bin/env bash
# From a fresh clone to a dataset: installs, fetches the bundled model, collects 64 rollouts and
# shows two.
# Safe to re-run; the second time it goes straight to collecting. Arguments are config overrides:
#
#   scripts/quickstart.sh                              # 16 tasks x 4 rollouts
#   scripts/quickstart.sh collect.num_repeats=8
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo

config=deployments/laptop-cpu.yaml
[ "$(pick_engine)" = vllm ] && set -- policy.engine_args.dtype=bfloat16 policy.resources.num_gpus=1 "$@"
output=runs/quickstart-$(date +%Y%m%d-%H%M%S)
for argument in "$@"; do
  case "$argument" in collect.output=*) output=${argument#collect.output=} ;; esac
done

say "preparing the bundled model"
python -c "from gym_ray.policies.bundled import resolve_model; resolve_model('bundled:smollm2-135m')"
say "collecting rollouts into $output"
gym-ray collect "$config" collect.output="$output" "$@"

say "two of them"
python - "$output" <<'PY'
import sys

import gym_ray
from gym_ray.conversation.group_text import best_and_worst_text
from gym_ray.conversation.rollout_text import write
from gym_ray.registry import load_environments
from gym_ray.store.stored_run import StoredRun

run = sys.argv[1]
environments = load_environments(StoredRun.open(run).config.checked())


def extract(rollout):
    return environments[rollout.spec.environment].answer(rollout.task, rollout.text)


write(best_and_worst_text(gym_ray.read_rollouts(run), extract=extract))
PY

cat <<EOF

The dataset is $output/rollouts/*.parquet, its numbers are in $output/summary.json.
Try next, after \`source .venv/bin/activate\`:
  gym-ray metrics $output
  gym-ray export sft $output --min-reward 1 --output exports/${output##*/}-sft
  gym-ray collect $config ${*:+$* }collect.output=runs/cooler sampling.temperature=0.7
  gym-ray env new my_task
EOF
