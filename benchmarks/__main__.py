"""Measure the loss side by side with its peers: ``python -m benchmarks``.

Every figure is our time divided by a peer's, measured in turns in one process (or in paired processes); the median of
the rounds, with the quartiles. float32 is measured at all sizes, forward and with the gradient; log_target,
reduction="none", float64, float16 and bfloat16 at some. A full run takes less than 10 minutes on two cores, --quick
less than one; other programs must not run meanwhile. It is no test: it ends with 0 whatever it finds, and with 2 if the
arguments are bad or a file cannot be written.

python -m benchmarks accuracy is the table of errors against the exact value.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.groups import all_groups
from benchmarks.report.json import render_json
from benchmarks.report.plots import plot_file, write_plots
from benchmarks.report.terminal import print_report
from benchmarks.run import Advance, Options, names, run
from benchmarks.workload import Shape
from conformance.output import check_outputs, command, write_text

PIPED_WIDTH = 220
FULL, QUICK = 440.0, 38.0


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, report, and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["accuracy"]:
        return int(import_module("benchmarks.accuracy").main(given[1:]))
    parser = _parser()
    options = parser.parse_args(given)
    plots = [plot_file(group.name, options.plots) for group in all_groups()]
    check_outputs(parser, [options.json, *plots])  # now, and not after minutes of work
    chosen = Options(
        quick=options.quick,
        chosen=tuple(options.group),
        sizes=tuple(options.size),
        rounds=options.rounds,
        seconds=options.seconds or (QUICK if options.quick else FULL),
    )
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    try:
        with _progress() as advance:
            results = run(chosen, advance)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print_report(results, console)
    write_text(options.json, render_json(results))
    written = [options.json, *write_plots(results, options.plots)]
    console.print("written: " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)
    return 0


@contextmanager
def _progress() -> Iterator[Advance]:
    """A bar on standard error; where no bar is seen, a line for each thing that is measured."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=1) as bar:
        task = bar.add_task("starting", total=None)

        def advance(text: str, done: int, of: int) -> None:
            bar.update(task, description=text, completed=done, total=of or None)
            if not console.is_terminal:
                console.print(f"{done} of {of} done, {text}" if of else text, highlight=False, markup=False)

        yield advance


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="float32 at three sizes, without what takes processes long"
    )
    parser.add_argument(
        "--group",
        action="append",
        choices=names(),
        default=[],
        metavar="NAME",
        help="measure only this; may be repeated. One of: " + ", ".join(names()),
    )
    parser.add_argument(
        "--size",
        action="append",
        type=_size,
        default=[],
        metavar="8x16",
        help="measure only this size; may be repeated",
    )
    parser.add_argument("--rounds", type=_at_least_one, help="rounds of each measurement; default: as the time allows")
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"time to fill; default: {FULL:.0f}, quick {QUICK:.0f}; after a fifth more, the rest is not run",
    )
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks/benchmarks.json"), metavar="PATH")
    parser.add_argument("--plots", type=Path, default=Path("build/benchmarks"), metavar="DIRECTORY")
    return parser


def _size(text: str) -> Shape:
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 8x16")
    return shape


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
