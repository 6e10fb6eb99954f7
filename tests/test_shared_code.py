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
LEARNS = ("learn", "sound", "settings", "reference", "composed", "presets", "usual", "policy_kwargs", "warm")
SHARED = sorted(
    name
    for file in ROOT.rglob("*.py")
    if (name := file.relative_to(ROOT).as_posix()).split("/")[0]
    not in ("actors", "critics", "data", "envs", "lab")
    and not (name.startswith("algorithms/") and file.stem not in LEARNS)
)
"""What serves every answer."""
PARTS = (*PSI, *BACKUPS, *REPRESENTATIONS, *JOINED)
ROOTS = {"Critic", "Actor", "Data", "Number", "object", "ABC", "Protocol", "Generic"}
KINDS = (*CRITICS.values(), *ACTORS.values(), *DATA.values(), *PARTS)
CLASSES = {kind.__name__ for cls in KINDS for kind in cls.__mro__} - ROOTS
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
    """Where an answer's type is tested or its name compared, looked up or taken apart."""
    for node in ast.walk(tree):
        kinds = classes(node)
        if kinds:
            yield node.lineno, f"asks whether it is {', '.join(sorted(kinds))}"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(is_name, sides)) and not all(map(is_name, sides)):
                yield node.lineno, f"compares a name: {ast.unparse(node)}"
        if isinstance(node, ast.Subscript) and is_name(node.slice):
            yield node.lineno, f"looks a name up: {ast.unparse(node)}"
        if isinstance(node, ast.Match) and is_name(node.subject):
            yield node.lineno, "matches a name"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_name(node.func.value):
            yield node.lineno, f"takes a name apart: {ast.unparse(node)}"


def classes(node):
    """The answers' classes that something is tested for."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
        found = [node.args[1]]
    elif isinstance(node, ast.Compare) and getattr(getattr(node.left, "func", None), "id", "") == "type":
        found = node.comparators
    elif isinstance(node, ast.MatchClass):
        found = [node.cls]
    else:
        return set()
    inside = [n for one in found for n in ast.walk(one)]
    return {getattr(n, "attr", getattr(n, "id", "")) for n in inside} & CLASSES


def is_name(node):
    """Whether it is the name of an answer, or of a part of one."""
    return isinstance(node, ast.Attribute) and node.attr == "name" and base(node) in ANSWERS


def base(attribute):
    """What the name is of: `critic` of `algorithm.critic.name`."""
    value = attribute.value
    return value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")


@pytest.mark.parametrize("name", SHARED)
def test_shared_code_never_asks_which_answer_it_has(name):
    found = [f"{name}:{line} {what}" for line, what in asked(ast.parse((ROOT / name).read_text("utf-8")))]
    assert not found, "make it a fact, or a member of the abstract answer"


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


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(a.critic, Ensemble)", "isinstance(a, greedy.EpsilonGreedy)", "isinstance(a, PolicyGradient)",
        "issubclass(kind, (int, Soft))", "type(a) is Soft", "type(a) in (Soft, Score)",
        "a.name if actor.name in x else 0",
        "if self.actor.name == 'soft': pass", "TABLE[actor.name]", "self.critic.name.startswith('q')",
        "match one:\n  case Soft(): pass", "match self.actor.name:\n  case 'soft': pass",
    ],
)  # fmt: skip
def test_the_test_finds_what_it_looks_for(code):
    assert list(asked(ast.parse(code)))
