"""Everything that was measured, as data."""

import json
from dataclasses import asdict
from typing import Any

from benchmarks.results import FLOOR, Entry, Measured, Results
from benchmarks.targets import judge


def render_json(results: Results) -> str:
    """The raw rounds, the ratios, what was not run, and the promises."""
    report = {
        "machine": dict(results.machine),
        "options": dict(results.options),
        "threads": results.threads,
        "share_of_the_cpus_that_others_took": results.others,
        "not_run": results.not_run,
        "measured": [_measured(m) for m in results.measured],
        "time_per_element": [_entry(e) for e in results.flatness],
        "memory": [_entry(e) for e in results.memory],
        "imports": [_entry(e) for e in results.imports],
        "first_calls": [_entry(e) for e in results.first_calls],
        "targets": [{**asdict(judged), "verdict": judged.verdict} for judged in judge(results)],
    }
    return json.dumps(report, indent=1) + "\n"


def _measured(measured: Measured) -> dict[str, Any]:
    times = measured.times
    return {
        "group": measured.group,
        **asdict(measured.workload),
        "calls_per_measurement": times.loops,
        "contenders": {
            name: {
                "role": role,
                "seconds_per_call": list(times.seconds.get(name, [])),
                "loss": times.values.get(name),
                "not_run": times.not_run.get(name),
            }
            for name, role in measured.roles.items()
        },
        "ratios": [
            {"ours": ours, "theirs": theirs, **asdict(found)}
            for ours in measured.ours
            for theirs in (*measured.peers, FLOOR)
            if (found := measured.ratio(ours, theirs)) is not None
        ],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "ratio": asdict(entry.ratio) if entry.ratio else None}
