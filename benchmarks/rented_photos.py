"""Unpacks photos and cuts them to canvases on the processor, while a GPU is measured.

python -m benchmarks.rented_photos --scratch DIR --photos photos.tar.gz --config NAME

The child of `benchmarks.rented_gpu`; `landmarks-jax session` finds the canvases under the names
that it would give them itself. If it is killed, rerun it to continue.
"""

import argparse
import hashlib
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness
from benchmarks.accelerator import configuration_of
from landmarks_jax.data.framing import CROPS
from landmarks_jax.studies import timed_session
from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError, reason

CANVASES = "prepared"  # in the scratch folder


def split_crop(text: str) -> tuple[Path, str]:
    """Splits `PATH:CROP` of `--photos` in the path and `:CROP`; "" without a crop."""
    name, _, crop = text.rpartition(":")
    return (Path(name), f":{crop}") if name and crop in CROPS else (Path(text), "")


def folder_of(text: str, scratch: Path) -> str:
    """What `landmarks-jax session --photos` is given for a `--photos` of ours.

    Args:
      text: a folder or an archive, each with `:CROP` or without.
      scratch: the folder for what archives hold.

    Raises:
      DataError: there is no such folder or file.
    """
    path, crop = split_crop(text)
    if path.is_dir():
        return text
    if not path.is_file():
        raise DataError(f"--photos {path}: no such folder, .zip or .tar archive")
    if not zipfile.is_zipfile(path) and not tarfile.is_tarfile(path):
        raise DataError(f"--photos {path}: neither a folder nor a .zip or .tar archive")
    content = f"{path.absolute()} {path.stat().st_size} {path.stat().st_mtime_ns}"
    name = f"{path.name.split('.')[0]}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return f"{scratch / 'photos' / name}{crop}"


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .zip or .tar archive to a new folder, which appears when it is whole.

    Raises:
      DataError: the archive is damaged, or would write elsewhere.
    """
    with files.resumable_folder(folder) as partial:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as file:
                    file.extractall(partial)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(partial, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise DataError(f"{archive}: cannot be unpacked ({reason(error)})") from error


def prepare(photos: Sequence[str], scratch: Path, words: Sequence[str]) -> None:
    """Unpacks archives and cuts all photos, unless that is done.

    Args:
      photos: folders and archives, as of `--photos`.
      scratch: the folder for what archives hold, and for the canvases.
      words: the command line that names the configuration.

    Raises:
      UserError: something a user can act on.
    """
    folders = []
    for text in photos:
        folder = folder_of(text, scratch)
        folders.append(folder)
        unpacked = split_crop(folder)[0]
        if not unpacked.exists():
            print(f"unpacking {text} ...", flush=True)
            unpack(split_crop(text)[0], unpacked)
    config = configuration_of(words)
    assert config is not None
    config = timed_session.on_canvases(config, folders, scratch / CANVASES)
    print(", ".join(dict.fromkeys(config.data.roots)))


def main() -> None:
    """Prepares the photos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--scratch", type=harness.out_folder, required=True)
    parser.add_argument("--photos", action="append", required=True)
    args, words = parser.parse_known_args()
    prepare(args.photos, args.scratch, words)


if __name__ == "__main__":
    harness.run_command(main)
