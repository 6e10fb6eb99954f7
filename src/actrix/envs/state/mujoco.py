"""The state of a MuJoCo environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from actrix.envs.guard import EnvError
from actrix.envs.state.levels import Fields, check_keys, id_of, shown


class Mujoco(Fields):
    """A MuJoCo environment: what MuJoCo integrates, and what the last step left for the next one to read.

    The first alone is not enough: Ant, Humanoid, Pusher and Reacher read positions and forces before they step.
    Only arrays of floats are written, never sizes, indices or addresses, which a bad file could make point anywhere.
    """

    derived = (
        *(
            "xpos",
            "xquat",
            "xmat",
            "xipos",
            "ximat",
            "xanchor",
            "xaxis",
            "geom_xpos",
            "geom_xmat",
            "site_xpos",
        ),
        *("site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com", "subtree_linvel"),
        *("subtree_angmom", "cinert", "cvel", "cacc", "cfrc_int", "cfrc_ext", "ten_length", "ten_velocity"),
        *("actuator_length", "actuator_velocity", "actuator_force", "qfrc_actuator", "qfrc_passive"),
        *("qfrc_bias", "qfrc_constraint", "qfrc_inverse", "qacc", "qacc_smooth", "sensordata", "energy"),
    )

    def unsupported(self, level: Any) -> str | None:
        """Why the state cannot be saved, as a clause; None if it can."""
        import mujoco

        sleep = getattr(mujoco.mjtEnableBit, "mjENBL_SLEEP", 0)
        if level.model.opt.enableflags & int(sleep):
            return (
                f"{id_of(level) or type(level).__name__} lets bodies sleep, which MuJoCo's state leaves out"
            )
        return None

    def read(self, level: Any) -> Any:
        """The fields, and all that MuJoCo holds."""
        import mujoco

        physics = np.zeros(self._sizes(level)["physics"])
        mujoco.mj_getState(level.model, level.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        derived = np.concatenate([array.ravel() for array in self._derived(level)])
        return {**super().read(level), "physics": physics, "derived": derived}

    def write(self, level: Any, state: Any) -> Callable[[], None]:
        """What puts `state` into the level; EnvError where it does not fit."""
        name, sizes = type(level).__name__, self._sizes(level)
        check_keys(name, state, {"fields", "unset", *sizes})
        for part, size in sizes.items():
            array = state[part]
            if type(array) is not np.ndarray or array.shape != (size,) or array.dtype != np.float64:
                raise EnvError(
                    f"the state of {name} does not fit: {part} is {shown(array)}; it must be float64 ({size},)."
                )
        fields = super().write(level, {key: state[key] for key in ("fields", "unset")})
        physics, derived = state["physics"].copy(), state["derived"].copy()

        def write() -> None:
            import mujoco

            fields()
            mujoco.mj_setState(level.model, level.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
            rest = derived
            for array in self._derived(level):
                array[...], rest = rest[: array.size].reshape(array.shape), rest[array.size :]

        return write

    def _sizes(self, level: Any) -> dict[str, int]:
        import mujoco

        return {
            "physics": mujoco.mj_stateSize(level.model, mujoco.mjtState.mjSTATE_INTEGRATION),
            "derived": sum(array.size for array in self._derived(level)),
        }

    def _derived(self, level: Any) -> list[np.ndarray]:
        # Some versions of MuJoCo lack some; the sizes tell.
        return [getattr(level.data, name) for name in self.derived if hasattr(level.data, name)]
