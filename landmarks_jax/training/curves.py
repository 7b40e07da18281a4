"""TensorBoard's event file of a run.

tensorboardX gives the format. Its writer is not used: it writes in a thread, and a training would
hang once that thread has met a full disk.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from landmarks_jax.system import streams


class Curves:
    """Writes scalars and images to a new event file, each at once."""

    def __init__(self, folder: Path, start: int) -> None:
        """Opens the file.

        Args:
          folder: TensorBoard's folder of the run, created if needed.
          start: the step that the run continues from; what earlier files have after it is hidden.
        """
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        self._file = streams.Appender(folder / name)
        self._add(file_version="brain.Event:2")
        self._add(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a value to each of some curves."""
        joined = summary.Summary()
        for name, value in values.items():
            joined.MergeFrom(summary.scalar(name, value))
        self._add(step=step, summary=joined)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds an image `[H, W, 3]` uint8."""
        self._add(step=step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add(self, **fields: Any) -> None:
        # A record: its length, the data, and a checksum of each.
        data = Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        parts = (length, _checksum(length), data, _checksum(data))
        self._file.write(b"".join(parts))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))
