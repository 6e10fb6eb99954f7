"""The rules of the house, counted: short files and functions, imports one way, no copies, typed algorithms, updates
that are read soon.

`python tests/test_house.py RULE` prints what breaks a rule; CONTRIBUTING.md lists them.
"""

import ast
import graphlib
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "src" / "actrix"
FILES = sorted(ROOT.rglob("*.py"))

LONG_FILES = {
    "core/answers.py": "the contract of critic, actor and data: half of it is docstrings, read together",
    "data/ring.py": "one invariant, which rows are ready, holds from writing to drawing",
}
LONG_FUNCTIONS = {
    (
        "data/ring.py",
        "add",
    ): "one scatter writes rows and successors: its places and values are computed together",
}
ALLOWED = 3
"""Exceptions to a rule, each with its reason above."""


def name_of(file):
    return file.relative_to(ROOT).as_posix()


def tree_of(file):
    return ast.parse(file.read_text("utf-8"))


def length(function):
    """Lines from `def` to the last one, without the docstring."""
    said = function.body[0]
    has_doc = isinstance(said, ast.Expr) and isinstance(getattr(said.value, "value", None), str)
    documented = said.end_lineno - said.lineno + 1 if has_doc else 0
    return function.end_lineno - function.lineno + 1 - documented


def files():
    """Files of more than 400 lines."""
    for file in FILES:
        lines = len(file.read_text("utf-8").splitlines())
        if lines > 400 and name_of(file) not in LONG_FILES:
            yield f"{name_of(file)} has {lines} lines"


def functions():
    """Functions of more than 40 lines, their docstring not counted."""
    for file in FILES:
        for node in ast.walk(tree_of(file)):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and length(node) > 40 and (name_of(file), node.name) not in LONG_FUNCTIONS:
                yield f"{name_of(file)}:{node.lineno} {node.name} has {length(node)} lines"


def needs(file):
    """The files that importing `file` imports, those for type checkers among them; not those inside functions."""
    todo = [tree_of(file)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "actrix":
            path = ROOT.joinpath(*node.module.split(".")[1:])
            for alias in node.names:
                one = path / alias.name
                found = (
                    one.with_suffix(".py"),
                    one / "__init__.py",
                    path.with_suffix(".py"),
                    path / "__init__.py",
                )
                yield next(name_of(place) for place in found if place.is_file())
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def circles():
    """Files that need each other."""
    graph = {name_of(file): set(needs(file)) - {name_of(file)} for file in FILES}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        yield " ← ".join(error.args[1])


DULL = re.compile(r'(from|import|#|@|""")|[\W\d_]*$|\w+,$|\w+: .+,$')
"""Imports, comments, decorators, brackets and declarations of parameters: alike wherever things are alike."""


def copies():
    """Six equal lines of code in a row in two places."""
    places = defaultdict(list)
    for file in FILES:
        code = [(n, line.strip()) for n, line in enumerate(file.read_text("utf-8").splitlines(), 1)]
        code = [(n, line) for n, line in code if line and not DULL.match(line)]
        for start in range(len(code) - 5):
            run = code[start : start + 6]
            places["\n".join(line for _, line in run)].append(f"{name_of(file)}:{run[0][0]}")
    for found in places.values():
        if len(found) > 1:
            yield " = ".join(found)


def untyped():
    """Algorithms, answers, learners and runners taken as anything."""
    for file in FILES:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            if re.search(r"\b(algorithm|runner|learner|actor|critic): Any\b", line):
                yield f"{name_of(file)}:{number} {line.strip()}"


ENTERED = {"ppo": ("CartPole-v1", 430), "sac": ("Pendulum-v1", 500), "dqn": ("CartPole-v1", 470)}
"""Presets, where they are traced, and how many lines of this package their `learn` may enter."""


def lines_of_learn(name, env_id):
    """(file, line) of this package that tracing one update of a preset enters."""
    import jax

    from actrix.algorithms.presets import PRESETS
    from actrix.envs.jax_envs import jax_env
    from actrix.loops.compiled import CompiledRunner, collect

    algorithm, env, entered = PRESETS[name].algorithm, jax_env(env_id), set()
    runner = CompiledRunner(algorithm, env, 1, [0])
    state = jax.tree.map(lambda x: x[0], runner.state)
    _, chunk, _ = jax.eval_shape(
        lambda s: collect(algorithm, s.learner.acting, env, s.env, s.env_key, s.iteration_key, runner.rows),
        state,
    )

    def line(frame, event, _):
        if not frame.f_code.co_filename.startswith(str(ROOT)):
            return None
        if event == "line":
            entered.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        jax.eval_shape(algorithm.learn, state.learner, chunk, jax.random.key(0))
    finally:
        sys.settrace(before)
    return entered


def entered():
    """Updates that take more lines to read than they may."""
    for name, (env_id, most) in ENTERED.items():
        lines = lines_of_learn(name, env_id)
        told = f"{name} enters {len(lines)} lines of {len({file for file, _ in lines})} files, at most {most}"
        if len(lines) > most:
            yield told
        elif __name__ == "__main__":
            print(told)


READ = "algorithms/learn.py", "critics/value.py", "actors/policy_gradient.py", "data/chunk.py"
"""What PPO learns by: one file of what all share and one for each answer."""


def reading():
    """The files to read to follow how PPO learns, together more than 850 lines."""
    lines = sum(len((ROOT / name).read_text("utf-8").splitlines()) for name in READ)
    if lines > 850:
        yield f"{', '.join(READ)} have {lines} lines"


RULES = {rule.__name__: rule for rule in (files, functions, circles, copies, untyped, entered, reading)}


@pytest.mark.parametrize(
    "rule", [*(name for name in RULES if name != "entered"), pytest.param("entered", marks=pytest.mark.slow)]
)
def test_rule(rule):
    found = list(RULES[rule]())
    assert not found, f"{RULES[rule].__doc__}\n" + "\n".join(found)


def test_exceptions_are_few_and_needed():
    assert max(len(LONG_FILES), len(LONG_FUNCTIONS)) <= ALLOWED
    for name in LONG_FILES:
        assert len((ROOT / name).read_text("utf-8").splitlines()) > 400, f"{name} needs no exception"
    for name, function in LONG_FUNCTIONS:
        nodes = [
            n for n in ast.walk(tree_of(ROOT / name)) if isinstance(n, ast.FunctionDef) and n.name == function
        ]
        assert any(length(node) > 40 for node in nodes), f"{function} of {name} needs no exception"


if __name__ == "__main__":
    for broken in RULES[sys.argv[1]]():
        print(broken)
