"""Every comparison of a run, in little space: the page holds more than a hundred thousand of them."""

from collections.abc import Sequence
from typing import Any

from conformance.judge import Verdict
from conformance.run import Judgement

LETTERS = {
    Verdict.AGREES: "a",
    Verdict.DEVIATES: "d",
    Verdict.DIFFERS: "!",
    Verdict.UNSUPPORTED: "u",
    Verdict.NOT_RUN: "n",
}
ABSENT = "."


def comparisons_as_json(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Tables of what repeats, and for each implementation the places in them.

    A subject is what a comparison is about: the places of a case and of a quantity. Each implementation has one letter
    for each subject, one error (nothing for zero), and by the place of the subject the places of ledger entries and of
    a detail, where there are any.
    """
    cases, quantities, groups, entries, details = (_Table() for _ in range(5))
    group_of_case: dict[int, int] = {}
    subjects: dict[tuple[int, int], int] = {}
    for judgement in judgements:
        for c in judgement.comparisons:
            case = cases.place(c.case)
            group_of_case[case] = groups.place(c.group)
            subjects.setdefault((case, quantities.place(c.quantity)), len(subjects))

    implementations = []
    for judgement in judgements:
        letters, errors = [ABSENT] * len(subjects), [""] * len(subjects)
        ledger: dict[int, list[int]] = {}
        detail: dict[int, int] = {}
        for c in judgement.comparisons:
            subject = subjects[cases.place(c.case), quantities.place(c.quantity)]
            letters[subject] = LETTERS[c.verdict]
            errors[subject] = f"{c.error:.2g}" if c.error else ""
            if c.ledger:
                ledger[subject] = [entries.place(entry) for entry in c.ledger]
            if c.detail:
                detail[subject] = details.place(c.detail)
        implementations.append(
            {
                "label": judgement.label,
                "letters": "".join(letters),
                "errors": ",".join(errors),
                "ledger": ledger,
                "details": detail,
            }
        )
    return {
        "verdicts": {letter: verdict.value for verdict, letter in LETTERS.items()},
        "cases": list(cases),
        "groups": list(groups),
        "quantities": list(quantities),
        "groupOfCase": [group_of_case[place] for place in range(len(cases))],
        "subjects": list(subjects),
        "entries": list(entries),
        "details": list(details),
        "implementations": implementations,
    }


class _Table(dict[str, int]):
    """Texts, with their places."""

    def place(self, text: str) -> int:
        return self.setdefault(text, len(self))
