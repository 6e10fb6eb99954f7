"""Every setting of every preset has an effect, or says that it has none, and what it would need.

Traced, never compiled: a number (an input of `learn`) has an effect where what is learned depends on it; another field
where what `learn`, acting, or the first learner is made of differs, or what the loops ask. Metrics do not count.
"""

import dataclasses
import functools
import operator
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NETWORK, PRESETS, preset, probes
from jax.interpreters import partial_eval

import actrix
from actrix.algorithms.learn import Composition
from actrix.algorithms.settings import own_fields, parts_of
from actrix.algorithms.sound import unsound
from actrix.cli import notices, parser
from actrix.cli.train import config_of
from actrix.core.idle import NoEffectWarning
from actrix.core.numbers import numbers_of
from actrix.envs.jax_envs import jax_env
from actrix.envs.probes import ContinuousTarget, ObsDependent
from actrix.loops.compiled import collect, reset
from actrix.runs.report import repeat

N = 4
NAMES = [name for name, p in PRESETS.items() if isinstance(p.algorithm, Composition)]
FEW = ("trpo", "rainbow", "sac", "td3")
WHOLE = ("ppo", "dqn", "grpo", "bc")
"""All fields of these, the numbers of those, in `make test`; the others, and numbers beside other values, are slow."""
PLACES = ("critic", "actor", "data", "fit", "")

OTHERS = {
    "ref_kl_in": ("loss", "reward"), "ref_kl_by": ("k2", "k3"), "aggregate": ("sequence", "token"),
    "ratio": ("sequence", "token"), "actor_q": ("mean", "min"), "noise_type": ("normal", "none"),
    "optimizer": ("rmsprop", "adam"), "kind": ("ordinary", "weighted"), "ent_coef": ("auto", 0.3),
    "target_entropy": (-3.0,), "norm_obs_keys": (("a",),), "n": (2,),
}  # fmt: skip
"""Other values of what is neither a switch nor a number."""


def others(f, value):
    """What else the field may hold; the first that is sound is taken."""
    if "parts" in f.metadata:
        return [kind() for kind in f.metadata["parts"] if type(value) is not kind]
    if isinstance(value, bool):
        return [not value]
    if found := [x for x in OTHERS.get(f.name, ()) if x != value]:
        return found
    if isinstance(value, int):
        return [x for x in (value * 2, value + 1, value // 2, value - 1) if x != value]
    if isinstance(value, float):
        return [value / 2 or 0.25, value + 0.25]
    return [0.25, 2, 4] if value is None else [0.125]


def environment(algorithm):
    """Where it is tried."""
    tokens = algorithm.shown or algorithm.actor.facts.one_ratio
    return jax_env("Reverse-v0", group=1 if algorithm.shown else N) if tokens else probes(algorithm)


def changed(algorithm, place, name, value):
    """The composition with that value, or None where that is refused."""
    try:
        if place:
            value = dataclasses.replace(getattr(algorithm, place), **{name: value})
        new = dataclasses.replace(algorithm, **{place or name: value})
        if unsound(new.critic, new.actor, new.data):
            return None
        new.check(environment(algorithm).spec, N)
    except (ValueError, TypeError):
        return None
    return new


def text(function, *args):
    """(what the function computes of what it gives, without dead code, its constants; which inputs it reads)."""
    traced = jax.make_jaxpr(function)(*args)
    live, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    held = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
    constants = [np.asarray(held[v]).tobytes() if v.aval.dtype.kind in "fiub" else "" for v in live.constvars]
    return (str(live), constants, [v.aval for v in live.outvars]), used


class Traced:
    """What a composition does, piece by piece, each traced when it is asked for."""

    def __init__(self, algorithm, like=None):
        self.algorithm, self.env = algorithm, environment(algorithm)
        self.spec = self.env.spec
        self.offline, self.numbers = algorithm.data.facts.fixed, numbers_of(algorithm)
        self.key, self.rows, self.like = jax.random.key(0), algorithm.rows(self.spec), like
        if self.offline:  # the memory is the data set
            self.algorithm = dataclasses.replace(
                algorithm, data=dataclasses.replace(algorithm.data, buffer_size=64)
            )

    @functools.cached_property
    def learner(self):
        return jax.eval_shape(lambda key: self.algorithm.init(key, self.spec, N), self.key)

    @functools.cached_property
    def chunk(self):
        """Shapes of a chunk of experience; those of another with as many rows are alike."""
        if self.like is not None and (self.like.rows, type(self.like.env)) == (self.rows, type(self.env)):
            return self.like.chunk
        env, a = self.env, self.algorithm

        def play(acting, keys):
            carry = reset(a, acting, env, N, keys[0], jnp.uint32(0))
            return collect(a, acting, env, carry, *keys[1:], self.rows)[1]

        return jax.eval_shape(play, self.learner.acting, jax.random.split(self.key, 3))

    @functools.cached_property
    def learning(self):
        """What `learn` computes; `read`: the numbers that it reads."""

        def learn(inputs, learner, chunk, key):
            training = dataclasses.replace(learner.training, numbers=inputs)
            learner, a = dataclasses.replace(learner, training=training), self.algorithm
            new, _ = a.update_offline(learner, key) if self.offline else a.learn(learner, chunk, key)
            return dataclasses.replace(new, training=dataclasses.replace(new.training, numbers=None))

        inputs = [jax.ShapeDtypeStruct((), jnp.float32)] * len(self.numbers)
        program, used = text(learn, inputs, self.learner, None if self.offline else self.chunk, self.key)
        self.read = {path for path, read in zip(self.numbers, used, strict=False) if read}
        return program

    @functools.cached_property
    def asked(self):
        """What the loops ask."""
        a = self.algorithm
        return self.rows, a.warm_up(self.rows, N), a.whole_episodes, a.warms_up_whole

    @functools.cached_property
    def made(self):
        """The first learner."""

        def made(key):
            learner = self.algorithm.init(key, self.spec, N)
            return dataclasses.replace(learner, training=dataclasses.replace(learner.training, numbers=None))

        return text(made, self.key)[0]

    @functools.cached_property
    def acting(self):
        """How it behaves, in the random phase, too."""
        a, acting = self.algorithm, self.learner.acting
        first = lambda tree: jax.eval_shape(lambda x: jax.tree.map(lambda x: x[0], x), tree)
        noise = first(
            jax.eval_shape(lambda acting, key: a.noise(acting, key, self.rows, N), acting, self.key)
        )
        carry = jax.eval_shape(lambda acting: a.initial_carry(acting, N), acting)

        def both(acting, carry, obs, mask, noise):
            return a.act(acting, carry, obs, mask, noise)[0], a.warm_acting(acting)

        return text(both, acting, carry, *first((self.chunk.obs, self.chunk.mask)), noise)[0]

    def differs(self, other):
        """Whether anything does; the cheap first."""
        collecting = ("asked", "made", "learning", "acting")
        pieces = ("made", "learning") if self.offline else collecting
        return any(operator.ne(*map(operator.attrgetter(name), (self, other))) for name in pieces)


def place_of(path):
    """(part, its field and those inside that) of a number's path."""
    first, *rest = path.split(".")
    return (first, rest) if first in PLACES else ("", [first])


def fields(algorithm):
    """(part, field, value) of every field."""
    own = [f for f in dataclasses.fields(algorithm) if f.name in own_fields(algorithm)]
    for place, part in [*parts_of(algorithm).items(), ("", algorithm)]:
        for f in dataclasses.fields(part) if place else own:
            yield place, f, getattr(part, f.name)


@functools.lru_cache(maxsize=2)
def tried(name):
    """A preset, small."""
    algorithm = preset(name)
    return Traced(algorithm.fitted(environment(algorithm).spec, N))


def wrong(name, whole=True):
    """What a preset leaves without effect and does not say so, or says so wrongly. `whole`: of its numbers also beside
    every other value of another field."""
    base = tried(name)
    yield from wrong_numbers(name, base)
    for place, f, value in fields(base.algorithm):
        if any(place_of(path)[0] == place and f.name in place_of(path)[1] for path in base.numbers):
            continue
        made = (changed(base.algorithm, place, f.name, x) for x in others(f, value))
        found = [x for x in made if x is not None]  # what is refused is not ignored
        for new in found[: None if whole and f.name in OTHERS else 1]:
            other, label = (
                Traced(new, base),
                f"{name} with {f.name}={getattr(getattr(new, place or 'data') if place else new, f.name)!r}",
            )
            if whole:
                yield from wrong_numbers(label, other)
            same, idle = not other.differs(base), f.name in new.idle()[place]
            if same and not idle and f.name not in ANYHOW:
                yield f"{label} changes nothing"
            if not same and idle and f.name not in WRITTEN:
                yield f"{label} is idle and changes something"


def wrong_numbers(label, traced):
    assert traced.learning, label
    for path in traced.numbers:
        place, names = place_of(path)
        read, idle = path in traced.read, any(x in traced.algorithm.idle()[place] for x in names)
        if read == idle and names[-1] not in (WRITTEN if read else ANYHOW):
            yield f"{label}: {path} is {'idle and read' if read else 'never read'}"


ANYHOW = {
    "whole_episodes": "asks for what is done anyhow beside a critic of whole episodes",
    "clip_obs": "of the reference policy's statistics, and here it is the uniform one",
}
"""Fields that may change nothing and need not say so."""
WRITTEN = {
    "n_steps": "rows of a data set that no n − 1 others follow are not drawn, but what is drawn is learned from alike",
    "normalize_reward": "keeps statistics of rewards, which nothing reads",
    "target_noise_clip": "bounds a noise of 0",
    "target_kl": "compares with 0 where a chunk has one step, at the policy that acted",
    "recompute_advantages": "before the only pass they are what they were",
}
"""Fields that have no effect though the program is another."""


@pytest.mark.parametrize("name", FEW)
def test_every_number_is_read_or_says_what_it_needs(name):
    assert not list(wrong_numbers(name, tried(name)))


@pytest.mark.filterwarnings("ignore:a policy without memory")
@pytest.mark.parametrize(
    "name", [n if n in WHOLE else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_every_setting_has_an_effect_or_says_what_it_needs(name):
    assert not list(wrong(name, whole=name not in WHOLE))


# ---------------------------------------------------------------------------- what users are told


def of(critic, actor, data, **settings):
    return lambda: actrix.ActorCritic("MlpPolicy", None, critic=critic, actor=actor, data=data, **settings)


def named(name, **settings):
    return lambda: getattr(actrix, name)("MlpPolicy", None, **settings)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (of("q:target_network=false,tau=0.5,target_update_interval=7", "epsilon-greedy", "replay"),
         ["tau=0.5 has no effect without target_network=True.", "target_update_interval=7"]),
        (of("ensemble:2", "soft:noise_std=0.4", "replay:priority_alpha=0.7"),
         ["noise_std=0.4", "priority_alpha=0.7 has no effect without prioritized=True."]),
        (of("ensemble:2", "deterministic:noise_type=none,noise_std=0.5", "fixed:train_freq=7,gradient_steps=3"),
         ["noise_type=none", "noise_std=0.5 has no effect without a noise_type.",
          "train_freq=7 has no effect without an environment to collect in.", "gradient_steps=3"]),
        (of("gae", "trpo", "on-policy:target_kl=0.1"), ["target_kl=0.1"]),
        (of("none", "npg", "on-policy", n_critic_updates=3), ["n_critic_updates=3 has no effect without a critic."]),
        (named("SAC", ent_coef=0.1, target_entropy=-3), ["target_entropy=-3.0 has no effect without ent_coef=auto."]),
        (named("TD3", target_policy_noise=0.0, target_noise_clip=0.2), ["target_noise_clip=0.2"]),
        (named("DQN", priority_beta="lin_0.4_1.0"), ["priority_beta=lin_0.4_1.0"]),
        (named("DQN", optimize_memory_usage=True), ["optimize_memory_usage=True has no effect: observations"]),
        (named("PPO", sequence_length=8, clip_reward=3.0, clip_obs=2.0, ref_kl_in="loss", critic_learning_rate=1e-4),
         ["sequence_length=8 has no effect without a recurrent policy.", "clip_reward=3.0", "clip_obs=2.0",
          "ref_kl_in=loss", "critic_learning_rate=0.0001 has no effect without n_critic_updates."]),
        (named("REINFORCE", vf_coef=0.7), ["vf_coef=0.7 has no effect without a critic."]),
        (named("A2C", target_kl=0.1, optimizer_beta1=0.8), ["target_kl=0.1", "optimizer_beta1=0.8"]),
    ],
)  # fmt: skip
def test_a_user_is_told_of_what_has_no_effect_where_he_says_it(make, says):
    with pytest.warns(NoEffectWarning) as warned:
        make()
    assert len(warned) == len(says)
    for warning, text in zip(warned, says, strict=True):
        assert str(warning.message).startswith(text), warning.message
        assert warning.filename == __file__


@pytest.mark.parametrize(
    "make",
    [
        named("DQN", priority_alpha=0.6),  # stands anyway
        named("SAC", target_entropy="auto", ent_coef=0.2), named("TRPO", target_kl=0.02),  # that is the actor's, too
        named("PPO", sequence_length=8, policy_kwargs={"cell": "lstm"}), named("DQN", optimize_memory_usage=False),
        named("Rainbow", per=False),  # what idles then is the preset's own
        lambda: actrix.CQL("MlpPolicy", ContinuousTarget(), train_freq=2, policy_kwargs=NETWORK, buffer_size=64),
        of("q:tau=1.0", "greedy", "replay:priority_alpha=0.6"), named("QLearning", learning_rate=0.3),
    ],
)  # fmt: skip
def test_nobody_is_told_of_what_he_did_not_say_or_stands_anyway(make):
    make()  # warnings are errors


def test_setting_and_loading_tell_of_what_is_said_then_alone(tmp_path):
    with pytest.warns(NoEffectWarning, match="priority_alpha=0.7"):
        model = actrix.DQN(
            "MlpPolicy", ObsDependent(), priority_alpha=0.7, policy_kwargs=NETWORK, buffer_size=64
        )
    file = model.save(tmp_path / "model")
    assert actrix.DQN.load(file).priority_alpha == 0.7
    with pytest.warns(NoEffectWarning, match="priority_beta=0.5") as warned:
        actrix.DQN.load(file, priority_beta=0.5)
    assert len(warned) == 1
    with pytest.warns(NoEffectWarning, match="without prioritized=True") as warned:
        model.priority_beta = 0.6
    assert warned[0].filename == __file__


def test_a_reference_without_its_coefficient_is_told_of_unless_that_is_said():
    near = actrix.PPO("MlpPolicy", ObsDependent(), policy_kwargs=NETWORK)
    with pytest.warns(NoEffectWarning, match="reference has no effect without ref_kl_coef"):
        actrix.PPO("MlpPolicy", None, reference=near)
    actrix.PPO("MlpPolicy", None, reference=near, ref_kl_coef=0.0)


def test_the_command_line_tells_in_a_line_and_what_reads_a_run_is_silent(tmp_path):
    (tmp_path / "best.yaml").write_text("clip_reward: 3.0")
    args = parser().parse_args(
        ["train", "--critic", "gae", "--actor", "ppo-clip", "--data", "on-policy:sequence_length=7", "CartPole-v1",
         "--set", "ref_kl_by=k3", "--settings", str(tmp_path / "best.yaml")]
    )  # fmt: skip
    with pytest.warns(NoEffectWarning) as told:
        config = config_of(args)
    with notices():
        lines = [warnings.formatwarning(w.message, w.category, w.filename, w.lineno) for w in told]
    assert "".join(sorted(lines)).splitlines() == [
        "actrix: clip_reward=3.0 has no effect without normalize_reward=True.",
        "actrix: ref_kl_by=k3 has no effect without ref_kl_coef.",
        "actrix: sequence_length=7 has no effect without a recurrent policy.",
    ]
    config.build()  # warnings are errors
    repeat(config, tmp_path)
