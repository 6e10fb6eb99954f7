"""Write the golden files of the present format: `python tests/golden/make.py`, once per format, never over old ones."""

import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "run"))


def main():
    """One file per tiny model, and the actions it predicts."""
    import jax
    from tiny_models import CASES, tiny

    from actrix.files import container

    folder = FOLDER / f"format-{container.FORMAT}"
    folder.mkdir()
    recorded = {}
    for case in CASES:
        model = tiny(case)
        model.save(folder / case)
        model.observation_space.seed(0)
        observations = [model.observation_space.sample() for _ in range(6)]
        actions, state = [], None
        for obs in observations:
            action, state = model.predict(obs, state, deterministic=True)
            actions.append(np.asarray(action).tolist())
        listed = jax.tree.map(lambda x: np.asarray(x).tolist(), observations)
        recorded[case] = {"algorithm": model.preset.name, "observations": listed, "actions": actions}
    (folder / "actions.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
