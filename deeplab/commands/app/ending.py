"""How `deeplab.app` ends: at once, and with nothing left of people's pictures."""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from deeplab.program import signals

_DELETE = "import shutil, sys; shutil.rmtree(sys.argv[1])"


def end_and_delete(folder: Path) -> NoReturn:
    """Ends the process with status 0, with `folder` deleted, whatever its other threads do.

    Threads that answer requests cannot be stopped, and would write to the folder while it is deleted. Therefore another
    program takes the place of this one in the same process, which ends all threads, and deletes the folder.
    """
    signals.handle_stop_signals(signal.SIG_IGN)  # a second Ctrl-C must not stop the deletion
    logging.shutdown()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _DELETE, str(folder)])
