"""What holds for ordinary arrays, whose loss is not evaluated by the plain formulas as they stand."""

import os
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock, patch

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
from kldiv_xp.backends import find, numpy
from kldiv_xp.backends._standard import Backend
from kldiv_xp.backends.torch import Torch
from tests import exact
from tests.backends import REDUCTIONS

if TYPE_CHECKING:
    from kldiv_xp.backends._blocks import InBlocks

NUMPY, TORCH = (cast("InBlocks", find(x, x)) for x in (np.ones(1), torch.ones(1)))
LIBRARIES = (NUMPY, TORCH)
every_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: type(library).__name__)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
MIB = 2**20
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in LIBRARIES:
        monkeypatch.setattr(type(library), "few", 4)
        monkeypatch.setattr(type(library), "block_size", lambda _: 4)


def arrays(library: Any, *shape: int, dtype: str = "float32") -> tuple[Any, Any]:
    """Log-probabilities, and probabilities of which some are zero."""
    rng = np.random.default_rng(11)
    y = np.exp(rng.normal(-1.0, 1.0, shape)) * (rng.random(shape) < 0.8)
    pair = rng.normal(-1.0, 1.0, shape).astype(dtype), y.astype(dtype)
    return pair if library is NUMPY else tuple(map(torch.from_numpy, pair))  # type: ignore[return-value]


def check(value: Any, reduction: Any, x: Any, y: Any, dtype: str = "float32") -> None:
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    within = exact.total(exact.tolerances(x, y, np, dtype), x.shape, reduction)
    exact.assert_within(value, exact.reduced(exact.losses(x, y), x.shape, reduction), within, dtype)


class TestBlocks:
    @given(
        shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
        block_size=st.integers(1, 20),
        data=st.data(),
    )
    def test_they_hold_every_element_once_and_none_is_too_large(
        self, shape: list[int], block_size: int, data: st.DataObject
    ) -> None:
        axes = data.draw(st.permutations(range(len(shape))))
        steps = data.draw(st.lists(st.sampled_from([1, 2, -1]), min_size=len(shape), max_size=len(shape)))
        numbers = np.arange(prod(shape)).reshape(shape).transpose(axes)[tuple(slice(None, None, k) for k in steps)]
        for library in LIBRARIES:
            if library is TORCH and -1 in steps:  # PyTorch has no negative strides
                continue
            whole = (
                numbers
                if library is NUMPY
                else torch.arange(prod(shape)).reshape(shape).permute(*axes)[tuple(slice(None, None, k) for k in steps)]
            )
            with patch.object(type(library), "block_size", lambda _: block_size):
                blocks = [np.asarray(block) for (block,) in library.blocks(whole)]
            assert all(block.size <= block_size for block in blocks)
            assert sorted(np.concatenate([block.ravel() for block in blocks])) == sorted(np.ravel(numbers))

    @every_library
    @pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
    def test_they_are_taken_in_the_order_in_which_the_elements_lie_in_memory(self, library: Any, axes: Any) -> None:
        whole = np.arange(60).reshape(3, 4, 5).transpose(axes)
        with patch.object(type(library), "block_size", lambda _: 5):
            view = whole if library is NUMPY else torch.arange(60).reshape(3, 4, 5).permute(*axes)
            firsts = [int(np.asarray(block).min()) for (block,) in library.blocks(view)]
        assert firsts == sorted(firsts)

    @every_library
    @every_reduction
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("layout", ["C", "F", "strided", "broadcast"])
    @pytest.mark.usefixtures("small_blocks")
    def test_layouts_and_dtypes_make_no_difference(self, library: Any, reduction: Any, dtype: str, layout: str) -> None:
        x, y = arrays(library, 6, 10, dtype=dtype)
        if layout == "F":
            y = y.T.copy().T if library is NUMPY else y.T.contiguous().T
        elif layout == "strided":
            x, y = x[::2, 1::3], y[::2, 1::3]
        elif layout == "broadcast":
            x = np.broadcast_to(x[:1], x.shape) if library is NUMPY else x[:1].expand(x.shape)
        check(kl_div(x, y, reduction), reduction, x, y, dtype)

    # PyTorch 2.12's profiler warns before its first cycle.
    @pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")
    @every_library
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_memory_beside_the_arrays_does_not_grow_with_them(self, library: Any, dtype: str) -> None:
        x, y = (a.T for a in arrays(library, 2000, 2000))
        if dtype == "bfloat16":
            x, y = (a.astype(ml_dtypes.bfloat16) if library is NUMPY else a.bfloat16() for a in (x, y))
        kl_div(x, y, "sum")
        if library is NUMPY:
            tracemalloc.start()
            kl_div(x, y, "batchmean")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 8 * MIB
        else:
            with torch.profiler.profile(profile_memory=True) as profile:
                kl_div(x, y, "batchmean")
            largest = max(event.self_cpu_memory_usage for event in profile.events())
            assert 0 < largest < 2 * MIB

    @pytest.mark.parametrize("rows", [3, 3000])
    def test_a_target_of_huge_numbers_has_the_loss_of_the_formula(self, rows: int) -> None:
        x, y = np.full((rows, 100), -3.0, np.float32), np.full((rows, 100), 3e38, np.float32)
        x[0, 0] = np.inf
        assert kl_div(x, y, "sum") == -np.inf

    def test_the_loss_of_a_memory_map_is_none(self, tmp_path: Path) -> None:
        x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(300, 300))
        y = np.memmap(tmp_path / "y", np.float32, "w+", shape=(300, 300))
        loss, gradient = kl_div_value_and_grad(x, y, "none", cotangent=np.ones((300, 300)))
        assert type(loss) is type(gradient) is np.ndarray

    @every_library
    def test_what_overflows_on_the_way_in_float32_does_not(self, library: Any) -> None:
        x, y = arrays(library, 100, 100)
        x = x * 0 - 1e36
        y = y * 0 + 1.0
        assert kl_div(x, y, "sum") == np.float32(np.inf)
        np.testing.assert_allclose(kl_div(x, y), 1e36, rtol=1e-6)
        if library is TORCH:
            np.testing.assert_allclose(torch.func.vmap(kl_div)(x[None], y[None]), 1e36, rtol=1e-6)


class TestThreads:
    def test_their_number_makes_no_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = arrays(NUMPY, 700, 1000)
        values = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(numpy, "threads", lambda threads=threads: threads)
            values.append(kl_div(x, y, "sum"))
        assert values[0] == values[1] == values[2]

    def test_the_caller_computes_alone_if_no_thread_can_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = arrays(NUMPY, 700, 1000)
        expected = kl_div(x, y, "sum")
        monkeypatch.setattr(numpy, "threads", lambda: 3)
        monkeypatch.setattr(ThreadPoolExecutor, "submit", Mock(side_effect=RuntimeError("can't start new thread")))
        assert kl_div(x, y, "sum") == expected

    @pytest.mark.parametrize("before", [False, True], ids=["imported late", "imported before"])
    def test_there_is_a_loss_while_the_interpreter_ends(self, before: bool) -> None:
        program = """if True:
            import atexit
            import numpy as np
            from kldiv_xp import kl_div
            from kldiv_xp.backends import numpy
            numpy.threads = lambda: 3
            x, y = np.full((2, 700, 1000), 0.5, np.float32)
            def at_exit():
                print(kl_div(x, y, "mean"))
        """
        calls = "at_exit()\n" * before + "atexit.register(at_exit)"
        done = subprocess.run(
            [sys.executable, "-c", f"{program}\n{calls}"], capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stderr == ""
        expected = np.float32(0.5 * (np.log(0.5) - 0.5))
        assert [float(line) for line in done.stdout.split()] == pytest.approx([expected] * (1 + before), rel=1e-6)

    @pytest.mark.parametrize(
        "prevent",
        [
            {"threading.Thread.start": RuntimeError("can't start new thread")},
            {"concurrent.futures.ThreadPoolExecutor.submit": RuntimeError("cannot schedule new futures")},
            {"concurrent.futures.ThreadPoolExecutor": ImportError("no threads")},
        ],
        ids=lambda prevent: next(iter(prevent)),
    )
    @pytest.mark.parametrize("error", [RuntimeError, ImportError, MemoryError])
    def test_an_error_is_raised_where_there_are_none_to_have(
        self, error: type[Exception], prevent: dict[str, Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(numpy, "threads", lambda: 3)
        for name, reason in prevent.items():
            monkeypatch.setattr(name, Mock(side_effect=reason))
        assert NUMPY.each(lambda number: number, [(i,) for i in range(10)]) == list(range(10))
        with pytest.raises(error, match="in the computation"):
            NUMPY.each(Mock(side_effect=error("in the computation")), [(i,) for i in range(10)])

    def test_none_is_left_behind(self) -> None:
        before = threading.active_count()
        kl_div(*arrays(NUMPY, 700, 1000))
        assert threading.active_count() == before

    @pytest.mark.parametrize("in_main_thread", [True, False])
    def test_an_error_in_one_reaches_the_caller(self, in_main_thread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(numpy, "threads", lambda: 2)
        met = threading.Barrier(2, timeout=60)

        def fail(number: int) -> int:
            if number < 2:
                met.wait()  # so that there is one in each thread
                if (threading.current_thread() is threading.main_thread()) == in_main_thread:
                    raise MemoryError
            return number

        with pytest.raises(MemoryError):
            NUMPY.each(fail, [(i,) for i in range(100)])

    @pytest.mark.parametrize(("told", "expected"), [("1", 1), ("2", 2), ("100", 4), ("", 4), ("many", 4), ("0", 4)])
    def test_they_are_as_many_as_numerical_libraries_are_told_to_take(
        self, told: str, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
        assert numpy.threads() == expected

    def test_they_are_no_more_than_the_processors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 2)
        assert numpy.threads() == 2

    def test_the_caller_hears_of_no_warning(self) -> None:
        x, y = arrays(NUMPY, 700, 1000)
        with np.errstate(all="raise"):
            for rows in (1, 700):
                kl_div(x[:rows], y[:rows] * 0, "none")
                kl_div(x[:rows], y[:rows] * 0)


class TestTorch:
    @pytest.mark.parametrize("by_target", [False, True])
    @pytest.mark.parametrize("log_target", [False, True])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @every_reduction
    def test_backward_keeps_no_more_than_the_arguments_that_it_needs(
        self, reduction: Any, dtype: torch.dtype, log_target: bool, by_target: bool
    ) -> None:
        x, y = (a.to(dtype) for a in arrays(TORCH, 100, 100))
        y = (y + 0.1).log() if log_target else y
        kept = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.data_ptr())
            return tensor

        x.requires_grad_()
        y.requires_grad_(by_target)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = kl_div(x, y, reduction, log_target)
        assert kept == ([x.data_ptr(), y.data_ptr()] if by_target else [y.data_ptr()])
        loss.sum().backward()
        assert x.grad is not None

    @pytest.mark.parametrize("size", [4, 100], ids=["few", "many"])
    @pytest.mark.parametrize("path", ["ordinary", "plain"])
    @pytest.mark.parametrize("dtypes", list(permutations(DTYPES, 2)), ids=str)
    def test_a_gradient_by_the_input_is_computed_in_the_promoted_dtype(
        self, dtypes: tuple[torch.dtype, torch.dtype], path: str, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, y = (a.to(dtype) for a, dtype in zip(arrays(TORCH, size, size + 1), dtypes, strict=True))
        wanted: Any
        _, wanted = kl_div_value_and_grad(x, y)
        assert wanted.dtype is x.dtype
        if path == "plain":
            monkeypatch.setattr(Torch, "is_ordinary", lambda *_: False)
        kl_div(x.requires_grad_(), y).backward()
        assert x.grad is not None
        assert torch.equal(x.grad, wanted)

    def test_a_float16_gradient_is_the_same_if_it_is_to_be_differentiated(self) -> None:
        x = torch.full((3000, 1000), -1.0, dtype=torch.float16, requires_grad=True)
        y = torch.full((3000, 1000), 900.0, dtype=torch.float16)
        once, twice = (torch.autograd.grad(kl_div(x, y), x, create_graph=create)[0] for create in (False, True))
        assert torch.equal(once, twice)

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    @pytest.mark.parametrize("size", [4, 100], ids=["few", "many"])
    def test_forward_mode_sees_the_tangent_of_the_cotangent(self, size: int) -> None:
        x, y = arrays(TORCH, size, size)
        loss = kl_div(x.requires_grad_(), y, "sum")
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(torch.tensor(1.0), torch.tensor(2.0))  # type: ignore[no-untyped-call]
            (gradient,) = torch.autograd.grad(loss, x, dual)
            tangent = torch.autograd.forward_ad.unpack_dual(gradient).tangent  # type: ignore[no-untyped-call]
        torch.testing.assert_close(tangent, -2 * y)

    @pytest.mark.parametrize("size", [4, 100], ids=["few", "many"])
    @every_reduction
    def test_gradients_are_those_of_the_closed_form(self, size: int, reduction: Any) -> None:
        x, y = arrays(TORCH, size, size)
        cotangent = torch.rand(size, size) if reduction == "none" else torch.tensor(3.0)
        _, wanted = kl_div_value_and_grad(x, y, reduction, argnums=(0, 1), cotangent=cotangent)
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        kl_div(a, b, reduction).backward(cotangent)
        for argnum, (leaf, gradient) in enumerate(zip((a, b), wanted, strict=True)):
            exact.gradients_agree(leaf.grad, gradient, x, y, argnum, False, "float32")
        alone = x.clone().requires_grad_()
        kl_div(alone, y, reduction).backward(cotangent)
        exact.gradients_agree(alone.grad, wanted[0], x, y, 0, False, "float32")

    @pytest.mark.parametrize("size", [4, 100], ids=["few", "many"])
    def test_gradients_can_be_computed_for_many_cotangents_at_once(self, size: int) -> None:
        for reduction, shape in (("sum", (3,)), ("none", (3, size, size))):
            x, y = (a.requires_grad_() for a in arrays(TORCH, size, size))
            cotangents = torch.rand(shape)
            loss = kl_div(x, y, reduction)  # type: ignore[arg-type]
            together = torch.autograd.grad(loss, (x, y), cotangents, is_grads_batched=True, retain_graph=True)
            for i, cotangent in enumerate(cotangents):
                for one, all_of_them in zip(
                    torch.autograd.grad(loss, (x, y), cotangent, retain_graph=True), together, strict=True
                ):
                    torch.testing.assert_close(all_of_them[i], one)

    # PyTorch's own forward mode, and the tracer that it advises against.
    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    @pytest.mark.parametrize("size", [4, 100], ids=["few", "many"])
    def test_forward_mode_sees_the_tangents(self, size: int) -> None:
        x, y = arrays(TORCH, size, size)
        _, gradients = kl_div_value_and_grad(x, y, "sum", argnums=(0, 1))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))  # type: ignore[no-untyped-call]
            loss = kl_div(dual, y, "sum")
            tangent = torch.autograd.forward_ad.unpack_dual(loss).tangent  # type: ignore[no-untyped-call]
        torch.testing.assert_close(tangent, gradients[0].sum())

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the shapes, which it takes for constants
    @pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:`torch.jit.trace_method` is deprecated:DeprecationWarning")
    @pytest.mark.parametrize("by", ["make_fx", "jit.trace"])
    def test_what_is_traced_is_the_whole_loss(self, by: str) -> None:
        def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return kl_div(a, b)

        x, y = arrays(TORCH, 5, 7)
        other = x - 1, torch.where(y == 0, 0.5, 0.0)
        traced: Any = make_fx(loss)(x, y) if by == "make_fx" else torch.jit.trace(loss, (x, y))  # type: ignore[no-untyped-call]
        torch.testing.assert_close(traced(*other), kl_div(*other))

    def test_a_default_device_is_not_that_of_the_loss(self) -> None:
        x, y = arrays(TORCH, 100, 100)
        with torch.device("meta"):
            losses = [kl_div(x, y), kl_div(x[:3], y[:3]), kl_div(x, y, "none")]
        assert {loss.device.type for loss in losses} == {"cpu"}

    @pytest.mark.parametrize("by_input", [False, True])
    @pytest.mark.parametrize("by_target", [False, True])
    @every_reduction
    def test_other_devices_take_the_plain_formulas(self, reduction: Any, by_target: bool, by_input: bool) -> None:
        x, y = (torch.empty(100, 100, dtype=torch.bfloat16, device="meta") for _ in range(2))
        kept = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.dtype)
            return tensor

        x.requires_grad_(by_input)
        y.requires_grad_(by_target)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = kl_div(x, y, reduction)
        assert (loss.device.type, loss.dtype) == ("meta", torch.bfloat16)
        # What the derivative needs of the arguments, not what they are computed in.
        assert kept == [torch.bfloat16] * (2 if by_target else int(by_input))
        if kept:
            loss.sum().backward()  # type: ignore[no-untyped-call]
        for tensor in (x, y):
            assert (tensor.grad is not None) is tensor.requires_grad
            if tensor.grad is not None:
                assert (tensor.grad.shape, tensor.grad.dtype) == (tensor.shape, tensor.dtype)

    @pytest.mark.parametrize("size", [1, 100], ids=["few", "many"])
    @pytest.mark.parametrize("log_target", [False, True])
    def test_an_infinite_loss_is_infinite(self, log_target: bool, size: int) -> None:
        x, y = torch.full((size, size), -1.0), torch.full((size, size), -2.0 if log_target else 0.5)
        x[0, 0] = -torch.inf
        assert kl_div(x, y, "sum", log_target) == torch.inf

    @pytest.mark.parametrize("size", [2, 100], ids=["few", "many"])
    def test_a_target_that_counts_as_zero_has_no_gradient_even_if_it_is_infinite(self, size: int) -> None:
        x, y = torch.full((size, size), -1.0, requires_grad=True), torch.full((size, size), 0.5)
        y[0, 0] = -torch.inf
        (gradient,) = torch.autograd.grad(kl_div(x, y, "sum"), x)
        assert torch.equal(gradient, -y.clamp(min=0.0))

    def test_parameters_are_taken_for_the_tensors_that_they_are(self) -> None:
        x, y = arrays(TORCH, 3, 4)
        weights = torch.nn.Parameter(x)
        kl_div(weights, y, "sum").backward()
        assert weights.grad is not None
        torch.testing.assert_close(weights.grad, -y)


class TestJax:
    def test_a_shape_seen_before_is_not_traced_again(self) -> None:
        x, y = (jnp.asarray(a) for a in arrays(NUMPY, 3, 17))
        backend = find(x, x)
        seen = Mock(side_effect=backend.plain_loss)
        with patch.object(backend, "plain_loss", seen):
            jax.clear_caches()  # type: ignore[no-untyped-call]
            for _ in range(3):
                kl_div(x, y)
            assert seen.call_count == 1
            kl_div(x[:2], y[:2])
            assert seen.call_count == 2

    def test_there_is_one_dispatch(self) -> None:
        x, y = (jnp.asarray(a) for a in arrays(NUMPY, 3, 4))
        kl_div(x, y)
        with patch.object(Backend, "plain_loss", side_effect=AssertionError("operation by operation")):
            kl_div(x, y)

    def test_an_error_is_that_of_the_library_alone(self) -> None:
        with pytest.raises(ValueError, match="same shape") as caught:
            kl_div(jnp.ones((2, 3)), jnp.ones(3))
        assert not getattr(caught.value, "__notes__", [])
        assert caught.value.__cause__ is caught.value.__context__ is None

    def test_without_jit_the_operations_are_dispatched_one_by_one(self) -> None:
        x, y = (jnp.asarray(a) for a in arrays(NUMPY, 3, 4))
        with jax.disable_jit(), patch.object(jnp, "log", Mock(side_effect=jnp.log)) as log:
            kl_div(x, y)
        (call,) = log.call_args_list
        assert not isinstance(call.args[0], jax.core.Tracer)

    def test_a_traced_loss_holds_no_other_compiled_function(self) -> None:
        x, y = (jnp.asarray(a) for a in arrays(NUMPY, 3, 4))
        jaxpr = str(jax.make_jaxpr(KLDivLoss("batchmean"))(x, y))
        assert "plain_loss" not in jaxpr
        assert "name=<lambda>" not in jaxpr
