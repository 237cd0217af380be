"""Each flag of each program reaches, under its own name, the object that uses it.

The programs run up to the functions that do the work; the test inspects the arguments of these functions.
"""

import contextlib
import dataclasses
import importlib
import tomllib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from absl import flags
from flag_reference import PROGRAMS

import train
from deeplab import settings
from deeplab.data.input.evaluation import EvaluationBatches
from deeplab.data.input.sampling import NO_REPEATS
from deeplab.settings import all_settings

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
}
"""The values of flags for which not every other value is valid."""

UNCHANGED = {"epochs", "prepare_only", "jit_compile"}
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
    """Collects the settings objects and the plain values that functions are called with."""

    def __init__(self, monkeypatch):
        self.objects, self.values, self._monkeypatch = [], {}, monkeypatch

    def instead_of(self, module, name, result=None):
        """Replaces a function by one that only records its arguments and returns `result`."""

        def note(*arguments, **named):
            for value in (*arguments, *named.values()):
                self._note(value)
            self.values |= named
            return result if result is not None else MagicMock()

        self._monkeypatch.setattr(module, name, note)

    def _note(self, value):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            self.objects.append(value)
            for field in dataclasses.fields(value):
                self._note(getattr(value, field.name))
        elif hasattr(value, "__self__"):  # a bound method, as Augmentation.finish
            self._note(value.__self__)

    def check(self, classes, expected, apart=()):
        """Every setting of the classes was passed on, in an object of its class, with the expected value."""
        for cls in classes:
            for about in all_settings([cls]):
                if about.name in apart:
                    continue
                found = {str(getattr(each, about.name)) for each in self.objects if isinstance(each, cls)}
                assert found == {str(expected[about.name])}, f"--{about.name} of {cls.__name__}: {found}"


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


def test_train(start, monkeypatch):
    expected = start(train.SETTINGS)
    seen = Seen(monkeypatch)
    split = MagicMock(num_examples=100, num_classes=3, class_names=("a", "b", "c"), class_pixels=(1, 2, 3))
    strategy = MagicMock(num_replicas_in_sync=1, scope=contextlib.nullcontext)
    schedule = SimpleNamespace(scale=None)
    model = MagicMock()
    state = MagicMock(step=0, examples=0)
    seen.instead_of(train, "make_strategy", strategy)
    seen.instead_of(train, "Workers", MagicMock(is_chief=True))
    seen.instead_of(train, "read_splits", (split, split))
    seen.instead_of(train, "class_weights")
    monkeypatch.setattr(train.SamplingSettings, "repeats", lambda sampling, split: seen._note(sampling) or NO_REPEATS)
    seen.instead_of(train, "build_to_train", (model, model))
    seen.instead_of(train, "Schedule", schedule)
    seen.instead_of(train, "TrainState", state)
    for name in ("check_strategy", "set_precision", "set_seed", "write_shards", "make_optimizer", "Checkpoints"):
        seen.instead_of(train, name)
    for name in ("Predictor", "make_train_step", "first_crops", "first_batch", "Evaluator", "Trainer", "RunLog"):
        seen.instead_of(train, name)
    monkeypatch.setattr(train, "provenance", MagicMock())
    monkeypatch.setattr(train, "write_splits_of_run", MagicMock())
    monkeypatch.setattr(train.Feed, "make", lambda *arguments: [seen._note(value) for value in arguments])
    monkeypatch.setattr(train, "damage_named", lambda splits: contextlib.nullcontext())
    folder = MagicMock(output_folder=lambda model_dir, chief: contextlib.nullcontext(model_dir))
    folder.has_checkpoint.return_value = False
    monkeypatch.setattr(train, "folder", folder)
    train.main(["train.py"])

    handed_on_alone = {
        "model_dir",
        "init_checkpoint",
        "strategy",
        "eval_batch_size",
        "eval_batch_pixels",
        "download",
        "voc_url",
    }
    seen.check(train.SETTINGS, expected, apart=handed_on_alone)
    assert {str(call.args[0]) for call in folder.has_checkpoint.call_args_list} == {expected["model_dir"]}
    assert str(folder.init_weights.call_args.args[1]) == expected["init_checkpoint"]
    (batches,) = (each for each in seen.objects if isinstance(each, EvaluationBatches))
    assert (batches.max_images, batches.max_pixels) == (expected["eval_batch_size"], expected["eval_batch_pixels"])
    assert seen.values["weight_decay"] == pytest.approx(expected["weight_decay"])
    assert seen.values["deterministic"] is True


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
    assert project["scripts"].keys() == started.keys()
    for console_command, name in started.items():
        module, _, function = project["scripts"][console_command].partition(":")
        command = getattr(importlib.import_module(module), function)
        # `python -m deeplab.NAME` starts the same function.
        assert importlib.import_module(name.removeprefix("python -m ")).command is command
