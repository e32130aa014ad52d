"""The standard and nothing but the standard: on every device, in every version that has what is needed."""

from typing import Any

import array_api_strict as xp
import numpy as np
import pytest

from kldiv_xp import kl_div, kl_div_value_and_grad
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, array, numbers

DEVICES = [
    ("CPU_DEVICE", "float64"),
    ("device1", "float64"),
    ("device2", "float64"),
    ("device2", "float32"),
    ("no_float64", "float32"),
    ("no_x64", "float32"),
]


@pytest.fixture(autouse=True)
def _a_constant_of_the_wrong_dtype_or_device_raises() -> Any:
    with xp.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False):
        yield


@pytest.mark.parametrize(("device", "dtype"), DEVICES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("log_target", [False, True])
def test_the_result_stays_on_the_device(
    log_target: bool, convention: Any, reduction: Any, device: str, dtype: str
) -> None:
    there = xp.Device(device)
    values = [-1.0, -2.0, -0.5], [0.5, 0.0, 0.25]
    x, y = (array(xp, a, dtype, device=there) for a in values)
    cotangent = x if reduction == "none" else xp.asarray(2.0, dtype=x.dtype, device=there)
    loss, gradients = kl_div_value_and_grad(
        x, y, reduction, log_target, convention=convention, argnums=(0, 1), cotangent=cotangent
    )
    for result in (kl_div(x, y, reduction, log_target, convention=convention), loss, *gradients):
        assert result.device == there
        assert result.dtype == x.dtype
    x, y = (array(xp, a, dtype) for a in values)
    # Not what another device gives, which may add up in float64.
    x, y = numbers(x), numbers(y)
    exact.assert_within(
        xp.asarray(loss, device=xp.Device("CPU_DEVICE")),
        exact.reduced(exact.losses(x, y, log_target=log_target, convention=convention), x.shape, reduction),
        exact.total(exact.tolerances(x, y, np, dtype, log_target=log_target), x.shape, reduction),
        dtype,
    )


@pytest.mark.parametrize("version", ["2024.12", "2025.12"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_it_needs_no_newer_standard_than_2024(version: str, reduction: Any) -> None:
    with xp.ArrayAPIStrictFlags(api_version=version, enabled_extensions=()):
        loss = kl_div(array(xp, [-1.0]), array(xp, [1.0]), reduction)
    np.testing.assert_array_equal(numbers(loss).ravel(), [1.0])
