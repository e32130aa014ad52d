"""What looks for NaN finds none on the way to a finite result, and finds the NaN of a result.

The checkers are those of JAX (``debug_nans``, ``debug_infs``, ``checkify``), PyTorch's anomaly mode, and NumPy's error
state.
"""

import itertools
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import array_api_strict
import dask.array as da
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sparse
import torch
from jax.experimental import checkify
from numpy.typing import NDArray

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from tests.backends import CONVENTIONS, REDUCTIONS

Numbers = NDArray[Any]

EDGES: dict[tuple[str, bool], tuple[list[float], list[float]]] = {
    ("oneflow", False): ([-1.0, -np.inf, np.inf, np.nan], [0.0, -0.0, -1.0, -np.inf]),
    ("torch", False): ([-1.0, 0.0, -1e4], [0.0, -0.0]),
    ("limit", False): ([-1.0, -np.inf, np.inf], [0.0, -0.0]),
    ("limit", True): ([-1.0, -np.inf, np.inf], [-np.inf]),
}
"""Inputs and targets each pair of which counts as zero: masked classes among them. Other options have none."""
BAD = {False: [(-1.0, np.nan), (np.nan, 0.5)], True: [(-1.0, np.nan), (np.nan, -0.5)]}
"""Input and target whose loss is NaN in every convention, by probabilities and by their logarithms."""

every_option = pytest.mark.parametrize(
    ("convention", "log_target"), list(itertools.product(CONVENTIONS, [False, True])), ids=str
)


def arrays(convention: str, log_target: bool, size: int, dtype: str = "float32") -> tuple[Numbers, Numbers]:
    """Inputs and targets: what counts as zero beside a one-hot target and others, over and over."""
    masked = float(jnp.finfo(dtype).min) / 2  # type: ignore[no-untyped-call]  # as people write it in place of -inf
    ordinary = [(-0.5, 1.0), (-1.0, 0.5), (masked, 0.0), (-2.0, 1e-30)]
    if log_target:
        ordinary = [(-0.5, 0.0), (-1.0, -0.7), (masked, masked), (-1.0, masked), (masked, -200.0)]
    pairs = [*ordinary, *itertools.product(*EDGES.get((convention, log_target), ([], [])))]
    x, y = np.resize(np.asarray(pairs), (size, 2)).T.astype(jnp.dtype(dtype))
    return x, y


class TestJax:
    """Small arrays: a checker sees the operations, and they are the same for every size."""

    pytestmark = pytest.mark.filterwarnings("ignore:Invalid (nan|inf) value encountered")

    @staticmethod
    def everything(loss: KLDivLoss) -> Callable[..., Any]:
        """Function that gives the loss and its derivatives: in reverse and in forward mode, and the second ones."""

        def gradients(x: Any, y: Any) -> Any:
            value, pull_back = jax.vjp(loss, x, y)
            return value, pull_back(jnp.ones_like(value))

        def derivatives(x: Any, y: Any) -> Any:
            along = (jnp.ones_like(x), jnp.ones_like(y))
            closed = kl_div_value_and_grad(
                x,
                y,
                loss.reduction,
                loss.log_target,
                convention=loss.convention,
                argnums=(0, 1),
                cotangent=jnp.ones_like(x) if loss.reduction == "none" else None,
            )
            return loss(x, y), closed, jax.jvp(loss, (x, y), along), jax.jvp(gradients, (x, y), along)

        return derivatives

    @every_option
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_nothing_finite_is_reported(self, reduction: Any, log_target: bool, convention: Any) -> None:
        x, y = (jnp.asarray(a) for a in arrays(convention, log_target, 20))
        everything = self.everything(KLDivLoss(reduction, log_target, convention=convention))
        with jax.debug_nans(True):
            with jax.debug_infs(True):
                results = [everything(x, y), jax.jit(everything)(x, y)]
            # Here the NaN of an input is reported by jnp.where, and by jnp.isinf the infinity that it compares with.
            with jax.disable_jit():
                results.append(everything(jnp.where(jnp.isnan(x), -1.0, x), y))
        for result in results:
            assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(result))

    @every_option
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_nothing_finite_is_reported_in_sixteen_bits(self, dtype: str, log_target: bool, convention: Any) -> None:
        x, y = (jnp.asarray(a) for a in arrays(convention, log_target, 20, dtype))
        x = jnp.where(jnp.isnan(x), -1.0, x)  # the cast to float32 reports the NaN of an input
        everything = self.everything(KLDivLoss("batchmean", log_target, convention=convention))
        with jax.debug_nans(True):
            results = [everything(x, y), jax.jit(everything)(x, y)]
        for result in results:
            assert not any(jnp.isnan(a).any() for a in jax.tree.leaves(result))

    @every_option
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_checkify_finds_nothing(self, reduction: Any, log_target: bool, convention: Any) -> None:
        x, y = (jnp.asarray(a) for a in arrays(convention, log_target, 20))
        everything = self.everything(KLDivLoss(reduction, log_target, convention=convention))
        checked = checkify.checkify(everything, checkify.float_checks)
        # Without jit it checks the same operations, and takes seconds to go through them.
        runs: list[Any] = [jax.jit(checked), checked] if reduction == "mean" else [jax.jit(checked)]
        for run in runs:
            error, result = run(x, y)
            error.throw()
            assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(result))

    def test_a_step_of_training_is_not_reported(self) -> None:
        logits, one_hot = jnp.asarray([[0.5, 1.5, -jnp.inf], [1.0, 1.0, -1.0]]), jnp.eye(3)[:2]
        with jax.debug_nans(True):
            by_logits = jax.grad(lambda z: kl_div(jax.nn.log_softmax(z), one_hot, "batchmean"))(logits)
        np.testing.assert_allclose(by_logits, (jax.nn.softmax(logits) - one_hot) / 2, rtol=1e-6)

    @every_option
    def test_what_is_nan_is_reported(self, log_target: bool, convention: Any) -> None:
        def loss(x: Any, y: Any) -> Any:
            return kl_div(x, y, "sum", log_target, convention=convention)

        wrong = [*BAD[log_target], *([] if log_target or convention == "oneflow" else [(-1.0, -0.5)])]
        for pair in wrong:
            x, y = (jnp.asarray([a, -1.0]) for a in pair)
            for f in (loss, jax.jit(loss), jax.grad(loss, 1)):
                with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
                    f(x, y)
            error, _ = checkify.checkify(loss, checkify.float_checks)(x, y)
            assert "nan generated" in str(error.get())

    def test_the_fault_of_another_is_found_where_it_is(self) -> None:
        one_hot = jnp.eye(3)

        def step(z: Any) -> Any:
            loss = kl_div(jax.nn.log_softmax(z), one_hot, "batchmean")
            return loss + jnp.sqrt(-1.0 - jnp.sum(z**2))

        for f in (step, jax.jit(step), jax.jit(jax.value_and_grad(step))):
            with jax.debug_nans(True), pytest.raises(FloatingPointError) as caught:
                f(one_hot)
            frames = traceback.extract_tb(caught.value.__traceback__)
            last = [frame.line for frame in frames if not frame.filename.startswith(str(Path(jax.__file__).parent))][-1]
            assert "jnp.sqrt" in (last or "")
            error, _ = checkify.checkify(f, checkify.float_checks)(one_hot)
            assert "nan generated by primitive: sqrt" in str(error.get())


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)  # PyTorch's own, in forward mode
@pytest.mark.parametrize("size", [64, 5000, 200_000])
class TestTorch:
    """Sizes on either side of where another way is taken."""

    @every_option
    def test_nothing_finite_is_reported(self, size: int, log_target: bool, convention: Any) -> None:
        given = [torch.tensor(a) for a in arrays(convention, log_target, size)]
        for reduction, wanted in itertools.product(REDUCTIONS, [(True, False), (True, True)]):

            def loss(x: Any, y: Any, reduction: Any = reduction) -> Any:
                return kl_div(x, y, reduction, log_target, convention=convention)

            tensors = [a.clone().requires_grad_(needed) for a, needed in zip(given, wanted, strict=True)]
            leaves = [a for a in tensors if a.requires_grad]
            with torch.autograd.detect_anomaly():
                loss(*tensors).sum().backward()
                value = loss(*tensors)
                weight = torch.ones_like(value, requires_grad=True)
                once = torch.autograd.grad(value, leaves, weight, create_graph=True)
                summed: Any = sum(gradient.sum() for gradient in once)
                twice = torch.autograd.grad(summed, (*leaves, weight), allow_unused=True, materialize_grads=True)
                mapped = torch.func.grad(lambda *a: loss(*a).sum(), (0, 1))(*given)
            assert all(torch.isfinite(a).all() for a in (*[a.grad for a in leaves], *once, *twice, *mapped))

    @every_option
    def test_what_is_nan_is_reported(self, size: int, log_target: bool, convention: Any) -> None:
        x = torch.full((size,), -1.0, requires_grad=True)
        y = torch.full((size,), -0.5 if log_target else 0.5)
        y[0] = torch.nan
        with torch.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="returned nan values"):
            torch.autograd.backward(kl_div(x, y, "mean", log_target, convention=convention))


class TestNumpy:
    """The loss computes in an error state of its own, because NumPy's cannot tell a NaN that is meant from another."""

    @staticmethod
    def everything(x: Any, y: Any, ones: Any, log_target: bool, convention: Any) -> list[Any]:
        results = []
        for reduction in REDUCTIONS:
            results.append(kl_div(x, y, reduction, log_target, convention=convention))
            cotangent = ones if reduction == "none" else None
            loss, gradients = kl_div_value_and_grad(
                x, y, reduction, log_target, convention=convention, argnums=(0, 1), cotangent=cotangent
            )
            results += [loss, *gradients]
        return results

    @every_option
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("size", [64, 5000, 200_000])
    def test_a_caller_who_wants_errors_gets_none(
        self, size: int, dtype: str, log_target: bool, convention: Any
    ) -> None:
        x, y = arrays(convention, log_target, size, dtype)
        y[0] = np.log(np.finfo(dtype).tiny) - 1.0 if log_target else np.finfo(dtype).smallest_subnormal  # underflows
        given = (x, y, np.ones_like(x), log_target, convention)
        with np.errstate(all="raise"):
            results = self.everything(*given)
        assert all(np.isfinite(a).all() for a in results)

        def wanting_errors() -> list[Any]:
            with np.errstate(all="raise"):
                return self.everything(*given)

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(wanting_errors) for _ in range(2)]:
                for one, other in zip(future.result(), results, strict=True):
                    np.testing.assert_array_equal(one, other)

    @every_option
    @pytest.mark.parametrize("make", [array_api_strict.asarray, sparse.asarray], ids=["array_api_strict", "sparse"])
    def test_so_do_libraries_that_compute_with_numpy(self, make: Any, log_target: bool, convention: Any) -> None:
        x, y = arrays(convention, log_target, 64)
        y[0] = -88.0 if log_target else 1e-45
        with np.errstate(all="raise"):
            self.everything(make(x), make(y), make(np.ones_like(x)), log_target, convention)

    @every_option
    @pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
    def test_dask_meets_no_nan(self, scheduler: str, log_target: bool, convention: Any) -> None:
        # It computes when the loss has returned, in the error state of whoever computes. Underflow is no fault.
        x, y = arrays(convention, log_target, 64)
        chunked: Any = da.from_array
        given = [chunked(a, chunks=32) for a in (x, y, np.ones_like(x))]
        results = self.everything(given[0], given[1], given[2], log_target, convention)
        with np.errstate(all="raise", under="ignore"):
            assert all(np.isfinite(a.compute(scheduler=scheduler)).all() for a in results)
