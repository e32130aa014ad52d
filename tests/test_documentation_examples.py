"""The three examples of the documentation of ``oneflow.nn.KLDivLoss``, to the four decimals that it prints."""

from typing import Any

import numpy as np
import pytest

from kldiv_xp import KLDivLoss, kl_div
from tests.backends import array, numbers

INPUT = [-0.9021705, 0.08798598, 1.04686249]
TARGET = [1.22386942, -0.89729659, 0.01615712]  # the negative target is in the documentation


@pytest.mark.parametrize(
    ("reduction", "log_target", "printed"),
    [("none", False, [1.3514, 0.0, -0.0836]), ("mean", False, 0.4226), ("sum", True, 5.7801)],
)
def test_the_example_prints_what_the_documentation_shows(
    xp: Any, reduction: Any, log_target: bool, printed: float | list[float]
) -> None:
    x, y = array(xp, INPUT, "float32"), array(xp, TARGET, "float32")
    for loss in (
        kl_div(x, y, reduction, log_target),
        KLDivLoss(reduction, log_target)(x, y),
        KLDivLoss(reduction=reduction, log_target=log_target)(x, y),
    ):
        np.testing.assert_array_equal(np.round(numbers(loss), 4), printed)
