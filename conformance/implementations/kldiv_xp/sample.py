"""Which cases an ordinary run takes where each one costs a schedule, a compilation or a message to another process."""

from zlib import crc32

from conformance.record import Case

ALWAYS = ("documentation", "refused")


def left_out_of_sample(case: Case, one_in: int) -> str | None:
    """Reason to leave a case out of a sample of one in so many; ``None`` for one that is taken.

    The documentation's examples, the grids of special values and the calls to refuse are always taken.
    """
    taken = case.group in ALWAYS or case.id.startswith("edge/grid/") or crc32(case.id.encode()) % one_in == 0
    return None if taken else f"a sample: one case in {one_in}; run with --all for every one"
