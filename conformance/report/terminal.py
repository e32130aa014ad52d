"""The verdicts of a run, for a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.judge import Verdict
from conformance.report.contents import (
    LEFT_OUT,
    Run,
    convention,
    explanations,
    not_run_reasons,
    percent,
    without_convention,
)
from conformance.run import Judgement

SHOWN_DIFFERENCES = 10
SHOWN_ENTRIES = 3
ROOM = 200
"""Columns of a terminal that has room for nearly all names and deviations."""
LEGEND = (
    "agrees: within a tolerance for rounding; deviates: as the ledger of known deviations states; left out:"
    " unsupported, or not run; wrong: faults; after a semicolon: other choices"
)
SENTENCES = "the deviations in sentences: python -m conformance -i oneflow --verbose, or the page"


def print_report(run: Run, console: Console, *, verbose: bool = False) -> None:
    """A row for each foreign implementation and each library of ``kldiv_xp``, what differs, and what did not run.

    ``verbose`` adds a row for each implementation with a column for each group, and the ledger.
    """
    judgements = run.judgements
    if verbose:
        console.print(_matrix(judgements, run.groups, run.reference))
        console.print(
            "comparisons of losses and gradients: agrees, [yellow]+deviates[/], [red]!differs[/],"
            " [dim]-unsupported or not run[/]\nerror: the largest of what agrees, in units of the tolerance\n"
            "same bits: share of the elements of unreduced float32 and float64 losses that equal the reference's\n",
            highlight=False,
        )
        console.print(_ledger(judgements))
    console.print(_overview(run, console.width))
    differing = [(j.label, c) for j in judgements for c in j.comparisons if c.verdict == Verdict.DIFFERS]
    for label, comparison in differing[:SHOWN_DIFFERENCES]:
        where = f"{label}: {comparison.case} {comparison.quantity}: {comparison.detail}"
        console.print(Text.assemble(("differs ", "red"), _text(where)))
    if len(differing) > SHOWN_DIFFERENCES:
        console.print(f"... and {len(differing) - SHOWN_DIFFERENCES} more, all of them with --write FILE.json")
    for part, whole in (("not run", True), ("left out", False)):
        reasons = not_run_reasons(j for j in judgements if (j.not_run is not None) == whole)
        for reason, labels in _folded(reasons).items():
            console.print(_text(f"{part}: {reason}: {', '.join(labels)}", "dim"), no_wrap=True, overflow="ellipsis")
    console.print(_text(LEGEND, "dim"))
    if not verbose:
        console.print(_text(SENTENCES, "dim"))


def summary(run: Run) -> str:
    """The run in a line or two."""
    words = {Verdict.AGREES: "agree", Verdict.DEVIATES: "deviate", Verdict.DIFFERS: "differ"}
    judged = sum(run.count(verdict) for verdict in words)
    line = f"{judged:,} comparisons over {len(run.judged)} of {len(run.judgements)} implementations: " + ", ".join(
        f"{run.count(verdict):,} {word}" for verdict, word in words.items()
    )
    if run.unused:
        line += f"\nledger entries that explain nothing: {', '.join(run.unused)}"
    return line


def _overview(run: Run, width: int) -> Table:
    """The foreign implementations, with their most important deviations, and ``kldiv_xp`` on each library.

    A row takes one line, at whose end deviations are cut off, unless there is room for nearly all of them.
    """
    narrow = width < ROOM
    title = _text(f"Conformance with {run.reference}, losses and gradients", "table.title")
    table = Table(title=title, title_justify="left", pad_edge=False, expand=narrow)
    table.add_column("implementation", no_wrap=narrow, overflow="ellipsis", max_width=width // 3 if narrow else None)
    table.add_column("source", no_wrap=True)
    for verdict in ("agrees", "deviates", "differs", "left out"):
        table.add_column(verdict, justify="right", no_wrap=True)
    deviations = f"{SHOWN_ENTRIES} most important deviations"
    table.add_column(deviations, no_wrap=narrow, overflow="ellipsis", ratio=1 if narrow else None)
    ran = [j for j in run.judgements if j.comparisons]
    libraries: dict[tuple[str, str], list[Judgement]] = {}
    for j in ran:
        source = {"live": "here"}.get(j.environment.get("source", ""), "recorded")
        if convention(j.label) is None:
            table.add_row(_label(j), source, *_counts([j]), _most_important([j]))
        else:
            libraries.setdefault((j.version, source), []).append(j)
    for (version, source), members in libraries.items():
        table.add_row(_text(f"kldiv_xp on {version}"), source, *_counts(members), _most_important(members))
    return table


def _counts(judgements: Sequence[Judgement]) -> list[Text]:
    numbers = [sum(j.count(verdict) for j in judgements) for verdict in (Verdict.AGREES, Verdict.DEVIATES)]
    differs = sum(j.count(Verdict.DIFFERS) for j in judgements)
    left_out = sum(j.count(verdict) for j in judgements for verdict in LEFT_OUT)
    styled = zip((*numbers, differs, left_out), ("", "yellow", "bold red", "dim"), strict=True)
    return [Text(f"{number:,}" if number else "", style) for number, style in styled]


def _most_important(judgements: Sequence[Judgement]) -> Text:
    """Ledger entries in words, but for those about the reference."""
    shown = [one for one in explanations(judgements) if not one.of_reference][:SHOWN_ENTRIES]
    parts = []
    for title, wrong in (("wrong: ", True), ("", False)):
        names = [one.entry.id.replace("-", " ") for one in shown if one.wrong == wrong]
        parts += [title + ", ".join(names)] if names else []
    return _text("; ".join(parts))


def _folded(reasons: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Reasons up to their details, with labels whose conventions are folded together."""
    folded: dict[str, dict[str, None]] = {}
    for reason, labels in reasons.items():
        names = (without_convention(label.partition(" (")[0]) for label in labels)
        folded.setdefault(reason.partition(":")[0], {}).update(dict.fromkeys(names))
    return {reason: list(names) for reason, names in folded.items()}


def _matrix(judgements: Sequence[Judgement], groups: Sequence[str], reference: str) -> Table:
    title = _text(f"Conformance with {reference}", "table.title")
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("implementation", no_wrap=True)
    for group in groups:
        table.add_column(_text(group), justify="right")
    table.add_column("error", justify="right")
    table.add_column("same bits", justify="right")
    for j in judgements:
        if j.not_run is None:
            cells = [_cell(j, group) for group in groups]
            table.add_row(_label(j), *cells, f"{j.largest_error:.2f}", percent(j.identical_share))
    return table


def _label(judgement: Judgement) -> Text:
    """Label, with the name of a file on a line of its own, so that neither is cut off."""
    file = f" ({judgement.environment.get('file')})"
    name = judgement.label.removesuffix(file)
    return _text(name) if name == judgement.label else Text.assemble(_text(name), "\n", _text(file.strip()))


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
    for one in explanations(judgements):
        table.add_row(_text(one.entry.id), f"{one.count:,}", _text(one.entry.why))
    return table


def _text(text: str, style: str = "") -> Text:
    """Text in which nothing is markup, and nothing speaks to the terminal."""
    return Text("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text), style)
