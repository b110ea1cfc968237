#!/usr/bin/env bash
# Runs the kernel tests on emulated aarch64: NEON, DotProd and I8MM, bit for bit.
#
#   tests/qemu-aarch64.sh                       what make test runs, some minutes
#   tests/qemu-aarch64.sh all                   every test of the kernels, some 20 minutes
#   tests/qemu-aarch64.sh [pytest arguments]
#
# Needs Debian or Ubuntu with qemu-user-static and gcc-aarch64-linux-gnu; without them it says so
# and exits 0. An arm64 Python, its libraries and wheels are unpacked below build/aarch64 once;
# nothing outside the checkout changes.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python3

for tool in qemu-aarch64-static aarch64-linux-gnu-gcc apt-get dpkg; do
    if ! command -v "$tool" >/dev/null; then
        echo "skipped: $tool is not installed (apt-get install qemu-user-static gcc-aarch64-linux-gnu)"
        exit 0
    fi
done

CACHE=$PWD/build/aarch64
ROOT=$CACHE/root
SITE=$CACHE/site
VERSION=3.11
TAG=cpython-311-aarch64-linux-gnu

fetch_python() {
    local apt=$CACHE/apt
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/debs" "$ROOT"
    touch "$apt/state/status"
    local options=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64
        -o Dir::State="$apt/state" -o Dir::State::status="$apt/state/status"
        -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$apt/debs" && apt-get "${options[@]}" download \
        "python$VERSION-minimal" "libpython$VERSION-minimal" "libpython$VERSION-stdlib" \
        "libpython$VERSION-dev" libc6 libstdc++6 libgcc-s1 gcc-12-base zlib1g libexpat1 libffi8 \
        libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libcrypt1 libncursesw6 libtinfo6 \
        libreadline8 libdb5.3 media-types)
    for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$ROOT"; done
    rm -rf "$apt"
}

fetch_wheels() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --target "$SITE" \
        --only-binary=:all: --python-version "$VERSION" --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
        numpy ml_dtypes safetensors pytest hypothesis pytest-benchmark tqdm threadpoolctl
}

fetch_tools() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --target "$CACHE/tools" \
        'cython>=3.1' 'setuptools>=77'
}

# setup.py with a cross compiler; objects are kept while their sources are older.
build_modules() {
    mkdir -p "$CACHE/src"
    cp -r src/binq "$CACHE/src/" && find "$CACHE/src" -name '*.x86_64*.so' -delete
    PYTHONPATH=$CACHE/tools CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared" \
        CFLAGS="-I$ROOT/usr/include/python$VERSION -I$ROOT/usr/include" \
        SETUPTOOLS_EXT_SUFFIX=.$TAG.so \
        "$PYTHON" setup.py -q build_ext --build-lib "$CACHE/src" --build-temp "$CACHE/temp"
}

[ -x "$ROOT/usr/bin/python$VERSION" ] || fetch_python
[ -d "$SITE/numpy" ] || fetch_wheels
[ -d "$CACHE/tools/setuptools" ] || fetch_tools
build_modules
export PYTHONPATH=$CACHE/src:$SITE PYTHONDONTWRITEBYTECODE=1
# The portable kernels are the same C on every machine, and slow here. QUICK takes some minutes; what
# threads and large batches change is nothing of this machine, and is left to `all`.
QUICK="(equal and not alone) or within or memory or pack or dequantize or unpack"
SELECTED="not portable and ($QUICK)"
[ "${1:-}" != all ] || { shift; SELECTED="not portable"; }
[ $# -gt 0 ] || set -- -q tests/kernels/test_matmul.py tests/kernels/test_pack.py tests/test_nn.py -m "not slow" \
    -k "$SELECTED" --hypothesis-profile=emulated
exec qemu-aarch64-static -L "$ROOT" "$ROOT/usr/bin/python$VERSION" -m pytest \
    -p no:cacheprovider "$@"
