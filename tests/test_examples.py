"""Every script of examples/ runs, with few steps."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_runs(script, tmp_path, monkeypatch):
    few = {"sb3_off_policy": "160"}  # an update per step
    monkeypatch.setenv("EXAMPLE_STEPS", few.get(script.stem, "512"))
    monkeypatch.chdir(tmp_path)
    if script.stem == "quickstart":  # printed in the README as it is: the numbers are replaced here
        code = script.read_text(encoding="utf-8")
        code = code.replace("1_000_000", "1024").replace("n_steps=1024", "n_steps=64")
        script = tmp_path / "quickstart.py"
        script.write_text(code, encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")


def test_every_example_is_listed():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [s.name for s in SCRIPTS if f"`{s.name}`" not in listed] == []
