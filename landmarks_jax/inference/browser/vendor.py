"""ONNX Runtime Web from its npm package: one pinned version, checked, kept in the user's cache."""

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

from landmarks_jax.system import cache as caches
from landmarks_jax.system.errors import WeightsError

_LOGGER = logging.getLogger(__name__)
VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
# As the npm registry publishes it: SHA-512 of the package.
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8p"
    "ZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
# Names in the package to names on the page. Not `.mjs`: not every web host serves that as
# JavaScript, and a browser refuses a module of another type.
FILES = {
    "package/dist/ort.wasm.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
}
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


def runtime(cache: Path | None = None) -> Path:
    """The folder of the runtime's files; gets them at the first call.

    Args:
      cache: where to keep them; the default is `caches.folder()`.

    Returns:
      A folder that holds the values of `FILES`.

    Raises:
      WeightsError: the package cannot be downloaded, is not the pinned one, or cannot be kept.
    """
    cache = cache or caches.folder()
    folder = cache / f"onnxruntime-web-{VERSION}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # All in a folder of its own, moved to its place when whole: a break leaves nothing there.
        with tempfile.TemporaryDirectory(dir=cache, prefix=".onnxruntime-web-") as scratch:
            package = _package(cache, Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            _unpack(package, unpacked)
            try:
                unpacked.replace(folder)
            except OSError:
                if not folder.is_dir():  # another process was first
                    raise
    except OSError as error:
        raise WeightsError(f"{cache}: ONNX Runtime Web cannot be kept there ({error})") from error
    return folder


def _package(cache: Path, scratch: Path) -> Path:
    """The checked package: the file that somebody put into the cache, or else a download."""
    given = cache / URL.rpartition("/")[2]
    package = given
    if not given.is_file():
        package = scratch / given.name
        _download(package, given)
    digest = hashlib.sha512()
    with package.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    found = "sha512-" + base64.b64encode(digest.digest()).decode()
    if found != INTEGRITY:
        source = given if package == given else URL
        raise WeightsError(
            f"{source}: is not onnxruntime-web {VERSION}, its checksum is {found} and not "
            f"{INTEGRITY}; delete it or get it again"
        )
    return package


def _download(package: Path, given: Path) -> None:
    _LOGGER.info("downloading %s, once", URL)
    try:
        with (
            urllib.request.urlopen(URL, timeout=_TIMEOUT) as answer,
            package.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file, _CHUNK)
            length = answer.headers["Content-Length"]
            if length is not None and file.tell() != int(length):
                raise http.client.IncompleteRead(b"", int(length) - file.tell())
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise WeightsError(
            f"{URL}: cannot be downloaded ({reason}); get this file on a machine with network and "
            f"put it at {given}"
        ) from error


def _unpack(package: Path, folder: Path) -> None:
    """Takes the files of `FILES` out, and nothing else."""
    folder.mkdir()
    try:
        with tarfile.open(package) as archive:
            for name, target in FILES.items():
                member = archive.extractfile(name)
                if member is None:
                    raise KeyError(f"{name} is no file")
                (folder / target).write_bytes(member.read())
    except (tarfile.TarError, KeyError) as error:
        raise WeightsError(f"{package}: lacks what the page needs ({error})") from error
