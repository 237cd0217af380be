"""The start and the end of each program: parses flags, catches signals and explains errors in one line.

Nothing here imports TensorFlow, which takes seconds, so that a wrong flag is refused at once.
"""

import deeplab.program.quiet

import contextlib
import gc
import logging
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from deeplab.errors import DeepLabError, Interrupted, UsageError, escaped
from deeplab.program import signals
from deeplab.program.flag_files import with_files_read
from deeplab.program.generated import delete_generated_code
from deeplab.program.help import LONGEST_LINE, help_text
from deeplab.settings import Classes, Options, define

_HELP_FLAGS = {"-h", "-?", *(f"{dashes}help{which}" for dashes in ("-", "--") for which in ("", "short", "full"))}
_SHOW_ALL = "TF_CPP_MIN_LOG_LEVEL"
"""An environment variable: with 0 nothing is filtered, see `quiet`, and tracebacks are shown."""

_RED = 31
_GREEN = 32
_YELLOW = 33
"""Of terminals (ECMA-48, SGR): errors, results of a validation, warnings."""

_LOST_WORKER = {"UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError", "InternalError"}
"""TensorFlow's errors that collective operations raise when a worker is lost."""

_OF_A_GPU = re.compile(r"CUDA|cu_?DNN|cuBLAS|cuSOLVER|cuFFT|DNN library|\bGPU\b|\bXid\b", re.IGNORECASE)
"""In TensorFlow's words about a failure of this worker's own GPU, of the same classes as those of a lost worker."""

_UNLIKE_SIZES = re.compile(r"joining a group with size (\d+), but that group has size (\d+)")
"""TensorFlow's words (collective_param_resolver_local.cc) if workers do not agree on the number of replicas."""


class Program:
    """A program whose flags have been parsed; errors that a user can fix end it in one line, without a traceback.

    Create it before TensorFlow is imported: wrong flags, and --help, end the program here.

    Args:
        classes: the program's settings classes; their fields are its flags.
        docstring: the program's docstring, which --help prints first.
        check: raises UsageError for flags that are missing or do not fit, or for arguments that are not flags.
    """

    def __init__(
        self,
        classes: Classes,
        docstring: str | None,
        check: Callable[[Options, list[str]], None] = lambda options, arguments: None,
    ) -> None:
        given = sys.argv[1:]
        if "--" in given:
            given = given[: given.index("--")]
        if not _HELP_FLAGS.isdisjoint(given):
            with contextlib.suppress(BrokenPipeError):  # `--help | head`
                columns = shutil.get_terminal_size((LONGEST_LINE, 24)).columns
                print(help_text(docstring or "", classes, min(columns, LONGEST_LINE)))
            _exit(0)

        define(classes)
        try:
            self._argv = flags.FLAGS([sys.argv[0], *with_files_read(sys.argv[1:])])
            self._options = Options(classes)
            check(self._options, self._argv[1:])
        except UsageError as error:
            _fail(error)
        except flags.Error as error:
            _fail(UsageError(f"{error} (--help lists the flags)"))
        gc.disable()  # until `main` runs: looking for garbage takes a quarter of the time of TensorFlow's import

    def run(self, main: Callable[[Options, list[str]], object]) -> None:
        """Runs `main` with the settings and the arguments that are not flags, and ends the process.

        What it returns lives as long as the process: TensorFlow takes up to a minute to drop an iterator.
        """
        app.run(lambda argv: _run_main(main, self._options, argv[1:]), flags_parser=lambda argv: self._argv)


def _run_main(main: Callable[[Options, list[str]], object], options: Options, arguments: list[str]) -> None:
    logging.getLogger("deeplab").setLevel(logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(_OneLine("%(asctime)s %(message)s", "%H:%M:%S"))
    gc.freeze()  # what was imported stays: Python need not look through it again and again
    gc.enable()
    try:
        signals.handle_stop_signals(signals.interrupt)
        signals.watch()
        _kept = main(options, arguments)
        _exit(0)
    except Interrupted as error:
        _fail(error)
    except Exception as error:
        if ending := _ending(error):
            _fail(ending)
        raise


def _ending(error: Exception) -> DeepLabError | Interrupted | None:
    """How an error ends the program; None for a fault of our own code, which needs its traceback."""
    # After a signal, a library may have taken its exception for a failure, or another worker may have left first.
    is_lost = bool(os.environ.get("TF_CONFIG")) and type(error).__name__ in _LOST_WORKER
    if signals.signals_seen and (is_lost or not signals.something_to_save.is_set()):
        return Interrupted(f"{signal.Signals(signals.signals_seen[0]).name}: stopped; run the same command again")
    if isinstance(error, DeepLabError):
        return error
    if (message := _message_of_op(error)) is not None:
        return DeepLabError(_explain(type(error).__name__, message))
    if isinstance(error, OSError | MemoryError):
        return DeepLabError(str(error) or "out of memory")
    if isinstance(error, RuntimeError) and _is_from_tensorflow(error):
        return DeepLabError(f"{type(error).__name__} in TensorFlow: {_words(error)} ({_SHOW_ALL}=0 shows where)")
    return None


class _OneLine(logging.Formatter):
    """Log lines without control characters; a traceback keeps its lines. A terminal shows what stands out in color."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The time and the message."""
        line = escaped(super().formatMessage(record))
        if record.levelno >= logging.WARNING:
            return _tinted(line, _YELLOW)
        return _tinted(line, _GREEN) if getattr(record, "stands_out", False) else line


def _tinted(line: str, color: int) -> str:
    """The line in a color, on a terminal whose user does not refuse colors (no-color.org)."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return line if refused or not sys.stderr.isatty() else f"\033[{color}m{line}\033[0m"


def _fail(error: DeepLabError | Interrupted) -> NoReturn:
    if signals.is_ending.is_set():
        time.sleep(signals.PATIENCE)  # another thread says the reason, and ends the process meanwhile
    deeplab.program.quiet.drain()  # the reason is the last line
    print(_tinted(escaped(f"{signals.program_name()}: {error}"), _RED), file=sys.stderr)
    _exit(error.exit_status)


def _exit(status: int) -> NoReturn:
    """Ends the process without the clean-up of its libraries, which has nothing left to do.

    During clean-up, tf.data iterators have blocked for up to a minute, and TensorFlow's servers, if another worker left
    first, have waited 45 seconds and reported a crash.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    deeplab.program.quiet.drain()
    delete_generated_code()
    os._exit(status)


def _message_of_op(error: Exception) -> str | None:
    """TensorFlow's words, if the error is of one of its operations."""
    tensorflow: Any = sys.modules.get("tensorflow")
    return error.message if tensorflow and isinstance(error, tensorflow.errors.OpError) else None


def _explain(kind: str, message: str) -> str:
    """TensorFlow's error of this class in one line, with what to do about it."""
    # Leaves out the operation's name and the lines of Python that created it, which are indented.
    lines = [line for line in message.splitlines() if line and not re.match(r"\s|Graph exec|Detected at|<st", line)]
    several = re.search(r"^\s*\(0\)\s+(.*)", message, re.MULTILINE)
    words = several.group(1) if several else lines[0] if lines else "no reason given"
    reason = f"{kind}: {words[:300]}"
    if "No space left on device" in message:
        return f"the disk is full ({reason})"
    if kind == "ResourceExhaustedError":
        return (
            "out of memory: lower --global_batch_size, --crop_size or --eval_batch_size, raise --accumulate_steps, "
            f"or use --recompute or --precision=bfloat16 ({reason})"
        )
    if os.environ.get("TF_CONFIG") and kind in _LOST_WORKER:
        return _explain_among_workers(message, reason)
    return reason


def _explain_among_workers(message: str, reason: str) -> str:
    """What an error of a class that a lost worker raises says when several workers train."""
    if sizes := _UNLIKE_SIZES.search(message):
        return (
            f"workers have different numbers of GPUs or replicas ({sizes.group(1)} and {sizes.group(2)} in all, by "
            f"their own count): give all the same, by --num_gpus ({reason})"
        )
    restart = "restart all workers: they resume from the newest checkpoint"
    if "NCCL" in message:
        return f"the sum over GPUs failed, here or because another worker was lost ({reason}); {restart}"
    if _OF_A_GPU.search(message):
        return f"a GPU of this worker failed ({reason}); {restart}"
    return f"another worker was lost ({reason}); {restart}"


def _is_from_tensorflow(error: RuntimeError) -> bool:
    """Whether TensorFlow or Keras raised it, and not our code, whose errors need their traceback."""
    if os.environ.get(_SHOW_ALL) == "0":
        return False
    first: BaseException = error
    while isinstance(first.__context__, type(error)):  # raised again by AutoGraph, from its own code
        first = first.__context__
    place = Path(traceback.extract_tb(first.__traceback__)[-1].filename)
    libraries = [sys.modules[name].__file__ for name in ("tensorflow", "keras") if name in sys.modules]
    return any(library and place.is_relative_to(Path(library).parent) for library in libraries)


def _words(error: RuntimeError) -> str:
    """The message in one line, without AutoGraph's list of places."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    raised = [line for line in lines if line.startswith(f"{type(error).__name__}: ")]
    words = raised[-1].partition(": ")[2] if raised and lines[0] == "in user code:" else lines[0]
    return words[:300]
