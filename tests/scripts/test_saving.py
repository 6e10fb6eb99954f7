"""What scripts log and save: `logger.configure`, text and pictures, every space and setting in files."""


import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from worlds import Counting

import actrix
from actrix import PPO, Figure, HParam, Image, Video, configure, make_vec_env
from actrix.show.log import read_metrics

SMALL = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}, "seed": 0}


def summaries(folder):
    """(step, value) of all that an event file holds."""
    (path,) = folder.glob("events.*")
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found += [(event.step, v) for v in event.summary.value]
        data = data[16 + size :]
    return found


# ------------------------------------------------------------------ logs


def test_configure_and_set_logger(tmp_path, capsys):
    logger = configure(tmp_path / "log", ["stdout", "csv", "tensorboard"])
    assert logger.get_dir() == str(tmp_path / "log")
    model = PPO("MlpPolicy", make_vec_env(Counting, 1), tensorboard_log=tmp_path / "other", **SMALL)
    model.learn(8)
    own = model.logger
    model.set_logger(logger)
    model.learn(8)
    model.learn(8, reset_num_timesteps=False)
    assert model.logger is logger
    assert read_metrics(tmp_path / "log")["time/total_timesteps"].tolist() == [8, 16]
    assert "ep_rew_mean" in capsys.readouterr().out
    assert {8, 16} <= {step for step, _ in summaries(tmp_path / "log")}
    assert len(list((tmp_path / "other").iterdir())) == 1
    for log in (own, logger):
        log.close()
        with pytest.raises(ValueError, match="is closed"):
            log.dump(24)
    with pytest.raises(ValueError, match="is closed"):
        model.learn(8)


def test_what_configure_and_set_logger_refuse(tmp_path, monkeypatch):
    for name in ("json", "log"):
        with pytest.raises(ValueError, match=f"'{name}' is not written .metrics.csv holds"):
            configure(tmp_path, ["csv", name])
    with pytest.raises(ValueError, match="choose of csv, tensorboard, stdout"):
        configure(tmp_path, ["wandb"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match=r"actrix.configure.folder, formats. makes, not a str"):
        PPO("MlpPolicy", None, **SMALL).set_logger("log")
    with configure(tmp_path, "csv") as logger:
        logger.dump(3)
    with pytest.raises(FileExistsError, match="resume_step"):
        configure(tmp_path, ["csv"])
    with configure(tmp_path, ["csv"], resume_step=2) as logger:
        logger.dump(4)
    assert read_metrics(tmp_path)["time/total_timesteps"].tolist() == [4]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    configure().close()
    assert len(list(tmp_path.glob("actrix-*/metrics.csv"))) == 1


def test_text_and_arrays(tmp_path, capsys):
    with configure(tmp_path, ["stdout", "csv", "tensorboard"]) as logger:
        logger.record("note", "hello\nworld" + "x" * 40)
        logger.record("hidden", "quiet", exclude=("stdout", "log", "json", "csv"))
        logger.record("weights", np.array([1.0, 2.0, np.nan, 4.0]))
        logger.record("jax", jnp.ones((2, 2), jnp.bfloat16))
        logger.record("nothing", np.full(3, np.nan))
        logger.record("both", "text")
        logger.record("both", 1)
        logger.record("loss", 1)
        logger.record("loss", "diverged", exclude="tensorboard")
        assert logger.name_to_value == {"both": 1}
        assert logger.dump(5) == {"time/total_timesteps": 5, "both": 1}
    assert list(read_metrics(tmp_path)) == ["time/total_timesteps", "both"]
    out = capsys.readouterr().out
    assert r"hello\nworldxxxxxxxxxxxxxxxxxxxxx..." in out
    assert "quiet" not in out
    assert "weights" not in out
    assert "diverged" in out
    found = {v.tag: v for _, v in summaries(tmp_path)}
    assert found["note/text_summary"].tensor.string_val[0].decode() == "hello\nworld" + "x" * 40
    assert found["hidden/text_summary"].metadata.plugin_data.plugin_name == "text"
    histogram = found["weights"].histo
    assert (histogram.num, histogram.sum, histogram.min, histogram.max) == (3, 7, 1, 4)
    assert found["jax"].histo.sum == 4
    assert not {"nothing", "loss", "loss/text_summary"} & set(found)


def test_pictures_and_hyperparameters(tmp_path):
    from matplotlib.figure import Figure as Drawing

    pixels = np.zeros((4, 6, 3), np.uint8)
    with configure(tmp_path, ["csv", "tensorboard"]) as logger:
        logger.record("image", Image(pixels, "HWC"), exclude=("stdout", "csv"))
        drawing = Drawing(figsize=(1, 1), dpi=20)
        drawing.add_subplot().plot([1, 2])
        logger.record("figure", Figure(drawing, close=True))
        logger.record("hparams", HParam({"gamma": 0.9}, {"rollout/ep_rew_mean": 0.0}))
        logger.dump(1)
        pixels[:] = 255
    found = {v.tag: v for _, v in summaries(tmp_path)}
    assert (found["image"].image.height, found["image"].image.width) == (4, 6)
    assert (found["figure"].image.height, found["figure"].image.width) == (20, 20)
    assert "_hparams_/experiment" in found
    with pytest.raises(ValueError, match="actrix video"):
        Video(np.zeros((1, 2, 3, 4, 4)), fps=4)
    with pytest.raises(TypeError, match="text, an array"):
        actrix.configure(tmp_path / "b", ["csv"]).record("x", [1, 2])


def test_a_resumed_log_hides_what_was_written_after_the_checkpoint(tmp_path):
    for steps, resume in [((1, 2), None), ((2, 3), 1)]:
        with configure(tmp_path, ["tensorboard", "csv"], resume_step=resume) as logger:
            for step in steps:
                logger.record("note", f"{step} of {resume}")
                logger.dump(step)
    assert read_metrics(tmp_path)["time/total_timesteps"].tolist() == [1, 2, 3]
    assert [step for step, v in summaries(tmp_path) if v.tag == "note/text_summary"] == [1, 2, 2, 3]
    (path,) = tmp_path.glob("events.*")
    assert (
        Event(step=2, session_log={"status": 1}).SerializeToString() in path.read_bytes()
    )  # hides the first 2
