"""The accuracy table, as a text, as JSON and as a figure."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from benchmarks.accuracy.inputs import CLASSES, DIFFERENCES, SPREAD
from benchmarks.accuracy.losses import PYTORCH
from benchmarks.accuracy.measure import Results, Row
from conformance.output import replacing

EXPLANATION = f"""\
Relative error of the "batchmean" against its exact value on the inputs as given (as rounded to their dtype): the root
mean square of the errors of some draws, over that of the exact losses; in brackets, over that of PyTorch's errors on
the same draws. A draw has rows of {CLASSES} classes. The target is a softmax of normal logits of standard deviation
{SPREAD:g}; the input is another one (far), or the target with each probability changed by a normal share of standard
deviation 1e-1 and so on. Of few draws chance alone makes ratios: of two implementations that err alike, but
independently, the ratio is above 2 in 14 % of settings with 3 draws, in 3 % with 8, and in 0.2 % with 20."""


def print_table(results: Results, console: Console) -> None:
    """A table for each kind and size of inputs, what did not run, and the verdict."""
    console.print(EXPLANATION, highlight=False, soft_wrap=True)
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    for row in results.rows:
        title = f"{row.subject}, {row.elements:,} elements, {results.draws[row.elements]} draws"
        tables.setdefault(title, {}).setdefault(row.implementation, {})[row.difference] = row
    for title, lines in tables.items():
        table = Table(
            Column("implementation", no_wrap=True), *DIFFERENCES, title=Text(title), title_justify="left", box=None
        )
        for implementation, cells in lines.items():
            table.add_row(implementation, *(_cell(cells[d]) if d in cells else "" for d in DIFFERENCES))
        console.print(table)
    for line in (*(f"not run: {what}: {reason}" for what, reason in results.not_run.items()), *verdict(results.rows)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def verdict(rows: Sequence[Row]) -> Iterator[str]:
    """How many rows of ours are worse than twice PyTorch's error, which ones, and how many are better."""
    ours = [row for row in rows if row.ours]
    worse = sorted((row for row in ours if row.ratio > 2), key=lambda row: -row.ratio)
    yield f"Worse than twice PyTorch's error: {len(worse)} of {len(ours)} rows of ours"
    for row in worse:
        where = f"{row.implementation}, {row.subject}, {row.elements:,} elements, {row.difference}"
        yield f"  {where}: {row.error:.1e}, {row.ratio:.1f} times PyTorch's"
    yield f"Better than PyTorch: {sum(row.ratio < 1 for row in ours)} of {len(ours)} rows of ours"


def to_json(results: Results, machine: Mapping[str, Any]) -> str:
    """Everything, the loss of each draw included; JSON as Python writes it, with ``NaN`` and ``Infinity``."""
    rows = [{**asdict(row), "error": row.error, "ratio": row.ratio} for row in results.rows]
    found = {"machine": machine, **asdict(results), "rows": rows, "verdict": list(verdict(results.rows))}
    return json.dumps(found, indent=1) + "\n"


def draw_plot(results: Results, path: Path) -> None:
    """Write error against difference, a panel for each subject, at its largest size, to ``path``."""
    largest = {row.subject: row.elements for row in results.rows}
    errors = {(row.implementation, row.subject, row.elements, row.difference): row.error for row in results.rows}
    names = dict.fromkeys(row.implementation for row in results.rows)
    figure = Figure(figsize=(3.4 * len(largest) + 1, 4.5), layout="constrained")
    panels = figure.subplots(1, len(largest), squeeze=False)[0]
    for axes, (subject, elements) in zip(panels, largest.items(), strict=True):
        for number, name in enumerate(names):
            values = [errors.get((name, subject, elements, difference), math.nan) for difference in DIFFERENCES]
            axes.plot(DIFFERENCES, values, "k-" if name == PYTORCH else f"C{number}--", marker="o", label=name, ms=3)
        axes.set(title=f"{subject}, {elements:,} elements", yscale="log", xlabel="difference")
    panels[0].set_ylabel("relative error")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:])


def _cell(row: Row) -> Text:
    if row.implementation == PYTORCH or not row.reference:
        return Text(f"{row.error:.1e}")
    ratio = ">999" if row.ratio >= 1000 else "<.01" if row.ratio < 0.01 else f"{row.ratio:.2g}"
    style = ("bold red" if row.ours else "yellow") if row.ratio > 2 else "green" if row.ratio < 1 else ""
    return Text(f"{row.error:.1e} ({ratio})", style)
