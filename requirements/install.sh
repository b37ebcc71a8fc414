#!/bin/sh
# Makes .venv and installs into it the locked versions and, editable, the project itself.
# Needs Python 3.11 or newer and nothing else; `make` calls it.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
lock=requirements/locked.txt
unset PYTHONDONTWRITEBYTECODE VIRTUAL_ENV

fail() {
    printf 'fedserver: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

command -v "$python" >/dev/null ||
    fail "Python 3.11 or newer is needed. Received: no $python on the path"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed (say which: make PYTHON=python3.12)." \
        "Received: $("$python" --version)"

# Debian and Ubuntu ship Python without the part that makes virtual environments.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    echo "fedserver: this Python cannot make virtual environments yet, installing $package"
    {
        as_root apt-get update -q &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy \
                --no-install-recommends "$package"
    } || fail "please run 'sudo apt-get install $package' and then the same command again"
fi

.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    "$python" -m venv --clear .venv
python=.venv/bin/python
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null

echo "fedserver: installing the locked versions into .venv (a minute or two)"
if [ -x .venv/bin/uv ] || "$python" -m pip install --quiet uv; then
    # uv writes no bytecode unless told, and TensorFlow without it takes four times as long to start.
    .venv/bin/uv pip sync --quiet --python "$python" --require-hashes --compile-bytecode "$lock"
    .venv/bin/uv pip install --quiet --python "$python" --no-deps --editable .
else
    echo "fedserver: uv is not to be had, so pip does it (some minutes)"
    "$python" -m pip install --quiet --require-hashes --requirement "$lock"
    "$python" -m pip install --quiet --no-deps --editable .
fi
echo "fedserver: installed"
