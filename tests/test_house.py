"""The house: modules import downwards only, and no two need each other.

Counted with the imports under TYPE_CHECKING and inside of functions, which hide circles.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import binq

SOURCE = Path(binq.__file__).parent
# From the top of the house to its ground. What is on one line may not import each other.
FLOORS = (
    ("__main__",),
    ("__init__", "checkpoint"),
    ("cli", "torch"),
    ("run", "bench", "selftest"),
    ("export",),
    ("convert",),
    ("loading",),
    ("models",),
    ("storage",),
    ("calibrator",),
    ("files",),
    ("methods",),
    ("runtime", "nn"),
    ("array",),
    ("formats",),
    ("_core",),
    ("_native", "_memory", "errors", "_version"),
    ("reference",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules():
    """Returns the Python modules of the package by name, ``array.packing`` for one."""
    paths = sorted(SOURCE.rglob("*.py"))
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


MODULES = modules()


def imported(path):
    """Yields the modules of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "binq":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("binq."):
                module = node.module.removeprefix("binq.")
                inner = [f"{module}.{alias.name}" for alias in node.names]
                yield from (name if name in MODULES else module for name in inner)
        elif isinstance(node, ast.Import):
            yield from (a.name[5:] for a in node.names if a.name.startswith("binq."))


GRAPH = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def room(module):
    return module.partition(".")[0]


def test_every_room_has_its_floor():
    assert {room(name) for name in MODULES} <= set(FLOOR)


@pytest.mark.parametrize("name", sorted(set(GRAPH) - {"__init__"}))
def test_imports_point_downwards(name):
    here = FLOOR[room(name)]
    up = [
        other for other in GRAPH[name] if room(other) != room(name) and FLOOR[room(other)] <= here
    ]
    assert not up, f"{name} imports {up}"


def test_no_modules_need_each_other():
    # A package's __init__ only passes on the names of its modules: whoever imports the package
    # imports what the name belongs to.
    graph = {name: {n for n in needed if n in MODULES} for name, needed in GRAPH.items()}
    tuple(TopologicalSorter(graph).static_order())


def test_nothing_imports_the_reference():
    users = {name for name, needed in GRAPH.items() if any(room(n) == "reference" for n in needed)}
    assert {room(name) for name in users} <= {"reference"}


@pytest.mark.parametrize("kind", ["pyx", "pxi", "pxd", "h"])
def test_lines_of_native_sources_have_100_columns_at_most(kind):
    files = list(SOURCE.rglob(f"*.{kind}"))
    assert files
    for path in files:
        lines = path.read_text().splitlines()
        assert [i for i, line in enumerate(lines, 1) if len(line) > 100] == [], path


def test_a_file_is_short_enough_to_be_read():
    written = [*SOURCE.rglob("*.py"), *SOURCE.rglob("*.p[yx][xdi]"), *SOURCE.rglob("*.h")]
    lines = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in written}
    assert len(lines) > 200
    assert {name: count for name, count in lines.items() if count >= 500} == {}
