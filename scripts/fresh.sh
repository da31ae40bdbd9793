#!/usr/bin/env bash
# Proves the README's promises on machines that have nothing: a Debian as its installer leaves it,
# in a container, with the packages the README names, an ordinary user, and a clone of HEAD.
#
#   scripts/fresh.sh debian12            # quickstart, tests, and what is said of a missing package
#   scripts/fresh.sh debian13 --quick    # without the tests
#
# Where package indexes have no CPU build of torch for a system's Python, which the account then
# says, tasks are collected there with the scripted policy in the place of the quickstart.
#
#   scripts/fresh.sh image               # builds the Dockerfile's cpu target and runs it off line
#
# Needs root, podman and debootstrap. Machines reach package indexes as this one does: its pip and
# apt configuration, certificates and proxies are theirs. Their file systems are kept in
# ${XDG_CACHE_HOME:-~/.cache}/gym-ray.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/gym-ray
name=gym-ray-fresh-$$
scratch=$(mktemp -d)
podman=(podman)
# runc also runs where a kernel has cgroups of both kinds, as CI's may.
! command -v runc >/dev/null || podman+=(--runtime runc --cgroup-manager cgroupfs)
limits=(--ulimit nofile=20000:20000 --ulimit nproc=10000:10000)

say() { printf '\033[1m==> fresh: %s\033[0m\n' "$*" >&2; }
fail() { say "FAILED: $*"; exit 1; }
clean_up() {
  "${podman[@]}" rm --force --time 0 "$name" >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
trap 'say "FAILED: line $LINENO: $BASH_COMMAND"' ERR

# --- a machine ---

# Debian's minimal system as a podman image, made once.
system() {
  local suite=$1
  local archive=$cache/$suite.tar
  if [ ! -e "$archive" ]; then
    say "debootstrap of $suite into $archive"
    mkdir -p "$cache"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$scratch/$suite" >"$scratch/log" 2>&1 ||
      { tail -5 "$scratch/log" >&2; fail "debootstrap"; }
    tar -C "$scratch/$suite" -cf "$archive.partial" .
    mv "$archive.partial" "$archive"
    rm -rf "${scratch:?}/$suite"
  fi
  "${podman[@]}" image exists "localhost/gym-ray-fresh:$suite" ||
    "${podman[@]}" import --quiet "$archive" "localhost/gym-ray-fresh:$suite" >/dev/null
}

# How this machine reaches package indexes: variables and folders for a machine's start (`passed`),
# and files to be copied there (`etc`, a tree; `certificates`).
network_configuration() {
  passed=(--network host)
  etc=$scratch/etc
  certificates=()
  mkdir -p "$etc/apt/apt.conf.d"
  local variable value word
  for variable in $(compgen -e); do
    case $variable in PIP_* | UV_* | *_proxy | *_PROXY | *_CA_BUNDLE | SSL_CERT_*) ;; *) continue ;; esac
    passed+=(--env "$variable")
    [ ! -f "${!variable}" ] || certificates+=("${!variable}")
  done
  # Of all of pip's files one, since another user's home is not read there.
  # A virtual environment's python, such as .venv's, may be without pip.
  local python=python3
  [ ! -x .bootstrap/bin/python ] || python=.bootstrap/bin/python
  "$python" -m pip config list | sed -n "s/^global\.\([^=]*\)='\(.*\)'$/\1 = \2/p" > "$scratch/pip"
  { echo "[global]"; cat "$scratch/pip"; } > "$etc/pip.conf"
  for value in ${PIP_FIND_LINKS:-} $(sed 's/^[^=]*= //; s/\\n/ /g' "$scratch/pip"); do
    word=${value#file://}
    # Of an index that is a folder, links lead out of simple/.
    word=${word%/simple}
    if [ -d "$word" ]; then passed+=(--volume "$word:$word:ro"); fi
    if [ -f "$word" ]; then certificates+=("$word"); fi
  done
  apt-config dump | grep '^Acquire::' > "$etc/apt/apt.conf.d/99fresh" || true
}

# Starts the machine from an image.
start() {
  # Its first process reaps the dead, as a machine's does.
  "${podman[@]}" run --detach --name "$name" --shm-size 2g "${limits[@]}" "${passed[@]}" "$1" \
    bash -c 'trap "exit 0" TERM; while :; do sleep 1000 & wait "$!"; done' >/dev/null
  "${podman[@]}" cp "$etc/." "$name:/etc/"
  local file
  for file in "${certificates[@]}"; do
    as_root "mkdir -p '$(dirname "$file")'"
    "${podman[@]}" cp "$file" "$name:$file"
  done
}

as_root() { "${podman[@]}" exec --env DEBIAN_FRONTEND=noninteractive "$name" bash -c "$1"; }
as_user() {
  "${podman[@]}" exec --user user --env HOME=/home/user --workdir "${2:-/home/user/gym-ray}" "$name" \
    bash -c "$1"
}

# --- what the README promises ---

# The README's n-th line of packages, for root.
readme_packages() { grep '^sudo apt-get' README.md | sed -n "$1p" | sed 's/^sudo //'; }

# Setup must end at once, name what is missing, and name the line that brings it, which must do so.
refuses() {
  local use=$1 package=$2 gone=$3 said line began
  as_root "dpkg --remove --force-depends $gone >/dev/null 2>&1" || fail "dpkg --remove $gone"
  began=$EPOCHREALTIME
  if said=$(as_user "source scripts/setup.sh $use" 2>&1); then fail "setup goes on without $gone"; fi
  printf '%s\n(after %.1f s)\n' "$said" "$(seconds_since "$began")" >&2
  line=$(sed -n 's/^ *sudo apt-get update && sudo //p' <<<"$said")
  [ "$line" = "apt-get install -y $package" ] || fail "without $gone the line to bring it is: $line"
  as_root "$line >/dev/null 2>&1" || fail "$line"
  as_user "scripts/prerequisites.sh $use" || fail "setup finds fault after: $line"
}
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'; }

# A collection's folder must hold 64 completed rollouts with rewards, and of the bundled model a mean
# reward from which something is learned.
expect_rollouts() {
  python3 - "$1" <<'PY' || fail "not the 64 rollouts that were to be collected"
import json, sys
summary = json.load(open(sys.argv[1]))
print(json.dumps({key: summary[key] for key in ("expected", "completed", "truncated", "failed", "reward")}))
signal = 0.2 < summary["reward"]["mean"] < 0.7 or not summary["run"]["engine"].startswith("vllm")
sys.exit((summary["expected"], summary["failed"], summary["reward"]["coverage"], signal) != (64, 0, 1.0, True))
PY
}

# What can be shown without an engine: everything but it is installed, and collects.
without_engine() {
  say "collecting with the scripted policy"
  as_user 'source scripts/install.sh && uv_sources .bootstrap/bin/python &&
    export UV=.bootstrap/bin/uv && install_packages .venv/bin/python vllm &&
    install_gym_ray .venv/bin/python -e &&
    sed "s/engine: vllm/engine: scripted/; s/model: .*/model: scripted/
      /engine_args:/,/max_num_seqs:/d" deployments/laptop-cpu.yaml > scripted.yaml &&
    .venv/bin/gym-ray collect scripted.yaml collect.output=runs/scripted' ||
    fail "gym-ray collect without an engine"
  as_user 'cat runs/scripted/summary.json' > "$scratch/summary.json"
}

# Has the account of scripts/test.sh say what could not be checked.
unchecked() {
  say "NOT CHECKED: $1"
  [ -z "${GYM_RAY_UNCHECKED:-}" ] || echo "fresh: $1" >> "$GYM_RAY_UNCHECKED"
}

debian() {
  local suite=$1 quick=$2 began said
  system "$suite"
  network_configuration
  say "a machine of $suite"
  start "localhost/gym-ray-fresh:$suite"
  git bundle create --quiet "$scratch/gym-ray.bundle" HEAD
  "${podman[@]}" cp "$scratch/gym-ray.bundle" "$name:/gym-ray.bundle"
  as_root "useradd --create-home --shell /bin/bash user && chmod a+r /gym-ray.bundle"

  said=$(readme_packages 1)
  say "README: $said"
  as_root "apt-get update -qq && $said" >"$scratch/log" 2>&1 || { tail -5 "$scratch/log" >&2; fail "$said"; }
  as_user "git -c init.defaultBranch=main -c advice.detachedHead=false clone --quiet /gym-ray.bundle \
    gym-ray" /home/user
  say "README: scripts/quickstart.sh"
  began=$EPOCHREALTIME
  if as_user scripts/quickstart.sh; then
    say "quickstart took $(seconds_since "$began") s"
    as_user 'cat runs/quickstart-*/summary.json' > "$scratch/summary.json"
  else
    ! as_user 'source scripts/install.sh && uv_sources .bootstrap/bin/python &&
      UV=.bootstrap/bin/uv has_torch .venv/bin/python' || fail "scripts/quickstart.sh"
    unchecked "the quickstart of $suite: package indexes have no CPU build of torch for its Python"
    without_engine
  fi
  expect_rollouts "$scratch/summary.json"
  refuses demo libnuma1 libnuma1
  # The package behind it too, which has the version in its name.
  refuses demo python3-venv "python3-venv \$(dpkg-query -W -f '\${Package} ' 'python3.*-venv')"

  said=$(readme_packages 2)
  say "README: $said"
  as_root "$said" >"$scratch/log" 2>&1 || { tail -5 "$scratch/log" >&2; fail "$said"; }
  refuses tests "gcc g++" "gcc g++"
  [ "$quick" = no ] || return 0
  say "README: scripts/test.sh"
  as_user scripts/test.sh || fail "scripts/test.sh"
}

# --- the image ---

image() {
  local base=localhost/gym-ray-fresh:python built=localhost/gym-ray-fresh:image
  system bookworm
  network_configuration
  say "a base image with Debian's Python in the place of Docker's"
  start localhost/gym-ray-fresh:bookworm
  as_root "apt-get update -qq && apt-get install -y -qq --no-install-recommends \
    python3-dev python3-pip python3-venv python-is-python3 && rm /usr/lib/python3.*/EXTERNALLY-MANAGED" \
    >"$scratch/log" 2>&1 || { tail -5 "$scratch/log" >&2; fail "the base image"; }
  "${podman[@]}" commit --quiet --format docker "$name" "$base" >/dev/null
  "${podman[@]}" rm --force --time 0 "$name" >/dev/null
  git clone --quiet --depth 1 "file://$PWD" "$scratch/context"
  say "building the target cpu"
  # Docker's format: SHELL and HEALTHCHECK are not in OCI's.
  "${podman[@]}" build --quiet --format docker "${passed[@]}" "${limits[@]}" --build-arg BASE="$base" \
    --target cpu --tag "$built" "$scratch/context" >"$scratch/log" 2>&1 ||
    { tail -20 "$scratch/log" >&2; fail "podman build"; }
  say "collecting in it without a network"
  mkdir -m 777 "$scratch/runs"
  "${podman[@]}" run --no-healthcheck --name "$name" --network none --shm-size 2g "${limits[@]}" \
    --volume "$scratch/runs:/runs" "$built" \
    gym-ray collect deployments/laptop-cpu.yaml collect.output=/runs/fresh || fail "gym-ray collect"
  expect_rollouts "$scratch/runs/fresh/summary.json"
}

quick=no
[ "${2:-}" != --quick ] || quick=yes
case "${1:-debian12}" in
  debian12) debian bookworm "$quick" ;;
  debian13) debian trixie "$quick" ;;
  image) image ;;
  *) echo "scripts/fresh.sh: debian12, debian13 or image, not $1" >&2; exit 2 ;;
esac
say "${1:-debian12}: all as promised"
