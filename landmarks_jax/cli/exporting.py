"""Writes a detector as a file for elsewhere, from a run or from a packed file, and its card."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from landmarks_jax.inference import api, card, graph_export, packed_file
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, WeightsError

FORMATS = ("packed", "stablehlo", "onnx")


def export(
    out: Path,
    *,
    workdir: str | None = None,
    detector: str | None = None,
    form: str = "packed",
    precision: str = "float32",
    card_file: str | None = None,
    photos: str | None = None,
    regressor: bool = True,
    faces: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
) -> str:
    """Writes a detector, and its card where one is asked for; each whole or not at all.

    Args:
      out: the file; one that is there is replaced.
      workdir: the run to pack, or
      detector: the packed file, or the name of one that comes with this package.
      form: one of `FORMATS`.
      precision: of the kernels in the file, one of `packed.PRECISIONS`.
      card_file: where the card goes; None writes none. The name on it is that of `out`.
      photos: what it was trained on, and on what terms, for the record and the card.
      regressor: False packs a run without labelled faces.
      faces: keywords of `evaluate.open_faces`: the labelled faces of a run.
      command: the command line that asked for this, for the record.

    Returns:
      What was written, in a line.

    Raises:
      UserError: what was asked for does not go together, or cannot be read or written.
    """
    named = {key: value for key, value in (faces or {}).items() if value}
    if (workdir is None) == (detector is None):
        raise ConfigError("give exactly one of --workdir, a run, and --detector, a packed file")
    if named and (detector is not None or not regressor):
        raise ConfigError(
            "labelled faces (--protocol, --aflw, --fit, --score, --crop) go with --workdir, and "
            "without --noregressor"
        )
    if card_file is not None and os.path.realpath(card_file) == os.path.realpath(out):
        raise ConfigError(f"--card {card_file}: is the file of --out; name another")
    if workdir is not None:
        # Only here: a packed file is converted without the training stack.
        from landmarks_jax.evaluation import pack_run  # noqa: PLC0415

        protocols = pack_run.open_faces(Path(workdir), named) if regressor else []
        content = pack_run.pack_run(Path(workdir), protocols, command)
    else:
        content = packed_file.read(api.find(str(detector)))
        if not regressor:
            content = _without_regressor(content)
    if photos is not None:
        content = dataclasses.replace(content, summary=content.summary | {"photos": photos})
    _write(out, content, form, precision)
    if card_file is not None:
        files.write_file(Path(card_file), card.markdown(content, out.stem).encode(), WeightsError)
    return _describe(out, content, form, precision)


def _without_regressor(content: packed_file.Packed) -> packed_file.Packed:
    """The detector alone; the scores in its summary stay, they are of the discovered points."""
    summary = content.summary | {"point_names": []}
    return dataclasses.replace(content, regressor=None, summary=summary)


def _write(out: Path, content: packed_file.Packed, form: str, precision: str) -> None:
    if form == "packed":
        packed_file.write(out, content, precision)
    else:
        convert = {"stablehlo": graph_export.to_stablehlo, "onnx": graph_export.to_onnx}[form]
        files.write_file(out, convert(content, precision), WeightsError)


def _describe(out: Path, content: packed_file.Packed, form: str, precision: str) -> str:
    size, config = content.config.views.size, content.config
    labelled = 0 if content.regressor is None else len(content.regressor.y_origin) // 2
    return (
        f"{out}: {form}, {precision}, {out.stat().st_size / 2**20:.2f} MiB: views of {size} pixels,"
        f" {config.model.num_landmarks} landmarks, {labelled} labelled points"
    )
