"""Losses and gradients of answers beside TRL's, on the same logits and advantages, in float64.

    python benchmarks/trl_check.py --peer ENV_WITH_TRL/bin/python

Here actrix's functions run, in the other environment TRL's `GRPOTrainer._compute_loss` and `RLOOTrainer._compute_loss`
on a trainer that has the attributes they read and a model that returns the given logits. TRL computes advantages inside
its generation step, where they cannot be called alone: both sides are given the same ones.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import record

ANSWERS, LENGTH, VOCABULARY, LONGEST = 8, 6, 11, 9
CASES = [
    {"loss": loss, "level": level, "high": high, "beta": beta}
    for loss, level, high, beta in itertools.product(
        ("grpo", "bnpo", "dr_grpo", "dapo"), ("token", "sequence"), (0.2, 0.28), (0.0, 0.04)
    )
] + [{"loss": "rloo", "level": "answer", "high": 0.2, "beta": 0.0}]
LOW = 0.2


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Logits [B, T, V], tokens, mask, log-probabilities of an older policy and of a reference [B, T], advantages."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(ANSWERS, LENGTH, VOCABULARY))
    token = rng.integers(VOCABULARY, size=(ANSWERS, LENGTH))
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    taken = np.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]
    length = np.array([LENGTH, 1, 3, 4, 2, LENGTH, 5, 3])
    return {
        "logits": logits,
        "token": token,
        "mask": (np.arange(LENGTH) < length[:, None]).astype(float),
        "old": taken + rng.normal(size=taken.shape) * 0.5,
        "reference": taken + rng.normal(size=taken.shape) * 0.3,
        "advantage": rng.normal(size=ANSWERS),
    }


def ours(case: dict[str, Any], x: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """Loss and gradient in the logits of actrix's functions (time-major)."""
    import jax
    import jax.numpy as jnp

    from actrix.actors import sequence_loss
    from actrix.critics import kl_estimators

    valid, old, reference = (jnp.asarray(x[name]).T for name in ("mask", "old", "reference"))
    advantage = jnp.broadcast_to(x["advantage"], (LENGTH, ANSWERS))
    averages = {
        "grpo": sequence_loss.per_sequence,
        "bnpo": sequence_loss.per_token,
        "dapo": sequence_loss.per_token,
        "dr_grpo": lambda y, valid: sequence_loss.constant(y, valid, LONGEST),
    }

    def loss(logits: Any) -> Any:
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        new = jnp.take_along_axis(log_probs, x["token"][..., None], axis=-1)[..., 0].T
        clip = {"low": LOW, "high": case["high"]}
        if case["loss"] == "rloo":
            whole = jnp.sum(jnp.where(valid > 0, new - old, 0), axis=0, keepdims=True)
            some = jnp.ones_like(whole, bool)
            y = sequence_loss.clipped(log_ratio=whole, advantage=advantage[:1], valid=some, **clip)
            return -sequence_loss.per_sequence(y, some)
        ratio = new - old
        if case["level"] == "sequence":
            ratio = sequence_loss.sequence_log_ratio(log_prob=new, old_log_prob=old, valid=valid > 0)
        y = sequence_loss.clipped(log_ratio=ratio, advantage=advantage, valid=valid > 0, **clip)
        return -averages[case["loss"]](y - case["beta"] * kl_estimators.k3(new, reference), valid > 0)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(x["logits"]))
    return float(value), np.asarray(gradient)


def theirs(case: dict[str, Any], x: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """The same by TRL."""
    # This folder's datasets.py would stand before the package of that name, which TRL imports.
    sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]
    import torch
    from trl import GRPOTrainer, RLOOTrainer

    tensors = {name: torch.tensor(v) for name, v in x.items()}
    logits, mask = tensors["logits"].requires_grad_(), tensors["mask"]

    def log_probs(*_: Any, **__: Any) -> tuple[Any, Any, None]:
        every = torch.log_softmax(logits, dim=-1)
        entropy = -(every.exp() * every).sum(-1)
        return every.gather(-1, tensors["token"][..., None])[..., 0], entropy.detach(), None

    same = lambda y, reduction="": y
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=log_probs,
        _metrics={"train": collections.defaultdict(list)},
        _entropy_bonus_enabled=False,
        accelerator=types.SimpleNamespace(gather=same, reduce=same, gather_for_metrics=same, num_processes=1),
        args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        aux_loss_enabled=False,
        beta=case["beta"],
        current_gradient_accumulation_steps=1,
        epsilon_high=case["high"],
        epsilon_low=LOW,
        importance_sampling_level=case["level"],
        loss_type=case["loss"],
        max_completion_length=LONGEST,
        model=types.SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    prompt = torch.zeros(ANSWERS, 1, dtype=torch.long)
    given = {
        "prompt_ids": prompt, "prompt_mask": prompt + 1, "completion_ids": tensors["token"], "completion_mask": mask,
        "advantages": tensors["advantage"], "old_per_token_logps": tensors["old"],
        "ref_per_token_logps": tensors["reference"], "num_items_in_batch": mask.sum(),
        "old_logps": (tensors["old"] * mask).sum(1),
    }  # fmt: skip
    kind = RLOOTrainer if case["loss"] == "rloo" else GRPOTrainer
    loss = kind._compute_loss(trainer, None, given)
    loss.backward()
    return float(loss.detach()), logits.grad.numpy()


def main() -> int:
    """Print the largest difference of each case; 1 if one is above 1e-6."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="the Python of an environment with trl and torch")
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    x = inputs()
    if args.as_peer:
        import importlib.metadata

        found = [(loss, gradient.tolist()) for loss, gradient in (theirs(case, x) for case in CASES)]
        print(json.dumps({"trl": importlib.metadata.version("trl"), "found": found}))
        return 0
    if args.peer is None:
        parser.error("--peer is missing: the Python of an environment with trl, as ENV/bin/python.")
    if why := record.lacks(args.peer, "torch", "trl"):
        record.refuse(f"--peer {args.peer}: TRL is not there ({why}).")
    import jax

    jax.config.update("jax_enable_x64", True)
    command = [args.peer, __file__, "--as-peer"]
    told = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    print(
        f"actrix against TRL {told['trl']}: largest difference of the loss and of its gradient in the logits"
    )
    worst = 0.0
    for case, (loss, gradient) in zip(CASES, told["found"], strict=True):
        value, slope = ours(case, x)
        apart = abs(value - loss), float(np.abs(slope - np.array(gradient)).max())
        worst = max(worst, *apart)
        name = f"{case['loss']:<8} {case['level']:<8} clip {LOW:g}/{case['high']:g}  β {case['beta']:g}"
        print(f"{name:<42} {value:+.6f}  {apart[0]:.1e}  {apart[1]:.1e}")
    print(f"worst {worst:.1e}")
    return int(worst > 1e-6)


if __name__ == "__main__":
    sys.exit(main())
