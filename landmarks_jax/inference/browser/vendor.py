"""Downloads ONNX Runtime Web from npm: a pinned version, checked, kept in the user's cache."""

import base64
import hashlib
import http.client
import logging
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from landmarks_jax.system import cache
from landmarks_jax.system.errors import WeightsError, reason

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
      WeightsError: the package cannot be downloaded or stored, or has the wrong checksum.
    """
    folder = folder or cache.folder()
    target = folder / f"onnxruntime-web-{VERSION}"
    if target.is_dir():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Unpacked beside the target and then moved there, so that an interruption leaves nothing.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".onnxruntime-web-") as scratch:
            package = _package(folder, Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            _unpack(package, unpacked)
            try:
                unpacked.replace(target)
            except OSError:
                if not target.is_dir():  # else another process was faster
                    raise
    except OSError as error:
        raise WeightsError(
            f"{folder}: ONNX Runtime Web cannot be stored there ({reason(error)})"
        ) from error
    return target


def _package(folder: Path, scratch: Path) -> Path:
    """The checked package: a file that the user put into the cache, or else a download."""
    provided = folder / URL.rpartition("/")[2]
    package = provided
    if not provided.is_file():
        package = scratch / provided.name
        _download(package, provided)
    with package.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    checksum = "sha512-" + base64.b64encode(digest).decode()
    if checksum != INTEGRITY:
        source = provided if package == provided else URL
        raise WeightsError(
            f"{source}: not onnxruntime-web {VERSION}, its checksum is {checksum} instead of "
            f"{INTEGRITY}; delete it or download it again"
        )
    return package


def _download(package: Path, provided: Path) -> None:
    _LOGGER.info("downloading %s, once", URL)
    try:
        with (
            urllib.request.urlopen(URL, timeout=_TIMEOUT) as answer,
            package.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
            length = answer.headers["Content-Length"]
            if length is not None and file.tell() != int(length):
                raise http.client.IncompleteRead(b"", int(length) - file.tell())
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        why = reason(cause) if isinstance(cause, BaseException) else cause
        raise WeightsError(
            f"{URL}: cannot be downloaded ({why}); download this file elsewhere and put it at "
            f"{provided}"
        ) from error


def _unpack(package: Path, folder: Path) -> None:
    """Extracts `FILES`, and nothing else."""
    folder.mkdir()
    try:
        with tarfile.open(package) as archive:
            for name, target in FILES.items():
                member = archive.extractfile(name)
                if member is None:
                    raise KeyError(f"{name} is not a file")
                (folder / target).write_bytes(member.read())
    except (tarfile.TarError, KeyError) as error:
        raise WeightsError(
            f"{package}: lacks a file that the page needs ({reason(error)})"
        ) from error
