"""Commands that are stopped or run out of disk, and what must hold; for `benchmarks.faults`."""

import contextlib
import json
import resource
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from benchmarks import fault_targets as targets
from landmarks_jax.evaluation import run_evaluation
from landmarks_jax.inference import packed_file
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.files import sha256_of_arrays
from landmarks_jax.training import checkpoints, loop, run_folder
from landmarks_jax.training import state as states

# Steps of the undisturbed training that disturbed ones are compared with.
STEPS = 400
LOST, SILENT = "lost", "silent"
REPORT = "skipped.csv"
Violation = tuple[str, str]


@dataclass(frozen=True)
class Scenario:
    """A command whose output is known.

    Attributes:
      words: the command, for a folder to work in and the folder of `targets.build`.
      out: where it writes, in the folder.
      growing: names of files that are written row by row; others are whole or not there.
    """

    words: Callable[[Path, Path], list[str]]
    out: str = "out"
    growing: tuple[str, ...] = ()

    def prepare(self, folder: Path, base: Path) -> None:
        """Makes the folder to work in."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base / "run", folder / "run", ignore=shutil.ignore_patterns("evaluation"))


SCENARIOS = {
    "prepare": Scenario(lambda folder, _: ["prepare", *targets.words(), f"--out={folder}/out"]),
    "evaluate": Scenario(
        lambda folder, _: ["eval", f"--workdir={folder}/run", "--protocol=synthetic"],
        out="run/evaluation",
    ),
    "export": Scenario(
        lambda folder, _: [
            "export",
            f"--workdir={folder}/run",
            "--noregressor",
            f"--out={folder}/out/a.safetensors",
            f"--card={folder}/out/a.md",
        ]
    ),
    "transfer": Scenario(
        lambda folder, _: ["transfer", f"--workdir={folder}/run", f"--out={folder}/out"]
    ),
    "detect": Scenario(
        lambda folder, base: [
            "detect",
            str(base / "packed" / "a.safetensors"),
            *sorted(str(base / kind) for kind in ("png", "jpeg", "labels")),
            f"--out={folder}/out",
        ],
        growing=("landmarks.csv", "landmarks.jsonl"),
    ),
}


def train_words(folder: Path, steps: int) -> list[str]:
    """The command that trains in a folder."""
    return ["train", *targets.words(train__steps=steps), f"--workdir={folder}/run"]


def contents(folder: Path) -> dict[str, bytes]:
    """The visible files below a folder by their relative names.

    JSON without where it is from, and of packed files what they hold: their order is random.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            data = path.read_bytes()
            if path.suffix == ".json" and path.parent.name == "evaluation":
                fields = json.loads(data)  # raises where it is not whole
                fields.pop("provenance")
                data = json.dumps(fields).encode()
            elif path.name == "a.safetensors":
                data = targets.digest_packed(packed_file.read(path)).encode()
            found[name] = data
    return found


def check(name: str, folder: Path, code: int, expected: dict[str, bytes]) -> list[Violation]:
    """What is wrong with the files that a command left."""
    scenario = SCENARIOS[name]
    left = contents(folder / scenario.out)
    violations = []
    for file, data in left.items():
        right = expected.get(file, b"")
        rows = data[-1:] in (b"", b"\n")
        if file in scenario.growing:
            whole = rows and right.startswith(data)
        elif file == REPORT and code:
            whole = rows  # which says what failed
        else:
            whole = data == right
        if not whole:
            violations.append((SILENT, f"{file} is not whole ({len(data)} of {len(right)} bytes)"))
    absent = sorted(expected.keys() - left.keys())
    if absent and (code == 0 or (name == "prepare" and left)):
        violations.append((SILENT, f"exit code {code} without {', '.join(absent)}"))
    elif code == 0 and left != expected and not violations:
        violations.append((SILENT, "exit code 0 with some rows only"))
    return violations


class Trajectory:
    """The states and losses of an undisturbed training, by step."""

    def __init__(self, path: Path) -> None:
        """Reads what `write_trajectory` wrote."""
        rows = json.loads(path.read_text())
        self.digests: dict[int, str] = {row["step"]: row["digest"] for row in rows}
        self.losses: dict[int, float] = {row["step"]: row["loss"] for row in rows}

    def check(self, workdir: Path, *, saved_last: bool) -> tuple[int, list[Violation]]:
        """The newest checkpoint's step, 0 without one, and what is wrong with a run.

        Args:
          workdir: its folder.
          saved_last: whether it must have saved its last step.
        """
        logged = [0]
        log = workdir / run_folder.METRICS_FILE
        for line in log.read_text().splitlines() if log.is_file() else ():
            with contextlib.suppress(ValueError):  # the last one may be cut
                logged.append(json.loads(line)["step"])
        if run_folder.newest_step(workdir) is None:
            late = logged[-1] > 2 * targets.EVERY
            return 0, [(LOST, f"no checkpoint after {logged[-1]} steps")] if late else []
        restored = checkpoints.restore(workdir, run_folder.read_config(workdir))
        step, violations = restored.step, []
        arrays = sha256_of_arrays(states.by_name(jax.device_get(restored.state)))
        if arrays != self.digests[step]:
            violations.append((SILENT, f"another state at step {step}"))
        # One interval is under way, and one may be in the middle of being saved.
        if logged[-1] - step > (0 if saved_last else 2 * targets.EVERY):
            violations.append((LOST, f"step {logged[-1]} was logged, the checkpoint is of {step}"))
        rows = {row["step"]: row["loss"] for row in run_folder.read_log(workdir, step)}
        missing = [s for s in range(1, step - targets.EVERY + 1) if s not in rows]
        if missing:
            violations.append((LOST, f"rows of the log: {len(missing)}, first step {missing[0]}"))
        wrong = [s for s, loss in rows.items() if loss != self.losses[s]]
        if wrong:
            violations.append((SILENT, f"another loss in the log at step {wrong[0]}"))
        return step, violations


def write_trajectory(path: Path, folder: Path) -> None:
    """Trains undisturbed; keeps a digest of each step's state instead of saving it."""
    digests: dict[int, str] = {}

    def save(_: Any, step: int, state: Any, __: float) -> None:
        digests[step] = sha256_of_arrays(states.by_name(jax.device_get(state)))

    fields = {"train__steps": STEPS, "train__checkpoint_every": 1}
    with mock.patch.object(checkpoints.Checkpoints, "save", save):
        targets.call("train", *targets.words(**fields), f"--workdir={folder}")
    rows = run_folder.read_log(folder)
    kept = [{"step": r["step"], "loss": r["loss"], "digest": digests[r["step"]]} for r in rows]
    path.write_text(json.dumps(kept))


def share_programs() -> None:
    """The commands of this process compile once: all train and evaluate the same networks."""
    loop.compile_program = _once(loop.compile_program)
    run_evaluation.detectors_of = _once(run_evaluation.detectors_of)


def _once(make: Callable[..., Any]) -> Callable[..., Any]:
    made: list[Any] = []

    def once(*arguments: Any, **options: Any) -> Any:
        made.extend([] if made else [make(*arguments, **options)])
        return made[0]

    return once


def attempt(*words: str) -> tuple[int, Violation | None]:
    """Runs a command in this process: its code, and what is wrong with how it ended."""
    try:
        targets.call(*words)
    except UserError as error:  # one line
        return error.exit_code, None
    except Exception:  # whatever it is, it is what a user would see
        return 1, ("traceback", traceback.format_exc(limit=-3)[-600:])
    return 0, None


def whole(name: str, folder: Path, base: Path) -> dict[str, bytes]:
    """What a command leaves undisturbed; the folder is then as it was."""
    kept = folder.with_name("kept")
    if folder.exists():
        folder.rename(kept)
    SCENARIOS[name].prepare(folder, base)
    words = SCENARIOS[name].words(folder, base)
    code, violation = attempt(*words)
    if code or violation:
        raise RuntimeError(f"{' '.join(words)}: ends with {code}: {violation}")
    left = contents(folder / SCENARIOS[name].out)
    shutil.rmtree(folder)
    if kept.exists():
        kept.rename(folder)
    return left


@contextlib.contextmanager
def limited(limit: int) -> Iterator[None]:
    """No file can grow beyond so many bytes in the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk(
    name: str, folder: Path, base: Path, limit: int, expected: dict[str, bytes]
) -> list[Violation]:
    """Runs a command while no file can grow beyond a size, then again without a limit."""
    SCENARIOS[name].prepare(folder, base)
    with limited(limit):
        code, violation = attempt(*SCENARIOS[name].words(folder, base))
    violations = [violation] if violation else []
    violations += check(name, folder, code, expected)
    return violations + again(name, folder, base, expected)


def full_disk_of_training(
    folder: Path, base: Path, limit: int, trajectory: Trajectory
) -> list[Violation]:
    """Continues a run while no file can grow beyond a size, then again without a limit."""
    SCENARIOS["export"].prepare(folder, base)
    violations: list[Violation] = []
    for size, first in ((limit, targets.STEPS), (-1, targets.STEPS + 4)):
        with limited(size):
            code, violation = attempt(*train_words(folder, targets.STEPS + 4))
        violations += [violation] if violation else []
        step, wrong = trajectory.check(folder / "run", saved_last=code == 0)
        violations += wrong
        if step < first:
            violations.append((LOST, f"the newest checkpoint is of step {step}, not {first}"))
    return violations


def again(name: str, folder: Path, base: Path, expected: dict[str, bytes]) -> list[Violation]:
    """Runs a command again after its end: what is wrong with its files now."""
    scenario = SCENARIOS[name]
    if name != "prepare" or not (folder / scenario.out).exists():
        code, violation = attempt(*scenario.words(folder, base))
        if violation or code:
            return [violation or (LOST, f"exit code {code} when run again")]
    return check(name, folder, 0, expected)
