"""The import rule: which room of the package may use which; and how long and how dense code may be."""

import ast
from pathlib import Path

import import_graph
import pytest

ROOT = Path(__file__).resolve().parents[1]
KNOWN = import_graph.modules(ROOT)
ROOM = {module: import_graph.room_of(module, path) for module, path in KNOWN.items()}
IMPORTS = {(module, name) for module, path in KNOWN.items() for name in import_graph.imports(path, KNOWN)}

MAY_IMPORT = {
    "ground": set(),
    "data.source": set(),
    "data.shards": {"data.source"},
    "data.input": {"data.shards", "data.source"},
    "model": set(),
    "training": set(),
    "distribute": set(),
    "program": set(),
    "run": {"model", "training"},
    "view": {"data.input", "data.shards", "data.source", "training"},
}
"""Room -> the other rooms that its modules may import, beside the ground. Conductors and commands may import all."""


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_ground_and_permitted_rooms(room):
    allowed = {"ground", room} | MAY_IMPORT[room]
    assert not [(module, name) for module, name in IMPORTS if ROOM[module] == room and ROOM[name] not in allowed]


def test_every_room_is_known_and_imports_something():
    assert set(ROOM.values()) == {*MAY_IMPORT, "conductors", "commands"}
    assert {ROOM[module] for module, _ in IMPORTS} >= set(ROOM.values())


def test_no_import_goes_against_the_order_of_floors_and_none_in_a_circle():
    floor = {name: number for number, names in enumerate(import_graph.FLOORS) for name in names}
    assert not [(source, target) for source, target in IMPORTS if floor[ROOM[source]] < floor[ROOM[target]]]
    assert not import_graph.circles(IMPORTS)


def test_the_ground_and_the_conductors_are_few():
    assert sorted(module for module, room in ROOM.items() if room == "ground") == [
        "cpu_kernels",
        "errors",
        "files",
        "json_fields",
        "labels",
        "progress",
        "settings",
        "text",
        "threads",
    ]
    assert sorted(module for module, room in ROOM.items() if room == "conductors") == [
        "api",
        "evaluator",
        "resume",
        "trainer",
    ]


def test_modules_that_start_a_program_only_list_and_check_its_flags():
    starters = [path for module, path in KNOWN.items() if module in import_graph.STARTED_AS]
    assert len(starters) == len(import_graph.STARTED_AS)
    for path in starters:
        functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert functions <= {"check_flags", "command"}


def test_one_assignment_a_line():
    """A tuple is assigned to a tuple only to swap or to rotate values."""
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                values = sorted(map(ast.unparse, node.value.elts))
                for target in node.targets:
                    if isinstance(target, ast.Tuple):
                        assert sorted(map(ast.unparse, target.elts)) == values, f"{path.name}:{node.lineno}"


def test_train_py_is_short():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 220


def _trees():
    paths = [*ROOT.glob("*.py"), *(ROOT / "deeplab").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    return [(path, ast.parse(path.read_text())) for path in paths]
