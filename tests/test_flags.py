"""flags.md matches the programs' settings."""

from pathlib import Path

from flag_reference import COMMAND, PROGRAMS, as_markdown

ROOT = Path(__file__).resolve().parents[1]


def test_flags_md_matches_the_settings():
    assert (ROOT / "flags.md").read_text() == as_markdown(PROGRAMS), f"stale: {COMMAND}"
