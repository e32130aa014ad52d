"""Distributions that are far apart or close, and the exact loss of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

CLASSES = 1000
DIFFERENCES = ("far", "1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
"""Relative differences of the probabilities: the standard deviation, or none, of independent distributions."""
SPREAD = 2.0
"""Standard deviation of the logits."""
BLOCK = 1 << 16
"""Elements that are computed at once, to save memory."""

Array = npt.NDArray[Any]


def distributions(elements: int, seed: int) -> Iterator[tuple[str, Array, Array]]:
    """Each difference, with the log-probabilities of the input and those of the target, in float64.

    The target is a softmax of normal logits in rows of ``CLASSES``. The input is another one, or the target with
    each probability changed by a normal share of it and the rows normalised again. All from the same seed.
    """
    random = np.random.default_rng((elements, seed))
    shape = (elements // CLASSES, CLASSES)
    target = _normalised(random.normal(0.0, SPREAD, shape))
    yield "far", _normalised(random.normal(0.0, SPREAD, shape)), target
    noise = random.normal(0.0, 1.0, shape)
    for difference in DIFFERENCES[1:]:
        yield difference, _normalised(target + np.log1p(float(difference) * noise)), target


def rounded(values: Array, dtype: str) -> Array:
    """Values of a dtype; those of bfloat16, which NumPy lacks, in float32."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    single = values.astype(np.float32)
    scaled = single * np.float32(2**16 + 1)  # Veltkamp's splitting: 8 bits are left of 24
    return scaled - (scaled - single)


def exact_loss(x: Array, y: Array, *, log_target: bool = False) -> float:
    """The ``"batchmean"`` of the losses, in the longest type of the machine.

    On x86 it has 11 bits more than float64. Apple's processors and Windows have no longer type: there the exact value
    of float64 arrays is not exact.
    """
    total = np.longdouble(0)
    for start in range(0, x.size, BLOCK):
        a, b = (values.reshape(-1)[start : start + BLOCK].astype(np.longdouble) for values in (x, y))
        p, log_p = (np.exp(b), b) if log_target else (b, np.log(np.where(b > 0, b, 1)))
        total += (p * (log_p - a)).sum()
    return float(total / len(x))


def _normalised(logits: Array) -> Array:
    result: Array = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return result
