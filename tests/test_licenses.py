"""docs/licenses.md and docs/licenses-app.md have the locked packages with the licences that they declare."""

import importlib.metadata
from pathlib import Path

import licenses
import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {"requirements.lock": "licenses.md", "requirements-app.lock": "licenses-app.md"}


def _rows(document):
    lines = (ROOT / "docs" / document).read_text().splitlines()
    return [tuple(line.strip("| ").split(" | ")) for line in lines if line.startswith("| ")][2:]


@pytest.mark.parametrize("lock", LOCKS)
def test_each_locked_package_has_a_row_with_its_versions(lock):
    lines = (ROOT / lock).read_text().splitlines()
    pinned = [tuple(line.split()[0].split("==")) for line in lines if "==" in line and not line.startswith((" ", "#"))]
    assert len(pinned) > 50
    assert [(name, version) for name, versions, _ in _rows(LOCKS[lock]) for version in versions.split(", ")] == pinned


def test_licences_are_those_that_the_packages_declare():
    """Of the packages that are here in the one version of a lock file."""
    rows = [row for document in LOCKS.values() for row in _rows(document)]
    here = {name: license for name, version, license in rows if _installed(name) == version}
    assert len(here) > 30
    assert {name: licenses.license_of(name) for name in here} == here


def test_a_package_without_a_licence_is_named(monkeypatch):
    monkeypatch.delitem(licenses.WITHOUT_METADATA, "namex")
    with pytest.raises(SystemExit, match="namex declares no licence"):
        licenses.license_of("namex")
    with pytest.raises(SystemExit, match="no_such_package is not installed"):
        licenses.license_of("no_such_package")


def _installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
