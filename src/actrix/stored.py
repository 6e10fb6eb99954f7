"""What of a model is kept in files, and its parameters by name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from actrix.algorithms import presets
from actrix.algorithms import settings as settings_
from actrix.core.contract import Acting, Algorithm
from actrix.core.host import own
from actrix.core.types import Spec
from actrix.files import container, memories, modelfile
from actrix.files import kwargs as env_arguments
from actrix.files.export import Exported, export
from actrix.files.spaces import spec_from_json
from actrix.loops.runner import Runner

MODELS: dict[str, Any] = {}
"""The class of each preset's name: `named` fills it."""


def model_class(name: str | None) -> Any:
    """The class for an algorithm's name; SettingError suggests the nearest."""
    if name in MODELS:
        return MODELS[name]
    presets.find_preset(str(name))
    raise AssertionError("unreachable")


def _is_named(cls: type) -> bool:
    """Whether it is the class of one preset, or a user's of it; `Model` itself loads any."""
    return any(base in MODELS.values() for base in cls.__mro__)


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


_NO_OVERRIDE = ("lr_schedule", "clip_range", "observation_space", "action_space", "policy_class")
"""Pickled functions of Stable-Baselines3's files, which scripts replace on loading: a file here has them as numbers."""


@contextlib.contextmanager
def _named(path: Any) -> Iterator[Any]:
    """The path itself, or a temporary one whose bytes go to an open file."""
    if not hasattr(path, "write"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder) / "model.safetensors"
        yield name
        path.write(name.read_bytes())


@contextlib.contextmanager
def _copied(file: Any) -> Iterator[Path]:
    """A temporary file with what an open file holds from where it stands, or at all where it stands at its end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        data = file.read()
        if not data and file.seekable():
            file.seek(0)
            data = file.read()
        path.write_bytes(data)
        yield path


class Stored:
    """The part of a model that writes and reads files."""

    preset_name: ClassVar[str]
    preset: Any
    algorithm: Algorithm
    runner: Runner | None
    spec: Spec | None
    run: Any
    env_id: str | None
    env_kwargs: dict[str, Any] | None
    left_out: tuple[str, ...] = ()
    """Names of the environment's arguments that the file which this model is from could not hold."""
    source: Path | None = None
    """The file that this model is from."""
    near_reference: bool = False
    """Whether that file's training stayed near a reference policy."""
    seed: int
    n_envs: int
    reference: Any
    _acting: Acting | None
    _policy: Any
    _known_spec: Callable[[], Spec]
    _learner_memory: Callable[[], Any]

    @property
    def copies(self) -> int:
        """How many environments: `n_envs`, but games where a row is an agent."""
        return getattr(getattr(self, "_env", None), "copies", self.n_envs)

    _adopt: Callable[[Acting], None]

    @property
    def acting(self) -> Acting:
        """What the policy acts with."""
        raise NotImplementedError

    @property
    def num_timesteps(self) -> int:
        """Environment steps taken so far."""
        raise NotImplementedError

    def save(
        self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> Path | None:
        """Write one model file: parameters, statistics, settings and spaces; data only. Returns where it is.

        `.safetensors` is added to a name that ends neither so nor in `.zip`; `path` may be a binary file to write to.
        Arguments of the environment that a file cannot hold are left out, with a UserWarning, and asked for when the
        file is to make that environment; tuples among them become lists. `exclude` may name `verbose`,
        `stats_window_size` and what is in no model file anyway (a logger, the replay buffer, the environment);
        ValueError for what a file must hold. `include` names what stays of these; ValueError for what no file holds.
        """
        settings = settings_.settings_of(self.algorithm)
        kept = {
            *settings,
            "seed",
            "num_timesteps",
            "n_envs",
            "policy_kwargs",
            "observation_space",
            "action_space",
        }
        include = set(include or ())
        out = set(exclude or ()) - include
        if wrong := sorted(kept & out):
            raise ValueError(f"exclude={wrong}: a model file always holds them.")
        told = {name: getattr(self, name) for name in modelfile.DEFAULTS if name not in out}
        if wrong := sorted(include - kept - set(modelfile.DEFAULTS)):
            raise ValueError(
                f"include={wrong}: a model file holds parameters and settings only; see save_replay_buffer."
            )
        with _named(path) as name:
            written = modelfile.write_model(
                name, self.preset.name, settings, self.acting, self._known_spec(), env_id=self.env_id,
                env_kwargs=env_arguments.writable(self.env_kwargs), seed=self.seed, num_timesteps=self.num_timesteps,
                n_envs=self.copies, reference=self.reference is not None or self.near_reference,
                left_out=sorted({*self.left_out, *env_arguments.left_out(self.env_kwargs)}), told=told,
            )  # fmt: skip
        return None if hasattr(path, "write") else written

    def _replay_memory(self) -> Any:
        """The memory; ValueError where there is none."""
        if self.runner is None:
            raise ValueError("no environment, so no replay memory yet: pass env=…, or call set_env first.")
        if (memory := self._learner_memory()) is None:
            raise ValueError(f"{self.preset.name} has no replay memory.")
        return memory

    def save_replay_buffer(self, path: Any) -> Path | None:
        """Write the replay memory to a file of its own (`.safetensors`), or an open one.

        ValueError for an algorithm without one.
        """
        memory = self._replay_memory()
        with _named(path) as name:
            written = memories.write(name, memory, self.preset.name)
        return None if hasattr(path, "write") else written

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Go on with the memory of a file; new episodes begin, so that none seems to continue one of its own.

        Raises ModelFileError, with what differs, for a memory of another `buffer_size`, `n_envs` or space, ValueError
        for an algorithm without one and for `truncate_last_traj=False`.
        """
        memory = self._replay_memory()
        if not truncate_last_traj:
            raise ValueError("truncate_last_traj=False: the last episode of a file is always closed here.")
        assert self.runner is not None
        learner = self.runner.learners[0]
        with _copied(path) if hasattr(path, "read") else contextlib.nullcontext(path) as name:
            found = memories.read(name, memory)
        self.runner.set_learners([dataclasses.replace(learner, memory=found)], [self.run.iterations])
        self.runner.reseed([self.seed])

    def export(self, path: str | os.PathLike, to: str = "onnx") -> Exported:
        """Write the deterministic policy as a file that runs without actrix: `to` "onnx" or "stablehlo".

        What goes in and out: `actrix.files.export.export`. Raises ExportError, ImportError (ONNX without its packages).
        """
        return export(
            path, to, self.algorithm, self.acting, self._known_spec(), name=self.preset.name, env_id=self.env_id
        )  # fmt: skip

    @_class_only
    def load(
        cls: Any, path: Any, env: Any = None, device: str = "auto", custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False, force_reset: bool = True, *, template: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """A new model from a file (its name, or opened for reading bytes) or a run folder. Nothing in it is executed.

        `custom_objects` are settings in the place of the file's, as `kwargs` are; `env_kwargs` are added to the file's,
        which may lack some (`save`). Training begins new episodes:
        `force_reset=False` is refused.

        `env` may be given to go on training (the optimiser starts anew). A file saved with a network of your own
        needs `template`, a model built with that network. Raises ModelFileError, FileNotFoundError.
        """
        if not force_reset:
            raise ValueError(
                "force_reset=False: a loaded model begins new episodes; resume_from goes on in open ones."
            )
        if print_system_info:
            print(", ".join(f"{name} {version}" for name, version in modelfile.versions().items()))
        kwargs = {k: v for k, v in (custom_objects or {}).items() if k not in _NO_OVERRIDE} | kwargs
        if hasattr(path, "read"):
            with _copied(path) as name:
                return cls.load(name, env, device, template=template, **kwargs)
        header, custom = cls._header(path, template)
        meta, name, settings = header.meta, header.meta["algorithm"], header.meta["settings"]
        with container.blaming(header.path, "its settings"):
            maker = cls if _is_named(cls) else model_class(name)
            settings = {k: v for k, v in settings.items() if not (custom and k == "policy_kwargs")}
            if name != presets.COMPOSED:
                settings = settings_.upgraded(presets.find_preset(name).algorithm, settings)
            told = meta.get(modelfile.TOLD, {})
            model = maker("MlpPolicy", seed=meta["seed"], _under=settings, **told)
        with container.blaming(header.path, "its spec"):
            spec = spec_from_json(meta["spec"])
            _check_spaces(model.algorithm, spec)
        if kwargs or device != "auto":
            under = {name: x for name, x in settings.items() if name not in kwargs}
            model = maker(**{"seed": meta["seed"], "device": device, "_under": under} | told | kwargs)
        if custom and template is not None:
            model.algorithm = dataclasses.replace(model.algorithm, network=template.algorithm.network)
        model._take(header, spec, custom, kwargs.get("env_kwargs") or {})
        model.n_envs = kwargs.get("n_envs", meta["n_envs"])
        if env is not None and meta.get("reference") and "reference" not in kwargs:
            raise container.ModelFileError(
                f"{path} was trained near a reference policy, which it does not hold: give reference=model."
            )
        if env is not None:
            model.set_env(env)
        return model

    @classmethod
    def _header(cls, path: Any, template: Any) -> tuple[container.Header, bool]:
        """A file's header, and whether its network is the user's own; ModelFileError where it is not this class's."""
        header = container.read_header(path)
        meta = modelfile.check_model(header)
        name, expected = meta["algorithm"], cls.preset_name
        if _is_named(cls) and name != expected:
            raise container.ModelFileError(
                f"{path} holds {name!r}, not {expected!r}: load it with Model.load."
            )
        custom = meta["settings"]["policy_kwargs"].get("custom", False)
        if custom and template is None:
            raise container.ModelFileError(
                f"{path} was saved with a network of the user's own: load it with template=model."
            )
        return header, custom

    def _take(self, header: container.Header, spec: Spec, custom: bool, env_kwargs: dict[str, Any]) -> None:
        """What a file holds besides the settings, and the environment's arguments that are given with it.

        A `custom` network is built, to have the shapes of its arrays.
        """
        with container.blaming(header.path, "its settings and spec"):
            initial = lambda key: self.algorithm.initial_acting(key, spec)
            shapes = initial(jax.random.key(0)) if custom else modelfile.shapes_of(initial)
        self._acting, self.spec = container.read_tree(header, shapes), spec
        self.source = header.path
        self.near_reference = header.meta["reference"]
        self.env_id, held = header.meta["env_id"], header.meta["env_kwargs"]
        self.env_kwargs = {**(held or {}), **env_kwargs} if held or env_kwargs else held
        self.left_out = tuple(n for n in header.meta.get(modelfile.LEFT_OUT, ()) if n not in env_kwargs)
        self.run.steps = header.meta["num_timesteps"]

    def get_parameters(self) -> dict[str, np.ndarray]:
        """Name → array of every acting parameter."""
        return dict(
            zip(container.leaf_names(self.acting), map(np.asarray, jax.tree.leaves(self.acting)), strict=True)
        )

    def set_parameters(
        self, load_path_or_dict: dict[str, Any] | str | os.PathLike, exact_match: bool = True
    ) -> None:
        """Replace acting parameters by name (a warm start), or by those of a model file of the same algorithm.

        ValueError lists unknown or missing names.
        """
        given = load_path_or_dict
        parameters: dict[str, Any] = (
            given if isinstance(given, dict) else type(self).load(given, template=self).get_parameters()
        )
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
            leaves.append(own(new))
        acting = jax.tree.unflatten(jax.tree.structure(self.acting), leaves)
        self._acting, self._policy = acting, None
        if self.runner is not None:
            self._adopt(acting)


def _check_spaces(algorithm: Algorithm, spec: Spec) -> None:
    """Refuse spaces in which the algorithm cannot act; whether batches fit the environments matters when it learns."""
    try:
        algorithm.check(spec, 1)
    except ValueError as error:
        if "action space" in str(error):
            raise
