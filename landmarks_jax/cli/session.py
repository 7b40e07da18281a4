r"""A timed session: train, pack up and score within some minutes on a borrowed machine.

landmarks-jax session --config NAME --photos DIR --workdir DIR --minutes 9 --out DIR
landmarks-jax session --config faces --photos packed --workdir runs/faces --minutes 9 --out out \
    --transfer earlier/transfer

Prepares the photos if needed, trains, and writes to --out what is needed to continue elsewhere
(`transfer/`, for the next session's --transfer) and the run's tables and metrics (`results.zip`).
"""

import time
from pathlib import Path

from absl import flags

from landmarks_jax.cli import shared_flags
from landmarks_jax.cli.command import Call, Command


def _add_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values, required=True)
    flags.DEFINE_string(
        "out", None, "Folder for transfer/ and results.zip.", flag_values=values, required=True
    )
    flags.DEFINE_float(
        "minutes",
        None,
        "Length of the whole session.",
        lower_bound=0,
        flag_values=values,
        required=True,
    )
    flags.DEFINE_float(
        "reserve",
        2.0,
        "Minutes of it kept back for what follows the training.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "photos",
        [],
        "Folder of photos to train on: DIR, or DIR:tight for tight face crops. May be repeated; a "
        "folder named twice counts twice. Default: the configuration's data.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "canvases",
        "prepared",
        "With --photos: the folder that keeps their prepared form.",
        flag_values=values,
    )
    shared_flags.add_transfer(values)


def _run(call: Call) -> int:
    start = time.monotonic()
    from landmarks_jax.studies import timed_session  # noqa: PLC0415

    values = call.flags
    return timed_session.run_session(
        values.config,
        Path(values.workdir),
        Path(values.out),
        start=start,
        minutes=values.minutes,
        reserve=values.reserve,
        photos=values.photos,
        canvases=Path(values.canvases),
        transfer_from=shared_flags.transfer(values),
        command=call.command_line,
    )


COMMAND = Command(_run, _add_flags, config="The configuration.")
