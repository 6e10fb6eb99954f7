"""Files that grow by whole pieces, and TensorBoard's event file, which is one."""

from __future__ import annotations

import io
import math
import os
import secrets
import socket
import struct
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actrix.files import atomic


class Growing:
    """A file that grows by whole pieces; what does not fit on the disk leaves it as it was."""

    path: Path
    file: io.FileIO

    def _open(self) -> None:
        self.file = io.FileIO(self.path, "a")
        # A model's log stays open after `learn`, and nobody need close it.
        weakref.finalize(self, self.file.close)

    def _append(self, data: bytes) -> None:
        end = os.fstat(self.file.fileno()).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[self.file.write(left) or 0 :]
        except OSError as error:
            self.file.truncate(end)
            error.filename = str(self.path)
            raise

    def sync(self) -> None:
        """Force it to disk."""
        with atomic.naming(self.path):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Force it to disk and close it."""
        try:
            self.sync()
        finally:
            self.file.close()


class Events(Growing):
    """A TensorBoard event file: records of a length, its checksum, a protocol buffer, its checksum.

    Not tensorboardX's writer, which begins a new file each time, from a thread that a kill finds behind.
    """

    def __init__(self, folder: Path, resume_step: int | None):
        folder.mkdir(parents=True, exist_ok=True)
        old = [] if resume_step is None else sorted(folder.glob("events.out.tfevents.*"))
        # Random, as two files may be begun in the same second.
        stamp = f"{int(time.time()):010d}.{socket.gethostname()}.{secrets.token_hex(4)}"
        self.path = old[-1] if old else folder / f"events.out.tfevents.{stamp}"
        atomic.check_regular(self.path)
        self._open()
        try:
            size, whole = os.fstat(self.file.fileno()).st_size, _whole_records(self.path)
            if whole < size:
                self.file.truncate(whole)
            if not whole:
                self._write(file_version="brain.Event:2")
            if resume_step is not None:
                # TensorBoard hides earlier events at and after this step.
                self._write(step=resume_step + 1, session_log={"status": 1})
        except BaseException:
            self.file.close()
            raise

    def write(self, row: Mapping[str, float | int], step: int, more: Iterable[Any] = ()) -> None:
        """The finite numbers of a row, and `more` values of a summary."""
        from tensorboardX.summary import scalar

        scalars = [v for k, x in row.items() if math.isfinite(x) for v in scalar(k, x).value]
        self._write(step=step, summary={"value": [*scalars, *more]})

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        data = Event(wall_time=time.time(), **fields).SerializeToString()
        size = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", masked_crc32c(x)) for x in (size, data))
        self._append(b"".join([size, next(sums), data, next(sums)]))


def _whole_records(path: Path) -> int:
    """Bytes of an event file up to its first record that a crash tore."""
    from tensorboardX.record_writer import masked_crc32c

    intact = lambda data, checksum: struct.pack("<I", masked_crc32c(data)) == checksum
    end, size = 0, path.stat().st_size
    with open(path, "rb") as file:
        while len(head := file.read(12)) == 12 and intact(head[:8], head[8:]):
            after = end + 16 + struct.unpack("<Q", head[:8])[0]
            if after > size:
                break
            # A power cut may have left zeros in the last one.
            if after == size and not intact(file.read(after - end - 16), file.read(4)):
                break
            end = after
            file.seek(end)
    return end
