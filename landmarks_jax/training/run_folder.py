"""The folder of a run: names and contents of its files. Does not import Orbax.

config.json            the configuration
run.json               the record, see `Record`
metrics.jsonl          the log: an object a line, every `config.train.log_every` steps
checkpoints/           a folder for each checkpoint, named by its step
pictures/, tensorboard/   previews and curves
targets/               of self-training: refined points by the step they were made at
evaluation/            results of evaluations; of some landmarks in evaluation-A-B/
targets/               points that self-training learns, by the step they are made at
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, WorkdirError, reason

CONFIG_FILE, RECORD_FILE, METRICS_FILE = "config.json", "run.json", "metrics.jsonl"
CHECKPOINTS, EVALUATION = "checkpoints", "evaluation"
PICTURES, TENSORBOARD = "pictures", "tensorboard"


class Transfer(NamedTuple):
    """A point where a run continued from transfer files, without its optimiser.

    Attributes:
      step: steps done before.
      seconds: time trained before, over all sessions.
      warmup_steps: steps over which the learning rate rose again.
      other_photos: whether the list of photos changed.
    """

    step: int
    seconds: float
    warmup_steps: int
    other_photos: bool

    def note(self) -> str:
        """The note for the run's tables."""
        photos = "; the photos were renamed or replaced" if self.other_photos else ""
        return (
            f"transferred, not resumed, at step {self.step:,} after {self.seconds / 60:.1f} "
            "minutes: networks rounded to float16, a fresh optimiser, the learning rate rising "
            f"again over {self.warmup_steps:,} steps{photos}"
        )


@dataclasses.dataclass(frozen=True)
class Record:
    """Facts about a run besides its configuration.

    Attributes:
      data_digest: fingerprint of the list of photos, "" for imported networks.
      weights_digest: fingerprint of VGG's weights, "" without any.
      init: how the run began, as `init_from` writes it.
      notes: notes for every table of the run.
      hardware: what the run was trained on, without repetition.
      transfers: where it continued from transfer files, in order.
    """

    data_digest: str
    weights_digest: str
    init: Mapping[str, str]
    notes: Sequence[str] = ()
    hardware: Sequence[str] = ()
    transfers: Sequence[Transfer] = ()

    def all_notes(self) -> list[str]:
        """The notes for tables, including those of the transfers."""
        return [*self.notes, *(transfer.note() for transfer in self.transfers)]

    def to_json(self) -> dict[str, Any]:
        """Converts the record to plain JSON."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "transfers": [transfer._asdict() for transfer in self.transfers],
        }

    @classmethod
    def from_json(cls, fields: Any, path: Path) -> "Record":
        """Parses the output of `to_json`.

        Raises:
          WorkdirError: naming `path`, the file it was read from.
        """
        try:
            transfers = [Transfer(**transfer) for transfer in fields.get("transfers", ())]
            return cls(**{**fields, "transfers": transfers})
        except (AttributeError, TypeError) as error:
            raise WorkdirError(f"{path}: not the record of a run ({reason(error)})") from error


def is_run(workdir: Path) -> bool:
    """Whether a folder holds a run, trained or not."""
    return (workdir / CONFIG_FILE).is_file()


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
    except (ValueError, OSError) as error:
        raise WorkdirError(f"{path}: not a configuration ({reason(error)})") from error


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Rejects a folder that holds a run of another configuration, or that can hold none.

    Raises:
      WorkdirError: naming the field and both values; or the path cannot hold checkpoints, or there
        are checkpoints without a configuration.
    """
    check_name(workdir)
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
      WorkdirError: there is none, or it cannot be read.
    """
    path = workdir / RECORD_FILE
    try:
        return Record.from_json(json.loads(path.read_text()), path)
    except (ValueError, OSError) as error:
        raise WorkdirError(f"{path}: cannot be read ({reason(error)})") from error


def read_log(workdir: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """Reads the log of a run; a line that a kill cut short is skipped.

    Args:
      workdir: the run's folder.
      last_step: leaves out later rows; None keeps all.

    Returns:
      A row `{"step", "seconds", metrics ...}` for each line; none without a log.

    Raises:
      WorkdirError: a line is damaged.
    """
    path = workdir / METRICS_FILE
    if not path.is_file():
        return []
    rows = []
    try:
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("}\n"):
                rows.append(json.loads(line))
        return [row for row in rows if last_step is None or row["step"] <= last_step]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WorkdirError(
            f"{path}: line {len(rows) + 1} is damaged ({reason(error)}); remove it"
        ) from error


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
            raise WorkdirError(
                f"{path}: the run used other VGG weights than those that config.perceptual.weights "
                "or config.targets.weights names; use its own weights or another --workdir"
            )
        record = dataclasses.replace(
            record,
            hardware=list(dict.fromkeys([*before.hardware, *record.hardware])),
            transfers=record.transfers or before.transfers,
        )
    text = json.dumps(record.to_json(), indent=2) + "\n"
    files.write_file(workdir / RECORD_FILE, text, WorkdirError)
    files.write_file(workdir / CONFIG_FILE, configuration.to_json(config), WorkdirError)
