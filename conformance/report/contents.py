"""The contents of a report, in every format."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from conformance.implementations import reference, reference_from_logits
from conformance.judge import Verdict
from conformance.ledger import ENTRIES, Deviation, Inexact, Promotion, Refusal
from conformance.run import Grids, Judgement

QUANTITIES = {"loss": "loss", "input": "gradient by input", "target": "gradient by target"}
LEFT_OUT = (Verdict.UNSUPPORTED, Verdict.NOT_RUN)

_CONVENTION = re.compile(r" \[(\w+)\]$")


@dataclass(frozen=True)
class Run:
    """All judgements of a run, and what they were judged against."""

    judgements: Sequence[Judgement]
    groups: Sequence[str]
    reference: str
    """Name and version."""
    digest: str
    """Digest of the corpus."""
    unused: Sequence[str] = ()
    """Ledger entries that explain nothing, although they should."""
    grids: Grids = field(default_factory=dict)
    """Values of the reference."""
    date: datetime = field(default_factory=lambda: datetime.now(UTC))

    def count(self, verdict: Verdict) -> int:
        """How many comparisons of all implementations got a verdict."""
        return sum(judgement.count(verdict) for judgement in self.judgements)

    @property
    def judged(self) -> Sequence[Judgement]:
        """Implementations with at least one judged comparison."""
        return [j for j in self.judgements if any(c.verdict not in LEFT_OUT for c in j.comparisons)]

    @property
    def cases(self) -> int:
        """How many cases there were."""
        return len({comparison.case for judgement in self.judgements for comparison in judgement.comparisons})

    @property
    def passes(self) -> bool:
        """Whether something was judged, nothing differs, and every ledger entry that should explain something does."""
        return bool(self.judged) and not self.unused and not self.count(Verdict.DIFFERS)

    @property
    def conclusion(self) -> str:
        """The run in a few words."""
        if not self.judged:
            return "Nothing was judged"
        if differing := self.count(Verdict.DIFFERS):
            return f"{differing:,} comparison{'s differ' if differing > 1 else ' differs'}"
        if self.unused:
            return "Ledger entries explain nothing"
        return "Nothing differs that the ledger does not explain"


def version_and_source(judgement: Judgement) -> str:
    """Version of the library, with the source of the figures if it did not run here: recorded, or the name of a file.

    Readers must not mistake a recording for the installed version.
    """
    source = {"recorded": "recorded", "file": judgement.environment.get("file", "")}
    where = source.get(judgement.environment.get("source", ""), "")
    return f"{judgement.version} ({where})" if where else judgement.version


def ledger_uses(judgements: Iterable[Judgement]) -> Counter[str]:
    """Number of comparisons that each ledger entry helps to explain."""
    return Counter(entry for j in judgements for comparison in j.comparisons for entry in comparison.ledger)


@dataclass(frozen=True)
class Explanation:
    """A ledger entry, and the number of comparisons that it helps to explain."""

    entry: Deviation | Refusal | Promotion | Inexact
    count: int

    @property
    def wrong(self) -> bool:
        """Whether the ledger calls what the entry explains wrong, rather than another choice."""
        return self.entry.why.startswith("wrong")

    @property
    def of_reference(self) -> bool:
        """Whether the entry is about the reference."""
        return any(map(self.entry.who, (reference(), reference_from_logits())))


def explanations(judgements: Iterable[Judgement]) -> list[Explanation]:
    """Ledger entries that were used, the most important first.

    What is wrong comes first, then what explains most; entries about the reference come last.
    """
    uses = ledger_uses(judgements)
    used = [Explanation(entry, uses[entry.id]) for entry in ENTRIES if uses[entry.id]]
    return sorted(used, key=lambda one: (one.of_reference, not one.wrong, -one.count))


def convention(label: str) -> str | None:
    """Convention of ``kldiv_xp`` that a label ends with; ``None`` for a foreign implementation."""
    found = _CONVENTION.search(label)
    return found[1] if found else None


def without_convention(label: str) -> str:
    """The label without the convention that it may end with."""
    return _CONVENTION.sub("", label)


def foreign_first(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Foreign implementations first, then those of ``kldiv_xp``; each in their order."""
    return sorted(judgements, key=lambda judgement: convention(judgement.label) is not None)


def percent(share: float) -> str:
    """Share in percent, rounded down, so that only a complete share is 100%."""
    return f"{math.floor(share * 10_000) / 100:g}%"


def encodable(text: str) -> str:
    """Text without lone surrogates, which a recording may contain and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def not_run_reasons(judgements: Iterable[Judgement]) -> dict[str, list[str]]:
    """Why implementations did not run, or skipped comparisons."""
    reasons: dict[str, list[str]] = {}
    for j in judgements:
        if j.not_run is not None:
            reasons.setdefault(j.not_run, []).append(j.label)
        for reason in dict.fromkeys(c.detail for c in j.comparisons if c.verdict == Verdict.NOT_RUN):
            reasons.setdefault(reason, []).append(f"{j.label} ({j.count(Verdict.NOT_RUN)} comparisons)")
    return reasons
