"""Divergences from logits of tensors that are not on the CPU: some rows at a time.

The function is called with tensors on the CPU here, which it computes in the same way; the device ``meta`` shows that
calls reach it, and that it looks at no value.
"""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from kldiv_xp import js_div_with_logits, kl_div_with_logits_value_and_grad
from kldiv_xp._options import checked_from_logits
from kldiv_xp.backends import _torch_on_device as on_device
from kldiv_xp.backends import find
from tests import exact_from_logits as exact

BETAS = (0.0, 0.3, 1.0)


@pytest.fixture(params=[7, 40, 1000])
def rows_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "ROWS", request.param)


def logits(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.asarray(np.random.default_rng(0).standard_normal((2, *shape)))
    return x, y


def evaluated(
    x: torch.Tensor, y: torch.Tensor, *options: Any, where: Any = None, weight: Any = 1.0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    given = checked_from_logits(*options)
    return on_device.divergence_on_device(x, y, given, where, (1, 0), weight, find(x, y))


@pytest.mark.usefixtures("rows_at_once")
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("axis", [-1, 1])
def test_the_rows_and_their_gradients_are_exact(beta: float, axis: int) -> None:
    x, y = logits(4, 5, 6)
    weight = torch.linspace(-1.0, 1.0, 4 * (5 if axis == -1 else 6), dtype=torch.float64).reshape(4, -1)
    rows, (by_y, by_x) = evaluated(x, y, beta, "none", 2.0, axis, weight=weight)
    a, b = (z.movedim(axis, -1).numpy() for z in (x, y))
    torch.testing.assert_close(rows, torch.asarray(exact.rows(a, b, beta, 2.0)))
    for gradient, wanted in zip((by_x, by_y), exact.gradients(a, b, beta, 2.0), strict=True):
        torch.testing.assert_close(gradient.movedim(axis, -1), torch.asarray(wanted) * weight[..., None])


@pytest.mark.usefixtures("rows_at_once")
@pytest.mark.parametrize(("reduction", "count"), [("sum", 1), ("mean", 6), ("batchmean", 3)])
def test_rows_that_do_not_count_have_no_part(reduction: Any, count: int) -> None:
    x, y = logits(3, 4, 6)
    where = torch.arange(12).reshape(3, 4) % 2 == 0
    a, b = x[where].numpy(), y[where].numpy()
    x[~where], y[~where] = torch.nan, torch.inf
    loss, (by_y, by_x) = evaluated(x, y, 0.0, reduction, 1.0, -1, where=where, weight=torch.tensor(3.0))
    torch.testing.assert_close(loss, torch.asarray(exact.rows(a, b, 0.0, 1.0).sum() / count))
    for gradient, wanted in zip((by_x, by_y), exact.gradients(a, b, 0.0, 1.0), strict=True):
        torch.testing.assert_close(gradient[where], torch.asarray(wanted) * 3.0 / count)
        assert not gradient[~where].any()


LOGITS = (0.0, 1.0, -3.0, -torch.inf, torch.inf, torch.nan, -100.0, -800.0, -1e20, -3e38, 3e38, 1e-45)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_special_logits_give_what_the_plain_formulas_give_in_float64(
    dtype: torch.dtype, beta: float, temperature: float
) -> None:
    pairs = list(itertools.product(LOGITS, repeat=2))
    x = torch.tensor([[*pair, 0.0] for pair in pairs for _ in pairs], dtype=dtype)
    y = torch.tensor([[*pair, 0.5] for _ in pairs for pair in pairs], dtype=dtype)
    weight = torch.ones(len(x), dtype=torch.float64)
    loss, gradients = evaluated(x, y, beta, "none", temperature, -1, weight=weight)
    given, backend = checked_from_logits(beta, "none", temperature, -1), find(x, y)
    a, b = x.double(), y.double()
    plain = backend.plain_loss_from_logits(a, b, given), *backend.gradients_from_logits(a, b, given, (1, 0), weight)
    for got, wanted in zip((loss, *gradients), plain, strict=True):
        torch.testing.assert_close(got, wanted.to(dtype), equal_nan=True)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5])
def test_nothing_is_lost_of_close_distributions(noise: float, beta: float) -> None:
    rng = np.random.default_rng(0)
    y = torch.asarray(3 * rng.standard_normal((5, 300), np.float32))
    x = y + torch.asarray(noise * rng.standard_normal((5, 300), np.float32), dtype=torch.float32)
    rows, _ = evaluated(x, y, beta, "none", 1.0, -1, weight=torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(
        rows, torch.asarray(exact.rows(x.numpy(), y.numpy(), beta, 1.0)).float(), rtol=1e-6, atol=0.0
    )


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Elements of each softmax, in rows of 100 elements at once."""
    monkeypatch.setattr(on_device, "ROWS", 100)
    softmaxes, found = on_device._softmaxes, []

    def watched(x: torch.Tensor, *others: Any) -> Any:
        found.append(x.numel())
        return softmaxes(x, *others)

    monkeypatch.setattr(on_device, "_softmaxes", watched)
    return found


@pytest.mark.parametrize("arguments", [1, 2])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_on_another_device_go_through_it(
    reduction: Any, arguments: int, dtype: torch.dtype, sizes: list[int]
) -> None:
    x, y = (torch.empty(50, 10, device="meta", dtype=dtype).requires_grad_(n < arguments) for n in range(2))
    loss = js_div_with_logits(x, y, 0.5, reduction, where=torch.empty(50, dtype=torch.bool, device="meta"))
    loss.backward(torch.empty_like(loss))  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert (y.grad is None) == (arguments == 1)
    assert len(sizes) == (5 if arguments == 1 and dtype is torch.float32 else 10)
    assert set(sizes) == {100}


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_the_value_and_gradient_go_through_it(reduction: Any, sizes: list[int]) -> None:
    x, y = torch.empty(2, 50, 10, dtype=torch.bfloat16, device="meta")
    cotangent = torch.empty(50 if reduction == "none" else (), device="meta")
    loss, gradient = kl_div_with_logits_value_and_grad(x, y, reduction, cotangent=cotangent)
    assert (loss.dtype, gradient.dtype, gradient.shape) == (torch.bfloat16, torch.bfloat16, x.shape)
    assert sizes == [100] * 5


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_a_cotangent_on_another_device_is_refused(reduction: Any) -> None:
    x, y = torch.empty(2, 5, 3, device="meta")
    with pytest.raises(ValueError, match="must be on one device"):
        kl_div_with_logits_value_and_grad(x, y, reduction, cotangent=torch.ones(5 if reduction == "none" else ()))


def test_a_mask_on_another_device_is_refused() -> None:
    x, y = logits(5, 3)
    with pytest.raises(ValueError, match="must be on one device"):
        js_div_with_logits(x, y, where=torch.empty(5, dtype=torch.bool, device="meta"))
