"""Downloads ONNX Runtime Web from npm: a pinned version, checked, kept in the user's cache."""

import base64
import hashlib
import http.client
import io
import logging
import tarfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from landmarks_jax.system import cache, files
from landmarks_jax.system.errors import DataError, WeightsError, reason, url_reason

_LOGGER = logging.getLogger(__name__)
VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
# SHA-512 of the package, as the npm registry publishes it.
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8p"
    "ZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)


class File(NamedTuple):
    """A file of the runtime: its name on the page, and its SHA-256 in hexadecimal.

    Not `.mjs`: some web hosts do not serve that as JavaScript, and browsers refuse modules of
    another type.
    """

    name: str
    sha256: str


# By their names in the package.
FILES = {
    "package/dist/ort.wasm.min.mjs": File(
        "ort.js", "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"
    ),
    "package/dist/ort-wasm-simd-threaded.mjs": File(
        "ort-wasm.js", "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "package/dist/ort-wasm-simd-threaded.wasm": File(
        "ort-wasm.wasm", "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
_TIMEOUT = 30  # seconds without a byte


def runtime(folder: Path | None = None) -> dict[str, bytes]:
    """The runtime's files by name, which are downloaded on the first call.

    Args:
      folder: where to keep them; by default `cache.folder()`.

    Raises:
      UserError: the package cannot be downloaded or stored, or a checksum is wrong.
    """
    folder = folder or cache.folder()
    target = folder / f"onnxruntime-web-{VERSION}"
    if not target.is_dir():
        try:
            with files.new_folder(target) as unpacked:
                _unpack(_package(folder / URL.rpartition("/")[2]), unpacked)
        except DataError:
            if not target.is_dir():  # else another process was faster
                raise
    return {file.name: _checked(target / file.name, file.sha256) for file in FILES.values()}


def _checked(path: Path, sha256: str) -> bytes:
    """The content of a stored file, which may have been damaged or changed since."""
    data = b"" if files.not_regular(path) else path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise WeightsError(
            f"{path}: missing, damaged or changed; remove {path.parent} to download it again"
        )
    return data


def _package(provided: Path) -> bytes:
    """The checked package: the file that the user put into the cache, or else a download."""
    source: Path | str = provided if provided.is_file() else URL
    package = provided.read_bytes() if provided.is_file() else _download(provided)
    checksum = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    if checksum != INTEGRITY:
        raise WeightsError(
            f"{source}: not onnxruntime-web {VERSION}, its checksum is {checksum} instead of "
            f"{INTEGRITY}; delete it or download it again"
        )
    return package


def _download(provided: Path) -> bytes:
    _LOGGER.info("downloading %s, once", URL)
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT) as answer:
            package: bytes = answer.read()  # raises if it is shorter than announced
            return package
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"{URL}: cannot be downloaded ({url_reason(error)}); download this file elsewhere and "
            f"put it at {provided}"
        ) from error


def _unpack(package: bytes, folder: Path) -> None:
    """Extracts `FILES`, and nothing else."""
    try:
        with tarfile.open(fileobj=io.BytesIO(package)) as archive:
            for name, target in FILES.items():
                member = archive.extractfile(name)
                if member is None:
                    raise KeyError(f"{name} is not a file")
                (folder / target.name).write_bytes(member.read())
    except (tarfile.TarError, KeyError) as error:
        raise WeightsError(f"{URL}: lacks a file that the page needs ({reason(error)})") from error
