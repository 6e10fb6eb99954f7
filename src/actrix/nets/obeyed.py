"""Which settings of `NetworkConfig` each kind of network obeys: others are refused, not ignored."""

from __future__ import annotations

import dataclasses
from typing import Any

from gymnasium import spaces

from actrix.core.types import Spec
from actrix.nets.memory.decoder import Shape
from actrix.nets.memory.recurrent import KINDS

ENCODING = ("features_extractor_class", "features_extractor_kwargs", "cnn", "normalize_images")
SDE = ("use_sde", "sde_sample_freq", "full_std", "use_expln")
HIDDEN = ("pi", "vf", "activation_fn", "ortho_init", "layer_norm")
SHAPE = tuple(f.name for f in dataclasses.fields(Shape))
RECURRENT = ("hidden_size", "n_lstm_layers", "enable_critic_lstm", "shared_lstm", "share_features_extractor")
CELLS = {
    None: ("share_features_extractor",),
    "lstm": ("cell", *RECURRENT),
    "gru": ("cell", *RECURRENT),
    "transformer": ("cell", *SHAPE, "weights"),
}
"""Memories by name, and the settings that each obeys."""


def one_body(config: Any) -> tuple[str, ...]:
    """Settings of hidden layers of a single network, whose widths may be given for both branches alike."""
    return HIDDEN if config.pi == config.vf else tuple(name for name in HIDDEN if name not in ("pi", "vf"))


def joint_settings(config: Any, spec: Spec) -> tuple[str, ...]:
    """Settings that a network with a policy and a value branch, or the user's own, obeys."""
    gaussian = ("log_std_init",) if isinstance(spec.action_space, spaces.Box) else ()
    if config.module is not None:
        return ("module", *gaussian)
    sde = (*SDE, "squash_output") if gaussian else ()
    between = ("dropout",) if config.cell in KINDS and config.n_lstm_layers > 1 else ()
    return (*ENCODING, *HIDDEN, *gaussian, *CELLS[config.cell], *between, *sde)
