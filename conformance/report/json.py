"""The verdicts of a run as data."""

import json
from dataclasses import asdict

from conformance.judge import Verdict
from conformance.ledger import ENTRIES
from conformance.report.comparisons import comparisons_as_json
from conformance.report.contents import QUANTITIES, Run, ledger_uses


def render_json(run: Run) -> str:
    """The run as data: counts, the ledger, and every comparison, in tables that hold each text once."""
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
            }
            for j in run.judgements
        ],
        "ledger": [
            {"id": entry.id, "why": entry.why, "evidence": entry.evidence, "explains": uses[entry.id]}
            for entry in ENTRIES
        ],
        "unused_ledger_entries": list(run.unused),
    }
    # The tables are for programs, and most of the file: without white space.
    tables = json.dumps(comparisons_as_json(run.judgements), separators=(",", ":"))
    text = json.dumps(report, indent=1).removesuffix("\n}")
    return f'{text},\n "comparisons": {tables}\n}}\n'
