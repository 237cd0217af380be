"""Files that are written completely or not at all, and folders that one process at a time may use."""

import errno
import fcntl
import glob
import hashlib
import logging
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from deeplab.errors import UsageError

logger = logging.getLogger("deeplab")

_SCRATCH = ".part"
_LONGEST_NAME = 255  # bytes, in all usual file systems
_LONGEST_PATH = 1000  # characters, in a data set's folder
_DIGITS = 16  # in the name of a scratch file or folder
_LONGEST_HOLDER = 300  # characters

_unfinished: set[Path] = set()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`; on a clean exit it is fsynced and renamed to `path`.

    After an exception or a crash, `path` is unchanged. The temporary name cannot be guessed, so that no two processes
    write to the same file, and nobody can put a link there. An `OSError` names `path` if it names no file.
    """
    temporary = _scratch_beside(path)
    with _unfinished_until_end(temporary):
        with naming(path):
            yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new, empty folder next to `path`; on a clean exit it is renamed to `path`, otherwise deleted.

    Leftovers of processes that were killed while they wrote `path` are deleted first. An `OSError` names `path` if it
    names no file.

    Raises:
        UsageError: another process writes `path`, or it exists.
    """
    with locked_beside(path):
        if path.exists():
            raise UsageError(f"{path}: exists already; choose another folder, or delete it")
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * _DIGITS}{_SCRATCH}"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = _scratch_beside(path)
        with _unfinished_until_end(temporary):
            temporary.mkdir()
            with naming(path):
                yield temporary
            temporary.rename(path)


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yields a new folder in `parent`, by default in the system's temporary folder, and deletes it at the end."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with _unfinished_until_end(path):
        yield path


@contextmanager
def _unfinished_until_end(path: Path) -> Iterator[None]:
    """Deletes a scratch file or folder at the end, if it is still there; `delete_unfinished` may do so before."""
    _unfinished.add(path)
    try:
        yield
    finally:
        _delete(path)
        _unfinished.discard(path)


def delete_unfinished() -> None:
    """Deletes what this process has not finished: scratch files and folders, locks. Call it before `os._exit`."""
    for path in tuple(_unfinished):
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _scratch_beside(path: Path) -> Path:
    """A path next to another, hidden, of a name that no other process has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(_DIGITS // 2)}{_SCRATCH}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context in which an error of the system without a file's name gets this one; that of a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


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


def read_regular(path: Path, max_bytes: int = sys.maxsize) -> bytes:
    """A file's content; OSError as for `open_regular`."""
    with open_regular(path, max_bytes) as file:
        return file.read()


@contextmanager
def open_regular(path: Path, max_bytes: int = sys.maxsize) -> Iterator[BinaryIO]:
    """A file to be read.

    Raises:
        OSError: missing or unreadable, larger than `max_bytes`, or a pipe or device, for which nobody waits.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "a pipe or a device, not a regular file", str(path))
        if about.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"{about.st_size:,} bytes, more than {max_bytes:,}", str(path))
        yield file


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
        UsageError: another process holds the folder, or the lock file is a link or another user's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _open_lock(folder / ".lock") as file:
        _lock(file, folder, waits)
        yield


@contextmanager
def locked_beside(path: Path, waits: bool = False) -> Iterator[None]:
    """As `locked`, for a file or folder that does not exist yet: the lock is a hidden file next to it while it is held.

    Raises:
        UsageError: as `locked`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    while True:
        with _open_lock(lock) as file:
            _lock(file, path, waits)
            # A holder deletes the file when it is done: the lock counts only on the file that is there now.
            if lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                with _unfinished_until_end(lock):
                    yield
                return


def _open_lock(path: Path) -> IO[str]:
    """Opens a lock file, creating it if needed; never through a link, which could lead to any file."""
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except PermissionError:
            # Another user's: it can still be locked, if it can be read.
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8")
        return os.fdopen(descriptor, "r+", encoding="utf-8")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"{path}: a symbolic link, where a lock file belongs; delete it") from error
        if isinstance(error, PermissionError) and path.exists():
            raise UsageError(f"{path}: cannot be locked, it belongs to {path.owner()}") from error
        raise


def _lock(file: IO[str], what: Path, waits: bool) -> None:
    """Locks an open file, and writes into it whose lock it is."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = file.read(_LONGEST_HOLDER).strip()
        holder = holder if holder.isprintable() else "another process"
        if not waits:
            raise UsageError(f"{what}: in use by {holder}; stop it or choose another folder") from error
        logger.info("%s: in use by %s; waiting", what, holder)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        logger.warning("%s: cannot be locked (%s); make sure no other run uses it", what, error.strerror)
    if file.writable():
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()


def is_plain_name(name: str) -> bool:
    """Whether a name from a data set names a file directly in its folder, not anywhere else."""
    is_name = "/" not in name and name not in ("", ".", "..") and name.isprintable()
    return is_name and len(name.encode()) <= _LONGEST_NAME


def is_relative_name(name: str) -> bool:
    """As `is_plain_name`, but also for files in subfolders: `day1/img_000`, with slashes on every system."""
    return len(name) <= _LONGEST_PATH and all(map(is_plain_name, name.split("/")))
