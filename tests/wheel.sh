#!/usr/bin/env bash
# Makes the sdist, a wheel from nothing but the sdist, and tests the wheel in an empty environment.
#
#   tests/wheel.sh
#
# Leaves both in build/dist. On Linux auditwheel says which systems the wheel fits.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TOOLS=$PWD/build/tools
DIST=$PWD/build/dist
LIMIT=2000000 # bytes to download, besides the libraries that binq needs

pip() { "$@" --quiet --disable-pip-version-check; }

[ -x "$TOOLS/bin/python" ] || "$PYTHON" -m venv "$TOOLS"
pip "$TOOLS/bin/python" -m pip install build auditwheel
rm -rf "$DIST"
"$TOOLS/bin/python" -m build --outdir "$DIST" .   # the sdist first, then the wheel from the sdist
WHEEL=$(echo "$DIST"/*.whl)

SIZE=$(wc -c <"$WHEEL")
INSTALLED=$("$PYTHON" -c 'import sys, zipfile
print(sum(member.file_size for member in zipfile.ZipFile(sys.argv[1]).infolist()))' "$WHEEL")
echo "$(basename "$WHEEL"): $SIZE bytes, $INSTALLED installed"
[ "$SIZE" -le $LIMIT ] || { echo "the wheel is larger than $LIMIT bytes"; exit 1; }
if [ "$(uname)" = Linux ]; then "$TOOLS/bin/python" -m auditwheel show "$WHEEL"; fi

EMPTY=$(mktemp -d)
trap 'rm -rf "$EMPTY"' EXIT
"$PYTHON" -m venv "$EMPTY/venv"
# No compiler can be found from here: the wheel alone must do.
pip env CC=/nowhere/cc "$EMPTY/venv/bin/python" -m pip install --only-binary=:all: "$WHEEL"
cd "$EMPTY"
"$EMPTY/venv/bin/python" -m binq selftest
"$EMPTY/venv/bin/python" -c 'import binq; print("binq", binq.__version__, binq.__file__)'
