"""Exceptions that end a program with one line and an exit status: errors that a user can fix, and signals."""

EXIT_STATUSES = {
    0: "done",
    1: "the run failed (data, numerics, hardware); the last line says why",
    2: "wrong flags, or flags that do not fit each other or the run",
    75: "stopped by SIGTERM, SIGUSR1 or SIGINT; nothing is lost: run the same command to resume",
}
"""The exit statuses of all programs."""


def escaped(text: str) -> str:
    """The text in one line, with control characters as escapes: names of files and classes must not write elsewhere."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shortened(text: object, length: int = 80) -> str:
    """The beginning of a text from a file, to quote in a message; it could be as long as the file."""
    words = str(text)[: length + 1]
    return words if len(words) <= length else f"{words[:length]}..."


class DeepLabError(Exception):
    """The run failed for a reason outside the program: data, numerics, hardware. Exit status 1."""

    exit_status = 1


class DataError(DeepLabError):
    """A file of the data set, a shard or a checkpoint is missing, damaged or not what it should be."""


class UsageError(DeepLabError):
    """Flags that do not fit each other or the run they are used on. Exit status 2."""

    exit_status = 2


class NothingToDo(DeepLabError):
    """There is nothing to do for this process; not a failure. Exit status 0."""

    exit_status = 0


class Interrupted(KeyboardInterrupt):
    """A signal stopped the program; nothing is lost: the same command resumes. Exit status 75 (EX_TEMPFAIL).

    Not an `Exception`, so that no handler between the signal and the program's end mistakes it for a failure.
    """

    exit_status = 75
