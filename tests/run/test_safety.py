"""Opening a stranger's file: nothing in it runs, nothing is lost, every refusal says what and where."""

import ast
import builtins
import hashlib
import io
import json
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from gymnasium import spaces
from tiny_models import CASES, same, tiny

import actrix
from actrix import PPO, Model, cli
from actrix.core.types import Spec
from actrix.envs.build import UnknownEnvError
from actrix.envs.probes import ActionObs, ContinuousTarget
from actrix.files import container
from actrix.files.container import ModelFileError
from actrix.runs import start as experiment
from actrix.show.log import Logger

GOLDEN = Path(__file__).parent.parent / "golden"
SOURCE = Path(actrix.__file__).parent


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


@pytest.fixture
def path(tmp_path):
    return tiny("ppo").save(tmp_path / "model")


def forge(path, change=lambda meta: None, tensors=lambda header, body: (header, body), out=None):
    """The same file with other metadata or tensors and right checksums."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:start]), data[start:]
    texts = header.pop("__metadata__")
    header, body = tensors(header, bytearray(body))
    meta = json.loads(texts["actrix"])
    changed = change(meta)
    blank = {"sha256": hashlib.sha256(body).hexdigest(), "sha256.header": "0" * 64}
    text = json.dumps(meta if changed is None else changed)
    header = {"__metadata__": {"actrix": text, **blank}, **header}
    out = out or path.with_name("forged.safetensors")
    out.write_bytes(container.sealed(json.dumps(header, separators=(",", ":")).encode()) + bytes(body))
    return out


# ---------------------------------------------------------------------------- nothing in a file runs


def payloads(canary):
    """Files that would make the canary if any of the usual readers of code read them."""
    evil = pickle.dumps(Evil(canary))
    archive, array = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:  # what PyTorch and Stable-Baselines3 write
        file.writestr("data.pkl", evil)
        file.writestr("archive/data.pkl", evil)
        file.writestr("data", json.dumps({"policy_class": {":type:": "x", ":serialized:": "eA=="}}))
    np.save(array, np.array([Evil(canary)], dtype=object), allow_pickle=True)
    code = f"open({str(canary)!r}, 'w')".encode()
    return [evil, archive.getvalue(), array.getvalue(), code, b"!!python/object/apply:os.system [x]"]


@pytest.mark.parametrize(
    "suffix", ["safetensors", "pkl", "pt", "pth", "zip", "npz", "npy", "json", "joblib", "py", ""]
)
def test_code_under_any_name_is_refused_and_never_runs(suffix, tmp_path):
    """Item 1: pickles, archives of them, object arrays, source: refused whatever the file is called."""
    canary = tmp_path / "canary"
    path = tmp_path / f"model.{suffix}".rstrip(".")
    for data in payloads(canary):
        path.write_bytes(data)
        for read in (Model.load, PPO.load, container.read_meta, container.read_header):
            with pytest.raises(ModelFileError, match=re.escape(str(path))):
                read(path)
        assert cli.main(["eval", str(path)]) == cli.main(["inspect", str(path)]) == cli.EXIT_USAGE
    assert not canary.exists()
    with open(tmp_path / "proof.pkl", "wb") as file:
        file.write(payloads(canary)[0])
    pickle.loads((tmp_path / "proof.pkl").read_bytes()).close()  # the payload does work
    assert canary.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"policy_kwargs": {"module": "os.system"}},
        {"policy_kwargs": {"features_extractor_class": "os:system"}},
        {"policy_kwargs": {"activation_fn": "lambda x: x"}},
        {"policy_kwargs": {"activation_fn": "actrix.cli.main"}},
        {"policy_kwargs": {"net_arch": "__import__('os')"}},
        {"optimizer": "os.system"},
        {"learning_rate": "lambda p: p"},
        {"env": "evil:Env-v0"},
        {"dataset": "/etc"},
        {"tensorboard_log": "/tmp/x"},
        {"policy": "evil.Policy"},
        {"reference": "model"},
        {"class": "evil.Model"},
        {":serialized:": "gASVAA=="},
        {"critic": "evil.critic"},
    ],
)
def test_a_config_that_names_code_is_refused(settings, path):
    """Item 2: only names from the table of algorithms and its settings mean anything."""
    loaded = set(sys.modules)

    def change(meta):
        meta["settings"] |= settings

    with pytest.raises(ModelFileError, match=r"forged\.safetensors.*sett"):
        Model.load(forge(path, change))
    for name in ("os", "evil.Model", "actrix.model.PPO", "PPO", "__class__"):
        with pytest.raises(ModelFileError, match=f"forged.*unknown algorithm '{re.escape(name)}'"):
            Model.load(forge(path, lambda meta, name=name: meta.update(algorithm=name)))
    assert not {name for name in set(sys.modules) - loaded if "evil" in name}


def test_loading_does_not_import_what_the_environment_id_names(tmp_path, monkeypatch):
    """Item 3: the id is text; playing such a model needs the id from the user."""
    (tmp_path / "evil_module.py").write_text("open('canary', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = tiny("ppo")
    model.env_id = "evil_module:Env-v0"
    path = model.save("evil")
    loaded = Model.load(path)
    assert loaded.env_id == "evil_module:Env-v0"
    with pytest.raises(UnknownEnvError, match="would import a module: if you trust it, give --env"):
        experiment.model_env_id(loaded)
    assert cli.main(["inspect", str(path)]) == 0
    assert cli.main(["eval", str(path)]) == cli.EXIT_USAGE
    assert "evil_module" not in sys.modules
    assert not (tmp_path / "canary").exists()


def test_a_refused_file_is_not_tried_with_another_reader(path, monkeypatch):
    """Item 4: after a refusal nothing else reads: no pickle, no archive, no array loader, no import."""
    path.write_bytes(path.read_bytes()[:-1])
    other = path.with_name("other")
    other.write_bytes(payloads(path.with_name("canary"))[1])

    def never(*args, **kwargs):
        raise AssertionError("a fallback reader was called")

    readers = {pickle: ("load", "loads", "Unpickler"), np: ("load", "fromfile"), zipfile: ("ZipFile",),
               safetensors: ("safe_open",), builtins: ("eval", "exec")}  # fmt: skip
    for where, name in [(where, name) for where, names in readers.items() for name in names]:
        monkeypatch.setattr(where, name, never)
    for file in (path, other):
        with pytest.raises(ModelFileError):
            Model.load(file)


FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "torch",
             "imp", "multiprocessing"}  # fmt: skip
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "import_module",
    "load_module",
    "exec_module",
    "unsafe_load",
    "full_load",
    "resolve_name",
}


IMPORTERS = ("envs/build.py", "envs/agents/make.py", "track/base.py")


def test_the_source_has_no_reader_of_code():
    """No module imports a pickle, imports by name or evaluates text; one room starts processes, which pickle once."""
    users, wrong = set(), []
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                if FORBIDDEN & {name.split(".")[0] for name in names}:
                    users.add(file)
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            owner = getattr(getattr(function, "value", None), "id", "")
            safe = any(
                k.arg == "allow_pickle" and getattr(k.value, "value", 1) is False for k in node.keywords
            )
            # The module that the user typed; `check_inert` refuses those of files, as the tests of each reader show.
            # Or one of a table: PettingZoo's own games, the three trackers.
            typed = file.relative_to(SOURCE).as_posix() in IMPORTERS and name == "import_module"
            own = typed or (node.args and ast.unparse(node.args[0]).lstrip("f'\"").startswith("actrix."))
            if (name in CALLS and owner not in ("re", "jax") and not own) or (
                owner == "yaml" and name == "load"
            ):
                wrong.append(f"{file}:{node.lineno} calls {name}")
            if owner in ("np", "numpy", "jnp") and name == "load" and not safe:
                wrong.append(f"{file}:{node.lineno} calls {owner}.load without allow_pickle=False")
    assert not wrong
    rooms = {file.parent for file in users}
    assert rooms == {SOURCE / "envs" / "workers", SOURCE / "remote"}, "pickles travel in two rooms only"


# ---------------------------------------------------------------------------- nothing is lost


def test_a_save_that_fails_midway_leaves_the_old_file(path, monkeypatch):
    """Item 5: the new file is written beside, flushed, renamed, the folder flushed; a fault anywhere keeps the old."""
    before = path.read_bytes()
    flushed = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        flushed.append("fsync")
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *a: (flushed.append("rename"), real_replace(*a)))
    tiny("ppo").save(path)
    assert flushed == ["fsync", "rename", "fsync"]

    def full(*args):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space"):
                tiny("sac").save(path)
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_names_in_a_file_lead_nowhere_and_links_are_replaced_not_followed(path, tmp_path):
    """Item 12: tensors called ../x or /x are unknown tensors; saving over a link leaves what it pointed to."""
    before = sorted(tmp_path.rglob("*"))

    def rename(header, body):
        first = next(iter(header))
        return {{first: "../../escaped"}.get(name, name): entry for name, entry in header.items()}, body

    with pytest.raises(ModelFileError, match=r"unknown \.\./\.\./escaped"):
        Model.load(forge(path, tensors=rename))
    for name in ("../../x-v0", "/etc/passwd", "..\\x"):
        loaded = Model.load(forge(path, lambda meta, name=name: meta.update(env_id=name)))
        assert loaded.env_id == name
    (tmp_path / "forged.safetensors").unlink()
    assert sorted(tmp_path.rglob("*")) == before
    target, link = tmp_path / "precious", tmp_path / "link.safetensors"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    tiny("ppo").save(link)
    assert target.read_bytes() == b"precious"
    assert not link.is_symlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="no model file"):
        Model.load(tmp_path / "pipe")  # would wait for ever


@pytest.mark.parametrize("resume_step", [None, 10])
def test_a_log_that_leads_elsewhere_is_refused(tmp_path, resume_step):
    """Rows are appended to no link's target, and a pipe is not waited for."""
    precious = tmp_path / "precious.csv"
    precious.write_text("time/total_timesteps\n1\n")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.csv").symlink_to(precious)
    with pytest.raises(ValueError, match="no regular file"):
        Logger(folder, resume_step=resume_step)
    assert precious.read_text() == "time/total_timesteps\n1\n"
    (folder / "metrics.csv").unlink()
    os.mkfifo(folder / "metrics.csv")
    with pytest.raises(ValueError, match="no regular file"):
        Logger(folder, resume_step=resume_step)


# ---------------------------------------------------------------------------- what is refused, and how


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 10**9, 2**24 + 1])
def test_a_header_longer_than_the_file_is_refused(length, path):
    """Item 7."""
    data = path.read_bytes()
    path.write_bytes(length.to_bytes(8, "little") + data[8:])
    with pytest.raises(ModelFileError, match=f"its header would have {length} bytes of {len(data)}"):
        Model.load(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"data_offsets": [4, 8]}, "must stand at"),
        ({"data_offsets": [-4, 0]}, "whole numbers of at least 0"),
        ({"data_offsets": [0, 2**63]}, "must stand at"),
        ({"shape": [2**32, 2**32]}, "must stand at"),
        ({"shape": [2**63]}, "must stand at"),
        ({"shape": [-1]}, "whole numbers of at least 0"),
        ({"shape": [1.5]}, "whole numbers"),
        ({"dtype": "O"}, "has dtype 'O'; known are"),
        ({"more": 1}, "dtype, shape and data_offsets and nothing else"),
    ],
)
def test_tensors_must_stand_one_after_the_other(entry, message, path):
    """Items 8 and 9: overlaps, holes, negative offsets, products beyond 64 bits."""

    def change(header, body):
        name = next(iter(header))
        return header | {name: header[name] | entry}, body

    with pytest.raises(ModelFileError, match=message):
        Model.load(forge(path, tensors=change))


def test_strict_json(path):
    """Item 10: a key twice, NaN, infinity, endless depth; the sentence says which."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"]["sha256.header"] = "0" * 64
    text = json.dumps(header, separators=(",", ":"))
    for wrong, message in (
        (text[:-1] + ',"z":1,"z":2}', "its header is not the JSON .*the key 'z' occurs twice"),
        (text[:-1] + ',"z":NaN}', "NaN is no number of JSON"),
        (text[:-1] + ',"z":1e999}', "1e999 is no number"),
        (text[:-1] + ',"z":' + "[" * 10**5, "nested too deeply"),
        (text.replace("seed", "env_id", 1), "its metadata is not the JSON .*'env_id' occurs twice"),
    ):
        path.write_bytes(container.sealed(wrong.encode()) + data[start:])
        with pytest.raises(ModelFileError, match=message):
            Model.load(path)


def test_every_difference_is_listed(path):
    """Item 13: missing, added and renamed tensors and another dtype, all in one sentence."""

    def change(header, body):
        names = list(header)
        swapped = {"F32": "I32", "I32": "F32"}[header[names[1]]["dtype"]]
        header[names[1]] = header[names[1]] | {"dtype": swapped}
        return {{names[0]: ".renamed"}.get(name, name): entry for name, entry in header.items()}, body

    with pytest.raises(
        ModelFileError, match=r"does not fit: .*expected float32.*missing \..*unknown \.renamed"
    ):
        Model.load(forge(path, tensors=change))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (".weight", np.nan, "weight holds non-finite numbers"),
        (".weight", -np.inf, "weight holds non-finite numbers"),
        (".var", -1.0, r"\.var holds negative numbers"),
        (".count", np.nan, r"\.count holds non-finite numbers"),
        (".count", -1.0, r"\.count holds negative numbers"),
    ],
)
def test_numbers_that_cannot_be_are_refused(part, value, message, path):
    """Item 14: NaN weights, negative variances, a count of NaN."""

    def change(header, body):
        begin = next(entry["data_offsets"][0] for name, entry in header.items() if name.endswith(part))
        body[begin : begin + 4] = np.float32(value).tobytes()
        return header, body

    with pytest.raises(ModelFileError, match=message):
        Model.load(forge(path, tensors=change))


@pytest.mark.parametrize(
    ("case", "bounds", "message"),
    [
        ("sac", {"low": 2, "high": -2}, "low values must be less"),
        ("sac", {"low": 1, "high": 1}, "low 1.0 >= high 1.0"),
        ("sac", {"low": "nan", "high": 1}, "nan"),
        ("sac", {"low": -1, "high": [1, 1e300]}, "overflow"),
        ("sac", {"low": "-inf", "high": "inf"}, "infinite bounds: a tanh actor needs finite ones"),
        ("ppo-lstm", {"low": 2, "high": -2}, "low values must be less"),
        ("sac", {"low": -1, "high": 1, "shape": [3]}, "does not fit"),
    ],
)
def test_action_bounds_that_cannot_be_are_refused(case, bounds, message, tmp_path):
    """Item 15: inverted, equal, NaN or (where the actor needs finite ones) infinite bounds."""
    path = tiny(case).save(tmp_path / case)
    with pytest.raises(ModelFileError, match=message):
        Model.load(forge(path, lambda meta: meta["spec"]["action_space"].update(bounds)))


def test_other_formats_are_refused_with_the_way_out(path):
    """Item 16: a newer format asks for a newer version, the unreleased format 0 for training anew."""
    for version, message in ((2, "has format 2; this version reads 1: upgrade actrix"), (10**30, "upgrade actrix"),
                             (0, "has format 0.*retrain the model, or convert it"), ("1", "must be a whole number"),
                             (True, "whole number"), (-1, "whole number")):  # fmt: skip
        with pytest.raises(ModelFileError, match=message):
            Model.load(forge(path, lambda meta, version=version: meta.update(format=version)))
    old = {"actrix": json.dumps({"format": 0, "kind": "model"}), "sha256": "0" * 64}
    path.write_bytes(safetensors.numpy.save({"x": np.zeros(2)}, metadata=old))  # as format 0 was written
    with pytest.raises(ModelFileError, match=r"format 0.*retrain the model, or convert it"):
        Model.load(path)


GOLDEN_FILES = sorted(GOLDEN.glob("format-*/*.safetensors"))


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_golden_files_load_and_act_as_when_they_were_written(path):
    """Item 16: files of every released format keep loading and predict the recorded actions."""
    recorded = json.loads((path.parent / "actions.json").read_text())[path.stem]
    model = Model.load(path)
    assert model.preset.name == recorded["algorithm"]
    state = None
    for listed, action in zip(recorded["observations"], recorded["actions"], strict=True):
        obs = jax.tree.map(np.asarray, listed, is_leaf=lambda x: isinstance(x, list))
        ours, state = model.predict(obs, state, deterministic=True)
        np.testing.assert_allclose(ours, action, rtol=1e-4, atol=1e-5)
    assert path.stat().st_size <= 30_000
    assert model.run.steps == 2**40


def test_golden_files_exist_for_every_case_of_this_format():
    """A format without golden files would not be promised."""
    assert {p.stem for p in GOLDEN_FILES if p.parent.name == f"format-{container.FORMAT}"} == set(CASES)


def test_a_normaliser_of_another_run_is_refused(tmp_path):
    """Item 17: policy and statistics have one checksum, so those of two runs cannot be put together."""
    one, two = tiny("sac"), tiny("sac")
    two._acting = jax.tree.map(lambda x: x + x, two._acting)
    a, b = (model.save(tmp_path / name) for name, model in (("a", one), ("b", two)))
    header = container.read_header(a)
    spliced, at = bytearray(a.read_bytes()), header.start
    for name, tensor in header.tensors.items():
        if "obs_moments" in name:
            spliced[at : at + tensor.size] = b.read_bytes()[at : at + tensor.size]
        at += tensor.size
    a.write_bytes(bytes(spliced))
    with pytest.raises(ModelFileError, match="tensors do not match their checksum"):
        Model.load(a)


def test_an_environment_with_other_spaces_is_refused_with_the_difference(tmp_path):
    """Item 18."""
    model = tiny("ppo")
    path = model.save(tmp_path / "ppo")
    with pytest.raises(
        ValueError, match=r"observation_space is Box\(.*\(2,\).*, the model's is Box\(.*\(3,\)"
    ):
        Model.load(path, env=ActionObs())
    with pytest.raises(ValueError, match="environment's observation_space is"):
        Model.load(path).set_env(ContinuousTarget())
    assert same(Model.load(path), model)


def test_names_cannot_steer_the_terminal(path, capsys, tmp_path):
    """Item 19: escape sequences and line ends of a file are printed as \\x1b and \\n."""
    evil = "\x1b[2J\x1b]0;owned\x07\r\n\u202e"

    def rename(header, body):
        return {(evil if i == 0 else name): entry for i, (name, entry) in enumerate(header.items())}, body

    with pytest.raises(ModelFileError) as error:
        Model.load(forge(path, tensors=rename))
    assert str(error.value).isprintable()
    assert r"\x1b[2J" in str(error.value)
    titled = forge(
        path, lambda meta: meta.update(env_id=evil, env_kwargs={evil: evil}), out=tmp_path / "titled"
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"algorithm": evil, "seeds": [0]}))
    forged = str(path.with_name("forged.safetensors"))
    for argv in (["inspect", str(titled)], ["eval", str(titled)], ["inspect", forged], ["resume", str(run)],
                 ["eval", str(tmp_path / evil.replace("\n", ""))]):  # fmt: skip
        cli.main(argv)
    out, err = capsys.readouterr()
    assert r"\x1b[2J" in out
    assert r"\x1b[2J" in err
    for text in (out, err):
        assert not {c for c in text if not c.isprintable()} - {"\n"}


def test_files_are_plain_safetensors(path):
    """Any reader of safetensors reads the tensors and the metadata's JSON."""
    with safetensors.safe_open(str(path), "numpy") as file:
        assert json.loads(file.metadata()["actrix"])["algorithm"] == "ppo"
        model = Model.load(path)
        names = container.leaf_names(model.acting)
        assert sorted(file.keys()) == sorted(names)
        for name, leaf in zip(names, jax.tree.leaves(model.acting), strict=True):
            np.testing.assert_array_equal(file.get_tensor(name), leaf)


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_loads_equal(case, tmp_path):
    """Parameters, settings and spaces by the last bit, the counter beyond 2³¹."""
    model = tiny(case)
    loaded = Model.load(model.save(tmp_path / case))
    again = Model.load(loaded.save(tmp_path / "again"))
    assert same(loaded, model)
    assert same(again, model)
    assert again.num_timesteps == 2**40
    assert again.n_envs == 8


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    """An observation of more numbers than a reader makes room for."""
    model = tiny("q-learning")
    model.spec = Spec(spaces.MultiBinary(2**25), model.spec.action_space)
    with pytest.raises(ModelFileError, match="more than 16777216 numbers"):
        model.save(tmp_path / "large")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- inspect


def test_inspect_prints_a_file_without_building_anything(path, capsys, monkeypatch):
    """Algorithm, settings, spaces, provenance and every tensor; no environment, no model."""

    def never(*args, **kwargs):
        raise AssertionError("inspect built something")

    folder = path.parent / "run"
    tiny("sac").save(folder / "model")
    for name in ("make", "make_vec", "spec"):
        monkeypatch.setattr(f"gymnasium.{name}", never)
    monkeypatch.setattr(Model, "__init__", never)
    monkeypatch.setattr(spaces.Box, "__init__", never)
    assert cli.main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    for part in ("ppo", "format 1", "Tiny-v0", "1099511627776", "Box(3) float32", "Discrete(2)", "lin_0.001", "seed",
                 ".net.pi.layers[0].weight", "float32[3, 4]", "jax"):  # fmt: skip
        assert part in out, part
    assert cli.main(["inspect", str(folder)]) == 0
    assert "sac" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    assert cli.main(["inspect", str(path)]) == cli.EXIT_USAGE
    assert "do not match their checksum" in capsys.readouterr().err
