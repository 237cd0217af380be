"""Settings: fields that are flags, their conversion, their error messages, and the texts generated from them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from absl import flags
from flag_reference import as_markdown

from deeplab import settings
from deeplab.errors import UsageError
from deeplab.program.help import help_text
from deeplab.settings import setting


@dataclass(frozen=True)
class Network:
    """Network."""

    backbone: str = setting("small", "Which one.", choices=("small", "large"), fixed=True)
    output_stride: int | None = setting(16, "Input size over feature size.", choices=(8, 16), fixed=True)
    multi_grid: tuple[int, ...] = setting((1, 1, 1), "Dilation factors.", lower=1)
    scales: tuple[float, ...] = setting((1.0,), "Sizes.", lower=0.1, upper=10)
    class_names: tuple[str, ...] = ()  # not a flag


@dataclass(frozen=True)
class Run:
    """Where, and how long.

    More words, for readers of the code.
    """

    model_dir: Path | None = setting(None, "Folder of the run.", hyperparameter=False)
    train_steps: int = setting(30, "Updates | steps.", lower=0)
    epochs: float = setting(0.0, "Passes.", lower=0.0)
    learning_rate: float = setting(1e-4, "Peak.", lower=0.0, upper=1.0)
    flip: bool = setting(False, "Mirror, too.")
    num_gpus: int | None = setting(None, "GPUs; --num_gpus=0 for the CPU.", lower=0, hyperparameter=False)
    profile_steps: tuple[int, ...] | None = setting(None, "First and last.", lower=1, hyperparameter=False)

    def __post_init__(self):
        if self.train_steps and self.epochs:
            raise UsageError("--train_steps and --epochs: give one of them")


CLASSES = (Network, Run)


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line instead of the process's own; `read` and similar functions then see these flags."""

    def run(*arguments):
        values = flags.FlagValues()
        settings.define(CLASSES, values)
        monkeypatch.setattr(settings, "FLAGS", values)
        return values(["program.py", *arguments])

    return run


def test_without_arguments_an_object_has_the_defaults(parse):
    parse()
    assert settings.read(Network) == Network()
    assert settings.read(Run) == Run()


def test_each_flag_reaches_the_field_of_its_name_in_its_type(parse, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    arguments = [
        *("--backbone=large", "--output_stride=8", "--multi_grid=1, 2,4", "--scales=0.5,2", "--model_dir=~/run"),
        *("--train_steps=7", "--learning_rate=1e-3", "--flip", "--num_gpus=2", "--profile_steps=10,20", "image.jpg"),
    ]
    assert parse(*arguments) == ["program.py", "image.jpg"]
    assert settings.read(Network) == Network("large", 8, (1, 2, 4), (0.5, 2.0))
    expected = Run(Path("/home/someone/run"), 7, 0.0, 1e-3, True, 2, (10, 20))
    assert settings.read(Run) == expected
    for cls in CLASSES:
        for field in dataclasses.fields(cls):
            value, default = getattr(settings.read(cls), field.name), field.default
            assert type(value) is type(default) or default is None


def test_an_empty_path_unsets_the_value_of_a_flag_file(parse):
    parse("--model_dir=somewhere", "--model_dir=")
    assert settings.read(Run).model_dir is None


@pytest.mark.parametrize(
    "address", ["gs://bucket/run", "s3://bucket", "HDFS://host:9000/run", "https://host/run", "gs:/x"]
)
def test_an_address_is_no_path(parse, address):
    """pathlib would make a local folder of it."""
    parse(f"--model_dir={address}")
    with pytest.raises(UsageError, match=f"--model_dir={address}: not a local path; mount .* or copy"):
        settings.read(Run)


@pytest.mark.parametrize("path", ["C:/run", "runs/a:b/c", "./gs://bucket", "~/run", "/run"])
def test_what_only_looks_like_an_address_is_a_path(parse, path):
    parse(f"--model_dir={path}")
    assert settings.read(Run).model_dir == Path(path).expanduser()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--multi_grid=1,x", "--multi_grid=1,x: whole numbers above 0 are needed, separated by commas"),
        ("--multi_grid=0,1", "--multi_grid=0,1: whole numbers above 0 are needed, separated by commas"),
        ("--multi_grid=", "--multi_grid=: whole numbers above 0 are needed, separated by commas"),
        ("--multi_grid=1.5", "--multi_grid=1.5: whole numbers above 0 are needed, separated by commas"),
        ("--scales=1,big", "--scales=1,big: numbers from 0.1 to 10 are needed, separated by commas"),
        ("--scales=0.05", "--scales=0.05: numbers from 0.1 to 10 are needed, separated by commas"),
        ("--scales=nan", "--scales=nan: numbers from 0.1 to 10 are needed, separated by commas"),
    ],
)
def test_a_wrong_list_is_rejected_in_words(parse, argument, words):
    parse(argument)
    with pytest.raises(UsageError) as caught:
        settings.read(Network)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    "argument",
    [
        "--backbone=huge",
        "--output_stride=7",
        "--train_steps=-1",
        "--learning_rate=1.5",
        "--train_steps=x",
        "--lerning=1",
    ],
)
def test_the_parser_rejects_a_value_out_of_range_and_an_unknown_flag(parse, argument):
    with pytest.raises(flags.Error):
        parse(argument)


def test_a_class_rejects_settings_that_do_not_fit_each_other(parse):
    parse("--epochs=2")
    with pytest.raises(UsageError, match="give one of them"):
        settings.read(Run)


def test_require(parse):
    parse("--flip")
    assert settings.require("flip", settings.read(Run).flip) is True
    with pytest.raises(UsageError, match=r"^--model_dir is needed$"):
        settings.require("model_dir", settings.read(Run).model_dir)


def test_a_flag_file_reproduces_the_same_object(parse, tmp_path):
    arguments = ("--multi_grid=1,2,4", "--noflip", "--train_steps=0", "--epochs=2.5", "--model_dir=a b", "--num_gpus=0")
    parse(*arguments)
    expected, text = (settings.read(Network), settings.read(Run)), settings.Options(CLASSES).as_flagfile()
    (tmp_path / "flags.txt").write_text(text)
    assert "--profile_steps" not in text  # not given, and without a default
    parse(f"--flagfile={tmp_path}/flags.txt")
    assert (settings.read(Network), settings.read(Run)) == expected
    parse(f"--flagfile={tmp_path}/flags.txt", "--num_gpus=3")
    assert settings.read(Run).num_gpus == 3


def test_hyperparameters_are_the_flags_that_change_what_is_learned(parse):
    parse("--learning_rate=0.5", "--multi_grid=1,2,4", "--flip", "--model_dir=run", "--num_gpus=1", "--train_steps=30")
    found = settings.Options(CLASSES).hyperparameters()
    assert {name: flag.value for name, flag in found.items() if flag.value != flag.default} == {
        "learning_rate": 0.5,
        "multi_grid": ["1", "2", "4"],
        "flip": True,
    }
    assert not found.keys() & {"model_dir", "num_gpus", "profile_steps"}


def test_defaults_as_text_are_what_no_flags_give(parse):
    parse()
    nothing_given = settings.Options(CLASSES).as_flagfile()
    parse("--backbone=large")
    options = settings.Options(CLASSES)
    assert options.defaults_as_flagfile() == nothing_given != options.as_flagfile()


def test_fixed_names(parse):
    parse()
    assert settings.Options(CLASSES).fixed_names() == {"backbone", "output_stride"}


HELP = """
Does it.

python program.py

Network:
  --backbone
      <small|large>: Which one. (default: small)
  --output_stride
      <8|16>: Input size over feature size. (default: 16)
  --multi_grid
      Dilation factors. (default: 1,1,1)
  --scales
      Sizes. (default: 1.0)

Where, and how long:
  --model_dir
      Folder of the run.
  --train_steps
      Updates | steps. (default: 30)
  --epochs
      Passes. (default: 0)
  --learning_rate
      Peak. (default: 0.0001)
  --[no]flip
      Mirror, too. (default: false)
  --num_gpus
      GPUs; --num_gpus=0 for the CPU.
  --profile_steps
      First and last.

--flagfile=FILE reads flags from a file, one per line.
"""


def test_help_is_grouped_and_shows_the_defaults_whatever_is_parsed(parse):
    parse("--flip", "--train_steps=7")
    assert help_text("Does it.\n\npython program.py\n", CLASSES) == HELP.strip()


def test_long_help_is_wrapped_but_not_inside_a_flag():
    words = " ".join(["word"] * 19)
    wide = dataclasses.make_dataclass("Wide", [("x", int, setting(1, f"{words} --some-flag and more."))])
    lines = help_text("", (wide,)).splitlines()
    assert "      --some-flag and more. (default: 1)" in lines
    assert max(map(len, lines)) <= 100


def test_markdown_has_a_table_for_each_class_of_each_program():
    lines = as_markdown({"train.py": CLASSES, "eval.py": (Network,)}).splitlines()
    assert [line for line in lines if line.startswith("##")] == [
        "## train.py",
        f"### Network ({__name__}.py)",
        f"### Where, and how long ({__name__}.py)",
        "## eval.py",
        f"### Network ({__name__}.py)",
        "## Exit status",
    ]
    assert r"| `--backbone` | `small` | <small\|large>: Which one. |" in lines
    assert r"| `--train_steps` | `30` | Updates \| steps. |" in lines
    assert "| `--multi_grid` | `1,1,1` | Dilation factors. |" in lines
    assert "| `--model_dir` |  | Folder of the run. |" in lines
    assert lines.count("| `--flip` | `false` | Mirror, too. |") == 1


@dataclass(frozen=True)
class Branches:
    rates: tuple[int, ...] = setting((6, 12), "Branches.", lower=1, may_be_empty=True)
    stride: int | None = setting(None, "Stride.", choices=(8, 16))
    mirror: bool = setting(True, "Mirror.")


@pytest.mark.parametrize("branches", [Branches((), 8, False), Branches((3, 9)), Branches()])
def test_the_flags_of_an_object_give_it_again(monkeypatch, branches):
    values = flags.FlagValues()
    settings.define([Branches], values)
    monkeypatch.setattr(settings, "FLAGS", values)
    values(["program.py", *settings.as_flags(branches).splitlines()])
    assert settings.read(Branches) == branches
