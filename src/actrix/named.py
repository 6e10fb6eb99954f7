"""The named classes, `PPO`, `SAC`, …: one of each preset, made here. Editors and mypy read them in `named.pyi`, which
`docs/gen_stub.py` writes: there each constructor has its algorithm's settings.
"""

from __future__ import annotations

from typing import Any

from actrix.algorithms.presets import COMPOSED, PRESETS, Preset, composed
from actrix.model import Model

SAYS = {
    "reinforce": "Monte Carlo policy gradient on whole episodes (Williams 1992).",
    "vpg": "Vanilla policy gradient: GAE, one policy step per chunk, many critic steps (Schulman et al. 2016).",
    "qac": "Q actor-critic: the score weighted by a learned Q(s, a) (Sutton et al. 1999).",
    "tdac": "One-step actor-critic: the score weighted by the TD error (Barto, Sutton & Anderson 1983).",
    "a2c": "Synchronous advantage actor-critic (Mnih et al. 2016).",
    "ppo": "Proximal policy optimisation with the clipped surrogate (Schulman et al. 2017).",
    "ppo-kl": "PPO with an adaptive KL penalty (Schulman et al. 2017, §4).",
    "trpo": "Trust region policy optimisation: natural gradient and line search (Schulman et al. 2015).",
    "npg": "Natural policy gradient with a step bounded by the KL (Kakade 2001; Rajeswaran et al. 2017).",
    "acktr": "Natural gradient with a Kronecker-factored Fisher matrix (Wu et al. 2017).",
    "off-pac": "Off-policy actor-critic with a ratio-corrected TD critic on replayed data (Degris et al. 2012).",
    "v-trace": "Actor-critic corrected by V-trace for a behaviour policy some updates old (Espeholt et al. 2018).",
    "acer": "Actor-critic with replay, Retrace, truncated ratios and a trust region (Wang et al. 2017).",
    "impact": "V-trace with the clipped surrogate, on fresh and replayed trajectories (Luo et al. 2020).",
    "awr": "Advantage-weighted regression on replayed trajectories (Peng et al. 2019).",
    "pgql": "Policy gradient and Q-learning of one network (O'Donoghue et al. 2017).",
    "dqn": "Deep Q-learning with a target network and replay (Mnih et al. 2015).",
    "c51": "Categorical distributional Q-learning (Bellemare et al. 2017).",
    "qr-dqn": "Quantile-regression Q-learning (Dabney et al. 2018a).",
    "iqn": "Implicit quantile networks (Dabney et al. 2018b).",
    "rainbow": "Double, dueling, prioritised, 3-step, categorical, noisy Q-learning (Hessel et al. 2018).",
    "munchausen-dqn": "DQN with soft values and the log-policy in the reward (Vieillard et al. 2020).",
    "pqn": "Parallel Q-learning with λ-returns and layer norm, without a replay memory (Gallici et al. 2024).",
    "soft-q": "Soft Q-learning with a Boltzmann policy (Haarnoja et al. 2017).",
    "ddpg": "Deep deterministic policy gradient (Lillicrap et al. 2016).",
    "td3": "Twin delayed DDPG (Fujimoto et al. 2018).",
    "sac": "Soft actor-critic with an adapted temperature (Haarnoja et al. 2018).",
    "discrete-sac": "Soft actor-critic for discrete actions with exact expectations (Christodoulou 2019).",
    "tqc": "Truncated quantile critics (Kuznetsov et al. 2020).",
    "d4pg": "DDPG with a categorical critic, n-step targets and prioritised replay (Barth-Maron et al. 2018).",
    "redq": "SAC with ten critics, a random two in each target and twenty updates a step (Chen et al. 2021).",
    "crossq": "SAC with batch normalisation and no target networks (Bhatt et al. 2024).",
    "awac": "Advantage-weighted regression with critics Q(s, a), from replayed or given data (Nair et al. 2020).",
    "bc": "Behaviour cloning of a data set's actions (Pomerleau 1991).",
    "cql": "Conservative Q-learning: SAC whose critics are held down outside the data (Kumar et al. 2020).",
    "iql": "Implicit Q-learning: expectile values, advantage-weighted cloning (Kostrikov et al. 2022).",
    "td3-bc": "TD3 with a behaviour-cloning term for fixed data (Fujimoto & Gu 2021).",
    "droq": "SAC with dropout and layer norm in the critics and 20 updates per step (Hiraoka et al. 2022).",
    "sft": "Supervised start: the likelihood of answers that the environment shows (score function with ψ = 1).",
    "grpo": "Group-relative policy optimisation: a group's mean and deviation as the critic (Shao et al. 2024).",
    "dr-grpo": "GRPO without the group's deviation and without lengths in the average (Liu et al. 2025).",
    "rloo": "REINFORCE with the other answers' mean as the baseline (Ahmadian et al. 2024).",
    "gpg": "Group policy gradient, corrected for groups that are all right or all wrong (Chu et al. 2025).",
    "gspo": "GRPO with one ratio for each answer (Zheng et al. 2025).",
    "dapo": "GRPO with a wider clip above, averages over tokens, and no groups without variance (Yu et al. 2025).",
    "rlhf-ppo": "PPO of answers with a KL to a reference policy in the reward (Ouyang et al. 2022).",
    "mc": "Monte Carlo control on a table, first- or every-visit, on-policy or importance-sampled; or prediction.",
    "td": "TD(0) and n-step TD: a table of V of a given policy, `reference` or the uniform one (Sutton 1988).",
    "td-lambda": "TD(λ) on a table; accumulating, replacing or dutch traces (Sutton 1988; van Seijen et al. 2016).",
    "sarsa": "SARSA on a table, one step or n (Rummery & Niranjan 1994).",
    "expected-sarsa": "Expected SARSA on a table, one step or n (van Seijen et al. 2009).",
    "sarsa-lambda": "SARSA(λ) on a table, with any trace (Rummery & Niranjan 1994; van Seijen et al. 2016).",
    "q-learning": "Q-learning on a table (Watkins & Dayan 1992); `DQN` has the network.",
    "double-q": "Double Q-learning with two tables (van Hasselt 2010).",
    "q-lambda": "Watkins's Q(λ) on a table (Watkins 1989).",
    "tree-backup": "n-step tree backup of the greedy policy on a table (Precup et al. 2000).",
    "cpi": "Conservative policy iteration on a table (Kakade & Langford 2002).",
    "td-lambda-ac": "Online actor-critic with eligibility traces, one step at a time (Sutton & Barto 2018, §13.6).",
    "stream-ac": "Online actor-critic with bounded, normalised steps and sparse initialisation (Elsayed et al. 2024).",
}
"""What each is, in a line: the class's docstring."""


def named(preset: Preset) -> type[Model]:
    """The class of a preset."""
    body = {"__doc__": SAYS[preset.name], "__module__": __name__, "preset_name": preset.name}
    return type(preset.class_name, (Model,), body)


globals().update({preset.class_name: named(preset) for preset in PRESETS.values()})


class ActorCritic(Model):
    """A free composition: `ActorCritic("MlpPolicy", env, critic="td-lambda:0.9", actor="ppo-clip:0.2")`."""

    preset_name = COMPOSED

    @classmethod
    def _find_preset(cls, settings: dict[str, Any]) -> Preset:
        usual = {"critic": "gae", "actor": "ppo-clip", "data": "on-policy"}
        return composed(*(settings.get(name, word) for name, word in usual.items()))


__all__ = ["ActorCritic", *sorted(preset.class_name for preset in PRESETS.values())]
