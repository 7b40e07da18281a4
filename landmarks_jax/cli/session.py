r"""A timed session: train, pack up and score within some minutes on a borrowed machine.

landmarks-jax session --config NAME --photos DIR --workdir DIR --minutes 9 --out DIR
landmarks-jax session --config faces --photos packed --workdir runs/faces --minutes 9 --out out \
    --transfer earlier/transfer

Prepares the photos if needed, trains, and writes to --out what is needed to continue elsewhere
(`transfer/`, for the next session's --transfer) and the run's tables and metrics (`results.zip`).
Both are there whatever ends the command: transfer/ at each checkpoint, results.zip before the run
is scored and after it.
"""

import time
from pathlib import Path

from landmarks_jax.cli import shared_flags
from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system.errors import ConfigError

_FLAGS = (
    Flag("workdir", "The run's folder.", required=True),
    Flag("out", "Folder for transfer/ and results.zip.", required=True),
    Flag("minutes", "Length of the whole session.", kind=float, low=0, required=True),
    Flag(
        "reserve",
        "Minutes of it, fewer than --minutes, reserved for the steps after training.",
        2.0,
        kind=float,
        low=0,
    ),
    Flag(
        "photos",
        "Folder of photos to train on: DIR, or DIR:tight for tight face crops. A folder named "
        "twice counts twice. Default: the configuration's data.",
        [],
        repeated=True,
    ),
    Flag("canvases", "With --photos: the folder that keeps their prepared form.", "prepared"),
    shared_flags.TRANSFER,
)


def _run(call: Call) -> int:
    start = time.monotonic()
    values = call.flags
    if values.minutes <= values.reserve:
        raise ConfigError(
            f"--minutes {values.minutes:g}: must be above --reserve {values.reserve:g}, which is "
            "for what comes after training"
        )
    if values["canvases"].present and not values.photos:
        raise ConfigError("--canvases: goes with --photos")
    from landmarks_jax.studies import timed_session  # noqa: PLC0415

    return timed_session.run_session(
        values.config,
        Path(values.workdir),
        Path(values.out),
        start=start,
        minutes=values.minutes,
        reserve=values.reserve,
        photos=values.photos,
        canvases=Path(values.canvases),
        transfer_from=Path(values.transfer) if values.transfer else None,
        command=call.command_line,
    )


COMMAND = Command(
    _run,
    _FLAGS,
    config="The configuration.",
    after_signal="rerun the same command to continue",
)
