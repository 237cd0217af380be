"""The import rule: which room of the package may use which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEUTRAL = {"errors", "files", "processor", "progress", "settings"}
ROOMS = {
    "data": set(),
    "model": set(),
    "training": set(),
    "distribute": set(),
    "view": {"data", "training"},
    "run": {"model", "training"},
    "program": set(),
    "app": {"api", "data", "model", "run", "view", "program"},
}
"""Room -> the other rooms that its modules may import, in addition to the neutral modules."""

CONDUCTORS_AND_PROGRAMS = {"api", "evaluator", "trainer", "predict", "export", "look"}
"""The top-level modules that may import any room."""

PROGRAMS_IN_ROOMS = {
    "data.convert": {"program"},
    "data.polygons": {"program"},
    "data.sbd": {"program"},
    "program.programs": {"data", "app", ""},
}
"""Programs in a room, and what else they may import as programs."""


def _imports(path):
    """Modules of the package that a file imports anywhere, without "deeplab."."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" if node.module == "deeplab" else node.module for alias in node.names]
        for name in names:
            if name.split(".")[0] == "deeplab" and name != "deeplab":
                yield name.removeprefix("deeplab.")


def _files(room):
    return sorted((ROOT / "deeplab" / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_neutral_and_permitted_modules(room):
    found = 0
    for path in _files(room):
        module = ".".join(path.relative_to(ROOT / "deeplab").with_suffix("").parts)
        allowed = {room} | ROOMS[room] | NEUTRAL | PROGRAMS_IN_ROOMS.get(module, set())
        for name in _imports(path):
            found += 1
            top = name.split(".")[0]
            if module == "program.programs" and top in CONDUCTORS_AND_PROGRAMS:
                continue
            assert top in allowed, f"{module} imports {name}"
    assert found


def test_neutral_modules_import_only_each_other():
    for name in NEUTRAL:
        for imported in _imports(ROOT / "deeplab" / f"{name}.py"):
            assert imported in NEUTRAL, f"{name} imports {imported}"


def test_data_model_and_training_never_import_one_another():
    rooms = ("data", "model", "training")
    for room in rooms:
        for path in _files(room):
            others = [name for name in _imports(path) if name.split(".")[0] in set(rooms) - {room}]
            assert not others, f"{path.name} imports {others}"


def test_few_modules_are_loose_at_the_top_and_every_one_is_known():
    loose = {path.stem for path in (ROOT / "deeplab").glob("*.py")} - {"__init__"}
    assert loose <= NEUTRAL | CONDUCTORS_AND_PROGRAMS
    assert len(loose) <= 11
    folders = {path.parent.name for path in (ROOT / "deeplab").glob("*/*.py")}
    assert folders == set(ROOMS)


def test_train_py_is_short():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 220


def _functions():
    for path in [*ROOT.glob("*.py"), *(ROOT / "deeplab").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.name}:{node.name}", node


def test_functions_fit_on_a_screen_and_take_few_parameters():
    for name, node in _functions():
        assert node.end_lineno - node.lineno < 60, name
        arguments = [each.arg for each in (*node.args.args, *node.args.kwonlyargs) if each.arg not in ("self", "cls")]
        assert len(arguments) <= 8, name
