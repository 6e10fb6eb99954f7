"""A run from its start, or its interruption, to its final evaluation and its curve."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from actrix.algorithms.policy_kwargs import SettingError, network_settings
from actrix.core.contract import Algorithm
from actrix.core.types import Spec
from actrix.data.datasets.dataset import Dataset, check_spaces
from actrix.envs.base import HostEnv
from actrix.envs.build import check_inert
from actrix.files import atomic, checkpoint
from actrix.files.kwargs import check_complete
from actrix.files.lock import RunLock, made
from actrix.loops.evaluate import check_same_spaces, evaluate, evaluation_env, noting
from actrix.loops.grouping import check_grouping
from actrix.loops.train import SeedRun
from actrix.model import Model
from actrix.runs import tracked, warm
from actrix.runs.config import RunConfig, RunError, check_address, load_datasets, resolve
from actrix.runs.folder import (
    CURVE,
    EVALUATION,
    config_json,
    evaluated_steps,
    evaluation,
    load_config,
    noted,
    refuse_taken,
    seed_folders,
)
from actrix.runs.others import refuse_role, with_others
from actrix.runs.seeds import ORPHAN_SECONDS, cluster_of, train_in_processes
from actrix.runs.session import (
    CHECKPOINT_SECONDS,
    EVAL_EPISODES,
    Session,
    check_identity,
    identity_of,
    make_env,
    train_here,
)
from actrix.show.log import Logger
from actrix.show.stats import Summary, summarize
from actrix.track import tracker

HERE = "local"
"""The address of this machine, for who resumes what ran on a cluster."""


def start(
    config: RunConfig, folder: Path, *, quiet: bool = False, verbose: int = 0,
    checkpoint_seconds: float = CHECKPOINT_SECONDS, track: str | None = None,
    begins: Callable[[], None] = lambda: None,
) -> Results:  # fmt: skip
    """Train into a new folder; RunError if it exists. `track` names a tracker that also gets the metrics; `begins` is
    called when all is checked."""
    refuse_taken(folder)
    if track is not None:
        tracker(track).check()
    check(config)  # before anything is written, or said
    with cluster_of(config), made(folder):
        refuse_taken(folder)  # by a run that began, and may have ended, meanwhile
        begins()
        for path, seed in seed_folders(folder, config):
            path.mkdir(parents=True, exist_ok=True)
            atomic.write_json(path / "config.json", config_json(dataclasses.replace(config, seeds=(seed,))))
        atomic.write_json(folder / "config.json", config_json(config))
        if track is not None:
            tracked.track(track, folder, config, seed_folders(folder, config))
        session = Session(quiet=quiet, verbose=verbose, checkpoint_seconds=checkpoint_seconds)
        try:
            return _train(config, folder, session)
        except tracked.NotBegunError:  # nothing was trained: the folder was empty, and is to be had again
            if not any(tracked.begun(path) for path, _ in seed_folders(folder, config)):
                shutil.rmtree(folder, ignore_errors=True)
            raise


def check(config: RunConfig) -> None:
    """Build what may refuse, once: the environment, the learner. Raises what they raise."""
    algorithm = config.build()
    if config.dataset:
        if config.init:
            raise SettingError("--init begins training in an environment: leave --dataset out.")
        data = load_datasets(config.dataset)
        if config.env_id:
            _evaluates(config, data)
        algorithm.check(data.spec, 1)
        return
    alone = dataclasses.replace(config, actors=0, behind=None, learners=1, learner_processes=1)
    env = make_env(alone, config.seeds[0])
    try:
        rows = env.num_envs if isinstance(env, HostEnv) else config.n_envs
        check_sizes(config, algorithm, env.spec, rows)
        begun = warm.initial_acting(config, algorithm, env.spec)
        try:
            small = _small(algorithm, rows)
            small.init(jax.random.key(0), env.spec, rows, warm.reference_of(algorithm, begun))
        except (TypeError, ValueError) as error:
            network = network_settings(algorithm.network, type(algorithm.network)())
            given = f" with policy_kwargs={network}" if network else ""
            raise SettingError(f"the learner cannot be built{given}: {error}") from error
    finally:
        if isinstance(env, HostEnv):
            env.close()


def check_sizes(config: RunConfig, algorithm: Algorithm, spec: Spec, rows: int) -> None:
    """Raise ValueError where batches, chunks or the budget do not fit each other or the environment."""
    algorithm.check(spec, rows)
    algorithm.check_budget(config.n_timesteps, rows)
    algorithm.check_run(spec, config.n_timesteps, rows)
    _check_warm_up(config, algorithm, spec, rows)


def _check_warm_up(config: RunConfig, algorithm: Algorithm, spec: Spec, num_envs: int) -> None:
    """Raise SettingError where the first statistics take the whole budget: there would be no model to write."""
    pieces, rows = algorithm.warm_up(algorithm.rows(spec), num_envs)
    if (spent := pieces * rows * num_envs) >= config.n_timesteps:
        raise SettingError(
            f"the first {spent} steps fill the statistics (normalize), and the budget is {config.n_timesteps}: nothing "
            "would be learned; give more --steps."
        )


def _small(algorithm: Algorithm, num_envs: int) -> Any:
    """The algorithm with as little room for transitions as it takes: a learner of it costs next to nothing."""
    data = algorithm.data
    if data.buffer_size is None:
        return algorithm
    least = max(num_envs, data.batch_size or 1)  # None: the whole of a chunk
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
    track: str | None = None,
    actors: int | None = None,
    address: str | None = None,
    learners: int | None = None,
    learner_processes: int | None = None,
) -> Results:
    """Go on from the newest checkpoint of every seed to the configured (or a larger) number of steps.

    The result is that of the run without the interruption, bit for bit, in the compiled loop and where the host loop's
    environments can be restored; otherwise new episodes start, from seeds that depend on the run's seed and on how
    often that happened. A seed that was killed before its first checkpoint begins anew, which comes to the same.
    A tracked run goes on in the tracker's own run; `track` names a tracker for one that had none. `actors` and
    `address` are others than those of the run ("local": this machine): they make no difference to what is computed.
    `learners` and `learner_processes` are others, too: they make none but of rounding.
    """
    refuse_role(folder)
    config = _moved(
        load_config(folder), address, actors=actors, learners=learners, learner_processes=learner_processes
    )
    with cluster_of(config), RunLock(folder):
        if track is not None:
            tracker(track).check()
        tracked.check(seed_folders(folder, config))
        return _resume(
            config, folder, steps, env_id, Session(True, quiet, verbose, checkpoint_seconds), track
        )


def _moved(config: RunConfig, address: str | None, **others: int | None) -> RunConfig:
    """The run with other actors and learners, in another place; RunError where it has no groups, ValueError for too
    many, and for an address where nothing of it would be."""
    if others["actors"] and config.envs_per_group is None:
        raise RunError("this run has no groups of environments: actors cannot go on with it.")
    given: dict[str, Any] = {name: number for name, number in others.items() if number is not None}
    config = dataclasses.replace(config, **given)
    if address is not None:
        config = dataclasses.replace(config, address=None if address == HERE else address)
        check_address(config)
    elif not config.spreads:  # who was there is here now, and joins nobody
        config = dataclasses.replace(config, address=None)
    if config.grouping:
        config.grouping.groups(config.n_envs)
    if given.keys() - {"actors"}:
        config.grouping.check_shares(config.n_envs)
        check_grouping(config.build(), config.grouping, config.backend, config.workers)
    return config


def _resume(
    config: RunConfig,
    folder: Path,
    steps: int | None,
    env_id: str | None,
    session: Session,
    track: str | None,
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
    done = [evaluated_steps(path) for path, _ in pairs]
    ahead = done[:1] if together(config) else done  # seeds in one program stop together, at the first one's
    if min(done) >= 0 and min(ahead) >= config.n_timesteps and (folder / CURVE).exists():
        raise RunError(
            f"{folder} has already finished its {config.n_timesteps} steps: go on with a larger --steps."
        )
    for path, seed in pairs:  # before anything is written
        if (meta := checkpoint.newest_meta(path / "checkpoints")) is not None:
            check_identity(SeedRun(seed, folder=path, identity=identity_of(config)), meta)
    for path, seed in pairs if len(pairs) > 1 else []:
        own = dataclasses.replace(config, seeds=(seed,))
        # Also without --steps: an earlier resume may have been killed between two of these writes.
        if not (path / "config.json").exists() or load_config(path) != own:
            path.mkdir(exist_ok=True)
            atomic.write_json(path / "config.json", config_json(own))
    if track is not None:
        tracked.track(track, folder, config, pairs)
    if config != load_config(folder):  # last: it is what the next resume goes by
        atomic.write_json(folder / "config.json", config_json(config))
    return _train(config, folder, session)


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
    if len(pairs) > 1 and not together(config):
        finished = train_in_processes(config, pairs, session)
    else:
        finished = train_here(config, pairs, session)
    if not finished:
        return Results(folder, config, {}, time.monotonic() - begun, finished=False)
    returns = {}
    for path, seed in pairs if config.env_id else []:
        if evaluated_steps(path) >= 0:  # by the seed's own process, or before an interruption
            returns[seed] = evaluation(path)[1]
        else:
            returns[seed] = final_evaluation(path, seed)
    from actrix.show.plot import plot_run  # loads matplotlib, half a second that no start should wait for

    plot_run([path for path, _ in pairs] if len(pairs) > 1 else folder, folder / CURVE)
    return Results(folder, config, returns, time.monotonic() - begun)


def together(config: RunConfig) -> bool:
    """Whether several seeds train in one program: compiled, here, and without a replay memory, which it would copy."""
    return config.backend == "jax" and config.address is None and not config.build().remembers


def final_evaluation(path: Path, seed: int, episodes: int = EVAL_EPISODES) -> np.ndarray:
    """Evaluate a seed's final policy, note it in `evaluation.json` and as the last row of its metrics."""
    model = Model.load(path)
    returns, lengths, told = evaluate_model(model, episodes, seed, env_id=model.env_id)
    if not noted(path, model.run.steps):
        with Logger(path, tensorboard=path, resume_step=model.run.steps) as logger:
            logger.record("eval/mean_reward", float(np.mean(returns)))
            logger.record("eval/mean_ep_length", float(np.mean(lengths)))
            if told:
                logger.record("eval/success_rate", float(np.mean(told)))
            one = tracked.begin(path, load_config(path), seed)
            if one is not None:
                logger.outputs.append(one.log)
            logger.dump(model.run.steps)
            if one is not None:
                one.finish()
    # Last, as it says that all of this is done.
    atomic.write_json(
        path / EVALUATION,
        {"episodes": episodes, "deterministic": True, "returns": returns.tolist(), "lengths": lengths.tolist(),
         "num_timesteps": model.run.steps},
    )  # fmt: skip
    return returns


def evaluate_model(
    model: Model, episodes: int, seed: int | None, deterministic: bool = True, env_id: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[float]]:  # fmt: skip
    """Fresh episodes on Gymnasium's own environment, whatever trained; (returns, lengths, `info["is_success"]` of those
    that told). The seeds differ from the training's.

    `env_id` None takes the model's; one that would import a module is refused unless it is given here. `env_kwargs` are
    as `model_env` takes them.
    """
    where, arguments = model_env(model, env_id, env_kwargs, deterministic)
    env = evaluation_env(where, episodes, arguments)
    try:
        check_same_spaces(model._known_spec(), env.spec)
        told: list[float] = []
        seed = None if seed is None else seed + 10**6
        returns, lengths = evaluate(model.policy, env, episodes, deterministic, seed, noting(env, told))
        return returns, lengths, told
    finally:
        env.close()


def model_env(
    model: Model,
    env_id: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    deterministic: bool = True,
) -> tuple[str, dict[str, Any]]:
    """Where to play a loaded model, with the arguments: those given, in the model's own environment besides the file's.
    In the game of a role the other roles' models act (`with_others`), by their most likely actions if `deterministic`.

    Raises ModelFileError where one is neither given nor in the file, and what `model_env_id` raises.
    """
    given = dict(env_kwargs or {})
    where = model_env_id(model, env_id, given)
    kwargs = {**(model.env_kwargs or {}), **given} if where == model.env_id else given
    beside = model.source and model.source.absolute().parent.parent
    return where, with_others(kwargs, beside, deterministic)


def model_env_id(model: Model, env_id: str | None = None, given: Collection[str] = ()) -> str:
    """The environment to play a loaded model in: the one the user names, else the file's own, if it is inert.

    `given` are the names of arguments that need not be in the file.
    """
    check_complete(model, model.env_id if env_id is None else env_id, given)
    if env_id is not None:
        return env_id
    check_inert(model.env_id)
    if model.env_id is None:
        raise RunError("the model does not know its environment's id: give --env ID.")
    return model.env_id


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
