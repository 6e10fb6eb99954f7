"""What a run is: everything resolved, from the preset, the tuned settings and the user."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from actrix import zoo
from actrix.algorithms import notices, presets
from actrix.algorithms.answers import present_word
from actrix.algorithms.learn import Composition
from actrix.algorithms.policy_kwargs import POLICIES, named_policy, once
from actrix.algorithms.settings import SettingError, configure, settings_of, sizes_batches, upgraded
from actrix.algorithms.sound import joint
from actrix.core.contract import Algorithm
from actrix.crews import backend_for
from actrix.data.datasets.dataset import Dataset, mix
from actrix.data.datasets.read import load_dataset
from actrix.envs.build import full_id, token_task
from actrix.envs.make import worker_count
from actrix.envs.workers.process import STEP_TIMEOUT
from actrix.files.kwargs import left_out, plain
from actrix.loops.grouping import Grouping, check_grouping


class RunError(RuntimeError):
    """A run folder that is missing, taken, incomplete or does not fit."""


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
    tuned: bool | int = False
    """The settings started from the zoo's entry for this environment; a number from 2 on: from that version of it."""
    dataset: tuple[str, ...] = ()
    """Folders or ids of the data sets trained on, where there is no environment to act in; backend 'offline'."""
    workers: bool | int = False
    """Gymnasium environments in processes: True = one each, or how many; see `make_vec_env`."""
    step_timeout: float = STEP_TIMEOUT
    max_restarts: int = 0
    init: str = ""
    """A run or model file whose policy this one begins with, and stays near where there is a KL; '' = none."""
    actors: int = 0
    """Processes on Ray that collect; see `Grouping`."""
    envs_per_group: int | None = None
    """None: no groups."""
    behind: int | str | None = None
    """None: an ordinary run's 0."""
    learners: int = 1
    """Devices that learn; see `Grouping`."""
    learner_processes: int = 1
    address: str | None = None
    """Of the Ray cluster that actors, learners, or else the seeds' processes, run on; None: this machine."""

    @property
    def spreads(self) -> bool:
        """Whether anything of it can run on a cluster: actors, learners' processes, or those of several seeds."""
        return bool(self.actors) or self.learner_processes > 1 or len(self.seeds) > 1

    @property
    def grouping(self) -> Grouping:
        """Who collects."""
        address = self.address if self.actors or self.learner_processes > 1 else None
        return Grouping(
            self.actors, self.envs_per_group, self.behind, address, self.learners, self.learner_processes,
            self.step_timeout,
        )  # fmt: skip

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
        named = isinstance(base, Composition) and joint(base.critic, base.actor)
        if missing and (base is None or named):
            raise RunError(f"the settings of this run lack {' and '.join(sorted(missing))}.")
        if base is not None:
            return configure(base, upgraded(base, self.settings))
        answers = {name: self.settings[name] for name in ("critic", "actor", "data") if name in self.settings}
        return configure(presets.composed(**answers).algorithm, self.settings)


def resolve(
    algorithm: str | None, env_id: str | None, *, critic: str | None = None, actor: str | None = None,
    data: str | None = None, steps: int | None = None, n_envs: int | None = None, seeds: Sequence[int] | None = None,
    backend: str = "auto", settings: dict[str, Any] | None = None, env_kwargs: dict[str, Any] | None = None,
    policy: str | None = None, recurrent: bool = False, dataset: Sequence[str] = (), workers: bool | int = False,
    step_timeout: float = STEP_TIMEOUT, max_restarts: int = 0, init: str = "", network: dict[str, Any] | None = None,
    actors: int = 0, envs_per_group: int | None = None, behind: int | str | None = None, address: str | None = None,
    learners: int = 1, learner_processes: int = 1, tuned: bool | int = True, file: dict[str, Any] | None = None,
    tell: bool = True,
) -> RunConfig:  # fmt: skip
    """The configuration of a run: preset ← zoo ← `file` ← user. Raises SettingError, UnknownEnvError, EnvError.

    With `dataset` there is no environment to train in: `env_id` (None = the data set's) only evaluates.
    `tuned` False takes the zoo's default entry whatever it has for this environment, a number that version of it.
    `policy` is a name of Stable-Baselines3's; `recurrent` puts an LSTM into it unless policy_kwargs names a cell.
    `init` is a run or model file to begin with, and `network` the `policy_kwargs` of it (`runs.warm`). `tell`: the user
    said all this now, and is warned of what has no effect.
    """
    data = None if data is None else present_word(data)
    preset = _preset(algorithm, critic, actor, data)
    if dataset:
        _check_trained_in_none(n_envs, backend)
        env_id, env_kwargs = _evaluated_in(dataset, env_id, env_kwargs)
        check_offline(preset)
    elif preset.offline:
        raise SettingError(f"{preset.name} learns from a data set: give --dataset PATH.")
    assert env_id is not None
    entry, tuned = zoo.settings(preset.name, env_id := full_id(env_id), tuned)
    answers = {name: x for name, x in (("critic", critic), ("actor", actor), ("data", data)) if x is not None}
    filed, own = _checked(file), _checked(settings)
    run = _of_run(entry, (filed, own), preset, n_timesteps=steps, n_envs=n_envs, policy=policy)
    if recurrent and "Transformer" in run["policy"]:
        raise SettingError(f"--recurrent is an LSTM, and the policy is {run['policy']}: take one of them.")
    cell = {"cell": "lstm"} if recurrent else {}
    tuned_network = cell | named_policy(run["policy"]) | entry.pop("policy_kwargs", {})
    entry["policy_kwargs"] = tuned_network if network is None else _begun(network, init, policy, recurrent)
    configured = _layered(preset, entry, filed, own, answers, tell, bool(dataset))
    total = _whole("steps", run["n_timesteps"], usual_steps(bool(dataset)))
    env_kwargs, count = _plain(env_kwargs), _whole("n_envs", run["n_envs"], preset.n_envs)
    processes: dict[str, Any] = dict(
        workers=workers, step_timeout=step_timeout, max_restarts=max_restarts, address=address, actors=actors,
        envs_per_group=envs_per_group, behind=behind, learners=learners, learner_processes=learner_processes,
    )  # fmt: skip
    config = RunConfig(
        preset.name, env_id, _different(seeds), total, count, backend, settings_of(configured), env_kwargs, tuned,
        tuple(str(Path(path).resolve() if Path(path).exists() else path) for path in dataset), init=init, **processes,
    )  # fmt: skip
    return dataclasses.replace(config, **_placed(config, configured, entry | filed | own | answers))


OFFLINE = "offline"
"""The backend of runs that learn from a data set."""


def usual_steps(offline: bool) -> int:
    """Steps, or updates from a data set, where neither the user nor the zoo says how many."""
    return 100_000 if offline else 1_000_000


def _layered(
    preset: presets.Preset, entry: dict[str, Any], filed: dict[str, Any], own: dict[str, Any], answers: dict[str, str],
    tell: bool, offline: bool,
) -> Algorithm:  # fmt: skip
    """One after the other: the zoo's values for a critic or actor that the user replaces go with it."""
    once(answers, own, "the settings")
    tuned = configure(preset.algorithm, entry)
    algorithm = configure(configure(tuned, filed), own, answers)
    if tell:
        notices.tell(tuned, algorithm, filed | own | answers, offline=offline)
    return algorithm


def _placed(config: RunConfig, algorithm: Algorithm, given: dict[str, Any]) -> dict[str, Any]:
    """Where environments run, who collects and learns, and batches that fit; refuses what makes no sense."""
    workers, grouping = config.workers, config.grouping
    if config.dataset:
        limits = config.max_restarts or config.step_timeout != STEP_TIMEOUT
        if workers or limits or not grouping.ordinary:
            raise SettingError(
                "workers, their limits, actors, groups and learners are of environments: a data set has none."
            )
        check_address(config)
        return {"n_envs": 1, "backend": OFFLINE}
    # The time that a step may take is one of actors, too.
    limit = STEP_TIMEOUT if grouping.actors else config.step_timeout
    worker_count(config.n_envs, workers, limit, config.max_restarts)
    check_address(config)
    grouping.check_shares(config.n_envs)
    backend = backend_for(grouping, config.backend, config.env_id, config.env_kwargs, config.n_envs, workers)
    check_grouping(algorithm, grouping, backend, workers)
    return {"backend": backend, **_grouped(grouping, config.n_envs), **_batched(config, algorithm, given)}


def check_address(config: RunConfig) -> None:
    """Raise SettingError where an address is said and nothing of the run would be there."""
    if config.address is not None and not config.spreads:
        raise SettingError(
            f"address={config.address!r} is of a Ray cluster: give actors, learner processes or several seeds, "
            "that run there."
        )


def _batched(config: RunConfig, algorithm: Algorithm, given: dict[str, Any]) -> dict[str, Any]:
    """Settings whose batches are of whole answers to prompts, as in a model."""
    fits = fitted(algorithm, given, config.env_id, config.n_envs, config.env_kwargs)
    return {} if fits is algorithm else {"settings": settings_of(fits)}


def fitted(
    algorithm: Algorithm,
    given: dict[str, Any],
    env_id: str,
    n_envs: int,
    env_kwargs: dict[str, Any] | None = None,
) -> Algorithm:
    """The same with batches of whole answers, where the environment asks prompts and `given` says no size."""
    if sizes_batches(given):
        return algorithm
    task = token_task(env_id, env_kwargs)
    return algorithm if task is None else algorithm.fitted(task.spec, n_envs)


def _begun(network: dict[str, Any], init: str, policy: str | None, recurrent: bool) -> dict[str, Any]:
    """The network of `init`, which a policy that the user names has to be."""
    kind = lambda cell: "an LSTM" if cell in ("lstm", "gru") else f"a {cell}" if cell else "no memory"
    said = "an LSTM" if recurrent else kind(named_policy(policy or "").get("cell"))
    if (policy or recurrent) and said != kind(network.get("cell")):
        raise SettingError(
            f"--init {init}: its policy has {kind(network.get('cell'))}, and {said} is asked for; a run that begins "
            "with another's policy has its network."
        )
    return network


def _grouped(grouping: Grouping, n_envs: int) -> dict[str, Any]:
    """What a configuration holds of it: all that bears on the result is said, unless it is an ordinary run's."""
    size = n_envs // grouping.groups(n_envs) if grouping else None
    lag = (grouping.behind if grouping.free else grouping.lag) if grouping or grouping.lag else None
    return {"actors": grouping.actors, "envs_per_group": size, "behind": lag}


def _plain(env_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments as `config.json` holds them, tuples as lists: an environment made of it later is the same."""
    if lost := left_out(env_kwargs):
        raise SettingError(
            f"env_kwargs {', '.join(lost)} cannot be written to a run's config.json, which its processes and `resume` "
            "make the environment from: name as the environment module:function, a function that has them."
        )
    return {name: plain(value)[0] for name, value in (env_kwargs or {}).items()}


def _preset(algorithm: str | None, critic: str | None, actor: str | None, data: str | None) -> presets.Preset:
    said = {"critic": critic, "actor": actor, "data": data}
    given = {name: word for name, word in said.items() if word is not None}
    if not given:
        return presets.find_preset("ppo" if algorithm is None else algorithm)
    if algorithm is not None:
        raise SettingError("give either an algorithm's name or --critic, --actor and --data, not both.")
    return presets.composed(**{"critic": "gae", "actor": "ppo-clip"} | given)


def _check_trained_in_none(n_envs: int | None, backend: str) -> None:
    """Raise SettingError for what is said of environments beside a data set."""
    if n_envs not in (None, 1) or backend not in ("auto", OFFLINE):
        said = f"backend={backend!r}" if n_envs in (None, 1) else f"n_envs={n_envs}"
        raise SettingError(f"{said} is of environments that are trained in: a data set has none.")


def _evaluated_in(
    dataset: Sequence[str], env_id: str | None, env_kwargs: dict[str, Any] | None
) -> tuple[str, dict[str, Any] | None]:
    """The environment that evaluates what learns from a data set: the user's, else the data set's, else none."""
    data = load_datasets(dataset)
    if env_id is None and data.env_id:
        return _inert_id(data.env_id), env_kwargs or data.env_kwargs
    return env_id or "", env_kwargs


def _checked(settings: dict[str, Any] | None) -> dict[str, Any]:
    """The user's settings, with values that can be what they are meant to be."""
    own = dict(settings or {})
    if "critic" in own and own["critic"] is None:  # `--set critic=none`
        own["critic"] = "none"
    for key in ("critic", "actor", "data", "policy"):
        if not isinstance(own.get(key) or "", str):
            raise SettingError(f"{key}={own[key]!r} must be a name.")
    if not isinstance(own.get("policy_kwargs") or {}, dict):
        raise SettingError(
            f"policy_kwargs={own['policy_kwargs']!r} must be a dict, e.g. {{'net_arch': [64, 64]}}."
        )
    return own


def _of_run(
    entry: dict[str, Any], own: Sequence[dict[str, Any]], preset: presets.Preset, **given: Any
) -> dict[str, Any]:
    """What is of the run and not of the algorithm: `given`, else the last of the user's settings, else the zoo's; taken
    out."""
    run = {k: entry.pop(k, None) for k in zoo.RUN_KEYS}
    tuned_for = run["policy"]
    for key, argument in given.items():
        once({} if argument is None else {key: argument}, own[-1], "the settings")
        said = [run[key], *(settings.pop(key, None) for settings in own), argument]
        run[key] = next((value for value in reversed(said) if value is not None), None)
    if tuned_for not in (None, run["policy"]):
        entry.pop("policy_kwargs", None)  # they are of the network that is not taken
    run["policy"] = run["policy"] or preset.policy
    if run["policy"] not in POLICIES:
        raise SettingError(f"policy={run['policy']!r}: choose one of {', '.join(POLICIES)}.")
    return run


def _different(seeds: Sequence[int] | None) -> tuple[int, ...]:
    """The seeds, checked; one is drawn where none is given."""
    seeds = tuple(seeds) if seeds else (int(np.random.SeedSequence().generate_state(1)[0]) % 10**6,)
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise SettingError(f"seeds {list(seeds)} must be different whole numbers of at least 0.")
    return seeds


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
