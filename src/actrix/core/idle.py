"""Fields that have no effect as the others stand: each part of a composition says so of its own."""

from __future__ import annotations

from typing import ClassVar


class NoEffectWarning(UserWarning):
    """A setting that was given has no effect beside the others."""


class Part:
    """What a composition holds."""

    needs: ClassVar[dict[str, str]] = {}
    """Field → the one without which (False, 0, None, 'none') it has no effect, perhaps with what to call that behind a
    colon; beside those of the classes above."""

    def idle(self) -> dict[str, str]:
        """Field that has no effect at the moment → what it would need, e.g. {'tau': 'target_network=True'}."""
        found = {name: x for cls in type(self).__mro__ for name, x in vars(cls).get("needs", {}).items()}
        idle = {}
        for name, need in found.items():
            other, _, called = need.partition(":")
            if (value := getattr(self, other)) in (False, None, "none"):
                idle[name] = called or (f"{other}=True" if value is False else other)
        return idle
