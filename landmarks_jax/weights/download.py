"""Downloads published files of known size and checksum."""

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from landmarks_jax.system import files
from landmarks_jax.system.errors import WeightsError, url_reason

_LOGGER = logging.getLogger(__name__)
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20
_REPORT = 64 * 2**20  # bytes between two log lines


class Published(NamedTuple):
    """A published file.

    Attributes:
      url: its address.
      size: bytes.
      sha256: in hexadecimal.
    """

    url: str
    size: int
    sha256: str


# torchvision's IMAGENET1K_V1; their names contain the beginning of the checksum.
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
    """Downloads a file, or resumes an interrupted download.

    The bytes so far are in `NAME.part`, which becomes the file once it is complete and its checksum
    is correct.

    Args:
      file: what to download.
      path: the file to write; if it exists and its checksum is correct, nothing is downloaded.

    Raises:
      WeightsError: the server cannot be reached, the download is incomplete, or the file differs.
    """
    _LOGGER.info("address  %s", file.url)
    _LOGGER.info("size     %d bytes", file.size)
    _LOGGER.info("sha256   %s", file.sha256)
    if os.path.isfile(path):
        _check(
            path,
            file,
            f"{path}: another file of this name exists; remove it, or name another --out",
        )
        _LOGGER.info("%s exists already", path)
        return
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, part)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise WeightsError(
            f"{file.url}: cannot be downloaded to {part} ({url_reason(error)}); run the same "
            "command to resume, or get the file elsewhere and convert it with --file"
        ) from error
    try:
        _check(part, file, f"{file.url}: not the expected file")
    except WeightsError:
        part.unlink()
        raise
    part.replace(path)


def _fetch(file: Published, part: Path) -> None:
    size = part.stat().st_size if part.exists() else 0
    if size == file.size:
        return
    if size > file.size:
        part.unlink()
        size = 0
    try:
        response = _request(file.url, size)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not size:
            raise
        response = _request(file.url, 0)
    with response:
        # A server that does not support ranges sends the file from the beginning.
        resumes = bool(size) and response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumes:
            sent = response.headers.get("Content-Range", "")
            if not re.match(rf"bytes {size}-", sent):
                raise OSError(f"requested the bytes from {size} on, received {sent!r}")
            _LOGGER.info("resuming after %d bytes", size)
        size = size if resumes else 0
        with part.open("ab" if resumes else "wb") as out:
            reported = size
            # One extra byte is enough to tell that it is another file.
            while chunk := response.read(min(_CHUNK, file.size + 1 - size)):
                out.write(chunk)
                size += len(chunk)
                if size - reported >= _REPORT:
                    _LOGGER.info("%d %%", 100 * size // file.size)
                    reported = size
    if size < file.size:
        raise OSError(f"stopped after {size} of {file.size} bytes")


def _request(url: str, start: int) -> Any:
    headers = {"Range": f"bytes={start}-"} if start else {}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)


def _check(path: Path, file: Published, problem: str) -> None:
    size, sha256 = path.stat().st_size, files.sha256_of(path, WeightsError)
    if (size, sha256) != (file.size, file.sha256):
        raise WeightsError(
            f"{problem} ({size} bytes with SHA-256 {sha256}, expected are {file.size} bytes with "
            f"{file.sha256})"
        )
