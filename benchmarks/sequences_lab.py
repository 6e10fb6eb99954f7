"""What the sequence lab says of each change of sequences.py: `python benchmarks/sequences_lab.py` → sequences_lab.json.

The lab's three decoders at a mean success of 0.35, as near as its levels come to where training begins; estimates are
of 128 answers, as in training. Changes of ratio and clip are at a policy KL 0.1 away from the one that answered, with
leave-one-out advantages; a β adds the gradient of k3, which is compared with the KL's own.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
from machine import machine
from sequences_table import LAB

from actrix.lab import sequence as lab
from actrix.lab import sequence_objectives as forms
from actrix.lab.sequence_objectives import MEAN, RATIOS, STD, Objective, by_answer, by_token

LEVEL, ANSWERS, DISTANCE = 0.35, 128, 0.1
OBJECTIVES = {
    "grpo": (Objective(STD, by_answer), 8),
    "std-off": (Objective(MEAN, by_answer), 8),
    "per-token": (Objective(STD, by_token), 8),
    "constant": (Objective(STD), 8),
    "group-4": (Objective(STD, by_answer), 4),
    "group-16": (Objective(STD, by_answer), 16),
    "dynamic": (Objective(STD, by_answer, forms.rescaled), 8),
    "dynamic-keep": (Objective(STD, by_answer, forms.redrawn), 8),
}
"""The objective of each change, and G."""
STEPS = {
    "steps": RATIOS["token, clip 0.2"],
    "clip-higher": RATIOS["token, clip-higher 0.2, 0.28"],
    "ratio-sequence": forms.gspo(0.2, 0.2),
}
KL = ("beta-0.01", "beta-0.04")


def told(mean: np.ndarray, square: float, truth: np.ndarray) -> dict[str, float]:
    """Cosine and length of the expected estimate, Σ Var over the square of its length."""
    found = lab.against(mean, square, truth)
    return {**found, "noise": found["variance"] / found["length"] ** 2}


def on_policy(answers: lab.Answers, theta: np.ndarray) -> dict[str, Any]:
    """Of each objective at the policy that answered."""
    truth, scores = answers.gradient(theta), answers.scores(theta)
    found, out = lab.classes_of(answers, theta, scores, forms.score(answers, theta)), {}
    for name, (objective, n) in OBJECTIVES.items():
        known = [s._replace(batch=ANSWERS // n) for s in lab.settings(answers, theta, n)]
        out[name] = told(*forms.batch_moments(objective, found, known), truth)
    return out


def off_policy(answers: lab.Answers, path: list[np.ndarray], old: np.ndarray) -> dict[str, Any]:
    """Of each ratio, further along the path."""
    later = [x for x in path if answers.success(x).mean() > answers.success(old).mean()]
    new = lab.first_above([old, *later], lambda x: float(np.mean(answers.kl(old, x))), DISTANCE)
    truth, scores, known = answers.gradient(new), answers.scores(new), lab.settings(answers, old)
    rloo, out = lab.OBJECTIVES["leave-one-out (RLOO)"], {}
    for name, form in STEPS.items():
        weights = forms.ratio_weights(form, answers, new, old)
        out[name] = told(
            *forms.batch_moments(rloo, lab.classes_of(answers, old, scores, weights), known), truth
        )
    return out


def predicted(decoders: int = 3) -> dict[str, dict[str, float]]:
    """change → cosine, length, noise: means over decoders."""
    answers, each = lab.Answers(lab.SIZES, lab.balanced), []
    for seed in range(decoders):
        start = lab.initial(lab.SIZES, seed)
        path = list(lab.supervised(answers, start))
        theta = lab.at_success(answers, path, LEVEL)
        k3 = lab.kl_estimates(answers, theta, start)["k3 by token"]
        kl = {name: {"cosine": k3["cosine"]} for name in KL}
        each.append(on_policy(answers, theta) | off_policy(answers, path, theta) | kl)
    return {
        name: {m: round(float(np.mean([one[name][m] for one in each])), 4) for m in first if m != "variance"}
        for name, first in each[0].items()
    }


if __name__ == "__main__":
    row = {"predicted": predicted(), "level": LEVEL, "machine": machine(), "date": str(datetime.date.today())}
    LAB.write_text(json.dumps(row, indent=1) + "\n")
    for name, numbers in row["predicted"].items():
        print(name, numbers)
