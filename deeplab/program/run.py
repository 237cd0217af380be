"""The start and the end of each program: flags are parsed, signals caught, and errors explained in one line."""

import deeplab.program.quiet

import contextlib
import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import tensorflow as tf
from absl import app, flags
from absl import logging as absl_logging

from deeplab.errors import DeepLabError, Interrupted, UsageError
from deeplab.program import signals
from deeplab.program.reference import help_text
from deeplab.settings import Classes, define

_HELP_FLAGS = {"-h", "-?", *(f"{dashes}help{which}" for dashes in ("-", "--") for which in ("", "short", "full"))}
_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
"""What collective operations raise when a worker is gone."""


def run(main: Callable[[list[str]], None], classes: Classes, about: str | None) -> None:
    """Parses the flags, runs `main` and exits; what a user can mend ends in one line, without a traceback.

    Args:
        main: gets the arguments that are no flags, after the program's name, as in `sys.argv`.
        classes: the program's settings classes; their fields are its flags.
        about: the program's docstring, which --help prints first.
    """
    arguments = sys.argv[1:]
    if "--" in arguments:
        arguments = arguments[: arguments.index("--")]
    if not _HELP_FLAGS.isdisjoint(arguments):
        print(help_text(about or "", classes))
        _exit(0)
    define(classes)
    app.run(functools.partial(_run_main, main), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(UsageError(f"{error} (--help lists the flags)"))


def _run_main(main: Callable[[list[str]], None], argv: list[str]) -> None:
    logging.getLogger("deeplab").setLevel(logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    try:
        signals.handle_stop_signals(signals.interrupt)
        main(argv)
        _exit(0)
    except (DeepLabError, Interrupted) as error:
        _fail(error)
    except tf.errors.OpError as error:
        _fail(DeepLabError(_explain(error)))
    except OSError as error:
        _fail(DeepLabError(str(error)))


def _fail(error: DeepLabError | Interrupted) -> NoReturn:
    deeplab.program.quiet.drain()  # the reason is the last line
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    _exit(error.exit_status)


def _exit(status: int) -> NoReturn:
    """Ends the process without its libraries' own clean-up, which has nothing left to do.

    tf.data iterators were seen to block there for up to a minute, and TensorFlow's servers, if another worker left
    first, to wait 45 seconds and to report a crash.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    deeplab.program.quiet.drain()
    os._exit(status)


def _explain(error: tf.errors.OpError) -> str:
    """What TensorFlow raised, in one line, with what to do."""
    # Neither the name of the operation nor the lines of Python that made it, which are indented.
    lines = [
        line for line in error.message.splitlines() if line and not re.match(r"\s|Graph exec|Detected at|<st", line)
    ]
    several = re.search(r"^\s*\(0\)\s+(.*)", error.message, re.MULTILINE)
    words = several.group(1) if several else lines[0] if lines else "no reason given"
    reason = f"{type(error).__name__}: {words[:300]}"
    if "No space left on device" in error.message:
        return f"the disk is full ({reason})"
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return (
            "out of memory: lower --global_batch_size, --crop_size or --eval_batch_size, raise --accumulate_steps, or "
            f"take --precision=bfloat16 ({reason})"
        )
    if os.environ.get("TF_CONFIG") and isinstance(error, _LOST_WORKER):
        name = type(error).__name__
        return f"another worker is lost ({name}); start all of them again: they go on from the newest checkpoint"
    return reason
