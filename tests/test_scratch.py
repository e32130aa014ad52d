"""The memory that blocks keep from call to call: it changes no result, is not shared, and does not grow."""

from itertools import product
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from kldiv_xp import js_div_with_logits, kl_div, kl_div_with_logits_value_and_grad
from kldiv_xp.backends import find
from kldiv_xp.backends._row_blocks import InRowBlocks
from kldiv_xp.backends._scratch import Scratch, SpareMemory
from tests import exact_from_logits as exact


def spare_memory() -> SpareMemory:
    return SpareMemory(np.empty, most=2)


def in_row_blocks(x: Any, y: Any) -> InRowBlocks:
    backend = find(x, y)
    assert isinstance(backend, InRowBlocks)
    return backend


def bytes_of(scratch: Scratch) -> int:
    return sum(memory.nbytes for memory in scratch._memory.values())


def test_an_array_of_a_name_has_the_memory_of_the_last_one() -> None:
    scratch = Scratch(np.empty)
    first, smaller = scratch("r", (4, 8), np.float64), scratch("r", (3, 5), np.float64)
    assert smaller.shape == (3, 5)
    assert np.shares_memory(first, smaller)
    assert not np.shares_memory(first, scratch("x", (4, 8), np.float64))


def test_two_calls_at_once_have_their_own_memory() -> None:
    spare = spare_memory()
    one, other = spare.taken(), spare.taken()
    assert one is not other
    spare.give_back(one)
    assert spare.taken() is one


def test_no_more_memory_is_kept_than_threads_compute_at_once() -> None:
    spare = spare_memory()
    taken = [spare.taken() for _ in range(5)]
    for scratch in taken:
        spare.give_back(scratch)
    assert {spare.taken() for _ in range(2)} <= set(taken)
    assert spare.taken() not in taken


@pytest.mark.parametrize("of", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_memory_does_not_grow_with_the_arrays_or_with_the_calls(of: type) -> None:
    backend = in_row_blocks(of(np.ones(1)), of(np.ones(1)))
    backend.spare_memory._spare.clear()  # of earlier tests
    for dtype, shape in product(("f2", "f4", "f8"), ((1, 1000), (300, 1000), (7, 1000), (3000, 1000), (2, 10**6))):
        x, y = (of(z.astype(dtype)) for z in np.random.default_rng(0).standard_normal((2, *shape), np.float32))
        js_div_with_logits(x, y)
        kl_div(x, y, "none", log_target=True)
        kl_div(x, y, "sum", log_target=True)
        kl_div_with_logits_value_and_grad(x, y, argnums=(0, 1))
    kept = [bytes_of(scratch) for scratch in backend.spare_memory._spare]
    assert kept
    assert max(kept) <= 12 * 8 * backend.row_block_size()


@pytest.mark.parametrize("of", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_results_do_not_change_with_later_calls(of: type) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 40, 300))
    a, b = of(x), of(y)
    loss, gradients = kl_div_with_logits_value_and_grad(a, b, argnums=(0, 1))
    kl_div_with_logits_value_and_grad(b, 3 * a, argnums=(0, 1))
    np.testing.assert_allclose(np.asarray(loss), exact.rows(x, y, 0.0, 1.0).mean(), rtol=1e-13)
    for gradient, wanted in zip(gradients, exact.gradients(x, y, 0.0, 1.0), strict=True):
        np.testing.assert_allclose(np.asarray(gradient), wanted / len(x), rtol=1e-9, atol=1e-16)


def test_threads_of_the_caller_do_not_disturb_each_other() -> None:
    pairs = np.random.default_rng(1).standard_normal((4, 2, 200, 500))
    wanted = [js_div_with_logits(x, y) for x, y in pairs]
    found: list[list[float]] = [[] for _ in pairs]

    def work(number: int) -> None:
        for _ in range(20):
            found[number].append(js_div_with_logits(*pairs[number]))

    threads = [Thread(target=work, args=(number,)) for number in range(len(pairs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[value] * 20 for value in wanted]


def test_memory_made_in_inference_mode_serves_calls_outside_of_it() -> None:
    x, y = torch.randn(2, 64, 1000, dtype=torch.float64)
    in_row_blocks(x, y).spare_memory._spare.clear()
    with torch.inference_mode():
        first = kl_div_with_logits_value_and_grad(x, y)[0]
    leaf = x.clone().requires_grad_()
    second = kl_div_with_logits_value_and_grad(leaf.detach(), y)[0]
    assert torch.equal(first, second)
    with torch.inference_mode():
        assert torch.equal(kl_div_with_logits_value_and_grad(x, y)[0], first)
