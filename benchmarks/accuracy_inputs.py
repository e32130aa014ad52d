"""Distributions that are far apart or close, as an implementation is given them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.exact import Floats

CLASSES = 1000
FAR = "far"
DIFFERENCES = (FAR, "1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
"""Relative differences of the probabilities: the standard deviation, or none, of independent distributions."""
SPREAD = 2.0
"""Standard deviation of the logits."""

Rounded = npt.NDArray[Any]


def distributions(elements: int, seed: int) -> Iterator[tuple[str, Floats, Floats]]:
    """Each difference, with the log-probabilities of the input and those of the target, in float64.

    The target is a softmax of normal logits in rows of ``CLASSES``. The input is another one, or the target with
    each probability changed by a normal share of it and the rows normalised again. All from the same seed.
    """
    random = np.random.default_rng((elements, seed))
    shape = (elements // CLASSES, CLASSES)
    target = _normalised(random.normal(0.0, SPREAD, shape))
    yield FAR, _normalised(random.normal(0.0, SPREAD, shape)), target
    noise = random.normal(0.0, 1.0, shape)
    for difference in DIFFERENCES[1:]:
        yield difference, _normalised(target + np.log1p(float(difference) * noise)), target


def rounded(values: Floats, dtype: str) -> Rounded:
    """Values of a dtype; those of bfloat16, which NumPy lacks, in float32."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    single = values.astype(np.float32)
    scaled = single * np.float32(2**16 + 1)  # Veltkamp's splitting: 8 bits are left of 24
    return scaled - (scaled - single)


def _normalised(logits: Floats) -> Floats:
    result: Floats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return result
