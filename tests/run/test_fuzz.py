"""Mutants of real model files: each is refused by a ModelFileError that names the file, or loads equal.

`ACTRIX_FUZZ=1000000 pytest tests/run/test_fuzz.py` (`make fuzz`) makes more of them.
"""

import hashlib
import json
import os
import time
import tracemalloc

import jax
import numpy as np
import pytest
from tiny_models import CASES, same, tiny

from actrix.files import container
from actrix.files.container import ModelFileError
from actrix.model import Model

COUNT = int(os.environ.get("ACTRIX_FUZZ", 4500)) // len(CASES)
HUGE = [2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1, 10**18, 10**40, -1, -(2**63), 0, 1, 3]
NASTY = [None, True, -1, 0, 10**6, 2**63, 10**30, 1.5, 1e300, "", "x" * 3000, "os.system", "a:B-v0", "../../x",
         "\x1b[2J", "\ud800", [], [[]], [1] * 300, {}, {"a": {}}, "Infinity", "nan", [10**9, 10**9]]  # fmt: skip


class File:
    """One file in its parts: the header as data, the tensors as bytes."""

    def __init__(self, case, folder):
        self.path = tiny(case).save(folder / case)
        self.model = Model.load(self.path)
        self.template = jax.eval_shape(lambda: self.model.acting)
        self.take_apart()

    def take_apart(self):
        self.data = self.path.read_bytes()
        self.start = 8 + int.from_bytes(self.data[:8], "little")
        self.header = json.loads(self.data[8 : self.start])
        self.body = self.data[self.start :]
        self.names = [name for name in self.header if name != "__metadata__"]

    def fresh(self):
        return json.loads(json.dumps(self.header))

    def sealed(self, header, body=None):
        """A file with right checksums around a wrong header."""
        body = self.body if body is None else body
        blank = {"sha256": hashlib.sha256(body).hexdigest(), "sha256.header": "0" * 64}
        if isinstance(header, dict):
            header["__metadata__"] |= blank
            header = json.dumps(header, separators=(",", ":"))
        return container.sealed(header.encode()) + body


# ---------------------------------------------------------------------------- mutations of bytes


def cut(file, rng):
    return file.data[: rng.integers(len(file.data))]


def flip(file, rng):
    data = bytearray(file.data)
    for i in rng.integers(len(data), size=rng.integers(1, 4)):
        data[i] ^= int(rng.integers(1, 256))
    return bytes(data)


def flip_header(file, rng):
    data = bytearray(file.data)
    data[rng.integers(file.start)] ^= 1 << int(rng.integers(8))
    return bytes(data)


def splice(file, rng):
    i, j, k = sorted(rng.integers(len(file.data), size=3))
    parts = [file.data[:i] + file.data[j:], file.data[:j] + file.data[i:], file.data + file.data[i:j],
             file.data[:i] + file.data[j:k] + file.data[i:j] + file.data[k:],
             file.data[:i] + rng.bytes(j - i) + file.data[j:]]  # fmt: skip
    return parts[rng.integers(len(parts))]


def length(file, rng):
    n = (
        abs(HUGE[rng.integers(len(HUGE))]) % 2**64
        if rng.random() < 0.5
        else int(rng.integers(2 * len(file.data)))
    )
    return n.to_bytes(8, "little") + file.data[8:]


# ---------------------------------------------------------------------------- header games with right checksums


def offsets(file, rng):
    header, name = file.fresh(), file.names[rng.integers(len(file.names))]
    begin, end = header[name]["data_offsets"]
    other = header[file.names[rng.integers(len(file.names))]]["data_offsets"]
    huge = HUGE[rng.integers(len(HUGE))]
    choices = [[begin + 4, end + 4], [begin - 4, end - 4], [begin, end + 4], [begin + 4, end], [end, begin], other,
               [begin, huge], [huge, end], [float(begin), end], [str(begin), end], [begin], [begin, end, end], None,
               [True, end]]  # fmt: skip
    header[name]["data_offsets"] = choices[rng.integers(len(choices))]
    return file.sealed(header)


def shape(file, rng):
    header, name = file.fresh(), file.names[rng.integers(len(file.names))]
    old = header[name]["shape"]
    huge = HUGE[rng.integers(len(HUGE))]
    choices = [[huge], [2**32, 2**32], [huge, huge], [*old, huge], [*old, 1], old[::-1], [-n for n in old], [0], [],
               [1] * 33, [1.0], ["1"], None, 3, [[2]], [2**21] * 3, [True]]  # fmt: skip
    header[name]["shape"] = choices[rng.integers(len(choices))]
    return file.sealed(header)


def dtype(file, rng):
    header, name = file.fresh(), file.names[rng.integers(len(file.names))]
    header[name]["dtype"] = rng.choice(
        ["F32", "I32", "U32", "F64", "F16", "BF16", "BOOL", "O", "object", "", "f4"]
    )
    return file.sealed(header)


def entry(file, rng):
    header, name = file.fresh(), file.names[rng.integers(len(file.names))]
    choices = [None, [], 3, "x", {}, {**header[name], "extra": 1}, {"dtype": "F32", "shape": [0]}]
    header[name] = choices[rng.integers(len(choices))]
    return file.sealed(header)


def names(file, rng):
    header, name = file.fresh(), file.names[rng.integers(len(file.names))]
    new = rng.choice(
        ["x", "", name + "x", name[:-1], name.upper(), "../" + name, "\x1b]0;x\x07", "__metadata__x"]
    )
    kind = rng.integers(4)
    if kind == 0:  # renamed
        return file.sealed({(str(new) if key == name else key): value for key, value in header.items()})
    if kind == 1:  # added, of no size
        end = len(file.body)
        return file.sealed(header | {str(new): {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}})
    if kind == 2:  # left out, the last so that no hole is seen first
        begin, _ = header.pop(file.names[-1])["data_offsets"]
        return file.sealed(header, file.body[:begin])
    what = lambda key: (header[key]["dtype"], header[key]["shape"])
    others = [
        key for key in file.names if what(key) != what(name)
    ]  # alike ones may be exchanged: a model, too
    other = others[rng.integers(len(others))] if others else name + "x"
    swap = {name: other, other: name}
    return file.sealed({swap.get(key, key): value for key, value in header.items()})


def literal(file, rng):
    """Not the JSON it should be: a key twice, NaN, depth, another encoding."""
    header = file.fresh()
    header["__metadata__"] |= {"sha256.header": "0" * 64}
    text = json.dumps(header, separators=(",", ":"))
    name = json.dumps(file.names[rng.integers(len(file.names))])
    inner = file.header["__metadata__"]["actrix"]
    deep = "[" * int(rng.choice([500, 5000, 100_000]))
    games = [
        text.replace(name + ":", f"{name}:{{}},{name}:", 1),
        text.replace('"shape":', '"shape":[1],"shape":', 1),
        text.replace('"__metadata__":', '"__metadata__":{},"__metadata__":', 1),
        text[:-1] + f',"z":{deep}',
        text[:-1] + ',"z":NaN}',
        text[:-1] + ',"z":-Infinity}',
        text[:-1] + ',"z":1e999}',
        text[:-1] + ',"z":' + "9" * 5000 + "}",
        text + "x", "\ufeff" + text, "[" + text + "]",
    ]  # fmt: skip
    inner_games = [
        inner[:-1] + ', "seed": 3}',
        inner.replace('"seed": 3', '"seed": NaN'),
        inner.replace('"seed": 3', '"seed": Infinity'),
        inner.replace('"seed": 3', '"seed": 1e400'),
        inner[:-1] + f', "z": {deep}',
        inner[:-1],
        "null",
    ]
    i = int(rng.integers(len(games) + len(inner_games)))
    if i < len(games):
        return file.sealed(games[i])
    header["__metadata__"]["actrix"] = inner_games[i - len(games)]
    return file.sealed(header)


def numbers(file, rng):
    """NaN, infinity, or a negative variance or count."""
    body, header = bytearray(file.body), file.fresh()
    name = file.names[rng.integers(len(file.names))]
    begin, end = header[name]["data_offsets"]
    if begin == end or header[name]["dtype"] != "F32":
        return flip(file, rng)
    bad = rng.choice([np.nan, np.inf, -np.inf]) if not name.endswith((".var", ".count")) else -1.0
    at = begin + 4 * int(rng.integers((end - begin) // 4))
    body[at : at + 4] = np.float32(bad).tobytes()
    return file.sealed(header, bytes(body))


BYTES = (cut, flip, flip_header, splice, length)
GAMES = (offsets, shape, dtype, entry, names, literal, numbers)


def resident():
    """Bytes of memory in use, where the system says it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0


def outcome(path, data, load, named=None):
    with open(
        path, "r+b" if path.exists() else "xb"
    ) as out:  # written over: a new file costs ten times as much
        out.write(data)
        out.truncate()
    refusal, begun = "", time.monotonic()
    try:
        return load(path)
    except ModelFileError as error:
        refusal = str(error)
    finally:
        assert time.monotonic() - begun < 30, "reading took too long"
    assert str(named or path) in refusal if named else refusal.startswith(str(path)), refusal
    assert refusal.isprintable()
    assert len(refusal) < 5000
    return None


LONG = pytest.mark.timeout(0 if "ACTRIX_FUZZ" in os.environ else 240)  # each mutant has its own limit


@LONG
@pytest.mark.parametrize("case", CASES)
def test_mutants_are_refused_or_load_equal(case, tmp_path):
    """Cut anywhere, any byte flipped, header lengths, offsets, shapes, names, dtypes, JSON games, bad numbers."""
    file, rng, path = File(case, tmp_path), np.random.default_rng(len(case)), tmp_path / "mutant.safetensors"
    tree = lambda p: container.read_tree(p, file.template)
    before, refused = resident(), 0
    for i in range(COUNT):
        game = (BYTES + GAMES)[i % len(BYTES + GAMES)]
        data = game(file, rng)
        # Right checksums take a load to the comparison of tensors, which needs the settings only once.
        whole = game in BYTES or i % 600 < 12
        loaded = outcome(path, data, Model.load if whole else tree)
        refused += loaded is None
        if loaded is not None and whole:
            assert same(loaded, file.model), game.__name__
        elif loaded is not None:
            pairs = zip(jax.tree.leaves(loaded), jax.tree.leaves(file.model.acting), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs), game.__name__
    assert refused > 0.9 * COUNT
    assert resident() - before < 2**28


@pytest.mark.parametrize("case", ["q-learning", "composed"])
def test_every_cut_and_a_flip_of_every_byte_is_refused(case, tmp_path):
    """A file cut at any byte, or with a byte changed, never loads; nor does one with bytes after its end."""
    file, path = File(case, tmp_path), tmp_path / "mutant.safetensors"
    for i in range(len(file.data)):
        assert outcome(path, file.data[:i], Model.load) is None
        flipped = bytearray(file.data)
        flipped[i] ^= 1 << (i % 8)
        assert outcome(path, bytes(flipped), container.read_meta) is None
    assert outcome(path, file.data + b"\0", Model.load) is None


@LONG
@pytest.mark.parametrize("case", CASES)
def test_nasty_metadata_with_right_checksums(case, tmp_path):
    """Any value of any field, replaced: refused, or a model with the very same tensors; nothing is allocated."""
    file, rng, path = File(case, tmp_path), np.random.default_rng(0), tmp_path / "mutant.safetensors"
    before = resident()
    for way, data in nasty_metadata(file, rng, max(COUNT // 20, 100)):
        loaded = outcome(path, data, Model.load)
        if loaded is not None:
            pairs = zip(jax.tree.leaves(loaded.acting), jax.tree.leaves(file.model.acting), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs), way
    assert resident() - before < 2**28


def nasty_metadata(file, rng, count):
    """(place, file): values of the metadata replaced or taken out, one at a time, under right checksums."""
    meta = json.loads(file.header["__metadata__"]["actrix"])
    places = [*_places(meta)]
    for i in range(min(max(count, len(places)), 20_000)):
        changed = json.loads(json.dumps(meta))
        *way, last = places[i % len(places)]
        part = changed
        for step in way:
            part = part[step]
        if rng.random() < 0.1:
            del part[last]
        else:
            part[last] = NASTY[rng.integers(len(NASTY))]
        header = file.fresh()
        header["__metadata__"]["actrix"] = json.dumps(changed)
        yield places[i % len(places)], file.sealed(header)


def _places(value, way=()):
    """The path of every value inside nested JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*way, key)
        yield from _places(part, (*way, key))


@pytest.mark.parametrize("count", [257, 1e300, 1e4, 10**30])
def test_critics_without_end_are_refused_at_once(count, tmp_path):
    """A number that stands for a loop is bounded, also where it is written as a fraction's type."""
    file = File("sac", tmp_path)
    meta = json.loads(file.header["__metadata__"]["actrix"])
    meta["settings"]["n_critics"] = count
    header = file.fresh()
    header["__metadata__"]["actrix"] = json.dumps(meta)
    file.path.write_bytes(file.sealed(header))
    with pytest.raises(ModelFileError, match=r"n_critics is .*, above 256"):
        Model.load(file.path)


@pytest.mark.parametrize(
    "claim",
    [
        {"settings": {"policy_kwargs": {"pi": [10**6, 10**6], "vf": [4]}}},
        {"settings": {"policy_kwargs": {"pi": [10**18], "vf": [4]}}},
        {"settings": {"policy_kwargs": {"pi": [4] * 10_000, "vf": [4]}}},
        {"settings": {"policy_kwargs": {"cell": "lstm", "hidden_size": 10**7}}},
        {"settings": {"policy_kwargs": {"features_extractor_kwargs": [["cnn_features", 10**12]]}}},
        {
            "spec": {
                "observation_space": {
                    "type": "Box",
                    "shape": [10**13],
                    "dtype": "uint8",
                    "low": 0,
                    "high": 255,
                }
            }
        },
        {
            "spec": {
                "observation_space": {
                    "type": "Box",
                    "shape": [2**40] * 8,
                    "dtype": "uint8",
                    "low": 0,
                    "high": 1,
                }
            }
        },
        {"spec": {"observation_space": {"type": "Discrete", "n": 10**15, "start": 0, "dtype": "int64"}}},
        {"spec": {"observation_space": {"type": "MultiBinary", "shape": [10**12]}}},
        {"spec": {"action_space": {"type": "Discrete", "n": 10**15, "start": 0, "dtype": "int64"}}},
        {"spec": {"action_space": {"type": "MultiBinary", "shape": [2**23]}}},
    ],
)
def test_terabytes_declared_in_a_small_file_cost_no_memory(claim, tmp_path):
    """A config that asks for 10 TB is refused before anything of that size is made."""
    file = File("ppo", tmp_path)
    meta = json.loads(file.header["__metadata__"]["actrix"])
    for part, values in claim.items():
        for key, value in values.items():
            meta[part][key] = meta[part].get(key, {}) | value if key == "policy_kwargs" else value
    header = file.fresh()
    header["__metadata__"]["actrix"] = json.dumps(meta)
    tracemalloc.start()
    assert outcome(tmp_path / "claim.safetensors", file.sealed(header), Model.load) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**28
