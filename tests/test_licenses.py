"""docs/licenses.md has the locked packages with the licences that they declare."""

import importlib.metadata
from pathlib import Path

import licenses
import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    tuple(line.strip("| ").split(" | "))
    for line in (ROOT / "docs" / "licenses.md").read_text().splitlines()
    if line.startswith("| ")
][2:]


def test_each_locked_package_has_a_row_with_its_versions():
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [tuple(line.split()[0].split("==")) for line in lock if "==" in line]
    assert [(name, version) for name, versions, _ in ROWS for version in versions.split(", ")] == pinned


def test_licences_are_those_that_the_packages_declare():
    """Of the packages that are here in the one version of the lock file."""
    here = {name: license for name, version, license in ROWS if _installed(name) == version}
    assert len(here) > 30
    assert {name: licenses.license_of(name) for name in here} == here


def test_a_package_without_a_licence_is_named(monkeypatch):
    monkeypatch.delitem(licenses.WITHOUT_METADATA, "namex")
    with pytest.raises(SystemExit, match="namex declares no licence"):
        licenses.license_of("namex")
    with pytest.raises(SystemExit, match=r"no_such_package is in requirements\.lock but not installed"):
        licenses.license_of("no_such_package")


def _installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
