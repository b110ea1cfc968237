# make demo            quantize, reload and multiply a real model, a small one without a network
#                      (SRC=FOLDER takes your own)
# make test            lint, types, the whole suite, every example and benchmark once, the site
# make bench-run       whole models beside llama.cpp and others; writes docs/benchmarks-running.md
# make bench           speed, side by side with the rivals; writes docs/benchmarks.md and its plots
# make coverage        the suite once more with branch coverage
# make site            the documentation as a site in build/site; a warning is an error
# make interop         the tests against other libraries, in .interop (torch and more: gigabytes)
# make oldest          the suite on the lowest versions of numpy and the others, in .oldest
# make wheel           sdist, a wheel made of it, and its selftest in an empty environment
# make test-arm       the same kernel tests under qemu-aarch64, where the emulator is installed
# make sanitizers      the native tests under GCC's address, undefined and thread sanitizers
# make clean           removes everything that make created

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
DEMO   ?= demo
NATIVE := pyproject.toml setup.py $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h')

PIP    := -m pip install --quiet --disable-pip-version-check
BEGUN  := $(shell date +%s)
# What binq and an extra need, a line each. Installed so, not as '.[test]', nothing compiles again.
NEEDS   = $(PY) -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*p["dependencies"], *p["optional-dependencies"][sys.argv[1]], sep="\n")'

.PHONY: demo test say lint types pytest examples benchmark-smoke bench bench-run coverage site interop oldest \
	wheel test-arm sanitizers clean

$(VENV)/pip.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "binq needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Editable installs: the Python files are the checkout's own, the native modules are compiled into it.
$(VENV)/binq.stamp: $(VENV)/pip.stamp $(NATIVE)
	$(PY) $(PIP) --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/binq.stamp
	$(NEEDS) test >$(VENV)/test.txt
	$(PY) $(PIP) --requirement $(VENV)/test.txt
	touch $@

$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(NEEDS) bench >$(VENV)/bench.txt
	$(PY) $(PIP) --requirement $(VENV)/bench.txt
	touch $@

$(VENV)/docs.stamp: $(VENV)/binq.stamp
	$(NEEDS) docs >$(VENV)/docs.txt
	$(PY) $(PIP) --requirement $(VENV)/docs.txt
	touch $@

demo: $(VENV)/binq.stamp
	$(PY) examples/demo.py $(if $(SRC),--src '$(SRC)') --out $(DEMO)

test: say lint types pytest examples benchmark-smoke site test-arm
	@echo "make test: all passed, in $$(( $$(date +%s) - $(BEGUN) )) seconds"

say:
	@echo "make test: some 20 minutes on two cores; binq is compiled once, in 2 of them"

lint: $(VENV)/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint src  # it calls pycodestyle by name

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

# What is not in $(VENV) is looked for in other Pythons: make bench-run PYTHONS=".interop/bin/python …"
bench-run: $(VENV)/bench.stamp
	$(PY) benchmarks/generation/run.py $(foreach python,$(PYTHONS),--python $(python))

coverage: $(VENV)/test.stamp
	$(PY) -m pytest -q --cov=binq --cov-branch --cov-report=term-missing

site: $(VENV)/docs.stamp
	$(PY) -m sphinx --builder html --fail-on-warning --keep-going --fresh-env --quiet docs build/site

# The compiled modules are those of $(VENV): both are of one Python.
interop: $(VENV)/test.stamp
	$(PYTHON) -m venv .interop
	.interop/bin/python $(PIP) --requirement $(VENV)/test.txt --requirement tests/interop/requirements.txt
	.interop/bin/python $(PIP) --no-deps --requirement tests/interop/alone.txt
	PYTHONPATH=src .interop/bin/python -m pytest -q -m interop tests

oldest: $(VENV)/test.stamp
	$(PYTHON) -m venv .oldest
	.oldest/bin/python $(PIP) --requirement $(VENV)/test.txt --requirement tests/oldest.txt
	PYTHONPATH=src .oldest/bin/python -m pytest -q

wheel: $(VENV)/pip.stamp
	tests/wheel.sh

test-arm: $(VENV)/test.stamp
	tests/qemu-aarch64.sh $(if $(ALL),all)

sanitizers: $(VENV)/test.stamp
	tests/sanitizers.sh address
	tests/sanitizers.sh thread

clean:
	rm -rf $(VENV) .interop .oldest build dist $(DEMO) src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find src -name '*.so' -delete
