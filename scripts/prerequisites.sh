#!/usr/bin/env bash
# What a machine must have before anything is installed on it, and the one line that brings what it
# lacks. setup.sh sources this; as a command it looks and changes nothing:
#
#   scripts/prerequisites.sh [demo|tests] [cpu|vllm]
set -euo pipefail

# need | where | Debian's packages | Fedora's packages | what it is
#
# `where` is a use (demo, tests), an engine (cpu, vllm), or `always`; PYTHON in a package's name is
# the interpreter's, such as python3 or python3.12.
NEEDS='
linux      | always     |             |                  | Linux on x86-64 or aarch64
python     | always     | PYTHON      | PYTHON           | Python 3.11, 3.12 or 3.13 (PYTHON names one)
venv       | always     | PYTHON-venv | PYTHON-libs      | venv and ensurepip of that Python
libnuma    | cpu        | libnuma1    | numactl-libs     | libnuma.so.1, which vLLM loads
compiler   | vllm tests | gcc g++     | gcc gcc-c++      | C and C++ compilers (kernels; a test package)
headers    | vllm tests | PYTHON-dev  | PYTHON-devel     | Python.h (kernels; a test package)
curl       | tests      | curl        | curl             | curl, with which the docs call the service
bubblewrap | tests      | bubblewrap  | bubblewrap       | bwrap, one of the sandboxes
'

has_linux() { case "$(uname -sm)" in "Linux x86_64" | "Linux aarch64") ;; *) return 1 ;; esac; }
has_python() { python_runs 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; }
has_venv() { python_runs 'import venv, ensurepip'; }
has_libnuma() { python_runs 'import ctypes; ctypes.CDLL("libnuma.so.1")'; }
has_compiler() { command -v cc && command -v c++; }
has_headers() {
  python_runs 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}
has_curl() { command -v curl; }
has_bubblewrap() { command -v bwrap; }

python_runs() { "$python" -c "$1"; }

# The interpreter that makes .venv: the first that has venv, else the first of a right version.
# Prints nothing where there is none.
pick_python() {
  local name python fallback=
  for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    python=$(command -v "${name:-no-such-command}") && has_python 2>/dev/null || continue
    if has_venv 2>/dev/null; then echo "$python"; return; fi
    fallback=${fallback:-$python}
  done
  echo "$fallback"
}

# What the interpreter to install is called. A distribution's own may be too old, or too new.
python_to_install() {
  local name
  if command -v apt-get >/dev/null; then
    if ! command -v python3 >/dev/null; then echo python3; return; fi
    for name in python3.13 python3.12 python3.11; do
      if apt-cache show "$name" >/dev/null 2>&1; then echo "$name"; return; fi
    done
  fi
  echo python3.12
}

# Prints the needs that are not met, a row of NEEDS each.
missing() {
  local use=$1 engine=$2 python row need where
  python=$(pick_python)
  while IFS= read -r row; do
    IFS='|' read -r need where _ <<<"$row"
    [ -n "${need// /}" ] || continue
    case " ${where} " in *" always "* | *" $use "* | *" $engine "*) ;; *) continue ;; esac
    # Without a Python, what it would have to find counts as missing.
    "has_${need// /}" >/dev/null 2>&1 || echo "$row"
  done <<<"$NEEDS"
}

# The command that brings the needs given, or nothing where no package manager is known.
remedy() {
  local rows=$1 name debian fedora sudo= packages=
  name=$(pick_python)
  name=${name:-$(python_to_install)}
  name=${name##*/}
  [ "$(id -u)" = 0 ] || sudo="sudo "
  while IFS='|' read -r _ _ debian fedora _; do
    if command -v apt-get >/dev/null; then packages+=" $debian"
    elif command -v dnf >/dev/null; then packages+=" $fedora"; fi
  done <<<"$rows"
  packages=$(tr -s ' ' <<<"${packages//PYTHON/$name}" | sed 's/^ //; s/ $//')
  [ -n "$packages" ] || return 0
  if command -v apt-get >/dev/null; then
    echo "${sudo}apt-get update && ${sudo}apt-get install -y $packages"
  else
    echo "${sudo}dnf install -y $packages"
  fi
}

# Ends the script unless this machine has what it needs. Where root works for CI, it is brought.
require() {
  local use=$1 engine=$2 rows line
  rows=$(missing "$use" "$engine")
  line=$(remedy "$rows")
  if [ -n "$line" ] && [ "$(id -u)" = 0 ] && [ "${CI:-}" = true ]; then
    echo "$line" >&2
    DEBIAN_FRONTEND=noninteractive bash -c "$line" >&2
    rows=$(missing "$use" "$engine")
  fi
  [ -n "$rows" ] || return 0
  {
    echo "gym-ray needs, and this machine does not have:"
    awk -F'|' '{ gsub(/^ +| +$/, "", $5); print "  " $5 }' <<<"$rows"
    [ -z "$line" ] || printf 'This brings it:\n  %s\n' "$line"
  } >&2
  return 1
}

pick_engine() {
  if [ -n "${GYM_RAY_ENGINE:-}" ]; then echo "$GYM_RAY_ENGINE"
  elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then echo vllm
  else echo cpu; fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  require "${1:-demo}" "${2:-$(pick_engine)}"
fi
