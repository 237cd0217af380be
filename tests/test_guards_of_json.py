"""Damaged files of runs, shards and exports end in one line, whatever stands in them."""

import json
import logging

import pytest

from deeplab.api import load
from deeplab.data.shards.split import Split, _checksum
from deeplab.errors import DataError
from deeplab.model.settings import ModelConfig
from deeplab.run.provenance import read_description
from deeplab.run.run_folder import read_config
from deeplab.run.splits import read_splits_of_run
from deeplab.view.report import read_records

CONFIG = ModelConfig(("a", "b")).to_json()
DEEP = "[" * 100_000


def _line(read, *arguments):
    """What a reader raises, which must be one line."""
    with pytest.raises(DataError) as caught:
        read(*arguments)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("output_stride", "16", "output_stride: '16'"),
        ("output_stride", 7, "output_stride: 7"),
        ("output_stride", True, "output_stride: True"),
        ("backbone", "alexnet", "backbone: 'alexnet'"),
        ("atrous_rates", [6, 0], "atrous_rates: 0"),
        ("atrous_rates", 6, "atrous_rates: 6 is not a list"),
        ("class_names", [], "no classes"),
        ("class_names", ["a", 2], "class_names: 2"),
        ("class_names", {"a": 1}, "class_names: {'a': 1} is not a list"),
        ("batch_norm_epsilon", -1.0, "batch_norm_epsilon: -1.0"),
        ("batch_norm_epsilon", 10**400, "batch_norm_epsilon: 1000"),
        ("multi_grid", [1, 2], "--multi_grid=1,2"),
        ("colour", 1, "unknown field 'colour'"),
    ],
)
def test_a_damaged_model_json(tmp_path, field, value, words):
    (tmp_path / "model.json").write_text(json.dumps({**CONFIG, field: value}))
    assert words in _line(read_config, tmp_path)


@pytest.mark.parametrize("text", [DEEP, "", "null", "[]", '{"batch_norm_epsilon": 1e999}', "{", '"x"', "\x00"])
def test_what_is_no_model_json_at_all(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    assert str(tmp_path / "model.json") in _line(read_config, tmp_path)


def test_a_model_json_of_an_earlier_version_has_the_defaults_of_new_fields(tmp_path):
    earlier = {name: value for name, value in CONFIG.items() if name != "separable_decoder"}
    (tmp_path / "model.json").write_text(json.dumps(earlier))
    assert read_config(tmp_path) == ModelConfig(("a", "b"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_examples": "10"}, "num_examples: '10'"),
        ({"num_examples": -10}, "out of range"),
        ({"num_examples": 11}, "11 examples, but its shards hold another number"),
        ({"class_pixels": [1]}, "pixels of 1 classes"),
        ({"class_pixels": None}, "class_pixels: None is not a list"),
        ({"max_height": 1e300}, "max_height: 1e+300"),
        ({"shards": [3]}, "3 where an object belongs"),
        ({"shards": []}, "out of range"),
        ({"more": 1}, "unknown field 'more'"),
        ({"split": "../train"}, "names a shard in another folder"),
        ({"split": "x" * 5000}, "names a shard in another folder"),
    ],
)
def test_a_manifest_with_a_valid_checksum_and_wrong_fields(shards, tmp_path, change, words):
    """As another program might write it: the checksum guards against damage only."""
    fields = json.loads((shards / "train.json").read_text()) | change
    del fields["checksum"]
    (tmp_path / "train.json").write_text(json.dumps({**fields, "checksum": _checksum(fields)}))
    assert words in _line(Split.read, tmp_path, "train")


@pytest.mark.parametrize("text", [DEEP, "[]", "{}", '{"format_version": []}'])
def test_what_is_no_manifest_at_all(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    assert str(tmp_path / "train.json") in _line(Split.read, tmp_path, "train")


@pytest.mark.parametrize(
    "text", [DEEP, "[]", '{"val": 1}', '{"val": {"name": "val", "digest": "", "num_examples": "1"}}']
)
def test_a_damaged_splits_json(tmp_path, text):
    (tmp_path / "splits.json").write_text(text)
    assert "splits.json: cannot be read" in _line(read_splits_of_run, tmp_path)


@pytest.mark.parametrize(
    "line", [DEEP, "[]", "1", '{"step": "1", "split": "val"}', '{"step": 1}', '{"step": 1, "split": []}']
)
def test_a_damaged_line_of_metrics(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "split": "val"}}\n{line}\n')
    assert "line 2 is not a record of a run" in _line(read_records, tmp_path / "metrics.jsonl")


def test_of_a_record_only_finite_numbers_are_drawn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "val", "loss": 1e999, "mean_iou": 0.5, "x": [1]}\n')
    assert read_records(tmp_path / "metrics.jsonl") == [{"step": 1, "split": "val", "mean_iou": 0.5}]


@pytest.mark.parametrize("run", ['{"images": 0}', "[1]", '{"images": "x"}', '{"images": -1}', '"x"'])
def test_a_damaged_start(tmp_path, run):
    (tmp_path / "starts.jsonl").write_text(f'{{"run": {run}}}\n')
    assert "line 1 is not a record of a start" in _line(read_description, tmp_path)


@pytest.mark.parametrize(
    "text", [DEEP, "[]", "{}", '{"class_names": 3}', '{"class_names": []}', '{"class_names": [1]}']
)
def test_a_damaged_export(tmp_path, text, caplog):
    caplog.set_level(logging.ERROR)
    (tmp_path / "deeplab.json").write_text(text)
    assert "deeplab.json: not the folder of an export" in _line(load, tmp_path)
