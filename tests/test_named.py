"""The named classes and their stub: what editors and mypy are told is what the constructors take."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import actrix
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.model import MODELS, Model
from actrix.named import SAYS

SOURCE = Path(actrix.__file__).parent
STUB = ast.parse((SOURCE / "named.pyi").read_text(encoding="utf-8"))
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def test_every_preset_has_a_class_and_a_line():
    assert list(SAYS) == list(PRESETS)
    for name, preset in PRESETS.items():
        cls = getattr(actrix, preset.class_name)
        assert cls is MODELS[name]
        assert (cls.__name__, cls.__module__, cls.preset_name) == (preset.class_name, "actrix.named", name)
        assert issubclass(cls, Model)
        assert cls.__doc__ == SAYS[name]
        assert preset.class_name in actrix.__all__
    assert list(CLASSES) == ["ActorCritic", *(preset.class_name for preset in PRESETS.values())]


@pytest.mark.parametrize("name", PRESETS)
def test_each_default_in_the_stub_is_the_algorithms(name):
    preset = PRESETS[name]
    (init,) = (node for node in CLASSES[preset.class_name].body if isinstance(node, ast.FunctionDef))
    pairs = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    shared = Model.__init__.__kwdefaults__
    told = {arg.arg: ast.literal_eval(default) for arg, default in pairs if arg.arg not in shared}
    settings = {setting: value for setting, value in told.items() if value is not ...}
    assert len(settings) > 2
    configured = configure(preset.algorithm, settings)
    if name == "trpo":  # the name is the on-policy data's too, which beside one whole step never reads it
        configured = dataclasses.replace(configured, data=preset.algorithm.data)
    assert configured == preset.algorithm


CODE = """
import actrix
actrix.PPO("MlpPolicy", "CartPole-v1", clip_range=0.1, n_epochs="ten")
reveal_type(actrix.PPO("MlpPolicy", None, clip_range=lambda left: 0.1 * left).learn(10))
reveal_type(actrix.PPO.__init__)
"""


@pytest.mark.slow
def test_mypy_sees_the_settings(tmp_path):
    script = tmp_path / "user.py"
    script.write_text(CODE, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path),
        str(script),
    ]
    env = os.environ | {"MYPYPATH": str(SOURCE.parent)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    found = done.stdout.replace(str(script), "user.py").splitlines()
    assert 'Argument "n_epochs" to "PPO" has incompatible type "str"; expected "int"' in found[0], done.stdout
    assert 'Revealed type is "actrix.named.PPO"' in found[1]
    for told in ("clip_range: ", "n_epochs: ", "n_envs: "):
        assert told in found[2]
    assert "Found 1 error" in found[-1]
