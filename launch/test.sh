#!/usr/bin/env bash
# Sets up on first use and runs the test suite, with further arguments for pytest:
#
#   bash launch/test.sh
#   bash launch/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
setup test
# Work is stolen in whole stretches, so that what the tests of a file share is rarely made twice.
exec "$python" -m pytest --numprocesses="${TEST_PROCESSES:-2}" --dist=worksteal "$@"
