#!/bin/sh
# Sees to a Chromium for the browser tests. Root on Debian gets one installed, as containers and
# continuous integration are; everybody else is told what to install, and the tests say once more
# what they left out. `make test` calls this.
set -eu

runs() {
    # Ubuntu has a program of this name that only asks for a snap.
    command -v "$1" >/dev/null 2>&1 && "$1" --version >/dev/null 2>&1
}

missing() {
    echo "fedserver: no Chromium here, and the browser tests are left out without one." \
        "Please install it (on Debian: apt-get install chromium)"
    exit 0
}

# The same names as in tests/browser/chromium.py.
for name in chromium chromium-browser google-chrome-stable google-chrome; do
    if runs "$name"; then exit 0; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then missing; fi

echo "fedserver: installing Chromium for the browser tests (a minute)"
export DEBIAN_FRONTEND=noninteractive
{
    apt-get update -qq &&
        apt-get install -qqy --no-install-recommends chromium fonts-dejavu-core fonts-inter
} >/dev/null || missing
runs chromium || missing
