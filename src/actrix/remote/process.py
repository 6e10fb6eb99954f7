"""A process on any node of a Ray cluster, as if it were one of this machine's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from actrix.files import manifest
from actrix.remote.cluster import differing, join, kill, leave, wait, watched

POLL, REFUSED, ANSWER = 0.5, 2, 60.0
TOLD, START_TIMEOUT = 30.0, 300.0
"""Seconds in which none of a run's processes begins, nor runs, after which that is said, and given up."""


class Holder:
    """The actor that starts the process on its node; both end together, as the process's input does."""

    def start(
        self, command: Sequence[str], folder: str, output: str, env: dict[str, str], versions: dict[str, str]
    ) -> str | None:
        """Start it with this node's Python; or why not, in a sentence."""
        if not Path(output).parent.is_dir():
            return (
                f"a node of the cluster does not see {folder}: the folder must be on a file system that all nodes "
                "share, under the same path; give --out."
            )
        if wrong := differing(manifest.package_versions(), versions, ("python", *manifest.PACKAGES)):
            node = socket.gethostname()
            return f"the node {node} runs other versions: {', '.join(wrong)}; install the same ones on every node."
        # What the driver can import this can, too, where the node has it: Ray gives its workers the driver's path.
        path = os.pathsep.join(dict.fromkeys(p for p in sys.path if p))
        with open(output, "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, *command[1:]], stdout=log, stderr=log, stdin=subprocess.PIPE, start_new_session=True,
                env={**os.environ, "PYTHONPATH": path, **env},
            )  # fmt: skip
        return None

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

    def __init__(
        self, nodes: Nodes, command: Sequence[str], folder: Path, output: Path, env: Mapping[str, str] = {}
    ):
        """`env`: variables that it has besides."""
        self._nodes, self._ray = nodes, (ray := nodes.ray)
        self.returncode: int | None = None
        self._holder = ray.remote(num_cpus=1, num_gpus=0, max_concurrency=2)(Holder).remote()
        paths = str(folder.resolve()), str(output.resolve())
        self._started = self._holder.start.remote(
            list(command), *paths, dict(env), manifest.package_versions()
        )
        self._folder, self._asked = folder, time.monotonic()

    def poll(self) -> int | None:
        """Its exit code, or None while it waits for room, or runs. One whose node has gone was killed. Raises
        ValueError, once, where it cannot be started there, or nothing of the run could for too long."""
        if self.returncode is None:
            try:
                self.returncode = self._ask()
            except self._ray.exceptions.RayError:
                self.returncode = -signal.SIGKILL
            if self.returncode is not None:
                kill(self._ray, self._holder)
        return self.returncode

    @watched()
    def _ask(self) -> int | None:
        if self._started is not None:
            if self._ray.wait([self._started], timeout=0)[0]:
                wrong, self._started = self._ray.get(self._started), None
            elif (wrong := self._nodes.no_room(self._asked)) is None:
                return None
            if wrong is not None:
                self.returncode = REFUSED
                kill(self._ray, self._holder)
                raise ValueError(wrong)
        wait(self._ray, [asked := self._holder.poll.remote()], ANSWER)
        code = self._ray.get(asked, timeout=0)
        self._nodes.seen()
        return code

    def terminate(self) -> None:
        """Ask it to end; at once where it has not begun."""
        with contextlib.suppress(ValueError):  # what cannot be started has ended
            if self.poll() is not None:
                return
            if self._started is None:
                self._holder.send.remote(signal.SIGTERM)
            else:
                self.returncode = -signal.SIGTERM
                kill(self._ray, self._holder)

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
        self.ray = join(address, 1)
        self.room = max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        """How many run at a time."""
        self._address = address
        self.seen()

    def seen(self) -> None:
        """One of its processes runs: who waits does so for those."""
        self._last, self._told = time.monotonic(), False

    def no_room(self, since: float) -> str | None:
        """Why who waits for a core since then waits in vain, in a sentence; None as long as it may yet get one."""
        waited = time.monotonic() - max(since, self._last)
        said = (
            f"no process of this run could begin at {self._address} in {waited:.0f} s: has the cluster room for it? "
            "Each asks for one CPU; `ray status` shows what is taken, and `actrix resume` goes on with the run."
        )
        if waited > START_TIMEOUT:
            return said
        if waited > TOLD and not self._told:
            self._told = True
            warnings.warn(
                f"{said} It is waited for, {START_TIMEOUT:g} s in all.", RuntimeWarning, stacklevel=5
            )
        return None

    @watched()
    def start(
        self, command: Sequence[str], folder: Path, output: Path, env: Mapping[str, str] = {}
    ) -> RemoteProcess:
        """One more; `env`: variables that it has besides."""
        return RemoteProcess(self, command, folder, output, env)

    def close(self) -> None:
        """Leave the cluster."""
        leave()
