"""Train a landmark detector.

landmarks-jax train PHOTOS ... [--workdir DIR] [--config.SECTION.FIELD=value ...]
landmarks-jax train --config NAME --workdir DIR [--config.SECTION.FIELD=value ...]
landmarks-jax train photos/
landmarks-jax train --config faces_cpu --workdir runs/faces_cpu --config.train.steps=500

With folders, image files or globs it looks at the photos, trains the preset `folder` on them, with
VGG's features if data/weights or the cache folder has its weights, and reports how reliable each
landmark is. Without arguments it trains the quickstart.

Rerun the same command to resume, with a larger --config.train.steps or --config.train.minutes to
continue, up to --config.optimizer.cosine_steps if it is set: the learning rate is 0 there. With
--transfer a new run folder continues a run from another machine. With --multihost several processes
train one run (docs/scaling.md).

Any field of a configuration is set with --config.SECTION.FIELD=value; see the end for where the
fields are explained.
"""

from pathlib import Path
from typing import Any

from absl import flags

from landmarks_jax.cli import presets, shared_flags
from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, WorkdirError

_FOR_PHOTOS = "folder"
_PLACE = ("coordinator", "num_processes", "process_id")


_FLAGS = (
    Flag("workdir", "The run's folder. Default: runs/ and the photos' folder, or quickstart."),
    shared_flags.TRANSFER,
    Flag(
        "multihost",
        "This process is one of several that train one run; start each with the same command. They "
        "find each other by themselves under SLURM, Open MPI and on cloud clusters.",
        False,
        kind=bool,
    ),
    Flag(
        "coordinator",
        "Elsewhere: HOST:PORT of process 0, as all can reach it; any free port.",
    ),
    Flag("num_processes", "With --coordinator: the number of processes.", kind=int),
    Flag("process_id", "With --coordinator: the number of this process, from 0.", kind=int),
)


def _multihost(values: flags.FlagValues) -> dict[str, Any]:
    """The flags of several processes, as keywords of `distributed.joined`.

    Raises:
      ConfigError: they do not go together.
    """
    place: dict[str, Any] = {name: values[name].value for name in _PLACE}
    present = [f"--{name}" for name, value in place.items() if value is not None]
    if present and not values.multihost:
        raise ConfigError(f"{present[0]}: only with --multihost")
    if present and len(present) < len(place):
        missing = " and ".join(f"--{name}" for name in place if f"--{name}" not in present)
        raise ConfigError(f"{present[0]}: needs {missing} as well, or none of the three")
    if present:
        _check_place(**place)
    return {"multihost": values.multihost, **place}


def _check_place(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator={coordinator}: must be HOST:PORT, such as node7:8476")
    if num_processes < 1:
        raise ConfigError(f"--num_processes={num_processes}: must be at least 1")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id={process_id}: must be from 0 to {num_processes - 1}")


def _run(call: Call) -> int:
    values = call.flags
    place = _multihost(values)
    transfer = Path(values.transfer) if values.transfer else None
    if call.arguments:
        if values.multihost:
            raise ConfigError("--multihost: not with photos as arguments; name a --config")
        return _train_on_photos(call, transfer)
    from landmarks_jax.training import distributed, loop  # noqa: PLC0415

    with distributed.joined(**place):
        workdir = Path(values.workdir or "runs/quickstart")
        return loop.train(values.config, workdir, transfer_from=transfer)


def _train_on_photos(call: Call, transfer: Path | None) -> int:
    from ml_collections import config_flags  # noqa: PLC0415

    from landmarks_jax.evaluation import run_report  # noqa: PLC0415
    from landmarks_jax.training import loop, own_photos, run_folder  # noqa: PLC0415

    values = call.flags
    workdir = Path(values.workdir or own_photos.folder_of(call.arguments))
    files.check_writable(workdir, WorkdirError, folder=True)
    config = own_photos.configured(
        values.config,
        config_flags.get_override_values(values["config"]),
        call.arguments,
        workdir,
        choose=call.config_file == _FOR_PHOTOS,
        transfer=transfer,
    )
    if not run_folder.is_run(workdir):
        own_photos.look(config, call.arguments, workdir)
    code = loop.train(config, workdir, transfer_from=transfer)
    if not code:
        print(run_report.report(workdir, command=call.command_line))
    return code


def _fields() -> str:
    from landmarks_jax import losses  # noqa: PLC0415

    fields = presets.FOLDER / "base.py"
    return f"{losses.help_text()}\n\nEvery field, with its unit and default:\n  {fields}"


COMMAND = Command(
    _run,
    _FLAGS,
    config="The configuration; with PHOTOS the default is folder.",
    default_config="quickstart",
    config_with_arguments=_FOR_PHOTOS,
    arguments="[PHOTOS ...]",
    details=_fields,
)
