"""Runs every benchmark and rewrites docs/benchmarks.md and its plots: ``make bench``.

The numbers of each processor are kept in benchmarks/machines; this machine's are replaced.
``python benchmarks/run.py --report-only`` redraws from them; ``--name 'Zen 4'`` is what people
call the processor. ``BINQ_ISA=avx2`` measures other kernels than the fastest, in a section of
their own. ``--only gemv,gemm`` measures some questions anew and keeps the rows of the others.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from machines import keep, kept
from plots import draw
from tables import document

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
DOCS = HERE.parent / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--name", help="what people call this processor, 'Zen 4'")
    parser.add_argument("--note", help="what a reader of this section has to know")
    parser.add_argument(
        "--only", help="questions to measure anew: 'gemv,gemm' of bench_gemv.py, ..."
    )
    options = parser.parse_args()
    if not options.report_only:
        command = [sys.executable, "-m", "pytest", "-q", "--benchmark-enable"]
        if options.only:
            command += [str(HERE / f"bench_{question}.py") for question in options.only.split(",")]
        else:
            command.append(str(HERE))
        command += ["--benchmark-min-rounds=5", "--benchmark-max-time=0.3"]
        command += ["--benchmark-min-time=0.00002", "--benchmark-columns=min,median,rounds"]
        code = subprocess.call([*command, f"--benchmark-json={RESULTS}"])
        if code:
            return code
        keep(json.loads(RESULTS.read_text()), options.name, options.note)
    machines = kept()
    (DOCS / "benchmarks.md").write_text(document(machines))
    for machine in machines:
        draw(machine, DOCS / "images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
