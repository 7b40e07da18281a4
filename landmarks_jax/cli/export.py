r"""Write a trained detector as one file: packed for this package, or a graph for other programs.

landmarks-jax export --workdir DIR --out FILE [--format FORMAT]
landmarks-jax export --workdir runs/mine --noregressor --out mine.safetensors --card mine.md
landmarks-jax export --detector mine.safetensors --format onnx --precision float16 --out mine.onnx
landmarks-jax export --detector faces --fit mine.csv --out fitted.safetensors
landmarks-jax export --detector mine.safetensors --landmarks 0,3,5:7 --names toe,heel,left,right \
    --out named.safetensors

A run is packed with the linear map to the labelled faces of its config.eval.protocols, or of those
given by the flags of `landmarks-jax eval`; --noregressor needs no labelled faces. Those flags fit a
new linear map for a packed detector too. --fit may be without --score, for a few labels: the
error, and the penalty of the map, are then those of leave-one-out. Names are in what
`landmarks-jax detect` writes, and in the page.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from landmarks_jax.cli import shared_flags
from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.inference.export_formats import FORMATS
from landmarks_jax.inference.precision import PRECISIONS
from landmarks_jax.system.errors import ConfigError, UserError, WeightsError

if TYPE_CHECKING:
    from landmarks_jax.data.sources.photos import Source
    from landmarks_jax.inference.packed_file import PackedDetector

_LOGGER = logging.getLogger(__name__)

_FLAGS = (
    Flag("workdir", "The run's folder."),
    Flag("detector", "Or a packed file, or a shipped detector's name."),
    Flag("out", "The file to write.", required=True),
    Flag("format", "Format of the file, see the end.", "packed", choices=FORMATS),
    Flag("precision", "Precision of the kernels in the file.", "float32", choices=PRECISIONS),
    Flag("card", "Write the detector's card, Markdown, to this file."),
    Flag("photos", "A sentence on the photos of training and their terms, for the card."),
    Flag(
        "face_photos",
        "The detector is of faces: photos that one face fills as it should a view, a folder or a "
        "list, from which it learns what to view around a found face (extra `faces`).",
    ),
    Flag(
        "mirror_photos",
        "Look for landmarks that mirror each other in these photos, a folder or a list; default of "
        "--workdir: the photos of the run.",
    ),
    Flag("regressor", "Include the linear map to labelled points.", True, kind=bool),
    shared_flags.LANDMARKS,
    Flag("names", "Names of the landmarks, separated by commas, one for each.", [], kind=list),
    *shared_flags.LABELLED_FACES,
)


def _run(call: Call) -> None:
    values = call.flags
    faces = {key: v for key, v in shared_flags.labelled_faces(values).items() if v}
    _check(values, faces)
    from landmarks_jax.inference import card  # noqa: PLC0415
    from landmarks_jax.system import files  # noqa: PLC0415

    content = _content(values, faces, call.command_line)
    if values.photos is not None:
        summary = content.summary | {"photos": values.photos}
        content = dataclasses.replace(content, summary=summary)
    if values.face_photos is not None:
        content = _with_face_frame(content, values.face_photos)
    content = _with_mirror_pairs(content, values)
    out = Path(values.out)
    files.write_file(out, FORMATS[values.format].encode(content, values.precision), WeightsError)
    if values.card is not None:
        text = card.to_markdown(content, out.stem)
        files.write_file(Path(values.card), text.encode(), WeightsError)
    print(
        f"{out}: {values.format}, {values.precision}, {out.stat().st_size / 2**20:.2f} MiB: views "
        f"of {content.config.views.size} pixels, {content.config.model.num_landmarks} landmarks, "
        f"{content.num_labelled} labelled points"
    )


def _check(values: flags.FlagValues, faces: dict[str, Any]) -> None:
    if (values.workdir is None) == (values.detector is None):
        raise ConfigError("give exactly one of --workdir, a run, and --detector, a packed file")
    if faces and not values.regressor:
        raise ConfigError(
            "labelled faces (--protocol, --aflw, --fit, --score, --crop) fit the linear map that "
            "--noregressor leaves out"
        )
    if values.card is not None and os.path.realpath(values.card) == os.path.realpath(values.out):
        raise ConfigError(f"--card {values.card}: also the file of --out; name another")


def _content(
    values: flags.FlagValues, faces: dict[str, Any], command_line: Sequence[str]
) -> "PackedDetector":
    kept, names = shared_flags.landmarks(values), values.names
    if values.workdir is not None:
        from landmarks_jax.evaluation import pack_run  # noqa: PLC0415

        workdir = Path(values.workdir)
        pack_run.check_landmarks(workdir, kept, names)
        protocols = pack_run.open_faces(workdir, faces) if values.regressor else []
        return pack_run.pack_run(workdir, protocols, command_line, kept=kept, names=names)
    # A packed file is converted without the training stack.
    from landmarks_jax.inference import api, kept_landmarks, packed_file  # noqa: PLC0415

    content = packed_file.read(api.find_packed(values.detector))
    if kept is not None:
        if content.regressor is not None and values.regressor and not faces:
            raise ConfigError(
                f"--landmarks: the linear map of {values.detector} is of all its landmarks; fit a "
                "new one (--fit FILE), or leave it out (--noregressor)"
            )
        content = kept_landmarks.keep(content, kept)
    content = kept_landmarks.rename(content, names)
    if faces:
        from landmarks_jax.evaluation import pack_run  # noqa: PLC0415

        return pack_run.refit(content, faces, command_line)
    if values.regressor:
        return content
    # The scores in its summary stay: they are of the discovered points.
    summary = content.summary | {"point_names": []}
    return dataclasses.replace(content, regressor=None, summary=summary)


def _with_face_frame(content: "PackedDetector", photos: str) -> "PackedDetector":
    from landmarks_jax.inference import face_finder  # noqa: PLC0415

    face_finder.model_file()  # before all photos are decoded
    source = _open_photos(photos)
    frame, count = face_finder.fit_frame(source.photo(i) for i in range(len(source)))
    fields = {"finder": face_finder.FINDER, "photos": count, **frame._asdict()}
    return dataclasses.replace(content, summary=content.summary | {"face_frame": fields})


def _with_mirror_pairs(content: "PackedDetector", values: flags.FlagValues) -> "PackedDetector":
    if values.workdir is None and values.mirror_photos is None:
        return content
    from landmarks_jax.evaluation import symmetry  # noqa: PLC0415
    from landmarks_jax.training import run_folder  # noqa: PLC0415

    try:
        if values.mirror_photos is not None:
            photos = symmetry.photos_of_source(_open_photos(values.mirror_photos), content.config)
        else:
            photos = symmetry.photos_of_run(run_folder.read_config(Path(values.workdir)))
        return symmetry.add_pairs(content, photos)
    except UserError as error:
        if values.mirror_photos is not None:
            raise
        _LOGGER.warning(
            "warning: no landmarks that mirror each other were looked for: %s; give other photos "
            "by --mirror_photos",
            error,
        )
        return content


def _open_photos(path: str) -> "Source":
    from landmarks_jax.data.sources import folder, registry  # noqa: PLC0415

    is_list = os.path.isfile(path)
    return registry.open_labelled(path) if is_list else folder.FolderPhotos([path])


def _formats() -> str:
    return "\n".join(["Formats:", *(f"  {name}: {form.summary}" for name, form in FORMATS.items())])


COMMAND = Command(_run, _FLAGS, details=_formats)
