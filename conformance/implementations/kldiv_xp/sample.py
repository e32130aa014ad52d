"""Samples of the cases, for implementations that schedule, compile or send messages in each case."""

from collections.abc import Iterator
from functools import cache
from zlib import crc32

from conformance.implementations.kldiv_xp import CONVENTIONS
from conformance.record import LOGITS, Case, load_corpus

ALWAYS = ("documentation", "found", "refused")
ON_GPU = 8
"""One case in so many, on a GPU."""
LARGE = 2000
"""Elements of a large array."""


def left_out_of_sample(case: Case, one_in: int, convention: str | None) -> str | None:
    """Reason to leave a case out of a sample of one in so many; ``None`` for one that is taken.

    The sample always has the documentation's examples, the grids of special values, the calls to refuse, and of each
    group a case of each kind. Off the edges the conventions differ by rounding at most: of the second and third of them
    the sample has edge cases, examples and calls to refuse alone.
    """
    if case.group not in ("edge", *ALWAYS) and convention not in (None, CONVENTIONS[0]):
        return "this convention is sampled at the edges alone; run with --all"
    drawn = _draw(case) % one_in == 0
    taken = case.group in ALWAYS or case.id.startswith("edge/grid/") or case.id in _one_of_each_kind() or drawn
    return None if taken else f"a sample: one case in {one_in}, and one of each kind; run with --all for every one"


@cache
def _one_of_each_kind() -> frozenset[str]:
    seen: set[tuple[str, object]] = set()
    chosen = []
    for case in sorted((*load_corpus().cases, *load_corpus(LOGITS).cases), key=_draw):
        new = {(case.group, kind) for kind in _kinds(case)} - seen
        if new:
            chosen.append(case.id)
            seen |= new
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
    if case.input.is_array and case.input.values.size > LARGE:
        yield "large"


def _draw(case: Case) -> int:
    """Pseudorandom number of a case, the same in every run."""
    return crc32(case.id.encode())
