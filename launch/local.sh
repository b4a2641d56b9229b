#!/usr/bin/env bash
# Sets up on first use and runs mmjax on this machine, with the arguments that it is given:
#
#   bash launch/local.sh --config=configs/quickstart.py --workdir=runs/quickstart
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
setup

# glibc would hand memory back to the system and fetch it again at every step: half of the time on a CPU.
export MALLOC_MMAP_MAX_="${MALLOC_MMAP_MAX_:-0}" MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-20000000000}"
export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-268435456}"
exec "$python" -m mmjax.main "$@"
