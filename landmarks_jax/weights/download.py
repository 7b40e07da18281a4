"""Published files from the network: named, sized and checksummed before the first byte comes."""

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from landmarks_jax.system import files
from landmarks_jax.system.errors import WeightsError, reason

_LOGGER = logging.getLogger(__name__)
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20
_REPORT = 64 * 2**20  # bytes between two lines


class Published(NamedTuple):
    """A file that somebody published.

    Attributes:
      url: its address.
      size: bytes.
      sha256: in hexadecimal.
    """

    url: str
    size: int
    sha256: str


# torchvision's own, IMAGENET1K_V1. The beginning of the checksum is part of their names.
VGG = {
    "vgg16": Published(
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "vgg19": Published(
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        574_673_361,
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
}


def download(file: Published, path: Path) -> None:
    """Gets a file; a part that an earlier call left behind is gone on with.

    What has come so far lies beside it as `NAME.part`, and takes its place once it is whole and
    its checksum right.

    Args:
      file: what to get.
      path: where to; nothing is done where the file lies there already.

    Raises:
      WeightsError: it cannot be reached, broke off, or is not the file it should be.
    """
    _LOGGER.info("address  %s", file.url)
    _LOGGER.info("size     %d bytes", file.size)
    _LOGGER.info("sha256   %s", file.sha256)
    if os.path.isfile(path):
        _check(path, file, f"{path}: is another file; remove it, or name another --out")
        _LOGGER.info("%s is there already", path)
        return
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, part)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise WeightsError(
            f"{file.url}: cannot be downloaded to {part} ({_reason(error)}); the same command "
            "again goes on, or get the file elsewhere and convert it with --file"
        ) from error
    try:
        _check(part, file, f"{file.url}: is not the file it should be")
    except WeightsError:
        part.unlink()
        raise
    part.replace(path)


def _fetch(file: Published, part: Path) -> None:
    """Fills the part up to the size of the whole."""
    have = part.stat().st_size if part.exists() else 0
    if have == file.size:
        return
    if have > file.size:
        part.unlink()
        have = 0
    try:
        answer = _ask(file.url, have)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        answer = _ask(file.url, 0)
    with answer:
        # Whoever does not know about parts answers with the whole, from the beginning.
        resumes = bool(have) and answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumes:
            given = answer.headers.get("Content-Range", "")
            if not re.match(rf"bytes {have}-", given):
                raise OSError(f"asked for the bytes from {have} on, was given {given!r}")
            _LOGGER.info("going on after %d bytes", have)
        have = have if resumes else 0
        with part.open("ab" if resumes else "wb") as out:
            reported = have
            # A byte more than should come is enough to see that it is another file.
            while chunk := answer.read(min(_CHUNK, file.size + 1 - have)):
                out.write(chunk)
                have += len(chunk)
                if have - reported >= _REPORT:
                    _LOGGER.info("%d %%", 100 * have // file.size)
                    reported = have
    if have < file.size:
        raise OSError(f"broke off after {have} of {file.size} bytes")


def _ask(url: str, start: int) -> Any:
    headers = {"Range": f"bytes={start}-"} if start else {}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)


def _check(path: Path, file: Published, otherwise: str) -> None:
    size = path.stat().st_size
    found = files.sha256_of(path, WeightsError)
    if (size, found) != (file.size, file.sha256):
        raise WeightsError(
            f"{otherwise} ({size} bytes and SHA-256 {found}, wanted are {file.size} bytes and "
            f"{file.sha256})"
        )


def _reason(error: Exception) -> str:
    """Why the server did not deliver; urllib hides it in its own exception."""
    if isinstance(error, urllib.error.HTTPError) or not isinstance(error, urllib.error.URLError):
        return reason(error)
    inner = error.reason
    return reason(inner if isinstance(inner, Exception) else OSError(inner))
