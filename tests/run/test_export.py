"""Exported policies act as `predict` does: ONNX in onnxruntime, StableHLO in a process without actrix."""

import importlib
import importlib.metadata
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax import export as jax_export

from actrix import cli
from actrix.core.spaces import mask_length
from actrix.core.types import Spec
from actrix.files.export import FORMATS, ExportError, output_path
from actrix.model import MODELS

onnx = importlib.import_module("onnx")
onnxruntime = importlib.import_module("onnxruntime")

BOX = spaces.Box(np.array([-1.0, -np.inf, 0.0], np.float32), np.array([1.0, np.inf, 2.0], np.float32))
DOUBLES = spaces.Box(-3.0, 3.0, (2, 2), np.float64)
LARGE, SMALL = spaces.Box(0, 255, (36, 37, 1), np.uint8), spaces.Box(0, 255, (2, 10, 10), np.uint8)
PARTS = spaces.Dict(
    {
        "a": BOX,
        "b": spaces.MultiDiscrete([2, 3], start=[1, 0]),
        "nested": spaces.Tuple([spaces.Discrete(3, start=2), spaces.MultiBinary(2)]),
        "picture": SMALL,
    }
)
FINITE = spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)])
ONE = spaces.Discrete(4, start=2)
SEVERAL = spaces.MultiDiscrete([2, 3], start=[5, 0])
MOVES = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
# float32 holds neither bound, and both would be rounded outwards.
DOUBLE_MOVES = spaces.Box(-0.7, 0.7, (2,), np.float64)
HALF_MOVES = spaces.Box(-0.7, 0.7, (2,), np.float16)
OPEN_MOVES = spaces.Box(np.array([-np.inf, -1e300]), np.array([np.inf, 1e300]), dtype=np.float64)
NET = {"net_arch": [4]}
ONNX_AND_HLO = pytest.mark.parametrize("to", list(FORMATS))

CASES = {  # preset, observations, actions, masked, settings, policy_kwargs
    "ppo": ("ppo", BOX, ONE, False, {"normalize": True}, {}),
    "ppo masks": ("ppo", BOX, SEVERAL, True, {}, {}),
    "ppo binary": ("ppo", BOX, spaces.MultiBinary(3), True, {}, {}),
    "ppo parts": ("ppo", PARTS, MOVES, False, {"normalize": True}, {"features_extractor_kwargs": {"cnn_features": 8}}),
    "ppo images": ("ppo", LARGE, MOVES, False, {}, {"features_extractor_kwargs": {"cnn_features": 8}}),
    "ppo float64": ("ppo", DOUBLES, DOUBLE_MOVES, False, {"normalize": True}, {}),
    "ppo float16": ("ppo", BOX, HALF_MOVES, False, {}, {}),
    "ppo open": ("ppo", BOX, OPEN_MOVES, False, {}, {}),
    "ppo lstm": ("ppo", PARTS, MOVES, False, {}, {"cell": "lstm", "hidden_size": 3}),
    "ppo gru": ("ppo", BOX, ONE, True, {"normalize": True}, {"cell": "gru", "hidden_size": 3}),
    "ppo transformer": ("ppo", BOX, ONE, False, {}, {"cell": "transformer", "d_model": 8, "context": 3}),
    **{f"ppo {name}": ("ppo", BOX, MOVES, False, {}, {"activation_fn": name})
       for name in ("relu", "elu", "gelu", "silu", "leaky_relu")},
    "reinforce": ("reinforce", BOX, ONE, False, {}, {}),
    "qac": ("qac", BOX, ONE, True, {}, {}),
    "trpo": ("trpo", BOX, MOVES, False, {}, {}),
    "off-pac": ("off-pac", BOX, ONE, False, {}, {}),
    "v-trace": ("v-trace", BOX, ONE, False, {}, {}),
    "acer": ("acer", BOX, ONE, False, {}, {}),
    "dqn": ("dqn", SMALL, ONE, True, {}, {"features_extractor_kwargs": {"cnn_features": 8}}),
    "dqn normalised": ("dqn", BOX, ONE, False, {"normalize_obs": True}, {"layer_norm": True}),
    "c51": ("c51", BOX, ONE, True, {"n_atoms": 5}, {}),
    "qr-dqn": ("qr-dqn", BOX, ONE, False, {"n_quantiles": 5}, {}),
    "iqn": ("iqn", BOX, ONE, True, {"n_quantiles": 5}, {}),
    "rainbow": ("rainbow", BOX, ONE, False, {"n_atoms": 5}, {}),
    "pqn": ("pqn", BOX, ONE, True, {}, {}),
    "soft-q": ("soft-q", BOX, ONE, False, {}, {}),
    "ddpg": ("ddpg", BOX, MOVES, False, {}, {}),
    "td3": ("td3", BOX, DOUBLE_MOVES, False, {}, {}),
    "sac": ("sac", PARTS, MOVES, False, {"normalize_obs": True}, {}),
    "discrete-sac": ("discrete-sac", BOX, ONE, True, {}, {}),
    "tqc": ("tqc", BOX, MOVES, False, {}, {}),
    "droq": ("droq", BOX, MOVES, False, {}, {}),
    "bc": ("bc", BOX, MOVES, False, {}, {}),
    "iql": ("iql", BOX, MOVES, False, {}, {}),
    "td3-bc": ("td3-bc", BOX, MOVES, False, {}, {}),
    "q-learning": ("q-learning", FINITE, ONE, True, {}, None),
    "double-q": ("double-q", spaces.Discrete(5, start=-2), ONE, False, {}, None),
    "mc": ("mc", spaces.MultiDiscrete([2, 3]), ONE, False, {}, None),
    "td-lambda-ac": ("td-lambda-ac", BOX, MOVES, False, {}, {}),
    "stream-ac": ("stream-ac", BOX, ONE, False, {}, {}),
}  # fmt: skip


def build(preset, observations, actions, masked=False, settings=None, network=None, scale=2.0):
    """An untrained model whose every parameter is random, statistics included."""
    network = {} if network is None else {"policy_kwargs": NET | network}
    model = MODELS[preset]("MlpPolicy", seed=3, **(settings or {}), **network)
    model.spec = Spec(observations, actions, 10, mask_length(actions) if masked else None)
    model.env_id = "Tiny-v0"
    rng = np.random.default_rng(0)

    def weights(x):
        size = 1 / np.sqrt(np.prod(x.shape[:-1])) if x.ndim > 1 else 0.1  # small biases: the input decides
        return (scale * size * rng.normal(size=x.shape)).astype(x.dtype)

    moments = lambda x: x + abs(rng.normal(size=x.shape)).astype(x.dtype)
    acting = model.algorithm.initial_acting(jax.random.key(1), model.spec)
    changes = {"net": jax.tree.map(weights, acting.net)}
    if acting.obs_moments is not None:
        changes["obs_moments"] = jax.tree.map(moments, acting.obs_moments)
    model._acting = type(acting)(**{f: getattr(acting, f) for f in acting.__dataclass_fields__} | changes)
    return model


def batch(model, n, rng):
    """(observations, state, episode_start, masks) of a batch, as `predict` takes them."""
    space = model.spec.observation_space
    space.seed(n)
    rows = [space.sample() for _ in range(n)]
    obs = jax.tree.map(lambda *x: np.stack(x), *rows)
    state, first, masks = model.policy.initial_memory(n), None, None
    if state is not None:
        state = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), state)
        first = rng.random(n) < 0.5
    if model.spec.mask_size is not None:
        masks = rng.random((n, model.spec.mask_size)) < 0.5
        masks[:, 1] = masks[:, -1] = True  # something is legal in every component
    return obs, state, first, masks


def feed(written, obs, state, first, masks):
    """The same by the file's names."""
    arrays = [*jax.tree.leaves(obs)]
    arrays += [masks] if masks is not None else []
    arrays += [first, *jax.tree.leaves(state)] if state is not None else []
    return {p.name: np.asarray(x) for p, x in zip(written.inputs, arrays, strict=True)}


def run(written, inputs):
    if written.to == "stablehlo":
        return jax_export.deserialize(written.path.read_bytes()).call(**inputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(written.path, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in written.outputs]
    assert [i.name for i in session.get_inputs()] == [p.name for p in written.inputs]
    assert [o.name for o in session.get_outputs()] == names
    return dict(zip(names, session.run(names, inputs), strict=True))


def agree(model, written, n, rng):
    """The file and `predict` on one batch; returns the actions."""
    obs, state, first, masks = batch(model, n, rng)
    action, after = model.predict(obs, state, first, deterministic=True, action_masks=masks)
    out = run(written, feed(written, obs, state, first, masks))
    got, port = np.asarray(out["action"]), written.outputs[0]
    assert got.dtype == port.dtype
    assert got.shape == action.shape == (n, *port.shape)
    if written.to == "onnx":
        assert got.dtype == model.action_space.dtype
    if np.issubdtype(action.dtype, np.floating):
        np.testing.assert_allclose(got, action, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, action)
    wide = got.astype(model.action_space.dtype)
    assert all(model.action_space.contains(row) for row in wide)
    for port, x in zip(written.outputs[1:], jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(out[port.name], x, rtol=1e-5, atol=1e-5)
    return got


FEW = ("ppo", "ppo masks", "ppo binary", "ppo parts", "ppo float64", "ppo lstm", "acer", "dqn", "iqn", "sac",
       "q-learning", "stream-ac")  # fmt: skip
"""Of StableHLO, which JAX itself writes, these; ONNX knows every operation by a rule of its own."""
ALIKE = ("reinforce", "qac", "trpo", "off-pac", "v-trace", "qr-dqn", "pqn", "ddpg", "discrete-sac", "tqc", "bc", "iql",
         "td3-bc", "td-lambda-ac")  # fmt: skip
"""Act by the same operations as others: `slow`."""


def marks(case, to):
    return () if (case not in ALIKE if to == "onnx" else case in FEW) else pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "to"),
    [pytest.param(case, to, marks=marks(case, to)) for case in CASES for to in FORMATS],
)
def test_the_file_acts_as_predict_does(case, to, tmp_path):
    model = build(*CASES[case])
    written = model.export(tmp_path / "policy", to)
    rng = np.random.default_rng(1)
    agree(model, written, 1, rng)
    actions = agree(model, written, 50, rng)
    assert len(np.unique(actions.reshape(50, -1), axis=0)) > 1  # else anything would agree


@ONNX_AND_HLO
def test_actions_beyond_the_bounds_are_clipped_into_them(to, tmp_path):
    for space in (MOVES, DOUBLE_MOVES):
        model = build("ppo", BOX, space, scale=100.0)
        got = agree(model, model.export(tmp_path / "policy", to), 50, np.random.default_rng(2))
        low, high = space.low.astype(got.dtype), space.high.astype(got.dtype)
        assert np.isclose(got, low, rtol=1e-6).any()
        assert np.isclose(got, high, rtol=1e-6).any()


@ONNX_AND_HLO
def test_memory_goes_in_and_comes_out(to, tmp_path):
    """A sequence with an episode's end in it, each side with its own memory."""
    model = build("ppo", BOX, MOVES, network={"cell": "lstm", "hidden_size": 3})
    written = model.export(tmp_path / "policy", to)
    states = [port.name for port in written.inputs if port.name.startswith("state")]
    assert states == ["state.0", "state.1"]
    assert [port.name for port in written.outputs] == ["action", "next_state.0", "next_state.1"]
    rng, first, state = np.random.default_rng(3), np.ones(2, bool), None
    memory = {name: np.full((2, 3), 9, np.float32) for name in states}  # the first rows forget it
    for _ in range(6):
        obs = rng.normal(size=(2, 3)).astype(np.float32)
        action, state = model.predict(obs, state, first, deterministic=True)
        out = run(written, {"observation": obs, "episode_start": first, **memory})
        np.testing.assert_allclose(out["action"], action, rtol=1e-5, atol=1e-5)
        memory = {name: np.asarray(out[f"next_{name}"]) for name in states}
        first = rng.random(2) < 0.4


FRESH = """
import sys
import jax.export, numpy as np
policy = jax.export.deserialize(open(sys.argv[1], "rb").read())
inputs = dict(np.load(sys.argv[2]))
np.savez(sys.argv[3], **policy.call(**inputs))
assert not {m.split(".")[0] for m in sys.modules} & {"actrix", "equinox", "gymnasium", "optax"}
"""


def test_stablehlo_runs_in_a_process_without_actrix(tmp_path):
    model = build("ppo", PARTS, SEVERAL, True, {"normalize": True}, {"cell": "gru", "hidden_size": 3})
    written = model.export(tmp_path / "policy", "stablehlo")
    obs, state, first, masks = batch(model, 5, np.random.default_rng(4))
    action, after = model.predict(obs, state, first, deterministic=True, action_masks=masks)
    np.savez(tmp_path / "in.npz", **feed(written, obs, state, first, masks))
    done = subprocess.run(
        [sys.executable, "-c", FRESH, written.path, tmp_path / "in.npz", tmp_path / "out.npz"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as file:
        out = dict(file)
    np.testing.assert_array_equal(out["action"], action)
    np.testing.assert_allclose(out["next_state"], after, rtol=1e-5, atol=1e-6)
    exported = jax_export.deserialize(written.path.read_bytes())
    assert exported.platforms == ("cpu", "cuda")


def test_an_onnx_file_says_what_it_holds_and_that_is_all_it_needs(tmp_path):
    model = build("sac", DOUBLES, DOUBLE_MOVES)
    written = model.export(tmp_path / "made" / "policy.onnx")
    proto = onnx.load(written.path)
    assert {p.key: p.value for p in proto.metadata_props} == {
        "algorithm": "sac", "env_id": "Tiny-v0", "actrix": importlib.metadata.version("actrix"),
    }  # fmt: skip
    assert [o.version for o in proto.opset_import if o.domain == ""] == [21]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert not any(x.external_data for x in proto.graph.initializer)
    assert [p.name for p in written.path.parent.iterdir()] == ["policy.onnx"]


@ONNX_AND_HLO
def test_the_command_writes_and_tells_how_to_run_it(to, tmp_path, capsys):
    model = build("ppo", PARTS, ONE, True, {}, {"cell": "lstm", "hidden_size": 3})
    path = model.save(tmp_path / "run" / "model")
    assert cli.main(["export", str(path.parent), "--to", to]) == 0
    text = capsys.readouterr().out
    written = path.with_suffix(FORMATS[to])
    assert f"wrote {written}" in text
    assert "observation.nested.0" in text
    assert "action_mask  bool [n, 4]" in text
    scope = {}
    exec("\n".join(line for line in text.splitlines()[-3:]), scope)
    assert np.asarray(scope["action"]).shape == (1,)
    assert cli.main(["export", str(path), "--to", to, "--out", str(tmp_path / "deep" / "er" / "p")]) == 0
    assert (tmp_path / "deep" / "er" / f"p{FORMATS[to]}").is_file()


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("preset", "actions"), [("cpi", ONE), ("td", ONE), ("td-lambda", ONE)], ids=lambda x: str(x)
)
@ONNX_AND_HLO
def test_a_policy_that_is_random_itself_is_refused(preset, actions, to, tmp_path):
    model = build(preset, FINITE, actions)
    with pytest.raises(ExportError, match=f"^{preset} cannot be exported: its policy draws each action"):
        model.export(tmp_path / "policy", to)
    assert not list(tmp_path.iterdir())


def test_formats_and_endings():
    assert output_path("a/policy", "onnx").name == "policy.onnx"
    with pytest.raises(ExportError, match="'torch' is no format to export to: choose onnx or stablehlo"):
        output_path("policy", "torch")
    with pytest.raises(ExportError, match=r"ends in \.onnx; a file of stablehlo must end in \.stablehlo"):
        output_path("policy.onnx", "stablehlo")


def test_mistakes_on_the_command_line(tmp_path, capsys):
    path = build("ppo", BOX, ONE).save(tmp_path / "model")
    assert cli.main(["export", str(path), "--to", "onnx", "--out", str(tmp_path / "a.pt")]) == 2
    assert "must end in .onnx" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "none"), "--to", "onnx"]) == 2
    assert "no model file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["export", str(path), "--to", "torch"])


def test_without_its_packages_onnx_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    model = build("ppo", BOX, ONE)
    with pytest.raises(ImportError, match=r'pip install "actrix\[export\]"'):
        model.export(tmp_path / "policy")
    model.export(tmp_path / "policy", "stablehlo")


def test_without_its_package_stablehlo_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r'StableHLO needs flatbuffers .*pip install "actrix\[export\]"'):
        build("ppo", BOX, ONE).export(tmp_path / "policy", "stablehlo")
    assert not list(tmp_path.iterdir())


def test_parts_with_one_name_are_refused(tmp_path):
    space = spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})})
    with pytest.raises(ExportError, match=r"would both be named 'observation\.a\.b'"):
        build("ppo", space, ONE).export(tmp_path / "policy")


def custom(function):
    """A model with a network of the user's own: `function` of the observation, as logits."""
    import equinox as eqx

    class Net(eqx.Module):
        scale: jax.Array

        def __call__(self, obs):
            return function(obs * self.scale), jax.numpy.zeros(())

    model = MODELS["ppo"](lambda spec, key: Net(jax.numpy.arange(1.0, 4.0)), seed=0)
    model.spec = Spec(BOX, spaces.Discrete(3), 10)
    model._acting = model.algorithm.initial_acting(jax.random.key(0), model.spec)
    return model


def test_a_network_of_ones_own_is_exported_from_python_and_refused_from_a_file(tmp_path, capsys):
    model = custom(jax.numpy.sin)
    for to in FORMATS:
        agree(model, model.export(tmp_path / "policy", to), 20, np.random.default_rng(5))
    path = model.save(tmp_path / "model")
    assert cli.main(["export", str(path), "--to", "stablehlo"]) == 2
    assert "was saved with a network of the user's own" in capsys.readouterr().err


def test_what_onnx_does_not_have_is_refused_and_the_old_file_kept(tmp_path):
    model = custom(lambda x: jax.numpy.linalg.eigh(x[:, None] * x[None, :])[0])
    (tmp_path / "policy.onnx").write_text("old")
    with pytest.raises(
        ExportError, match=r"this ppo policy cannot be written as ONNX \(.*export it to stablehlo"
    ):
        model.export(tmp_path / "policy.onnx")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("policy.onnx", "old")]
    agree(model, model.export(tmp_path / "policy", "stablehlo"), 20, np.random.default_rng(6))


@ONNX_AND_HLO
def test_what_calls_back_into_python_is_refused(to, tmp_path):
    shape = jax.ShapeDtypeStruct((3,), np.float32)
    model = custom(lambda x: jax.pure_callback(np.sin, shape, x, vmap_method="sequential"))
    with pytest.raises(ExportError, match=r"this ppo policy cannot be written as .*callback"):
        model.export(tmp_path / "policy", to)


def test_a_wrong_conversion_is_found(tmp_path, monkeypatch):
    jax2onnx = importlib.import_module("jax2onnx")
    convert = jax2onnx.to_onnx
    monkeypatch.setattr(jax2onnx, "to_onnx", lambda f, *a, **k: convert(lambda x: (f(-x)[0],), *a, **k))
    with pytest.raises(ExportError, match="onnxruntime gets other actions"):
        build("ppo", BOX, MOVES).export(tmp_path / "policy")
    assert not list(tmp_path.iterdir())


def test_exporting_leaves_logging_and_the_model_as_they_were(tmp_path):
    model = build("ppo", BOX, ONE)
    before = (logging.root.handlers[:], logging.root.manager.disable, jax.config.jax_enable_x64, jnp.cumsum)
    parameters = model.get_parameters()
    state = model.observation_space.np_random.bit_generator.state
    model.export(tmp_path / "policy")
    assert before == (
        logging.root.handlers,
        logging.root.manager.disable,
        jax.config.jax_enable_x64,
        jnp.cumsum,
    )
    assert model.observation_space.np_random.bit_generator.state == state
    for name, x in model.get_parameters().items():
        np.testing.assert_array_equal(x, parameters[name])
