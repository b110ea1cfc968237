# make demo            quantize, reload and multiply a small checkpoint (SRC=FOLDER takes your own)
# make test            lint, types, the whole test suite, every example and benchmark once
# make bench           speed, side by side with the rivals; writes docs/benchmarks.md and its plots
# make coverage        the suite once more with branch coverage
# make test-neon       the same kernel tests under qemu-aarch64, where the emulator is installed
# make sanitizers      the native tests under GCC's address, undefined and thread sanitizers
# make clean           removes everything that make created

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
DEMO   ?= demo
NATIVE := pyproject.toml setup.py $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h')

.PHONY: demo test lint types pytest examples benchmark-smoke bench coverage test-neon sanitizers clean

$(VENV)/pip.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "binq needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Editable installs: the Python files are the checkout's own, the native modules are compiled into it.
$(VENV)/binq.stamp: $(VENV)/pip.stamp $(NATIVE)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/binq.stamp
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

demo: $(VENV)/binq.stamp
	$(PY) examples/demo.py $(if $(SRC),--src '$(SRC)') --out $(DEMO)

test: lint types pytest examples benchmark-smoke test-neon

lint: $(VENV)/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/test.stamp
	$(PY) -m mypy
	$(PY) -m mypy.stubtest --concise --ignore-unused-allowlist --allowlist tests/stubtest-allowlist.txt binq._core binq._native._threads

pytest: $(VENV)/test.stamp
	$(PY) -m pytest -q

examples: $(VENV)/test.stamp
	$(PY) examples/smoke.py

benchmark-smoke: $(VENV)/test.stamp
	BINQ_BENCH_SMOKE=1 $(PY) -m pytest -q benchmarks

bench: $(VENV)/bench.stamp
	$(PY) benchmarks/run.py

coverage: $(VENV)/test.stamp
	$(PY) -m pytest -q --cov=binq --cov-branch --cov-report=term-missing

test-neon: $(VENV)/test.stamp
	tests/qemu-aarch64.sh

sanitizers: $(VENV)/test.stamp
	tests/sanitizers.sh address
	tests/sanitizers.sh thread

clean:
	rm -rf $(VENV) build dist $(DEMO) src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find src -name '*.so' -delete
