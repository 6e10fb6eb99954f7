"""Commands that play a trained agent: eval, video, watch, record."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from actrix.cli.options import AddCommand, count, model_paths, pairs
from actrix.show.stats import amount

TOKEN_SECONDS = 0.05
"""Between two tokens that `actrix watch` writes."""


def add_commands(command: AddCommand) -> None:
    """`actrix eval`, `video`, `watch` and `record`."""
    p = command("eval", _eval, "Evaluate a run or a model file on fresh episodes.")
    _common(p, episodes=100)
    p.add_argument("--best-of", type=count, metavar="N",
                   help="of prompts: sample N answers to each; pass@1 … pass@N, unbiased")  # fmt: skip

    p = command("video", _video, "Record an mp4 of a run's agent (works without a display).")
    _common(p, episodes=1)
    p.add_argument("--out", type=Path, help="default: RUN/videos/ENV-STEPS.mp4")

    p = command("watch", _watch, "Watch a run's agent in a window.")
    _common(p, episodes=3)

    p = command("record", _record, "Record a run's agent into a Minari data set.")
    p.add_argument("--to", type=Path, required=True, metavar="DIR", help="the new data set's folder")
    p.add_argument("--steps", type=count, help="how many steps (default: 100 episodes)")
    _common(p, episodes=None, help="how many whole episodes")
    p.add_argument("--random", action="store_true", help="uniformly random actions in the run's environment")


def _common(p: argparse.ArgumentParser, episodes: int | None, help: str | None = None) -> None:
    p.add_argument("path", type=Path, metavar="RUN")
    p.add_argument("--episodes", type=count, default=episodes, help=help)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--env", help="play there instead of in the model's own environment")
    p.add_argument("--env-kwargs", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
                   help="arguments of the environment; of the model's own, besides those of its file")  # fmt: skip
    p.add_argument("--stochastic", action="store_true",
                   help="sample actions instead of taking the most likely")  # fmt: skip


def _eval(args: argparse.Namespace) -> None:
    import numpy as np

    from actrix.model import Model
    from actrix.runs.roles import has_roles
    from actrix.runs.start import evaluate_model
    from actrix.show.stats import summarize

    folders, kwargs = model_paths(args.path), _arguments(args)
    means = {}
    for seed, path in folders.items():
        model = Model.load(path)
        task, name = _token_env(model, args), f"{path}: " if len(folders) > 1 else ""
        prompts = _prompts(model, task, args, name)
        if task is None or not task.spec.prompts.verified:  # else a return is an answer's, told of below
            returns, lengths, told = evaluate_model(
                model, args.episodes, args.seed, not args.stochastic, args.env, kwargs
            )
            print(
                f"{name}{np.mean(returns):.2f} ± {np.std(returns):.2f} over {amount(len(returns), 'episode')} "
                f"(mean length {np.mean(lengths):.1f}, {_actions(args)} actions)"
                + (f", success {100 * np.mean(told):.0f} % of the {len(told)} that say" if told else "")
            )
            means[seed] = returns
        rewards = _answers(model, prompts, args, name)
        if rewards is not None:
            means.setdefault(seed, np.array(rewards))
    if len(means) > 1 and not has_roles(args.path):
        print(f"all seeds: {summarize(means)}")


def _actions(args: argparse.Namespace) -> str:
    return "sampled" if args.stochastic else "deterministic"


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    return pairs(args.env_kwargs, "--env-kwargs")


def _prompts(model: Any, env: Any, args: argparse.Namespace, name: str) -> list[tuple[str, Any]]:
    """Prompts like those of training and held-out ones, each with what is said of them; [] where there are none.

    Raises SettingError where --best-of asks for some.
    """
    import dataclasses

    from actrix.algorithms.settings import SettingError
    from actrix.loops.evaluate import check_same_spaces

    if env is None:
        if args.best_of:
            where = args.env or model.env_id
            raise SettingError(f"--best-of is of answers to prompts, and {where} has none.")
        return []
    check_same_spaces(model._known_spec(), env.spec)
    env = env.verifier()
    if env.held_out:
        return [(f" held out, {env.beyond}", env)]
    try:
        return [("", env), (f" held out, {env.beyond}", dataclasses.replace(env, held_out=True))]
    except ValueError as error:
        print(f"{name}nothing is held out: {error}")
        return [("", env)]


def _answers(model: Any, prompts: list[tuple[str, Any]], args: argparse.Namespace, name: str) -> Any:
    """Say how many answers to each kind of prompts are right; the rewards of the first that was asked, or None."""
    from actrix.algorithms.sound import sees_prompts
    from actrix.loops.answers import answers

    rewards: Any = None
    for what, one in prompts:
        try:
            sees_prompts(model.algorithm.network, one.spec)
        except ValueError as error:
            print(f"{name}prompts{what} are not asked: {error}")
            continue
        found = answers(model.policy, one, args.episodes, args.seed, not args.stochastic)
        share = sum(answer.right for answer in found) / len(found)
        rewards = [answer.reward for answer in found] if rewards is None else rewards
        print(
            f"{name}right: {100 * share:.1f} % of {amount(len(found), 'answer')} to prompts{what} ({_actions(args)})"
        )
        if args.best_of:
            print(f"{name}{_passes(model.policy, one, args)} over {amount(args.episodes, 'prompt')}{what}")
    return rewards


def _passes(policy: Any, env: Any, args: argparse.Namespace) -> str:
    """pass@1, 2, 4, … and of all `--best-of` sampled answers, of which the verifier picks the best."""
    from actrix.loops.answers import answers, pass_at

    n = args.best_of
    found = answers(policy, env, args.episodes, args.seed, deterministic=False, each=n)
    right = [sum(a.right for a in found[i : i + n]) for i in range(0, len(found), n)]
    ks = sorted({2**i for i in range(n.bit_length())} | {n})
    return ", ".join(f"pass@{k} {100 * pass_at(k, right, n):.1f} %" for k in ks)


def _token_env(model: Any, args: argparse.Namespace) -> Any:
    """The token environment that a model plays in; None where it is another kind."""
    from actrix.envs.build import token_task
    from actrix.runs.start import model_env

    return token_task(*model_env(model, args.env, _arguments(args)))


def record_to(
    path: Path, out: Path | None, episodes: int, seed: int, env_id: str | None,
    env_kwargs: dict[str, Any] | None = None, deterministic: bool = True,
) -> None:  # fmt: skip
    """Record a video of a model file's agent, and say where: by default beside it, named after where it plays."""
    from actrix.model import Model
    from actrix.runs.folder import file_name
    from actrix.runs.start import model_env_id
    from actrix.show.record import headless, record_video

    model = Model.load(path)
    if out is None:
        base = path if path.is_dir() else path.parent
        where = model_env_id(model, env_id, env_kwargs or ())
        out = base / "videos" / f"{file_name(where)}-{model.run.steps}.mp4"
    with headless():
        env = render_env(model, "rgb_array", env_id, env_kwargs, deterministic)
        try:
            predict = predictor(model, env, deterministic)
            recording = record_video(predict, env, out, episodes=episodes, seed=seed)
        finally:
            env.close()
    returns = ", ".join(f"{r:.1f}" for r in recording.returns)
    print(f"wrote {recording.path} (return {returns})")


def render_env(
    model: Any, mode: str | None, env_id: str | None = None, env_kwargs: dict[str, Any] | None = None,
    deterministic: bool = True,
) -> Any:  # fmt: skip
    """The environment to play in, drawn by `mode`; ValueError where it is not the model's kind."""
    from actrix.algorithms.settings import SettingError
    from actrix.core.types import Spec
    from actrix.envs.agents.make import team_env
    from actrix.envs.atari import PLAY, atari_single_env, is_atari
    from actrix.envs.build import single_env
    from actrix.envs.jax_envs import JAX_TWINS, has_jax_env
    from actrix.envs.masks import MaskKeeper
    from actrix.loops.evaluate import check_same_spaces
    from actrix.runs.start import model_env

    env_id, kwargs = model_env(model, env_id, env_kwargs, deterministic)
    if has_jax_env(env_id) and env_id not in JAX_TWINS:
        raise SettingError(f"{env_id} exists in JAX only: it can be neither drawn nor recorded.")
    env: Any = team_env(env_id, kwargs, mode)
    if env is not None and mode is None:
        raise SettingError(f"{env_id} has several agents: a data set holds the episodes of one.")
    if env is None and is_atari(env_id):
        env = atari_single_env(env_id, mode, kwargs, **PLAY)
    elif env is None:
        env = MaskKeeper(single_env(env_id, kwargs, render_mode=mode))
    one = getattr(env, "table", env)  # a game's agents are rows of the same spaces
    there = Spec(one.observation_space, one.action_space, mask_size=getattr(one, "mask_size", None))
    check_same_spaces(model._known_spec(), there)
    return env


def predictor(model: Any, env: Any, deterministic: bool = True) -> Any:
    """`model.predict` with the masks of `env`, if it has them."""

    import numpy as np

    def predict(obs: Any, state: Any, episode_start: Any) -> Any:
        episode_start = np.repeat(episode_start, getattr(env, "k", 1))  # a game's agents are a batch
        return model.predict(obs, state, episode_start, deterministic, getattr(env, "mask", None))

    return predict


def _video(args: argparse.Namespace) -> None:
    path = next(iter(model_paths(args.path).values()))
    record_to(path, args.out, args.episodes, args.seed, args.env, _arguments(args), not args.stochastic)


def _record(args: argparse.Namespace) -> None:
    from actrix.algorithms.settings import SettingError
    from actrix.data.datasets.play import record_episodes
    from actrix.data.datasets.write import write_dataset
    from actrix.model import Model
    from actrix.runs.start import model_env

    if args.steps and args.episodes:
        raise SettingError("give either --steps or --episodes, not both.")
    if args.random and args.stochastic:
        raise SettingError("give either --random or --stochastic, not both.")
    episodes = args.episodes or (None if args.steps else 100)
    model = Model.load(next(iter(model_paths(args.path).values())))
    where, kwargs = model_env(model, args.env, _arguments(args))
    env = render_env(model, None, where, kwargs)

    def random(obs: Any, state: Any, episode_start: Any) -> Any:
        return getattr(env, "sample_legal", env.action_space.sample)(), None

    predict = random if args.random else predictor(model, env, not args.stochastic)
    env.action_space.seed(args.seed)
    returns = []

    def noted(played: Any) -> Any:
        for episode in played:
            returns.append(float(episode.reward.sum()))
            yield episode

    try:
        played = noted(record_episodes(predict, env, steps=args.steps, episodes=episodes, seed=args.seed))
        who = "random" if args.random else model.preset.name
        spec = model._known_spec()
        path = write_dataset(args.to, played, spec, env_id=where, env_kwargs=kwargs, algorithm_name=who)
    finally:
        env.close()
    many = amount(len(returns), "episode")
    print(f"wrote {path}: {many} of {who}, mean return {sum(returns) / len(returns):.1f}")


def _show_answers(model: Any, env: Any, args: argparse.Namespace) -> None:
    """Prompts with what is answered, right in green and wrong in red."""
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from actrix.loops.answers import answers
    from actrix.show.display import answered

    console = Console(highlight=False)
    for answer in answers(model.policy, env, args.episodes, args.seed, not args.stochastic):
        whole = answered(answer.prompt, answer.text, answer.right)
        if not console.is_terminal:
            console.print(whole)
            continue
        with Live(Text(answer.prompt), console=console, auto_refresh=False) as live:
            for end in range(len(answer.text) + 1):  # as it was generated, token by token
                live.update(Text(answer.prompt).append(answer.text[:end]), refresh=True)
                time.sleep(TOKEN_SECONDS)
            live.update(whole, refresh=True)


def _watch(args: argparse.Namespace) -> None:
    from actrix.model import Model
    from actrix.show.record import watch

    model = Model.load(next(iter(model_paths(args.path).values())))
    if (asked := _token_env(model, args)) is not None:
        return _show_answers(model, asked, args)
    env = render_env(model, "human", args.env, _arguments(args), not args.stochastic)
    try:
        predict = predictor(model, env, not args.stochastic)
        returns, _ = watch(predict, env, args.episodes, seed=args.seed)
    finally:
        env.close()
    print("returns", ", ".join(f"{r:.1f}" for r in returns))
