#!/usr/bin/env bash
# Makes what it needs and runs the whole test suite: style, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment test
ruff check .
ruff format --check .
mypy
exec python -m pytest "$@"
