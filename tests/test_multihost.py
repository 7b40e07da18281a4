"""One run on several devices and processes: the same losses, one decision to stop, a clear end."""

import json
import shutil
import signal
import socket
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from landmarks_jax.data import prepared, sampling
from landmarks_jax.data.loader import framing_of
from landmarks_jax.data.sources import registry
from landmarks_jax.system.errors import ConfigError, LostError
from landmarks_jax.training import coordination, distributed, run_folder
from tests.running import TINY, command, finish, flags, leaves_of, narrow, train

STEPS, CUT = 8, 4
X64 = {"JAX_ENABLE_X64": "1"}


def configuration(canvases, **fields):
    """The whole method with a tiny detector, in float64."""
    return narrow(
        compute_dtype="float64",
        data__source="prepared",
        data__roots=(str(canvases),),
        objective__equivariance_weight=1.0,
        objective__separation_weight=1.0,
        train__checkpoint_every=CUT,
        **{**TINY, "objective__composition": "all", "train__steps": STEPS, **fields},
    )


@pytest.fixture(scope="module")
def canvases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "canvases"
    config = narrow(data__num_synthetic=16)
    prepared.prepare(registry.open_source(config.data), framing_of(config), folder)
    return folder


@pytest.fixture(scope="module")
def alone(canvases, tmp_path_factory):
    """The folder of the run on one device of one process, and its final state."""
    workdir, config = tmp_path_factory.mktemp("alone"), configuration(canvases)
    with jax.enable_x64(True):
        assert train(config, workdir) == 0
        return workdir, leaves_of(workdir, config)


@pytest.fixture
def half(alone, tmp_path):
    """A copy of the run as it was at its checkpoint of step `CUT`."""
    workdir = shutil.copytree(alone[0], tmp_path / "run")
    shutil.rmtree(workdir / run_folder.CHECKPOINTS / str(STEPS))
    return workdir


def losses(workdir: Path) -> list[float]:
    return [row["loss"] for row in run_folder.read_log(workdir)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


# Loss and gradient of a step with the released code's groups of batch norm, on one device and on
# eight; then the second half of a run on eight.
EIGHT = """
import json, sys
from pathlib import Path
import jax, numpy as np
from landmarks_jax.tasks import task_of
from landmarks_jax.training import loop, run_folder, run_inputs, sharding, state as states
from tests.running import TINY, narrow
workdir = Path(sys.argv[1])

def loss_and_gradient(devices):
    config = narrow(compute_dtype="float64", objective__equivariance_weight=1.0,
                    objective__separation_weight=0.1, objective__gradient_weight=1.0,
                    objective__bn_groups="released",
                    **{**TINY, "objective__composition": "all"})
    task = task_of(config)
    networks = task.build_networks(config)
    mesh = sharding.make_mesh(jax.devices()[:devices])
    state = states.start_state(config, networks, mesh)
    frozen = sharding.put_replicated(mesh, run_inputs.load_frozen(config, networks)[0])
    canvases = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), np.uint8)

    def run(params, state, canvases, frozen):
        drawn = task.draw(frozen.key, state.step, canvases, config=config)
        def loss(params):
            return task.loss(params, state, drawn, frozen, config=config, networks=networks)[0]
        return jax.value_and_grad(loss)(params)

    batch = sharding.put_batch(mesh, canvases)
    assert len(batch.addressable_shards) == devices
    loss, gradient = jax.jit(run)(state.params, state, batch, frozen)
    return float(loss), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

(one, gradient), (eight, other) = loss_and_gradient(1), loss_and_gradient(8)
apart = np.linalg.norm(other - gradient) / np.linalg.norm(gradient)
assert loop.train(run_folder.read_config(workdir), workdir) == 0
print(json.dumps({"loss": abs(eight - one) / one, "gradient": float(apart)}))
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_does_and_continue_its_run(alone, half, canvases):
    flag = "--xla_force_host_platform_device_count=8"
    code, out, err = finish(command(str(half), code=EIGHT, XLA_FLAGS=flag, **X64))
    assert code == 0, err
    measured = json.loads(out.splitlines()[-1])
    assert max(measured.values()) < 1e-9, measured
    expected = losses(alone[0])
    assert len({round(loss, 6) for loss in expected}) == STEPS
    assert losses(half) == pytest.approx(expected, rel=1e-8)
    with jax.enable_x64(True):
        leaves = leaves_of(half, configuration(canvases))
    for name, array in alone[1].items():
        np.testing.assert_allclose(leaves[name], array, rtol=1e-6, atol=1e-9, err_msg=name)


# Two processes: what they tell each other (texts, an error of one, facts that differ, a folder of
# one's own), and the rows of a batch that each has, sent there or gathered of all photos.
TOLD = """
import json, sys
from pathlib import Path
import jax, numpy as np
from landmarks_jax.data.loader import open_loader
from landmarks_jax.system.errors import DataError, UserError
from landmarks_jax.training import batches, coordination, distributed, run_folder, sharding
process, folder, workdir = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
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
        (folder / "own0").write_text("0")
    attempt("shared", coordination.check_shared, folder / "shared")
    attempt("own", coordination.check_shared, folder / f"own{process}")
    config = run_folder.read_config(workdir).unlock()
    mesh, photos = sharding.make_mesh(), open_loader(config)
    gather = jax.jit(lambda photos, step: batches.gather(photos, step, mesh))
    for config.data.resident in (False, True):
        given = next(batches.batches(config, photos, mesh, 3))
        (rows,) = gather(given, np.int32(3)).canvases.addressable_shards
        told[type(given).__name__] = np.asarray(rows.data).mean((1, 2, 3)).tolist()
    print(json.dumps(told), flush=True)
    coordination.gather("printed")
    if process == 1:
        raise UserError("only one of\\nthem")
"""


@pytest.mark.slow
def test_what_one_process_knows_all_are_told(alone, half, canvases, tmp_path):
    photos = prepared.PreparedCanvases(str(canvases)).canvases.mean((1, 2, 3))
    config = configuration(canvases)
    rows = sampling.batch_rows(config.seed, len(photos), config.train.batch_size, 3)
    # They find each other as they would under SLURM.
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    slurm["JAX_COORDINATOR_PORT"] = str(free_port())
    both = [
        command(
            *(str(process), str(tmp_path), str(half)),
            code=TOLD,
            **slurm,
            **X64,
            SLURM_PROCID=str(process),
            SLURM_LOCALID=str(process),
        )
        for process in range(2)
    ]
    ended = [finish(process) for process in both]
    assert "{" in ended[0][1], ended[0][2] + ended[1][2]
    told = [json.loads(out.splitlines()[-1]) for _, out, _ in ended]
    assert [one["first"] for one in told] == [True, False]
    for kind in ("Batch", "Resident"):
        assert told[0][kind] + told[1][kind] == photos[rows].tolist()
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


def start_both(workdir, config, code):
    """Starts `train` in two processes, with the flags of a user, after `code`."""
    place = ["--multihost", f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    code += "\nfrom landmarks_jax.cli.main import main\nsys.exit(main(['train', *sys.argv[1:]]))"
    arguments = [*flags(config), f"--workdir={workdir}", *place]
    return [command(*arguments, f"--process_id={i}", code=code, **X64) for i in range(2)]


# Process 1 gets a signal in its first step.
SIGNALLED = """
import os, signal, sys
from landmarks_jax.training import reports
done = reports.Reporter.step_done
def step_done(self, count=[0]):
    done(self)
    count[0] += 1
    if count[0] == 1 and "--process_id=1" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)
reports.Reporter.step_done = step_done
"""


@pytest.mark.slow
def test_two_processes_compute_what_one_does_and_stop_together(alone, half, canvases):
    config = configuration(canvases, train__steps=10**6)
    config.train.checkpoint_every = 10**6
    ended = [finish(process) for process in start_both(half, config, SIGNALLED)]
    for code, _, err in ended:
        assert code == 128 + signal.SIGTERM, err
    assert "step" not in ended[1][1]  # the second prints nothing of its own
    # The signal came in the first step; both read it two steps later.
    last = CUT + 3
    steps = {path.name for path in (half / run_folder.CHECKPOINTS).iterdir()}
    assert steps == {str(CUT), str(last)}
    assert losses(half) == pytest.approx(losses(alone[0])[:last], rel=1e-8)


# Process 1 is killed after its third step, once the checkpoint of its second is complete.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from landmarks_jax.training import reports
done = reports.Reporter.step_done
def step_done(self, count=[0]):
    done(self)
    count[0] += 1
    if count[0] == 3 and "--process_id=1" in sys.argv:
        (workdir,) = [a.partition("=")[2] for a in sys.argv if a.startswith("--workdir=")]
        while not (Path(workdir) / "checkpoints" / "6").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
reports.Reporter.step_done = step_done
"""


@pytest.mark.slow
def test_one_is_killed_the_other_says_so_and_one_process_continues(alone, half, canvases):
    config = configuration(canvases, train__steps=10**6)
    config.train.checkpoint_every = 2
    first, second = start_both(half, config, KILLED)
    assert finish(second)[0] == -signal.SIGKILL
    killed = time.monotonic()
    code, _, err = finish(first)
    assert time.monotonic() - killed < 60
    assert code == LostError.exit_code, err
    message = err.strip().splitlines()[-1]
    lost = "error: process 0 of 2: process 1 ended early or cannot be reached; "
    checkpoint = half / run_folder.CHECKPOINTS / "6"
    assert message.startswith(f"{lost}the last good checkpoint is {checkpoint}; rerun the command")

    config.train.steps = STEPS
    with jax.enable_x64(True):
        assert train(config, half) == 0
    assert [row["step"] for row in run_folder.read_log(half)] == list(range(1, STEPS + 1))
    assert losses(half) == pytest.approx(losses(alone[0]), rel=1e-8)


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


def test_an_error_about_a_name_that_is_not_utf_8_reaches_the_others(monkeypatch):
    monkeypatch.setattr(coordination, "is_one_of_several", lambda: True)
    monkeypatch.setattr(
        coordination.multihost_utils, "process_allgather", lambda row: np.stack([row, row])
    )
    assert coordination.gather("photos/\udcff.jpg") == [r"photos/\udcff.jpg"] * 2
