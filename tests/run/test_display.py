import io
import os
import signal
import subprocess
import sys
import time
import types

import pytest
from rich.console import Console

from actrix.show import display, terminal
from actrix.show.display import Display
from actrix.show.log import human

METRICS = {
    "rollout/ep_rew_mean": 182.4,
    "rollout/ep_len_mean": 312.0,
    "train/value_loss": 12.3,
    "train/policy_gradient_loss": -0.0043,
    "train/entropy_loss": -0.61,
    "train/approx_kl": 0.008,
    "train/learning_rate": 3e-4,
    "train/mine": 5,
    "time/fps": 77777,
}


def rendered(shown: Display, width: int, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    shown._console = Console(file=file, width=width, highlight=False)
    shown._unicode = encoding == "utf-8"
    shown._console.print(shown._render())
    file.flush()
    return file.buffer.getvalue().decode(encoding).splitlines()


def test_what_is_shown():
    with Display(1_000_000, "PPO on LunarLander-v3", enabled=False) as shown:
        shown.status("compiling ppo update …")
        assert "compiling ppo update …" in rendered(shown, 100)[-1]
        shown.update(200_000, {"rollout/ep_rew_mean": float("nan")})
        assert any("no episode finished yet" in line for line in rendered(shown, 100))
        shown.update(412_345, METRICS | {"rollout/ep_rew_mean": -20.0})
        shown.update(412_345, METRICS)
        lines = rendered(shown, 120)
    text = "\n".join(lines)
    assert lines[0] == "PPO on LunarLander-v3"
    assert "41%  412k/1M steps" in lines[1]
    assert "left" in lines[1]
    assert "return 182.4    mean of the last 100 episodes  ▁█  -20.0 to 182.4" in text
    for part in ["episode length 312", "value loss     12.3", "approx. KL     0.008", "mine           5"]:
        assert part in text
    assert "fps" not in text
    assert "77777" not in text


@pytest.mark.parametrize("width", [12, 20, 34, 50, 60, 61, 79, 100, 250])
@pytest.mark.parametrize("seeds", [None, [0, 1, 12]])
def test_no_line_is_wider_than_the_terminal(width, seeds):
    with Display(10**7, "PPO on " + "long" * 20, enabled=False, seeds=seeds) as shown:
        for step in range(0, 10**6, 10_000):
            shown.update(step, METRICS | {"rollout/ep_rew_mean": step / 7})
        shown.status("compiling " * 9)
        lines = rendered(shown, width)
        # The title, the bar, its details, then at most one line for each metric or seed, and the status.
        assert len(lines) <= 2 + 4 + 10 + 1
        assert max(map(len, lines)) <= width
        assert rendered(shown, width, "ascii")


def test_a_row_per_seed():
    with Display(1000, "PPO", enabled=False, seeds=[3, 10]) as shown:
        shown.update(500, {"rollout/ep_rew_mean": 9.5}, seed=3)
        shown.update(1000, {"rollout/ep_rew_mean": 100.25}, seed=10)
        with pytest.raises(KeyError, match="seed 4 is not one of"):
            shown.update(1, {}, seed=4)
        lines = rendered(shown, 100)
    assert " 75%  1.5k/2k steps" in lines[1]
    assert lines[2].startswith("seed 3 ")
    assert " 50%  return   9.5" in lines[2]
    assert "100%  return 100.2" in lines[3]


def test_a_line_says_of_how_many_seeds(capsys):
    for known in ([3], [3, 10]):
        with Display(1000, "PPO", seeds=[3, 10]) as shown:
            for seed in known:
                shown.update(1000, {"rollout/ep_rew_mean": 9.5}, seed=seed)
    said = [line.partition("return ")[2].partition(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert [x for x in said if x] == ["9.5 (mean of 1 seed)", "9.5 (mean of 2 seeds)"]


def test_steps_that_go_back_to_a_checkpoint_are_no_speed():
    """A killed run's log is cut back where it is resumed: its rate was below zero."""
    with Display(10**5, "PPO", enabled=False, seeds=[0], start=[60_000]) as shown:
        for step in (60_000, 50_000, 55_000):
            shown.update(step, {}, seed=0)
            assert shown._rate() >= 0
        assert shown._start == 50_000


def test_the_sparkline_covers_the_whole_run_in_bounded_memory():
    with Display(10**6, "PPO", enabled=False) as shown:
        for i in range(20_000):
            shown.update(i, {"rollout/ep_rew_mean": i})
        row = shown._rows[None]
        assert len(row.history) <= 512
        assert row.history[0] < 200
        assert row.history[-1] > 19_800
        assert shown._spark(row, 8).plain == "▁▂▃▄▅▆▇█"


def test_without_a_terminal_lines_are_plain_and_few(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    with Display(1000, "PPO on \x1b[2JX") as shown:
        shown.status("compiling")
        now[0] += 5
        for step in range(1, 1001):
            now[0] += 0.05
            shown.update(step, METRICS)
            if step == 500:
                shown.message("saved \x07")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r"PPO on \x1b[2JX: compiling"
    assert r"saved \x07" in lines
    assert lines[-1] == r"PPO on \x1b[2JX: 100%, 1k/1k steps, return 182.4, 20 steps/s, 0:55 elapsed"
    assert 5 <= len(lines) <= 9
    assert all("\x1b" not in line and "\r" not in line for line in lines)


def ipython(outputs, kernel=True):
    """Of the module what `cell` reads; an output is the list of what it was."""

    def put(data, raw, display_id):
        outputs.append([data["text/plain"]])
        return types.SimpleNamespace(update=lambda data, raw: outputs[-1].append(data["text/plain"]))

    shell = types.SimpleNamespace(has_trait=lambda name: kernel and name == "kernel")
    return types.SimpleNamespace(get_ipython=lambda: shell, display=types.SimpleNamespace(display=put))


def test_a_notebook_has_one_output(capsys, monkeypatch):
    outputs, now = [], [100.0]
    monkeypatch.setitem(sys.modules, "IPython", ipython(outputs))
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels have it
    with Display(1000, "PPO") as shown:
        shown.status("compiling")
        for step in range(1, 1001):
            now[0] += 0.01
            shown.update(step, METRICS)
        shown.message("saved")
    (output,) = outputs
    assert 20 <= len(output) <= 24  # twice in a second
    assert "compiling" in output[0]
    assert "100%" in output[-1]
    assert "182.4" in output[-1]
    assert "\x1b" not in "".join(output)
    assert capsys.readouterr().out == "saved\n"


def test_a_shell_without_a_kernel_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", ipython([], kernel=False))
    assert terminal.cell() is None


@pytest.mark.parametrize(
    ("variables", "live"), [({}, True), ({"TERM": "dumb"}, False), ({"JPY_PARENT_PID": "7"}, False)]
)
def test_a_command_in_a_cell_prints_lines(variables, live, monkeypatch):
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(isatty=lambda: True))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal.redraws() is live


def test_no_episode_is_told(capsys):
    with Display(1000, "PPO") as shown:
        shown.update(1000, {})
    assert "100%, 1k/1k steps, no episode finished yet" in capsys.readouterr().out
    with Display(1000, "BC", plays=False) as shown:
        shown.update(1000, {})
    assert "episode" not in capsys.readouterr().out


def test_disabled_prints_nothing(capsys):
    with Display(10, "PPO", enabled=False) as shown:
        shown.status("compiling")
        shown.update(10, METRICS)
        shown.message("hello")
    assert capsys.readouterr().out == ""


def test_human_counts():
    counts = [0, 950, 1000, 41_234, 200_000, 999_999, 1_048_576, 2.5e9]
    assert [human(c) for c in counts] == ["0", "950", "1k", "41.2k", "200k", "1M", "1.05M", "2.5G"]


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_the_terminal_is_restored_after_ctrl_c():
    import pty

    code = (
        # A parent in the background would have SIGINT ignored, and its children with it.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import time; from actrix.show.display import Display\n"
        "with Display(100, 'PPO') as d:\n"
        "    for i in range(100): d.update(i, {}); time.sleep(0.1)"
    )
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=child,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
    )
    os.close(child)
    out = b""
    deadline = time.monotonic() + 20
    while b"steps" not in out and time.monotonic() < deadline:
        out += os.read(parent, 4096)
    process.send_signal(signal.SIGINT)
    while time.monotonic() < deadline:
        try:
            data = os.read(parent, 4096)
        except OSError:  # Linux reports the closed end of a terminal as an error.
            break
        if not data:
            break
        out += data
    os.close(parent)
    assert process.wait(timeout=10) != 0
    hide, show = b"\x1b[?25l", b"\x1b[?25h"
    assert hide in out
    assert out.rfind(show) > out.rfind(hide)
