"""What `pip install actrix[…]` brings, read from pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = {
    re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
}


def requirements(extra):
    """Of an extra, with those of the extras that it names."""
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "actrix":
            for name in requirement.extras:
                yield from requirements(name)
        else:
            yield requirement


@pytest.mark.parametrize("extra", ["export", "all"])
def test_stablehlo_files_can_be_written(extra):
    """JAX does not ask for flatbuffers, which `jax.export` needs."""
    assert "flatbuffers" in {r.name for r in requirements(extra)}


@pytest.mark.parametrize("extra", [None, "all"])
def test_what_the_makefile_installs_is_pinned(extra):
    asked = [Requirement(r) for r in PROJECT["dependencies"]] if extra is None else requirements(extra)
    assert [r.name for r in asked if r.name.lower() not in PINNED] == []


@pytest.mark.parametrize(
    ("sys_platform", "platform_machine", "there"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", True),
        ("linux", "ppc64le", False),
        ("darwin", "arm64", True),
        ("darwin", "x86_64", False),
        ("win32", "AMD64", True),
        ("win32", "ARM64", False),
    ],
)
def test_envpool_is_asked_for_where_it_has_wheels(sys_platform, platform_machine, there):
    (envpool,) = (r for r in requirements("envs") if r.name == "envpool")
    here = {"sys_platform": sys_platform, "platform_machine": platform_machine}
    assert envpool.marker.evaluate(here) is there
