"""The verdicts of a run as data."""

import json
from dataclasses import asdict
from typing import Any

from conformance.judge import Comparison, Verdict
from conformance.ledger import ENTRIES
from conformance.report.contents import QUANTITIES, Run, ledger_uses


def render_json(run: Run) -> str:
    """The run as data: counts, and every comparison that does not simply agree."""
    uses = ledger_uses(run.judgements)
    report = {
        "corpus": run.digest,
        "reference": run.reference,
        "date": run.date.isoformat(timespec="seconds"),
        "passes": run.passes,
        "implementations": [
            {
                "label": j.label,
                "version": j.version,
                "environment": dict(j.environment),
                "not_run": j.not_run,
                "support": asdict(j.support) if j.support else None,
                "largest_error": j.largest_error,
                "identical_share": j.identical_share,
                "counts": {group: {verdict: j.count(verdict, group) for verdict in Verdict} for group in run.groups},
                "quantities": {
                    quantity: {verdict: j.count_of(quantity, verdict) for verdict in Verdict} for quantity in QUANTITIES
                },
                "comparisons": [_comparison_as_json(c) for c in j.comparisons if c.verdict != Verdict.AGREES],
            }
            for j in run.judgements
        ],
        "ledger": [
            {"id": entry.id, "why": entry.why, "evidence": entry.evidence, "explains": uses[entry.id]}
            for entry in ENTRIES
        ],
        "unused_ledger_entries": list(run.unused),
    }
    return json.dumps(report, indent=1) + "\n"


def _comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "case": comparison.case,
        "quantity": comparison.quantity,
        "verdict": comparison.verdict,
        "error": comparison.error,
        "ledger": comparison.ledger,
        "detail": comparison.detail,
    }
