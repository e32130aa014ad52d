"""The accuracy table, for a terminal and as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.accuracy_inputs import CLASSES, DIFFERENCES, SPREAD
from benchmarks.accuracy_losses import PYTORCH
from benchmarks.accuracy_measure import Results, Row

EXPLANATION = f"""\
Relative error of the "batchmean" against its exact value on the inputs as given (as rounded to their dtype): the root
mean square of the errors of some draws, over that of the exact losses; in brackets, over that of PyTorch's errors on
the same draws. A draw is of rows of {CLASSES} classes. The target is a softmax of normal logits of standard deviation
{SPREAD:g}; the input is another one (far), or the target with each probability changed by a normal share of standard
deviation 1e-1 and so on. Of few draws chance alone makes ratios: of two implementations that err alike, but
independently, the ratio is above 2 in 14 % of settings with 3 draws, in 3 % with 8, and in 0.2 % with 20. Of the
closest distributions everyone's loss may be wrong altogether: the rounding of one logarithm is larger than what they
differ by. inf: the loss of a draw is not finite."""


def print_table(results: Results, console: Console) -> None:
    """A table for each subject, what was not run, and where ours is worse than twice PyTorch's, or better than it."""
    console.print(EXPLANATION, highlight=False, soft_wrap=True)
    rows = results.rows()
    for subject in dict.fromkeys(row.setting.subject for row in rows):
        console.print()
        console.print(_table(str(subject), [row for row in rows if row.setting.subject == subject], results.draws))
    for line in _not_run(results):
        console.print(Text(line), soft_wrap=True)
    ours, worse = results.ours(), results.worse()
    console.print()
    console.print(f"Worse than twice PyTorch's error: {len(worse) or 'none'} of {len(ours)} rows of ours", style="bold")
    for row in worse:
        console.print(Text(f"  {_where(row)}: {_short(row.error)}, {row.ratio:.1f} times PyTorch's"), soft_wrap=True)
    console.print(f"Better than PyTorch: {len(results.better())} of {len(ours)} rows of ours", style="bold")


def to_json(results: Results, environment: Mapping[str, Any]) -> str:
    """Everything, the loss of each draw included; numbers that are not finite are texts."""
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
        "rows_of_ours": len(results.ours()),
        "worse_than_twice_the_reference": [_where(row) for row in results.worse()],
        "better_than_the_reference": len(results.better()),
    }
    return json.dumps(contents, indent=1, allow_nan=False)


def _table(title: str, rows: Sequence[Row], draws: Mapping[int, int]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("implementation", no_wrap=True)
    for difference in DIFFERENCES:
        table.add_column(difference, justify="right", no_wrap=True)
    for elements in dict.fromkeys(row.setting.elements for row in rows):
        of_size = [row for row in rows if row.setting.elements == elements]
        table.add_section()
        table.add_row(Text(f"{elements:,} elements, {draws[elements]} draws", "bold"))
        for implementation in dict.fromkeys(row.implementation for row in of_size):
            cells = {row.setting.difference: _cell(row) for row in of_size if row.implementation == implementation}
            table.add_row(implementation, *(cells.get(difference, Text()) for difference in DIFFERENCES))
    return table


def _cell(row: Row) -> Text:
    if row.implementation == PYTORCH or not row.reference:
        return Text(_short(row.error))
    worse = row.ratio > 2
    style = "bold red" if worse and row.ours else "yellow" if worse else "green" if row.ratio < 1 else ""
    return Text(f"{_short(row.error)} ({_short_ratio(row.ratio)})", style)


def _short_ratio(ratio: float) -> str:
    if ratio < 0.01:
        return "<.01"
    if ratio >= 1000:
        return ">999"
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


def _short(error: float) -> str:
    return f"{error:.1e}".replace("e-0", "e-").replace("e+0", "e")


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
        "error": _number(row.error),
        "ratio": _number(row.ratio),
        "median": _number(row.median),
        "largest": _number(row.largest),
        "losses": [_number(loss) for loss in row.losses],
        "exact": list(row.exact),
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
