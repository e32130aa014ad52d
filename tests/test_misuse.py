"""Calls that are allowed and probably mistakes warn, wherever this costs nothing."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad, kl_div_with_logits
from kldiv_xp.backends import find
from tests.backends import REDUCTIONS

LOGARITHMS = np.log(np.asarray([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32))
PROBABILITIES = np.exp(LOGARITHMS)
MIXED = np.asarray([[-0.5, 0.5], [0.0, 0.5]], dtype=np.float32)
MANY = (np.full((100, 1000), -5.0, dtype=np.float32),) * 2


def strict(x: Any) -> Any:
    import array_api_strict

    return array_api_strict.asarray(x)


LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "numpy": np.asarray,
    "torch": torch.asarray,
    "torch with gradient": lambda x: torch.tensor(x, requires_grad=True),
    "jax": lambda x: jax.numpy.asarray(x).block_until_ready(),
    "array-api-strict": strict,
}
each_library = pytest.mark.parametrize("asarray", LIBRARIES.values(), ids=LIBRARIES)


@pytest.fixture(autouse=True)
def _every_call_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kldiv_xp.backends.jax.LOOKS", 1)


def warned(call: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return list(seen)


@each_library
@pytest.mark.parametrize("convention", ["oneflow", "torch", "limit"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_targets_that_are_all_negative_warn(asarray: Any, reduction: Any, convention: Any) -> None:
    x, y = asarray(LOGARITHMS), asarray(LOGARITHMS)
    (warning,) = warned(lambda: kl_div(x, y, reduction, convention=convention))
    assert warning.filename == __file__
    for remedy in ("all targets are negative", "log_target=True", "exchange the arguments"):
        assert remedy in str(warning.message)


@each_library
def test_exchanged_arguments_warn(asarray: Any) -> None:
    assert len(warned(lambda: KLDivLoss("sum")(asarray(PROBABILITIES), asarray(LOGARITHMS)))) == 1


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "array-api-strict"])
def test_the_closed_form_warns(name: str) -> None:
    x = LIBRARIES[name](LOGARITHMS)
    assert len(warned(lambda: kl_div_value_and_grad(x, x, "sum"))) == 1


@pytest.mark.parametrize("name", ["numpy", "torch", "torch with gradient", "jax"])
def test_many_targets_warn_once(name: str) -> None:
    x, y = map(LIBRARIES[name], MANY)
    assert len(warned(lambda: kl_div(x, y, "sum"))) == 1


@each_library
@pytest.mark.parametrize("target", [PROBABILITIES, MIXED, np.zeros_like(MIXED), np.empty((0, 2), np.float32)])
def test_other_targets_do_not_warn(asarray: Any, target: Any) -> None:
    x = asarray(np.zeros_like(target))
    assert warned(lambda: kl_div(x, asarray(target), "sum")) == []


@each_library
def test_log_targets_do_not_warn(asarray: Any) -> None:
    assert warned(lambda: kl_div(asarray(LOGARITHMS), asarray(LOGARITHMS), "sum", log_target=True)) == []


def test_a_call_in_a_loop_warns_once() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            kl_div(LOGARITHMS, LOGARITHMS, "sum")
    assert len(seen) == 1


def inside_a_trace(y: Any) -> object:
    y = jax.numpy.asarray(y).block_until_ready()
    step = jax.jit(lambda weight: kl_div_value_and_grad(y, y, "sum", cotangent=weight)[1])
    total = jax.lax.fori_loop(0, 2, lambda _, total: total + kl_div(y, y, "sum"), 0.0)
    return step(1.0), total, jax.make_jaxpr(step)(1.0)


TRACED: dict[str, Callable[[Any], object]] = {
    "arrays outside of a trace": inside_a_trace,
    "jit": lambda y: jax.jit(KLDivLoss("sum"))(y, y),
    "grad": lambda y: jax.grad(KLDivLoss("sum"))(y, y),
    "vmap": lambda y: jax.vmap(KLDivLoss("sum"))(y, y),
    "torch.compile": lambda y: torch.compile(KLDivLoss("sum"), backend="eager")(*(torch.tensor(y),) * 2),
    "torch.vmap": lambda y: torch.vmap(KLDivLoss("sum"))(*(torch.tensor(y),) * 2),
    "torch.jit.trace": lambda y: torch.jit.trace(  # type: ignore[no-untyped-call]
        KLDivLoss("sum"), (torch.tensor(y),) * 2, check_trace=False
    ),
}


@pytest.mark.parametrize("trace", TRACED.values(), ids=TRACED)
def test_a_trace_does_not_warn(trace: Any) -> None:
    messages = [str(warning.message) for warning in warned(lambda: trace(LOGARITHMS))]
    assert [message for message in messages if "all targets" in message] == []


def test_targets_of_which_the_first_is_negative_may_stand_outside_of_a_trace() -> None:
    x, y = jax.numpy.zeros((2, 2)), jax.numpy.asarray([[-0.5, 0.5], [0.25, 0.25]]).block_until_ready()
    expected, everywhere = kl_div(x, y, "sum"), y < 1.0
    masked = jax.jit(lambda where: kl_div(x, y, "sum", where=where))
    assert masked(everywhere) == expected
    with jax.transfer_guard("disallow"):
        kl_div(x, y, "sum")


def test_a_tensor_on_a_device_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a target is read")

    monkeypatch.setattr("kldiv_xp.backends.torch.Torch.notice", read)
    y = torch.empty((2, 3), device="meta")
    for reduction in REDUCTIONS:
        kl_div(y, y, reduction)
    with pytest.raises(AssertionError, match="is read"):
        kl_div(torch.asarray(LOGARITHMS), torch.asarray(LOGARITHMS), "sum")


@pytest.mark.parametrize("name", LIBRARIES)
def test_masked_targets_are_not_looked_at(name: str) -> None:
    asarray = LIBRARIES[name]
    x, where = asarray(LOGARITHMS), asarray(PROBABILITIES) > 0.0
    assert warned(lambda: kl_div(x, x, "sum", where=where)) == []


def test_jax_looks_at_targets_of_the_first_calls_and_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kldiv_xp.backends.jax.LOOKS", 5)
    y = jax.numpy.asarray(LOGARITHMS).block_until_ready()
    monkeypatch.setattr(find(y, y), "_calls", itertools.count())
    looks = [bool(warned(lambda: kl_div(y, y, "sum"))) for _ in range(20)]
    assert looks == [call < 5 or call % 5 == 0 for call in range(20)]


@pytest.mark.parametrize("target", [np.asarray([0, 1]), np.asarray([[0, 1], [1, 0]])])
def test_class_indices_are_told_to_become_one_hot(target: Any) -> None:
    with pytest.raises(
        TypeError, match=r"target must have a real floating-point dtype.*int64; convert class indices to one-hot"
    ):
        kl_div(LOGARITHMS, target)


@pytest.mark.parametrize(
    ("input", "target", "is_told"),
    [
        ((2, 5), (2,), True),
        ((2, 5, 3), (2, 3), True),
        ((2, 3, 5), (2, 3), True),
        ((2, 5), (5,), False),
        ((2, 1), (2,), False),
        ((2, 5, 3), (2, 5, 4), False),
        ((5,), (), True),
        ((), (5,), False),
    ],
)
def test_a_target_without_the_axis_of_classes_is_told_so(input: Any, target: Any, is_told: bool) -> None:
    with pytest.raises(ValueError, match="reshape one") as error:
        kl_div(np.zeros(input), np.zeros(target))
    assert ("one-hot" in str(error.value)) is is_told


@pytest.mark.parametrize("target", [np.asarray([0, 1]), np.zeros(2)])
def test_class_indices_beside_logits_are_not_told_to_become_probabilities(target: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        kl_div_with_logits(LOGARITHMS, target)
    assert "one-hot" not in str(error.value)
