"""flags.md is what the programs' settings say, and each flag reaches the object that uses it."""

from pathlib import Path

from deeplab.program.programs import PROGRAMS
from deeplab.program.reference import COMMAND, as_markdown

ROOT = Path(__file__).resolve().parents[1]


def test_flags_md_is_what_the_settings_say():
    assert (ROOT / "flags.md").read_text() == as_markdown(PROGRAMS), f"stale: {COMMAND}"
