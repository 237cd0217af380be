"""Python code that TensorFlow generates in the temporary folder, and deletes only when a process ends as usual."""

import contextlib
import sys
from pathlib import Path

_PREFIX = "__autograph_generated_file"  # tensorflow/python/autograph/pyct/loader.py


def delete_generated_code() -> None:
    """Deletes the files of this process; a run would leave dozens. Call it before `os._exit`.

    What another thread is writing at this moment may be left.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith(_PREFIX):
            for file in (module.__file__, module.__cached__):
                with contextlib.suppress(OSError):
                    Path(str(file)).unlink()
