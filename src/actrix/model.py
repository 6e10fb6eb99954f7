"""The user's object: `PPO("MlpPolicy", env).learn(100_000).save("ppo")`, in Stable-Baselines3's vocabulary."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np

from actrix import resuming
from actrix.algorithms import notices, presets
from actrix.algorithms import policy_kwargs as policy_kwargs_
from actrix.algorithms import settings as settings_
from actrix.callbacks import as_callback
from actrix.core import spaces
from actrix.core.contract import Acting
from actrix.core.types import Spec
from actrix.crews import backend_for, crew_for, learners_of
from actrix.data.datasets.dataset import Dataset, check_spaces
from actrix.data.datasets.read import load_dataset
from actrix.envs.agents.game import is_game
from actrix.envs.base import HostEnv, JaxEnv
from actrix.envs.build import full_id
from actrix.envs.guard import whole_seed
from actrix.envs.make import as_host_env, training_env
from actrix.envs.vec.names import set_random_seed
from actrix.envs.vec.normalize import host_of, unwrap_vec_normalize
from actrix.envs.vec.transpose import as_shown
from actrix.envs.vec.vecenv import VecEnv, vec_env
from actrix.files import checkpoint
from actrix.files.kwargs import check_complete
from actrix.files.lock import RunLock
from actrix.hooks import Hooks, NoLogger
from actrix.instead import refuse_of_learn
from actrix.loops.compiled import CompiledRunner
from actrix.loops.evaluate import Stream, check_same_spaces
from actrix.loops.grouping import Grouping, check_grouping, limited
from actrix.loops.groups import Crew
from actrix.loops.host import HostRunner
from actrix.loops.offline import OfflineRunner
from actrix.loops.runner import Runner
from actrix.loops.stepping import host_runner
from actrix.loops.train import SeedRun, kept, save_checkpoints, train
from actrix.policy import ModelPolicy
from actrix.predict import predict
from actrix.show.display import Display
from actrix.stored import MODELS, Stored
from actrix.surface import Surface, get_device


class Model(Surface, Stored):
    """An algorithm, an environment and what was learned. Subclasses only name a preset.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" (the network follows from the spaces in any case),
            "MlpLstmPolicy" for a recurrent one, or `(spec, key) -> equinox module` of your own.
        env: an id, a `gym.Env`, a Gymnasium vector environment, a JAX environment, or `make_vec_env`'s result.
            None only for a model that will be given one by `set_env`.
        n_envs: copies to make where `env` is an id or a JAX environment.
        backend: for ids: "auto" (compiled JAX where Gymnasium's dynamics are matched, else EnvPool, else
            Gymnasium), or one of "jax", "envpool", "gymnasium".
        env_kwargs: arguments of the environment, for ids.
        tensorboard_log: folder of TensorBoard events; each `learn` adds `<class>_<number>`.
        policy_kwargs: the network's settings (`NetworkConfig`): net_arch, activation_fn, …
        verbose: 1 prints a table per update.
        device: "auto" or the platform that JAX runs on.
        stats_window_size: training episodes that `rollout/ep_rew_mean` averages over.
        seed: any integer ≥ 0; None draws one (kept in `model.seed`).
        dataset: a folder, id or object of a Minari data set, or a `Dataset`, to learn from instead of an environment
            (`learn` then counts gradient updates).
        reference: a feed-forward model to stay near (`ref_kl_coef`), with its own observation statistics; None = the
            uniform policy.
        actors: processes on Ray that collect (see `docs/actors.md`); 0 = this one collects.
        envs_per_group: environments that act together; with the same groups and the same `behind`, any number of actors
            comes to the same bits. None = with actors one group each, else all together.
        behind: 1 = the policy before the last update collects, while that is made (PPO, and data of older policies);
            None = 1 with actors, else 0; "any" = the learner waits for no actor (v-trace).
        address: of a Ray cluster, for `actors` and `learner_processes`; None starts Ray on this machine.
        learners: devices that each compute a share of every batch, the same result up to rounding; `learner_processes`
            on Ray hold them, 1 = this one. step_timeout: seconds that an actor may take for one step (None: 60).
        learning_rate: and all other `settings`: the algorithm's parameters by Stable-Baselines3's names. A `batch_size`
            that is not given is the default, or the largest below it that divides a chunk.

    Raises SettingError (unknown or refused settings, with the nearest names), UnsupportedSpaceError,
    UnknownEnvError.
    """

    preset_name: ClassVar[str] = "ppo"
    _env: HostEnv | JaxEnv | None = None
    _vec: VecEnv | None = None
    _given: Any = None  # what `set_env` was given, where that is an object that holds state
    env_id: str | None = None
    spec: Spec | None = None
    runner: Runner | None = None
    _acting: Acting | None = None
    _policy: ModelPolicy | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "preset_name" in vars(cls):
            MODELS.setdefault(cls.preset_name, cls)

    def __init__(
        self,
        policy: Any = "MlpPolicy", env: Any = None, learning_rate: Any = None, *, n_envs: int = 1,
        backend: str = "auto", env_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | os.PathLike | None = None,
        policy_kwargs: dict[str, Any] | None = None, verbose: int = 0, seed: int | None = None, device: str = "auto",
        stats_window_size: int = 100, reference: Model | None = None, dataset: Any = None, actors: int = 0,
        envs_per_group: int | None = None, behind: int | str | None = None, address: str | None = None,
        learners: int = 1, learner_processes: int = 1, step_timeout: float | None = None, **settings: Any,
    ):  # fmt: skip
        rate = {} if learning_rate is None else {"learning_rate": learning_rate}
        given, self._policy_kwargs = settings | rate, policy_kwargs
        settings, policy_kwargs = _given(settings, learning_rate, policy_kwargs, env)
        under = settings.pop("_under", {})  # a file's, over which those go that are given with it
        self._own_batch = settings_.sizes_batches(under | settings)
        self.preset = self._find_preset(under | settings)
        before = settings_.configure(self.preset.algorithm, under)
        self.algorithm = settings_.configure(before, settings)
        network = policy_kwargs_.network_of(policy, policy_kwargs, self.algorithm.network)
        self.algorithm = dataclasses.replace(self.algorithm, network=network)
        self.seed = _seed(seed)
        self.verbose, self.tensorboard_log, self.device = verbose, tensorboard_log, get_device(device)
        self.stats_window_size = stats_window_size
        self.backend, self.env_kwargs, self.n_envs = backend, env_kwargs, n_envs
        who = Grouping(actors, envs_per_group, behind, address, learners, learner_processes)
        self.grouping = limited(who, step_timeout)
        self.reference = None if reference is None else reference.acting
        notices.tell(before, self.algorithm, given, notices.offline(env, dataset), reference)
        self.logger, self._given_logger = NoLogger(), False
        self.run = SeedRun(self.seed, window=stats_window_size)
        self._open_steps = self._open_episodes = 0  # of the chunk that is being collected
        self._stream = Stream()
        if env is not None and dataset is not None:
            raise ValueError("give either an environment to learn in or a data set to learn from.")
        if dataset is not None:
            self.set_dataset(dataset)
        elif env is not None:
            self.set_env(env)
            self._check_copies(n_envs)

    @classmethod
    def _find_preset(cls, settings: dict[str, Any]) -> presets.Preset:
        return presets.find_preset(cls.preset_name)

    def _check_copies(self, n_envs: int) -> None:
        if n_envs not in (1, self.n_envs, self.copies):
            raise ValueError(
                f"n_envs={n_envs}, but what was given is {self.copies}: copies are made of an id or a class."
            )

    # ------------------------------------------------------------------ environment

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Train on another environment with the same spaces; learning starts it anew."""
        given, env = env, host_of(env)
        self._vec = as_shown(given) if isinstance(given, VecEnv) and given.host is not None else None
        env, self.env_id = self._resolve(env)
        if self.spec is not None:
            check_same_spaces(self.spec, env.spec, bounds=True)
        spaces.check_observation_space(env.spec.observation_space)
        spaces.check_action_space(env.spec.action_space)
        if isinstance(env, HostEnv):
            self.n_envs = env.num_envs
        if not self._own_batch:  # a default is never what is refused
            self.algorithm = self.algorithm.fitted(env.spec, self.n_envs)
        settings_.check(self.algorithm, env.spec, self.n_envs)
        learner = None if self.runner is None else self.runner.learners[0]
        self._env, self.spec = env, env.spec
        own = isinstance(given, gym.Env | gym.vector.VectorEnv) or is_game(given)
        self._given = given if own else env
        who, seed, reference = self.grouping, self.seed, self.reference
        who.check_shares(self.n_envs)
        check_grouping(self.algorithm, who, "gymnasium" if isinstance(env, HostEnv) else "jax")
        if isinstance(env, HostEnv):
            self.runner = host_runner(self.algorithm, env, seed, reference, who.lag, learners_of(who))
        else:
            self.runner = CompiledRunner(self.algorithm, env, self.n_envs, [seed], reference, who.learners)
        if learner is not None:
            learner = self.algorithm.adopt(learner, self.runner.learners[0])
            self.runner.set_learners([learner], [self.run.iterations])
        elif self._acting is not None:  # from a file: schedules go on where its training was
            self.runner.set_training(steps=self.run.steps)
            self._adopt(self._acting)
        self._policy = None
        if (normalizes := unwrap_vec_normalize(given)) is not None:
            normalizes.attach(self)

    def set_dataset(self, dataset: Any) -> None:
        """Learn from a fixed data set: a Minari folder, id or object, or what `load_dataset` returns; DatasetError."""
        data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset)
        if self.spec is not None:
            check_spaces(data, self.spec)
        self.grouping.check_data_set()
        settings_.check(self.algorithm, data.spec, 1)
        runner = OfflineRunner(self.algorithm, data, [self.seed])
        learner = None if self.runner is None else self.runner.learners[0]
        self._env, self.spec, self.env_id, self.n_envs = None, data.spec, data.env_id, 1
        self.runner = runner
        if learner is not None:
            fresh = runner.learners[0].memory
            runner.set_learners([dataclasses.replace(learner, memory=fresh)], [self.run.iterations])
        elif self._acting is not None:
            self._adopt(self._acting)
        self._policy = None

    def _resolve(self, env: Any) -> tuple[HostEnv | JaxEnv, str | None]:
        if isinstance(env, str):
            check_complete(self, env := full_id(env))
        if self.grouping and not isinstance(env, Crew):
            return (crew := crew_for(self, env)), env if isinstance(env, str) else crew.env_id
        if isinstance(env, str):
            backend = backend_for(self.grouping, self.backend, env, self.env_kwargs, self.copies)
            return training_env(env, self.copies, self.seed, self.env_kwargs, backend), env
        if isinstance(env, JaxEnv) and not isinstance(env, HostEnv | gym.Env):
            return env, getattr(env, "env_id", None)
        host = as_host_env(
            env,
            1 if isinstance(env, gym.Env | gym.vector.VectorEnv) or is_game(env) else self.n_envs,
            self.seed,
        )
        return host, getattr(host, "env_id", None)

    def get_env(self) -> VecEnv | None:
        """The environments trained on, with Stable-Baselines3's methods; None without.

        Of compiled ones a copy; stepping the others breaks training's open episodes off. Images have channels first.
        """
        if self._vec is None and self._env is not None:
            self._vec = as_shown(vec_env(self._env, self.n_envs, self.seed))
        return self._vec

    def trains_on(self, env: Any) -> bool:
        """Whether stepping `env` would step the episodes of training (never so in the compiled loop)."""
        env = host_of(env)
        base = lambda e: e.unwrapped if isinstance(e, gym.Env | gym.vector.VectorEnv) else e
        return isinstance(self.runner, HostRunner) and any(
            base(env) is base(e) for e in (self._env, self._given)
        )

    def _known_spec(self) -> Spec:
        if self.spec is None:
            raise ValueError("this model has no environment yet: pass env=… or call set_env.")
        return self.spec

    # ------------------------------------------------------------------ learning

    def learn(
        self, total_timesteps: int, callback: Any = None, log_interval: int = 1, tb_log_name: str | None = None,
        reset_num_timesteps: bool = True, progress_bar: bool = False,
        checkpoint_dir: str | os.PathLike | None = None, checkpoint_seconds: float = 60.0,
        resume_from: str | os.PathLike | None = None, **unknown: Any,
    ) -> Self:  # fmt: skip
        """Train for `total_timesteps` environment steps (rounded up to whole chunks); returns the model.

        Calling it again goes on with the same parameters and optimiser, and (host loop) starts new episodes;
        `reset_num_timesteps=False` goes on with the open episodes and with counting: the steps are added to those
        already taken.

        `checkpoint_dir` gets the whole training state every `checkpoint_seconds`, on Ctrl-C and SIGTERM, and at the
        end. `resume_from` such a folder, the same call on a model built alike (in another process) goes on from its
        newest checkpoint and comes, bit for bit, to what the call without interruption would have; where environments
        cannot be restored (EnvPool, Box2D, …) new episodes start. The seed is the checkpoint's, and checkpoints
        go on being written there. What callbacks remember is their own. `resume_from` may be a run folder, too, which
        gets no more checkpoints from here.

        An environment's error or a non-finite update leaves a checkpoint of the last good state behind.

        Raises FileNotFoundError where there is no checkpoint, ModelFileError and ValueError for one of another model
        or environment, and for a `checkpoint_dir` in which another training's are, CheckpointError where one cannot be
        written, RunLockedError where another process writes there.
        """
        refuse_of_learn(unknown, [*inspect.signature(Model.learn).parameters][1:-1])
        if self.runner is None:
            raise ValueError("no environment: pass env=… when building the model, or call set_env first.")
        if isinstance(total_timesteps, str) or total_timesteps < 1 or total_timesteps % 1:
            raise ValueError(f"total_timesteps={total_timesteps!r} must be a whole number of at least 1.")
        if (normalizes := self.get_vec_normalize_env()) is not None:
            normalizes.check_learning()
        source, folder = resuming.places(resume_from, checkpoint_dir)
        with contextlib.ExitStack() as stack:
            if folder is not None:
                resuming.refuse_taken(folder, source, None if reset_num_timesteps else self.run.checkpoints)
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(RunLock(folder))
                checkpoint.remove_leftovers(folder)
            first = self.run.iterations == 0 and source is None
            if first and not isinstance(self.runner, OfflineRunner):
                self._check_budget(int(total_timesteps))
            self._take_up(source, ours=source == folder, reset=reset_num_timesteps)
            total = int(total_timesteps) + self.run.start_steps
            self.logger = self._next_logger(tb_log_name, reset_num_timesteps)
            self.run.logger, self.run.checkpoints = self.logger, folder
            self.run.identity = resuming.identity(self)
            title = f"{type(self).__name__} on {self.env_id or 'your environment'}"
            plays = self._env is not None and not self.algorithm.shown
            bar = functools.partial(Display, total, title, start=self.run.steps, plays=plays)
            shown = stack.enter_context(bar()) if progress_bar else None
            hooks = stack.enter_context(Hooks(self, as_callback(callback)))
            stack.enter_context(kept(functools.partial(save_checkpoints, self.runner, [self.run])))
            train(
                self.runner, [self.run], total, display=shown, on_update=hooks.on_update, log_interval=log_interval,
                checkpoint_seconds=checkpoint_seconds, warm=first,
            )  # fmt: skip
        return self

    def _check_budget(self, total_timesteps: int) -> None:
        """Say where a budget is spent before anything is learned, as in scripts that try whether they run."""
        try:
            self.algorithm.check_budget(total_timesteps, self.n_envs)
        except ValueError as error:
            warnings.warn(f"{error} The random phase is played whole.", UserWarning, stacklevel=4)

    def _take_up(self, source: Path | None, ours: bool, reset: bool) -> None:
        """Go on from the checkpoints in `source`, else count anew (`reset`), else go on counting."""
        assert self.runner is not None
        if source is not None:
            run = SeedRun(self.seed, window=self.stats_window_size, checkpoints=source)
            run.identity = resuming.identity(self)
            reason = resuming.restore(self.runner, run, source, ours)
            self.run, self.seed = run, run.seed
            if reason is not None and self.verbose:
                print(f"resumed at step {run.steps:,} in new episodes: {reason}")
        elif reset:
            iterations = self.run.iterations
            self.run = SeedRun(self.seed, window=self.stats_window_size)
            self.run.iterations = iterations
            self.runner.set_training(steps=0, steps_rest=0)
            if isinstance(self.runner, HostRunner):
                self.runner.restart()
        else:
            self.run.start_steps = self.run.steps

    # ------------------------------------------------------------------ acting

    @property
    def acting(self) -> Acting:
        """A copy of the acting parameters: the network and the observation statistics."""
        if self._acting is None:
            if self.runner is None:
                raise ValueError("this model has no parameters yet: pass env=… or load a file.")
            self._acting = self.runner.actings[0]
        return self._acting

    @property
    def policy(self) -> ModelPolicy:
        """The policy frozen as it is now: `predict`, `get_distribution`, `predict_values`, `evaluate_actions`."""
        if self._policy is None or self._policy.acting is not self.acting:
            self._policy = ModelPolicy(self, self.acting, self._stream)
        return self._policy

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        """(action, state) for one observation or a batch; actions are scaled and clipped for the environment.

        `state` is the memory of a recurrent policy, None otherwise; `episode_start` [N] zeroes it. Raises
        ValueError for a wrong shape, a non-finite observation or one outside a discrete space.
        """
        spec, policy = self._known_spec(), self.policy
        return predict(policy, spec, observation, state, episode_start, deterministic, action_masks)

    def _adopt(self, acting: Acting) -> None:
        """Put these acting parameters into the runner."""
        assert self.runner is not None
        learner = self.algorithm.with_acting(self.runner.learners[0], acting)
        self.runner.set_learners([learner], [self.run.iterations])


def _given(
    settings: dict[str, Any], learning_rate: Any, policy_kwargs: dict[str, Any] | None, env: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the settings, those of the environment's normalisation and of `policy_kwargs` included; the network's)."""
    settings |= {} if learning_rate is None else {"learning_rate": learning_rate}
    normalizes = unwrap_vec_normalize(env)
    policy_kwargs_.refuse_two_scales(policy_kwargs, normalizes is not None and normalizes.of_images)
    settings = policy_kwargs_.lifted(settings | {"policy_kwargs": policy_kwargs or {}})
    network = settings.pop("policy_kwargs")
    return (normalizes.settings() if normalizes else {}) | settings, network


def _seed(seed: int | None) -> int:
    whole = whole_seed(seed)
    if whole is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    set_random_seed(whole)  # for environments that draw from the global streams
    return whole
