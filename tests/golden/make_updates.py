"""Record the golden numbers of `updates.py`: `python tests/golden/make_updates.py [CASE…]`.

Without names all cases are recorded and the file is written anew; with names only theirs are replaced. Record from
the code whose numbers shall be kept, never to make a test pass: a difference is what the numbers are there to show.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "algorithms")]


def code():
    """The last commit that changed the library."""
    git = lambda *words: subprocess.run(
        ["git", *words], cwd=FOLDER, capture_output=True, text=True, check=True
    ).stdout.strip()
    source = str(FOLDER.parent.parent / "src")
    changed = "-changed" if git("status", "--porcelain", "--", source) else ""
    return git("log", "-1", "--format=%H", "--", source) + changed


def read(path):
    """(arrays, metadata) of a recorded file; metadata: {"fingerprint": {…}, "commits": {case: commit}}."""
    with safetensors.safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["golden"])  # noqa: SIM118


def probed():
    """Presets whose numbers in the program that the probes' tests use are recorded, too."""
    from helpers import presets

    return [name if isinstance(name, str) else name.values[0] for name in presets()]


def main(names):
    os.environ.pop("XLA_FLAGS", None)
    import updates  # sets them as the tests have them

    unknown = set(names) - set(updates.CASES)
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    arrays, meta = {}, {"fingerprint": updates.fingerprint(), "commits": {}}
    if names:
        old, old_meta = read(updates.FILE)
        if old_meta["fingerprint"] != meta["fingerprint"]:
            sys.exit(
                "the file was recorded on another machine or with another jaxlib: record all cases, or go there"
            )
        kept = lambda key: key.split("/")[0] in set(updates.CASES) - set(names)
        arrays = {key: x for key, x in old.items() if kept(key)}
        meta["commits"] = {case: c for case, c in old_meta["commits"].items() if kept(case)}
    commit = code()
    for case in names or updates.CASES:
        for loop in updates.CASES[case].loops:
            before, after = updates.run(case, loop)
            first = {f"{case}/initial/{name}": x for name, x in before.items()}
            assert all(np.array_equal(arrays.setdefault(key, x), x) for key, x in first.items())
            arrays |= {f"{case}/{loop}/{name}": x for name, x in after.items()}
            print(f"{case}, {loop}: {sum(x.size for x in after.values())} numbers", flush=True)
        if case in probed():
            import helpers

            runner = helpers.restart(helpers.shared_runner(case), 3, total_steps=10_000)
            before, after = updates.run_runner(runner, 5)
            arrays |= {f"{case}/at first/{name}": x for name, x in before.items()}
            arrays |= {f"{case}/probes/{name}": x for name, x in after.items()}
        meta["commits"][case] = commit
    safetensors.numpy.save_file(
        dict(sorted(arrays.items())), updates.FILE, {"golden": json.dumps(meta, sort_keys=True)}
    )
    print(f"{updates.FILE.stat().st_size} bytes, {len(arrays)} arrays")


if __name__ == "__main__":
    main(sys.argv[1:])
