"""flags.md and the flag files that ship."""

import re
from pathlib import Path

from deeplab import flags

ROOT = Path(__file__).resolve().parents[1]


def test_flags_md_is_what_the_flags_say():
    assert (ROOT / "flags.md").read_text() == flags.as_markdown(), "stale: python -m deeplab.flags > flags.md"


def test_every_flag_is_read_somewhere():
    names = set(re.findall(r"^\| `--(\w+)` ", flags.as_markdown(), re.MULTILINE))
    assert len(names) > 60
    source = "".join(file.read_text() for file in [*ROOT.glob("*.py"), *(ROOT / "deeplab").rglob("*.py")])
    reads = r'FLAGS\.(\w+)|FLAGS\["(\w+)"\]|\b(?:path|optional_path|positive_integers)\("(\w+)"\)'
    read = {name for match in re.findall(reads, source) for name in match if name}
    assert names - read == set()
