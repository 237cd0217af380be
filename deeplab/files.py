"""Files that are written completely or not at all, and folders that one process at a time may use."""

import fcntl
import hashlib
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deeplab.errors import UsageError

logger = logging.getLogger("deeplab")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`; on a clean exit it is fsynced and renamed to `path`.

    After an exception or a crash, `path` is unchanged. The temporary name contains the process id, so that two
    processes never write to the same file. An `OSError` names `path` if it names no file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new, empty folder next to `path`; on a clean exit it is renamed to `path`, otherwise deleted.

    A leftover from a killed process is deleted first. An `OSError` names `path` if it names no file.
    """
    temporary = path.with_name(path.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name(error: OSError, path: Path) -> None:
    """Gives an error of the system a file's name; writing to a full disk raises one without."""
    if error.filename is None and error.errno is not None:
        error.filename = str(path)


def sync(path: Path) -> None:
    """Returns when a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path`, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def digest(path: Path, algorithm: str) -> str:
    """Hex digest of a file's bytes by a `hashlib` algorithm, read in pieces."""
    checksum = hashlib.new(algorithm)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            checksum.update(piece)
    return checksum.hexdigest()


@contextmanager
def locked(folder: Path, waits: bool = False) -> Iterator[None]:
    """Locks `folder`, creating it if needed, against other processes that lock it, on this host and on others.

    The lock is the kernel's (flock on `folder`/.lock), so it ends with the process, however that ends; there are no
    stale locks. The file names its current or last holder. If the file system has no locks, the log says so.

    Args:
        folder: the folder to use.
        waits: wait until a running holder is done; otherwise a running holder is an error.

    Raises:
        UsageError: another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            if not waits:
                raise UsageError(f"{folder}: in use by {holder}; stop it or choose another folder") from error
            logger.info("%s: in use by %s; waiting", folder, holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("%s: cannot be locked (%s); make sure no other run uses it", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def is_plain_name(name: str) -> bool:
    """Whether a name from a data set names a file directly in its folder, not anywhere else."""
    return Path(name).name == name and name not in ("", ".", "..") and name.isprintable()


def is_relative_name(name: str) -> bool:
    """As `is_plain_name`, but also for files in subfolders: `day1/img_000`, with slashes on every system."""
    return all(is_plain_name(part) for part in name.split("/"))
