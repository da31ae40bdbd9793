#!/usr/bin/env bash
# From a fresh clone to a dataset: installs, fetches the bundled model, collects 64 rollouts.
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

cat <<EOF

The dataset is $output/rollouts/*.parquet; its counts and metrics are in $output/summary.json.
Try next:
  source .venv/bin/activate
  python -c "import gym_ray; r = next(iter(gym_ray.read_rollouts('$output'))); print(r.reward, r.response)"
  gym-ray collect $config collect.output=runs/more collect.num_repeats=8
  scripts/test.sh unit
EOF
