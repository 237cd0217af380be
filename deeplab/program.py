"""The start and the end of each program: flags are parsed, signals caught, and errors told in one line."""

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import deeplab.quiet

# isort: split
import tensorflow as tf
from absl import app
from absl import flags as absl_flags
from absl import logging as absl_logging

import deeplab.flags
from deeplab.errors import STOP_SIGNALS, DeepLabError, Interrupted, UsageError, signals_seen
from deeplab.flags import FLAGS

_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
"""What collective operations raise where a worker is gone."""


def run(main: Callable[[list[str]], None], define_flags: Callable[[], None]) -> None:
    """Parses the flags, runs `main` and exits; what a user can mend ends in one line, without a traceback."""
    define_flags()
    for flag in FLAGS.flags_by_module_dict()[deeplab.flags.__name__]:
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # what --help lists
    app.run(lambda argv: _exit_status(main, argv), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return FLAGS(argv)
    except absl_flags.Error as error:
        _fail(UsageError(f"{error} (--help lists the flags)"))
    except SystemExit:
        sys.exit(0)  # absl's --help exits with 1


def _exit_status(main: Callable[[list[str]], None], argv: list[str]) -> None:
    logging.getLogger("deeplab").setLevel(logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for number in STOP_SIGNALS:
        signal.signal(number, _stop_now)  # until the training loop, which can finish its step, sets its own
    try:
        main(argv)
        _exit(0)
    except (DeepLabError, Interrupted) as error:
        _fail(error)
    except tf.errors.OpError as error:
        _fail(DeepLabError(_explain(error)))
    except OSError as error:
        _fail(DeepLabError(str(error)))


def _stop_now(number: int, frame: FrameType | None) -> None:
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_DFL)  # a second one ends the program at once
    signals_seen.append(number)
    raise Interrupted(f"{signal.Signals(number).name}: stopped with nothing to save; the same command starts again")


def _fail(error: DeepLabError | Interrupted) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    _exit(error.exit_status)


def _exit(status: int) -> NoReturn:
    """Ends the process without its libraries' own end, for which nothing is left to be done.

    tf.data iterators were seen to wait for up to a minute there (`make_evaluation` says why), and TensorFlow's servers,
    where another worker left first, to wait 45 seconds and to report a crash.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(status)


def _explain(error: tf.errors.OpError) -> str:
    """What TensorFlow raised, in one line, with what to do."""
    # Neither the name of the operation nor the lines of Python that made it, which stand indented.
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
