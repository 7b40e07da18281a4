"""Measures a GPU that is rented for minutes, trains on it and writes transfer files.

python -m benchmarks.rented_gpu --photos photos.tar.gz --config best --minutes 9 --out out \
    --scratch scratch --config.compute_dtype=bfloat16 --config.data.resident=True

Photos are unpacked and cut on the processor while `benchmarks.accelerator` measures the machine,
the configuration's own step with its kernels, and the paper's step against PyTorch's. Then
`landmarks-jax session` trains the configuration. The number of steps, and the end of its cosine
decay, are set from the step's time and the minutes left, so that both end together.

`--out` has at any time what is to come back: `log.txt`, `summary.json` and `.md` of the
measurements, and the session's `results.zip` and `transfer/`. After a signal or a kill, rerun the
command to continue with what is missing; with `--transfer` a later one continues the training.
docs/rented-gpu.md has the whole way.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from benchmarks import (
    accelerator,
    child_processes,
    harness,
    rented_checks,
    rented_photos,
    rented_schedule,
    stages,
)
from benchmarks.accelerator_stages import STAGES, TINY, TINY_BATCH, name_of_step, table_of
from benchmarks.child_processes import Child
from landmarks_jax.system import cache
from landmarks_jax.system.signals import Interrupt
from landmarks_jax.training import transfer_files

MEASURED = "measured"  # in the scratch folder
MARGIN = 10.0  # seconds between the session's end and that of all
GRACE = 30.0  # seconds in which a session that is stopped writes transfer files
MAX_FILES, MAX_BYTES = 8, 15 * 2**20  # small enough for any way back
# Previews cost 2 s each. Fields of the command line come later and win.
_DEFAULTS = ("--config.train.picture_every=0",)
_TINY = (
    *(
        f"--config.{name.replace('__', '.')}={value}"
        for name, value in TINY.items()
        if name != "model__num_landmarks"  # of self-training, which has its own number
    ),
    "--config.model.generator_channels=2",
    f"--config.train.batch_size={TINY_BATCH}",
    "--config.train.log_every=5",
)


class Rental:
    """One call of the command, from its checked arguments on."""

    def __init__(
        self, args: argparse.Namespace, words: Sequence[str], interrupt: Interrupt
    ) -> None:
        """Takes the arguments, and the words that name the configuration."""
        self._args, self._interrupt = args, interrupt
        self._words = [*_DEFAULTS, *(_TINY if args.tiny else ()), *words]
        self._start = time.monotonic()
        self._end = self._start + 60 * args.minutes
        self._measured = harness.out_folder(str(args.scratch / MEASURED))
        self._log = args.out / "log.txt"
        self._trains = args.measure < args.minutes
        self._reserve = args.reserve if self._trains else 0.0

    def run(self) -> int:
        """Does all of it.

        Returns:
          The exit code: 0, 1 where something is missing, 128 plus the number of a signal.
        """
        args = self._args
        self._say(f"{args.minutes:g} minutes: {' '.join(sys.argv[1:])}")
        if not args.tiny:
            self._say(rented_checks.gpu())
        config = rented_checks.configuration(args, self._words)
        stages.read(self._measured, STAGES, tiny=args.tiny)
        if self._reserve is None:
            self._reserve = 2.0 if config.eval.protocols else 0.7
        if self._trains:
            done = self._measure_and_train(config)
        else:
            done = self._measure(config)
            self._say("training: none, as --measure leaves no minutes for it")
        self._list()
        return self._interrupt.exit_code or (0 if done else 1)

    def _measure_and_train(self, config: ConfigDict) -> bool:
        """Cuts the photos while it measures, then trains; returns whether all of it was done."""
        args = self._args
        cutting = self._child(
            "benchmarks.rented_photos",
            [f"--scratch={args.scratch}", *(f"--photos={p}" for p in args.photos), *self._words],
            args.scratch / "photos.log",
            nice=19,
            JAX_PLATFORMS="cpu",
            CUDA_VISIBLE_DEVICES="",
        )
        try:
            complete = self._measure(config)
            trained = self._cut(cutting) and not self._interrupt.signal and self._train(config)
        finally:
            cutting.stop(0.0)
        return complete and trained

    def _measure(self, config: ConfigDict) -> bool:
        """Runs the stages that are not measured yet; returns whether all are complete now."""
        args, own = self._args, name_of_step(config)
        left_out = accelerator.run_stages(
            table_of(args.stages, config),
            self._words,
            self._measured,
            args.out,
            tiny=args.tiny,
            end=self._start + 60 * min(args.minutes, args.measure),
            interrupt=self._interrupt,
        )
        for name, why in left_out.items():
            self._say(f"{name}: {why}\n{child_processes.tail(self._measured / f'{name}.log')}")
        options = {"tiny": args.tiny, "own": [own]}
        text = accelerator.try_write_summary(self._measured, args.out, left_out, **options)
        self._say(f"measured\n\n{text}")
        return not left_out

    def _cut(self, cutting: Child) -> bool:
        """Waits until the photos are cut; returns whether they are."""
        why = cutting.wait(self._end - 60 * self._reserve, self._interrupt)
        self._say(f"photos: {why or 'cut'}\n{child_processes.tail(cutting.log)}")
        return not why

    def _train(self, config: ConfigDict) -> bool:
        """Trains in what is left of the time; returns whether that was done."""
        args = self._args
        left = self._end - MARGIN - time.monotonic()
        if left <= 60 * self._reserve:
            self._say("training: no time is left; rerun the command to train")
            return False
        workdir = rented_schedule.workdir_of(args.scratch, args.transfer)
        session = rented_schedule.session(
            [*self._words, *self._schedule(config, workdir, left - 60 * self._reserve)],
            photos=[rented_photos.folder_of(text, args.scratch) for text in args.photos],
            canvases=args.scratch / rented_photos.CANVASES,
            workdir=workdir,
            out=args.out,
            minutes=left / 60,
            reserve=self._reserve,
            transfer=args.transfer,
        )
        child = self._child("landmarks_jax", session, self._log)
        why = child.wait(self._end - MARGIN / 2, self._interrupt, grace=GRACE)
        self._say(f"training: {why or 'done'}")
        return not why

    def _schedule(self, config: ConfigDict, workdir: Path, seconds: float) -> list[str]:
        """The schedule of a run that may take some seconds, or the one that it began with."""
        begun = rented_schedule.begun(workdir)
        if begun is not None:
            self._say(f"training: continues {workdir}, to step {begun.train.steps:,} as it began")
            return rented_schedule.schedule(begun)
        own = name_of_step(config)
        measured = stages.read(self._measured, [own], tiny=self._args.tiny)
        step = measured.get(own, rented_schedule.ASSUMED)
        if step is rented_schedule.ASSUMED:
            self._say("training: the step was not measured; its time is assumed")
        transfer = self._args.transfer
        first = transfer_files.read(transfer).step if transfer else 0
        steps = rented_schedule.steps_in(seconds, step, self._args.before)
        milliseconds = step["quartiles_ms"][1]
        self._say(f"training: {steps:,} steps of {milliseconds:,.1f} ms after step {first:,}")
        return rented_schedule.schedule(config, first + steps)

    def _child(
        self, module: str, arguments: Sequence[str], log: Path, *, nice: int = 0, **changes: str
    ) -> Child:
        # The stages' too: what XLA found fastest for a convolution is not searched for again.
        compiled = {cache.COMPILATIONS: str(stages.compilations(self._measured))}
        return Child(module, arguments, log, compiled | changes, nice=nice)

    def _say(self, text: str) -> None:
        """Prints, and writes to the log in `--out`, what has happened and when."""
        line = f"[{time.monotonic() - self._start:.0f} s] {text.rstrip()}"
        print(line, flush=True)
        with contextlib.suppress(OSError), self._log.open("a") as log:
            log.write(f"{line}\n")

    def _list(self) -> None:
        """Lists what is to come back, and says if that is too much."""
        paths = [path for path in sorted(self._args.out.rglob("*")) if path.is_file()]
        sizes = {str(path.relative_to(self._args.out)): path.stat().st_size for path in paths}
        lines = [f"{name}: {size:,} bytes" for name, size in sizes.items()]
        if len(sizes) > MAX_FILES or max(sizes.values(), default=0) > MAX_BYTES:
            lines.append(f"more than {MAX_FILES} files, or of {MAX_BYTES:,} bytes, may not return")
        self._say("\n".join([f"{self._args.out}:", *lines]))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        epilog="--config NAME and "
        "--config.SECTION.FIELD=value say what is trained, as for landmarks-jax session.",
    )
    minutes, names = harness.at_least(0.0), harness.comma_separated(harness.one_of(STAGES))
    default = "machine,train_64_bfloat16_32"
    parser.add_argument(
        "--photos",
        action="append",
        required=True,
        help="folder, .zip or .tar archive, with :tight for tight face crops; may be repeated",
    )
    parser.add_argument("--out", type=harness.out_folder, required=True, help="what comes back")
    parser.add_argument(
        "--scratch", type=harness.out_folder, required=True, help="for all else; stays there"
    )
    parser.add_argument("--minutes", type=minutes, required=True, help="for all of it")
    parser.add_argument(
        "--measure",
        type=minutes,
        help="minutes of it after which nothing more is measured; default: half; as many as "
        "--minutes: do not train",
    )
    parser.add_argument(
        "--reserve",
        type=minutes,
        help="minutes of it after training; default: 2 to evaluate, 0.7 without protocols",
    )
    parser.add_argument("--transfer", type=Path, help="transfer files to continue from")
    parser.add_argument(
        "--stages", type=names, default=default, help=f"what to measure besides; {default}"
    )
    parser.add_argument(
        "--before",
        type=minutes,
        default=40.0,
        help="seconds before the first step, besides compiling: imports, photos, targets; 40",
    )
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try it on a CPU")
    args, words = parser.parse_known_args()
    args.measure = args.minutes / 2 if args.measure is None else args.measure
    return args, words


def main() -> int:
    """Measures and trains; returns the exit code."""
    args, words = _parse()
    jax.config.update("jax_platforms", "cpu")  # a GPU's memory is for the children
    if not args.tiny:  # a child whose GPU does not start must fail, not train on the processor
        os.environ.setdefault("JAX_PLATFORMS", "cuda,cpu")
    with Interrupt() as interrupt:
        return Rental(args, words, interrupt).run()


if __name__ == "__main__":
    harness.run_command(main)
