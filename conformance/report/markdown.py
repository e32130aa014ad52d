"""The verdicts of a run as Markdown, for the summary of a pull request or of a CI job."""

import re
from collections.abc import Iterable, Iterator

from conformance.judge import Verdict
from conformance.ledger import ENTRIES
from conformance.report.contents import (
    LEFT_OUT,
    Run,
    encodable,
    ledger_uses,
    not_run_reasons,
    percent,
    version_and_source,
)
from conformance.run import Judgement

SHOWN_DIFFERENCES = 50
"""GitHub shows summaries of up to a megabyte."""


def render_markdown(run: Run) -> str:
    """The report: totals, what differs, the matrix, what was not run, and the ledger."""
    return encodable("\n".join(_lines(run)) + "\n")


def _lines(run: Run) -> Iterator[str]:
    yield f"# Conformance with {_text(run.reference)}"
    yield ""
    yield f"**{'Passes' if run.passes else 'FAILS'}: {run.conclusion}.**"
    yield ""
    yield ", ".join(f"{run.count(verdict):,} {verdict.removesuffix('s')}" for verdict in Verdict) + (
        f"; {len(run.judged)} implementations; corpus `{run.digest[:12]}`; {run.date:%Y-%m-%d}"
    )
    yield from _differences(run)
    yield from _section("Implementations")
    yield "Comparisons that agree, **+**deviate, **!**differ, **-**unsupported or not run."
    yield ""
    yield from _table(
        ["implementation", "version", *run.groups, "largest error", "same bits"],
        [_row(judgement, run.groups) for judgement in run.judgements if judgement.not_run is None],
    )
    if reasons := not_run_reasons(run.judgements):
        yield from _section("Not run")
        for reason, labels in reasons.items():
            yield f"- {_text(reason)}: {_text(', '.join(labels))}"
    yield from _section("Ledger")
    uses = ledger_uses(run.judgements)
    entries = [entry for entry in ENTRIES if uses[entry.id]]
    yield from _table(
        ["deviation", "explains", "why"],
        [[_text(entry.id), f"{uses[entry.id]:,}", _text(entry.why)] for entry in entries],
    )


def _differences(run: Run) -> Iterator[str]:
    differing = [(j.label, c) for j in run.judgements for c in j.comparisons if c.verdict == Verdict.DIFFERS]
    if differing:
        yield from _section("What differs")
    for label, c in differing[:SHOWN_DIFFERENCES]:
        yield f"- **{_text(label)}**: {_text(c.case)} {_text(c.quantity)}: {_text(c.detail)}"
    if len(differing) > SHOWN_DIFFERENCES:
        yield f"- and {len(differing) - SHOWN_DIFFERENCES:,} more"
    if run.unused:
        yield ""
        yield f"Ledger entries that explain nothing: {_text(', '.join(run.unused))}"


def _row(judgement: Judgement, groups: Iterable[str]) -> list[str]:
    cells = [_cell(judgement, group) for group in groups]
    error, same = f"{judgement.largest_error:.2g}", percent(judgement.identical_share)
    return [_text(judgement.label), _text(version_and_source(judgement)), *cells, error, same]


def _cell(judgement: Judgement, group: str) -> str:
    agrees, deviates, differs = (judgement.count(v, group) for v in (Verdict.AGREES, Verdict.DEVIATES, Verdict.DIFFERS))
    left_out = sum(judgement.count(verdict, group) for verdict in LEFT_OUT)
    parts = [
        str(agrees) if agrees + deviates + differs else "",
        f"+{deviates}" if deviates else "",
        f"**!{differs}**" if differs else "",
        f"-{left_out}" if left_out else "",
    ]
    return " ".join(filter(None, parts))


def _section(title: str) -> list[str]:
    return ["", f"## {title}", ""]


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _text(text: str) -> str:
    """Text in which nothing is Markdown or HTML, on one line."""
    one_line = " ".join(text.split())
    escaped = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~!])", r"\\\1", escaped)
