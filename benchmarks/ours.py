"""actrix's side of the speed comparisons: each function times one job and returns a `Run`. See README.md.

python benchmarks/ours.py ppo '{"env_id": "CartPole-v1", "backend": "jax", "total_steps": 204800}'
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from typing import Any

BORN = time.time()

import numpy as np  # noqa: E402
import record  # noqa: E402
from peers import Run, what_ran  # noqa: E402


def ppo(
    env_id: str = "CartPole-v1",
    n_envs: int = 8,
    n_steps: int = 256,
    total_steps: int = 204_800,
    backend: str = "jax",
    seeds: int = 1,
    algo: str = "ppo",
    behind: int = 0,
    **settings: Any,
) -> Run:
    """PPO, or another on-policy preset, after its first iterations (compilation is not timed).

    `settings` are Stable-Baselines3's names; `behind` is of the host loop.
    """
    runner = _runner(env_id, n_envs, backend, range(seeds), {"n_steps": n_steps, **settings}, algo, behind)
    iterations = max(1, round(total_steps / (n_envs * n_steps)))
    runner.set_training(total_steps=10 * total_steps)
    runner.warm()
    for _ in range(2):
        runner.advance(1)
    runner.more = True  # while another chunk follows it is collected ahead, where `behind` allows it
    start = time.perf_counter()
    if backend == "jax":
        left = iterations
        while left:
            count = min(left, runner.capacity)
            runner.advance(count)
            left -= count
    else:
        for left in reversed(range(iterations)):
            runner.more = left > 0
            runner.advance(1)
    seconds = time.perf_counter() - start
    what = what_ran(
        "actrix", "actrix", "jax", algo=algo, env_id=env_id, n_envs=n_envs, n_steps=n_steps, backend=runner.backend,
        seeds=seeds, behind=behind, **settings,
    )  # fmt: skip
    return Run(iterations * n_envs * n_steps, seconds, what)


def off_policy(
    algo: str, env_id: str, total_steps: int = 2000, backend: str = "gymnasium", **settings: Any
) -> Run:
    """A replay-based algorithm with one environment, past compilation and the random phase.

    `backend`: 'gymnasium', the host loop, or 'jax', the compiled one.
    """
    runner = _runner(env_id, 1, backend, [0], settings, algo)
    assert total_steps <= runner.capacity
    runner.set_training(total_steps=10 * total_steps)
    runner.warm()
    runner.advance(100)
    start = time.perf_counter()
    runner.advance(total_steps)
    seconds = time.perf_counter() - start
    return Run(
        total_steps,
        seconds,
        what_ran("actrix", "actrix", "jax", algo=algo, env_id=env_id, backend=backend, **settings),
    )


def learn(
    env_id: str, total_steps: int, algo: str = "ppo", backend: str = "auto", n_envs: int = 1, behind: int = 0,
    **settings: Any,
) -> Run:  # fmt: skip
    """What `ppo` and `off_policy` time, as a user calls it: `learn` with its logs, after a first one that compiled."""
    from actrix import named
    from actrix.algorithms.presets import PRESETS

    kind = getattr(named, PRESETS[algo].class_name)
    model = kind("MlpPolicy", env_id, n_envs=n_envs, backend=backend, behind=behind, **settings)
    model.learn(4 * n_envs * settings.get("n_steps", 1) + settings.get("learning_starts", 0) + 100)
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(total_steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    what = dict(algo=algo, env_id=env_id, n_envs=n_envs, backend=model.runner.backend, behind=behind)
    return Run(
        model.num_timesteps - before, seconds, what_ran("actrix", "actrix", "jax", **(what | settings))
    )


def tabular_q(
    env_id: str = "Taxi-v4", n_envs: int = 1, total_steps: int = 1_000_000, train_freq: int = 16,
    learning_rate: float = 0.1, epsilon: float = 0.1,
) -> Run:  # fmt: skip
    """Q-learning on one table in the compiled loop, past compilation."""
    from actrix.algorithms.presets import PRESETS
    from actrix.algorithms.settings import configure
    from actrix.envs.jax_envs import jax_env
    from actrix.loops.compiled import CompiledRunner

    settings = {"train_freq": train_freq, "learning_rate": learning_rate, "exploration_initial_eps": epsilon,
                "exploration_final_eps": epsilon}  # fmt: skip
    algorithm = configure(PRESETS["q-learning"].algorithm, settings)
    runner = CompiledRunner(algorithm, jax_env(env_id), n_envs, [0])
    runner.set_training(total_steps=10 * total_steps)
    runner.advance(1)
    iterations = left = max(1, round(total_steps / (n_envs * train_freq)))
    start = time.perf_counter()
    while left:
        count = min(left, runner.capacity)
        runner.advance(count)
        left -= count
    seconds = time.perf_counter() - start
    what = what_ran("actrix", "actrix", "jax", algo="q-learning", env_id=env_id, n_envs=n_envs, **settings)
    return Run(iterations * n_envs * train_freq, seconds, what)


def random_actions(env_id: str, n_envs: int = 16, total_steps: int = 163_840, backend: str = "auto") -> Run:
    """The ceiling: the same adapter stepped with random actions, nothing learned; its threads where a loop has them, on
    one core or on all, whichever is faster."""
    from actrix.envs.make import make_vec_env
    from actrix.loops.cores import OneCore

    env = make_vec_env(env_id, n_envs, 0, backend=backend)
    rng, space = np.random.default_rng(0), env.spec.action_space
    if hasattr(space, "n"):
        actions = rng.integers(0, space.n, (1024, n_envs)).astype(np.int32)
    else:  # what a policy gives at first, in its own coordinates
        actions = rng.normal(size=(1024, n_envs, *space.shape)).astype(np.float32)
    env.reset([int(s) for s in rng.integers(0, 2**31, n_envs)])
    steps, cores = total_steps // n_envs, OneCore()

    def step(count: int) -> None:
        with cores.during(getattr(env, "threads", ()), count):
            for t in range(count):
                env.step(actions[t % 1024])

    for _ in range(3):  # the two that are tried come after the first
        step(100)
    clock, processor = _seconds(lambda: step(steps))
    what = what_ran("actrix", "actrix", env_id=env_id, n_envs=n_envs, processor_seconds=round(processor, 3))
    return Run(steps * n_envs, clock, what)


def host_apart(
    env_id: str, n_envs: int, n_steps: int, repeats: int = 10, backend: str = "auto", algo: str = "ppo",
    behind: int = 0, **settings: Any,
) -> Run:  # fmt: skip
    """The host loop's three parts, each alone: the environments with random actions, acting on one observation, and
    learning from one chunk again and again. Their sum is what a loop without any cost of its own would take. With
    `behind` learning goes on beside the others: the longer of the two, or the processor time of all over the cores."""
    import jax

    runner = _runner(env_id, n_envs, backend, [0], {"n_steps": n_steps, **settings}, algo)
    runner.set_training(total_steps=10**9)
    runner.warm()
    runner.advance(1)
    acting, key, rows = runner.learner.acting, runner._noise_key(1), runner.rows
    chunk, _ = runner.collect(rows, key, acting)
    handed = jax.device_put(runner._handed.pack_host(acting))
    noise = runner._noise(acting, key, rows, n_envs)
    memory, first, obs = runner._memory, runner._first, runner._obs

    def act() -> None:
        record = runner._record(acting, rows)
        for _ in range(rows):
            action, _, record = runner._act(handed, record, memory, first, obs, None, noise)
            np.asarray(action)

    def learn() -> None:
        runner.learner, _ = runner._learn(runner.learner, chunk, runner.iteration_key, np.int32(1))
        jax.block_until_ready(runner.learner)

    steps = repeats * rows * n_envs
    alone = random_actions(env_id, n_envs, steps, backend)
    apart = {
        "act": _seconds(lambda: [act() for _ in range(repeats)]),
        "learn": _seconds(lambda: [learn() for _ in range(repeats)]),
        "environments": (alone.seconds, alone.what["processor_seconds"]),
    }
    clock = {name: x[0] for name, x in apart.items()}
    whole = sum(clock.values())
    if behind:
        processor = sum(x[1] for x in apart.values()) / len(os.sched_getaffinity(0))
        whole = max(clock["learn"], clock["act"] + clock["environments"], processor)
    ms = {f"{name}_ms": [round(1e3 * x / repeats, 1) for x in pair] for name, pair in apart.items()}
    what = what_ran(
        "actrix", "actrix", "jax", algo=algo, env_id=env_id, n_envs=n_envs, n_steps=n_steps, behind=behind, **ms,
        **settings,
    )  # fmt: skip
    return Run(steps, whole, what)


def _seconds(part: Any) -> tuple[float, float]:
    """By the clock, and of the processor."""
    start = time.perf_counter(), time.process_time()
    part()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def first_update(cache: str) -> Run:
    """Seconds from process start to the end of the first PPO update, with the compilation cache in `cache`."""
    os.environ["ACTRIX_CACHE_DIR"] = cache
    runner = _runner("CartPole-v1", 8, "jax", [0], {"n_steps": 256})
    runner.advance(1)
    return Run(2048, time.time() - _process_start(), what_ran("actrix", "actrix", "jax"))


def memory(env_id: str = "LunarLander-v3", n_envs: int = 16, n_steps: int = 1024, **settings: Any) -> Run:
    """Peak resident memory (MiB, in `what`) of host-mode PPO over ten iterations."""
    runner = _runner(env_id, n_envs, "auto", [0], {"n_steps": n_steps, **settings})
    for _ in range(10):
        runner.advance(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Run(10 * n_envs * n_steps, 1.0, what_ran("actrix", "actrix", peak_mib=round(peak)))


def _runner(
    env_id: str,
    n_envs: int,
    backend: str,
    seeds: Any,
    settings: dict[str, Any],
    algo: str = "ppo",
    behind: int = 0,
) -> Any:
    from actrix.algorithms.presets import PRESETS
    from actrix.algorithms.settings import configure
    from actrix.envs.jax_envs import jax_env
    from actrix.envs.make import make_vec_env
    from actrix.loops.compiled import CompiledRunner
    from actrix.loops.stepping import host_runner

    algorithm = configure(PRESETS[algo].algorithm, settings)
    if backend == "jax":
        return CompiledRunner(algorithm, jax_env(env_id), n_envs, list(seeds))
    return host_runner(
        algorithm, make_vec_env(env_id, n_envs, 0, backend=backend), next(iter(seeds)), behind=behind
    )


def _process_start() -> float:
    """Unix time at which this process began (Linux), else when this module was read."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rsplit(")", 1)[1].split()[19])
        with open("/proc/stat") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith("btime"))
        return boot + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError):
        return BORN


if __name__ == "__main__":
    name, arguments = record.asked(globals())
    if name == "first_update":
        arguments.setdefault("cache", tempfile.mkdtemp())
    run = globals()[name](**arguments)
    print(json.dumps({"steps": run.steps, "seconds": run.seconds, "what": run.what}))
