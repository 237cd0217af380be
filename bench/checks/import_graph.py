"""The imports between the package's rooms: how many, which go against the order of floors, and which form a circle.

python bench/checks/import_graph.py [CHECKOUT]

A room is a folder of deeplab/, or of deeplab/data/ if that has folders. Its floor is the place in `FLOORS`; a room may
import rooms below it. Imports inside functions count.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FLOORS = (
    ("ground",),
    ("data.source", "data"),
    ("data.shards",),
    ("data.input",),
    ("model",),
    ("training",),
    ("distribute",),
    ("program",),
    ("run",),
    ("view",),
    ("conductors",),
    ("commands", "app"),
)
CONDUCTORS = {"resume", "trainer", "evaluator", "api"}
STARTED_AS = {
    "predict",
    "export",
    "import_weights",
    "look",
    "app",
    "data.convert",
    "data.sbd",
    "data.shapes",
    "data.polygons",
}
"""Modules that `python -m deeplab.NAME` starts; short ones only start a program elsewhere."""

_SHORT = 12  # lines


def modules(root: Path) -> dict[str, Path]:
    """The package's modules by their dotted names without "deeplab.", and train.py and eval.py."""
    package = root / "deeplab"
    paths = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in paths}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        for name in names:
            inner = name.removeprefix("deeplab.")
            if name.startswith("deeplab.") and inner in known:
                yield inner


def room_of(module: str, path: Path) -> str:
    """The room of a module."""
    parts = module.split(".")
    if module in STARTED_AS and (len(parts) == 1 or len(path.read_text(encoding="utf-8").splitlines()) < _SHORT):
        return "commands"
    if len(parts) == 1:
        return "conductors" if module in CONDUCTORS else "ground"
    if parts[0] == "data" and parts[1] in ("source", "shards", "input") and len(parts) > 2:
        return f"data.{parts[1]}"
    return parts[0]


def circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    """The groups of modules that import one another in a loop."""
    targets: dict[str, set[str]] = {}
    for source, target in edges:
        targets.setdefault(source, set()).add(target)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in targets.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    reach = {module: reached(module) for module in targets}
    found: list[set[str]] = []
    for module in sorted(reach):
        if module in reach[module] and not any(module in group for group in found):
            found.append({other for other in reach[module] if module in reach.get(other, ())})
    return found


def main() -> None:
    """Prints the counts, and each import against the order."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    known = modules(root)
    room = {module: room_of(module, path) for module, path in known.items()}
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    edges = {(module, name) for module, path in known.items() for name in imports(path, known)}
    crossing = [(source, target) for source, target in edges if room[source] != room[target]]
    between = {(room[source], room[target]) for source, target in crossing}
    against = sorted((source, target) for source, target in crossing if floor[room[source]] < floor[room[target]])
    print(
        f"{len(known)} modules in {len(set(room.values()))} rooms; {len(edges)} imports, {len(crossing)} between rooms"
    )
    print(f"{len(between)} pairs of rooms; {len(against)} imports against the order of floors")
    for source, target in against:
        print(f"  {source} -> {target}")
    for group in circles(edges):
        print(f"circle of {len(group)}: {', '.join(sorted(group))}")


if __name__ == "__main__":
    main()
