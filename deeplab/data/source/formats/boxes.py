"""Objects that have a box but no outline: the user decides what the box means."""

from deeplab.data.source.classes import VOID
from deeplab.data.source.formats.findings import Findings

MEANINGS = ("object", "void", "nothing")
"""All pixels in a box are the object, or are void, or the box is left out."""


class BoxRule:
    """Decides the label that boxes are drawn with, and counts boxes; without a meaning they are a problem."""

    def __init__(self, meaning: str | None, findings: Findings) -> None:
        self._meaning = meaning
        self._findings = findings
        self._number = 0

    @property
    def has_meaning(self) -> bool:
        """Whether the user chose a meaning for boxes."""
        return self._meaning is not None

    def label(self, label: str, name: str) -> str | None:
        """The label to draw a box of `label` in the image `name` with; None if it is not drawn."""
        self._number += 1
        if self._meaning == "nothing":
            self._findings.omit("box without an outline", name, chosen=True)
        return {"object": label, "void": VOID}.get(self._meaning or "")

    def check(self, num_objects: int) -> None:
        """Adds a problem if there are boxes without a chosen meaning; `num_objects` is the number of all objects."""
        if self._number and self._meaning is None:
            self._findings.add(
                f"{self._number:,} of {num_objects:,} objects have a box but no outline: --boxes=object makes all "
                "pixels in a box the object, --boxes=void makes them void (neither trained on nor scored), and "
                "--boxes=nothing leaves these objects out"
            )
