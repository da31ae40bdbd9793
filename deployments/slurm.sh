#!/usr/bin/env bash
#SBATCH --job-name=gym-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@300
#
# A collection as a Slurm job: Ray on all of its nodes for as long as the job lasts.
#
#   sbatch deployments/slurm.sh deployments/multi-node-model.yaml collect.output=$SCRATCH/runs/large
#
# The output has to be on a file system all nodes have. Five minutes before the time is up Slurm sends
# SIGTERM, which drains the collection; submitting the same again continues it. Run it from the
# clone, or set VENV to where gym-ray is installed.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: sbatch deployments/slurm.sh CONFIG.yaml [KEY=VALUE]..." >&2; exit 2; }
export PATH="${VENV:-$PWD/.venv}/bin:$PATH"

# Other users of these nodes cannot submit to this cluster.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# Read where Ray starts; see gym_ray/serving/__init__.py.
export RAY_SERVE_THROUGHPUT_OPTIMIZED=1 RAY_SERVE_ENABLE_DIRECT_INGRESS=0
export RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=2147483647 RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS=1

# Two jobs on one node must not meet.
port=$((20000 + SLURM_JOB_ID % 10000))
# sed reads to the end: `head` would leave scontrol with a closed pipe, which pipefail minds.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
head_address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
export RAY_ADDRESS=$head_address:$port

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
  ray start --head --block --node-ip-address="$head_address" --port="$port" --disable-usage-stats &
until ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; do
  kill -0 $! || { echo "Ray's head did not start on $head" >&2; exit 1; }
  sleep 2
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap \
    --exclude="$head" ray start --block --address="$RAY_ADDRESS" --disable-usage-stats &
fi

# In the background, so that bash passes SIGTERM on at once instead of after it has ended.
collection= stopping=
trap 'stopping=1; if [ -n "$collection" ]; then kill -TERM "$collection"; else exit 130; fi' TERM
python -m gym_ray collect "$@" &
collection=$!
code=0
wait "$collection" || code=$?
# A signal ends that `wait`; this one is for the end of the drain, or for the code it ended with.
if [ -n "$stopping" ]; then code=0; wait "$collection" || code=$?; fi
exit "$code"
