"""Measure the loss side by side with its peers: ``python -m benchmarks``.

Every figure is our time divided by a peer's, measured in turns in one process (or in paired processes); the median of
the rounds, with the quartiles. float32 is measured at all sizes, forward and with the gradient; log_target,
reduction="none", float64, float16 and bfloat16 at some. A full run takes less than 10 minutes on two cores, --quick
less than one; other programs must not run meanwhile. It is no test: it ends with 0 whatever it finds.

python -m benchmarks accuracy is the table of errors against the exact value.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.groups import GROUPS
from benchmarks.plots import plot_file, write_plots
from benchmarks.report import print_report
from benchmarks.run import LEAST, NAMES, run
from benchmarks.workload import Shape
from conformance.output import check_outputs, command, write_text

FULL, QUICK = 440.0, 38.0


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, report, and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["accuracy"]:
        return int(import_module("benchmarks.accuracy.__main__").main(given[1:]))
    parser = _parser()
    options = parser.parse_args(given)
    plots = [plot_file(group, options.plots) for group in GROUPS]
    check_outputs(parser, [options.json, *plots])  # now, and not after minutes of work
    seconds = options.seconds or (QUICK if options.quick else FULL)
    try:
        results = run(options.quick, options.group or NAMES, options.size, options.rounds, seconds)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    console = Console(width=None if sys.stdout.isatty() else 220)
    print_report(results, console)
    write_text(options.json, results.to_json())
    written = [options.json, *write_plots(results, options.plots)]
    console.print("written: " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    several: Any = {"action": "append", "default": []}
    names = "measure only this; may be repeated. One of: " + ", ".join(NAMES)
    budget = (
        f"time to fill; default: {FULL:.0f}, quick {QUICK:.0f}; each measurement has {LEAST} rounds, whatever they take"
    )
    add("--quick", action="store_true", help="float32 at three sizes, without memory and torch.compile")
    add("--group", **several, choices=NAMES, metavar="NAME", help=names)
    add("--size", **several, type=size, metavar="8x16", help="measure only this size; may be repeated")
    add("--rounds", type=positive, help="rounds of each measurement; default: as the time allows")
    add("--seconds", type=float, help=budget)
    add("--json", type=Path, default=Path("build/benchmarks/benchmarks.json"), metavar="PATH")
    add("--plots", type=Path, default=Path("build/benchmarks"), metavar="DIRECTORY")
    return parser


def positive(text: str) -> int:
    """Number of at least 1, for ``argparse``."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def size(text: str) -> Shape:
    """Shape written as 8x16, for ``argparse``."""
    return tuple(map(positive, text.lower().split("x")))


if __name__ == "__main__":
    sys.exit(main())
