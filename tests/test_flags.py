"""flags.md and the flag files that ship."""

from pathlib import Path

from deeplab import flags

ROOT = Path(__file__).resolve().parents[1]


def test_flags_md_is_what_the_flags_say():
    assert (ROOT / "flags.md").read_text() == flags.as_markdown(), "stale: python -m deeplab.flags > flags.md"
