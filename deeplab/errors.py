"""Errors that a user can cause and mend: each ends the program with one line and an exit status."""


class DeepLabError(Exception):
    """The run failed for a reason outside the program: data, numerics, hardware. Exit status 1."""

    exit_status = 1


class DataError(DeepLabError):
    """A file of the data set, a shard or a checkpoint is missing, damaged or not what it should be."""


class UsageError(DeepLabError):
    """Flags that do not fit each other or the run they are used on. Exit status 2."""

    exit_status = 2


class Interrupted(DeepLabError):
    """A signal asked the run to stop, and it saved: the same command goes on. Exit status 75 (EX_TEMPFAIL)."""

    exit_status = 75
