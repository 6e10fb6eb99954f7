"""A process on any node of a Ray cluster, as if it were one of this machine's."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actrix.remote.cluster import join, kill, leave

POLL = 0.5


class Holder:
    """The actor that starts the process on its node; both end together, as the process's input does."""

    def start(self, command: Sequence[str], folder: str, output: str) -> bool:
        """Start it; False where this node does not see its folder."""
        if not (Path(folder) / "config.json").exists():
            return False
        with open(output, "ab") as log:
            self._child = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.PIPE, start_new_session=True
            )
        return True

    def poll(self) -> int | None:
        """Its exit code, or None."""
        return self._child.poll()

    def send(self, sign: int) -> None:
        """Send it a signal."""
        if self._child.poll() is None:
            self._child.send_signal(sign)


class RemoteProcess:
    """What `subprocess.Popen` is of a process on this machine."""

    stdin = None

    def __init__(self, ray: Any, command: Sequence[str], folder: Path, output: Path):
        """ValueError where its node does not see the folder."""
        self._ray = ray
        self.returncode: int | None = None
        self._holder = ray.remote(num_cpus=1, num_gpus=0, max_concurrency=2)(Holder).remote()
        self._started = self._holder.start.remote(list(command), str(folder.resolve()), str(output.resolve()))
        self._folder = folder

    def poll(self) -> int | None:
        """Its exit code, or None while it waits for room, or runs. One whose node has gone was killed."""
        if self.returncode is not None:
            return self.returncode
        try:
            if self._started is not None:
                if not self._ray.wait([self._started], timeout=0)[0]:
                    return None
                if not self._ray.get(self._started):
                    raise ValueError(
                        f"a node of the cluster does not see {self._folder}: the run folder must be on a file system "
                        "that all nodes share, under the same path; give --out."
                    )
                self._started = None
            self.returncode = self._ray.get(self._holder.poll.remote(), timeout=60)
        except self._ray.exceptions.RayError:
            self.returncode = -signal.SIGKILL
        if self.returncode is not None:
            kill(self._ray, self._holder)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end; at once where it has not begun."""
        if self._started is not None and self.poll() is None and self._started is not None:
            self.returncode = -signal.SIGTERM
            kill(self._ray, self._holder)
        else:
            self._holder.send.remote(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._holder.send.remote(signal.SIGKILL)

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code; subprocess.TimeoutExpired."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self._folder), timeout)
            time.sleep(POLL)
        assert self.returncode is not None
        return self.returncode


class Nodes:
    """Where processes are started: the cluster at an address, while this is open."""

    def __init__(self, address: str):
        self._ray = join(address, 1)
        self.room = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        """How many run at a time."""

    def start(self, command: Sequence[str], folder: Path, output: Path) -> RemoteProcess:
        """One more."""
        return RemoteProcess(self._ray, command, folder, output)

    def close(self) -> None:
        """Leave the cluster."""
        leave()
