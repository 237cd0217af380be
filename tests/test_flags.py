"""flags.md matches the programs' settings; wrong flags are refused at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from flag_reference import COMMAND, PROGRAMS, as_markdown

ROOT = Path(__file__).resolve().parents[1]


def test_flags_md_matches_the_settings():
    assert (ROOT / "flags.md").read_text() == as_markdown(PROGRAMS), f"stale: {COMMAND}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_flag_is_refused_before_tensorflow_is_imported(program):
    """TensorFlow's import takes seconds, all other imports together a fifth of one."""
    command = [sys.executable, "-X", "importtime", *program.removeprefix("python ").split(), "--no_such_flag"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Unknown command line flag 'no_such_flag'" in done.stderr.splitlines()[-1]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "deeplab.settings" in imported
    assert not imported & {"tensorflow", "keras"}
