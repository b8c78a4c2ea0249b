#!/usr/bin/env bash
# Makes what it needs and runs the whole test suite: style, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment test
# One process a core, and one thread each: two OpenMP threads on busy cores wait for each other. A file's tests stay in
# one process, for what they share; each process takes up to 2 GB.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
mypy
exec python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
