#!/usr/bin/env bash
# The suite, or a part of it; docs/testing.md says what is in it and what each part may take.
#
#   scripts/test.sh                  # checks and tests; what is marked long is left out
#   scripts/test.sh all              # everything
#   scripts/test.sh unit             # of one part, or of several, what is not long: check, unit,
#                                    # tokens, gateway, sandbox, environments, service, chaos,
#                                    # engine or interop
#   scripts/test.sh all engine       # one part, or several, whole
#   scripts/test.sh tests/unit/test_rows.py -k lossless       # anything pytest takes
#
#   GYM_RAY_TEST_PATIENCE=2          # on a slower machine: twice every budget
set -euo pipefail
SECONDS=0
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" tests
exec python -m tests.suite "$SECONDS" "$@"
