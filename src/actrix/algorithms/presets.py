"""The named algorithms: each is nothing but its words, three answers and settings. `compose` reads words."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from actrix.actors.greedy import Greedy
from actrix.algorithms.answers import parse_actor, parse_critic, parse_data, present_word
from actrix.algorithms.conservative import ConservativeIteration
from actrix.algorithms.learn import Composition
from actrix.algorithms.online_traces import OnlineTraces
from actrix.algorithms.policy_kwargs import SettingError, network_settings
from actrix.algorithms.settings import configure, own_fields
from actrix.algorithms.sound import joint, unsound
from actrix.algorithms.tabular import Tabular
from actrix.algorithms.usual import bare, describe, usual
from actrix.core import words
from actrix.core.answers import Actor, Critic
from actrix.core.contract import Algorithm
from actrix.core.schedules import Linear, Tabulated
from actrix.nets.networks import NetworkConfig

COMPOSED = "actor-critic"
"""The name of an algorithm composed freely from a critic and an actor."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named composition."""

    name: str
    """On the command line."""
    class_name: str
    """In Python."""
    algorithm: Algorithm
    n_envs: int
    """Parallel environments where neither the user nor the zoo says."""
    paper: str
    policy: str = "MlpPolicy"

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        return self.algorithm.answers

    @property
    def offline(self) -> bool:
        """It learns from a data set only."""
        return isinstance(self.algorithm, Composition) and self.algorithm.data.facts.fixed


# ---------------------------------------------------------------------------- words


def compose(
    critic: str, actor: str, data: str = "on-policy", settings: Mapping[str, Any] = {}
) -> Composition:
    """The algorithm that three words and settings name; raises SettingError where they are wrong or unsound."""
    data = present_word(data)
    try:
        c, d = parse_critic(critic), parse_data(data)
        left_out = bare(c, parse_actor(actor).settle(c), d)
        # What the words say stands: the rest is what such compositions usually take.
        c, d = parse_critic(critic, left_out[0]), parse_data(data, left_out[2])
        a = parse_actor(actor, left_out[1]).settle(c)
    except ValueError as error:
        raise SettingError(str(error)) from None
    if reason := unsound(c, a, d):
        raise SettingError(f"{describe(c, a, d)} is refused: {reason}.")
    fit = words.with_those_it_has((a.fit or c.fit)(), usual(c, a, d))
    return configure(Composition(c, a, d, fit, network=_usual_network(c, a)), settings)


_RELU = NetworkConfig(activation_fn="relu", ortho_init=False)


def _usual_network(critic: Critic, actor: Actor) -> NetworkConfig:
    return NetworkConfig() if joint(critic, actor) else _RELU


def usual_envs(algorithm: Composition) -> int:
    """Parallel environments of a composition without a name."""
    return 1 if algorithm.data.facts.transitions else 8


def words_of(algorithm: Algorithm) -> dict[str, Any] | None:
    """{'critic', 'actor', 'data': words, 'settings': what else differs from what these words alone resolve to}.

    None for the methods whose update is a row, which are no compositions.
    """
    if not isinstance(algorithm, Composition):
        return None
    critic, actor, data = algorithm.answers
    settings = _besides(algorithm, compose(critic, actor, data))
    return {"critic": critic, "actor": actor, "data": data, "settings": settings}


def _besides(algorithm: Composition, base: Composition) -> dict[str, Any]:
    """What is of none of the answers and differs from `base`, as flat settings."""
    held, others = (
        {f.name: getattr(x.fit, f.name) for f in dataclasses.fields(x.fit)} for x in (algorithm, base)
    )
    for name in own_fields(algorithm):
        held[name], others[name] = getattr(algorithm, name), getattr(base, name)
    settings = {name: x for name, x in held.items() if x != others[name]}
    settings = {name: str(x) if isinstance(x, Linear | Tabulated) else x for name, x in settings.items()}
    network = network_settings(algorithm.network, base.network)
    return settings | ({"policy_kwargs": network} if network else {})


def composed(critic: str, actor: str, data: str = "on-policy") -> Preset:
    """A free composition such as ('td-lambda:0.9', 'ppo-clip:0.2'); raises SettingError where it is unsound."""
    algorithm = compose(critic, actor, data)
    return Preset(COMPOSED, "ActorCritic", algorithm, usual_envs(algorithm), "")


def find_preset(name: str) -> Preset:
    """The preset of that name; SettingError suggests the nearest names."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), PRESETS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(PRESETS)}."
    raise SettingError(f"unknown algorithm {name!r}: {hint}")


# ---------------------------------------------------------------------------- the presets


def _p(
    name: str, class_name: str, critic: str, actor: str, data: str, n_envs: int, paper: str, **settings: Any
):
    return Preset(name, class_name, compose(critic, actor, data, settings), n_envs, paper)


_WIDE: dict[str, Any] = {"net_arch": [400, 300]}
_TD3: dict[str, Any] = dict(learning_rate=1e-3, policy_delay=2, delay_targets=True, policy_kwargs=_WIDE)
_PQN: dict[str, Any] = {"layer_norm": True, "net_arch": [128, 128]}
_RAINBOW: dict[str, Any] = dict(
    batch_size=32, train_freq=4, priority_alpha=0.5, priority_beta="lin_0.4_1.0", learning_rate=6.25e-5,
    target_update_interval=8000, optimizer_eps=1.5e-4,
)  # fmt: skip
_NORM: dict[str, Any] = dict(normalize_advantage=True)
_ANSWERS: dict[str, Any] = dict(
    gamma=1.0, n_steps=None, n_epochs=1, batch_size=None, learning_rate=1e-3, normalize_advantage=False
)
"""Of prompts and answers: rewards come at the end, undiscounted, and each answer is learned from once."""
_BATCHES: dict[str, Any] = dict(batch_size=256)

PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        _p("reinforce", "REINFORCE", "none", "score:reward-to-go", "on-policy", 8, "Williams 1992",
           learning_rate=2e-3, **_NORM),
        _p("vpg", "VPG", "gae:0.97", "score", "on-policy", 8, "Sutton et al. 1999; Schulman et al. 2016",
           n_steps=512, learning_rate=3e-3, n_critic_updates=40, critic_learning_rate=1e-3, vf_coef=0.0, **_NORM),
        _p("qac", "QAC", "q-td", "score:q", "on-policy", 16, "Sutton et al. 1999; Konda & Tsitsiklis 2000",
           n_steps=32, learning_rate=5e-4, n_critic_updates=10),
        _p("tdac", "TDAC", "td", "score:td-error", "on-policy", 16,
           "Barto, Sutton & Anderson 1983; Konda & Tsitsiklis 2000", n_steps=8),
        _p("a2c", "A2C", "gae:1.0", "score", "on-policy", 8, "Mnih et al. 2016",
           n_steps=5, learning_rate=7e-4, optimizer="rmsprop"),
        _p("ppo", "PPO", "gae:0.95", "ppo-clip:0.2", "on-policy", 8, "Schulman et al. 2017", n_steps=2048),
        _p("ppo-kl", "PPOKL", "gae:0.95", "ppo-kl:0.01", "on-policy", 8, "Schulman et al. 2017, §4", n_steps=2048),
        _p("trpo", "TRPO", "gae:0.95", "trpo:0.01", "on-policy", 8, "Schulman et al. 2015", n_steps=2048),
        _p("npg", "NPG", "gae:0.95", "npg:0.01", "on-policy", 8, "Kakade 2001; Rajeswaran et al. 2017",
           n_steps=2048),
        _p("acktr", "ACKTR", "gae:1.0", "acktr:0.001", "on-policy", 16, "Wu et al. 2017",
           n_steps=20, batch_size=None, n_critic_updates=5),
        _p("off-pac", "OffPAC", "td-is:10.0", "off-pac:10.0:td-error", "trajectories:4", 8, "Degris et al. 2012",
           n_steps=8, learning_rate=7e-4, ent_coef=0.01),
        _p("v-trace", "VTrace", "v-trace", "score", "lag:8", 8, "Espeholt et al. 2018", n_steps=16, ent_coef=0.01),
        _p("acer", "ACER", "q-retrace", "acer", "trajectories:4", 8, "Wang et al. 2017",
           n_steps=16, learning_rate=7e-4, ent_coef=0.01),
        _p("impact", "IMPACT", "v-trace", "ppo-clip:0.2", "trajectories:2", 8, "Luo et al. 2020",
           n_steps=64, n_epochs=4, batch_size=128, learning_rate=1e-3, ent_coef=0.01),
        _p("awr", "AWR", "td-lambda:0.95", "weighted:1.0:20.0,normalize_advantage", "trajectories:8", 8,
           "Peng et al. 2019", n_steps=64, n_epochs=4, batch_size=128),
        _p("pgql", "PGQL", "n-step:16", "pgql", "trajectories:4", 8, "O'Donoghue et al. 2017", n_steps=16),
        _p("dqn", "DQN", "q", "epsilon-greedy:0.05", "replay", 1, "Mnih et al. 2015"),
        _p("c51", "C51", "q:c51", "epsilon-greedy:0.05", "replay", 1, "Bellemare et al. 2017"),
        _p("qr-dqn", "QRDQN", "q:qr", "epsilon-greedy:0.05", "replay", 1, "Dabney et al. 2018a"),
        _p("iqn", "IQN", "q:iqn,n_quantiles=32", "epsilon-greedy:0.05", "replay", 1, "Dabney et al. 2018b"),
        _p("rainbow", "Rainbow", "q:double,dueling,noisy,c51", "greedy", "replay:per,n=3", 1, "Hessel et al. 2018",
           **_RAINBOW),
        _p("munchausen-dqn", "MunchausenDQN", "q:munchausen", "epsilon-greedy:0.05", "replay", 1,
           "Vieillard et al. 2020"),
        _p("pqn", "PQN", "q:lam=0.95", "epsilon-greedy:0.05:0.2", "on-policy", 32, "Gallici et al. 2024",
           policy_kwargs=_PQN | {"ortho_init": True}),
        _p("soft-q", "SoftQ", "q:soft=0.1", "boltzmann:0.1", "replay", 1,
           "Haarnoja et al. 2017; Schulman et al. 2017a"),
        _p("ddpg", "DDPG", "ensemble:1:actor_q=first", "deterministic", "replay", 1, "Lillicrap et al. 2016",
           target_policy_noise=0.0, **_TD3 | {"policy_delay": 1, "delay_targets": False}),
        _p("td3", "TD3", "ensemble:2:actor_q=first", "deterministic", "replay", 1, "Fujimoto et al. 2018", **_TD3),
        _p("sac", "SAC", "ensemble:2", "soft", "replay", 1, "Haarnoja et al. 2018"),
        _p("discrete-sac", "DiscreteSAC", "ensemble:2", "soft:discrete", "replay", 1, "Christodoulou 2019"),
        _p("tqc", "TQC", "ensemble:2:quantiles=25,actor_q=mean", "soft", "replay", 1, "Kuznetsov et al. 2020"),
        _p("d4pg", "D4PG", "ensemble:1:c51", "deterministic:0.3", "replay:per,n=5", 1, "Barth-Maron et al. 2018",
           target_policy_noise=0.0, learning_rate=1e-4, policy_kwargs=_WIDE),
        _p("redq", "REDQ", "ensemble:10:subset=2,actor_q=mean", "soft", "replay:gradient_steps=20", 1,
           "Chen et al. 2021", policy_delay=20),
        _p("crossq", "CrossQ", "crossq:2", "soft", "replay", 1, "Bhatt et al. 2024",
           learning_rate=1e-3, policy_delay=3, optimizer_beta1=0.5),
        _p("awac", "AWAC", "ensemble:2", "weighted:1.0", "replay", 1, "Nair et al. 2020"),
        _p("bc", "BC", "none", "cloning", "fixed", 1, "Pomerleau 1991"),
        _p("cql", "CQL", "conservative:5.0", "soft", "fixed", 1, "Kumar et al. 2020"),
        _p("iql", "IQL", "expectile:0.7", "weighted:3.0", "fixed", 1, "Kostrikov et al. 2022"),
        _p("td3-bc", "TD3BC", "ensemble:2:actor_q=first", "deterministic", "fixed", 1, "Fujimoto & Gu 2021",
           bc_alpha=2.5, normalize_obs=True, policy_delay=2, delay_targets=True),
        _p("droq", "DroQ", "ensemble:2:actor_q=mean", "soft", "replay:gradient_steps=20", 1, "Hiraoka et al. 2022",
           policy_delay=20, policy_kwargs={"layer_norm": True, "dropout": 0.01}),
        _p("sft", "SFT", "none", "score:one", "shown", 64, "supervised fine-tuning", learning_rate=1e-3),
        _p("grpo", "GRPO", "none", "ppo-clip:0.2:group-std", "on-policy", 64, "Shao et al. 2024",
           aggregate="sequence", ref_kl_coef=0.04, ref_kl_in="loss", ref_kl_by="k3", **_ANSWERS),
        _p("dr-grpo", "DrGRPO", "none", "ppo-clip:0.2:group", "on-policy", 64, "Liu et al. 2025",
           aggregate="constant", **_ANSWERS),
        _p("rloo", "RLOO", "none", "score:leave-one-out", "on-policy", 64, "Ahmadian et al. 2024",
           aggregate="constant", ref_kl_coef=0.03, **_ANSWERS),
        _p("gpg", "GPG", "none", "score:gpg", "on-policy", 64, "Chu et al. 2025", **_ANSWERS),
        _p("gspo", "GSPO", "none", "ppo-clip:0.0003:group-std", "on-policy", 64, "Zheng et al. 2025",
           aggregate="sequence", ratio="sequence", clip_range_high=0.0004, **_ANSWERS | _BATCHES),
        _p("dapo", "DAPO", "none", "ppo-clip:0.2:group-std,dynamic=true", "on-policy", 64, "Yu et al. 2025",
           clip_range_high=0.28, **_ANSWERS | _BATCHES),
        _p("rlhf-ppo", "RLHFPPO", "gae:0.95", "ppo-clip:0.2", "on-policy:whole", 64,
           "Ziegler et al. 2019; Ouyang et al. 2022",
           ref_kl_coef=0.02, clip_range_vf=0.2, **_ANSWERS | _BATCHES | {"n_epochs": 4, "normalize_advantage": True}),
        Preset("mc", "MC", Tabular("mc", learning_rate=None), 1, "Sutton & Barto 2018, §5"),
        Preset("td", "TD", Tabular("td", Greedy()), 1, "Sutton 1988"),
        Preset("td-lambda", "TDLambda", Tabular("td", Greedy(), lam=0.9), 1,
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
