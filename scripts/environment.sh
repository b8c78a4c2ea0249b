# Sourced by demo.sh and test.sh: makes .venv from the project's own files and puts it on PATH.
# Use: make_environment EXTRA. Does nothing but activate where the same pyproject was installed before.

make_environment() {
    local extra=$1 stamp python
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || {
        echo "Python 3.10 or newer is needed; set PYTHON to one (now: $python)" >&2
        return 2
    }
    stamp=.venv/.installed-$extra
    if ! [ -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        echo "Installing into .venv (a few minutes the first time: torch is large)"
        "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
        touch "$stamp"
    fi
    PATH=$PWD/.venv/bin:$PATH
    export PATH
}
