import os
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from actrix.show.record import _frame, headless, record_video, watch


def push_right(obs, state, episode_start):
    assert obs.shape == (4,)
    assert episode_start.shape == (1,)
    count = 0 if episode_start[0] else state + 1
    return np.array(1), count


@pytest.fixture
def cartpole():
    with headless():
        env = gym.make("CartPole-v1", render_mode="rgb_array")
        yield env
        env.close()


def read(path):
    import imageio_ffmpeg

    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path]
    meta = subprocess.run(ffmpeg, stderr=subprocess.PIPE, text=True).stderr
    command = [*ffmpeg, "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    width, height = re.search(r", (\d+)x(\d+)", meta).groups()
    return meta, np.frombuffer(raw, np.uint8).reshape(-1, int(height), int(width), 3)


def test_a_video_holds_every_state_of_every_episode(tmp_path, cartpole):
    made = record_video(push_right, cartpole, tmp_path / "new" / "push", episodes=2, seed=3)
    path, returns, lengths = made
    assert path == tmp_path / "new" / "push.mp4"
    assert returns == lengths
    assert len(lengths) == 2
    meta, frames = read(path)
    assert len(frames) == sum(n + 1 for n in lengths)
    assert "Video: h264" in meta
    assert "yuv420p" in meta
    assert f" {cartpole.metadata['render_fps']} fps" in meta
    assert frames[0].shape == (400, 600, 3)
    # The overlay's dark box in the corner, the environment's white ground elsewhere.
    assert frames[5][:40, :120].mean() < 200
    assert frames[5][:40, -120:].mean() > 250
    assert os.listdir(path.parent) == ["push.mp4"]
    again = record_video(push_right, cartpole, path, episodes=2, seed=3, overlay=False)
    assert again.returns == returns
    assert read(path)[1][5][:40, :120].mean() > 250


def test_long_episodes_are_cut_and_the_frame_rate_can_be_chosen(tmp_path, cartpole):
    made = record_video(push_right, cartpole, tmp_path / "a.mp4", max_steps=3, fps=10, seed=0)
    assert made.lengths == [3]
    meta, frames = read(made.path)
    assert len(frames) == 4
    assert " 10 fps" in meta


def test_a_failure_leaves_the_old_video(tmp_path, cartpole):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def fails(obs, state, episode_start):
        if state == 3:
            raise RuntimeError("no more actions")
        return 0, (state or 0) + 1

    with pytest.raises(RuntimeError, match="no more actions"):
        record_video(fails, cartpole, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_ffmpegs_reason_is_told(tmp_path, cartpole, monkeypatch):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\necho No space left on device >&2\nexit 1\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(ffmpeg))
    with pytest.raises(OSError, match="ffmpeg could not write the video: No space left on device"):
        record_video(push_right, cartpole, tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == ["ffmpeg"]


def test_a_picture_may_not_change_its_size(tmp_path, cartpole, monkeypatch):
    sizes = iter([400, 400, 500])
    monkeypatch.setattr(cartpole, "render", lambda: np.zeros((next(sizes), 400, 3), np.uint8), raising=False)
    with pytest.raises(ValueError, match="changed its size"):
        record_video(push_right, cartpole, tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_recorded_is_refused_first(tmp_path, cartpole):
    with gym.make("CartPole-v1") as env:
        with pytest.raises(ValueError, match="render_mode='rgb_array', not None"):
            record_video(push_right, env, tmp_path / "a.mp4")
        with pytest.raises(ValueError, match="render_mode='human'"):
            watch(push_right, env)
    with pytest.raises(ValueError, match=r"written as \.mp4, not \.gif"):
        record_video(push_right, cartpole, tmp_path / "a.gif")
    with pytest.raises(ValueError, match="episodes=0"):
        record_video(push_right, cartpole, tmp_path / "a.mp4", episodes=0)
    assert os.listdir(tmp_path) == []


def test_without_imageio_one_sentence_says_what_to_install(tmp_path, cartpole, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r'pip install "actrix\[video\]"'):
        record_video(push_right, cartpole, tmp_path / "a.mp4")


def test_watching_in_a_window_that_is_not_there():
    with headless():
        env = gym.make("CartPole-v1", render_mode="human")
        env.unwrapped.metadata = env.metadata | {"render_fps": 10_000}
        _, lengths = watch(push_right, env, episodes=2, max_steps=5, seed=0)
        assert lengths == [5, 5]

        def stops(obs, state, episode_start):
            raise KeyboardInterrupt

        assert watch(stops, env) == ([], [])
        env.close()


def test_frames_are_even_large_enough_and_pictures():
    frame = _frame(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    assert frame.shape[1] >= 240
    assert (frame[0, 0] == [0, 1, 2]).all()
    assert _frame(np.zeros((401, 601, 4), np.uint8)).shape == (402, 602, 3)
    for bad in [None, [np.zeros((4, 4, 3), np.uint8)], np.zeros((4, 4, 3))]:
        with pytest.raises(ValueError, match="uint8"):
            _frame(bad)


def test_headless_keeps_what_the_user_set(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.delenv("SDL_AUDIODRIVER", raising=False)
    with headless():
        assert os.environ["SDL_VIDEODRIVER"] == "x11"
        assert os.environ["SDL_AUDIODRIVER"] == "dummy"
    assert "SDL_AUDIODRIVER" not in os.environ
