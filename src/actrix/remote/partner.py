"""What a learner's process holds: devices, and the learner whole on each of them."""

from __future__ import annotations

import os
import pickle
import re
import socket
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from actrix.core.contract import Learner
from actrix.files import manifest
from actrix.loops.learners import Learners
from actrix.loops.runner import as_key
from actrix.remote.member import told

COUNT = "--xla_force_host_platform_device_count"


class Partner:
    """One of the processes that learn together; the driver's `Team` calls it."""

    def __init__(self) -> None:
        self._learner: Learner | None = None
        self._learn: Callable | None = None
        self._shapes: tuple = ()

    @told
    def hello(self) -> dict[str, Any]:
        """Who it is, and an address where it might coordinate the others."""
        import ray

        node = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return {"versions": manifest.package_versions(), "address": f"{node}:{port}", "pid": os.getpid()}

    @told
    def begin(self, address: str, number: int, processes: int, devices: int, platform: str) -> None:
        """Join the others, with so many devices."""
        if platform == "cpu":
            flags = re.sub(rf"{COUNT}=\d+", "", os.environ.get("XLA_FLAGS", ""))
            os.environ["XLA_FLAGS"] = f"{flags} {COUNT}={devices}"
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, processes, number)
        if len(jax.local_devices()) != devices:
            raise ValueError(
                f"a learner's process has {len(jax.local_devices())} devices ({jax.default_backend()}), not {devices}: "
                "give other learners or learner_processes."
            )

    @told
    def prepare(self, algorithm: bytes, shapes: tuple, learners: int) -> None:
        """Be ready to learn."""
        self._learn = Learners(learners).programs(pickle.loads(algorithm), shapes)[0]
        self._learner = None

    @told
    def learn(
        self, learner: Learner | None, chunk: Any, key: np.ndarray, iteration: np.ndarray, tell: bool
    ) -> Any:
        """One update, of `learner` where it is another than the last one made; (its arrays, metrics) if asked."""
        assert self._learn is not None
        learner = self._learner if learner is None else learner
        self._learner, metrics = self._learn(learner, chunk, as_key(key), iteration)
        if not tell:
            return None
        return [np.asarray(x) for x in jax.tree.leaves(self._learner)], jax.tree.map(np.asarray, metrics)
