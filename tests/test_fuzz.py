"""Changed text, JSON and pictures end in a result or in one line; bench/checks/fuzz.py tries more changes."""

import fuzz
import fuzz_kinds
import fuzz_more_kinds
import numpy as np
import pytest

MUTATIONS = 40


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Kinds whose reading computes nothing in TensorFlow."""
    folder = tmp_path_factory.mktemp("fuzz")
    fuzz_kinds.write_voc(folder / "voc", np.random.default_rng(0))
    kinds = fuzz_kinds.run_kinds(folder) | fuzz_kinds.list_kinds(folder) | fuzz_kinds.annotation_kinds(folder)
    return kinds | fuzz_more_kinds.more_kinds(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("model.json", "metrics.jsonl", "class names", "class table, values", "class table, colours", "labelmap.txt"),
        *("_classes.csv", "list of names", "list of pairs", "labelme", "labelme, image inside", "COCO", "data.yaml"),
        *("labels of YOLO", "Label Studio", "VIA 2", "VIA 3", "Darwin", "run lengths", "CVAT", "Supervisely"),
        *("Supervisely, meta.json", "Supervisely, colors.txt", ".pth", ".pth, pickle"),
    ],
)
def test_a_changed_file_is_read_or_refused_in_one_line(kinds, name):
    if name in ("data.yaml", "labels of YOLO"):
        pytest.importorskip("yaml")
    if name in ("COCO", "Label Studio", "VIA 2", "VIA 3", "CVAT"):
        pytest.importorskip("pycocotools")
    kind = kinds[name]
    original = kind.path.read_bytes()
    reference = kind.read()
    outcomes = set()
    for number in range(MUTATIONS):
        kind.path.write_bytes(fuzz.mutation(kind, original, number, seed=0))
        outcomes.add(outcome := fuzz.outcome_of(kind, reference))
        assert fuzz.problem_of(kind, outcome, 0, 0) == ""
    kind.path.write_bytes(original)
    assert "refused" in outcomes
    assert len(outcomes) > 1
