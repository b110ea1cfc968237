"""import binq: what it brings, and what it does not load."""

import subprocess
import sys
from importlib import import_module

import pytest

import binq


def test_import_loads_no_slow_library():
    """scipy, tqdm, safetensors and matplotlib wait for the first function that needs them."""
    program = (
        "import sys, numpy; before = set(sys.modules); import binq; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "binq" in output
    assert not {"scipy", "tqdm", "safetensors", "matplotlib", "multiprocessing"} & set(output)


def test_names_resolve_once():
    for name in binq.__all__:
        assert getattr(binq, name) is getattr(binq, name)
    assert set(binq.__all__) <= set(dir(binq))


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.verify"])
def test_old_names_of_modules_still_work(name):
    old = import_module(f"binq.{name}")
    new = import_module("binq." + name.replace("checkpoint", "convert"))
    assert all(getattr(old, key) is getattr(new, key) for key in old.__all__)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'binq' has no attribute 'load'"):
        _ = binq.load
