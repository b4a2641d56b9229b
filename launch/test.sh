#!/usr/bin/env bash
# Sets up on first use and runs the test suite, with further arguments for pytest:
#
#   bash launch/test.sh
#   bash launch/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
setup test
exec "$python" -m pytest --numprocesses="${TEST_PROCESSES:-2}" "$@"
