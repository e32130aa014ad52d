"""The accuracy table, for a terminal and as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.accuracy_inputs import CLASSES, DIFFERENCES, SPREAD
from benchmarks.accuracy_losses import PYTORCH
from benchmarks.accuracy_measure import Results, Row

EXPLANATION = f"""\
Relative error of the "batchmean" against its exact value on the inputs as given: root mean square over draws, and in
brackets that over PyTorch's, on the same draws. Each draw is of rows of {CLASSES} classes: the target a softmax of normal logits of
standard deviation {SPREAD:g}, the input (far) another one, or (1e-1, ...) the target with each probability changed by a normal
share of that standard deviation. Of few draws chance alone makes ratios: of two implementations that err alike, but
independently, the ratio is above 2 in 10 % of settings with 4 draws, in 3 % with 8, and in 0.2 % with 20."""


def print_table(results: Results, console: Console) -> None:
    """A table for each subject, what was not run, and where ours is worse than twice PyTorch's, or better than it."""
    console.print(EXPLANATION, highlight=False, soft_wrap=True)
    rows = results.rows()
    for subject in dict.fromkeys(row.setting.subject for row in rows):
        console.print()
        console.print(_table(str(subject), [row for row in rows if row.setting.subject == subject], results.draws))
    for line in _not_run(results):
        console.print(Text(line, "dim"), soft_wrap=True)
    ours, worse = results.ours(), results.worse()
    console.print(
        f"\nWorse than twice PyTorch's error: {len(worse) or 'none'}, of {len(ours)} rows of ours", style="bold"
    )
    for row in worse:
        line = f"  {_where(row)}: {row.rms:.1e}, PyTorch's {row.reference_rms:.1e}, {row.ratio:.1f} times as much"
        console.print(Text(line), soft_wrap=True)
    console.print(f"Better than PyTorch: {len(results.better())} of {len(ours)} rows of ours", style="bold")


def to_json(results: Results, environment: Mapping[str, Any]) -> str:
    """Everything, the error of each draw included; numbers that are not finite are texts."""
    contents = {
        **environment,
        "statistic": EXPLANATION,
        "reference": PYTORCH,
        "draws": results.draws,
        "rows": [_row_as_json(row) for row in results.rows()],
        "not_run": [
            {"implementation": implementation, "subject": subject, "reason": reason}
            for (implementation, subject), reason in results.not_run.items()
        ],
        "worse_than_twice_the_reference": [_where(row) for row in results.worse()],
        "better_than_the_reference": len(results.better()),
        "rows_of_ours": len(results.ours()),
    }
    return json.dumps(contents, indent=1, allow_nan=False)


def _table(title: str, rows: Sequence[Row], draws: Mapping[int, int]) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("elements", justify="right")
    table.add_column("implementation", no_wrap=True)
    for difference in DIFFERENCES:
        table.add_column(difference, justify="right", no_wrap=True)
    for elements in dict.fromkeys(row.setting.elements for row in rows):
        of_size = [row for row in rows if row.setting.elements == elements]
        table.add_section()
        label = f"{elements:.0e}".replace("e+0", "e")
        for implementation in dict.fromkeys(row.implementation for row in of_size):
            cells = {row.setting.difference: _cell(row) for row in of_size if row.implementation == implementation}
            table.add_row(label, implementation, *(cells.get(difference, Text()) for difference in DIFFERENCES))
            label = ""
        table.add_row("", Text(f"draws: {draws[elements]}", "dim"))
    return table


def _cell(row: Row) -> Text:
    if row.implementation == PYTORCH or not row.reference:
        return Text(f"{row.rms:.1e}")
    worse = row.ratio > 2
    style = "bold red" if worse and row.ours else "yellow" if worse else "green" if row.ratio < 1 else ""
    return Text(f"{row.rms:.1e} ({row.ratio:.2g})", style)


def _where(row: Row) -> str:
    return f"{row.implementation}, {row.setting.subject}, {row.setting.elements:,} elements, {row.setting.difference}"


def _not_run(results: Results) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for (implementation, subject), reason in results.not_run.items():
        reasons.setdefault(reason, []).append(f"{implementation} ({subject})")
    return [f"not run: {reason}: {', '.join(names)}" for reason, names in reasons.items()]


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "implementation": row.implementation,
        "dtype": row.setting.subject.dtype,
        "log_target": row.setting.subject.log_target,
        "elements": row.setting.elements,
        "difference": row.setting.difference,
        "rms": _number(row.rms),
        "median": _number(row.median),
        "largest": _number(row.largest),
        "ratio": _number(row.ratio),
        "errors": [_number(error) for error in row.errors],
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
