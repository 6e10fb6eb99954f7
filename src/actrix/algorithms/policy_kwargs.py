"""`policy_kwargs`: the network's settings, and those of Stable-Baselines3's that are the algorithm's here."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from actrix.core.pretrained import WeightsError, tokenizer
from actrix.core.words import nearest
from actrix.nets.memory.decoder import Shape
from actrix.nets.memory.recurrent import KINDS
from actrix.nets.memory.weights import sizes
from actrix.nets.networks import NetworkConfig
from actrix.nets.obeyed import SHAPE
from actrix.nets.torso import ACTIVATIONS

POLICIES = tuple(
    f"{seen}{memory}Policy" for memory in ("", "Lstm", "Transformer") for seen in ("Mlp", "Cnn", "MultiInput")
)


class SettingError(ValueError, AssertionError):
    """A setting that is unknown, malformed or refused. (Some of SB3's scripts expect one, some the other.)"""


UNSUPPORTED = {
    "use_sde_at_warmup": "there is no random phase that a sampled policy could take the place of",
    "create_eval_env": "write learn(…, callback=actrix.EvalCallback(eval_env, …)), which evaluates while it learns",
    "rollout_buffer_class": "chunks replace rollout buffers; change the estimator with critic=…",
    "rollout_buffer_kwargs": "chunks replace rollout buffers",
    "replay_buffer_class": "HerReplayBuffer and the plain ones are known; else choose prioritized=True or n_steps=…",
    "replay_buffer_kwargs": "they go with replay_buffer_class=HerReplayBuffer, DictReplayBuffer or NStepReplayBuffer",
}
NETWORKS = ("use_sde", "sde_sample_freq")
"""Settings of the algorithm in Stable-Baselines3, of the network here."""
_LIFTED = ("n_critics", "n_quantiles", "renorm_warmup_steps", "batch_norm_momentum")
_CNN = ("features_dim", "cnn_output_dim")
"""Its CNN's units, of an image alone and of one in a Dict."""

POLICY_KEYS = (
    "net_arch", "lstm_hidden_size", "lstm_kwargs", "optimizer_class", "optimizer_kwargs",
    *(f.name for f in dataclasses.fields(NetworkConfig) if f.name not in NETWORKS),
)  # fmt: skip
"""What `policy_kwargs` takes."""


def lifted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of Stable-Baselines3's `policy_kwargs` that are the algorithm's here: critics, optimiser.

    NumPy's and JAX's numbers become Python's, which files hold. SettingError for an optimiser or an argument of it that
    is not offered, or for what is given outside as well and differs.
    """
    settings = dict(_python(settings))
    if settings.pop("_init_setup_model", True) is not True:
        raise SettingError(
            "_init_setup_model=False: what there is to set up is set up by set_env; leave env out until then."
        )
    inward = {name: x for name, x in settings.items() if name in NETWORKS}
    settings = {name: x for name, x in settings.items() if name not in NETWORKS}
    kwargs = settings.get("policy_kwargs")
    if not (isinstance(kwargs, Mapping) or (kwargs is None and inward)):
        return settings
    once(inward, kwargs or {}, "policy_kwargs")
    kwargs = dict(kwargs or {}) | inward
    found = {name: kwargs.pop(name) for name in _LIFTED if name in kwargs}
    found |= _optimizer(kwargs.pop("optimizer_class", None), kwargs.pop("optimizer_kwargs", None) or {})
    for key, value in dict(kwargs.pop("lstm_kwargs", None) or {}).items():
        if key != "dropout" and value != {"bias": True}.get(key, False):
            raise SettingError(f"policy_kwargs lstm_kwargs {key}={value!r} is not offered: only dropout.")
        kwargs |= {key: value} if key == "dropout" else {}
    once(settings, found, "policy_kwargs")
    return found | {**settings, "policy_kwargs": kwargs}


def refuse_two_scales(policy_kwargs: Any, standardised: bool) -> None:
    """Raise SettingError where images shall be divided by 255, and are `standardised` by a VecNormalize."""
    if standardised and isinstance(policy_kwargs, Mapping) and policy_kwargs.get("normalize_images") is True:
        raise SettingError(
            "normalize_images=True divides images by 255, VecNormalize standardises them: say normalize_images=False, "
            "or VecNormalize(env, norm_obs=False), or leave the images out of norm_obs_keys."
        )


def once(outside: Mapping[str, Any], inside: Mapping[str, Any], where: str) -> None:
    """Raise SettingError for a setting that is given twice, and differs."""
    for name in outside.keys() & inside.keys():
        if outside[name] != inside[name]:
            raise SettingError(f"{name} is {outside[name]!r}, and {inside[name]!r} in {where}: give it once.")


def _optimizer(chosen: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of PyTorch's optimiser of that class or name; AdamW is adam with a `weight_decay`."""
    name = str(getattr(chosen, "__name__", chosen)).lower().removesuffix("tflike")
    found: dict[str, Any] = {} if chosen is None else {"optimizer": name}
    taken = {"eps": "optimizer_eps"}
    if name == "adamw":
        found |= {"optimizer": "adam", "weight_decay": 0.01}
        taken |= {"weight_decay": "weight_decay"}
    for key, value in kwargs.items():
        if key in taken:
            found[taken[key]] = value
        elif value not in (0, 0.0, None, False):
            raise SettingError(
                f"policy_kwargs optimizer_kwargs {key}={value!r} is not offered: only {' and '.join(taken)}."
            )
    return found


def _python(value: Any) -> Any:
    """Numbers of NumPy and JAX as Python's, also in containers, but for what a user's own encoder gets."""
    if isinstance(value, Mapping):
        return {k: x if k == "features_extractor_kwargs" else _python(x) for k, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_python, value))
    return value.item() if isinstance(value, np.generic | jax.Array) and value.ndim == 0 else value


_ACTIVATION_NAMES = {id(f): n for n, f in ACTIVATIONS.items()} | {id(jnp.tanh): "tanh"}


def network_config(kwargs: Mapping[str, Any], base: NetworkConfig = NetworkConfig()) -> NetworkConfig:
    """`policy_kwargs` → `NetworkConfig`; SettingError names an unknown key."""
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise SettingError(
            f"policy_kwargs={kwargs!r}: expected a dict of names, e.g. {{'net_arch': [64, 64]}}."
        )
    kwargs = _with_critic(dict(kwargs), base)
    changes: dict[str, Any] = {}
    widths = kwargs.pop("net_arch", None)
    if widths is not None:
        changes |= _widths(widths)
    if "activation_fn" in kwargs:
        changes["activation_fn"] = _activation(kwargs.pop("activation_fn"))
    if "lstm_hidden_size" in kwargs:
        changes["hidden_size"] = int(kwargs.pop("lstm_hidden_size"))
    if "features_extractor_kwargs" in kwargs:
        given = kwargs.pop("features_extractor_kwargs")
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise SettingError(
                f"policy_kwargs features_extractor_kwargs must be a dict of names, not {given!r}."
            )
        if kwargs.get("features_extractor_class") is None:
            given = {"cnn_features" if k in _CNN else k: v for k, v in given.items()}
        changes["features_extractor_kwargs"] = tuple(sorted(given.items()))
    if (
        kwargs.get("weights") is not None and "d_ff" not in kwargs
    ):  # it is among what the folder says: said already
        changes |= _of_weights(kwargs)
    known = {f.name for f in dataclasses.fields(NetworkConfig)}
    for name, value in kwargs.items():
        if name in UNSUPPORTED:
            raise SettingError(f"policy_kwargs {name}: {UNSUPPORTED[name]}.")
        if name not in known:
            raise SettingError(
                f"policy_kwargs has no {name!r}; {nearest(name, ['net_arch', *sorted(known)])}"
            )
        changes[name] = tuple(value) if name in ("pi", "vf") and value is not None else value
    try:
        return dataclasses.replace(base, **changes)
    except ValueError as error:
        raise SettingError(f"policy_kwargs: {error}") from None


def _of_weights(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The transformer that a folder's `config.json` describes; `kwargs` keep what is not of it."""
    folder = Path(str(kwargs.pop("weights"))).resolve()
    given = [name for name in SHAPE if name in kwargs and name != "context"]
    given += ["cell"] if kwargs.get("cell", "transformer") != "transformer" else []
    if given:
        raise SettingError(f"policy_kwargs {given[0]} is of the weights in {folder}: leave it out.")
    try:
        said = sizes(folder)
        vocabulary, positions = said.pop("vocabulary"), said.pop("positions")
        if (folder / "tokenizer.json").is_file():
            tokenizer(folder, vocabulary)
    except WeightsError as error:
        raise SettingError(f"policy_kwargs weights: {error}") from None
    if kwargs.get("context", Shape.context) > positions:
        raise SettingError(
            f"policy_kwargs context={kwargs['context']} is beyond the weights' {positions} positions."
        )
    return said | {"cell": "transformer", "weights": str(folder)}


def _widths(arch: Any) -> dict[str, tuple[int, ...]]:
    """Of each branch that is named; a list is of both, and one around a dict is SB3's old way to write that dict."""
    if isinstance(arch, list | tuple) and len(arch) == 1 and isinstance(arch[0], Mapping):
        arch = arch[0]
        warnings.warn(f"net_arch=[{arch}]: leave the list around the dict out.", UserWarning, stacklevel=6)
    both = arch if isinstance(arch, Mapping) else {"pi": arch, "vf": arch}
    both = {"vf" if key == "qf" else key: widths for key, widths in both.items()}
    if set(both) - {"pi", "vf"}:
        raise SettingError(
            f"net_arch has keys {sorted(both)}; expected a list, or a dict with 'pi' and 'vf' (or 'qf')."
        )
    try:
        return {k: tuple(int(n) for n in widths) for k, widths in both.items()}
    except (TypeError, ValueError):
        raise SettingError(
            f"net_arch={arch!r}: expected widths, e.g. [64, 64] or dict(pi=[64], vf=[64])."
        ) from None


def _activation(value: Any) -> Any:
    if callable(value) and not isinstance(value, type):
        return _ACTIVATION_NAMES.get(id(value), value)
    name = str(getattr(value, "__name__", value)).lower().removeprefix("nn.")
    if name not in ACTIVATIONS:
        raise SettingError(f"activation_fn={value!r}: choose one of {', '.join(ACTIVATIONS)}.")
    return name


# ---------------------------------------------------------------------------- reading them off again


def network_settings(network: NetworkConfig, base: NetworkConfig | None = None) -> dict[str, Any]:
    """`policy_kwargs` that make `network` of `base`; None: of any preset's, with nothing left out but the folder of
    weights where there is none."""
    if network.custom:
        return {"custom": True}
    values = {f.name: getattr(network, f.name) for f in dataclasses.fields(NetworkConfig)}
    values["features_extractor_kwargs"] = dict(network.features_extractor_kwargs)
    if base is None:
        left_out = {"weights"} if network.weights is None else set()
    else:
        left_out = {name for name in values if getattr(network, name) == getattr(base, name)}
    plain = lambda x: list(x) if isinstance(x, tuple) else x
    return {name: plain(x) for name, x in values.items() if name not in left_out}


def named_policy(policy: str) -> dict[str, Any]:
    """What a policy's name says of its `policy_kwargs`."""
    cell = next((name for name in ("Lstm", "Transformer") if name in policy), None)
    out: dict[str, Any] = {} if cell is None else {"cell": cell.lower()}
    return out | ({"cnn": True} if policy.startswith("Cnn") else {})


def _with_critic(kwargs: dict[str, Any], base: NetworkConfig) -> dict[str, Any]:
    """The same; where a critic beside a cell has features of its own it has a cell, too, or none if that is said."""
    if kwargs.get("cell", base.cell) not in KINDS or kwargs.get("share_features_extractor", True):
        return kwargs
    own = kwargs.get("enable_critic_lstm", kwargs.get("shared_lstm") is None)
    return kwargs | (
        {"enable_critic_lstm": True} if own else {"shared_lstm": kwargs.get("shared_lstm") or False}
    )


def network_of(policy: Any, policy_kwargs: dict[str, Any] | None, base: Any) -> Any:
    """The network of a policy's name, or of a user's function, with its `policy_kwargs`; SettingError for others."""
    kwargs = dict(policy_kwargs or {})
    if isinstance(policy, str):
        if policy not in POLICIES:
            first = ' (it comes before the environment: PPO("MlpPolicy", env))' * (policy in gym.registry)
            ours = f"choose one of {', '.join(POLICIES)}, or a function."
            raise SettingError(f"policy {policy!r} is unknown{first}: {nearest(policy, POLICIES, ours)}")
        kwargs = named_policy(policy) | kwargs
    elif callable(policy):
        _check_makes(policy)
        kwargs["module"] = policy
    else:
        raise SettingError(f"policy must be a name or (spec, key) -> equinox module, not {policy!r}.")
    return network_config(kwargs, base)


def _check_makes(policy: Any) -> None:
    """Raise SettingError for a function or class that cannot be called with (spec, key), as PyTorch's policies."""
    try:
        inspect.signature(policy).bind(None, None)
    except (TypeError, ValueError):
        if isinstance(policy, type) or inspect.isfunction(policy):
            name = getattr(policy, "__name__", policy)
            raise SettingError(
                f"policy {name} cannot be called with (spec, key), to make an equinox module: give such a function, or "
                f"a name, e.g. 'MlpPolicy' (a class of PyTorch makes no network here)."
            ) from None
