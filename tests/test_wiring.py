"""Each flag of each program reaches, under its own name, the object that uses it."""

import dataclasses
import importlib
import json
import tomllib
from pathlib import Path

import pytest
from absl import flags
from flag_reference import PROGRAMS

import train
from deeplab import resume, settings
from deeplab.model import deeplabv3
from deeplab.settings import all_settings
from deeplab.trainer import Trainer

OTHER_VALUES = {
    "train_steps": 17,  # with --epochs=0
    "epochs": 0.0,
    "profile_steps": (3, 5),
    "multi_grid": (1, 2, 4),
    "loss": "cross_entropy_dice",
    "resize_size": 2621,
    "min_scale": 0.625,
    "max_scale": 3.0,
    "num_gpus": 0,
    "strategy": "mirrored",
    "prepare_only": False,
    "output_stride": 8,
    "backbone": "mobilenet_v2",
    "jit_compile": False,  # refused on CPUs
    "masks_only": False,  # excludes --truth_dir
    "input_size": (33, 65),
    "onnx_opset": 15,
}
"""The values of flags for which not every other value is valid."""

UNCHANGED = {"epochs", "prepare_only", "jit_compile", "masks_only"}
"""Those of them that keep their default here: with another value, the program would take another path."""


def _other_value(about, number):
    """A value that is neither the default nor another setting's value; it depends on `number`."""
    if about.name in OTHER_VALUES:
        return OTHER_VALUES[about.name]
    if about.choices:
        return next(choice for choice in about.choices if choice != about.default)
    if about.is_tuple:
        return tuple(number + n if about.kind is int else 1 + (number + n) / 100 for n in range(1, 4))
    if about.kind is bool:
        return not about.default
    if about.kind is int:
        return 1000 + number if about.upper is None or about.upper >= 2000 else int(about.upper) - number
    if about.kind is float:
        return (about.lower or 0.0) + (0.3 + number / 1000) * ((about.upper or 1.0) - (about.lower or 0.0))
    return f"{about.name}_{number}"


def _command_line(classes):
    """Flags with such values, and the expected values in the program's objects, by name."""
    line, expected = ["program"], {}
    for number, about in enumerate(all_settings(classes)):
        value = _other_value(about, number)
        assert about.name in UNCHANGED or value != about.default
        text = ",".join(map(str, value)) if about.is_tuple else value
        line.append(f"--{'' if value else 'no'}{about.name}" if about.kind is bool else f"--{about.name}={text}")
        expected[about.name] = value
    return line, expected


class Seen:
    """Notes the settings objects and the named values that functions are called with."""

    def __init__(self, monkeypatch):
        self.objects = []
        self.plain = []
        self.values = {}
        self._monkeypatch = monkeypatch

    def watch(self, owner, name, result=None):
        """Notes the arguments of a function, which then runs; with a `result`, it returns this instead."""
        function = getattr(owner, name)

        def noted(*arguments, **named):
            for value in (*arguments, *named.values()):
                self._note(value)
            self.values |= named
            return function(*arguments, **named) if result is None else result

        self._monkeypatch.setattr(owner, name, noted)

    def _note(self, value):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            self.objects.append(value)
            for field in dataclasses.fields(value):
                self._note(getattr(value, field.name))
        elif isinstance(value, str | float):
            self.plain.append(value)

    def found(self, cls, name):
        """The values of a setting in all objects of its class."""
        return {getattr(each, name) for each in self.objects if isinstance(each, cls)}


@pytest.fixture
def start(monkeypatch):
    """Parses a program's flags with distinct values, and returns these values by name."""

    def parse(classes):
        line, expected = _command_line(classes)
        values = flags.FlagValues()
        settings.define(classes, values)
        values(line)
        monkeypatch.setattr(settings, "FLAGS", values)
        return expected

    return parse


OF_A_RUN = {
    "num_shards": 2,
    "max_bad_examples": 1,
    "exif": "turn",
    "verify": True,
    "num_gpus": 0,
    "strategy": "one_device",
    "connect_minutes": 3.0,
    "seed": 7,
    "deterministic": True,
    "precision": "bfloat16",
    "backbone": "tiny",
    "output_stride": 32,
    "atrous_rates": (2, 4),
    "separable_aspp": True,
    "decoder": True,
    "separable_decoder": True,
    "batch_norm_epsilon": 1e-4,
    "backbone_weights": "none",
    "sync_batch_norm": False,
    "batch_norm_momentum": 0.8,
    "crop_size": 65,
    "augmentation": "scale_crop",
    "min_scale": 0.75,
    "max_scale": 1.5,
    "hue": 0.05,
    "brightness": 0.06,
    "contrast": 0.07,
    "repeat_classes": "disc",
    "repeat_times": 3,
    "loss": "cross_entropy_dice",
    "class_weights": "inverse_frequency",
    "label_smoothing": 0.1,
    "focal_gamma": 0.5,
    "hard_pixel_fraction": 0.9,
    "auxiliary_weight": 0.3,
    "optimizer": "adam",
    "learning_rate": 0.02,
    "scale_learning_rate_from": 8,
    "backbone_learning_rate_factor": 0.5,
    "weight_decay": 0.002,
    "ema_momentum": 0.5,
    "schedule": "constant",
    "warmup_steps": 1,
    "accumulate_steps": 2,
    "clip_norm": 5.0,
    "global_batch_size": 4,
    "train_steps": 2,
    "eval_every_epochs": 0.0,
    "plateau_patience": 5,
    "plateau_factor": 0.3,
    "early_stopping_patience": 6,
    "checkpoint_steps": 50,
    "checkpoint_minutes": 30.0,
    "log_every_steps": 1,
    "steps_per_call": 2,
    "keep_checkpoints": 2,
    "eval_batch_size": 2,
    "eval_batch_pixels": 40_000,
    "scales": (0.5, 1.0),
    "flip": True,
    "window_overlap": 0.25,
}
"""Values of train.py's flags in the run below, few of them the default."""

HANDED_ON_ALONE = {"strategy", "connect_minutes", "class_weights"}
"""Flags whose value goes on without its settings object."""


def test_train_runs_and_every_setting_reaches_what_uses_it(shapes_dir, tiny_backbone, tmp_path, monkeypatch):
    """The whole loop, in this process; only seed and precision, which would outlive it, are not set."""
    line = ["train.py", f"--voc_dir={shapes_dir}", f"--tfrecord_dir={tmp_path}/shards", f"--model_dir={tmp_path}/run"]
    for name, value in OF_A_RUN.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        line.append(f"--{'' if value else 'no'}{name}" if isinstance(value, bool) else f"--{name}={text}")
    values = flags.FlagValues()
    settings.define(train.SETTINGS, values)
    values(line)
    monkeypatch.setattr(settings, "FLAGS", values)

    seen = Seen(monkeypatch)
    for name in ("set_precision", "set_seed"):
        seen.watch(train, name, result=())
    for name in ("make_strategy", "write_shards", "read_splits", "class_weights", "make_train_step", "first_crops"):
        seen.watch(train, name)
    for name in ("Augmentation", "find_repeats", "batches_to_score"):
        seen.watch(train, name)
    for name in ("Predictor", "Trainer", "Evaluator"):
        seen.watch(train, name)
    for name in ("build_deeplabv3", "build_to_train", "make_optimizer", "Schedule", "Checkpoints"):
        seen.watch(resume if hasattr(resume, name) else deeplabv3, name)
    options = settings.Options(train.SETTINGS)
    train.check_flags(options, [])
    assert isinstance(train.main(options, []), Trainer)

    by_name = {about.name: cls for cls in train.SETTINGS for about in all_settings([cls])}
    for name, value in OF_A_RUN.items():
        if name in HANDED_ON_ALONE:
            assert value in seen.plain, name
        else:
            assert seen.found(by_name[name], name) == {value}, name
    assert seen.values["weight_decay"] == 0.002
    assert seen.values["deterministic"] is True
    records = [json.loads(each) for each in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], record["split"]) for record in records] == [(1, "train"), (2, "train"), (2, "val")]
    assert records[0]["learning_rate"] == pytest.approx(0.02 * 4 / 8)
    assert len(list((tmp_path / "shards").glob("train-*.tfrecord"))) == 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_is_read_into_the_field_of_its_name(start, program):
    """Detects values that are swapped between the command line and an object."""
    classes = PROGRAMS[program]
    expected = start(classes)
    options = settings.Options(classes)
    for cls in classes:
        for about in all_settings([cls]):
            value, wanted = getattr(options[cls], about.name), expected[about.name]
            assert value == pytest.approx(wanted) if about.kind is float else str(value) in str(wanted), about.name


def test_each_program_of_the_package_has_a_console_command():
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    started = {f"deeplab-{name.rpartition('.')[2]}": name for name in PROGRAMS if name.startswith("python")}
    started = {command.replace("_", "-"): name for command, name in started.items()}
    assert project["scripts"].keys() == started.keys()
    for console_command, name in started.items():
        module, _, function = project["scripts"][console_command].partition(":")
        command = getattr(importlib.import_module(module), function)
        # `python -m deeplab.NAME` starts the same function.
        assert importlib.import_module(name.removeprefix("python -m ")).command is command
