"""Settings as attributes of a model: `model.learning_rate`, and `model.learning_rate = 1e-4` between two updates."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from actrix.algorithms import notices
from actrix.algorithms import settings as settings_
from actrix.core.contract import Algorithm
from actrix.core.numbers import packed
from actrix.instead import OF_A_MODEL, READ_ONLY
from actrix.loops.runner import Runner


class Settable:
    """What has an algorithm and perhaps a runner that trains it."""

    algorithm: Algorithm
    runner: Runner | None

    def __getattr__(self, name: str) -> Any:
        """The setting of that name, where there is no attribute."""
        if hasattr(type(self), name):  # a property that raised: once more, for its own words
            return object.__getattribute__(self, name)
        algorithm = self.__dict__.get("algorithm")
        if algorithm is not None and not name.startswith("_"):
            try:
                return settings_.value_of(algorithm, name)
            except KeyError:
                pass
        hint = f": {OF_A_MODEL[name]}." if name in OF_A_MODEL else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Another value of a setting takes effect at the next update and compiles nothing anew.

        Raises SettingError for a value that is refused, AttributeError where the compiled program depends on it.
        """
        if name in self.__dict__ or hasattr(type(self), name) or not hasattr(self, name):
            self._refuse_without_effect(name)
            object.__setattr__(self, name, value)
            return
        if (
            isinstance(getattr(self, name), float)
            and type(value) is not bool
            and isinstance(value, int | np.integer)
        ):
            value = float(value)  # ent_coef = 0 is a number as 0.0 is
        changed = settings_.configure(self.algorithm, {name: value})
        runner = self.__dict__.get("runner")
        if runner is not None:
            if not self.algorithm.same_program(changed):
                raise AttributeError(
                    f"{name}={value!r} needs another program than the one that trains: give it to the constructor, "
                    f"or to {type(self).__name__}.load(…, {name}=…)."
                )
            runner.set_training(numbers=packed(changed.numbers()))
            runner.algorithm = changed
        before = self.algorithm
        object.__setattr__(self, "algorithm", changed)
        notices.tell(before, changed, {name: value})

    def _refuse_without_effect(self, name: str) -> None:
        """Raise AttributeError where setting would change nothing: what can be read only, internals of SB3, and a new
        attribute whose name is nearly a setting's."""
        here = getattr(type(self), name, None)
        if isinstance(here, property) and here.fset is None:
            hint = f": {READ_ONLY[name]}" if name in READ_ONLY else ""
            raise AttributeError(f"{name} of a {type(self).__name__} can be read only{hint}.")
        if name.startswith("_last_") and name in OF_A_MODEL:
            raise AttributeError(f"{type(self).__name__} has no {name}: {OF_A_MODEL[name]}.")
        algorithm = self.__dict__.get("algorithm")
        if algorithm is None or name in self.__dict__ or name.startswith("_") or hasattr(type(self), name):
            return
        near = difflib.get_close_matches(name, settings_.setting_names(algorithm), 1, 0.85)
        if near:
            raise AttributeError(f"{type(self).__name__} has no setting {name!r}: did you mean {near[0]!r}?")
