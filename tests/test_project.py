"""What the project says about itself in more than one file: versions, Pythons, requirements."""

import re
import tomllib
from pathlib import Path

import pytest

import binq

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
OLDEST = (ROOT / "tests" / "oldest.txt").read_text()
CI = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
CLASSIFIER = "Programming Language :: Python :: 3."


def pythons():
    """Returns the versions of Python of the classifiers, 3.14t for a free-threaded one."""
    found = [
        f"3.{text.removeprefix(CLASSIFIER)}"
        for text in PROJECT["classifiers"]
        if text.startswith(CLASSIFIER)
    ]
    free = any("Free Threading" in text for text in PROJECT["classifiers"])
    return [*found, f"{found[-1]}t"] if free else found


def pins(text):
    """Returns the lines ``name==version`` of a file of requirements."""
    lines = (line.partition(";")[0].strip() for line in text.splitlines())
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_citation_has_the_version():
    (said,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert said == binq.__version__


def test_the_changelog_begins_with_the_version():
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first.group(1) == binq.__version__


def test_the_oldest_versions_are_those_that_are_allowed():
    allowed = dict(text.split(">=") for text in PROJECT["dependencies"])
    assert {name: text.removesuffix(".0") for name, text in pins(OLDEST).items()} == allowed


def test_every_python_is_tested_and_has_a_wheel():
    matrix = re.search(r"python: \[(.+)\]", CI).group(1)
    assert re.findall(r'"(.+?)"', matrix) == pythons()
    wheels = [f"cp{version.replace('.', '')}-*" for version in pythons()]
    assert TOOLS["cibuildwheel"]["build"] == wheels
    assert PROJECT["requires-python"] == f">={pythons()[0]}"


@pytest.mark.parametrize("name", ["bug", "slow"])
def test_reports_of_problems_ask_for_the_selftest(name):
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text()
    assert re.search(r"label: Output of `binq selftest`.*?required: true", form, re.DOTALL)


def test_every_library_of_interop_has_one_version():
    requirements = (ROOT / "tests" / "interop" / "requirements.txt").read_text()
    assert {"torch", "transformers", "gguf"} <= set(pins(requirements))
    bench = dict(
        text.split("==") for text in PROJECT["optional-dependencies"]["bench"] if "==" in text
    )
    both = set(bench) & set(pins(requirements))
    assert both
    assert {name: bench[name] for name in both} == {name: pins(requirements)[name] for name in both}


def test_the_speeds_of_the_readme_are_measured_ones():
    ratio = r"\b\d+\.\d+x"
    said = re.findall(ratio, (ROOT / "README.md").read_text())
    assert len(said) >= 2
    assert set(said) <= set(re.findall(ratio, (ROOT / "docs" / "benchmarks.md").read_text()))
