"""Several real processes as one run: the same losses, one decision to stop, a clear end."""

import json
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from benchmarks import scaling
from landmarks_jax.data import prepared, sampling
from landmarks_jax.data.loader import framing_of
from landmarks_jax.data.sources import registry
from landmarks_jax.system.errors import ConfigError, LostError
from landmarks_jax.training import distributed
from landmarks_jax.training.run_folder import CHECKPOINTS as FOLDER
from tests.running import command, finish, flags, narrow

STEPS = scaling.STEPS + 4  # a checkpoint is saved after scaling.STEPS, and at the end
X64 = {"JAX_ENABLE_X64": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def curves(folder):
    """The losses of the same run on one process, on eight devices, and on two processes."""
    return scaling.curves(folder, [*scaling.LAYOUTS][:3], STEPS)


def start(workdir: Path, count: int, config, *, code: str | None = None, **environment: str):
    """Starts `train.py` in so many processes, with the flags of a user."""
    place = ["--multihost", f"--coordinator=localhost:{scaling.free_port()}"]
    place += [f"--num_processes={count}"]
    script = () if code else ("train.py",)
    return [
        command(
            *script,
            *flags(config),
            f"--workdir={workdir}",
            *([*place, f"--process_id={process}"] if count > 1 else ()),
            code=code,
            **X64,
            **environment,
        )
        for process in range(count)
    ]


def cut_back(folder: Path, layout: str, to: Path) -> Path:
    """A copy of a float64 run as it was after its checkpoint of `scaling.STEPS`."""
    shutil.copytree(folder / layout / "float64", to)
    assert {path.name for path in (to / FOLDER).iterdir()} >= {str(scaling.STEPS), str(STEPS)}
    shutil.rmtree(to / FOLDER / str(STEPS))
    return to


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_and_eight_devices_give_the_losses_of_one(curves):
    found = scaling.differences(curves)
    print("relative differences to one process:", found)
    for layout in [*scaling.LAYOUTS][:3]:
        assert len(curves[layout]["float64"]) == STEPS
        assert found[layout]["first_float32"] < 1e-5
        assert found[layout]["float64"] < 1e-6
    assert len({round(loss, 6) for loss in curves[scaling.ALONE]["float64"]}) == STEPS


# Process 1 is killed after step 23, once the checkpoint of step 22 is whole.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from landmarks_jax.training import reports
done = reports.Reporter.step_done
def step_done(self, count=[20]):
    done(self)
    count[0] += 1
    if count[0] == 23 and "--process_id=1" in sys.argv:
        (workdir,) = [a.partition("=")[2] for a in sys.argv if a.startswith("--workdir=")]
        while not (Path(workdir) / "checkpoints" / "22").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
reports.Reporter.step_done = step_done
sys.argv[0] = "train.py"
import runpy
runpy.run_path("train.py", run_name="__main__")
"""


def test_one_is_killed_the_other_says_so_and_one_process_goes_on(curves, folder, tmp_path):
    workdir = cut_back(folder, "2 processes", tmp_path / "run")
    config = scaling.configuration("float64", STEPS)
    config.train.checkpoint_every = 2
    first, second = start(workdir, 2, config, code=KILLED)
    assert finish(second)[0] == -signal.SIGKILL
    killed = time.monotonic()
    code, _, err = finish(first)
    assert time.monotonic() - killed < 60
    assert code == LostError.exit_code, err
    said = err.strip().splitlines()[-1]
    assert said.startswith("error: process 0 of 2: process 1 ended early or cannot be reached; ")
    assert f"the last good checkpoint is {workdir / FOLDER / '22'}; rerun the command" in said

    (alone,) = start(workdir, 1, config)
    code, _, err = finish(alone)
    assert code == 0, err
    resumed = scaling.losses(workdir)
    assert [row["step"] for row in rows(workdir)] == list(range(1, STEPS + 1))
    assert resumed[22:] == pytest.approx(curves[scaling.ALONE]["float64"][22:], rel=1e-6)


def test_a_signal_to_one_ends_both_after_the_same_step(curves, folder, tmp_path):
    workdir = cut_back(folder, scaling.ALONE, tmp_path / "run")
    config = scaling.configuration("float64", 10**6)
    config.train.checkpoint_every = 10**6
    both = start(workdir, 2, config)
    deadline = time.monotonic() + 200
    while rows(workdir)[-1]["step"] in (*range(scaling.STEPS + 2), STEPS):
        assert time.monotonic() < deadline
        assert both[0].poll() is None, both[0].stderr.read()
        time.sleep(0.05)
    both[1].send_signal(signal.SIGTERM)
    for process in both:
        code, out, err = finish(process)
        assert code == 128 + signal.SIGTERM, err
    assert "step" not in out.replace("Rank", "")  # the second prints nothing of its own
    last = rows(workdir)[-1]["step"]
    assert {path.name for path in (workdir / FOLDER).iterdir()} == {str(scaling.STEPS), str(last)}
    begun = slice(scaling.STEPS, min(last, STEPS))
    wanted = curves[scaling.ALONE]["float64"][begun]
    assert len(wanted) >= 2
    assert scaling.losses(workdir)[begun] == pytest.approx(wanted, rel=1e-6)


# What processes tell each other: texts, an error of one, facts that differ, a folder of one's own.
# And the rows of a batch that each has, sent there or gathered of all photos.
TOLD = """
import json, os, sys
from pathlib import Path
import jax, numpy as np
from landmarks_jax.data.loader import open_loader
from landmarks_jax.system.errors import DataError, UserError
from landmarks_jax.training import batches, coordination, distributed, sharding
from tests.running import narrow
process, folder = int(sys.argv[1]), Path(sys.argv[2])
coordination.SHARED_SECONDS, distributed.HEARTBEAT_SECONDS = 0.5, 10
told = {}
def attempt(name, call, *given):
    try:
        told[name] = call(*given)
    except UserError as error:
        told[name] = f"{type(error).__name__}: {error}"
def fail():
    with coordination.together():
        if process == 1:
            raise DataError("no such folder")
with distributed.joined(multihost=True):
    told["first"] = distributed.is_first()
    attempt("gathered", coordination.gather, f"process {process}")
    attempt("failed", fail)
    attempt("same", coordination.check_same, {"this": "1", "that": "2"})
    attempt("differ", coordination.check_same, {"this": "1", "that": str(process)})
    if process == 0:
        (folder / "shared").write_text("written")
    (folder / f"own{process}").write_text(str(process))
    attempt("shared", coordination.check_shared, folder / "shared")
    attempt("own", coordination.check_shared, folder / f"own{process}")
    config = narrow(data__source="prepared", data__roots=(sys.argv[3],), train__batch_size=4)
    mesh, loader = sharding.make_mesh(), open_loader(config)
    gather = jax.jit(lambda photos, step: batches.gather(photos, step, mesh))
    for config.data.resident in (False, True):
        given = next(batches.batches(config, loader, mesh, 3))
        (rows,) = gather(given, np.int32(3)).canvases.addressable_shards
        told[type(given).__name__] = np.asarray(rows.data).mean((1, 2, 3)).tolist()
    print(json.dumps(told), flush=True)
    if process == 1:
        raise UserError("only one of\\nthem")
"""


def test_what_one_process_knows_all_are_told(tmp_path):
    config = narrow(data__num_synthetic=7)
    canvases, photos = tmp_path / "canvases", registry.open_source(config.data)
    prepared.prepare(photos, framing_of(config), canvases)
    wanted = prepared.PreparedCanvases(str(canvases)).canvases.mean((1, 2, 3))
    wanted = wanted[sampling.batch_rows(config.seed, 7, 4, 3)].tolist()
    # They find each other as they would under SLURM.
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    slurm["JAX_COORDINATOR_PORT"] = str(scaling.free_port())
    both = [
        command(
            *(str(process), str(tmp_path), str(canvases)),
            code=TOLD,
            **slurm,
            SLURM_PROCID=str(process),
            SLURM_LOCALID=str(process),
        )
        for process in range(2)
    ]
    ended = [finish(process) for process in both]
    told = [json.loads(out.splitlines()[-1]) for _, out, _ in ended]
    assert [one["first"] for one in told] == [True, False]
    for kind in ("Batch", "Resident"):
        assert told[0][kind] + told[1][kind] == wanted
    for one in told:
        assert one["gathered"] == ["process 0", "process 1"]
        assert one["same"] is None
        assert one["differ"].startswith("ConfigError: that: not the same on process 1 as on")
        assert one["shared"] is None
        assert one["own"].startswith(f"WorkdirError: --workdir {tmp_path}: process 1 does not see")
    assert told[0]["failed"] == "UserError: process 1 has failed: no such folder"
    assert told[1]["failed"] == "DataError: no such folder"
    # One ends early, and the other, who waits for it at the end, is not left to wait.
    assert ended[1][0] == 2
    assert ended[1][2].splitlines()[-1] == "error: process 1 of 2: only one of them"
    assert ended[0][0] == LostError.exit_code
    lost = "error: process 0 of 2: process 1 ended early or cannot be reached; "
    lost += "start every process again"
    assert ended[0][2].splitlines()[-1] == lost


def test_a_coordinator_that_cannot_be_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        place = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"{place}: process 0 cannot listen on port .*in use"):
            distributed.check_coordinator(place, 0)
        distributed.check_coordinator(place, 1)
    distributed.check_coordinator(place, 0)
    with pytest.raises(ConfigError, match=r"knows no host nowhere\.invalid"):
        distributed.check_coordinator("nowhere.invalid:8476", 1)
