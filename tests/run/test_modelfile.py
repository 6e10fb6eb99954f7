"""Model files: what is written is read; what is damaged, foreign or does not fit is refused, all listed."""

import hashlib
import json

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from actrix.core.types import Spec
from actrix.files import container, modelfile
from actrix.files.container import ModelFileError
from actrix.files.spaces import space_from_json, space_to_json, spec_from_json, spec_to_json

TREE = {
    "w": jnp.arange(6.0).reshape(2, 3),
    "n": jnp.asarray(3, jnp.int32),
    "s": {"var": jnp.ones(()), "e": jnp.zeros((0, 2))},
}
META = {"kind": "test", "text": "ünï \x1b[31m", "list": [1, 2.5, None]}


@pytest.fixture
def path(tmp_path):
    return modelfile.save(tmp_path / "file", META, TREE)


def write(path, tree, meta=None):
    """A file with right checksums, whatever it holds."""
    arrays = {k: np.asarray(v) for k, v in tree.items()}
    data = b"".join(x.tobytes() for x in arrays.values())
    text = json.dumps({"format": container.FORMAT} | (meta or {}))
    entries = {k: (x.dtype, x.shape) for k, x in arrays.items()}
    path.write_bytes(container.header_bytes(text, entries, hashlib.sha256(data).hexdigest()) + data)
    return path


def flat(tree=TREE):
    import jax

    return dict(zip(container.leaf_names(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def test_round_trip(path):
    assert path.name == "file.safetensors"
    assert container.read_meta(path) == META | {"format": container.FORMAT}
    read = container.read_tree(path.with_suffix(""), TREE)
    assert {k: (v.tolist(), v.dtype, v.shape) for k, v in flat(read).items()} == {
        k: (v.tolist(), v.dtype, v.shape) for k, v in flat().items()
    }
    assert container.find(path.parent / "file") == path
    folder = modelfile.save(path.parent / "run" / "model", META, TREE).parent
    assert container.find(folder) == folder / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="looked for"):
        container.find(path.parent / "other")


def test_every_truncation_and_every_flipped_byte_is_refused(path, tmp_path):
    data = path.read_bytes()
    broken = tmp_path / "broken.safetensors"
    rng = np.random.default_rng(0)
    for i in range(len(data)):
        broken.write_bytes(data[:i])
        with pytest.raises(ModelFileError):
            container.read_tree(broken, TREE)
        flipped = bytearray(data)
        flipped[i] ^= 1 << int(rng.integers(8))
        broken.write_bytes(bytes(flipped))
        with pytest.raises(ModelFileError):
            container.read_meta(broken)
    broken.write_bytes(data + b"\0")
    with pytest.raises(ModelFileError):
        container.read_tree(broken, TREE)


def test_differences_are_all_listed(tmp_path):
    tree = flat()
    tree["['renamed']"] = tree.pop("['w']")
    tree["['n']"] = np.zeros(2, np.float32)
    with pytest.raises(ModelFileError) as error:
        container.read_tree(write(tmp_path / "x.safetensors", tree), TREE)
    for part in ("missing ['w']", "unknown ['renamed']", "['n'] is float32[2], expected int32[]"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("['w']", np.full((2, 3), np.nan, np.float32), r"\['w'\] holds non-finite"),
        ("['w']", np.full((2, 3), np.inf, np.float32), r"\['w'\] holds non-finite"),
        ("['w']", np.zeros((2, 3), np.float64), "float64"),
        ("['w']", np.zeros((3, 2), np.float32), "expected float32"),
        ("['s']['var']", np.float32(1), None),
    ],
)
def test_unfit_tensors(tmp_path, name, value, message):
    path = write(tmp_path / "x.safetensors", flat() | {name: value})
    if message is None:
        container.read_tree(path, TREE)
        return
    with pytest.raises(ModelFileError, match=message):
        container.read_tree(path, TREE)


def test_a_byte_that_is_neither_true_nor_false_is_refused(tmp_path):
    path = write(tmp_path / "x.safetensors", {"['b']": np.array([0, 2], np.uint8).view(bool)})
    with pytest.raises(ModelFileError, match=r"\['b'\] holds bytes that are neither true nor false"):
        container.read_tree(path, {"b": jnp.zeros(2, bool)})


def test_a_negative_variance_is_refused(tmp_path):
    from actrix.core.normalize import init_moments

    moments = init_moments((2,))
    path = write(tmp_path / "x.safetensors", flat(moments) | {".var": np.array([1, -1], np.float32)})
    with pytest.raises(ModelFileError, match=r"\.var holds negative"):
        container.read_tree(path, moments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"format": 99}), "upgrade actrix"),
        ("[1, 2]", "not the JSON"),
        ("{", "not the JSON"),
        ("[" * 100_000, "not the JSON"),
        (None, "not written by actrix"),
    ],
)
def test_foreign_metadata(tmp_path, text, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save(flat(), metadata=None if text is None else {container.KEY: text}))
    for read in (container.read_meta, lambda p: container.read_tree(p, TREE)):
        with pytest.raises(ModelFileError, match=message):
            read(path)


def test_pickles_and_empty_files_are_refused(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "x.safetensors"
    for data in (b"", b"\x80\x04c__builtin__\nopen\n(V%s\nVw\ntR." % str(canary).encode(), b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(ModelFileError):
            container.read_meta(path)
    assert not canary.exists()


def test_a_failed_save_keeps_the_old_file(path):
    with pytest.raises(ValueError, match="JSON"):
        modelfile.save(path, {"x": float("nan")}, TREE)
    assert container.read_meta(path)["kind"] == "test"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# --------------------------------------------------------------------------- spaces

small = st.integers(1, 3)
floats = {np.float32: st.floats(width=32, allow_nan=False), np.float64: st.floats(allow_nan=False)}


@st.composite
def boxes(draw):
    shape = tuple(draw(st.lists(small, max_size=3)))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.uint8, np.int64, np.int32]))
    kind = np.dtype(dtype)
    if kind.kind == "f":
        numbers = floats[dtype]
    else:
        numbers = st.integers(int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    n = int(np.prod(shape))
    a, b = (np.array(draw(st.lists(numbers, min_size=n, max_size=n)), kind).reshape(shape) for _ in range(2))
    return spaces.Box(np.minimum(a, b), np.maximum(a, b), shape, dtype)


discrete = st.builds(
    lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=dtype),
    small, st.integers(-5, 5), st.sampled_from([np.int64, np.int32]),
)  # fmt: skip
multi_discrete = st.lists(st.tuples(small, st.integers(-5, 5)), min_size=1, max_size=3).map(
    lambda rows: spaces.MultiDiscrete([n for n, _ in rows], start=[s for _, s in rows])
)
multi_binary = st.one_of(small, st.lists(small, min_size=2, max_size=2)).map(spaces.MultiBinary)
leaves = st.one_of(boxes(), discrete, multi_discrete, multi_binary)
every_space = st.recursive(
    leaves,
    lambda part: st.one_of(
        st.lists(part, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.text(min_size=1), part, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=4,
)


@given(every_space)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_spaces_survive_json(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space
    assert type(again) is type(space)
    spec = Spec(space, spaces.Discrete(2), 10, 2)
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


@pytest.mark.parametrize(
    "data",
    [
        {}, [], None, {"type": "os.system"}, {"type": "Box"},
        {"type": "Discrete", "n": -1, "start": 0, "dtype": "int64"},
        {"type": "Box", "shape": [2], "dtype": "object", "low": 0, "high": 1},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": [0], "high": [1]},
        {"type": "Tuple", "spaces": 3},
    ],
)  # fmt: skip
def test_bad_spaces(data):
    with pytest.raises(ModelFileError, match="cannot rebuild a space"):
        space_from_json(data)
    with pytest.raises(ModelFileError, match="Text cannot be stored"):
        space_to_json(gym.spaces.Text(3))
