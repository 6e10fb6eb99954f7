"""A run with a folder: resolve the configuration, train one or several seeds, evaluate, plot, resume."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np

from actrix import zoo
from actrix.algorithms import presets
from actrix.algorithms.learn import Composition
from actrix.algorithms.settings import SettingError, configure, settings_of, upgraded
from actrix.cli import EXIT_INTERRUPTED
from actrix.data.offline import Dataset, check_spaces, load_dataset, mix
from actrix.envs.base import HostEnv, JaxEnv
from actrix.envs.make import STEP_TIMEOUT, check_inert, choose_backend, training_env, worker_count
from actrix.model import POLICIES, Model, write_model
from actrix.run import atomic, checkpoint, manifest
from actrix.run.compiled import CompiledRunner
from actrix.run.display import Display
from actrix.run.evaluate import Policy, check_same_spaces, evaluate, evaluation_env
from actrix.run.lock import RunLock
from actrix.run.log import METRICS, STEP, Logger, read_metrics
from actrix.run.offline import OfflineRunner
from actrix.run.plot import plot_run
from actrix.run.stats import Summary, summarize
from actrix.run.stepping import host_runner
from actrix.run.train import SeedRun, load_checkpoints, save_checkpoints, train

CHECKPOINT_SECONDS = 60.0
EVAL_EPISODES = 20
ORPHAN_SECONDS = 60.0
"""How long a seed's process waits for that of a killed parent to end."""
OFFLINE_EVALUATIONS = 10
EVALUATION, CURVE, OUTPUT = "evaluation.json", "curve.png", "output.log"
STOP_SECONDS = 60.0
"""How long the processes of a stopped run may take to write their checkpoints."""


class RunError(RuntimeError):
    """A run folder that is missing, taken, incomplete or does not fit."""


class SeedError(RuntimeError):
    """The process of a seed failed."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything resolved: what `config.json` holds."""

    algorithm: str
    env_id: str
    seeds: tuple[int, ...]
    n_timesteps: int
    n_envs: int
    backend: str
    """'jax' (compiled loop), 'envpool' or 'gymnasium' (host loop)."""
    settings: dict[str, Any]
    """Flat settings of the algorithm, policy_kwargs among them."""
    env_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    tuned: bool = False
    """The settings started from the zoo's entry for this environment."""
    dataset: tuple[str, ...] = ()
    """Folders or ids of the data sets trained on, where there is no environment to act in; backend 'offline'."""
    workers: bool | int = False
    """Gymnasium environments in processes: True = one each, or how many; see `make_vec_env`."""
    step_timeout: float = STEP_TIMEOUT
    max_restarts: int = 0

    @property
    def title(self) -> str:
        """For headings: "ppo on CartPole-v1"."""
        if self.dataset:
            return f"{self.algorithm} on {' + '.join(Path(path).name for path in self.dataset)}"
        return f"{self.algorithm} on {self.env_id}"

    def build(self) -> Any:
        """The algorithm (a frozen dataclass)."""
        if not self.settings:
            raise RunError("the settings of this run lack everything: its config.json is incomplete.")
        base = None
        if self.algorithm != presets.COMPOSED:
            base = presets.find_preset(self.algorithm).algorithm
        missing = {"critic", "actor"} - set(self.settings)
        # Files of format 1 name the answers of joint networks only.
        named = isinstance(base, Composition) and presets.joint(base.critic, base.actor)
        if missing and (base is None or named):
            raise RunError(f"the settings of this run lack {' and '.join(sorted(missing))}.")
        if base is not None:
            return configure(base, upgraded(base, self.settings))
        answers = {name: self.settings[name] for name in ("critic", "actor", "data") if name in self.settings}
        return configure(presets.composed(**answers).algorithm, self.settings)


def resolve(
    algorithm: str | None,
    env_id: str | None,
    *,
    critic: str | None = None,
    actor: str | None = None,
    data: str | None = None,
    steps: int | None = None,
    n_envs: int | None = None,
    seeds: Sequence[int] | None = None,
    backend: str = "auto",
    settings: dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    policy: str | None = None,
    recurrent: bool = False,
    dataset: Sequence[str] = (),
    workers: bool | int = False,
    step_timeout: float = STEP_TIMEOUT,
    max_restarts: int = 0,
) -> RunConfig:
    """The configuration of a run: preset ← zoo ← user. Raises SettingError, UnknownEnvError, EnvError.

    With `dataset` there is no environment to train in: `env_id` (None = the data set's) only evaluates.
    `policy` is a name of Stable-Baselines3's; `recurrent` puts an LSTM into it unless policy_kwargs names a cell.
    """
    if critic or actor or data:
        if algorithm is not None:
            raise SettingError("give either an algorithm's name or --critic, --actor and --data, not both.")
        preset = presets.composed(critic or "gae", actor or "ppo-clip", data or "on-policy")
    else:
        preset = presets.find_preset(algorithm or "ppo")
    if dataset:
        data_set = load_datasets(dataset)
        if env_id is None and data_set.env_id:
            env_id, env_kwargs = _inert_id(data_set.env_id), env_kwargs or data_set.env_kwargs
        env_id = env_id or ""
        check_offline(preset)
    elif preset.offline:
        raise SettingError(f"{preset.name} learns from a data set: give --dataset PATH.")
    assert env_id is not None
    entry, tuned = zoo.settings(preset.name, env_id)
    run = {k: entry.pop(k, None) for k in zoo.RUN_KEYS}
    own = dict(settings or {})
    if "critic" in own and own["critic"] is None:  # `--set critic=none`
        own["critic"] = "none"
    for key in ("critic", "actor", "data", "policy"):
        if not isinstance(own.get(key) or "", str):
            raise SettingError(f"{key}={own[key]!r} must be a name.")
    for key, given in (("n_timesteps", steps), ("n_envs", n_envs), ("policy", policy)):
        value = own.pop(key, None) if given is None else given
        run[key] = run[key] if value is None else value
    run["policy"] = run["policy"] or preset.policy
    if run["policy"] not in POLICIES:
        raise SettingError(f"policy={run['policy']!r}: choose one of {', '.join(POLICIES)}.")
    if not isinstance(own.get("policy_kwargs") or {}, dict):
        raise SettingError(
            f"policy_kwargs={own['policy_kwargs']!r} must be a dict, e.g. {{'net_arch': [64, 64]}}."
        )
    network = {
        **_policy_defaults(run["policy"], recurrent),
        **entry.pop("policy_kwargs", {}),
    }
    # One after the other: the zoo's values for a critic or actor that the user replaces go with it.
    tuned_algorithm = configure(preset.algorithm, {**entry, "policy_kwargs": network})
    configured = configure(tuned_algorithm, own)
    seeds = tuple(seeds) if seeds else (int(np.random.SeedSequence().generate_state(1)[0]) % 10**6,)
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise SettingError(f"seeds {list(seeds)} must be different whole numbers of at least 0.")
    total = _whole("steps", run["n_timesteps"], 100_000 if dataset else 1_000_000)
    env_kwargs, count = dict(env_kwargs or {}), _whole("n_envs", run["n_envs"], preset.n_envs)
    processes: dict[str, Any] = {
        "workers": workers,
        "step_timeout": step_timeout,
        "max_restarts": max_restarts,
    }
    if dataset and workers:
        raise SettingError("workers run environments: a data set has none.")
    worker_count(count, **processes)  # refuses what makes no sense
    if dataset:
        count, backend = 1, "offline"
    else:
        backend = choose_backend(backend, env_id, env_kwargs, count, workers)
    return RunConfig(
        preset.name, env_id, seeds, total, count, backend, settings_of(configured), env_kwargs, tuned,
        tuple(str(Path(path).resolve() if Path(path).exists() else path) for path in dataset), **processes,
    )  # fmt: skip


def check_offline(preset: presets.Preset) -> None:
    """Raise SettingError unless this algorithm can learn from a fixed data set."""
    if not preset.algorithm.replays_transitions:
        raise SettingError(
            f"{preset.name} needs an environment: bc, cql, iql, td3-bc and the algorithms with a replay memory learn "
            "from a data set."
        )


def load_datasets(paths: Sequence[str]) -> Dataset:
    """One data set, or several of the same spaces as one."""
    sets = [load_dataset(path) for path in paths]
    return sets[0] if len(sets) == 1 else mix(sets, [data.transitions for data in sets], 0)


def _inert_id(env_id: str | None) -> str:
    """The id that a data set names, if it can be made without importing a module of its; else ''."""
    return env_id if env_id is not None and env_id in gym.registry else ""


def _whole(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != value // 1:
        raise SettingError(f"{name}={value!r} must be a whole number of at least 1.")
    return int(value)


def _policy_defaults(policy: str, recurrent: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if recurrent or "Lstm" in policy:
        out["cell"] = "lstm"
    if policy.startswith("Cnn"):
        out["cnn"] = True
    return out


# ---------------------------------------------------------------------------- training


def default_folder(config: RunConfig) -> Path:
    """runs/ALGO-ENV-DATE."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / re.sub(r"[^\w.-]+", "-", f"{config.algorithm}-{config.env_id}-{stamp}")


def start(
    config: RunConfig,
    folder: Path,
    *,
    quiet: bool = False,
    verbose: int = 0,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Results:
    """Train into a new folder; RunError if it exists."""
    _refuse_taken(folder)
    _check(config)  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        _refuse_taken(folder)  # by a run that began, and may have ended, meanwhile
        for path, seed in seed_folders(folder, config):
            path.mkdir(parents=True, exist_ok=True)
            atomic.write_json(path / "config.json", _config_json(dataclasses.replace(config, seeds=(seed,))))
        atomic.write_json(folder / "config.json", _config_json(config))
        session = Session(quiet=quiet, verbose=verbose, checkpoint_seconds=checkpoint_seconds)
        return _train(config, folder, session)


def _refuse_taken(folder: Path) -> None:
    """Raise RunError where there is anything but what a start that was killed before its `config.json` leaves."""

    def ours(path: Path) -> bool:
        if path.name == ".lock" or path.name.startswith(".tmp-"):
            return True
        of_seed = path.name == "config.json" and path.parent != folder
        return of_seed or (path.is_dir() and path.name.startswith("seed-"))

    if folder.exists() and (not folder.is_dir() or not all(map(ours, folder.rglob("*")))):
        raise RunError(
            f"{folder} exists already: choose another --out, or go on with `actrix resume {folder}`."
        )


def _check(config: RunConfig) -> None:
    """Build what may refuse, once: the environment, the learner."""
    algorithm = config.build()
    if config.dataset:
        data = load_datasets(config.dataset)
        if config.env_id:
            _evaluates(config, data)
        algorithm.check(data.spec, 1)
        return
    env = make_env(config, config.seeds[0])
    try:
        algorithm.check(env.spec, config.n_envs)
        algorithm.check_budget(config.n_timesteps, config.n_envs)
        algorithm.check_run(env.spec, config.n_timesteps, config.n_envs)
        try:
            _small(algorithm, config.n_envs).init(jax.random.key(0), env.spec, config.n_envs)
        except (TypeError, ValueError) as error:
            network = config.settings.get("policy_kwargs")
            given = f" with policy_kwargs={network}" if network else ""
            raise SettingError(f"the learner cannot be built{given}: {error}") from error
    finally:
        if isinstance(env, HostEnv):
            env.close()


def _small(algorithm: Any, num_envs: int) -> Any:
    """The algorithm with as little room for transitions as it takes: a learner of it costs next to nothing."""
    data = algorithm.data
    if not hasattr(data, "buffer_size"):
        return algorithm
    least = max(num_envs, getattr(data, "batch_size", None) or 1)  # None: the whole of a chunk
    return dataclasses.replace(
        algorithm, data=dataclasses.replace(data, buffer_size=min(data.buffer_size, least))
    )


def _evaluates(config: RunConfig, data: Dataset) -> None:
    """Raise ValueError unless the environment that will evaluate has the data set's spaces."""
    env = evaluation_env(config.env_id, 1, config.env_kwargs or None)
    try:
        check_spaces(data, env.spec)
    finally:
        env.close()


def resume(
    folder: Path,
    *,
    steps: int | None = None,
    env_id: str | None = None,
    quiet: bool = False,
    verbose: int = 0,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Results:
    """Go on from the newest checkpoint of every seed to the configured (or a larger) number of steps.

    The result is that of the run without the interruption, bit for bit, in the compiled loop and where the host loop's
    environments can be restored; otherwise new episodes start, from seeds that depend on the run's seed and on how
    often that happened. A seed that was killed before its first checkpoint begins anew, which comes to the same.
    """
    config = load_config(folder)
    with RunLock(folder):
        return _resume(config, folder, steps, env_id, Session(True, quiet, verbose, checkpoint_seconds))


def _resume(
    config: RunConfig, folder: Path, steps: int | None, env_id: str | None, session: Session
) -> Results:
    if env_id is None:
        check_inert(config.env_id)
    elif env_id != config.env_id:
        raise RunError(f"--env {env_id}: this run trains on {config.env_id}.")
    if steps is not None:
        if steps < config.n_timesteps:
            raise RunError(f"--steps {steps} is less than the {config.n_timesteps} of this run.")
        config = dataclasses.replace(config, n_timesteps=steps)
    checkpoint.remove_leftovers(folder)  # of who was killed while writing what concerns all seeds
    pairs = seed_folders(folder, config)
    done = [_evaluated_steps(path) for path, _ in pairs]
    ahead = done[:1] if _together(config) else done  # seeds in one program stop together, at the first one's
    if min(done) >= 0 and min(ahead) >= config.n_timesteps and (folder / CURVE).exists():
        raise RunError(
            f"{folder} has already finished its {config.n_timesteps} steps: go on with a larger --steps."
        )
    for path, seed in pairs:  # before anything is written
        if (meta := checkpoint.newest_meta(path / "checkpoints")) is not None:
            _check_identity(SeedRun(seed, folder=path, identity=_identity(config)), meta)
    for path, seed in pairs if len(pairs) > 1 else []:
        own = dataclasses.replace(config, seeds=(seed,))
        # Also without --steps: an earlier resume may have been killed between two of these writes.
        if not (path / "config.json").exists() or load_config(path) != own:
            path.mkdir(exist_ok=True)
            atomic.write_json(path / "config.json", _config_json(own))
    if steps is not None:  # last: it is what the next resume goes by
        atomic.write_json(folder / "config.json", _config_json(config))
    return _train(config, folder, session)


def seed_folders(folder: Path, config: RunConfig) -> list[tuple[Path, int]]:
    """(folder, seed) of each seed: the run folder itself for one seed."""
    if len(config.seeds) == 1:
        return [(folder, config.seeds[0])]
    return [(folder / f"seed-{seed}", seed) for seed in config.seeds]


_KINDS: dict[str, Any] = {
    "algorithm": str, "env_id": str, "n_timesteps": int, "n_envs": int, "backend": str, "settings": dict,
    "env_kwargs": dict, "dataset": tuple, "step_timeout": (int, float), "max_restarts": int, "workers": (bool, int),
}  # fmt: skip


def load_config(folder: Path) -> RunConfig:
    """Read `config.json`; RunError if the folder is none of ours."""
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        data["seeds"], data["dataset"] = tuple(data["seeds"]), tuple(data.get("dataset", ()))
        config = RunConfig(**{f.name: data[f.name] for f in dataclasses.fields(RunConfig) if f.name in data})
        for name, kind in _KINDS.items():
            value = getattr(config, name)
            if not isinstance(value, kind) or (isinstance(value, str) and not value.isprintable()):
                raise ValueError(f"{name} is {value!r}.")
        if not config.seeds or not all(isinstance(seed, int) for seed in config.seeds):
            raise ValueError(f"seeds is {list(config.seeds)}.")
        if config.n_timesteps < 1 or config.n_envs < 1:
            raise ValueError(
                f"n_timesteps is {config.n_timesteps} and n_envs {config.n_envs}: at least 1 each."
            )
        return config
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} is not a run folder: it has no config.json.") from None
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{folder / 'config.json'} cannot be read: {error}") from None


def _config_json(config: RunConfig) -> dict[str, Any]:
    return {**dataclasses.asdict(config), "seed": config.seeds[0], "versions": manifest.package_versions()}


@dataclasses.dataclass(frozen=True)
class Session:
    """How one process trains a run, which bears on nothing that it computes."""

    resumed: bool = False
    quiet: bool = False
    verbose: int = 0
    checkpoint_seconds: float = CHECKPOINT_SECONDS


def make_env(config: RunConfig, seed: int) -> HostEnv | JaxEnv:
    """The training environment."""
    return training_env(
        config.env_id, config.n_envs, seed, config.env_kwargs or None, config.backend,
        workers=config.workers, step_timeout=config.step_timeout, max_restarts=config.max_restarts,
    )  # fmt: skip


@dataclasses.dataclass
class Results:
    """What a run came to."""

    folder: Path
    config: RunConfig
    returns: dict[int, np.ndarray]
    """Seed → returns of the final evaluation's episodes."""
    seconds: float
    finished: bool = True

    @property
    def summary(self) -> Summary:
        """Mean or interquartile mean of the final returns, with its spread."""
        return summarize(self.returns)


def _train(config: RunConfig, folder: Path, session: Session) -> Results:
    begun = time.monotonic()
    pairs = seed_folders(folder, config)
    if len(pairs) > 1 and not _together(config):
        finished = _train_in_processes(config, pairs, session)
    else:
        finished = _train_here(config, pairs, session)
    if not finished:
        return Results(folder, config, {}, time.monotonic() - begun, finished=False)
    returns = {}
    for path, seed in pairs if config.env_id else []:
        if _evaluated_steps(path) >= 0:  # by the seed's own process, or before an interruption
            returns[seed] = _evaluation(path)[1]
        else:
            returns[seed] = final_evaluation(path, seed)
    plot_run([path for path, _ in pairs] if len(pairs) > 1 else folder, folder / CURVE)
    return Results(folder, config, returns, time.monotonic() - begun)


def _together(config: RunConfig) -> bool:
    """Whether several seeds train in one program: compiled, and without a replay memory, which that would copy."""
    return config.backend == "jax" and not config.build().remembers


def _checkpointed_steps(path: Path) -> int:
    """Environment steps at a seed's newest checkpoint; -1 without one."""
    return checkpoint.newest_step(path / "checkpoints")


def _evaluated_steps(path: Path) -> int:
    """Environment steps at a seed's final evaluation; -1 if there is none of its newest checkpoint."""
    try:
        steps, _ = _evaluation(path)
    except FileNotFoundError:
        return -1
    return steps if steps == _checkpointed_steps(path) else -1


def _evaluation(path: Path) -> tuple[int, np.ndarray]:
    """(environment steps, returns) of a seed's final evaluation."""
    try:
        found = json.loads((path / EVALUATION).read_text())
        return int(found["num_timesteps"]), np.asarray(found["returns"], float).reshape(-1)
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RunError(f"{path / EVALUATION} cannot be read: {reason}") from None


def final_evaluation(path: Path, seed: int, episodes: int = EVAL_EPISODES) -> np.ndarray:
    """Evaluate a seed's final policy, note it in `evaluation.json` and as the last row of its metrics."""
    model = Model.load(path)
    returns, lengths = evaluate_model(model, episodes, seed, env_id=model.env_id)
    if not _noted(path, model.run.steps):
        with Logger(path, tensorboard=path, resume_step=model.run.steps) as logger:
            logger.record("eval/mean_reward", float(np.mean(returns)))
            logger.record("eval/mean_ep_length", float(np.mean(lengths)))
            logger.dump(model.run.steps)
    # Last, as it says that all of this is done.
    atomic.write_json(
        path / EVALUATION,
        {"episodes": episodes, "deterministic": True, "returns": returns.tolist(), "lengths": lengths.tolist(),
         "num_timesteps": model.run.steps},
    )  # fmt: skip
    return returns


def _noted(path: Path, steps: int) -> bool:
    """Whether the log ends with the row of the final evaluation: a process was killed right after it."""
    metrics = read_metrics(path)
    last = {name: values[-1] for name, values in metrics.items() if len(values)}
    return last.get(STEP) == steps and not np.isnan(last.get("eval/mean_ep_length", np.nan))


def evaluate_model(
    model: Model, episodes: int, seed: int | None, deterministic: bool = True, env_id: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fresh episodes on Gymnasium's own environment, whatever trained. The seeds differ from the training's.

    `env_id` None takes the model's; one that would import a module is refused unless it is given here.
    """
    env = evaluation_env(model_env_id(model, env_id), episodes, model.env_kwargs)
    try:
        check_same_spaces(model._known_spec(), env)
        return evaluate(model.policy, env, episodes, deterministic, None if seed is None else seed + 10**6)
    finally:
        env.close()


def model_env_id(model: Model, env_id: str | None = None) -> str:
    """The environment to play a loaded model in: the one the user names, else the file's own, if it is inert."""
    if env_id is not None:
        return env_id
    check_inert(model.env_id)
    if model.env_id is None:
        raise RunError("the model does not know its environment's id: give --env ID.")
    return model.env_id


def _train_here(config: RunConfig, pairs: Sequence[tuple[Path, int]], session: Session) -> bool:
    algorithm, seeds = config.build(), [seed for _, seed in pairs]
    runner: Any
    if config.dataset:
        runner = OfflineRunner(algorithm, load_datasets(config.dataset), seeds)
    else:
        env = make_env(config, seeds[0])
        algorithm.check(env.spec, config.n_envs)
        if isinstance(env, HostEnv):
            runner = host_runner(algorithm, env, seeds[0])
        else:
            runner = CompiledRunner(algorithm, env, config.n_envs, seeds)
    runs = [
        SeedRun(seed, folder=path, checkpoints=path / "checkpoints", identity=_identity(config))
        for path, seed in pairs
    ]
    with contextlib.ExitStack() as locks:
        for run in runs if len(runs) > 1 else []:  # a seed's folder is a run folder, too
            assert run.folder is not None
            locks.enter_context(RunLock(run.folder))
        return _train_runs(config, algorithm, runner, runs, session)


def _train_runs(
    config: RunConfig, algorithm: Any, runner: Any, runs: Sequence[SeedRun], session: Session
) -> bool:
    """`_train_here` with everything built and locked."""
    spec, seeds = runner.spec, [run.seed for run in runs]
    notes = _begin(runner, runs, session)
    verbose, shown = session.verbose, not (session.quiet or session.verbose)
    for run in runs:
        run.logger = Logger(run.folder, tensorboard=run.folder, verbose=verbose,
                            resume_step=run.steps if run.iterations else None)  # fmt: skip
    with (
        _StopRequest() as stop,
        Display(config.n_timesteps, config.title, enabled=None if shown else False,
                seeds=seeds if len(seeds) > 1 else None, start=runs[0].steps) as display,
    ):  # fmt: skip
        for note in notes:
            display.message(note) if shown else print(note, file=sys.stderr, flush=True)
        what = config.title if config.dataset else f"{config.algorithm} for {config.n_envs} × {config.env_id}"
        display.status(f"compiling {what} ({config.backend}) …")
        evaluations = _Evaluations(config, runner, runs) if config.dataset and config.env_id else None

        def on_update() -> bool:
            if evaluations is not None:
                evaluations()
            return not stop.requested

        with contextlib.ExitStack() as stack:
            stack.callback(runner.close)
            for run in runs:
                stack.callback(run.logger.close)  # type: ignore[union-attr]

            def write() -> None:
                save_checkpoints(runner, runs)
                for run, acting in zip(runs, runner.actings, strict=True):
                    if not run.iterations or run.folder is None:
                        continue
                    write_model(
                        run.folder / "model.safetensors", config.algorithm, algorithm, acting, spec,
                        env_id=config.env_id or None, env_kwargs=config.env_kwargs or None, seed=run.seed,
                        num_timesteps=run.steps, n_envs=config.n_envs,
                    )  # fmt: skip

            try:
                finished = train(
                    runner, runs, config.n_timesteps, display=display, on_update=on_update,
                    checkpoint_seconds=session.checkpoint_seconds, log_interval=_log_interval(config, runner),
                )  # fmt: skip
            except (KeyboardInterrupt, checkpoint.CheckpointError):
                raise  # a second Ctrl-C took the state with it; a full disk takes no more
            except BaseException:
                write()  # after a non-finite update, too: the runner holds the last good parameters
                raise
            if not finished:
                display.message("interrupted: saving a checkpoint")
            write()
    return finished


def _identity(config: RunConfig) -> dict[str, Any]:
    """What must not change between a checkpoint and its resumption: all that bears on what is computed."""
    free = ("seeds", "n_timesteps", "tuned", "workers", "step_timeout", "max_restarts")
    kept = {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
    return json.loads(json.dumps(kept))


def _begin(runner: Any, runs: Sequence[SeedRun], session: Session) -> list[str]:
    """Restore what there is to go on from, and note the session in the manifest; lines that the user should see."""
    notes, event, reason = [], "start", None
    new = [run for run in runs if run.folder and _checkpointed_steps(run.folder) < 0]
    if session.resumed:
        for run in new:
            assert run.folder is not None
            if (run.folder / "model.safetensors").exists():
                raise RunError(
                    f"{run.folder} has a model but not the checkpoint to go on from: start anew with another --out."
                )
            _remove_traces(run.folder)
            whose = f"of seed {run.seed} yet: it" if len(new) < len(runs) else "yet: the run"
            if run is new[0] or len(new) < len(runs):
                notes.append(f"there is no checkpoint {whose} begins anew")
    if session.resumed and len(new) < len(runs):
        event = "resume"
        first = next(run for run in runs if run not in new)
        assert first.folder is not None
        changed = manifest.differences(first.folder)
        reason = load_checkpoints(
            runner, runs, _check_identity, lambda path, error: notes.append(checkpoint.set_aside(path, error))
        )
        notes.append(f"resumed at step {first.steps:,}, " + (
            "exactly where it was" if reason is None else
            f"in new episodes, {first.dropped_episodes} dropped so far: {reason}"
        ))  # fmt: skip
        if changed:
            notes.append(
                f"this is not quite where the run trained before ({'; '.join(changed)}): it goes on, but its bits may "
                "differ from those of an uninterrupted run"
            )
    for run in runs:
        assert run.folder is not None
        checkpoint.remove_leftovers(run.folder)
        checkpoint.remove_leftovers(run.folder / "checkpoints")
        more = (
            {}
            if event == "start" or run in new
            else {"exact": reason is None, "dropped_episodes": run.dropped_episodes}
        )
        manifest.append(run.folder, event, run.steps, **more)
    return notes


def _check_identity(run: SeedRun, meta: dict[str, Any]) -> None:
    """Raise RunError where the checkpoint was written under another configuration."""
    old, new = meta["run"] | {"seed": meta["seed"]}, run.identity | {"seed": run.seed}
    changed = checkpoint.differences(old, new)
    if changed:
        raise RunError(
            f"{run.folder}/config.json is not what its checkpoint was trained with: {'; '.join(changed)}. Put it back, "
            "or start another run; only the number of steps may grow (--steps)."
        )


class _Evaluations:
    """Learning from a data set gives no returns: a few episodes after each tenth of the budget draw its curve."""

    def __init__(self, config: RunConfig, runner: Any, runs: Sequence[SeedRun]):
        self.config, self.runner, self.runs = config, runner, runs
        self.every = max(1, config.n_timesteps // OFFLINE_EVALUATIONS)
        self.next = (runs[0].steps // self.every + 1) * self.every

    def __call__(self) -> None:
        if self.runs[0].steps < self.next or self.runs[0].steps >= self.config.n_timesteps:
            return
        self.next += self.every
        env = evaluation_env(self.config.env_id, EVAL_EPISODES // 2, self.config.env_kwargs or None)
        try:
            for run, acting in zip(self.runs, self.runner.actings, strict=True):
                returns, _ = evaluate(
                    Policy(self.runner.algorithm, acting), env, EVAL_EPISODES // 2, seed=run.seed
                )
                if run.logger is not None:
                    run.logger.record("eval/mean_reward", float(np.mean(returns)))
        finally:
            env.close()


def _log_interval(config: RunConfig, runner: Any) -> int:
    """Host mode updates may be tiny (A2C: 40 steps): write about 500 rows."""
    if runner.capacity > 1:
        return 1
    return max(1, config.n_timesteps // (runner.rows * runner.num_envs) // 500)


class _StopRequest:
    """The first Ctrl-C or SIGTERM asks training to stop after the current segment; a second Ctrl-C aborts.

    Raising at once could lose the state that the running segment was given to overwrite. A second SIGTERM is ignored:
    services send it to all processes, and the parent of many seeds passes on its own.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> _StopRequest:
        self._old: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _handle(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


def _train_in_processes(config: RunConfig, pairs: Sequence[tuple[Path, int]], session: Session) -> bool:
    """One process per seed, as many at a time as there are cores; their logs show the progress.

    Returns False if it was asked to stop. The processes have sessions of their own, so that Ctrl-C reaches
    them once, through this one.
    """
    waiting, ended = list(pairs), []
    resumed, quiet = session.resumed, session.quiet
    if resumed:
        waiting = [(path, seed) for path, seed in pairs if _evaluated_steps(path) < config.n_timesteps]
    for path, _ in waiting:
        atomic.check_regular(path / OUTPUT)
    running: dict[int, tuple[subprocess.Popen, Path, Any]] = {}
    begun: dict[int, int] = {}  # where this session's lines begin in the log
    seconds = str(session.checkpoint_seconds)
    program = [sys.executable, "-X", "faulthandler", "-m", "actrix"]  # a crash leaves its traces in the log
    command = [*program, "train-folder", "--quiet", "--follow", "--checkpoint-seconds", seconds]
    seeds = [seed for _, seed in pairs]
    try:
        with (
            _StopRequest() as stop,
            Display(
                config.n_timesteps, config.title, enabled=False if quiet else None, seeds=seeds
            ) as display,
        ):
            while waiting or running:
                if stop.requested:
                    display.message("interrupted: saving checkpoints")
                    ended += _stop(running)
                    break
                while waiting and len(running) < (os.cpu_count() or 1):
                    path, seed = waiting.pop(0)
                    log = open(path / OUTPUT, "ab")  # noqa: SIM115
                    begun[seed] = log.tell()
                    child = subprocess.Popen(
                        [*command, *(["--resume"] if resumed else []), str(path)],
                        stdout=log, stderr=log, stdin=subprocess.PIPE, start_new_session=True,
                    )  # fmt: skip
                    running[seed] = (child, path, log)
                time.sleep(0.3)
                for seed, (child, path, log) in list(running.items()):
                    _show_progress(display, path, seed)
                    if child.poll() is not None:
                        log.close()
                        _close_input(child)
                        del running[seed]
                        ended.append((seed, path, child.returncode))
    except BaseException:
        _stop(running)
        raise
    # Who is stopped before it trains, or in its final evaluation, has nothing to save and ends by the signal.
    fine = (0, EXIT_INTERRUPTED, -signal.SIGTERM) if stop.requested else (0,)
    failed = [(seed, path, code) for seed, path, code in ended if code not in fine]
    if failed:
        seed, path, code = failed[0]
        with open(path / OUTPUT, "rb") as output:
            output.seek(begun[seed])
            lines = output.read().decode(errors="replace").strip().splitlines()
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        hint = f"; go on from the checkpoints with: actrix resume {path.parent}" if stop.requested else ""
        raise SeedError(
            f"seed {seed}{more} failed with exit code {code}: {lines[-1] if lines else 'no output'}{hint}"
        )
    return not waiting and not any(code for _, _, code in ended)


def _stop(running: dict[int, tuple[subprocess.Popen, Path, Any]]) -> list[tuple[int, Path, int]]:
    """Ask each once to save a checkpoint and end, kill what has not ended in time; (seed, folder, exit code)."""
    for child, _, _ in running.values():
        child.terminate()
    end = time.monotonic() + STOP_SECONDS
    ended = []
    for seed, (child, path, log) in running.items():
        try:
            child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            log.write(
                f"killed: it had not saved a checkpoint {STOP_SECONDS:g} s after it was asked to stop\n".encode()
            )
        log.close()
        _close_input(child)
        ended.append((seed, path, child.returncode))
    return ended


def _close_input(child: subprocess.Popen) -> None:
    """The end of a pipe whose closing tells the child that this process is gone."""
    if child.stdin is not None:
        child.stdin.close()


def _remove_traces(path: Path) -> None:
    """Of an attempt that left no checkpoint, so that it can begin anew."""
    for file in (path / METRICS, *path.glob("events.out.tfevents*")):
        file.unlink(missing_ok=True)


def _show_progress(display: Display, path: Path, seed: int) -> None:
    try:
        metrics = read_metrics(path)
    except (OSError, ValueError):
        return
    if STEP not in metrics or not len(metrics[STEP]):
        return
    last = {k: float(v[-1]) for k, v in metrics.items() if not np.isnan(v[-1])}
    display.update(int(metrics[STEP][-1]), last, seed=seed)


def train_folder(folder: Path, session: Session) -> Results:
    """Train the run that a folder's `config.json` describes (the worker of a many-seed run)."""
    # Another parent may just have been killed: its workers save what they have and end.
    with RunLock(folder, patience=ORPHAN_SECONDS):
        return _train(load_config(folder), folder, session)


def train_seeds(
    algorithm: str,
    env_id: str,
    seeds: Sequence[int],
    total_timesteps: int,
    folder: str | os.PathLike,
    **kwargs: Any,
) -> Results:
    """`actrix train ALGORITHM ENV --seeds …` from Python: several seeds at once, with statistics and one plot.

    `kwargs` are those of `resolve`. Where a host environment trains, each seed runs in a process of its own.
    """
    config = resolve(algorithm, env_id, seeds=seeds, steps=total_timesteps, **kwargs)
    return start(config, Path(folder), quiet=True)
