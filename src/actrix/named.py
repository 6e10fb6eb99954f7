"""The named algorithms: each class names a preset, and its docstring the paper."""

from __future__ import annotations

from typing import Any

from actrix.algorithms import presets
from actrix.model import Model


class REINFORCE(Model):
    """Monte Carlo policy gradient on whole episodes (Williams 1992)."""

    preset_name = "reinforce"


class VPG(Model):
    """Vanilla policy gradient: GAE, one policy step per chunk, many critic steps (Schulman et al. 2016)."""

    preset_name = "vpg"


class QAC(Model):
    """Q actor-critic: the score weighted by a learned Q(s, a) (Sutton et al. 1999)."""

    preset_name = "qac"


class TDAC(Model):
    """One-step actor-critic: the score weighted by the TD error (Barto, Sutton & Anderson 1983)."""

    preset_name = "tdac"


class A2C(Model):
    """Synchronous advantage actor-critic (Mnih et al. 2016)."""

    preset_name = "a2c"


class PPO(Model):
    """Proximal policy optimisation with the clipped surrogate (Schulman et al. 2017)."""

    preset_name = "ppo"


class PPOKL(Model):
    """PPO with an adaptive KL penalty (Schulman et al. 2017, §4)."""

    preset_name = "ppo-kl"


class TRPO(Model):
    """Trust region policy optimisation: natural gradient and line search (Schulman et al. 2015)."""

    preset_name = "trpo"


class NPG(Model):
    """Natural policy gradient with a step bounded by the KL (Kakade 2001; Rajeswaran et al. 2017)."""

    preset_name = "npg"


class ACKTR(Model):
    """Natural gradient with a Kronecker-factored Fisher matrix (Wu et al. 2017)."""

    preset_name = "acktr"


class OffPAC(Model):
    """Off-policy actor-critic with a ratio-corrected TD critic on replayed data (Degris et al. 2012)."""

    preset_name = "off-pac"


class VTrace(Model):
    """Actor-critic corrected by V-trace for a behaviour policy some updates old (Espeholt et al. 2018)."""

    preset_name = "v-trace"


class ACER(Model):
    """Actor-critic with replay, Retrace, truncated ratios and a trust region (Wang et al. 2017)."""

    preset_name = "acer"


class IMPACT(Model):
    """V-trace with the clipped surrogate, on fresh and replayed trajectories (Luo et al. 2020)."""

    preset_name = "impact"


class AWR(Model):
    """Advantage-weighted regression on replayed trajectories (Peng et al. 2019)."""

    preset_name = "awr"


class PGQL(Model):
    """Policy gradient and Q-learning of one network (O'Donoghue et al. 2017)."""

    preset_name = "pgql"


class DQN(Model):
    """Deep Q-learning with a target network and replay (Mnih et al. 2015)."""

    preset_name = "dqn"


class C51(Model):
    """Categorical distributional Q-learning (Bellemare et al. 2017)."""

    preset_name = "c51"


class QRDQN(Model):
    """Quantile-regression Q-learning (Dabney et al. 2018a)."""

    preset_name = "qr-dqn"


class IQN(Model):
    """Implicit quantile networks (Dabney et al. 2018b)."""

    preset_name = "iqn"


class Rainbow(Model):
    """Double, dueling, prioritised, 3-step, categorical, noisy Q-learning (Hessel et al. 2018)."""

    preset_name = "rainbow"


class MunchausenDQN(Model):
    """DQN with soft values and the log-policy in the reward (Vieillard et al. 2020)."""

    preset_name = "munchausen-dqn"


class PQN(Model):
    """Parallel Q-learning with λ-returns and layer norm, without a replay memory (Gallici et al. 2024)."""

    preset_name = "pqn"


class SoftQ(Model):
    """Soft Q-learning with a Boltzmann policy (Haarnoja et al. 2017)."""

    preset_name = "soft-q"


class DDPG(Model):
    """Deep deterministic policy gradient (Lillicrap et al. 2016)."""

    preset_name = "ddpg"


class TD3(Model):
    """Twin delayed DDPG (Fujimoto et al. 2018)."""

    preset_name = "td3"


class SAC(Model):
    """Soft actor-critic with an adapted temperature (Haarnoja et al. 2018)."""

    preset_name = "sac"


class DiscreteSAC(Model):
    """Soft actor-critic for discrete actions with exact expectations (Christodoulou 2019)."""

    preset_name = "discrete-sac"


class TQC(Model):
    """Truncated quantile critics (Kuznetsov et al. 2020)."""

    preset_name = "tqc"


class DroQ(Model):
    """SAC with dropout and layer norm in the critics and 20 updates per step (Hiraoka et al. 2022)."""

    preset_name = "droq"


class D4PG(Model):
    """DDPG with a categorical critic, n-step targets and prioritised replay (Barth-Maron et al. 2018)."""

    preset_name = "d4pg"


class REDQ(Model):
    """SAC with ten critics, a random two in each target and twenty updates a step (Chen et al. 2021)."""

    preset_name = "redq"


class CrossQ(Model):
    """SAC with batch normalisation and no target networks (Bhatt et al. 2024)."""

    preset_name = "crossq"


class AWAC(Model):
    """Advantage-weighted regression with critics Q(s, a), from replayed or given data (Nair et al. 2020)."""

    preset_name = "awac"


class BC(Model):
    """Behaviour cloning of a data set's actions (Pomerleau 1991)."""

    preset_name = "bc"


class CQL(Model):
    """Conservative Q-learning: SAC whose critics are held down outside the data (Kumar et al. 2020)."""

    preset_name = "cql"


class IQL(Model):
    """Implicit Q-learning: expectile values, advantage-weighted cloning (Kostrikov et al. 2022)."""

    preset_name = "iql"


class TD3BC(Model):
    """TD3 with a behaviour-cloning term for fixed data (Fujimoto & Gu 2021)."""

    preset_name = "td3-bc"


class MC(Model):
    """Monte Carlo control on a table, first- or every-visit, on-policy or importance-sampled; or prediction."""

    preset_name = "mc"


class TD(Model):
    """TD(0) and n-step TD: a table of V of a given policy, `reference` or the uniform one (Sutton 1988)."""

    preset_name = "td"


class TDLambda(Model):
    """TD(λ) on a table, with accumulating, replacing or dutch traces (Sutton 1988; van Seijen et al. 2016)."""

    preset_name = "td-lambda"


class SARSA(Model):
    """SARSA on a table, one step or n (Rummery & Niranjan 1994)."""

    preset_name = "sarsa"


class ExpectedSARSA(Model):
    """Expected SARSA on a table, one step or n (van Seijen et al. 2009)."""

    preset_name = "expected-sarsa"


class SARSALambda(Model):
    """SARSA(λ) on a table, with any trace (Rummery & Niranjan 1994; van Seijen et al. 2016)."""

    preset_name = "sarsa-lambda"


class QLearning(Model):
    """Q-learning on a table (Watkins & Dayan 1992); `DQN` has the network."""

    preset_name = "q-learning"


class DoubleQ(Model):
    """Double Q-learning with two tables (van Hasselt 2010)."""

    preset_name = "double-q"


class QLambda(Model):
    """Watkins's Q(λ) on a table (Watkins 1989)."""

    preset_name = "q-lambda"


class TreeBackup(Model):
    """n-step tree backup of the greedy policy on a table (Precup et al. 2000)."""

    preset_name = "tree-backup"


class CPI(Model):
    """Conservative policy iteration on a table (Kakade & Langford 2002)."""

    preset_name = "cpi"


class TDLambdaAC(Model):
    """Online actor-critic with eligibility traces, one step at a time (Sutton & Barto 2018, §13.6)."""

    preset_name = "td-lambda-ac"


class StreamAC(Model):
    """The same with bounded steps, sparse initialisation, layer norm and normalisation (Elsayed et al. 2024)."""

    preset_name = "stream-ac"


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
