"""Shared code never asks which answer it has: no type test, no name compared, no look for what only some of them have;
kept so over the syntax tree."""

import ast
import dataclasses
from pathlib import Path

import pytest

import actrix
from actrix.actors.group import PSI
from actrix.algorithms.answers import ACTORS, CRITICS, DATA
from actrix.critics.backups import BACKUPS
from actrix.critics.represent import JOINED, REPRESENTATIONS

ROOT = Path(actrix.__file__).parent
SHARED = [
    *(f"algorithms/{name}.py" for name in ("learn", "sound", "settings", "reference")),
    *(f"core/{name}.py" for name in ("answers", "contract", "fit", "rows", "words")),
    *(f"loops/{name}.py" for name in ("compiled", "host", "stepping", "offline", "runner", "train", "evaluate")),
    *(f"runs/{name}.py" for name in ("config", "folder", "seeds", "session", "start")),
    "nets/view.py", "callbacks.py", "model.py",
]  # fmt: skip
"""What serves every answer."""
PARTS = (*PSI, *BACKUPS, *REPRESENTATIONS, *JOINED)
CLASSES = {cls.__name__ for cls in (*CRITICS.values(), *ACTORS.values(), *DATA.values(), *PARTS)}
WORDS = {cls.name for cls in (*CRITICS.values(), *ACTORS.values(), *DATA.values(), *PARTS)}
ANSWERS = {"critic", "actor", "data", "psi", "backup", "representation", "joined", "old"}
OWN = {
    f.name
    for cls in (*CRITICS.values(), *ACTORS.values(), *DATA.values(), *PARTS)
    for f in dataclasses.fields(cls)
}
"""What answers have, some of them: shared code reads it off their facts, which all have."""
ROOMS = ("actors", "critics", "data", "envs")
"""Where the answers themselves are; and environments, which know none."""


def sought(tree):
    """Where `getattr` or `hasattr` looks, by a literal name, for what an answer, or an algorithm, may not have."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr")):
            continue
        whose, what = node.args[0], node.args[1]
        if not isinstance(what, ast.Constant):
            continue
        name = whose.attr if isinstance(whose, ast.Attribute) else getattr(whose, "id", "")
        if name in ANSWERS | {"algorithm"} or what.value in OWN | ANSWERS:
            yield node.lineno, f"{node.func.id} of {what.value!r}"


def asked(tree):
    """Where an answer's type is tested or its name compared."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            if names & CLASSES:
                yield node.lineno, f"isinstance of {', '.join(sorted(names & CLASSES))}"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = [
                s for s in sides if isinstance(s, ast.Attribute) and s.attr == "name" and base(s) in ANSWERS
            ]
            words = [s.value for s in sides if isinstance(s, ast.Constant) and s.value in WORDS]
            if named and words:
                yield node.lineno, f"compares the name with {words[0]!r}"


def base(attribute):
    """What the name is of: `critic` of `algorithm.critic.name`."""
    value = attribute.value
    return value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")


SPELLINGS = {"algorithms/settings.py"}
"""Old spellings of settings are read there: `noisy=True` names an actor besides, which compares names once."""


@pytest.mark.parametrize("name", SHARED)
def test_shared_code_never_asks_which_answer_it_has(name):
    found = [f"{name}:{line} {what}" for line, what in asked(ast.parse((ROOT / name).read_text("utf-8")))]
    assert len(found) <= (2 if name in SPELLINGS else 0), found


def test_shared_code_never_looks_for_what_only_some_answers_have():
    files = [file for file in ROOT.rglob("*.py") if file.relative_to(ROOT).parts[0] not in ROOMS]
    found = [
        f"{file.relative_to(ROOT)}:{line} {what}"
        for file in files
        for line, what in sought(ast.parse(file.read_text("utf-8")))
    ]
    assert not found, "make it a fact, or a member of the abstract answer:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "getattr(actor, 'ratio', 'token')", "hasattr(self.actor, 'anything')", "getattr(one, 'psi', None)",
        "getattr(getattr(algorithm, 'actor', None), 'ref_kl_coef', 0)", "hasattr(algorithm.data, 'x')",
    ],
)  # fmt: skip
def test_it_finds_what_is_looked_for_by_the_back_door(code):
    assert list(sought(ast.parse(code)))


def test_fields_are_read_by_variable_names():
    """What goes through all fields of a dataclass does not ask which it has."""
    assert not list(sought(ast.parse("[getattr(actor, f.name) for f in dataclasses.fields(actor)]")))


@pytest.mark.parametrize("code", ["isinstance(a.critic, Ensemble)", "if self.actor.name == 'soft': pass"])
def test_the_test_finds_what_it_looks_for(code):
    assert list(asked(ast.parse(code)))
