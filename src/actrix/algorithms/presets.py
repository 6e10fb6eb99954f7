"""The named algorithms: each is a composition with its fields filled in. Settings use Stable-Baselines3's names."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from actrix.actors.answers import (
    ACER,
    EPISODE_PSI,
    PGQL,
    PPOKL,
    KroneckerFactored,
    NaturalActor,
    NaturalGradient,
    OffPAC,
    PPOClip,
    ScoreFunction,
    format_actor,
    parse_actor,
)
from actrix.actors.exploration import Greedy
from actrix.actors.pathwise import Deterministic, Soft
from actrix.algorithms import checks
from actrix.algorithms.actor_critic import ActorCritic
from actrix.algorithms.compositions import unsound
from actrix.algorithms.conservative import ConservativeIteration
from actrix.algorithms.online_traces import OnlineTraces
from actrix.algorithms.parallel_q import ParallelQLearning
from actrix.algorithms.pathwise import CriticEnsemble, Pathwise
from actrix.algorithms.q_learning import QLearning
from actrix.algorithms.regression import Regression
from actrix.algorithms.tabular import Tabular
from actrix.algorithms.trust_region import NaturalActorCritic
from actrix.core.schedules import Linear, Tabulated
from actrix.critics.answers import (
    GAE,
    TD,
    Critic,
    ImportanceTD,
    MonteCarlo,
    NStep,
    Retrace,
    VTrace,
    parse_critic,
)
from actrix.data.answers import Lagged, ReplayBuffer, Trajectories, format_data, parse_data
from actrix.nets.networks import ACTIVATIONS, NetworkConfig


class SettingError(ValueError):
    """A setting that is unknown, malformed or refused."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named composition."""

    name: str
    """On the command line."""
    class_name: str
    """In Python."""
    algorithm: Any
    """A frozen dataclass: `ActorCritic`, `QLearning`, `Pathwise`, …"""
    n_envs: int
    """Parallel environments where neither the user nor the zoo says."""
    paper: str
    policy: str = "MlpPolicy"

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        return self.algorithm.answers


_SCORE: dict[str, Any] = dict(n_epochs=1, batch_size=None, normalize_advantage=False)
_NO_CRITIC = Critic("none", MonteCarlo())
_RELU = NetworkConfig(activation_fn="relu", ortho_init=False)
_WIDE = dataclasses.replace(_RELU, pi=(400, 300), vf=(400, 300))
_REPLAY, _OFFLINE = ReplayBuffer(), ReplayBuffer(learning_starts=0)
_TD3 = Pathwise(
    CriticEnsemble(2, actor_q="first"),
    Deterministic(),
    _REPLAY,
    learning_rate=1e-3,
    policy_delay=2,
    network=_WIDE,
)
_RAINBOW = QLearning(
    target="double", actor=Greedy("none"), dueling=True, noisy=True, distributional="c51",
    data=ReplayBuffer(batch_size=32, train_freq=4, n_steps=3, prioritized=True, priority_alpha=0.5,
                      priority_beta=Linear(0.4, 1.0)),
    learning_rate=6.25e-5, target_update_interval=8000, optimizer_eps=1.5e-4,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            "reinforce", "REINFORCE",
            ActorCritic(_NO_CRITIC, ScoreFunction("reward-to-go"), n_steps=None, learning_rate=2e-3,
                        **_SCORE | {"normalize_advantage": True}),
            8, "Williams 1992",
        ),
        Preset(
            "vpg", "VPG",
            ActorCritic(Critic("v", GAE(0.97)), ScoreFunction("advantage"), n_steps=512, learning_rate=3e-3,
                        n_critic_updates=40, critic_learning_rate=1e-3, vf_coef=0.0,
                        **_SCORE | {"normalize_advantage": True}),
            8, "Sutton et al. 1999; Schulman et al. 2016",
        ),
        Preset(
            "qac", "QAC",
            ActorCritic(Critic("q", TD()), ScoreFunction("q"), n_steps=32, learning_rate=5e-4,
                        n_critic_updates=10, **_SCORE),
            16, "Sutton et al. 1999; Konda & Tsitsiklis 2000",
        ),
        Preset(
            "tdac", "TDAC",
            ActorCritic(Critic("v", TD()), ScoreFunction("td-error"), n_steps=8, learning_rate=1e-3, **_SCORE),
            16, "Barto, Sutton & Anderson 1983; Konda & Tsitsiklis 2000",
        ),
        Preset(
            "a2c", "A2C",
            ActorCritic(Critic("v", GAE(1.0)), ScoreFunction("advantage"), n_steps=5, learning_rate=7e-4,
                        optimizer="rmsprop", **_SCORE),
            8, "Mnih et al. 2016",
        ),
        Preset("ppo", "PPO", ActorCritic(Critic("v", GAE(0.95)), PPOClip(0.2)), 8, "Schulman et al. 2017"),
        Preset("ppo-kl", "PPOKL", ActorCritic(Critic("v", GAE(0.95)), PPOKL(0.01)), 8, "Schulman et al. 2017, §4"),
        Preset("trpo", "TRPO", NaturalActorCritic(), 8, "Schulman et al. 2015"),
        Preset("npg", "NPG", NaturalActorCritic(actor=NaturalGradient()), 8, "Kakade 2001; Rajeswaran et al. 2017"),
        Preset("acktr", "ACKTR",
               NaturalActorCritic(Critic("v", GAE(1.0)), KroneckerFactored(), n_steps=20, batch_size=None,
                                  n_critic_updates=5),
               16, "Wu et al. 2017"),
        Preset(
            "off-pac", "OffPAC",
            ActorCritic(Critic("v", ImportanceTD()), OffPAC(), Trajectories(), n_steps=8, learning_rate=7e-4,
                        ent_coef=0.01, **_SCORE),
            8, "Degris et al. 2012",
        ),
        Preset(
            "v-trace", "VTrace",
            ActorCritic(Critic("v", VTrace()), ScoreFunction("advantage"), Lagged(8), n_steps=16,
                        learning_rate=1e-3, ent_coef=0.01, **_SCORE),
            8, "Espeholt et al. 2018",
        ),
        Preset(
            "acer", "ACER",
            ActorCritic(Critic("q", Retrace()), ACER(), Trajectories(), n_steps=16, learning_rate=7e-4,
                        ent_coef=0.01, **_SCORE),
            8, "Wang et al. 2017",
        ),
        Preset(
            "pgql", "PGQL",
            ActorCritic(Critic("v", NStep(16)), PGQL(), Trajectories(), n_steps=16, learning_rate=1e-3,
                        ent_coef=0.01, **_SCORE),
            8, "O'Donoghue et al. 2017",
        ),
        Preset("dqn", "DQN", QLearning(), 1, "Mnih et al. 2015"),
        Preset("c51", "C51", QLearning(distributional="c51"), 1, "Bellemare et al. 2017"),
        Preset("qr-dqn", "QRDQN", QLearning(distributional="qr"), 1, "Dabney et al. 2018a"),
        Preset("iqn", "IQN", QLearning(distributional="iqn", n_quantiles=32), 1, "Dabney et al. 2018b"),
        Preset("rainbow", "Rainbow", _RAINBOW, 1, "Hessel et al. 2018"),
        Preset("pqn", "PQN", ParallelQLearning(), 32, "Gallici et al. 2024"),
        Preset(
            "soft-q", "SoftQ",
            QLearning(target="soft", actor=Greedy("boltzmann", temperature=0.1)), 1,
            "Haarnoja et al. 2017; Schulman et al. 2017a",
        ),
        Preset("ddpg", "DDPG",
               dataclasses.replace(_TD3, critic=CriticEnsemble(1, actor_q="first"), policy_delay=1,
                                   actor=Deterministic(target_policy_noise=0.0)),
               1, "Lillicrap et al. 2016"),
        Preset("td3", "TD3", _TD3, 1, "Fujimoto et al. 2018"),
        Preset("sac", "SAC", Pathwise(network=_RELU), 1, "Haarnoja et al. 2018"),
        Preset("discrete-sac", "DiscreteSAC", Pathwise(discrete=True, network=_RELU), 1, "Christodoulou 2019"),
        Preset("tqc", "TQC", Pathwise(CriticEnsemble(2, 25, 2, "mean"), network=_RELU), 1, "Kuznetsov et al. 2020"),
        Preset("bc", "BC", Regression(critic=None, network=_RELU), 1, "Pomerleau 1991"),
        Preset("cql", "CQL", Pathwise(CriticEnsemble(2), Soft(), _OFFLINE, cql_alpha=5.0, network=_RELU), 1,
               "Kumar et al. 2020"),
        Preset("iql", "IQL", Regression(network=_RELU), 1, "Kostrikov et al. 2022"),
        Preset("td3-bc", "TD3BC",
               dataclasses.replace(_TD3, data=_OFFLINE, bc_alpha=2.5, normalize_obs=True, learning_rate=3e-4,
                                   network=_RELU),
               1, "Fujimoto & Gu 2021"),
        Preset(
            "droq", "DroQ",
            Pathwise(CriticEnsemble(2, actor_q="mean"), data=ReplayBuffer(gradient_steps=20), policy_delay=20,
                     network=dataclasses.replace(_RELU, layer_norm=True, dropout=0.01)),
            1, "Hiraoka et al. 2022",
        ),
        Preset("mc", "MC", Tabular("mc", learning_rate=None), 1, "Sutton & Barto 2018, §5"),
        Preset("td", "TD", Tabular("td", Greedy("none")), 1, "Sutton 1988"),
        Preset("td-lambda", "TDLambda", Tabular("td", Greedy("none"), lam=0.9), 1,
               "Sutton 1988; van Seijen et al. 2016"),
        Preset("sarsa", "SARSA", Tabular("sarsa"), 1, "Rummery & Niranjan 1994"),
        Preset("expected-sarsa", "ExpectedSARSA", Tabular("expected-sarsa"), 1, "van Seijen et al. 2009"),
        Preset("sarsa-lambda", "SARSALambda", Tabular("sarsa", lam=0.9), 1,
               "Rummery & Niranjan 1994; van Seijen et al. 2016"),
        Preset("q-learning", "QLearning", Tabular(), 1, "Watkins & Dayan 1992"),
        Preset("double-q", "DoubleQ", Tabular("double-q"), 1, "van Hasselt 2010"),
        Preset("q-lambda", "QLambda", Tabular(lam=0.9), 1, "Watkins 1989"),
        Preset("tree-backup", "TreeBackup", Tabular("tree-backup", n_steps=4), 1, "Precup et al. 2000"),
        Preset("cpi", "CPI", ConservativeIteration(), 8, "Kakade & Langford 2002"),
        Preset("td-lambda-ac", "TDLambdaAC", OnlineTraces(), 1, "Sutton & Barto 2018, §13.6"),
        Preset(
            "stream-ac", "StreamAC",
            OnlineTraces(learning_rate=1.0, step="bounded", ent_coef=0.01, sparsity=0.9, normalize_obs=True,
                         normalize_reward=True,
                         network=NetworkConfig(activation_fn="leaky_relu", layer_norm=True, pi=(128, 128),
                                               vf=(128, 128))),
            1, "Elsayed et al. 2024",
        ),
    )
}  # fmt: skip
COMPOSABLE = ActorCritic | NaturalActorCritic
"""Algorithms whose critic and actor may be exchanged."""
COMPOSED = "actor-critic"
"""The name of an algorithm composed freely from a critic and an actor."""

UNSUPPORTED = {
    "use_sde": "generalised state-dependent exploration is not offered; leave use_sde out",
    "use_sde_at_warmup": "generalised state-dependent exploration is not offered",
    "sde_sample_freq": "generalised state-dependent exploration is not offered",
    "rollout_buffer_class": "chunks replace rollout buffers; change the estimator with critic=…",
    "rollout_buffer_kwargs": "chunks replace rollout buffers",
    "optimizer_class": "choose optimizer='adam', 'radam', 'rmsprop' or 'sgd'",
    "replay_buffer_class": "choose prioritized=True or n_steps=… instead; hindsight replay is not offered",
    "replay_buffer_kwargs": "choose prioritized=True or n_steps=… instead",
}
_ALIASES = {"rms_prop_eps": "optimizer_eps", "adam_eps": "optimizer_eps", "clip_range_value": "clip_range_vf",
            "per": "prioritized", "n_step": "n_steps"}  # fmt: skip


def composed(critic: str, actor: str, data: str = "on-policy") -> Preset:
    """A free composition such as ('td-lambda:0.9', 'ppo-clip:0.2'); raises SettingError where it is unsound."""
    try:
        parsed, source = parse_critic(critic), parse_data(data)
        answer = parse_actor(actor, parsed.function)
    except ValueError as error:
        raise SettingError(str(error)) from None
    reason = unsound(parsed, answer, data=source)
    if reason:
        raise SettingError(f"critic {critic} × actor {actor}, data {data} is refused: {reason}.")
    whole = parsed.whole_episodes or answer.psi in EPISODE_PSI
    base: Any
    if isinstance(answer, NaturalActor):
        base = NaturalActorCritic(
            parsed, answer, n_steps=None if whole else 256, batch_size=None if whole else 128
        )
    elif answer.ratio:
        base = ActorCritic(parsed, answer, n_steps=None if whole else 256, batch_size=None if whole else 64)
    else:
        base = ActorCritic(parsed, answer, n_steps=None if whole else 16, learning_rate=1e-3, **_SCORE)
    base = dataclasses.replace(
        base, data=source, ent_coef=0.01 if isinstance(answer, PGQL) else base.ent_coef
    )
    return Preset(COMPOSED, "ActorCritic", base, 8, "")


def find_preset(name: str) -> Preset:
    """The preset of that name; SettingError suggests the nearest names."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), PRESETS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(PRESETS)}."
    raise SettingError(f"unknown algorithm {name!r}: {hint}")


# ---------------------------------------------------------------------------- flat settings


def _parts(algorithm: Any) -> dict[tuple[str, ...], Any]:
    """Path → the dataclasses inside an algorithm whose fields are settings too: its three answers."""
    if isinstance(algorithm, COMPOSABLE):
        return {("critic", "estimator"): algorithm.critic.estimator, ("actor",): algorithm.actor,
                ("data",): algorithm.data}  # fmt: skip
    fields = {(f.name,): getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}
    answers = {path: part for path, part in fields.items() if path[0] in ("critic", "actor", "data")}
    return {path: part for path, part in answers.items() if part is not None}


def _own_fields(algorithm: Any) -> list[str]:
    inner = {"critic", "actor", "data", "network"}
    return [f.name for f in dataclasses.fields(algorithm) if f.name not in inner]


def setting_names(algorithm: Any) -> list[str]:
    """All flat names that `configure` accepts for this composition."""
    inner = [f.name for part in _parts(algorithm).values() for f in dataclasses.fields(part)]
    normalize = ["normalize"] if isinstance(algorithm, COMPOSABLE) else []
    return [*_own_fields(algorithm), *inner, "policy_kwargs", *normalize]


def configure(algorithm: Any, settings: Mapping[str, Any]) -> Any:
    """The algorithm with flat settings applied, e.g. {'n_steps': 256, 'gae_lambda': 0.9, 'clip_range': 'lin_0.2'}.

    A name belongs to the algorithm, its critic or its actor. Raises SettingError for an unknown name (with the
    nearest ones), a refused value or an unsound composition.
    """
    values = dict(settings)
    composable = isinstance(algorithm, COMPOSABLE)
    try:
        if composable:
            algorithm = _answers(algorithm, values)
        # Fields of one part are replaced together: some are only sound with each other.
        together: dict[tuple[str, ...], dict[str, Any]] = {}
        for name, value in values.items():
            if name == "n_step" and not isinstance(getattr(algorithm, "data", None), ReplayBuffer):
                raise SettingError(
                    f"n_step={value!r} is the target's n on replayed data; set n_steps, the rows of a chunk, instead."
                )
            name = _ALIASES.get(name, name)
            paths = _paths(algorithm, name)
            for path in paths:
                together.setdefault(path, {})[name] = value if path else _typed(name, value)
            if not paths:
                algorithm = _set(algorithm, name, value)
        for path, changes in together.items():
            changed = dataclasses.replace(_at(algorithm, path), **changes)
            for inner in reversed(range(len(path))):
                changed = dataclasses.replace(_at(algorithm, path[:inner]), **{path[inner]: changed})
            algorithm = changed
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(str(error)) from None
    except TypeError as error:  # it says what could not be compared, not of which setting
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise SettingError(f"a value of the wrong type among {given}: {error}.") from None
    a = algorithm
    reason = unsound(a.critic, a.actor, getattr(a, "n_epochs", None), a.data) if composable else None
    if reason:
        raise SettingError(
            f"critic {a.critic} × actor {format_actor(a.actor)}, data {format_data(a.data)} is refused: {reason}."
        )
    return a


_SPECIAL = (
    "optimize_memory_usage",
    "double",
    "noisy",
    "action_noise",
    "normalize",
    "use_rms_prop",
    "policy_kwargs",
)


def _at(algorithm: Any, path: tuple[str, ...]) -> Any:
    """The part at a path of fields."""
    for step in path:
        algorithm = getattr(algorithm, step)
    return algorithm


def _paths(algorithm: Any, name: str) -> list[tuple[str, ...]]:
    """Where a setting is a mere field: [()] for the algorithm's own, the paths of parts; [] where it takes more."""
    if name in UNSUPPORTED or name in _SPECIAL:
        return []
    if name in _own_fields(algorithm):
        return [()]
    return [
        path for path, part in _parts(algorithm).items() if name in {f.name for f in dataclasses.fields(part)}
    ]


def _answers(algorithm: Any, values: dict[str, Any]) -> Any:
    """The composition with the answers that `values` names; takes them out of it."""
    critic, actor, data = algorithm.critic, algorithm.actor, algorithm.data
    if "critic" in values:
        critic = parse_critic(values.pop("critic"))
    if "actor" in values:
        actor = parse_actor(values.pop("actor"), critic.function)
    if "data" in values:
        data = parse_data(values.pop("data"))
    if isinstance(actor, NaturalActor) != isinstance(algorithm, NaturalActorCritic):
        raise SettingError(
            f"actor {actor.name} learns in another way than {algorithm.actor.name}: name critic and actor alone."
        )
    return dataclasses.replace(algorithm, critic=critic, actor=actor, data=data)


def _set(algorithm: Any, name: str, value: Any) -> Any:
    """The algorithm with a setting that is no mere field of it."""
    if name in UNSUPPORTED:
        if not value or (name, value) == ("sde_sample_freq", -1):
            return algorithm
        raise SettingError(f"{name}: {UNSUPPORTED[name]}.")
    if name == "optimize_memory_usage" and not isinstance(algorithm, COMPOSABLE):
        return algorithm  # observations are stored once in any case
    if name == "target_update_interval" and isinstance(algorithm, Pathwise):
        if value == 1:
            return algorithm
        raise SettingError(
            f"target_update_interval={value!r}: the targets follow every update; choose tau instead."
        )
    switches = ("double", "noisy") if isinstance(algorithm, QLearning) else ("normalize", "use_rms_prop")
    if name in switches and not isinstance(value, bool):
        raise SettingError(f"{name}={value!r} must be True or False.")
    if name == "double" and isinstance(algorithm, QLearning):
        if value and algorithm.target not in ("q-learning", "double"):
            raise SettingError(
                f"double=True: target {algorithm.target!r} takes no maximum that could be split."
            )
        if algorithm.target not in ("q-learning", "double"):
            return algorithm
        return dataclasses.replace(algorithm, target="double" if value else "q-learning")
    if name == "noisy" and isinstance(algorithm, QLearning):  # noisy layers explore instead of ε
        kind = {True: "none", False: "epsilon-greedy"}[bool(value)]
        if algorithm.actor.exploration in ("none", "epsilon-greedy"):
            actor = dataclasses.replace(algorithm.actor, exploration=kind)
            algorithm = dataclasses.replace(algorithm, noisy=False, actor=actor)
        return dataclasses.replace(algorithm, noisy=bool(value))
    if name == "action_noise" and isinstance(algorithm, Pathwise):
        if not isinstance(algorithm.actor, Deterministic):
            if value is None:
                return algorithm
            raise SettingError(
                "action_noise: a soft actor explores by sampling its own policy; leave action_noise out."
            )
        noise = action_noise_settings(value)
        return dataclasses.replace(algorithm, actor=dataclasses.replace(algorithm.actor, **noise))
    if name == "normalize" and isinstance(algorithm, COMPOSABLE):
        return dataclasses.replace(algorithm, normalize_obs=value, normalize_reward=value)
    if name == "use_rms_prop" and isinstance(algorithm, ActorCritic):
        return dataclasses.replace(algorithm, optimizer="rmsprop" if value else "adam")
    if name == "policy_kwargs":
        return dataclasses.replace(algorithm, network=network_config(value or {}, algorithm.network))
    names = setting_names(algorithm)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(names))}."
    raise SettingError(f"unknown setting {name!r} for {' × '.join(algorithm.answers[:2])}: {hint}")


def action_noise_settings(noise: Any) -> dict[str, Any]:
    """`action_noise` as Stable-Baselines3 gives it (None or an object with sigma), or a number, as settings."""
    if noise is None:
        return {"noise_type": "none"}
    if isinstance(noise, int | float) and not isinstance(noise, bool):
        return {"noise_type": "normal", "noise_std": float(noise)}
    # Our own classes have mean and sigma, Stable-Baselines3's objects _mu and _sigma.
    mean = getattr(noise, "mean", getattr(noise, "_mu", None))
    sigma = getattr(noise, "sigma", getattr(noise, "_sigma", None))
    values = None if sigma is None else np.atleast_1d(np.asarray(sigma, float))
    if (
        values is None
        or len(set(values.tolist())) != 1
        or (mean is not None and np.any(np.asarray(mean) != 0))
    ):
        raise SettingError(
            f"action_noise={noise!r}: give a standard deviation, NormalActionNoise or OrnsteinUhlenbeckActionNoise "
            "with mean 0 and one sigma for all dimensions."
        )
    kind = "ornstein-uhlenbeck" if "Ornstein" in type(noise).__name__ else "normal"
    return {"noise_type": kind, "noise_std": float(values[0])}


_WHOLE = (*checks.WHOLE, "n_critic_updates", "sub_sampling_factor")


def _typed(name: str, value: Any) -> Any:
    if name in _WHOLE and value is not None:
        if isinstance(value, bool | str) or not float(value).is_integer():
            raise SettingError(f"{name}={value!r} must be a whole number.")
        return int(value)
    return value


_ACTIVATION_NAMES = {id(f): n for n, f in ACTIVATIONS.items()} | {id(jnp.tanh): "tanh"}


def network_config(kwargs: Mapping[str, Any], base: NetworkConfig = NetworkConfig()) -> NetworkConfig:
    """`policy_kwargs` → `NetworkConfig`; SettingError names an unknown key."""
    kwargs = dict(kwargs)
    changes: dict[str, Any] = {}
    if "net_arch" in kwargs:
        arch = kwargs.pop("net_arch")
        both = arch if isinstance(arch, Mapping) else {"pi": arch, "vf": arch}
        both = {"vf" if key == "qf" else key: widths for key, widths in both.items()}
        if set(both) - {"pi", "vf"}:
            raise SettingError(
                f"net_arch has keys {sorted(both)}; expected a list, or a dict with 'pi' and 'vf' (or 'qf')."
            )
        try:
            changes |= {k: tuple(int(n) for n in both.get(k, ())) for k in ("pi", "vf")}
        except (TypeError, ValueError):
            raise SettingError(
                f"net_arch={arch!r}: expected widths, e.g. [64, 64] or dict(pi=[64], vf=[64])."
            ) from None
    if "activation_fn" in kwargs:
        changes["activation_fn"] = _activation(kwargs.pop("activation_fn"))
    if "lstm_hidden_size" in kwargs:
        changes["hidden_size"] = int(kwargs.pop("lstm_hidden_size"))
    if "features_extractor_kwargs" in kwargs:
        changes["features_extractor_kwargs"] = tuple(sorted(kwargs.pop("features_extractor_kwargs").items()))
    known = {f.name for f in dataclasses.fields(NetworkConfig)}
    for name, value in kwargs.items():
        if name in UNSUPPORTED:
            raise SettingError(f"policy_kwargs {name}: {UNSUPPORTED[name]}.")
        if name not in known:
            raise SettingError(
                f"policy_kwargs has no {name!r}; there are net_arch, {', '.join(sorted(known))}."
            )
        changes[name] = tuple(value) if name in ("pi", "vf") and value is not None else value
    if changes.get("cell") not in (None, "lstm", "gru"):
        raise SettingError(f"policy_kwargs cell={changes['cell']!r}: choose 'lstm' or 'gru'.")
    return dataclasses.replace(base, **changes)


def _activation(value: Any) -> Any:
    if isinstance(value, (str, type)):
        name = (value if isinstance(value, str) else value.__name__).lower().removeprefix("nn.")
        if name not in ACTIVATIONS:
            raise SettingError(f"activation_fn={value!r}: choose one of {', '.join(ACTIVATIONS)}.")
        return name
    return _ACTIVATION_NAMES.get(id(value), value)


def settings_of(algorithm: Any) -> dict[str, Any]:
    """The flat, JSON-ready settings that `configure` turns back into this algorithm."""
    out: dict[str, Any] = {name: getattr(algorithm, name) for name in _own_fields(algorithm)}
    if isinstance(algorithm, COMPOSABLE):
        out |= {"critic": str(algorithm.critic), "actor": format_actor(algorithm.actor),
                "data": format_data(algorithm.data)}  # fmt: skip
    else:
        for part in _parts(algorithm).values():
            out |= {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    out = {name: str(x) if isinstance(x, Linear | Tabulated) else x for name, x in out.items()}
    network = {
        f.name: list(v) if isinstance(v, tuple) else v
        for f in dataclasses.fields(NetworkConfig)
        if (v := getattr(algorithm.network, f.name)) != f.default
    }
    if algorithm.network.custom:
        network = {"custom": True}
    out["policy_kwargs"] = network
    return out


def parse_value(text: str) -> Any:
    """'256' → 256, 'None' → None, '1e-3' → 0.001, 'lin_2.5e-4' → itself: one value of `--set key=value`."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None, "null": None}.get(text.lower(), text)
