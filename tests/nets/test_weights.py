"""Decoders from disk: they say what `transformers` says of them, and folders that do not fit are refused."""

import json
import shutil
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest
import safetensors.numpy
from gymnasium import spaces

from actrix import PPO
from actrix.algorithms.policy_kwargs import SettingError, network_config
from actrix.core.pretrained import WeightsError, tokenizer
from actrix.core.types import Spec
from actrix.files.container import ModelFileError, read_header
from actrix.files.modelfile import check_model
from actrix.nets.memory import apply, unroll

FOLDER = Path(__file__).parent.parent / "golden" / "decoders"
KINDS = ("llama", "qwen2")


def network(folder, vocabulary=32, actions=None, **kwargs):
    config = network_config({"weights": str(folder), "context": 16, **kwargs})
    spec = Spec(spaces.Discrete(vocabulary), spaces.Discrete(actions or vocabulary))
    return config.build(spec, jax.random.key(0))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind):
    net = network(FOLDER / kind)
    said = safetensors.numpy.load_file(FOLDER / kind / "said.safetensors")
    log_probs = lambda logits: logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = log_probs(said["logits"].astype(np.float64)).swapaxes(0, 1)
    tokens = said["tokens"].T.astype(np.int32)
    first = np.zeros(tokens.shape, bool)
    out, _ = unroll(net, tokens, first, net.initial_carry((3,)), None)
    np.testing.assert_allclose(out.dist.logits, want, atol=1e-4)
    carry, step = net.initial_carry((3,)), jax.jit(lambda x, carry: apply(net, x, carry))
    for row, wanted in zip(tokens, want, strict=True):
        out, carry = step(row, carry)
        np.testing.assert_allclose(out.dist.logits, wanted, atol=1e-4)


def test_another_action_space_gets_a_head_of_its_own():
    net = network(FOLDER / "llama", actions=3)
    assert net.pi_head.weight.shape == (16, 3)
    file = safetensors.numpy.load_file(FOLDER / "llama" / "model.safetensors")
    np.testing.assert_array_equal(net.cell.embed, file["model.embed_tokens.weight"])


class Letters(gym.Env):
    """Any token after any token."""

    observation_space = action_space = spaces.Discrete(32)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return int(action), 1.0, False, False, {}


def test_a_model_file_holds_the_numbers_and_names_no_folder(tmp_path):
    source = shutil.copytree(FOLDER / "qwen2", tmp_path / "weights")
    model = PPO("MlpPolicy", Letters, n_steps=8, batch_size=8, policy_kwargs={"weights": str(source)}, seed=0)
    path = model.save(tmp_path / "model")
    shutil.rmtree(source)
    loaded = PPO.load(path)
    assert loaded.algorithm.network.weights is None
    for a, b in zip(model.get_parameters().values(), loaded.get_parameters().values(), strict=True):
        np.testing.assert_array_equal(a, b)
    header = read_header(path)
    check_model(header)
    header.meta["settings"]["policy_kwargs"]["weights"] = "/elsewhere"
    with pytest.raises(ModelFileError, match="policy_kwargs has 'weights', which is none"):
        check_model(header)


def changed(tmp_path, config=None, tensors=None, ids=None):
    folder = shutil.copytree(FOLDER / "llama", tmp_path / "changed")
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors:
        path = folder / "model.safetensors"
        arrays = safetensors.numpy.load_file(path) | tensors
        safetensors.numpy.save_file({k: x for k, x in arrays.items() if x is not None}, path)
    if ids:
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace('"z":26', f'"z":{ids}'))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"model_type": "mamba"}}, "model_type is 'mamba'; known are llama and qwen2"),
        ({"config": {"hidden_act": "gelu"}}, "hidden_act='?gelu'? is not known here, only silu"),
        ({"config": {"rope_parameters": {"rope_type": "yarn"}}}, "rope_parameters=.*yarn.* are not known"),
        ({"config": {"hidden_size": "x"}}, "hidden_size is x; it must be a whole number"),
        ({"config": {"intermediate_size": 25}}, r"mlp.gate_proj.weight is \[24, 16\], expected \[25, 16\]"),
        ({"config": {"num_hidden_layers": 1}}, "unknown 'model.layers.1.input_layernorm.weight'.*more"),
        ({"tensors": {"model.norm.weight": None}}, "missing model.norm.weight"),
        ({"tensors": {"model.norm.weight": np.full(16, np.nan, np.float32)}}, "holds non-finite numbers"),
        ({"tensors": {"model.norm.weight": np.ones(16)}}, "must have a shape and a dtype of F32, F16, BF16"),
        ({"ids": 32}, "ids up to 32, the weights 32 tokens"),
    ],
)
def test_folders_that_do_not_fit_are_refused_in_a_sentence(tmp_path, change, said):
    with pytest.raises((SettingError, WeightsError), match=said):
        network(changed(tmp_path, **change))


def test_what_is_asked_of_weights_and_cannot_be(tmp_path):
    with pytest.raises(WeightsError, match="have 32 tokens and the environment 50: it must speak theirs"):
        network(FOLDER / "llama", vocabulary=50)
    with pytest.raises(SettingError, match="d_model is of the weights"):
        network(FOLDER / "llama", d_model=16)
    with pytest.raises(SettingError, match="context=65 is beyond the weights' 64 positions"):
        network(FOLDER / "llama", context=65)
    with pytest.raises(SettingError, match=r"there is no .*config\.json"):
        network(tmp_path)
    with pytest.raises(ValueError, match="reads tokens, observations of a Discrete space"):
        network_config({"weights": str(FOLDER / "llama")}).build(
            Spec(spaces.Box(-1, 1, (3,)), spaces.Discrete(32)), jax.random.key(0)
        )


def test_the_tokenizer_of_the_folder():
    pytest.importorskip("tokenizers")
    assert tokenizer(FOLDER / "llama", 32).encode("cab").ids == [3, 1, 2]
