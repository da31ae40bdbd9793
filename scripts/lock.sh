#!/usr/bin/env bash
# Writes the locks anew: every package that an install may bring, pinned, with the hashes of all its
# files. Run it after a change of dependencies in pyproject.toml, or for newer versions of them:
#
#   scripts/lock.sh              # keeps what is pinned, where pyproject.toml still allows it
#   scripts/lock.sh --upgrade    # takes the newest of everything
#
# scripts/lock-cpu.txt and lock-vllm.txt hold for one engine what any extra brings, for Linux on
# x86-64 and aarch64 and each Python of pyproject.toml; lock-build.txt what builds packages that have
# no wheels, and gym-ray itself; lock-uv.txt is uv. lock-torch.txt is written by hand, and says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh
index=()
if url=$(python3 -m pip config get global.index-url 2>/dev/null); then index=(--index-url "$url"); fi
upgrade=("$@")
pythons=(3.11 3.12 3.13)
platforms=(x86_64-manylinux_2_34 aarch64-manylinux_2_34)

# Arguments: the lock, then what to resolve; `-` there is standard input. From the index alone: a
# folder of wheels on this machine may have others.
compile() {
  local lock=$1
  shift
  "${UV:-uv}" pip compile --quiet --universal --python-version "${pythons[0]}" --generate-hashes \
    "${index[@]}" "${upgrade[@]}" --no-annotate --no-emit-index-url --custom-compile-command scripts/lock.sh \
    -o "$lock" "$@" >/dev/null
  # What overrides leave out is resolved all the same, for platforms that there never are.
  awk "/^[^ ]/ { left_out = /sys_platform == 'never'/ } !left_out" "$lock" > "$lock.partial"
  mv "$lock.partial" "$lock"
}

# Whether a lock has all that an engine's extras need, on every platform it is for. torch's CPU build
# is left out, for few indexes have it.
complete() {
  local engine=$1 python platform
  shift
  for python in "${pythons[@]}"; do
    for platform in "${platforms[@]}"; do
      "${UV:-uv}" pip install --quiet --dry-run --target "$scratch/site" "${index[@]}" \
        --python-version "$python" --python-platform "$platform" --require-hashes \
        -c "scripts/lock-$engine.txt" "$@" -r pyproject.toml \
        --extra "$engine" --extra bundled --extra dev --extra gcs ||
        { echo "scripts/lock-$engine.txt: not complete for Python $python on $platform" >&2; return 1; }
    done
  done
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
without_torch=(--override scripts/overrides-cpu.txt --override "$scratch/without-torch")
echo "torch; sys_platform == 'never'" > "$scratch/without-torch"

compile scripts/lock-uv.txt - <<< "uv==0.13.9"
compile scripts/lock-build.txt - <<'IN'
# gym-ray's own, an editable installation's included.
hatchling>=1.27
editables
# Of packages without wheels.
setuptools
wheel
IN
compile scripts/lock-vllm.txt pyproject.toml --extra vllm --extra bundled --extra dev --extra gcs
# With ==, the CPU build would do too where a folder of wheels has it.
sed -i 's/^torch==/torch===/' scripts/lock-vllm.txt
compile scripts/lock-cpu.txt pyproject.toml - --extra cpu --extra dev --extra gcs \
  "${without_torch[@]}" <<'IN'
# torch's own needs, since it is locked by itself.
filelock
fsspec
jinja2
networkx
setuptools
sympy
typing-extensions
# Of intel-openmp on Linux only: the metadata of a package's other wheels do not have it.
intel-cmplr-lib-ur==2024.2.1; platform_machine == 'x86_64'
IN
complete vllm
complete cpu "${without_torch[@]}"
