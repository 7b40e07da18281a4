"""Finished runs as their folders tell them: configuration, log and evaluations, no checkpoint."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.evaluation.labelled_faces import PROTOCOLS
from landmarks_jax.evaluation.score_tables import Result
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.training import run_folder
from landmarks_jax.training.run_folder import CONFIG_FILE, EVALUATION, RECORD_FILE

FORMAT = 1

# A protocol's name and its crop.
Key = tuple[str, str]


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
      name: its folder, as the user gave it.
      config: its configuration, unchecked: an older one may lack fields.
      digests: of the photos and of the perceptual network, "" where unknown.
      steps: that its log goes to, None without a log.
      minutes: likewise.
      results: of `protocols.evaluate`, by protocol and crop.
    """

    name: str
    config: ConfigDict
    digests: tuple[str, str]
    steps: int | None
    minutes: float | None
    results: dict[Key, Result]


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Reads runs.

    Raises:
      WorkdirError: a folder is no run, is given twice, or a file in it is damaged; or no run has
        an evaluation.
    """
    seen: dict[Path, str] = {}
    for folder in folders:
        path = Path(folder).resolve()
        if path in seen:
            raise WorkdirError(f"{folder}: is given twice; name each run once")
        seen[path] = folder
    runs = [read_run(folder) for folder in seen.values()]
    if not any(run.results for run in runs):
        first = shlex.join(["landmarks-jax", "eval", "--workdir", runs[0].name])
        raise WorkdirError(f"{', '.join(seen.values())}: not scored yet; do it with `{first}`")
    return runs


def read_run(name: str) -> Run:
    """Reads one run, scored or not.

    Raises:
      WorkdirError: the folder is no run, or a file in it is damaged.
    """
    folder = Path(name)
    if not (folder / CONFIG_FILE).is_file():
        raise WorkdirError(f"{name}: not a run, it has no {CONFIG_FILE}")
    try:
        config = configuration.from_json((folder / CONFIG_FILE).read_text())
        seed, num_landmarks = config.seed, config.model.num_landmarks
        task = config.objective.task
    except (ValueError, OSError, AttributeError) as error:
        raise WorkdirError(f"{folder / CONFIG_FILE}: is no configuration ({error})") from error
    if task != "landmarks":
        raise WorkdirError(f"{name}: is a run on joints; runs on landmarks are compared")
    if not isinstance(seed, int) or not isinstance(num_landmarks, int):
        raise WorkdirError(f"{folder / CONFIG_FILE}: seed and num_landmarks must be whole numbers")
    run = _read_object(folder / RECORD_FILE)
    digests = (run.get("data_digest") or "", run.get("weights_digest") or "")
    paths = sorted((folder / EVALUATION).glob("*.json"))
    results = [_read_result(path) for path in paths]
    found = {(result["protocol"], result["crop"]): result for result in results}
    return Run(name.rstrip("/"), config, digests, *_last_of_log(folder), found)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text())
        if not isinstance(read, dict):
            raise ValueError("not an object of fields")
    except (ValueError, OSError) as error:
        raise WorkdirError(f"{path}: cannot be read ({error})") from error
    return read


def _read_result(path: Path) -> Result:
    result = _read_object(path)
    rows = result.get("results")
    known = result.get("format") == FORMAT and {"protocol", "crop"} <= result.keys()
    if not known or not isinstance(rows, dict) or not _has_errors(rows.get("running")):
        raise WorkdirError(
            f"{path}: is no evaluation of format {FORMAT}; rerun `landmarks-jax eval`, or remove it"
        )
    return result


def _has_errors(scores: object) -> bool:
    """Whether a detector's row of a result has its errors."""
    return isinstance(scores, dict) and bool(scores.get("forward"))


def _last_of_log(folder: Path) -> tuple[int | None, float | None]:
    """Steps and minutes at the end of a run's log."""
    rows = run_folder.read_log(folder)
    return (rows[-1]["step"], round(rows[-1]["seconds"] / 60, 2)) if rows else (None, None)


def scoring_command(run: Run, key: Key, scored: Sequence[Result]) -> str:
    """The command that scores a run under a protocol.

    Args:
      run: the run.
      key: the protocol and its crop.
      scored: results of other runs under it. Their command is taken where the protocol has no name
        of its own.
    """
    protocol, crop = key
    start = ["landmarks-jax", "eval", "--workdir", run.name]
    if protocol in PROTOCOLS:
        return shlex.join([*start, "--protocol", protocol])
    known = [shlex.split(r["provenance"]["command"]) for r in scored if "provenance" in r]
    for _, *words in known:
        flags = _without_workdir(words[1:])
        if flags:
            return shlex.join([*start, *flags])
    return shlex.join([*start, "--fit", "FACES", "--score", "FACES", "--crop", crop])


def _without_workdir(flags: Sequence[str]) -> list[str]:
    """Flags of `eval` less the one that names the run."""
    kept, skip = [], False
    for flag in flags:
        name, equals, _ = flag.lstrip("-").partition("=")
        if skip or (name == "workdir" and flag.startswith("-")):
            skip = not skip and not equals
            continue
        kept.append(flag)
    return kept


def seed_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but the seed, together; in the order given."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if _same_but_seed(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _same_but_seed(one: Run, other: Run) -> bool:
    fields = {field for field, *_ in configuration.differences(one.config, other.config)}
    # Lengths may differ between sittings of a run, but not between seeds of an experiment.
    lengths = [(r.config.train.steps, r.config.train.minutes) for r in (one, other)]
    return fields <= {"seed"} and one.digests == other.digests and lengths[0] == lengths[1]


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What differs between the runs.

    Returns:
      For each field {"field", "values": [{"value", "runs": names}]}; None where a configuration
      does not have it. Photos and perceptual networks are told apart by their digests.
    """
    pairs = [
        {field: (a, b) for field, a, b in configuration.differences(runs[0].config, run.config)}
        for run in runs
    ]
    differing = []
    for field in sorted({field for pair in pairs for field in pair}):
        first = next(pair[field][0] for pair in pairs if field in pair)
        values = [pair[field][1] if field in pair else first for pair in pairs]
        differing.append(_by_value(f"config.{field}", values, runs))
    for index, name in enumerate(("data_digest", "weights_digest")):
        digests = [run.digests[index][:12] or None for run in runs]
        if len(set(digests)) > 1:
            differing.append(_by_value(f"{RECORD_FILE}: {name}", digests, runs))
    return differing


def _by_value(field: str, values: Sequence[Any], runs: Sequence[Run]) -> dict[str, Any]:
    """One field's values, each with the runs that have it."""
    entries: list[dict[str, Any]] = []
    for value, run in zip(values, runs, strict=True):
        for entry in entries:
            if entry["value"] == value:
                entry["runs"].append(run.name)
                break
        else:
            entries.append({"value": value, "runs": [run.name]})
    return {"field": field, "values": entries}
