"""Write the golden model files of the present format: `python tests/golden/make.py`.

Once per format and model, and never over old ones: what is there stays as it is. `format-N/` holds the models of
`tests/run/tiny_models.py`, `format-N/kinds/` one of every kind of network (`models.py`), each with what they predict.
"""

import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "run")]


def main():
    from actrix.files import container

    folder = FOLDER / f"format-{container.FORMAT}"
    kinds = folder / "kinds"
    kinds.mkdir(parents=True, exist_ok=True)
    write_tiny(folder)
    write_kinds(kinds)


def missing(cases, folder):
    return [case for case in cases if not (folder / case).with_suffix(".safetensors").exists()]


def recorded(path):
    return json.loads(path.read_text()) if path.exists() else {}


def write_tiny(folder):
    """One file per tiny model, and the actions it predicts."""
    import jax
    from tiny_models import CASES, tiny

    found = recorded(folder / "actions.json")
    for case in missing(CASES, folder):
        model = tiny(case)
        model.save(folder / case)
        model.observation_space.seed(0)
        observations = [model.observation_space.sample() for _ in range(6)]
        actions, state = [], None
        for obs in observations:
            action, state = model.predict(obs, state, deterministic=True)
            actions.append(np.asarray(action).tolist())
        listed = jax.tree.map(lambda x: np.asarray(x).tolist(), observations)
        found[case] = {"algorithm": model.preset.name, "observations": listed, "actions": actions}
    (folder / "actions.json").write_text(json.dumps(found, indent=1) + "\n")


def write_kinds(folder):
    """One file per kind of model, and what it answers, preferred and sampled."""
    import models

    path = folder / "predictions.json"
    found, built = recorded(path), {}
    for case in missing(models.CASES, folder):
        for seed in range(100):
            built[case] = model = models.build(case, seed)
            asked = models.questions(model)
            answers = models.answers(model, asked)
            rows = np.array(answers["preferred"][0])
            if len(np.unique(rows.reshape(len(rows), -1), axis=0)) > 1:  # else anything would agree
                break
        found[case] = {"algorithm": model.preset.name, **asked, **answers}
    for case, model in built.items():
        model.save(folder / case)
    lines = [f"{json.dumps(case)}: {json.dumps(one)}" for case, one in sorted(found.items())]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
