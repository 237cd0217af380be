"""What the programs of `forked` need not import again."""

import tensorflow  # noqa: F401  before deeplab.program.quiet, whose filter belongs to a program of its own

# isort: split
import tiny

tiny.register()

# isort: split
import eval  # noqa: E402, F401
import train  # noqa: E402, F401
from deeplab.commands import export, predict  # noqa: E402, F401
