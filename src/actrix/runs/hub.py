"""Runs on the Hugging Face hub: data-only files and a card that says how the agent was trained and how good it is."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from actrix.core.words import write_value
from actrix.files.container import read_meta
from actrix.runs.config import RunConfig, RunError
from actrix.runs.folder import CURVE, EVALUATION, evaluation, load_config, resuming, seed_folders
from actrix.runs.report import repeat
from actrix.show.plot import plot_run

PREFIX = "hub:"
MODEL = "model.safetensors"
UPLOADED = (MODEL, "config.json", EVALUATION, "metrics.csv", "manifest.json")
"""What of a run's folder is published: numbers and text, no code."""
CLIENTS = ("huggingface_hub", "httpx", "httpx2", "requests")
"""Packages whose errors are what the hub, or the way to it, answers."""


def push_to_hub(
    run: Path | Any, repo_id: str, private: bool = False, message: str = "Trained with actrix"
) -> str:
    """Publish a run folder, or a model, as the repository `repo_id` ("USER/NAME"); its address.

    Of a run with several seeds the best one by its final evaluation, which the card says. Raises RunError (no model
    yet, no login, refused by the hub), ImportError without huggingface_hub.
    """
    hub = _library()
    with tempfile.TemporaryDirectory() as folder, _one_sentence(repo_id):
        _gather(run, Path(folder), repo_id)
        api = hub.HfApi()
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(address)


def load_from_hub(repo_id: str, filename: str = MODEL) -> Path:
    """A file of the repository, downloaded once: for `Model.load`. Nothing in it is executed.

    Raises RunError for a repository or a file that is not there, ImportError without huggingface_hub.
    """
    hub = _library()
    if repo_id.count("/") != 1:  # the hub itself would be asked five times
        raise RunError(f"{repo_id!r} is no repository's name: write OWNER/NAME.")
    with _one_sentence(repo_id):
        return Path(hub.hf_hub_download(repo_id=repo_id, filename=filename))


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f"the hub needs huggingface_hub ({error}): pip install 'actrix[hub]'.") from error
    return huggingface_hub


@contextlib.contextmanager
def _one_sentence(repo_id: str) -> Iterator[None]:
    """What the hub answers, in a sentence."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise RunError(_said(repo_id, error)) from error


def _said(repo_id: str, error: Exception) -> str:
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "HFValidationError", "GatedRepoError"):
        return f"the hub has no repository {repo_id!r} for you: write USER/NAME, and log in with `hf auth login`."
    if kind in ("EntryNotFoundError", "RemoteEntryNotFoundError", "LocalEntryNotFoundError"):
        return f"the hub's {repo_id!r} has no such file, or cannot be reached: {str(error).splitlines()[0]}"
    if kind == "LocalTokenNotFoundError" or "401" in str(error) or "403" in str(error):
        return f"the hub refuses to write {repo_id!r}: log in with `hf auth login` as one who may."
    return (
        f"the hub failed on {repo_id!r}: {str(error).strip().splitlines()[0] if str(error).strip() else kind}"
    )


# ------------------------------------------------------------------ what is published


def _gather(run: Path | Any, folder: Path, repo_id: str) -> None:
    if hasattr(run, "save"):
        path = run.save(folder / MODEL)
        (folder / "README.md").write_text(card_of_model(path, repo_id), "utf-8")
        return
    config = load_config(Path(run))
    source, seed = _best(Path(run), config)
    if not (source / MODEL).is_file():
        raise RunError(f"{source} has no model yet: train it to its end, or go on with `{resuming(run)}`.")
    for name in UPLOADED:
        if (source / name).is_file():
            shutil.copy2(source / name, folder / name)
    plot_run(
        [path for path, _ in seed_folders(Path(run), config) if (path / "metrics.csv").is_file()],
        folder / CURVE,
    )
    (folder / "README.md").write_text(card(Path(run), config, seed, repo_id), "utf-8")


def _best(run: Path, config: RunConfig) -> tuple[Path, int]:
    """(folder, seed) of the seed that is published."""
    pairs = seed_folders(run, config)
    evaluated = [pair for pair in pairs if (pair[0] / EVALUATION).is_file()]
    return max(evaluated, key=lambda pair: float(evaluation(pair[0])[1].mean())) if evaluated else pairs[0]


def card(run: Path, config: RunConfig, seed: int, repo_id: str) -> str:
    """The model card of a run, in Markdown with the hub's header."""
    returns = {s: evaluation(p)[1] for p, s in seed_folders(run, config) if (p / EVALUATION).is_file()}
    rows = [f"| {s} | {x.mean():.2f} ± {x.std():.2f} | {len(x)} |" for s, x in returns.items()]
    which = f"Of {len(returns)} seeds this is seed {seed}, the best of them.\n\n" if len(returns) > 1 else ""
    mean = {"mean_reward": round(float(np.mean(returns[seed])), 2)} if seed in returns else {}
    settings = "\n".join(f"| `{k}` | `{write_value(v)}` |" for k, v in config.settings.items())
    parts = [
        _header(config.algorithm, config.env_id, mean),
        f"# {config.algorithm} on {config.env_id}\n",
        f"Trained with [actrix](https://pypi.org/project/actrix/), {config.n_timesteps:,} environment steps.\n",
        f"![Learning curve]({CURVE})\n",
        f"## Evaluation\n\n{which}The final policy on fresh episodes, deterministic actions, undiscounted returns.\n",
        "| seed | return | episodes |\n|---|---|---|\n" + "\n".join(rows) + "\n",
        f"## Use\n\n```sh\nactrix eval {PREFIX}{repo_id}\n```\n",
        f'```python\nfrom actrix import Model, load_from_hub\n\nmodel = Model.load(load_from_hub("{repo_id}"))\n```\n',
        f"## Train it again\n\n```sh\n{repeat(config, run)}\n```\n",
        f"## Settings\n\n| setting | value |\n|---|---|\n{settings}\n",
    ]
    return "\n".join(parts)


def card_of_model(path: Path, repo_id: str) -> str:
    """The model card of a single file."""
    meta = read_meta(path)
    settings = "\n".join(f"| `{k}` | `{json.dumps(v)}` |" for k, v in meta["settings"].items())
    return "\n".join([
        _header(meta["algorithm"], meta["env_id"] or "an environment of one's own", {}),
        f"# {meta['algorithm']} on {meta['env_id']}\n",
        f"Trained with [actrix](https://pypi.org/project/actrix/), {meta['num_timesteps']:,} environment steps.\n",
        f'```python\nfrom actrix import Model, load_from_hub\n\nmodel = Model.load(load_from_hub("{repo_id}"))\n```\n',
        f"## Settings\n\n| setting | value |\n|---|---|\n{settings}\n",
    ])  # fmt: skip


def _header(algorithm: str, env_id: str, metrics: dict[str, float]) -> str:
    head: dict[str, Any] = {
        "library_name": "actrix",
        "tags": ["reinforcement-learning", "deep-reinforcement-learning", algorithm, env_id],
    }
    if metrics:
        result = [{"type": name, "value": value, "name": name} for name, value in metrics.items()]
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        data = {"name": env_id, "type": env_id}
        head["model-index"] = [
            {"name": algorithm, "results": [{"task": task, "dataset": data, "metrics": result}]}
        ]
    import yaml

    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"
