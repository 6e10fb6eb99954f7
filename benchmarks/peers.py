"""Other libraries doing the same work: training speed, and returns for reference. See README.md.

Each `*_ppo` and `*_off_policy` function trains for at least `total_steps` environment steps after a warm-up
that pays for compilation and first-touch costs, and returns a `Run`. Peers are imported when first called.

    python benchmarks/peers.py rejax_ppo '{"env_id": "CartPole-v1", "total_steps": 204800}'
"""

import importlib
import importlib.util
import json
import os
import sys
import time
import types
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record

PACKAGES = {
    "stable_baselines3": "stable-baselines3",
    "sb3_contrib": "sb3-contrib",
    "sbx": "sbx-rl",
    "rejax": "rejax",
}


class Run(NamedTuple):
    """What was timed: environment steps, the wall-clock seconds they took, and what ran."""

    steps: int
    seconds: float
    what: dict[str, Any]

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds


def peer(module: str):
    """The peer's module, or one sentence saying how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES[module.split(".")[0]]
        raise ImportError(
            f"This benchmark needs {package} ({error}): install a CPU build of torch, then `actrix[bench]`."
        ) from error


def what_ran(peer_name: str, *packages: str, **settings: Any) -> dict[str, Any]:
    """Settings and versions, ready for JSON."""
    more = ["envpool"] if settings.get("backend") == "envpool" else []
    versions = {name: metadata.version(name) for name in (*packages, "gymnasium", "numpy", *more)}
    return {"peer": peer_name, **{k: _plain(v) for k, v in settings.items()}, "versions": versions}


def sb3_ppo(env_id: str, n_envs: int, n_steps: int, total_steps: int, **settings: Any) -> Run:
    """Stable-Baselines3's PPO in its own synchronous vector environment; `settings` are SB3's keywords."""
    return _learn_on_policy("sb3", "PPO", env_id, n_envs, n_steps, total_steps, settings)


def sbx_ppo(env_id: str, n_envs: int, n_steps: int, total_steps: int, **settings: Any) -> Run:
    """SBX's PPO, SB3's loop with updates in JAX; `settings` are SB3's keywords."""
    return _learn_on_policy("sbx", "PPO", env_id, n_envs, n_steps, total_steps, settings)


def sb3_contrib_trpo(env_id: str, n_envs: int, n_steps: int, total_steps: int, **settings: Any) -> Run:
    """sb3-contrib's TRPO in Stable-Baselines3's loop; `settings` are its keywords."""
    return _learn_on_policy("sb3-contrib", "TRPO", env_id, n_envs, n_steps, total_steps, settings)


def sb3_off_policy(algo: str, env_id: str, total_steps: int, **settings: Any) -> Run:
    """Stable-Baselines3's DQN, DDPG, TD3 or SAC, one environment; `settings` are SB3's keywords."""
    return _learn_off_policy("sb3", algo, env_id, total_steps, settings)


def sb3_contrib_off_policy(algo: str, env_id: str, total_steps: int, **settings: Any) -> Run:
    """sb3-contrib's TQC or CrossQ."""
    return _learn_off_policy("sb3-contrib", algo, env_id, total_steps, settings)


def sbx_off_policy(algo: str, env_id: str, total_steps: int, **settings: Any) -> Run:
    """The same from SBX."""
    return _learn_off_policy("sbx", algo, env_id, total_steps, settings)


def rejax_ppo(
    env_id: str = "CartPole-v1",
    n_envs: int = 8,
    n_steps: int = 256,
    total_steps: int = 204_800,
    batch_size: int = 64,
    n_epochs: int = 10,
    learning_rate: float = 3e-4,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    clip_range: float = 0.2,
    ent_coef: float = 0.0,
    vf_coef: float = 0.5,
    max_grad_norm: float = 0.5,
    net_arch: tuple[int, ...] = (64, 64),
    cnn: bool = False,
    seed: int = 0,
) -> Run:
    """rejax's PPO on gymnax's environment: one compiled program, no evaluation, compilation not timed.

    `cnn`: a convolutional encoder in place of the perceptron, in actor and critic each.
    """
    rejax = peer("rejax")
    import jax

    settings = {name: value for name, value in locals().items() if name not in ("rejax", "jax")}
    algorithm = rejax.PPO.create(
        env=env_id,
        num_envs=n_envs,
        num_steps=n_steps,
        num_minibatches=n_envs * n_steps // batch_size,
        num_epochs=n_epochs,
        total_timesteps=total_steps,
        learning_rate=learning_rate,
        gamma=gamma,
        gae_lambda=gae_lambda,
        clip_eps=clip_range,
        ent_coef=ent_coef,
        vf_coef=vf_coef,
        max_grad_norm=max_grad_norm,
        agent_kwargs={"hidden_layer_sizes": tuple(net_arch), "activation": "tanh"},
        # One evaluation interval as long as the run, whose callback does nothing.
        eval_freq=total_steps,
        skip_initial_evaluation=True,
    ).replace(eval_callback=lambda algorithm, state, key: ())
    if cnn:
        algorithm = algorithm.replace(**_image_networks(algorithm.actor.action_dim))
    key = jax.random.key(seed)
    train = jax.jit(algorithm.train).lower(key).compile()
    start = time.perf_counter()
    state, _ = jax.block_until_ready(train(key))
    seconds = time.perf_counter() - start
    what = what_ran("rejax", "rejax", "jax", "gymnax", "flax", algo="PPO", **settings)
    return Run(int(state.global_step), seconds, what)


def _image_networks(actions: int) -> dict[str, Any]:
    """rejax's actor and critic behind one 3×3 layer of 16 filters and a dense one of 128 (Young & Tian 2019)."""
    from flax import linen as nn
    from rejax.networks import DiscretePolicy, VNetwork

    class Image(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x))
            return nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))

    class Actor(DiscretePolicy):
        def setup(self) -> None:
            self.features, self.action_logits = Image(), nn.Dense(self.action_dim)

    class Critic(VNetwork):
        @nn.compact
        def __call__(self, obs: Any) -> Any:
            return nn.Dense(1)(Image()(obs)).squeeze(1)

    unused = dict(hidden_layer_sizes=(), activation=nn.relu)
    return {"actor": Actor(actions, **unused), "critic": Critic(**unused)}


def purejaxrl_ppo(
    env_id: str = "CartPole-v1", n_envs: int = 8, n_steps: int = 256, total_steps: int = 204_800, batch_size: int = 64,
    n_epochs: int = 10, seed: int = 0,
) -> Run:  # fmt: skip
    """PureJaxRL's PPO (`ppo.py` of a checkout whose folder PUREJAXRL names; it is on no registry), SB3's defaults.

    Brax, which its wrappers import and this job does not use, may be missing. Compilation is not timed.
    """
    module = checkout("luchris429/purejaxrl", "ppo", brax={"envs": None})
    config = dict(
        ENV_NAME=env_id, NUM_ENVS=n_envs, NUM_STEPS=n_steps, TOTAL_TIMESTEPS=total_steps, UPDATE_EPOCHS=n_epochs,
        NUM_MINIBATCHES=n_envs * n_steps // batch_size, LR=3e-4, ANNEAL_LR=False, GAMMA=0.99, GAE_LAMBDA=0.95,
        CLIP_EPS=0.2, ENT_COEF=0.0, VF_COEF=0.5, MAX_GRAD_NORM=0.5, ACTIVATION="tanh", DEBUG=False,
    )  # fmt: skip
    return _timed_program(module, config, seed, "purejaxrl", "distrax", algo="PPO")


def purejaxql_pqn(
    env_id: str = "CartPole-v1", n_envs: int = 32, n_steps: int = 64, total_steps: int = 204_800, batch_size: int = 128,
    n_epochs: int = 4, cnn: bool = False, seed: int = 0,
) -> Run:  # fmt: skip
    """PureJaxQL's PQN (`pqn_gymnax.py`, with `cnn` `pqn_minatar.py`, of a checkout whose folder PUREJAXQL names).

    Its tests during training are off, and its command line's packages may be missing. Compilation is not timed.
    """
    import jax

    jax.tree_map = jax.tree.map  # its name when the script was written
    module = checkout(
        "mttga/purejaxql", "pqn_minatar" if cnn else "pqn_gymnax", omegaconf={"OmegaConf": None}, wandb={},
        hydra={"main": lambda **_: lambda main: main},
    )  # fmt: skip
    config = dict(
        ENV_NAME=env_id, NUM_ENVS=n_envs, NUM_STEPS=n_steps, TOTAL_TIMESTEPS=total_steps, NUM_EPOCHS=n_epochs,
        TOTAL_TIMESTEPS_DECAY=total_steps, NUM_MINIBATCHES=n_envs * n_steps // batch_size, EPS_START=1.0,
        EPS_FINISH=0.05, EPS_DECAY=0.2, NORM_TYPE="none" if cnn else "layer_norm", LR=2.5e-4, MAX_GRAD_NORM=10.0,
        GAMMA=0.99, LAMBDA=0.95, WANDB_MODE="disabled",
    )  # fmt: skip
    return _timed_program(module, config, seed, "purejaxql", algo="PQN")


def checkout(repository: str, script: str, **replaced: dict[str, Any]) -> Any:
    """A script of a repository that is on no registry, whose folder a variable of its name holds.

    `replaced`: packages that it imports and this job does not use, with the names asked of them, where not installed.
    """
    name = repository.partition("/")[2]
    folder = os.environ.get(name.upper())
    if not folder or not (Path(folder) / name / f"{script}.py").exists():
        raise ImportError(
            f"This benchmark needs a checkout of github.com/{repository}: name its folder in {name.upper()}."
        )
    sys.path.insert(0, folder)
    for package, names in replaced.items():
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            sys.modules[package] = types.ModuleType(package)
            vars(sys.modules[package]).update(names)
    return importlib.import_module(f"{name}.{script}")


def _timed_program(
    module: Any, config: dict[str, Any], seed: int, name: str, *packages: str, algo: str
) -> Run:
    """One call of the program that `make_train` makes, compiled before."""
    import jax

    given, key = dict(config), jax.random.PRNGKey(seed)
    train = jax.jit(module.make_train(config)).lower(key).compile()
    start = time.perf_counter()
    jax.block_until_ready(train(key))
    seconds = time.perf_counter() - start
    chunk = given["NUM_ENVS"] * given["NUM_STEPS"]
    what = what_ran(name, "jax", "gymnax", "flax", *packages, algo=algo, **given)
    return Run(given["TOTAL_TIMESTEPS"] // chunk * chunk, seconds, what)


def sb3_return(algo: str, env_id: str, seed: int, steps: int, **settings: Any) -> dict[str, Any]:
    """Train an SB3 or sb3-contrib algorithm, then evaluate its final policy, deterministic, on 100 episodes.

    `settings` are SB3's keywords, and `n_envs` (1), `n_eval_episodes` (100), `normalize` (False; True wraps
    in `VecNormalize`, its statistics frozen for evaluation). `learning_rate` and `clip_range` may be
    "lin_0.001": that number times the share of the training left; `policy_kwargs` may name an activation function.
    `curve` has about 50 points (steps, mean of the last hundred training episodes).
    """
    sb3 = peer("stable_baselines3")
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    what = what_ran("sb3", "stable-baselines3", "torch", algo=algo, env_id=env_id, seed=seed, **settings)
    settings = dict(settings)
    n_envs, episodes = settings.pop("n_envs", 1), settings.pop("n_eval_episodes", 100)
    normalize = settings.pop("normalize", False)
    for name in ("learning_rate", "clip_range"):
        if isinstance(settings.get(name), str):
            settings[name] = _linear(float(settings[name].removeprefix("lin_")))
    if isinstance(activation := settings.get("policy_kwargs", {}).get("activation_fn"), str):
        kinds = {"relu": "ReLU", "tanh": "Tanh"}
        chosen = getattr(importlib.import_module("torch.nn"), kinds[activation])
        settings["policy_kwargs"] = settings["policy_kwargs"] | {"activation_fn": chosen}
    curve: list[tuple[int, float]] = []

    class Curve(BaseCallback):
        def _on_step(self) -> bool:
            episodes = [one["r"] for one in self.model.ep_info_buffer]
            if episodes and self.num_timesteps >= (len(curve) + 1) * steps / 50:
                curve.append((self.num_timesteps, float(np.mean(episodes))))
            return True

    _threads(1)
    env = make_vec_env(env_id, n_envs, seed=seed)
    # SB3 gives seed, seed + 1, … to the training environments: evaluation must not share one.
    evaluation_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0] % 2**31)
    evaluation = make_vec_env(env_id, 1, seed=evaluation_seed)
    if normalize:
        env = VecNormalize(env, gamma=settings.get("gamma", 0.99))
        evaluation = VecNormalize(evaluation, training=False, norm_reward=False)
    algorithm = getattr(sb3 if hasattr(sb3, algo.upper()) else peer("sb3_contrib"), algo.upper())
    model = algorithm("MlpPolicy", env, seed=seed, device="cpu", **settings)
    model.learn(steps, callback=Curve())
    if normalize:
        evaluation.obs_rms = env.obs_rms
    returns, _ = evaluate_policy(model, evaluation, episodes, deterministic=True, return_episode_rewards=True)
    mean = sum(returns) / len(returns)
    return {"mean": mean, "returns": returns, "steps": model.num_timesteps, "curve": curve, "what": what}


def _learn_on_policy(
    peer_name: str, algo: str, env_id: str, n_envs: int, n_steps: int, total_steps: int, settings: dict
) -> Run:
    what = {"n_envs": n_envs, "n_steps": n_steps, **settings}
    model = _model(peer_name, algo, env_id, n_envs, n_steps=n_steps, **settings)
    model.learn(n_envs * n_steps)
    return _timed_learn(model, total_steps, peer_name, algo, env_id, what)


def _learn_off_policy(peer_name: str, algo: str, env_id: str, total_steps: int, settings: dict) -> Run:
    model = _model(peer_name, algo, env_id, 1, **settings)
    model.learn(model.learning_starts + max(100, model.train_freq.frequency))  # past the first updates
    return _timed_learn(model, total_steps, peer_name, algo, env_id, settings)


def _model(peer_name: str, algo: str, env_id: str, n_envs: int, **settings: Any):
    library = peer({"sb3": "stable_baselines3", "sb3-contrib": "sb3_contrib", "sbx": "sbx"}[peer_name])
    from stable_baselines3.common.env_util import make_vec_env

    _threads(settings.pop("torch_threads", 1))
    seed = settings.pop("seed", 0)
    env = make_vec_env(env_id, n_envs, seed=seed)
    names = {"crossq": "CrossQ"}
    return getattr(library, names.get(algo, algo.upper()))(
        "MlpPolicy", env, seed=seed, device="cpu", **settings
    )


def _timed_learn(model, total_steps: int, peer_name: str, algo: str, env_id: str, settings: dict) -> Run:
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(total_steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    more = {"sbx": ("sbx-rl", "jax"), "sb3-contrib": ("sb3-contrib",)}
    packages = ("stable-baselines3", "torch", *more.get(peer_name, ()))
    threads = peer("torch").get_num_threads()
    what = what_ran(
        peer_name, *packages, algo=algo.upper(), env_id=env_id, **{**settings, "torch_threads": threads}
    )
    return Run(model.num_timesteps - before, seconds, what)


def _threads(count: int) -> None:
    """One is SB3's best for small networks, where more only wait for each other."""
    import torch

    torch.set_num_threads(count)


def _linear(initial: float):
    return lambda remaining: remaining * initial


def _plain(value: Any) -> Any:
    """The value if JSON can hold it, else its text (a class in `policy_kwargs`)."""
    try:
        json.dumps(value)
    except TypeError:
        return repr(value)
    return value


def main() -> None:
    """`peers.py FUNCTION JSON-KEYWORDS`: run one function, print its result as one line of JSON."""
    name, keywords = record.asked(globals())
    try:
        result = globals()[name](**keywords)
    except ImportError as error:  # of a peer that is not here
        raise SystemExit(str(error)) from None
    if isinstance(result, Run):
        result = {**result._asdict(), "steps_per_second": result.steps_per_second}
    print(json.dumps(result))


def python_tabular_q(
    env_id: str = "Taxi-v4", total_steps: int = 100_000, train_freq: int = 16, learning_rate: float = 0.1,
    epsilon: float = 0.1, gamma: float = 0.99,
) -> Run:  # fmt: skip
    """The textbook's Q-learning as a plain Python loop over Gymnasium: the same updates, legal actions only.

    As on the other side the table that acts is refreshed every `train_freq` steps, which costs next to nothing here.
    """
    import gymnasium as gym

    env, rng = gym.make(env_id), np.random.default_rng(0)
    q = np.zeros((env.observation_space.n, env.action_space.n))
    acting = q.copy()
    state, info = env.reset(seed=0)

    def run(steps: int) -> None:
        nonlocal state, info
        for t in range(steps):
            if t % train_freq == 0:
                acting[:] = q
            legal = info["action_mask"].nonzero()[0]
            if rng.random() < epsilon:
                action = int(legal[rng.integers(len(legal))])
            else:
                row = acting[state][legal]
                best = legal[row == row.max()]
                action = int(best[rng.integers(len(best))])
            following, reward, terminated, truncated, info = env.step(action)
            target = reward
            if not terminated:
                target += gamma * q[following][info["action_mask"] == 1].max()
            q[state, action] += learning_rate * (target - q[state, action])
            state = following
            if terminated or truncated:
                state, info = env.reset()

    run(1000)
    start = time.perf_counter()
    run(total_steps)
    return Run(total_steps, time.perf_counter() - start, what_ran("python-loop", "gymnasium", env_id=env_id))


if __name__ == "__main__":
    main()
