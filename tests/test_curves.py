"""TensorBoard's event file, against tensorboardX's own writer of records."""

import time

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from landmarks_jax.training.curves import Curves


def content(folder):
    """What the only event file of a folder holds."""
    (path,) = folder.glob("events.out.tfevents.*")
    return path.read_bytes()


def test_an_event_file_is_as_tensorboardx_writes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.5e9)
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    own, folder = Curves(tmp_path / "own", start=7), tmp_path / "other"
    own.scalars({"loss": 0.5}, 8)
    own.image("preview", image, 9)
    own.close()
    folder.mkdir()
    other = EventsWriter(str(folder / "events"))  # it writes the version
    start = SessionLog(status=SessionLog.START)
    other.write_event(Event(wall_time=1.5e9, step=8, session_log=start))
    other.write_event(Event(wall_time=1.5e9, step=8, summary=summary.scalar("loss", 0.5)))
    shown = summary.image("preview", image, dataformats="HWC")
    other.write_event(Event(wall_time=1.5e9, step=9, summary=shown))
    other.close()
    assert content(tmp_path / "own") == content(folder)


def test_scalars_of_a_step_are_one_event(tmp_path):
    curves = Curves(tmp_path, start=0)
    before = len(content(tmp_path))
    curves.scalars({"loss": 0.5, "speed": 3.0}, 1)
    curves.close()
    data = content(tmp_path)[before:]
    event = Event.FromString(data[12:-4])
    assert int.from_bytes(data[:8], "little") == len(data) - 16
    assert {value.tag: value.simple_value for value in event.summary.value} == {
        "loss": 0.5,
        "speed": 3.0,
    }


def test_a_second_writer_in_the_same_second_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.5e9)
    sizes = []
    for start in (0, 2):
        Curves(tmp_path, start).close()
        sizes.append(len(content(tmp_path)))
    assert sizes[1] == 2 * sizes[0]
