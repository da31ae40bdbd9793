#!/usr/bin/env bash
# The whole suite, or a part of it:
#
#   scripts/test.sh                  # checks, then all tests
#   scripts/test.sh unit             # one part: check, unit, tokens, gateway, sandbox,
#                                    environments, service, chaos, engine or interop
#   scripts/test.sh tests/unit/test_rows.py -k lossless       # anything pytest takes
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" tests
trap say_left_out EXIT

check() {
  say "ruff, mypy, import-linter"
  ruff check . && ruff format --check . && mypy && lint-imports --no-cache >/dev/null && echo "checks passed"
}

tests() { say "$1 tests"; shift; python -m pytest "$@"; }

# The kit once as who calls it, and, when that is root, once more as an unprivileged user.
sandbox() {
  tests sandbox tests/sandbox -n 2 --dist loadfile
  if [ "$(id -u)" != 0 ]; then
    leave_out "the sandbox as root, and under a second user: this is not root"
  elif unshare --mount true 2>/dev/null; then
    say "sandbox tests as an unprivileged user"
    python tests/sandbox/as_nobody.py "$(command -v python)" -m pytest -p no:cacheprovider \
      tests/sandbox -n 2 --dist loadfile
  else
    leave_out "the sandbox as an unprivileged user: no mount namespace can be made here"
  fi
}

part() {
  case "$1" in
    check) check ;;
    interop)
      if [ -d ../shared/data/nemo_gym ]; then
        scripts/nemo-gym.sh
        scripts/verl.sh
        tests interop tests/interop
      else leave_out "interop tests: they read NeMo Gym's rows in ../shared/data, which is not here"; fi ;;
    unit) tests unit tests/unit -n 2 --dist loadfile ;;
    tokens) tests tokens tests/tokens ;;
    gateway) tests gateway tests/gateway ;;
    sandbox) sandbox ;;
    environments) tests environments tests/environments ;;
    service | chaos | engine) tests "$1" "tests/$1" ;;
  esac
}

parts="check unit tokens gateway sandbox environments service chaos engine interop"
if [ $# -eq 0 ]; then
  for name in $parts; do part "$name"; done
elif [ $# -eq 1 ] && [[ " $parts " == *" $1 "* ]]; then
  part "$1"
elif [ $# -eq 1 ] && [ ! -e "${1%%::*}" ]; then
  echo "scripts/test.sh: no part and no test named $1; parts: $parts" >&2
  exit 2
else
  tests "$*" "$@"
fi
