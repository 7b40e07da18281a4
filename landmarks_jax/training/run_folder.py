"""The folder of a run: names and contents of its files. Does not import Orbax.

config.json            the configuration
run.json               the record, see `record`
metrics.jsonl          the log: an object a line, every `config.train.log_every` steps
metrics.damaged.jsonl  damaged lines that were removed from it, if there were any
.lock                  locked while a training works in the folder
checkpoints/           a folder for each checkpoint, named by its step
pictures/, tensorboard/   previews and curves
evaluation/            results of evaluations; of some landmarks in evaluation-A-B/
targets/               points that self-training learns, by the step they are made at
report.html, report.json  the newest report
.reproduce.lock        locked while `landmarks-jax reproduce` works in the folder
unreadable-STEP/       a checkpoint that could not be read, where its message had it moved
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.system import files, streams
from landmarks_jax.system.errors import ConfigError, WorkdirError, reason
from landmarks_jax.system.sealed_json import sealed, unsealed
from landmarks_jax.training.record import Record

CONFIG_FILE, RECORD_FILE, METRICS_FILE = "config.json", "run.json", "metrics.jsonl"
DAMAGED_FILE = "metrics.damaged.jsonl"
CHECKPOINTS, EVALUATION = "checkpoints", "evaluation"
PICTURES, TENSORBOARD = "pictures", "tensorboard"
OTHER_WEIGHTS = (
    "the run used other VGG weights than those that config.perceptual.weights or "
    "config.targets.weights names; use its own weights"
)
MAX_SECONDS = 1e12  # trained; more is damage
_LOGGER = logging.getLogger(__name__)


def is_run(workdir: Path) -> bool:
    """Whether a folder holds a run, trained or not."""
    return os.path.isfile(workdir / CONFIG_FILE)  # unlike pathlib's, never an error


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other trainings out of a run's folder, which is created if needed.

    Others may read the run meanwhile, and write evaluations: each of those files is whole. A folder
    that was created and got nothing is removed.

    Raises:
      WorkdirError: another process trains in the folder, or it cannot be written, or could not be
        restored from; see `check_name`.
    """
    check_name(workdir)
    created, lock = not os.path.lexists(workdir), workdir / files.LOCK
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.lock(lock, WorkdirError))
        except OSError as error:
            raise WorkdirError(f"{workdir}: cannot be written ({reason(error)})") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if created and os.listdir(workdir) == [lock.name]:
                    lock.unlink()
                    workdir.rmdir()


def steps_saved(workdir: Path) -> list[int]:
    """The steps of a run's complete checkpoints, in order."""
    # Orbax renames a checkpoint to its step once it is complete.
    names = [path.name for path in (workdir / CHECKPOINTS).glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def newest_step(workdir: Path) -> int | None:
    """The step of a run's newest checkpoint, None without one."""
    return max(steps_saved(workdir), default=None)


def check_name(workdir: Path) -> None:
    r"""Rejects a folder whose checkpoints could not be restored.

    Orbax searches its folders with a pattern, `*?[` in their names included, and takes `gs:/` in
    them for another storage; TensorStore takes `\` for `/`, and only UTF-8.

    Raises:
      WorkdirError: naming what the path must not hold.
    """
    found = re.search(r"[*?\[\\\ud800-\udfff]|gs:/", f"{workdir.absolute()}/")
    if found:
        raise WorkdirError(
            f"{workdir}: checkpoints cannot be kept in a folder with {found.group()!a} in its "
            "path; use another name"
        )


def read_config(workdir: Path) -> ConfigDict:
    """Reads the configuration of a run.

    Raises:
      WorkdirError: there is none, it cannot be read, or its values cannot work.
    """
    path = workdir / CONFIG_FILE
    try:
        config = configuration.from_json(path.read_text())
        configuration.validate(config)
        return config
    except ConfigError as error:
        raise WorkdirError(f"{path}: {error}") from error
    except FileNotFoundError:
        raise WorkdirError(f"{path}: no such file; {workdir} is not the folder of a run") from None
    except (ValueError, OSError, RecursionError) as error:
        raise WorkdirError(f"{path}: not a configuration ({reason(error)})") from error


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Rejects a folder that holds a run of another configuration.

    Raises:
      WorkdirError: naming the field and both values; or there are checkpoints without a
        configuration.
    """
    if not is_run(workdir):
        if newest_step(workdir) is not None:
            raise WorkdirError(
                f"{workdir / CONFIG_FILE}: missing, but there are checkpoints; copy it back into "
                "the folder, or use another --workdir"
            )
        return
    for field, before, now in configuration.differences(read_config(workdir), config):
        raise WorkdirError(
            f"{workdir / CONFIG_FILE}: the run has config.{field} = {before!r}, not "
            f"{now!r}; use another --workdir, or the run's own value"
        )


def read_record(workdir: Path) -> Record:
    """Reads the record of a run.

    Raises:
      WorkdirError: there is none, it cannot be read, or its SHA-256 differs.
    """
    path = workdir / RECORD_FILE
    try:
        return Record.from_json(unsealed(json.loads(path.read_text())))
    except (ValueError, OSError, RecursionError, KeyError, TypeError) as error:
        raise WorkdirError(
            f"{path}: cannot be read ({reason(error)}); copy it again, or use another --workdir"
        ) from error


def read_log(workdir: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """Reads the log of a run; skips damaged lines with a warning, and a last one cut by a kill.

    Args:
      workdir: the run's folder.
      last_step: leaves out later rows; None keeps all.

    Returns:
      A row `{"step", "seconds", metrics ...}` for each line; none without a log.

    Raises:
      WorkdirError: the file cannot be read.
    """
    rows, damaged = _parse_log(workdir / METRICS_FILE)
    if damaged:
        _LOGGER.warning("%s; skipped", _damage(workdir, damaged))
    return [row for row in rows if last_step is None or row["step"] <= last_step]


def continue_log(workdir: Path, last_step: int) -> streams.Appender:
    """Opens the log of a run for the rows after a step, and drops those that it has.

    Damaged lines are moved to `metrics.damaged.jsonl`.

    Raises:
      WorkdirError: the file cannot be read or written.
    """
    path = workdir / METRICS_FILE
    rows, damaged = _parse_log(path)
    if damaged:
        aside = streams.Appender(workdir / DAMAGED_FILE)
        aside.write(b"".join(line + b"\n" for line in damaged.values()))
        aside.close()
        _LOGGER.warning("%s; moved to %s", _damage(workdir, damaged), DAMAGED_FILE)
    write_log(workdir, [row for row in rows if row["step"] <= last_step])
    return streams.Appender(path)


def _parse_log(path: Path) -> tuple[list[dict[str, Any]], dict[int, bytes]]:
    """The rows of a log, and its damaged lines by their numbers from 1."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # the last one is empty, or was cut by a kill
    except FileNotFoundError:
        return [], {}
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be read ({reason(error)})") from error
    rows, damaged = [], {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode())
            if type(row["step"]) is not int or not 0 <= row["seconds"] < MAX_SECONDS:
                raise ValueError
            rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged[number] = line
    return rows, damaged


def _damage(workdir: Path, damaged: Mapping[int, bytes]) -> str:
    numbers = [str(number) for number in damaged]
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"{workdir / METRICS_FILE}: damaged at line {', '.join(numbers[:3])}{more}"


def write_log(workdir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the log of a run."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    files.write_file(workdir / METRICS_FILE, text, WorkdirError)


def claim(workdir: Path, config: ConfigDict, record: Record) -> None:
    """Writes a run's configuration and record, or checks that the folder holds the same run.

    Adds the hardware to that of earlier sessions, and keeps their transfers unless given new ones.

    Raises:
      WorkdirError: the folder holds a run of another configuration, of other photos or of other
        VGG weights, or it cannot be written.
    """
    check_config(workdir, config)
    if is_run(workdir):
        before, path = read_record(workdir), workdir / RECORD_FILE
        if before.data_digest != record.data_digest:
            raise WorkdirError(
                f"{path}: the run was trained on other photos (some were added, removed or renamed "
                "since); restore them or use another --workdir"
            )
        if before.weights_digest != record.weights_digest:
            raise WorkdirError(f"{path}: {OTHER_WEIGHTS} or another --workdir")
        record = dataclasses.replace(
            record,
            hardware=list(dict.fromkeys([*before.hardware, *record.hardware])),
            transfers=record.transfers or before.transfers,
        )
    text = json.dumps(sealed(record.to_json()), indent=2) + "\n"
    files.write_file(workdir / RECORD_FILE, text, WorkdirError)
    files.write_file(workdir / CONFIG_FILE, configuration.to_json(config), WorkdirError)
