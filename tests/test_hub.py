"""Runs on the hub, against a stand-in that keeps repositories in a folder."""

import inspect
import shutil
import sys
import types
from pathlib import Path

import pytest
import yaml

import actrix
from actrix import cli
from actrix.runs.config import RunError
from actrix.runs.hub import PREFIX, UPLOADED, load_from_hub, push_to_hub


class RepositoryNotFoundError(Exception):
    """As huggingface_hub raises it."""


RepositoryNotFoundError.__module__ = "huggingface_hub.errors"


class LocalTokenNotFoundError(EnvironmentError):
    """As huggingface_hub raises it."""


LocalTokenNotFoundError.__module__ = "huggingface_hub.errors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of the repositories; one that is called "closed" takes nobody's."""
    root = tmp_path / "hub"

    class HfApi:
        def create_repo(self, repo_id, *, private, exist_ok):
            if repo_id.startswith("closed/"):
                raise LocalTokenNotFoundError("Token is required")
            (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            return f"https://huggingface.co/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def hf_hub_download(*, repo_id, filename):
        if not (root / repo_id / filename).is_file():
            raise RepositoryNotFoundError("404 Client Error")
        return str(root / repo_id / filename)

    module = types.ModuleType("huggingface_hub")
    module.HfApi, module.hf_hub_download = HfApi, hf_hub_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    tiny = dict(n_steps=16, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [4]})
    actrix.train_seeds("ppo", "CartPole-v1", [3, 4], 64, str(folder), n_envs=2, settings=tiny)
    return folder


def test_a_run_is_published_with_its_card(hub, run, capsys):
    assert cli.main(["push", str(run), "me/lander"]) == 0
    assert "https://huggingface.co/me/lander" in capsys.readouterr().out
    published = {p.name for p in (hub / "me/lander").iterdir()}
    assert published == {*UPLOADED, "README.md", "curve.png"}
    card = (hub / "me/lander/README.md").read_text("utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "actrix"
    (result,) = head["model-index"][0]["results"]
    best = max((run / f"seed-{s}" / "evaluation.json" for s in (3, 4)), key=lambda p: mean_of(p))
    assert result["metrics"][0]["value"] == pytest.approx(mean_of(best), abs=0.01)
    assert "| 3 | " in card
    assert "| 4 | " in card
    assert "the best of them" in card
    assert "actrix train ppo CartPole-v1 --steps 64" in card


def mean_of(path):
    import json

    returns = json.loads(path.read_text())["returns"]
    return sum(returns) / len(returns)


def test_what_was_published_is_read_again(hub, run, capsys):
    push_to_hub(run, "me/lander")
    model = actrix.Model.load(actrix.load_from_hub("me/lander"))
    assert model.env_id == "CartPole-v1"
    assert cli.main(["eval", f"{PREFIX}me/lander", "--episodes", "1"]) == 0
    assert "over 1 episode " in capsys.readouterr().out
    assert cli.main(["inspect", f"{PREFIX}me/lander"]) == 0
    actrix.push_to_hub(model, "me/alone")
    assert {p.name for p in (hub / "me/alone").iterdir()} == {"model.safetensors", "README.md"}


def test_what_cannot_be_is_one_sentence(hub, run, tmp_path, capsys, monkeypatch):
    with pytest.raises(RunError, match="no repository 'me/none' for you"):
        load_from_hub("me/none")
    for name in ("nonsense", "a/b/c"):
        with pytest.raises(RunError, match="no repository's name: write OWNER/NAME"):
            load_from_hub(name)
    assert cli.main(["eval", f"{PREFIX}me/none"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(RunError, match="log in with `hf auth login`"):
        push_to_hub(run, "closed/x")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run / "seed-3" / "config.json", unfinished)
    with pytest.raises(RunError, match="has no model yet"):
        push_to_hub(unfinished, "me/x")
    with pytest.raises(RunError, match="not a run folder"):
        push_to_hub(tmp_path, "me/x")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"actrix\[hub\]"):
        push_to_hub(run, "me/x")


@pytest.mark.slow
def test_the_stand_in_is_like_the_library():
    hub = pytest.importorskip("huggingface_hub")
    for function, names in (
        (hub.HfApi.create_repo, {"repo_id", "private", "exist_ok"}),
        (hub.HfApi.upload_folder, {"repo_id", "folder_path", "commit_message"}),
        (hub.hf_hub_download, {"repo_id", "filename"}),
    ):
        assert names <= set(inspect.signature(function).parameters)
    for name in (
        "RepositoryNotFoundError",
        "LocalTokenNotFoundError",
        "EntryNotFoundError",
        "HFValidationError",
    ):
        assert getattr(hub.errors, name).__module__.startswith("huggingface_hub")
    assert Path(hub.__file__).exists()
