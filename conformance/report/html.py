"""The verdicts of a run as one HTML file that needs no network."""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from conformance.judge import Comparison, Verdict
from conformance.ledger import ENTRIES
from conformance.report.comparisons import comparisons_as_json
from conformance.report.contents import (
    LEFT_OUT,
    QUANTITIES,
    Explanation,
    Run,
    convention,
    encodable,
    explanations,
    percent,
    version_and_source,
)
from conformance.report.grids import grids_as_json
from conformance.report.plot import error_plots
from conformance.run import Judgement

HERE = Path(__file__).parent
SHOWN_DIFFERENCES = 10
SYMBOLS = {
    Verdict.AGREES: "=",
    Verdict.DEVIATES: "+",
    Verdict.DIFFERS: "!",
    Verdict.UNSUPPORTED: "\N{MINUS SIGN}",
    Verdict.NOT_RUN: "\N{MINUS SIGN}",
}

_URL = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:)\]]")


@dataclass(frozen=True)
class Cell:
    """Numbers of one implementation in one group."""

    counts: Counter[Verdict]

    @property
    def judged(self) -> int:
        """How many comparisons were made."""
        return self.counts.total() - self.left_out

    @property
    def left_out(self) -> int:
        """How many comparisons are unsupported or did not run."""
        return sum(self.counts[verdict] for verdict in LEFT_OUT)

    @property
    def state(self) -> str:
        """The verdict that sets the colour of the cell."""
        if not self.judged:
            return "left-out"
        return next(v for v in (Verdict.DIFFERS, Verdict.DEVIATES, Verdict.AGREES) if self.counts[v])

    @property
    def words(self) -> str:
        """The numbers, for screen readers."""
        return ", ".join(f"{self.counts[verdict]} {verdict}" for verdict in Verdict if self.counts[verdict])


@dataclass(frozen=True)
class Implementation:
    """One implementation as the page shows it."""

    judgement: Judgement
    number: int
    """Its place in the run, and in the data for the script."""

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """A cell for each group with comparisons."""
        counts: dict[str, Counter[Verdict]] = {}
        for comparison in self.judgement.comparisons:
            counts.setdefault(comparison.group, Counter())[comparison.verdict] += 1
        return {group: Cell(count) for group, count in counts.items()}

    @cached_property
    def counts(self) -> Counter[Verdict]:
        """Numbers over all groups."""
        return Counter(comparison.verdict for comparison in self.judgement.comparisons)

    @cached_property
    def explanations(self) -> list[Explanation]:
        """Ledger entries that were used, the most important first."""
        return explanations([self.judgement])

    @property
    def left_out(self) -> dict[Verdict, list[tuple[str, int]]]:
        """Reasons why comparisons were not made, with their numbers."""
        return {verdict: self._reasons(verdict) for verdict in LEFT_OUT if self.counts[verdict]}

    @cached_property
    def differing(self) -> list[Comparison]:
        """Differences without explanation."""
        return [c for c in self.judgement.comparisons if c.verdict == Verdict.DIFFERS]

    @property
    def version(self) -> str:
        """Version of the library, with the source of the figures if it did not run here."""
        return version_and_source(self.judgement)

    def _reasons(self, verdict: Verdict) -> list[tuple[str, int]]:
        return Counter(c.detail for c in self.judgement.comparisons if c.verdict == verdict).most_common()


@dataclass(frozen=True)
class Part:
    """Rows of the matrix that stand together: the foreign implementations, or those with one convention."""

    convention: str | None
    implementations: Sequence[Implementation]

    @cached_property
    def cell(self) -> Cell:
        """Numbers over all of them."""
        return Cell(sum((implementation.counts for implementation in self.implementations), Counter()))

    @property
    def absent(self) -> int:
        """How many of them did not run."""
        return sum(implementation.judgement.not_run is not None for implementation in self.implementations)


def render_html(run: Run) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(linked=linked, percent=percent)
    environment.globals.update(Verdict=Verdict, SYMBOLS=SYMBOLS, QUANTITIES=QUANTITIES, SHOWN=SHOWN_DIFFERENCES)
    implementations = [Implementation(judgement, number) for number, judgement in enumerate(run.judgements)]
    parts = _parts(implementations)
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page = environment.get_template("template.html.j2").render(
        run=run,
        parts=parts,
        implementations=[implementation for part in parts for implementation in part.implementations],
        absent=[judgement for judgement in run.judgements if judgement.not_run is not None],
        left_out=_left_out(run.judgements),
        ledger=_ledger(run, implementations),
        plots=error_plots(run.judgements),
        data={"comparisons": comparisons_as_json(run.judgements), "grids": grids_as_json(run)},
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}';"
        " base-uri 'none'; form-action 'none'",
    )
    return encodable(page)


def linked(text: str) -> Markup:
    """Text whose web addresses are links."""
    parts, end = [], 0
    for found in _URL.finditer(text):
        link = Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(found[0])
        parts += [escape(text[end : found.start()]), link]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _parts(implementations: Iterable[Implementation]) -> list[Part]:
    """The matrix, the foreign implementations first."""
    parts: dict[str | None, list[Implementation]] = {None: []}
    # Implementations that did not run have no numbers, and come last.
    for implementation in sorted(implementations, key=lambda i: i.judgement.not_run is not None):
        parts.setdefault(convention(implementation.judgement.label), []).append(implementation)
    return [Part(name, members) for name, members in parts.items() if members]


def _ledger(run: Run, implementations: Sequence[Implementation]) -> list[dict[str, Any]]:
    """Entries, those that explain most first."""
    users: dict[str, list[tuple[Implementation, int]]] = {}
    for implementation in implementations:
        for explanation in implementation.explanations:
            users.setdefault(explanation.entry.id, []).append((implementation, explanation.count))
    entries = [
        {
            "id": entry.id,
            "why": entry.why,
            "evidence": entry.evidence,
            "users": users.get(entry.id, []),
            "explains": sum(count for _, count in users.get(entry.id, [])),
            "fails": entry.id in run.unused,
        }
        for entry in ENTRIES
    ]
    return sorted(entries, key=lambda entry: (not entry["fails"], -entry["explains"]))


def _left_out(judgements: Sequence[Judgement]) -> dict[tuple[str, str], list[str]]:
    """Implementations with skipped comparisons, and their numbers, by verdict and reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for judgement in judgements:
        counts = Counter((c.verdict.value, c.detail) for c in judgement.comparisons if c.verdict in LEFT_OUT)
        for reason, count in counts.items():
            reasons.setdefault(reason, []).append(f"{judgement.label} ({count:,})")
    return reasons


def _hash(text: str) -> str:
    """Hash of a text, for the page's content security policy."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
