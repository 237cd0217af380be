"""The download of PASCAL VOC 2012."""

import http.client
import os
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from deeplab.errors import DataError, UsageError
from deeplab.files import digest, locked_beside, naming, temporary_folder
from deeplab.progress import Progress
from deeplab.settings import setting

ARCHIVE_URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
ARCHIVE_MD5 = "6cd6e144f989b92b3379bac3b3de84fd"

_TRIES = 5


@dataclass(frozen=True)
class DownloadSettings:
    """Download."""

    download: bool = setting(
        False, "Download PASCAL VOC 2012 (2 GB) to --voc_dir unless that folder exists.", hyperparameter=False
    )
    voc_url: str = setting(
        ARCHIVE_URL, "Address of the archive for --download: the original or a mirror.", hyperparameter=False
    )

    def __post_init__(self) -> None:
        if "@" in urllib.parse.urlsplit(self.voc_url).netloc:  # not shown: it would stand in logs
            raise UsageError(
                "--voc_url: an address with a user name or a password, which records and TensorBoard would show; "
                "download the archive yourself, and put it beside --voc_dir"
            )


def download_voc(voc_dir: Path, url: str = ARCHIVE_URL, md5: str = ARCHIVE_MD5) -> None:
    """Fetches the VOC archive and unpacks it as `voc_dir`; does nothing if `voc_dir` exists.

    The archive is streamed to `voc_dir`'s parent, resumed where an earlier attempt was interrupted, checked against
    `md5` and kept. It is unpacked (tarfile's `data` filter) into a temporary folder, and its VOCdevkit/VOC2012 is
    renamed to `voc_dir`, which is therefore complete or absent.

    Raises:
        UsageError: `url` is not an HTTP address.
        DataError: the server refuses or keeps interrupting, or the checksum or the archive's layout is wrong.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--voc_url={url}: not the address of an archive; it must begin with http:// or https://")
    if voc_dir.exists():
        return
    if not hasattr(tarfile, "data_filter"):
        raise DataError("--download: this Python's tarfile cannot unpack safely; use 3.11.4 or later")

    # A second process waits, and then finds the data set.
    with locked_beside(voc_dir, waits=True):
        if voc_dir.exists():
            return
        archive = voc_dir.parent / Path(url).name
        if archive.exists():
            _check(archive, md5, f"{archive}: %s; delete it and run the same command again")
        else:
            part = archive.with_name(archive.name + ".part")
            _fetch(url, part)
            try:
                _check(part, md5, f"{url}: %s; the download was discarded; run the same command again")
            except DataError:
                part.unlink()
                raise
            part.rename(archive)
        _unpack(archive, voc_dir)


def _check(archive: Path, md5: str, message: str) -> None:
    """Raises DataError with the message unless the file has this MD5."""
    found = digest(archive, "md5")
    if found != md5:
        raise DataError(message % f"MD5 is {found}, not {md5}")


def _unpack(archive: Path, voc_dir: Path) -> None:
    """Unpacks VOCdevkit/VOC2012 as `voc_dir`, completely or not at all."""
    with temporary_folder(".unpack-", voc_dir.parent) as folder:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise DataError(
                f"{archive}: cannot be unpacked: {error}; delete it and run the same command again"
            ) from error
        unpacked = folder / "VOCdevkit" / "VOC2012"
        if not unpacked.is_dir():
            raise DataError(f"{archive}: does not contain VOCdevkit/VOC2012")
        unpacked.rename(voc_dir)


def _fetch(url: str, part: Path) -> None:
    """Streams `url` to `part`, resuming after the content of `part`; reconnects after an interruption."""
    for attempt in range(1, _TRIES + 1):
        try:
            if _fetch_rest(url, part):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            raise DataError(f"{url}: {error}; choose a mirror with --voc_url") from error
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "filename", None):  # of our own disk
                raise
            reason = str(error)
        if attempt == _TRIES:
            raise DataError(
                f"{url}: {reason} ({attempt} tries); partial download kept in {part}; run the same command to resume"
            )


def _fetch_rest(url: str, part: Path) -> bool:
    """Requests the missing rest of `part`; returns whether the file is complete according to the server's length."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return True  # `part` is already complete; the checksum decides
        raise

    # How much is missing; a server may send all of it again.
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server does not support ranges: start over
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else 0
        progress = Progress(f"downloading {part.stem}", total >> 20, "MiB", initial=have >> 20)

        # Never through a link, which could lead to any file.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_APPEND if have else os.O_TRUNC)
        with os.fdopen(os.open(part, flags, 0o666), "ab" if have else "wb") as file:
            while piece := response.read(1 << 20):
                with naming(part):
                    file.write(piece)
                    file.flush()
                have += len(piece)
                progress.update(have >> 20)
        progress.close()
    return not total or have == total
