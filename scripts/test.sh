#!/usr/bin/env bash
# Makes what it needs and runs the whole test suite: style, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment test
# Two OpenMP threads on two busy cores wait for each other; one a process is faster for tests this small.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
mypy
exec python -m pytest "$@"
