"""Downloads ONNX Runtime Web from npm: a pinned version, checked, kept in the user's cache."""

import base64
import hashlib
import http.client
import io
import logging
import tarfile
import urllib.request
from pathlib import Path

from landmarks_jax.system import cache, files
from landmarks_jax.system.errors import DataError, WeightsError, reason

_LOGGER = logging.getLogger(__name__)
VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
# SHA-512 of the package, as the npm registry publishes it.
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8p"
    "ZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
# Names in the package to names on the page. Not `.mjs`: some web hosts do not serve that as
# JavaScript, and browsers refuse modules of another type.
FILES = {
    "package/dist/ort.wasm.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
}
_TIMEOUT = 30  # seconds without a byte


def runtime(folder: Path | None = None) -> Path:
    """The folder of the runtime's files, which are downloaded on the first call.

    Args:
      folder: where to keep it; by default `cache.folder()`.

    Returns:
      A folder that holds the values of `FILES`.

    Raises:
      UserError: the package cannot be downloaded or stored, or has the wrong checksum.
    """
    folder = folder or cache.folder()
    target = folder / f"onnxruntime-web-{VERSION}"
    if target.is_dir():
        return target
    try:
        with files.new_folder(target) as unpacked:
            _unpack(_package(folder / URL.rpartition("/")[2]), unpacked)
    except DataError:
        if not target.is_dir():  # else another process was faster
            raise
    return target


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
        cause = getattr(error, "reason", error)  # of a URLError
        why = reason(cause) if isinstance(cause, BaseException) else cause
        raise WeightsError(
            f"{URL}: cannot be downloaded ({why}); download this file elsewhere and put it at "
            f"{provided}"
        ) from error


def _unpack(package: bytes, folder: Path) -> None:
    """Extracts `FILES`, and nothing else."""
    try:
        with tarfile.open(fileobj=io.BytesIO(package)) as archive:
            for name, target in FILES.items():
                member = archive.extractfile(name)
                if member is None:
                    raise KeyError(f"{name} is not a file")
                (folder / target).write_bytes(member.read())
    except (tarfile.TarError, KeyError) as error:
        raise WeightsError(f"{URL}: lacks a file that the page needs ({reason(error)})") from error
