"""The verdicts of a run, for a terminal and as JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.judge import Comparison, Verdict
from conformance.ledger import DEVIATIONS, REFUSALS
from conformance.run import Judgement

SHOWN_DIFFERENCES = 20


def print_report(judgements: Sequence[Judgement], groups: Sequence[str], reference: str, console: Console) -> None:
    """Matrix of implementations by groups, the ledger entries that were used, what differs, and what was not run."""
    console.print(_matrix(judgements, groups, reference))
    console.print(
        "comparisons of losses and gradients: agrees, [yellow]+deviates[/], [red]!differs[/],"
        " [dim]-unsupported or not run[/]\nerror: the largest of what agrees, in units of the tolerance\n"
        "same bits: share of the elements of unreduced float32 and float64 losses that equal the reference's\n",
        highlight=False,
    )
    console.print(_ledger(judgements))
    differing = [(j.label, c) for j in judgements for c in j.comparisons if c.verdict == Verdict.DIFFERS]
    for label, comparison in differing[:SHOWN_DIFFERENCES]:
        console.print(
            Text.assemble(("differs ", "red"), f"{label}: {comparison.case} {comparison.quantity}: {comparison.detail}")
        )
    if len(differing) > SHOWN_DIFFERENCES:
        console.print(f"... and {len(differing) - SHOWN_DIFFERENCES} more, all of them in the JSON report")
    for reason, labels in _reasons(judgements).items():
        console.print(Text(f"not run: {reason}: {', '.join(labels)}", style="dim"))
    versions = dict.fromkeys(j.version for j in judgements if j.version)
    console.print(f"versions: {', '.join(versions)}", highlight=False)


def summary(judgements: Sequence[Judgement], unused: Sequence[str]) -> str:
    """The run in a line or two."""
    counts = {verdict: sum(j.count(verdict) for j in judgements) for verdict in Verdict}
    judged = counts[Verdict.AGREES] + counts[Verdict.DEVIATES] + counts[Verdict.DIFFERS]
    implementations = sum(bool(judgement.comparisons) for judgement in judgements)
    line = f"{judged} comparisons over {implementations} implementations: " + ", ".join(
        f"{counts[v]} {words}"
        for v, words in ((Verdict.AGREES, "agree"), (Verdict.DEVIATES, "deviate"), (Verdict.DIFFERS, "differ"))
    )
    if unused:
        line += f"\nledger entries that explain nothing: {', '.join(unused)}"
    return line


def as_json(
    judgements: Sequence[Judgement], groups: Sequence[str], reference: str, digest: str, unused: Sequence[str]
) -> dict[str, Any]:
    """The run as data: counts, and every comparison that does not simply agree."""
    return {
        "corpus": digest,
        "reference": reference,
        "implementations": [
            {
                "label": j.label,
                "version": j.version,
                "not_run": j.not_run,
                "largest_error": j.largest_error,
                "identical_share": j.identical_share,
                "counts": {group: {verdict: j.count(verdict, group) for verdict in Verdict} for group in groups},
                "comparisons": [_comparison_as_json(c) for c in j.comparisons if c.verdict != Verdict.AGREES],
            }
            for j in judgements
        ],
        "ledger": [
            {"id": entry.id, "why": entry.why, "evidence": entry.evidence, "explains": _uses(judgements)[entry.id]}
            for entry in (*DEVIATIONS, *REFUSALS)
        ],
        "unused_ledger_entries": list(unused),
    }


def _comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "case": comparison.case,
        "quantity": comparison.quantity,
        "verdict": comparison.verdict,
        "error": comparison.error,
        "ledger": comparison.ledger,
        "detail": comparison.detail,
    }


def _matrix(judgements: Sequence[Judgement], groups: Sequence[str], reference: str) -> Table:
    table = Table(title=f"Conformance with {reference}", title_justify="left", pad_edge=False)
    table.add_column("implementation", no_wrap=True)
    for group in groups:
        table.add_column(group, justify="right")
    table.add_column("error", justify="right")
    table.add_column("same bits", justify="right")
    for j in judgements:
        if j.not_run is None:
            cells = [_cell(j, group) for group in groups]
            table.add_row(Text(j.label), *cells, f"{j.largest_error:.2f}", f"{j.identical_share:.2%}")
    return table


def _cell(judgement: Judgement, group: str) -> Text:
    agrees, deviates, differs = (
        judgement.count(verdict, group) for verdict in (Verdict.AGREES, Verdict.DEVIATES, Verdict.DIFFERS)
    )
    left = judgement.count(Verdict.UNSUPPORTED, group) + judgement.count(Verdict.NOT_RUN, group)
    return Text.assemble(
        f"{agrees}" if agrees + deviates + differs else "",
        (f" +{deviates}" if deviates else "", "yellow"),
        (f" !{differs}" if differs else "", "bold red"),
        (f" -{left}" if left else "", "dim"),
    )


def _ledger(judgements: Sequence[Judgement]) -> Table:
    table = Table(title="Ledger", title_justify="left", pad_edge=False)
    table.add_column("deviation", no_wrap=True)
    table.add_column("explains", justify="right")
    table.add_column("why")
    uses = _uses(judgements)
    for entry in (*DEVIATIONS, *REFUSALS):
        if uses[entry.id]:
            table.add_row(entry.id, str(uses[entry.id]), entry.why)
    return table


def _uses(judgements: Sequence[Judgement]) -> Counter[str]:
    return Counter(entry for j in judgements for comparison in j.comparisons for entry in comparison.ledger)


def _reasons(judgements: Sequence[Judgement]) -> dict[str, list[str]]:
    """Why implementations, or some of their comparisons, were not run."""
    reasons: dict[str, list[str]] = {}
    for j in judgements:
        if j.not_run is not None:
            reasons.setdefault(j.not_run, []).append(j.label)
        for reason in dict.fromkeys(c.detail for c in j.comparisons if c.verdict == Verdict.NOT_RUN):
            reasons.setdefault(reason, []).append(f"{j.label} ({j.count(Verdict.NOT_RUN)} comparisons)")
    return reasons
