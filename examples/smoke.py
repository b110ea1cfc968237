"""Runs every example once, quickly: ``make examples``. Stops at the first that fails."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RUNS = [
    ["make_checkpoint.py", "{folder}/source"],
    ["quantize_checkpoint.py", "{folder}/source", "{folder}/target", "--rule", "*k_proj*=keep"],
    ["generate.py", "{folder}/target", "--ids", "5,17,99,3", "--new", "5"],
    ["calibrate.py", "{folder}/source", "{folder}/tokens.npy", "{folder}/calibrated"],
    ["demo.py", "--small", "--out", "{folder}/demo"],
    ["multiply.py", "2"],
    ["search.py", "--documents", "2000", "--dimensions", "200", "--queries", "8"],
]
# Needs a cluster library that is not installed for it; it must still say how it is used.
NO_RUN = {"ray_executor.py", "smoke.py"}


def main() -> int:
    missing = {path.name for path in HERE.glob("*.py")} - {run[0] for run in RUNS} - NO_RUN
    if missing:
        print(f"no run for {', '.join(sorted(missing))}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        tokens = np.random.default_rng(0).integers(0, 200, (8, 64))
        np.save(Path(folder, "tokens.npy"), tokens)
        for script, *arguments in RUNS:
            words = [a.format(folder=folder) for a in arguments]
            print(f"== {script} {' '.join(arguments)}", flush=True)
            code = subprocess.call([sys.executable, str(HERE / script), *words])
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
