"""The user's object: `PPO("MlpPolicy", env).learn(100_000).save("ppo")`, in Stable-Baselines3's vocabulary."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from actrix.algorithms import presets
from actrix.algorithms import settings as settings_
from actrix.callbacks import BaseCallback, as_callback
from actrix.core import spaces
from actrix.core.contract import Acting
from actrix.core.types import Spec
from actrix.data.offline import Dataset, check_spaces, load_dataset
from actrix.envs.base import HostEnv, JaxEnv
from actrix.envs.make import as_host_env, choose_backend, training_env
from actrix.run import checkpoint, modelfile
from actrix.run.compiled import CompiledRunner
from actrix.run.display import Display
from actrix.run.evaluate import Policy, Stream, check_same_spaces, evaluate
from actrix.run.export import Exported, export
from actrix.run.host import HostRunner
from actrix.run.lock import RunLock
from actrix.run.log import Logger
from actrix.run.offline import OfflineRunner
from actrix.run.stepping import host_runner
from actrix.run.train import SeedRun, load_checkpoints, save_checkpoints, train

POLICIES = (
    "MlpPolicy",
    "CnnPolicy",
    "MultiInputPolicy",
    "MlpLstmPolicy",
    "CnnLstmPolicy",
    "MultiInputLstmPolicy",
)


class _class_only(classmethod):
    """`PPO.load(path)` works; `model.load(path)` fails with the fix instead of leaving `model` unchanged."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is not None:
            name = type(instance).__name__

            def refuse(*args: Any, **kwargs: Any) -> None:
                raise TypeError(
                    f"load builds a new model and would leave this one unchanged: write model = {name}.load(...)."
                )

            return refuse
        return super().__get__(None, owner)


class Model:
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
        dataset: a folder or id of a Minari data set, or a `Dataset`, to learn from instead of an environment
            (`learn` then counts gradient updates).
        reference: a feed-forward model to stay near (`ref_kl_coef`), with its own observation statistics; None = the
            uniform policy.
        settings: the algorithm's parameters by Stable-Baselines3's names.

    Raises SettingError (unknown or refused settings, with the nearest names), UnsupportedSpaceError,
    UnknownEnvError.
    """

    preset_name: ClassVar[str] = "ppo"

    def __init__(
        self,
        policy: Any = "MlpPolicy",
        env: Any = None,
        *,
        n_envs: int = 1,
        backend: str = "auto",
        env_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | os.PathLike | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: str = "auto",
        stats_window_size: int = 100,
        reference: Model | None = None,
        dataset: Any = None,
        **settings: Any,
    ):
        self.preset = self._find_preset(settings)
        self.algorithm = settings_.configure(self.preset.algorithm, settings)
        network = _network(policy, policy_kwargs, self.algorithm.network)
        self.algorithm = dataclasses.replace(self.algorithm, network=network)
        self.seed = _seed(seed)
        self.verbose, self.tensorboard_log, self.stats_window_size = (
            verbose,
            tensorboard_log,
            stats_window_size,
        )
        self.backend, self.env_kwargs, self.n_envs = backend, env_kwargs, n_envs
        self.device = _device(device)
        self.reference = None if reference is None else reference.acting
        self.env: HostEnv | JaxEnv | None = None
        self._given: Any = None  # what `set_env` was given, where that is an object that holds state
        self.env_id: str | None = None
        self.spec: Spec | None = None
        self.runner: Any = None
        self.logger: Logger | Any = _NoLogger()
        self.run = SeedRun(self.seed, window=stats_window_size)
        self._open_steps = self._open_episodes = 0  # of the chunk that is being collected
        self._acting: Acting | None = None
        self._policy: Policy | None = None
        self._stream = Stream()
        if env is not None and dataset is not None:
            raise ValueError("give either an environment to learn in or a data set to learn from.")
        if env is not None:
            self.set_env(env)
        if dataset is not None:
            self.set_dataset(dataset)

    @classmethod
    def _find_preset(cls, settings: dict[str, Any]) -> presets.Preset:
        return presets.find_preset(cls.preset_name)

    # ------------------------------------------------------------------ environment

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Train on another environment with the same spaces; learning starts it anew."""
        given = env
        env, self.env_id = self._resolve(env)
        if self.spec is not None:
            check_same_spaces(self.spec, env)
        spaces.check_observation_space(env.spec.observation_space)
        spaces.check_action_space(env.spec.action_space)
        if isinstance(env, HostEnv):
            self.n_envs = env.num_envs
        self.algorithm.check(env.spec, self.n_envs)
        learner = None if self.runner is None else self.runner.learners[0]
        self.env, self.spec = env, env.spec
        self._given = given if isinstance(given, gym.Env | gym.vector.VectorEnv) else env
        if isinstance(env, HostEnv):
            self.runner = host_runner(self.algorithm, env, self.seed, self.reference)
        else:
            self.runner = CompiledRunner(self.algorithm, env, self.n_envs, [self.seed], self.reference)
        if learner is not None:
            learner = self.algorithm.adopt(learner, self.runner.learners[0])
            self.runner.set_learners([learner], [self.run.iterations])
        elif self._acting is not None:  # from a file: schedules go on where its training was
            self.runner.set_training(steps=self.run.steps)
            self._adopt(self._acting)
        self._policy = None

    def set_dataset(self, dataset: Any) -> None:
        """Learn from a fixed data set: a Minari folder or id, or what `load_dataset` returns. Raises DatasetError."""
        data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset)
        if self.spec is not None:
            check_spaces(data, self.spec)
        self.algorithm.check(data.spec, 1)
        runner = OfflineRunner(self.algorithm, data, [self.seed])
        learner = None if self.runner is None else self.runner.learners[0]
        self.env, self.spec, self.env_id, self.n_envs = None, data.spec, data.env_id, 1
        self.runner = runner
        if learner is not None:
            fresh = runner.learners[0].memory
            runner.set_learners([dataclasses.replace(learner, memory=fresh)], [self.run.iterations])
        elif self._acting is not None:
            self._adopt(self._acting)
        self._policy = None

    def _resolve(self, env: Any) -> tuple[HostEnv | JaxEnv, str | None]:
        if isinstance(env, str):
            backend = choose_backend(self.backend, env, self.env_kwargs, self.n_envs)
            return training_env(env, self.n_envs, self.seed, self.env_kwargs, backend), env
        if isinstance(env, JaxEnv) and not isinstance(env, HostEnv | gym.Env):
            return env, getattr(env, "env_id", None)
        host = as_host_env(
            env, 1 if isinstance(env, gym.Env | gym.vector.VectorEnv) else self.n_envs, self.seed
        )
        return host, getattr(host, "env_id", None)

    def get_env(self) -> Any:
        """The environment trained on."""
        return self.env

    def trains_on(self, env: Any) -> bool:
        """Whether stepping `env` would step the episodes of training (never so in the compiled loop)."""
        base = lambda e: e.unwrapped if isinstance(e, gym.Env | gym.vector.VectorEnv) else e
        return isinstance(self.runner, HostRunner) and any(
            base(env) is base(e) for e in (self.env, self._given)
        )

    @property
    def observation_space(self) -> Any:
        """The observation space of one environment."""
        return self._known_spec().observation_space

    @property
    def action_space(self) -> Any:
        """The action space of one environment."""
        return self._known_spec().action_space

    def _known_spec(self) -> Spec:
        if self.spec is None:
            raise ValueError("this model has no environment yet: pass env=… or call set_env.")
        return self.spec

    @property
    def num_timesteps(self) -> int:
        """Environment steps taken so far."""
        return self.run.steps + self._open_steps

    @property
    def num_episodes(self) -> int:
        """Episodes finished so far."""
        return self.run.episodes + self._open_episodes

    # ------------------------------------------------------------------ learning

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_seconds: float = 60.0,
        resume_from: str | os.PathLike | None = None,
    ) -> Self:
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
        if self.runner is None:
            raise ValueError("no environment: pass env=… when building the model, or call set_env first.")
        if not float(total_timesteps).is_integer() or total_timesteps < 1:
            raise ValueError(f"total_timesteps={total_timesteps} must be a whole number of at least 1.")
        source = None if resume_from is None else Path(resume_from)
        if (
            source is not None and (source / "config.json").exists()
        ):  # a run folder: its own command writes there
            source = source / "checkpoints"
            folder = checkpoint_dir
        else:
            folder = checkpoint_dir if checkpoint_dir is not None else resume_from
        if source is not None and not source.is_dir():
            raise FileNotFoundError(f"{source} is no folder: it has no checkpoint to resume from.")
        with contextlib.ExitStack() as stack:
            if folder is not None:
                self._refuse_taken(Path(folder), source, reset_num_timesteps)
                Path(folder).mkdir(parents=True, exist_ok=True)
                stack.enter_context(RunLock(Path(folder)))
                checkpoint.remove_leftovers(folder)
            first = self.run.iterations == 0 and resume_from is None
            if first and not isinstance(self.runner, OfflineRunner):
                self.algorithm.check_budget(int(total_timesteps), self.n_envs)
            if source is not None:
                self._restore(source, ours=folder is not None and source == Path(folder))
            elif reset_num_timesteps:
                kept = self.run
                self.run = SeedRun(self.seed, window=self.stats_window_size)
                self.run.iterations = kept.iterations
                self._reset_schedule()
                if isinstance(self.runner, HostRunner):
                    self.runner.restart()
            else:
                self.run.start_steps = self.run.steps
            total = int(total_timesteps) + self.run.start_steps
            if reset_num_timesteps or isinstance(self.logger, _NoLogger):
                self.logger.close()
                self.logger = Logger(tensorboard=self._tb_folder(tb_log_name), verbose=self.verbose)
            self.run.logger = self.logger
            self.run.checkpoints = None if folder is None else Path(folder)
            self.run.identity = self._identity()
            hooks = _Hooks(self, as_callback(callback))
            title = f"{type(self).__name__} on {self.env_id or 'your environment'}"
            display = None
            if progress_bar:
                display = stack.enter_context(Display(total, title, start=self.run.steps))
            hooks.start()
            try:
                train(
                    self.runner, [self.run], total, display=display, on_update=hooks.on_update,
                    log_interval=log_interval, checkpoint_seconds=checkpoint_seconds, warm=first,
                )  # fmt: skip
                save_checkpoints(self.runner, [self.run])
            except (KeyboardInterrupt, checkpoint.CheckpointError):
                raise  # the first has saved one, a second Ctrl-C took the state with it; a full disk takes no more
            except BaseException:
                save_checkpoints(self.runner, [self.run])  # the last good state
                raise
            finally:
                self._acting, self._policy = None, None
                hooks.end()
                self.logger.sync()
        return self

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this model."""
        found = {
            "algorithm": self.preset.name, "settings": settings_.settings_of(self.algorithm),
            "spec": modelfile.spec_to_json(self._known_spec()), "n_envs": self.n_envs, "env_id": self.env_id or "",
            "env_kwargs": self.env_kwargs or {}, "env": _env_class(self.env),
        }  # fmt: skip
        return json.loads(json.dumps(found, default=repr))

    def _refuse_taken(self, folder: Path, source: Path | None, reset: bool) -> None:
        """Raise ValueError where a training that does not go on from `folder` would write among its checkpoints."""
        newest = checkpoint.newest_step(folder)
        goes_on = folder == source if source is not None else not reset and self.run.checkpoints == folder
        if newest >= 0 and not goes_on:
            raise ValueError(
                f"{folder} has checkpoints of another training, up to step {newest}: go on from them with "
                f"resume_from={str(folder)!r}, or choose another checkpoint_dir."
            )

    def _restore(self, folder: Path, ours: bool) -> None:
        """Take the newest checkpoint's whole state; in a folder of `ours` damaged ones are set aside."""
        run = SeedRun(self.seed, window=self.stats_window_size, checkpoints=folder, identity=self._identity())

        def check(run: SeedRun, meta: dict[str, Any]) -> None:
            shared = (
                meta["run"].keys() & run.identity.keys()
            )  # a run folder's checkpoint says more of the environment
            old, new = ({name: x[name] for name in shared} for x in (meta["run"], run.identity))
            if changed := checkpoint.differences(old, new):
                raise ValueError(f"the checkpoints in {folder} are of another model: {'; '.join(changed)}.")
            if other := checkpoint.differences(meta["versions"], modelfile.versions()):
                warnings.warn(
                    f"resuming under other versions ({'; '.join(other)}): bits may differ from an uninterrupted run's.",
                    RuntimeWarning,
                    stacklevel=2,
                )

        def damaged(path: Path, error: modelfile.ModelFileError) -> None:
            said = (
                checkpoint.set_aside(path, error) if ours else f"{path} is damaged and passed over: {error}"
            )
            warnings.warn(said, RuntimeWarning, stacklevel=2)

        reason = load_checkpoints(self.runner, [run], check, damaged)
        self.run, self.seed = run, run.seed
        if reason is not None and self.verbose:
            print(f"resumed at step {run.steps:,} in new episodes: {reason}")

    def _reset_schedule(self) -> None:
        self.runner.set_training(steps=0, steps_rest=0)

    def _tb_folder(self, name: str | None) -> Path | None:
        if self.tensorboard_log is None:
            return None
        base, name = Path(self.tensorboard_log), name or type(self).__name__
        used = [
            int(p.name.rsplit("_", 1)[1])
            for p in base.glob(f"{name}_*")
            if p.name.rsplit("_", 1)[1].isdigit()
        ]
        return base / f"{name}_{max(used, default=0) + 1}"

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
    def policy(self) -> Policy:
        """The frozen policy for batches, in policy coordinates."""
        if self._policy is None or self._policy.acting is not self.acting:
            self._policy = Policy(self.algorithm, self.acting, self.seed % 2**31, self._stream)
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
        spec = self._known_spec()
        obs, batched = _batch(spec.observation_space, observation)
        n = len(jax.tree.leaves(obs)[0])
        first = np.zeros(n, bool) if episode_start is None else np.atleast_1d(np.asarray(episode_start, bool))
        if first.shape != (n,):
            raise ValueError(f"episode_start has shape {first.shape}; expected ({n},).")
        memory = self.policy.initial_memory(n)
        if state is not None:
            memory = _check_memory(memory, state)
        mask = None if action_masks is None else np.atleast_2d(np.asarray(action_masks, bool))
        if mask is not None:
            _check_mask(mask, spec, n)
        action, memory = self.policy(obs, memory, first, mask, deterministic)
        action = np.asarray(spaces.to_env_action(spec.action_space, action), spec.action_space.dtype)
        return (action if batched else action[0]), memory

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike) -> Path:
        """Write one model file (`.safetensors`): parameters, statistics, settings and spaces; data only."""
        return write_model(
            path, self.preset.name, self.algorithm, self.acting, self._known_spec(), env_id=self.env_id,
            env_kwargs=self.env_kwargs, seed=self.seed, num_timesteps=self.num_timesteps, n_envs=self.n_envs,
            reference=self.reference is not None,
        )  # fmt: skip

    def export(self, path: str | os.PathLike, to: str = "onnx") -> Exported:
        """Write the deterministic policy as a file that runs without actrix: `to` "onnx" or "stablehlo".

        What goes in and out: `actrix.run.export.export`. Raises ExportError, ImportError (ONNX without its packages).
        """
        return export(
            path, to, self.algorithm, self.acting, self._known_spec(), name=self.preset.name, env_id=self.env_id
        )  # fmt: skip

    @_class_only
    def load(
        cls: Any,
        path: str | os.PathLike,
        env: Any = None,
        template: Model | None = None,
        device: str = "auto",
        **kwargs: Any,
    ) -> Any:
        """A new model from a file or a run folder. Nothing in the file is executed.

        `env` may be given to go on training (the optimiser starts anew). A file saved with a network of your own
        needs `template`, a model built with that network. Raises ModelFileError, FileNotFoundError.
        """
        header = modelfile.read_header(path)
        meta = modelfile.check_model(header)
        name, expected = meta["algorithm"], cls.preset_name
        if cls is not Model and name != expected:
            raise modelfile.ModelFileError(
                f"{path} holds {name!r}, not {expected!r}: load it with Model.load."
            )
        settings = meta["settings"]
        custom = settings["policy_kwargs"].get("custom", False)
        if custom and template is None:
            raise modelfile.ModelFileError(
                f"{path} was saved with a network of the user's own: load it with template=model."
            )
        with modelfile.blaming(header.path, "its settings"):
            maker = cls if cls is not Model else model_class(name)
            settings = {k: v for k, v in settings.items() if not (custom and k == "policy_kwargs")}
            if name != presets.COMPOSED:
                settings = settings_.upgraded(presets.find_preset(name).algorithm, settings)
            model = maker("MlpPolicy", seed=meta["seed"], **settings)
        with modelfile.blaming(header.path, "its spec"):
            spec = modelfile.spec_from_json(meta["spec"])
            _check_spaces(model.algorithm, spec)
        if kwargs or device != "auto":
            model = maker("MlpPolicy", **{"seed": meta["seed"], "device": device} | settings | kwargs)
        if custom and template is not None:
            model.algorithm = dataclasses.replace(model.algorithm, network=template.algorithm.network)
        with modelfile.blaming(header.path, "its settings and spec"):
            initial = lambda key: model.algorithm.initial_acting(key, spec)
            shapes = initial(jax.random.key(0)) if custom else modelfile.shapes_of(initial)
        model._acting, model.spec = modelfile.read_tree(header, shapes), spec
        model.env_id, model.env_kwargs = meta["env_id"], meta["env_kwargs"]
        model.run.steps = meta["num_timesteps"]
        model.n_envs = kwargs.get("n_envs", meta["n_envs"])
        if env is not None:
            if meta.get("reference") and "reference" not in kwargs:
                raise modelfile.ModelFileError(
                    f"{path} was trained near a reference policy, which it does not hold: give reference=model."
                )
            model.set_env(env)
        return model

    def _adopt(self, acting: Acting) -> None:
        """Put these acting parameters into the runner."""
        learner = self.algorithm.with_acting(self.runner.learners[0], acting)
        self.runner.set_learners([learner], [self.run.iterations])

    def get_parameters(self) -> dict[str, np.ndarray]:
        """Name → array of every acting parameter."""
        return dict(
            zip(modelfile.leaf_names(self.acting), map(np.asarray, jax.tree.leaves(self.acting)), strict=True)
        )

    def set_parameters(self, parameters: dict[str, Any], exact_match: bool = True) -> None:
        """Replace acting parameters by name (a warm start); ValueError lists unknown or missing names."""
        current = self.get_parameters()
        wrong = sorted(set(parameters) - set(current)) + (
            sorted(set(current) - set(parameters)) if exact_match else []
        )
        if wrong:
            raise ValueError(f"parameters do not match: {', '.join(wrong)}.")
        leaves = []
        for name, old in current.items():
            new = np.asarray(parameters.get(name, old), old.dtype)
            if new.shape != old.shape:
                raise ValueError(f"parameter {name} has shape {new.shape}, expected {old.shape}.")
            leaves.append(jnp.asarray(new))
        acting = jax.tree.unflatten(jax.tree.structure(self.acting), leaves)
        self._acting, self._policy = acting, None
        if self.runner is not None:
            self._adopt(acting)


class _NoLogger:
    """Before the first `learn`."""

    def record(self, *args: Any, **kwargs: Any) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class _Hooks:
    """Runs a model's callbacks from the training loop."""

    def __init__(self, model: Model, callback: BaseCallback | None):
        self.model, self.callback = model, callback
        self._learner: Any = None

    def start(self) -> None:
        if isinstance(self.model.runner, HostRunner):
            self.model.runner.stopped = False
        if self.callback is None:
            return
        self.callback.init_callback(self.model)
        self.callback.on_training_start({"self": self.model, "model": self.model}, {})
        self.callback.on_rollout_start()
        if isinstance(self.model.runner, HostRunner):
            self.model.runner.on_step = self._on_step

    def _on_step(self, step: Any) -> bool:
        model, callback = self.model, self.callback
        assert callback is not None
        done = (step.terminated | step.truncated) & step.valid
        model._open_steps = model._open_steps + int(np.sum(step.valid))
        model._open_episodes = model._open_episodes + int(np.sum(done))
        if model.runner.learner is not self._learner:  # it was updated since the last step
            self._learner = model.runner.learner
            model._acting, model._policy = None, None
        callback.update_locals({"new_obs": step.obs, "rewards": step.reward, "dones": done})
        return callback.on_step()

    def on_update(self) -> bool:
        model, callback = self.model, self.callback
        model._open_steps = model._open_episodes = 0
        model._acting, model._policy = None, None
        if callback is None:
            return True
        go_on = True
        if not isinstance(model.runner, HostRunner):
            go_on = callback.on_step()
        callback.on_rollout_end()
        if go_on:
            callback.on_rollout_start()
        return go_on

    def end(self) -> None:
        self.model._open_steps = self.model._open_episodes = 0
        if isinstance(self.model.runner, HostRunner):
            self.model.runner.on_step = None
        if self.callback is not None:
            self.callback.on_training_end()


def evaluate_policy(
    model: Model,
    env: Any,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: Any = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
    seed: int | None = None,
) -> Any:
    """(mean, std) of the return over fresh episodes, or (returns, lengths) with `return_episode_rewards`.

    Each environment plays an equal share, so short episodes are not favoured. Statistics stay frozen. `seed` fixes the
    environments and the noise of sampled actions; without it every evaluation of a model has other noise.
    `callback(locals, globals)` runs after every step; `warn` has no effect (no Monitor is needed). Raises
    ValueError where the environment's spaces differ from the model's, AssertionError below `reward_threshold`.
    """
    if render:
        raise ValueError("evaluate_policy does not render: use `actrix watch` or `actrix video`.")
    host = as_host_env(env)
    check_same_spaces(model._known_spec(), host)
    on_step = None if callback is None else lambda: callback({"model": model, "env": host}, {})
    try:
        returns, lengths = evaluate(model.policy, host, n_eval_episodes, deterministic, seed, on_step)
    finally:
        if model.trains_on(env):
            model.runner.restart()  # its open episodes were played on by the evaluation
    if reward_threshold is not None:
        assert np.mean(returns) > reward_threshold, (
            f"mean reward {np.mean(returns):.2f} < {reward_threshold:.2f}"
        )
    if return_episode_rewards:
        return returns.tolist(), lengths.tolist()
    return float(np.mean(returns)), float(np.std(returns))


def _env_class(env: Any) -> list[Any]:
    """The class of the (first) environment under its wrappers, and what it was made with, as far as Gymnasium knows."""
    vector = getattr(env, "envs", env)
    inner = getattr(vector, "envs", None)
    first = inner[0] if isinstance(inner, list | tuple) and inner else vector
    spec = getattr(first, "spec", None)
    kwargs = getattr(spec, "kwargs", None) or {}
    return [
        type(getattr(first, "unwrapped", first)).__qualname__,
        {name: repr(x) for name, x in kwargs.items()},
    ]


def write_model(
    path: str | os.PathLike, name: str, algorithm: Any, acting: Acting, spec: Spec, *,
    env_id: str | None, env_kwargs: dict[str, Any] | None, seed: int, num_timesteps: int, n_envs: int,
    reference: bool = False,
) -> Path:  # fmt: skip
    """One model file for these acting parameters; what `Model.save` and the command line write."""
    meta = {
        "kind": "model", "algorithm": name, "settings": settings_.settings_of(algorithm),
        "spec": modelfile.spec_to_json(spec), "env_id": env_id, "env_kwargs": env_kwargs, "seed": seed,
        "num_timesteps": num_timesteps, "n_envs": n_envs, "reference": reference, "versions": modelfile.versions(),
    }  # fmt: skip
    return modelfile.save(path, meta, acting)


class ActorCritic(Model):
    """A free composition: `ActorCritic("MlpPolicy", env, critic="td-lambda:0.9", actor="ppo-clip:0.2")`."""

    preset_name = presets.COMPOSED

    @classmethod
    def _find_preset(cls, settings: dict[str, Any]) -> presets.Preset:
        answers = (
            settings.pop("critic", "gae"),
            settings.pop("actor", "ppo-clip"),
            settings.pop("data", "on-policy"),
        )
        return presets.composed(*answers)


MODELS: dict[str, type[Model]] = {ActorCritic.preset_name: ActorCritic}
"""The classes by their algorithm's name; `actrix.named` adds those of the presets when the package is imported."""


def model_class(name: str | None) -> type[Model]:
    """The class for an algorithm's name; SettingError suggests the nearest."""
    if name in MODELS:
        return MODELS[name]
    presets.find_preset(str(name))
    raise AssertionError("unreachable")


# ---------------------------------------------------------------------------- small pieces


def _seed(seed: int | None) -> int:
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(seed, bool) or int(seed) != seed or seed < 0:
        raise ValueError(f"seed={seed!r} must be a whole number of at least 0.")
    return int(seed)


def _device(device: str) -> str:
    platform = jax.default_backend()
    if device not in ("auto", platform, {"gpu": "cuda"}.get(platform, platform)):
        raise ValueError(f"device={device!r}: JAX runs on {platform!r} here; use device='auto'.")
    return platform


def _network(policy: Any, policy_kwargs: dict[str, Any] | None, base: Any) -> Any:
    kwargs = dict(policy_kwargs or {})
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise settings_.SettingError(
                f"policy {policy!r} is unknown: choose one of {', '.join(POLICIES)}, or a function."
            )
        if "Lstm" in policy:
            kwargs.setdefault("cell", "lstm")
        if policy.startswith("Cnn"):
            kwargs.setdefault("cnn", True)
    elif callable(policy):
        kwargs["module"] = policy
    else:
        raise settings_.SettingError(
            f"policy must be a name or (spec, key) -> equinox module, not {policy!r}."
        )
    return settings_.network_config(kwargs, base)


def _check_spaces(algorithm: Any, spec: Spec) -> None:
    """Refuse spaces in which the algorithm cannot act; whether batches fit the environments matters when it learns."""
    try:
        algorithm.check(spec, 1)
    except ValueError as error:
        if "action space" in str(error):
            raise


def _batch(space: Any, observation: Any) -> tuple[Any, bool]:
    """(observation with a leading batch axis, whether it had one); ValueError names shape and value problems."""
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(observation, dict) or set(observation) != set(space.spaces):
            got = sorted(observation) if isinstance(observation, dict) else type(observation).__name__
            raise ValueError(f"the observation must be a dict with keys {sorted(space.spaces)}, got {got}.")
        parts = {k: _batch(s, observation[k]) for k, s in space.spaces.items()}
        return {k: p[0] for k, p in parts.items()}, _one_batch([*parts.values()])
    if isinstance(space, gym.spaces.Tuple):
        n = len(space.spaces)
        if not isinstance(observation, tuple | list) or len(observation) != n:
            raise ValueError(f"the observation must be a tuple of {n}, got {type(observation).__name__}.")
        pairs = [_batch(s, o) for s, o in zip(space.spaces, observation, strict=True)]
        return tuple(p[0] for p in pairs), _one_batch(pairs)
    x = np.asarray(observation)
    if np.issubdtype(x.dtype, np.floating):
        with np.errstate(over="ignore"):  # beyond float32 it is infinite, which is refused
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise ValueError(
                f"the observation holds a non-finite number at index {np.argwhere(~np.isfinite(x))[0].tolist()}."
            )
    elif not np.issubdtype(x.dtype, np.integer) and x.dtype != bool:
        raise ValueError(f"the observation has dtype {x.dtype}; expected numbers.")
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        low = np.asarray(space.start)
        high = low + (space.n if isinstance(space, gym.spaces.Discrete) else space.nvec) - 1
        if x.shape[x.ndim - low.ndim :] == low.shape and ((x < low) | (x > high)).any():
            raise ValueError(
                f"the observation is {x.tolist()}; it must lie in {low.tolist()} to {high.tolist()}."
            )
    if x.shape == space.shape:
        return x[None], False
    if x.shape[1:] == space.shape and x.ndim == len(space.shape) + 1:
        return x, True
    raise ValueError(
        f"the observation has shape {x.shape}; expected {space.shape}, or a batch (n, *{space.shape})."
    )


def _check_memory(zero: Any, state: Any) -> Any:
    """`state`, if it is a memory like `zero`; ValueError says what it should be."""
    if zero is None:
        raise ValueError(f"state is {str(state)[:60]}; this policy remembers nothing: it must be None.")
    shapes = lambda tree: [np.shape(x) for x in jax.tree.leaves(tree)]
    if jax.tree.structure(zero) != jax.tree.structure(state) or shapes(zero) != shapes(state):  # type: ignore[operator]
        raise ValueError(
            f"state has parts of shapes {shapes(state)}; expected {shapes(zero)}, as predict returned it "
            "for so many observations."
        )
    return state


def _one_batch(parts: list[tuple[Any, bool]]) -> bool:
    """Whether the parts of an observation are batches; ValueError where their lengths differ."""
    lengths = {(len(jax.tree.leaves(x)[0]), batched) for x, batched in parts}
    if len(lengths) > 1:
        found = ", ".join(f"{n}" if batched else "none" for n, batched in sorted(lengths))
        raise ValueError(f"the parts of the observation have different batch lengths: {found}.")
    return parts[0][1]


def _check_mask(mask: np.ndarray, spec: Spec, n: int) -> None:
    length = spaces.mask_length(spec.action_space)
    if mask.shape != (n, length):
        raise ValueError(f"action_masks has shape {mask.shape}; expected ({n}, {length}).")
    if not mask.any(axis=1).all():
        raise ValueError(f"action_masks forbids every action in row {int(np.argmin(mask.any(axis=1)))}.")
