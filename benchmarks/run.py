"""Runs every benchmark and rewrites docs/benchmarks.md and its plots: ``make bench``.

``python benchmarks/run.py --report-only`` redraws from the last benchmarks/results.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from plots import draw
from tables import document

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
DOCS = HERE.parent / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report-only", action="store_true")
    options = parser.parse_args()
    if not options.report_only:
        command = [sys.executable, "-m", "pytest", "-q", str(HERE), "--benchmark-enable"]
        command += ["--benchmark-min-rounds=5", "--benchmark-max-time=0.3"]
        command += ["--benchmark-min-time=0.00002", "--benchmark-columns=min,median,rounds"]
        code = subprocess.call([*command, f"--benchmark-json={RESULTS}"])
        if code:
            return code
    rows = json.loads(RESULTS.read_text())
    (DOCS / "benchmarks.md").write_text(document(rows))
    draw(rows["benchmarks"], DOCS / "images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
