"""Every example in the README, in docs/ and in public docstrings runs and prints what it says."""

import ast
import doctest
import importlib
import inspect
import operator
import pkgutil
import re
from pathlib import Path

import pytest

import binq

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = ["binq", *(m.name for m in pkgutil.walk_packages(binq.__path__, "binq."))]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def run(tests, capsys):
    """Runs doctests and fails with their report."""
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in tests:
        runner.run(test)
    assert runner.failures == 0, capsys.readouterr().out


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Examples write their files to a folder of their own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page, capsys):
    parser = doctest.DocTestParser()
    text = page.read_text(encoding="utf-8").replace("\n```", "\n\n```")
    run([parser.get_doctest(text, {}, page.name, str(page), 0)], capsys)


def test_signatures_on_the_page_of_the_api_are_those_of_the_code():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    calls = re.findall(r"`(?:binq\.)?([\w.]+)\(([^`]*=[^`]*)\)`", text)
    # Not those of which a part is said, such as ``from_codes(…, rotation=r)``.
    whole = [(name, words) for name, words in calls if not re.search("…|[.]{3}", words)]
    assert len(whole) >= 15
    for name, words in whole:
        found = re.sub(r"=[^,]*", "", " ".join(words.split())).split(", ")
        code = inspect.signature(operator.attrgetter(name)(binq)).parameters.values()
        assert [word for word in found if word != "*"] == [each.name for each in code], name
        given = dict(re.findall(r"(\w+)=([^,]*)", " ".join(words.split())))
        for each in code:
            assert (each.name in given) == (each.default is not each.empty), f"{name}: {each}"
            assert each.name not in given or ast.literal_eval(given[each.name]) == each.default
        only = "*" in found and found.index("*")
        kinds = [each.kind is each.KEYWORD_ONLY for each in code]
        assert (kinds.index(True) if any(kinds) else False) == only, name


def test_every_page_is_on_the_site():
    docs = ROOT / "docs"
    lists = re.findall(r"```{toctree}\n(.*?)```", (docs / "index.md").read_text(), re.DOTALL)
    listed = [line for text in lists for line in text.splitlines() if line and line[0] != ":"]
    pages = {str(page.relative_to(docs).with_suffix("")) for page in docs.rglob("*.md")}
    assert sorted(listed) == sorted(pages - {"index"}), "docs/index.md lists every page once"


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *PAGES], ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    files = [link for link in links if link and not re.match(r"[a-z]+:", link)]
    missing = [link for link in files if not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to {missing}"


@pytest.mark.parametrize("name", [m for m in MODULES if not m.endswith("__main__")])
def test_docstrings(name, capsys):
    if "_native" in name or name == "binq._core":
        pytest.skip("compiled")
    if name.startswith("binq.torch"):
        pytest.importorskip("torch")
    module = importlib.import_module(name)
    run(doctest.DocTestFinder(exclude_empty=True).find(module, name), capsys)


@pytest.mark.parametrize("name", binq.__all__)
def test_public_names_have_documentation(name):
    if name == "__version__":
        return
    text = getattr(binq, name).__doc__
    assert text
    assert text.splitlines()[0].endswith((".", ":"))
    assert f"binq.{name}" in (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_all_is_sorted_and_complete():
    assert sorted(binq.__all__) == list(binq.__all__)
    assert set(binq.__all__) <= set(dir(binq))
