"""Samples of the cases, for implementations that schedule, compile or send messages in each case."""

from collections.abc import Iterator
from functools import cache
from zlib import crc32

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.record import LOGITS, Case, load_corpus

ALWAYS = ("documentation", "found", "refused")
ON_GPU = 8
"""One case in so many, on a GPU."""
DIVERGENCES = 100
"""At least so many divergences for each that is drawn: one takes several times as long as a loss."""
LARGE = 2000
"""Elements of a large array."""


def left_out_of_sample(case: Case, one_in: int, convention: str | None) -> str | None:
    """Reason to leave a case out of a sample of one in so many; ``None`` for one that is taken.

    The sample always has the documentation's examples, the grids of special values, the calls to refuse, and of each
    group cases of each kind. What random cases found, it tries with the first convention alone.
    """
    left_out = left_out_off_the_edges(case, convention)
    if left_out or (case.group == "found" and convention not in (None, CONVENTIONS[0])):
        return left_out or _AT_THE_EDGES
    one_in = max(one_in, DIVERGENCES) if case.logits else one_in
    drawn = _draw(case) % one_in == 0
    taken = case.group in ALWAYS or case.id.startswith("edge/grid/") or case.id in _some_of_each_kind() or drawn
    return None if taken else f"a sample: one case in {one_in}, and some of each kind; run with --all for every one"


def left_out_off_the_edges(case: Case, convention: str | None) -> str | None:
    """Reason to leave a case out if the convention is the second or the third, and both differ by rounding at most."""
    if case.group in ("edge", *ALWAYS) or convention in (None, CONVENTIONS[0]):
        return None
    return _AT_THE_EDGES


_AT_THE_EDGES = "this convention is sampled at the edges alone; run with --all"


@cache
def _some_of_each_kind() -> frozenset[str]:
    """Few cases that have all kinds of their group: again and again the case with most of the kinds that are left."""
    chosen: set[str] = set()
    groups: dict[str, dict[str, frozenset[object]]] = {}
    for case in sorted((*load_corpus().cases, *load_corpus(LOGITS).cases), key=_draw):
        groups.setdefault(case.group, {})[case.id] = frozenset(_kinds(case))
    for kinds in groups.values():
        left = frozenset().union(*kinds.values())
        while left:
            most = max(kinds, key=lambda case_id: len(kinds[case_id] & left))
            chosen.add(most)
            left -= kinds[most]
    return frozenset(chosen)


def _kinds(case: Case) -> Iterator[object]:
    """Kind of a case, within its group."""
    yield case.reduction
    yield case.log_target
    yield case.input.dtype
    yield case.call
    yield from case.layouts
    yield case.gradients
    yield "upstream gradient" if case.cotangent else "ones"
    if case.logits is not None:
        yield case.logits.beta
        yield case.id.split("/")[1]
        yield case.logits.where is not None
        yield case.logits.axis
        yield case.logits.temperature
    if case.input.is_array and case.input.values.size > LARGE:
        yield "large"


def _draw(case: Case) -> int:
    """Pseudorandom number of a case, the same in every run."""
    return crc32(case.id.encode())
