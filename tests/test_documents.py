"""What documents and docstrings name exists: files, modules, sections; the README's figures are measurements.md's."""

import ast
import functools
import os
import re
import sys
from pathlib import Path

import pytest
from tensorboard.plugins.hparams.api_pb2 import MetricName
from tensorboard.plugins.hparams.metrics import run_tag_from_session_and_metric

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deeplab"
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
TEXTS = [
    *(path for path in DOCUMENTS if path.name != "CHANGELOG.md"),  # it also names what is gone
    *PACKAGE.rglob("*.py"),
    *(path for folder in ("bench", "cluster", "configs") for path in (ROOT / folder).rglob("*.*")),
    *(ROOT / name for name in ("train.py", "eval.py")),
]
EACH_TEXT = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))

PROGRAMS = {
    path.name
    for pattern in ("*.py", "bench/**/*.py", "deeplab/**/*.py", "tests/**/*.py")
    for path in ROOT.glob(pattern)
}
MODULES = {path.stem: path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
ROOMS = {path.parent.name: path.parent for path in PACKAGE.rglob("__init__.py")}

A_FILE = re.compile(
    r"(?<![\w/.-])((?:bench|cluster|configs|deeplab|docs|findings|tests)/[\w./*-]*\w"  # from the repository's root
    rf"|(?:{'|'.join(ROOMS)})/[\w/]+\.py\b"  # from the package
    r"|\w+\.py\b)"  # by its name only
)
A_MODULE = re.compile(r"(?<![\w/.@-])deeplab\.(?!json)([a-z_]\w*(?:\.\w+)*)")
A_NAME = re.compile(r"`([a-z_]+(?:\.\w+)+)(?:\([^`]*)?`")
A_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")
A_SECTION = re.compile(r"docs/(\w+\.md), ([^();:]+)\)")
A_FIGURE = re.compile(
    r"\d[\d.,]*(?:e-?\d+)?(?: to \d[\d.,]*)? ?(?:%|times\b|minutes?\b|million \w+|of the \w+)|\d+,\d{3}\b"
)
A_COMMAND = re.compile(r"^python (?:-m )?(train\.py|eval\.py|deeplab\.[\w.]+) (.*)$", re.MULTILINE)

OTHERS_FILES = {"service.py", "cross_device_utils.py", "strategy_combinations.py", "__main__.py"}
"""TensorFlow's, Python's, and one that a reader of serving.md writes."""

OTHERS_NAMES = {
    "deeplab",
    "keras",
    "labelme",
    "model",
    "strategy",
    "tf",
    "torch",
    "train_dataloader",
    *sys.stdlib_module_names,
}
"""The first words of dotted names that are not the package's; `deeplab.NAME` has a test of its own."""

ENDINGS = (".csv", ".jpg", ".json", ".jsonl", ".html", ".md", ".onnx", ".py", ".tflite", ".txt", ".yaml")


@functools.cache
def names_in(module: Path) -> set[str]:
    """The names that a module defines, those in a class as `Class.name`."""

    def found(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from found(node.body, f"{prefix}{node.name}.")
            if isinstance(node, ast.Assign | ast.AnnAssign):
                yield from (prefix + each.id for each in ast.walk(node) if isinstance(each, ast.Name))
            if isinstance(node, ast.ImportFrom | ast.If):
                yield from (prefix + each.name for each in ast.walk(node) if isinstance(each, ast.alias))

    return set(found(ast.parse(module.read_text(encoding="utf-8")).body, ""))


def exists(name: str, room: Path) -> bool:
    """Whether a dotted name in a room is a room, a module, or something that one of them defines."""
    first, _, rest = name.partition(".")
    module = room / f"{first}.py"
    return (
        name in names_in(room / "__init__.py")
        or ((room / first).is_dir() and (not rest or exists(rest, room / first)))
        or (module.exists() and (not rest or rest in names_in(module)))
    )


@functools.cache
def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def in_one_line(path: Path) -> str:
    """The text of a file without line breaks, indents and comment signs."""
    return re.sub(r"\s*\n[\s#]*", " ", path.read_text(encoding="utf-8"))


@EACH_TEXT
def test_files_exist(path):
    for name in A_FILE.findall(path.read_text(encoding="utf-8")):
        is_there = any(ROOT.glob(name)) or any(PACKAGE.glob(name)) or name in PROGRAMS
        assert is_there or name in OTHERS_FILES, name


@EACH_TEXT
def test_modules_and_names_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in A_MODULE.findall(text):
        assert exists(name, PACKAGE), f"deeplab.{name}"
    for name in A_NAME.findall(text):
        first, _, rest = name.partition(".")
        is_there = exists(name, PACKAGE) or any(
            rest in names_in(MODULES[first]) if first in MODULES else exists(rest, ROOMS[first])
            for first in {first} & {*MODULES, *ROOMS}
        )
        assert is_there or first in OTHERS_NAMES or name.endswith(ENDINGS), name


@EACH_TEXT
def test_sections_exist(path):
    for document, title in A_SECTION.findall(in_one_line(path)):
        assert title.lower().replace(" ", "-") in anchors(ROOT / "docs" / document), title


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(path):
    for target, anchor in A_LINK.findall(path.read_text(encoding="utf-8")):
        file = path.parent / target if target else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


@EACH_TEXT
def test_flags_of_commands_exist(path):
    flags = (ROOT / "flags.md").read_text(encoding="utf-8")
    for program, arguments in A_COMMAND.findall(path.read_text(encoding="utf-8").replace("\\\n", " ")):
        section = re.search(rf"^## (?:python -m )?{re.escape(program)}\n(.*?)(?=^## |\Z)", flags, re.M | re.S)
        known = {"flagfile", *re.findall(r"^\| `--(\w+)`", section[1] if section else "", re.MULTILINE)}
        for name in re.findall(r"(?<!\S)--(\w+)", arguments.partition("#")[0]):
            assert name in known or name.removeprefix("no") in known, f"{program} --{name}"


def test_figures_of_the_readme_stand_in_the_measurements():
    measurements = in_one_line(ROOT / "docs" / "measurements.md")
    figures = A_FIGURE.findall(re.sub(r"`[^`]*`", "", in_one_line(ROOT / "README.md")))
    assert len(figures) >= 8
    assert [figure for figure in figures if figure not in measurements] == []


@pytest.mark.parametrize("path", [ROOT / "Makefile", ROOT / "docs" / "tensorboard.md"], ids=lambda path: path.name)
def test_the_folder_named_for_tensorboard_fills_its_table_of_runs(path):
    folder = re.search(r"tensorboard --logdir=([\w/]+)", path.read_text(encoding="utf-8"))[1]
    run, _ = run_tag_from_session_and_metric(os.path.relpath("runs/demo", folder), MetricName(group="val"))
    assert run == os.path.normpath(run)  # "./val", of a run's own folder, is none that TensorBoard knows
