"""Videos of a policy at work, and watching it live."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from actrix.files import atomic
from actrix.show.terminal import redraws

Predict = Callable[[Any, Any, np.ndarray], tuple[Any, Any]]
"""`predict(obs, state, episode_start) -> (action, state)`.

obs: one observation as the environment gave it; state: what it returned last, None at first; episode_start:
bool `[1]`, true on an episode's first step; action: as `env.step` takes it."""
SMALL = 240  # pixels; smaller frames (Atari, MinAtar) are enlarged, or no text could be read


class Recording(NamedTuple):
    """What `record_video` made."""

    path: Path
    returns: list[float]
    """Undiscounted return per episode; of a cut episode, what was earned until then."""
    lengths: list[int]
    """Steps per episode."""


@contextlib.contextmanager
def headless() -> Iterator[None]:
    """Let environments made and rendered inside draw without a window; what the user has set is kept.

    Sets `SDL_VIDEODRIVER` and `SDL_AUDIODRIVER` to dummy (pygame) and, on Linux without a display,
    `MUJOCO_GL` to egl or osmesa, whichever library is there. MuJoCo reads its variable when it is first
    imported: make the environment inside too.
    """
    wanted = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        for name, library in [("egl", "EGL"), ("osmesa", "OSMesa")]:
            if ctypes.util.find_library(library):
                wanted["MUJOCO_GL"] = name
                break
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def record_video(
    predict: Predict,
    env: gym.Env,
    path: str | os.PathLike,
    max_steps: int = 10_000,
    episodes: int = 1,
    fps: float | None = None,
    seed: int | None = None,
    overlay: bool = True,
    progress: bool | None = None,
) -> Recording:
    """Play episodes and write them as one H.264 video (yuv420p: plays everywhere), step and return on it.

    Every episode gives its steps + 1 frames. The file appears whole or not at all; an older one is replaced.

    Args:
        predict: the policy, see `Predict`.
        env: one environment with `render_mode="rgb_array"`, made under `headless` on a machine without
            display; it is not closed.
        path: the `.mp4` to write; the suffix is added if there is none.
        max_steps: an episode is cut after so many steps.
        episodes: how many to play.
        fps: frames per second; default `env.metadata["render_fps"]`, else 30.
        seed: of the first `env.reset`.
        overlay: whether to write step and return into the picture.
        progress: whether to show progress; default only on a terminal.

    Raises:
        ImportError: imageio's ffmpeg is not installed.
        ValueError: another suffix, another render mode, no episodes or steps asked for, or a picture that is
            no uint8 [H, W, 3] or changes its size.
        OSError: ffmpeg could not write (disk full).
    """
    path = atomic.with_suffix(path, ".mp4")
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"videos are written as .mp4, not {path.suffix} ({path})")
    _check_mode(env, "rgb_array")
    ffmpeg = _ffmpeg()
    fps = float(fps or env.metadata.get("render_fps") or 30)
    with (
        headless(),
        atomic.replacing(path) as temporary,
        _encoder(ffmpeg, temporary, fps) as add,
        _bar(progress) as show,
    ):

        def see(episode: int, step: int, total: float) -> None:
            frame = _frame(env.render())
            add(_annotated(frame, f"step {step}   return {total:.1f}") if overlay else frame)
            show(f"recording episode {episode + 1}/{episodes}, step {step}, return {total:.1f}")

        returns, lengths = _play(predict, env, episodes, max_steps, seed, see)
    return Recording(path, returns, lengths)


def watch(
    predict: Predict, env: gym.Env, episodes: int = 1, max_steps: int = 10_000, seed: int | None = None
) -> tuple[list[float], list[int]]:
    """Play episodes in a window; Ctrl-C ends the show.

    Args:
        predict: the policy, see `Predict`.
        env: one environment with `render_mode="human"`; it is not closed.
        episodes: as in `record_video`.
        max_steps: likewise.
        seed: likewise.
    Returns: returns and lengths of the episodes played to their end (or to `max_steps`).
    Raises: `ValueError` for another render mode.
    """
    _check_mode(env, "human")
    returns: list[float] = []
    lengths: list[int] = []
    with contextlib.suppress(KeyboardInterrupt):
        _play(predict, env, episodes, max_steps, seed, lambda *_: None, returns, lengths)
    return returns, lengths


def _play(
    predict: Predict,
    env: gym.Env,
    episodes: int,
    max_steps: int,
    seed: int | None,
    see: Callable[[int, int, float], None],
    returns: list[float] | None = None,
    lengths: list[int] | None = None,
) -> tuple[list[float], list[int]]:
    """Play episodes; `see(episode, step, return)` is called on each state, the first one included."""
    if episodes < 1 or max_steps < 1:
        raise ValueError(f"nothing to play: episodes={episodes}, max_steps={max_steps}")
    returns = [] if returns is None else returns
    lengths = [] if lengths is None else lengths
    state = None
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        total, step, over = 0.0, 0, False
        see(episode, step, total)
        while not over and step < max_steps:
            action, state = predict(obs, state, np.array([step == 0]))
            obs, reward, terminated, truncated, _ = env.step(action)
            total, step, over = total + float(reward), step + 1, bool(terminated or truncated)
            see(episode, step, total)
        returns.append(total)
        lengths.append(step)
    return returns, lengths


def _check_mode(env: gym.Env, mode: str) -> None:
    if env.render_mode != mode:
        raise ValueError(f"the environment must be made with render_mode={mode!r}, not {env.render_mode!r}")


def _ffmpeg() -> str:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ImportError('recording videos needs imageio with ffmpeg: pip install "actrix[video]"') from None
    return imageio_ffmpeg.get_ffmpeg_exe()


@contextlib.contextmanager
def _encoder(ffmpeg: str, path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds a frame, uint8 [H, W, 3], to the video `path`; all have the first one's shape.

    ffmpeg is started here and not by imageio, which forks: a fork can deadlock once JAX's threads run.
    """
    process: subprocess.Popen | None = None
    shape: tuple[int, ...] = ()

    with tempfile.TemporaryFile() as errors:

        def add(frame: np.ndarray) -> None:
            nonlocal process, shape
            if process is None:
                shape = frame.shape
                process = _started(ffmpeg, path, shape, fps, errors)
            if frame.shape != shape:
                raise ValueError(f"env.render() changed its size from {shape} to {frame.shape}")
            try:
                process.stdin.write(np.ascontiguousarray(frame).data)  # type: ignore[union-attr]
            except BrokenPipeError:
                fail(process)

        def fail(process: subprocess.Popen) -> NoReturn:
            process.wait()
            errors.seek(0)
            reason = errors.read().decode(errors="replace").strip()[-500:]
            raise OSError(f"ffmpeg could not write the video: {reason or process.returncode}")

        try:
            yield add
            if process is not None:
                # communicate closes the pipe, which ends the video.
                process.communicate()
                if process.returncode:
                    fail(process)
        finally:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
            if process is not None and process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()


def _started(ffmpeg: str, path: Path, shape: tuple[int, ...], fps: float, errors: Any) -> subprocess.Popen:
    """The process that turns frames on its input into a video; what it complains of goes to `errors`."""
    source = f"-f rawvideo -pix_fmt rgb24 -s {shape[1]}x{shape[0]} -r {fps:g} -i -"
    target = "-an -c:v libx264 -crf 20 -pix_fmt yuv420p -movflags +faststart"
    command = [ffmpeg, "-y", "-loglevel", "error", *source.split(), *target.split(), str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)


def _frame(picture: Any) -> np.ndarray:
    """The picture as uint8 [H, W, 3], large enough, both sides even (H.264 halves the colour planes)."""
    frame = np.asarray(picture)
    if frame.ndim != 3 or frame.shape[2] < 3 or frame.dtype != np.uint8:
        raise ValueError(
            f"env.render() gave {type(picture).__name__} of shape {frame.shape} and {frame.dtype}, "
            "a video needs uint8 [H, W, 3]"
        )
    frame = frame[:, :, :3]
    factor = -(-SMALL // max(frame.shape[:2]))
    if factor > 1:
        frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _annotated(frame: np.ndarray, text: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    size = max(11, frame.shape[0] // 26)
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image, "RGBA")
    font = ImageFont.load_default(size)
    left, top, right, bottom = draw.textbbox((size, size), text, font=font)
    pad = size // 3
    draw.rectangle((left - pad, top - pad, right + pad, bottom + pad), fill=(0, 0, 0, 150))
    draw.text((size, size), text, font=font, fill=(255, 255, 255, 255))
    return np.asarray(image)


@contextlib.contextmanager
def _bar(enabled: bool | None) -> Iterator[Callable[[str], None]]:
    enabled = redraws() if enabled is None else enabled
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(), transient=True, disable=not enabled) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=text)
