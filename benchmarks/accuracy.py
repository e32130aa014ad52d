"""Relative error of the loss against its exact value: ``python -m benchmarks accuracy``.

The loss is the ``"batchmean"``, and the exact value is that of the formula on the inputs as given: as rounded to their
dtype. Where distributions are close the terms cancel, so that everyone's relative error is large; and the error of
one draw is a random number. So what counts is the root mean square over draws, held against PyTorch's on the same.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from benchmarks.accuracy_inputs import DIFFERENCES
from benchmarks.accuracy_measure import Results, Subject, measure
from benchmarks.accuracy_plot import draw_plot
from benchmarks.accuracy_report import print_table, to_json
from conformance.output import check_outputs, command, figure_file, write_text

DRAWS = {10**3: 30, 10**4: 30, 10**5: 20, 10**6: 8, 10**7: 3}
QUICK_DRAWS = {10**3: 8, 10**4: 8, 10**5: 4}
"""Sizes, and how many pairs of distributions are drawn of each."""
SUBJECTS = {
    Subject("float32"): 10**7,
    Subject("float16"): 10**7,
    Subject("bfloat16"): 10**7,
    Subject("float64"): 10**5,
    Subject("float32", log_target=True): 10**6,
    Subject("float16", log_target=True): 10**5,
    Subject("bfloat16", log_target=True): 10**5,
}
QUICK_SUBJECTS = {Subject("float32"): 10**5, Subject("bfloat16"): 10**5, Subject("float32", log_target=True): 10**5}
"""What is measured, up to which size."""
PACKAGES = ("numpy", "torch", "jax", "jaxlib", "optax", "scipy", "dask", "mlx", "array-api-strict")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write and draw. The exit status is 0 whatever was found: this is no test."""
    started = time.monotonic()
    parser = _parser()
    options = parser.parse_args(arguments)
    check_outputs(parser, [options.json, options.plot])  # now, and not after minutes of work
    results = Results(QUICK_DRAWS if options.quick else DRAWS)
    _measure_with_progress(results, QUICK_SUBJECTS if options.quick else SUBJECTS, Console(stderr=True))
    console = Console(width=None if sys.stdout.isatty() else 140)
    environment = _environment()
    print_table(results, console)
    write_text(options.json, to_json(results, environment))
    draw_plot(results, options.plot)
    console.print(", ".join(f"{name} {value}" for name, value in environment.items()), highlight=False)
    console.print(f"{options.json} and {options.plot}, in {time.monotonic() - started:.0f} s", highlight=False)
    return 0


def _measure_with_progress(results: Results, subjects: Mapping[Subject, int], console: Console) -> None:
    fixed = 20_000  # a call takes as long as if there were so many elements more
    total = sum((elements + fixed) * draws * len(DIFFERENCES) for elements, draws in results.draws.items())
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("importing and compiling", total=total)
        last = ""

        def progress(elements: int, what: str) -> None:
            nonlocal last
            bars.update(task, advance=elements + fixed if elements else 0, description=what)
            if not console.is_terminal and what != last:  # where no bar is seen, a line says that something happens
                console.print(what, highlight=False)
                last = what

        measure(results, subjects, progress)


def _environment() -> dict[str, Any]:
    """When and with what it was measured."""
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "threads of PyTorch": threads,
        **versions,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks accuracy",
        description="Relative error of the loss against its exact value, beside the errors of the peers.",
    )
    parser.add_argument("--quick", action="store_true", help="up to 100,000 elements, with fewer draws: half a minute")
    for name, kind, path_type in (("--json", "json", Path), ("--plot", "svg", figure_file)):
        path = f"build/benchmarks/accuracy.{kind}"
        parser.add_argument(name, type=path_type, default=Path(path), metavar="PATH", help=f"default: {path}")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
