"""flags.md matches the programs' settings."""

from pathlib import Path

from deeplab.program.programs import PROGRAMS
from deeplab.program.reference import COMMAND, as_markdown

ROOT = Path(__file__).resolve().parents[1]


def test_flags_md_matches_the_settings():
    assert (ROOT / "flags.md").read_text() == as_markdown(PROGRAMS), f"stale: {COMMAND}"
