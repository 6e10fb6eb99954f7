"""Ray itself: started on this machine, or joined."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from actrix.envs.guard import EnvError

CONNECT_SECONDS, POLL = 5.0, 2.0
"""Seconds that a connection may take, and between looks at whether Ray lives."""
_users: dict[str, Any] = {"started": False, "count": 0, "joined": None}
"""Whether Ray was started or joined here, how many still want it, and which (address, head) was joined."""
_node: list[tuple[str, int]] = []
"""Where this machine's own process of Ray (the raylet) listens, without which Ray ends this process, too."""


def ray_module() -> Any:
    """Ray; ImportError says how to get it."""
    # What it would otherwise do unasked: tell its makers, and warn of a variable that is not set.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError('this runs on Ray, which is not installed: pip install "actrix[ray]"') from error
    return ray


def join(address: str | None, processes: int) -> Any:
    """Ray, which this process is then connected to: to the cluster at `address`, or else to one started here with room
    for so many processes. A connection that is there already serves, unless it is of another cluster than that at
    `address`. ImportError, ValueError."""
    ray = ray_module()
    if ray.is_initialized():
        _check_same(ray, address)
    else:
        options: dict[str, Any] = {
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": "ERROR",
        }
        if address is None:
            cpus = max(processes, os.cpu_count() or 1)
            os.environ.setdefault(
                "RAY_worker_niceness", "0"
            )  # 15 by default: anybody else's work would come first
            with warnings.catch_warnings(), _own_sigterm():
                # JAX's, of forks that go on; Ray's programs replace theirs at once
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                ray.init(address="local", num_cpus=cpus, **options)
        else:
            _check_there(address)
            options.pop("include_dashboard")
            try:
                with _own_sigterm():
                    ray.init(address=address, **options)
            except Exception as error:
                raise ValueError(f"{_no_cluster(address)} ({_first_line(error)})") from error
        _users.update(started=True, joined=(address, ray.get_runtime_context().gcs_address))
    mine = ray.get_runtime_context().get_node_id()
    here = ray.util.get_node_ip_address()  # Ray's client is on another machine than its node
    places = [(x["NodeManagerAddress"], x["NodeManagerPort"]) for x in ray.nodes() if x["NodeID"] == mine]
    _node[:] = [place for place in places if place[0] == here]
    _users["count"] += 1
    return ray


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray ends the program at SIGTERM: what stood there before, such as a loop that saves first, is put back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave() -> None:
    """Shut down what `join` began, if nobody else uses it any more."""
    _users["count"] -= 1
    if _users["started"] and _users["count"] <= 0:
        _users.update(started=False, count=0, joined=None)
        _node.clear()
        ray_module().shutdown()


def check_lives() -> None:
    """EnvError where Ray has died on this machine. Nothing can be replaced then, and Ray ends this process within a
    minute, in words of its own; this says so first."""
    for place in _node:
        try:
            with socket.create_connection(place, CONNECT_SECONDS) as asked:
                # Closed at once: thousands of them would else keep their ports for a minute.
                asked.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except ConnectionError as error:
            raise EnvError(
                f"Ray itself has died on this machine (its raylet, at {place[0]}:{place[1]}; out of memory?), and what "
                "ran on it with it: `actrix resume` goes on from the last checkpoint, on a Ray that lives."
            ) from error
        except OSError:  # too busy, or this process has no socket left: that says nothing of it
            continue


def wait(ray: Any, tasks: Sequence[Any], timeout: float, count: int = 1) -> list[Any]:
    """Those of the tasks that are done, once so many are or after the timeout. EnvError where Ray has died, which Ray
    itself takes a minute to say."""
    end = time.monotonic() + timeout
    while True:
        left = max(0.0, end - time.monotonic())
        ready, _ = ray.wait(list(tasks), num_returns=count, timeout=min(POLL, left))
        if len(ready) == count:
            return ready
        check_lives()
        if left <= POLL:
            return ready


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Around calls of Ray: `check_lives` before them, as what goes through its shared memory would end this process at
    once and without a word, and where one raises, as all their errors may be of that one cause."""
    check_lives()
    try:
        yield
    except Exception as error:
        if not isinstance(error, EnvError):
            check_lives()
        raise


def _check_same(ray: Any, address: str | None) -> None:
    """A process is in one cluster at a time."""
    there = ray.get_runtime_context().gcs_address
    if address is None or address == "auto" or (address, there) == _users["joined"]:
        return
    if _place(ray, address) != _place(ray, there):
        _check_there(address)
        raise ValueError(
            f"address={address!r}: this process is already connected to another Ray, at {there}, and can be in one "
            "cluster only: close what uses that one (a model's env.close(), ray.shutdown()), or leave the address out."
        )


def _place(ray: Any, address: str) -> tuple[str, str]:
    """(the machine's number, port), with this machine's own for its other names."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        host = socket.gethostbyname(host)
    return ray.util.get_node_ip_address() if host.startswith("127.") else host, port


def _check_there(address: str) -> None:
    """Ray itself waits for minutes where nobody answers."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise ValueError(f"address={address!r} must be HOST:PORT of a Ray cluster's head, or auto.")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(f"{_no_cluster(address)} ({error})") from error


def _no_cluster(address: str) -> str:
    return (
        f"no Ray cluster of these versions answers this process at {address}: start one with `ray start --head --port "
        "6379`, set RAY_AUTH_MODE=token where it asks for one (and RAY_AUTH_TOKEN on another machine), or leave the "
        "address out"
    )


def _first_line(error: BaseException) -> str:
    lines = " ".join(str(error).split())
    return lines if len(lines) <= 300 else f"{lines[:297]}..."


def differing(theirs: dict[str, Any], ours: dict[str, Any], names: Sequence[str]) -> list[str]:
    """In which of these two machines' entries differ, in words."""
    return [
        f"{name} {theirs.get(name)} (here {ours.get(name)})"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]


def kill(ray: Any, handle: Any) -> None:
    """End an actor, if it is still there."""
    with contextlib.suppress(Exception):
        ray.kill(handle, no_restart=True)
