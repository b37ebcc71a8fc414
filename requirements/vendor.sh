#!/bin/sh
# Fetches the browser libraries that are kept in the repository, each at its pinned version, checks
# them against requirements/vendor.sha256, and lays them where they are served from. They ship in
# the wheel, so that whoever installs fedserver needs neither Node nor a content network.
#
# Only who changes a version runs this (it needs npm): edit the version, run `make vendor`, look at
# what changed, and accept the new digests with `make vendor ARGS=--accept`.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# take PACKAGE@VERSION TARGET FILE…: the files of an npm package, and its licence
take() {
    package=$1 target=$2
    shift 2
    mkdir -p "$work/package" "$target"
    (cd "$work" && npm pack --silent "$package" >/dev/null && tar -xzf ./*.tgz && rm ./*.tgz)
    for file in "$@"; do
        cp "$work/package/$file" "$target/$(basename "$file")"
    done
    find "$work/package" -maxdepth 1 -name 'LICENSE*' -exec cp {} "$target/" \;
    printf '%s\n' "$package" > "$target/VERSION"
    find "$target" -type f -exec chmod 644 {} +
    rm -rf "$work/package"
}

take uplot@1.6.32 client_sdk/drawings/vendor/uplot dist/uPlot.esm.js dist/uPlot.min.css
take idiomorph@0.8.0 frontend/static/frontend/vendor/idiomorph dist/idiomorph.esm.js
take axe-core@4.14.1 tests/browser/vendor/axe-core axe.min.js

files="client_sdk/drawings/vendor frontend/static/frontend/vendor tests/browser/vendor"
sums=requirements/vendor.sha256
find $files -type f | LC_ALL=C sort | xargs sha256sum > "$work/sums"
if [ "${1:-}" = --accept ]; then
    cp "$work/sums" "$sums"
fi
diff "$sums" "$work/sums" && echo "vendored files are what $sums says"
