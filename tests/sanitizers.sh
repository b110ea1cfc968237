#!/usr/bin/env bash
# Runs the native tests under a sanitizer: memory and undefined behaviour, or data races.
#
#   tests/sanitizers.sh address [pytest arguments]    every kernel set of this machine
#   tests/sanitizers.sh thread                        the pool, under many callers at once
#
# Needs GCC on Linux. Compiles into build/sanitizers; the checkout's own modules stay as they are.
# Each run first plants an error that the sanitizer must find: silence alone proves nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
KIND=${1:?address or thread}
shift
PYTHON=${PYTHON:-.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python3
BUILD=$PWD/build/sanitizers/$KIND
case $KIND in
address) FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
    LIBRARY=libasan.so ;;
thread) FLAGS="-fsanitize=thread"
    LIBRARY=libtsan.so ;;
*) echo "address or thread, got $KIND"; exit 2 ;;
esac

sanitized() {
    # Python's own allocator would hide reads past the end of small objects.
    env LD_PRELOAD="$(gcc -print-file-name=$LIBRARY)" PYTHONMALLOC=malloc \
        ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1 \
        PYTHONPATH="$BUILD/src:tests" PYTHONDONTWRITEBYTECODE=1 "$PYTHON" "$@"
}

mkdir -p "$BUILD/c"
# What compiles is no part of the test set-up.
[ -d "$BUILD/tools/Cython" ] || "$PYTHON" -m pip install --quiet --disable-pip-version-check \
    --target "$BUILD/tools" 'cython>=3.1' 'setuptools>=77'
rm -rf "$BUILD/src" && cp -r src "$BUILD/src" && find "$BUILD/src" -name '*.so' -delete
PYTHONPATH=$BUILD/tools LDFLAGS=$FLAGS BINQ_TEST_KERNELS=1 BINQ_CFLAGS="-O1 -g -w $FLAGS" CC=gcc "$PYTHON" setup.py -q \
    build_ext --build-lib "$BUILD/src" --build-temp "$BUILD/temp"
compile() { # C file, output
    # shellcheck disable=SC2086
    gcc -O1 -g -fPIC -shared -pthread -w $FLAGS "$1" -o "$2"
}

if [ "$KIND" = address ]; then
    echo 'int over(const int *p, int n) { return p[n]; }' >"$BUILD/c/planted.c"
    compile "$BUILD/c/planted.c" "$BUILD/planted.so"
    code="import ctypes, numpy as np; a = np.ones(100, np.int32)
ctypes.CDLL('$BUILD/planted.so').over(a.ctypes.data_as(ctypes.c_void_p), 100)"
    if sanitized -c "$code" 2>/dev/null; then
        echo "the planted read past the end was not found" && exit 1
    fi
    [ $# -gt 0 ] || set -- tests/test_core.py tests/kernels/test_matmul.py tests/kernels/test_pack.py \
        tests/test_nn.py tests/methods/test_quantize.py tests/methods/test_native_loops.py \
        -m "not slow" --hypothesis-profile=emulated
    sanitized -m pytest -q -p no:cacheprovider "$@"
else
    cat >"$BUILD/c/planted.c" <<'C'
#include <pthread.h>
static long shared;
static void *add(void *p) { for (int i = 0; i < 100000; i++) ++*(volatile long *)&shared; return p; }
void race(void) {
    pthread_t a, b;
    pthread_create(&a, 0, add, 0); pthread_create(&b, 0, add, 0);
    pthread_join(a, 0); pthread_join(b, 0);
}
C
    compile "$BUILD/c/planted.c" "$BUILD/planted.so"
    if sanitized -c "import ctypes; ctypes.CDLL('$BUILD/planted.so').race()" 2>/dev/null; then
        echo "the planted race was not found" && exit 1
    fi
    BINQ_ISA=portable sanitized -c '
import threading
import numpy as np, binq
from strategies import random_quantized
rng = np.random.default_rng(0)
q, x = random_quantized(rng, "int4", (1024, 256)), rng.standard_normal((40, 256), np.float32)
wanted = binq.linear(x, q).tobytes()
def multiply():
    for i in range(100):
        assert binq.linear(x, q).tobytes() == wanted
        binq.set_num_threads(1 + i % 5)
callers = [threading.Thread(target=multiply) for _ in range(3)]
for caller in callers: caller.start()
for caller in callers: caller.join()
'
fi
echo "no reports of the $KIND sanitizer"
