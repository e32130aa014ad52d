"""Train one student three times, and several with and without their teacher: ``python -m examples.distillation``.

Exits with 1 if the losses of the three frameworks part by more than 1e-10, relative, at any step, and with 2 if the
arguments are bad or the plot cannot be written.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

from conformance.output import check_outputs, command, figure_file
from examples.distillation import jax_student, numpy_student, torch_student
from examples.distillation.comparison import LONGER, Gain, Seed, Trained, compare, gains
from examples.distillation.plot import draw
from examples.distillation.problem import Array, Problem, Regime, held_out_accuracy, pose

BOUND = 1e-10  # on the relative difference of two losses, at every step
STUDENTS = {"NumPy": numpy_student, "PyTorch": torch_student, "JAX": jax_student}


@dataclass(frozen=True)
class Run:
    """What the training of one framework gave."""

    losses: Array
    accuracy: float
    seconds: float


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train, report, draw, and return the exit status."""
    started = time.monotonic()
    options = _options(arguments)
    regime = Regime(**{field.name: getattr(options, field.name) for field in fields(Regime)})
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # The matrices are too small for threads, which would only wait for each other.
    with threadpool_limits(1), Progress(*columns, console=console, transient=True) as bars:
        runs = _train(pose(regime, seed=0), bars)
        trained = compare(regime, options.seeds, options.processes)
        seeds = list(bars.track(trained, options.seeds, description="seeds, with and without the teacher"))
    differences = {name: _relative(run.losses, runs["NumPy"].losses) for name, run in runs.items() if name != "NumPy"}
    console.print(_table_of_runs(runs, differences))
    coincide = all(np.all(d <= BOUND) for d in differences.values())  # not so if one is NaN
    console.print(
        f"[green]The three losses coincide to {BOUND:g} at every step.[/]\n"
        if coincide
        else f"[bold red]The three losses do not coincide to {BOUND:g}.[/]\n"
    )
    console.print(_table_of_seeds(seeds))
    for line in _verdicts(seeds):
        console.print(line, soft_wrap=True)
    draw({name: run.losses for name, run in runs.items()}, differences, BOUND, seeds, options.output)
    console.print(f"\n{time.monotonic() - started:.0f} s. The plot is in {options.output}")
    return 0 if coincide else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.distillation",
        description="Train one student in NumPy, PyTorch and JAX, and several with and without their teacher.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for field in fields(Regime):
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=type(field.default), default=field.default, help="of the regime")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="to train the seeds in")
    parser.add_argument(
        "--output", type=figure_file, default=Path("build/distillation.png"), help="where the plot goes"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("a spread needs two seeds or more")
    check_outputs(parser, [options.output])
    return options


def _train(problem: Problem, bars: Progress) -> dict[str, Run]:
    runs = {}
    for name, student in STUDENTS.items():
        started = time.monotonic()
        losses, weights = student.train(problem, bars.track(problem.batches, description=f"student in {name}"))
        accuracy = held_out_accuracy(problem, weights)
        runs[name] = Run(np.asarray(losses), accuracy, time.monotonic() - started)
        if not bars.console.is_terminal:  # where no bar is seen, a line says that something happens
            bars.console.print(f"student in {name}: trained")
    return runs


def _relative(losses: Array, reference: Array) -> Array:
    return np.abs(losses - reference) / np.abs(reference)


def _table_of_runs(runs: dict[str, Run], differences: dict[str, Array]) -> Table:
    steps = len(runs["NumPy"].losses)
    table = Table(title=f"One training run of {steps} steps, three times", title_justify="left")
    for heading in ("framework", "first loss", "last loss", "greatest difference", "held-out accuracy", "seconds"):
        table.add_column(heading, justify="left" if heading == "framework" else "right")
    for name, run in runs.items():
        difference = f"{differences[name].max():.1e}" if name in differences else "(reference)"
        ends = (f"{run.losses[0]:.12f}", f"{run.losses[-1]:.12f}")
        table.add_row(name, *ends, difference, f"{run.accuracy:.2%}", f"{run.seconds:.1f}")
    return table


def _table_of_seeds(seeds: list[Seed]) -> Table:
    table = Table(title=f"The same student on held-out images, {len(seeds)} seeds", title_justify="left")
    for heading in ("trained on", "accuracy", "negative log-likelihood / nat"):
        table.add_column(heading, justify="left" if heading == "trained on" else "right")
    arms: dict[str, Callable[[Seed], Trained]] = {
        "teacher and labels": lambda s: s.teacher,
        "labels only": lambda s: s.labels,
        f"labels only, {LONGER} times as long": lambda s: s.labels_for_longer,
    }
    for name, arm in arms.items():
        accuracies, nlls = (np.asarray([getattr(arm(s), what) for s in seeds]) for what in ("accuracy", "nll"))
        table.add_row(
            name,
            f"{100 * accuracies.mean():.2f} % ± {100 * accuracies.std(ddof=1):.2f}",
            f"{nlls.mean():.4f} ± {nlls.std(ddof=1):.4f}",
        )
    return table


def _verdicts(seeds: list[Seed]) -> list[str]:
    lines = ["± above: standard deviation over the seeds. Below: paired by seed, 95% interval, two-sided sign test."]
    arms: dict[str, Callable[[Seed], Trained]] = {
        "labels only": lambda s: s.labels,
        f"{LONGER} times as long": lambda s: s.labels_for_longer,
    }
    for name, without in arms.items():
        accuracy, nll = gains(seeds, without)
        lines.append(_verdict(f"against {name}, accuracy", accuracy, 100, " points"))
        lines.append(_verdict(f"against {name}, likelihood", nll, 1, " nat"))
    return lines


def _verdict(what: str, gain: Gain, scale: float, unit: str) -> str:
    return (
        f"  {what}: {scale * gain.mean:+.3f} ± {scale * gain.margin:.3f}{unit}, better on {gain.better} seeds,"
        f" worse on {gain.worse}, p = {gain.p_value:.3f}: [bold]{gain.verdict}[/]"
    )


if __name__ == "__main__":
    raise SystemExit(main())
