"""Score a trained run, or a packed detector, on labelled faces: tables, curves and images.

landmarks-jax eval --workdir DIR [--protocol NAME ...]
landmarks-jax eval --workdir runs/mine --fit some.csv --score others.csv --crop center --crop box
landmarks-jax eval --detector faces --fit some.csv --score others.csv --out scores
landmarks-jax eval --workdir runs/mine --fit labels.csv

Those of a run go into its folder. Without arguments it scores the quickstart. The linear map is
fitted on the labelled faces, also for a packed detector, which may have one of its own.

--fit without --score is for a few labels, from three photos on: the error is that by leave-one-out
(each photo by the map of all others), beside that of the mean shape, and so is the penalty of the
linear map chosen. Points that are missing in some photos are fitted on the others. All photos of a
run get the labelled points: evaluation/NAME-CROP/points.csv, in DeepLabCut's form, can be read like
labels; landmarks.csv and landmarks.jsonl are as of `landmarks-jax detect`.
"""

from pathlib import Path

from landmarks_jax.cli import shared_flags
from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, WorkdirError

_QUICKSTART = "runs/quickstart"
_FLAGS = (
    Flag("workdir", f"The run's folder. Default: {_QUICKSTART}."),
    Flag("detector", "Or a packed file, or a shipped detector's name."),
    Flag("out", "With --detector: the folder of its tables, curves and images."),
    Flag(
        "mirror",
        "With --detector: score the mean over each view and its mirror image.",
        False,
        kind=bool,
    ),
    shared_flags.LANDMARKS,
    *shared_flags.LABELLED_FACES,
)


def _run(call: Call) -> int:
    values = call.flags
    if values.detector is not None and (values.out is None or values.workdir is not None):
        raise ConfigError("--detector: goes with --out, the folder to write, instead of --workdir")
    if values.detector is None and values.out is not None:
        raise ConfigError("--out: goes with --detector; a run's tables go into its own folder")
    if values.mirror and values.detector is None:
        raise ConfigError("--mirror: goes with --detector; export the run first")
    faces = shared_flags.labelled_faces(values)
    kept = shared_flags.landmarks(values)
    options = {**faces, "kept": kept, "command": call.command_line}
    folder = Path(values.out or values.workdir or _QUICKSTART)
    files.check_writable(folder, WorkdirError, folder=True)
    alone = values.fit is not None and values.score is None
    if alone and values.mirror:
        raise ConfigError("--mirror: goes with --score")
    from landmarks_jax.evaluation import (  # noqa: PLC0415
        named_points,
        packed_evaluation,
        run_evaluation,
    )
    from landmarks_jax.inference import api, packed_file  # noqa: PLC0415

    text, code = "", 0
    if values.detector is not None:
        path = api.find_packed(values.detector)
        packed = packed_file.read(path)
        if alone:
            text = named_points.fit_packed(packed, folder, **options)
        else:
            text = packed_evaluation.evaluate_packed(
                packed, path.stem, folder, mirror=values.mirror, **options
            )
    elif alone:
        text, code = named_points.fit_run(folder, **options)
    else:
        text = run_evaluation.evaluate_run(folder, **options)
    print(text)
    return code


COMMAND = Command(_run, _FLAGS)
