import gc
import json
import os
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from actrix.files import atomic
from actrix.show.log import Logger, table
from actrix.show.metrics import read_metrics


def write(folder, steps, **kwargs):
    with Logger(folder, **kwargs) as log:
        for step in steps:
            log.record("rollout/ep_rew_mean", step / 3)
            log.dump(step)


def test_a_row_per_dump_read_back_exactly(tmp_path):
    with Logger(tmp_path) as log:
        log.record("train/loss", np.float64(0.1))
        log.record("train/n_updates", jnp.int32(4))
        log.record("train/approx_kl", jnp.float32(0.1))
        log.record("train/entropy_loss", jnp.bfloat16(2))
        assert log.values["train/loss"] == 0.1
        assert log.dump(2**40)["time/total_timesteps"] == 2**40
        log.record("train/loss", float("nan"))
        log.record("train/approx_kl", float("inf"))
        log.dump(2**40 + 1)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "time/total_timesteps,train/loss,train/n_updates,train/approx_kl,train/entropy_loss",
        "1099511627776,0.1,4,0.1,2.0",
        "1099511627777,,,inf,",
    ]
    metrics = read_metrics(tmp_path)
    np.testing.assert_array_equal(metrics["train/loss"], [0.1, np.nan])
    np.testing.assert_array_equal(metrics["train/approx_kl"], [0.1, np.inf])


def test_a_new_column_keeps_what_is_there(tmp_path):
    with Logger(tmp_path) as log:
        log.record("a", 1)
        log.dump(1)
        log.record("b, quoted", 2)
        log.dump(2)
        log.record("a", 3)
        log.dump(3)
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert list(metrics) == ["time/total_timesteps", "a", "b, quoted"]
    np.testing.assert_array_equal(metrics["a"], [1, np.nan, 3])
    np.testing.assert_array_equal(metrics["b, quoted"], [np.nan, 2, np.nan])
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_an_existing_log_is_not_replaced(tmp_path):
    write(tmp_path, [1])
    with pytest.raises(FileExistsError, match="pass resume_step"):
        Logger(tmp_path)
    assert len(read_metrics(tmp_path)["time/total_timesteps"]) == 1


def test_resume_at_every_torn_byte_leaves_no_duplicate_and_no_gap(tmp_path):
    write(tmp_path / "whole", range(100, 600, 100))
    data = (tmp_path / "whole/metrics.csv").read_bytes()
    start = len(b"".join(data.splitlines(keepends=True)[:4]))
    for cut in range(start, len(data) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "metrics.csv").write_bytes(data[:cut])
        assert read_metrics(folder)["time/total_timesteps"].tolist()[:3] == [100, 200, 300]
        write(folder, range(400, 600, 100), resume_step=300)
        assert (folder / "metrics.csv").read_bytes() == data


def test_the_last_rows_alone_are_read_however_the_bytes_fall(tmp_path):
    """A run of many seeds looks at each three times a second: read whole, a long one's file took a tenth of a core."""
    write(tmp_path, range(100, 1100, 100))
    file = tmp_path / "metrics.csv"
    for torn in (b"", b"1100,"):
        data = file.read_bytes() + torn
        file.write_bytes(data)
        whole = read_metrics(tmp_path)
        header = len(data.splitlines(keepends=True)[0])
        for last in range(1, len(data) + 10):
            part = read_metrics(tmp_path, last=last)
            assert part.keys() == whole.keys()
            count = len(part["time/total_timesteps"])
            for name, values in part.items():
                np.testing.assert_array_equal(values, whole[name][len(whole[name]) - count :])
            assert (count == 10) == (last >= len(data) - header)
        assert count == 10


@pytest.mark.parametrize(
    "data", [b"", b"time/total_ti", b"time/total_timesteps,rollout/ep_rew_mean\n", b"\0\0"]
)
def test_resume_where_the_crash_came_before_the_first_row(tmp_path, data):
    (tmp_path / "metrics.csv").write_bytes(data)
    assert all(len(v) == 0 for v in read_metrics(tmp_path).values())
    write(tmp_path, [1, 2], resume_step=0)
    assert read_metrics(tmp_path)["time/total_timesteps"].tolist() == [1, 2]


def test_resume_without_a_file_and_of_a_foreign_file(tmp_path):
    write(tmp_path / "new", [5], resume_step=0)
    assert read_metrics(tmp_path / "new")["time/total_timesteps"].tolist() == [5]
    (tmp_path / "metrics.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="no column time/total_timesteps"):
        Logger(tmp_path, resume_step=3)
    assert (tmp_path / "metrics.csv").read_text() == "x,y\n1,2\n"


def test_lines_that_a_crash_filled_with_rubbish_are_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"time/total_timesteps,a\n1,2\n\0\0\0\0\n3,oops\n4\n,7\n5,6\n")
    np.testing.assert_array_equal(read_metrics(tmp_path)["a"], [2, 7, 6])
    Logger(tmp_path, resume_step=5).close()
    assert (tmp_path / "metrics.csv").read_text() == "time/total_timesteps,a\n1,2\n5,6\n"


def test_a_killed_process_loses_no_dumped_row(tmp_path):
    code = (
        "import sys; from actrix.show.log import Logger; log = Logger(sys.argv[1])\n"
        "for step in range(10**9):\n"
        "    log.record('a', step); log.dump(step); print(step, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    seen = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    steps = read_metrics(tmp_path)["time/total_timesteps"].tolist()
    assert steps[:50] == seen
    assert steps == list(range(len(steps)))


def test_disk_full_is_loud_and_leaves_whole_rows(tmp_path, monkeypatch):
    log = Logger(tmp_path)
    log.record("a", 1)
    log.dump(1)
    file = log._csv.file

    class Full:
        def write(self, data):
            file.write(data[:2])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(file, name)

    log._csv.file = Full()
    log.record("a", 2)
    with pytest.raises(OSError, match="No space left") as error:
        log.dump(2)
    assert error.value.filename == str(tmp_path / "metrics.csv")
    log._csv.file = file
    log.record("a", 3)
    log.dump(3)
    log.close()
    assert (tmp_path / "metrics.csv").read_text() == "time/total_timesteps,a\n1,1\n3,3\n"


@pytest.mark.parametrize(
    "value", [[1, 2], None, 1j, np.zeros((2, 2), complex), np.zeros(0), np.array(["a", "b"])]
)
def test_what_is_not_recorded(value):
    with pytest.raises(TypeError, match="'train/loss' must be one real number"):
        Logger().record("train/loss", value)


@pytest.mark.parametrize("key", ["", "a\nb", "\x1b[2J", 3])
def test_names_are_printable(key):
    with pytest.raises(ValueError, match="printable"):
        Logger().record(key, 1)


def test_means_and_excluded_outputs(tmp_path, capsys):
    with Logger(tmp_path, verbose=1) as log:
        for x in [1.0, float("nan"), 3.0]:
            log.record_mean("a", x)
        log.record("b", 5, exclude="csv")
        log.record("c", 6, exclude=("stdout", "tensorboard"))
        with pytest.raises(ValueError, match="outputs are"):
            log.record("d", 1, exclude="excel")
        log.record_mean("e", float("nan"))
        assert log.values["a"] == 2.0
        log.dump(1)
        log.record_mean("a", 9.0)
        assert log.values["a"] == 9.0
    assert "b" not in read_metrics(tmp_path)
    assert read_metrics(tmp_path)["c"] == [6]
    out = capsys.readouterr().out
    assert "| b " in out
    assert "| c " not in out


def test_the_table_looks_like_sb3s():
    values = {
        "train/loss": 0.012345,
        "rollout/ep_rew_mean": 212.34,
        "time/fps": 12345,
        "train/x": float("nan"),
    }
    assert table(values).splitlines() == [
        "---------------------------",
        "| rollout/       |        |",
        "|    ep_rew_mean | 212    |",
        "| time/          |        |",
        "|    fps         | 12345  |",
        "| train/         |        |",
        "|    loss        | 0.0123 |",
        "|    x           | -      |",
        "---------------------------",
    ]
    assert table({"reward": 1, "a/b/c": 2}).count("\n") == 4
    assert "\x1b" not in table({"\x1b[2J": 1})


def events(path):
    """(step, tag, value) of an event file's scalars, and the steps from which it hides what came before."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data, found, purged, versions = path.read_bytes(), [], [], []
    while data:
        size = int.from_bytes(data[:8], "little")
        body = data[12 : 12 + size]
        assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
        assert int.from_bytes(data[12 + size : 16 + size], "little") == masked_crc32c(body)
        event = Event.FromString(body)
        data = data[16 + size :]
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        purged += [event.step] if event.HasField("session_log") else []
        versions += [event.file_version] if event.file_version else []
    assert versions == ["brain.Event:2"]
    return found, purged


def test_tensorboard_events(tmp_path):
    with Logger(None, tmp_path) as log:
        log.record("rollout/ep_rew_mean", 2.5)
        log.record("train/loss", float("nan"))
        log.dump(2**33)
    with Logger(None, tmp_path, resume_step=7) as log:
        log.sync()
        log.record("eval/mean reward", 3)
        log.dump(8)
    (path,) = tmp_path.iterdir()  # TensorBoard wants one file per run
    found, purged = events(path)
    assert sorted(found[:2]) == [
        (2**33, "rollout/ep_rew_mean", 2.5),
        (2**33, "time/total_timesteps", 2.0**33),
    ]
    assert sorted(found[2:]) == [(8, "eval/mean_reward", 3.0), (8, "time/total_timesteps", 8.0)]
    assert purged == [8]


@pytest.mark.parametrize("torn", [1, 4, 15, 30])
def test_a_torn_tensorboard_event_is_removed(tmp_path, torn):
    with Logger(None, tmp_path) as log:
        for step in (1, 2):
            log.record("a", step)
            log.dump(step)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-torn])
    with Logger(None, tmp_path, resume_step=1) as log:
        log.record("a", 3)
        log.dump(2)
    assert [x for x in events(path)[0] if x[1] == "a"] == [(1, "a", 1.0), (2, "a", 3.0)]


def test_zeros_after_a_power_cut_are_removed(tmp_path):
    with Logger(None, tmp_path) as log:
        log.dump(1)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    path.write_bytes(before + bytes(50))
    with Logger(None, tmp_path, resume_step=1):
        pass
    assert path.read_bytes().startswith(before)
    assert events(path)[1] == [2]


@pytest.mark.parametrize("lost", [1, 9, 40])
def test_a_last_event_whose_bytes_a_power_cut_left_zero_is_removed(tmp_path, lost):
    """Its length is right, so only the checksum of what it holds tells: a reader would see nothing behind it."""
    write(tmp_path, [1, 2], tensorboard=tmp_path)
    path = next(tmp_path.glob("events.*"))
    path.write_bytes(path.read_bytes()[:-lost] + bytes(lost))
    write(tmp_path, [2], tensorboard=tmp_path, resume_step=1)
    assert [x[0] for x in events(path)[0] if x[1] == "rollout/ep_rew_mean"] == [1, 2]


def test_an_event_file_may_be_left_open(tmp_path):
    """As a model's is after `learn`; warnings are errors here."""
    log = Logger(None, tmp_path)
    log.dump(1)
    log.itself = log
    del log
    gc.collect()
    assert events(next(tmp_path.iterdir()))[0]


def test_a_new_log_begins_a_new_event_file(tmp_path):
    for _ in range(2):
        with Logger(None, tmp_path) as log:
            log.dump(1)
    assert len(list(tmp_path.iterdir())) == 2


def test_atomic_writes_replace_whole_files(tmp_path, monkeypatch):
    path = tmp_path / "new" / "config.json"
    atomic.write_json(path, {"a": np.float32(0.5), "b": np.arange(2), "path": tmp_path, "π": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "a": 0.5,
        "b": [0, 1],
        "path": str(tmp_path),
        "π": 1,
    }
    for bad, error in [({"a": float("nan")}, ValueError), ({"a": object()}, TypeError)]:
        with pytest.raises(error):
            atomic.write_json(path, bad)

    def full(*_):
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    for call in ["replace", "fsync"]:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(OSError, match="No space"):
                atomic.write_text(path, "new")
        assert path.read_bytes() == before

    def interrupted():
        with atomic.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["config.json"]
    atomic.write_bytes(path, b"\0\r\n")
    assert path.read_bytes() == b"\0\r\n"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
