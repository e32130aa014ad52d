"""Relative error of the loss against its exact value: ``python -m benchmarks accuracy``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.accuracy.measure import measure
from benchmarks.accuracy.report import draw_plot, print_table, to_json
from conformance.output import check_outputs, command, figure_file, write_text

DRAWS = {10**3: 30, 10**4: 30, 10**5: 20, 10**6: 8, 10**7: 3}
QUICK_DRAWS = {10**3: 8, 10**4: 8, 10**5: 4}
"""Sizes, and how many pairs of distributions are drawn of each."""
SUBJECTS = {"float32": 10**7, "float16": 10**7, "bfloat16": 10**7, "float64": 10**5}
SUBJECTS |= {"float32, log_target": 10**6, "float16, log_target": 10**5, "bfloat16, log_target": 10**5}
QUICK_SUBJECTS = {"float32": 10**5, "bfloat16": 10**5, "float32, log_target": 10**5}
"""What is measured, up to which size."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write and draw. The exit status is 0 whatever was found: this is no test."""
    parser = argparse.ArgumentParser("python -m benchmarks accuracy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 100,000 elements, with fewer draws: half a minute")
    for name, kind, path_type in (("--json", "json", Path), ("--plot", "svg", figure_file)):
        path = f"build/benchmarks/accuracy.{kind}"
        parser.add_argument(name, type=path_type, default=Path(path), metavar="PATH", help=f"default: {path}")
    options = parser.parse_args(arguments)
    check_outputs(parser, [options.json, options.plot])  # now, and not after minutes of work
    results = measure(*((QUICK_DRAWS, QUICK_SUBJECTS) if options.quick else (DRAWS, SUBJECTS)))
    described = machine.describe()
    console = Console(width=None if sys.stdout.isatty() else 160)
    print_table(results, console)
    write_text(options.json, to_json(results, described))
    draw_plot(results, options.plot)
    console.print(", ".join(f"{name} {value}" for name, value in described.items()), highlight=False)
    console.print(f"written: {options.json}, {options.plot}", highlight=False, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
