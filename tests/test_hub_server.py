"""Runs on the hub, by the real client against a server on this machine that speaks the hub's endpoints."""

import os
import subprocess
import sys

import pytest

import actrix
from actrix.runs.hub import UPLOADED
from hub_server import served

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    tiny = dict(n_steps=16, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [4]})
    actrix.train_seeds("ppo", "CartPole-v1", [3], 64, str(folder), n_envs=2, settings=tiny)
    return folder


@pytest.fixture
def hub(tmp_path):
    """(the hub, a function that runs a command against it: (exit code, what it printed))."""
    with served() as hub:

        def command(*words, token="hf_good", endpoint=None):
            # huggingface_hub reads these once, when it is imported: hence processes.
            env = os.environ | {
                "HF_ENDPOINT": endpoint or hub.address, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",  # a second protocol, for files in pieces
            }  # fmt: skip
            env = {k: v for k, v in env.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
            env |= {} if token is None else {"HF_TOKEN": token}
            done = subprocess.run(
                [sys.executable, "-m", "actrix", *map(str, words)],
                env=env,
                capture_output=True,
                text=True,
                timeout=300,
            )
            return done.returncode, done.stdout + done.stderr

        yield hub, command


def test_published_and_read_again(hub, run):
    hub, command = hub
    code, out = command("push", run, "me/lander", "--private")
    assert code == 0, out
    assert f"{hub.address}/me/lander" in out
    files = hub.repositories["me/lander"]
    assert set(files) == {*UPLOADED, "README.md", "curve.png"}
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert hub.private["me/lander"]
    assert set(hub.validated) == {files["README.md"].decode()}
    assert hub.commits[0]["summary"] == "Trained with actrix"
    # Once more: the repository is there.
    assert command("push", run, "me/lander")[0] == 0

    code, out = command("eval", "hub:me/lander", "--episodes", "2", token=None)
    assert code == 0, out
    assert "over 2 episodes" in out
    # From the cache, although nobody serves it.
    hub.repositories.clear()
    assert command("inspect", "hub:me/lander", token=None, endpoint="http://127.0.0.1:9")[0] == 0


@pytest.mark.parametrize(
    ("words", "options", "sentence"),
    [
        (["push", "RUN", "closed/lander"], {}, "refuses to write 'closed/lander': log in"),
        (["push", "RUN", "me/lander"], {"token": "hf_bad"}, "refuses to write 'me/lander': log in"),
        (["push", "RUN", "me/lander"], {"token": None}, "refuses to write 'me/lander': log in"),
        (["push", "RUN", "me/a/b"], {}, "no repository 'me/a/b' for you: write USER/NAME"),
        (["eval", "hub:me/nothing"], {}, "no repository 'me/nothing' for you"),
        (["eval", "hub:me/empty"], {}, "'me/empty' has no such file"),
        (["push", "RUN", "me/lander"], {"endpoint": "http://127.0.0.1:9"}, "'me/lander'"),
        (["eval", "hub:me/lander"], {"endpoint": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(hub, run, words, options, sentence):
    hub, command = hub
    hub.repositories["me/empty"] = {}
    code, out = command(*(run if word == "RUN" else word for word in words), **options)
    lines = [line for line in out.splitlines() if line.startswith("actrix: ")]
    assert code == 2, out
    assert len(lines) == 1, out
    assert sentence in lines[0]
    assert "Traceback" not in out
