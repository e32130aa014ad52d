"""What two processes check together: DTensor, DDP and FSDP2, held against the same in one process.

``tests/test_torch_distributed.py`` starts the two.
"""

import itertools
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

from kldiv_xp import (
    KLDivLoss,
    js_div_with_logits,
    js_div_with_logits_value_and_grad,
    kl_div,
    kl_div_value_and_grad,
    kl_div_with_logits,
)
from kldiv_xp.torch import JSDivWithLogitsLoss, KLDivWithLogitsLoss
from kldiv_xp.torch import KLDivLoss as KLDivModule
from tests import exact
from tests.backends import CONVENTIONS, REDUCTIONS, dtype_name, numbers

HALF_THE_DIGITS = torch.finfo(torch.float64).eps ** 0.5
PATIENCE = timedelta(seconds=60)
SHAPES = ((6, 8), (5, 3))  # of the second, the processes hold parts of two sizes
EVERY_LOSS = [KLDivLoss(r, t, convention=c) for r, t, c in itertools.product(REDUCTIONS, [False, True], CONVENTIONS)]

CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Add a check, in the order in which both processes make them."""
    CHECKS[function.__name__] = function
    return function


def run(rank: int, store: str, results: Any) -> None:
    """Make every check as one of two processes, and say what went wrong in each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=PATIENCE)
    for name, function in CHECKS.items():
        try:
            function()
            failure = ""
        except Exception:
            failure = traceback.format_exc()
        results.put((name, rank, failure))
    dist.destroy_process_group()


def tensors(shape: tuple[int, ...], log_target: bool = False, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in both processes: inputs, and targets with zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, *shape, generator=generator).sub(1).unbind()
    return x, y if log_target else torch.where(y < -2, 0, y.exp())


@cache
def mesh() -> DeviceMesh:
    """The two processes: one mesh, because PyTorch 2.13 compiles nothing for a second one that is equal to it."""
    return init_device_mesh("cpu", (2,))


def spread(x: torch.Tensor, placement: Any) -> DTensor:
    return distribute_tensor(x, mesh(), [placement])


def loss_and_gradients(loss: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[Any, Any, Any]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = loss(x, y)
    value.sum().backward()
    return value.detach(), x.grad, y.grad


def check_value(value: torch.Tensor, loss: KLDivLoss, x: torch.Tensor, y: torch.Tensor) -> None:
    a, b = numbers(x), numbers(y)
    exactly = exact.losses(a, b, log_target=loss.log_target, convention=loss.convention)
    within = exact.tolerances(a, b, torch, "float32", log_target=loss.log_target)
    exact.assert_within(
        value, exact.reduced(exactly, a.shape, loss.reduction), exact.total(within, a.shape, loss.reduction), "float32"
    )


def refused(call: Callable[[], Any], kind: type[Exception], *words: str) -> None:
    try:
        call()
    except kind as error:
        assert all(word in str(error) for word in words), error  # noqa: PT017 -- there is no pytest in this process
    else:
        raise AssertionError("it was taken")


def equal_elements_or_sums(placement: Any) -> None:
    for loss, shape in itertools.product(EVERY_LOSS, SHAPES):
        x, y = tensors(shape, loss.log_target)
        expected = loss_and_gradients(loss, x, y)
        value, *gradients = loss_and_gradients(loss, spread(x, placement), spread(y, placement))
        if loss.reduction == "none":
            assert value.placements == (placement,)
            assert torch.equal(value.full_tensor(), expected[0])
        else:
            check_value(value.full_tensor(), loss, x, y)
        for argnum, (gradient, of_one_process) in enumerate(zip(gradients, expected[1:], strict=True)):
            assert gradient.placements == (placement,)
            # One process computes the closed form, of which that by the input is what autograd comes to.
            if argnum == 0:
                assert torch.equal(gradient.full_tensor(), of_one_process)
            exact.gradients_agree(gradient.full_tensor(), of_one_process, x, y, argnum, loss.log_target, dtype_name(x))


@check
def dtensors_spread_over_the_batch_agree_to_the_bit() -> None:
    equal_elements_or_sums(Shard(0))


@check
def dtensors_spread_over_the_classes_agree_to_the_bit() -> None:
    equal_elements_or_sums(Shard(1))


@check
def the_closed_form_keeps_the_placement() -> None:
    x, y = tensors((6, 8))
    expected: Any
    gradients: Any
    for placement, reduction in itertools.product((Shard(0), Shard(1)), REDUCTIONS):
        ones = torch.ones_like(x) if reduction == "none" else None
        _, expected = kl_div_value_and_grad(x, y, reduction, argnums=(0, 1), cotangent=ones)
        parts = spread(x, placement), spread(y, placement)
        ones_in_parts: Any = None if ones is None else spread(ones, placement)
        _, gradients = kl_div_value_and_grad(*parts, reduction, argnums=(0, 1), cotangent=ones_in_parts)
        for gradient, of_one_process in zip(gradients, expected, strict=True):
            assert gradient.placements == (placement,)
            assert torch.equal(gradient.full_tensor(), of_one_process)


def logits(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in both processes, with classes that are impossible: for the first row, all those of one process."""
    x, y = (3 * each.double() for each in tensors(shape, log_target=True))
    x[0, : -(-shape[1] // 2)] = y[0, : -(-shape[1] // 2)] = -torch.inf
    y[1, -1] = -torch.inf
    return x, y


def divergence(beta: float, reduction: Any, where: torch.Tensor | None) -> Callable[..., Any]:
    def loss(x: torch.Tensor, y: torch.Tensor) -> Any:
        options: Any = {"temperature": 1.5, "where": where}
        if beta == 0.0:
            return kl_div_with_logits(x, y, reduction, **options)
        return js_div_with_logits(x, y, beta, reduction, **options)

    return loss


def equal_divergences(placement: Any) -> None:
    for shape, beta, reduction in itertools.product(SHAPES, (0.0, 0.3, 1.0), REDUCTIONS):
        x, y = logits(shape)
        if beta == 1.0:
            x, y = y, x
        parts = [spread(each, placement) for each in (x, y)]
        mask = torch.arange(shape[0]) % 3 > 0
        for where in (None, spread(mask, Replicate()), spread(mask, Shard(0))):
            of_one = loss_and_gradients(divergence(beta, reduction, None if where is None else mask), x, y)
            value, *gradients = loss_and_gradients(divergence(beta, reduction, where), *parts)
            assert all(gradient.placements == parts[0].placements for gradient in gradients)
            for got, wanted in zip((value, *gradients), of_one, strict=True):
                torch.testing.assert_close(got.full_tensor(), wanted, rtol=1e-11, atol=1e-13)


@check
def divergences_from_logits_spread_over_the_batch_are_those_of_one_process() -> None:
    equal_divergences(Shard(0))


@check
def divergences_from_logits_spread_over_the_classes_are_those_of_one_process() -> None:
    equal_divergences(Shard(-1))


class Crossings(CommDebugMode):  # type: ignore[no-untyped-call]
    """Kinds and sizes of what goes from process to process."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.get_total_counts()
        result = super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        if self.get_total_counts() > before:
            self.sizes.append(max(each.numel() for each in (args[0], result)))
        return result

    def expect(self, most: int, *kinds: str) -> None:
        """Fail if there are collectives of other kinds, or of more numbers."""
        found = {str(kind).rpartition(".")[2] for kind in self.get_comm_counts()}
        assert found <= set(kinds), self.get_comm_counts()
        assert max(self.sizes, default=0) <= most, self.sizes


def crossings(loss: Callable[..., Any], *arguments: torch.Tensor) -> tuple[Crossings, Crossings]:
    """What crosses in the forward and in the backward pass, to the gradients by all arguments."""
    leaves = [argument.detach().requires_grad_() for argument in arguments]
    with Crossings() as forward:
        total = loss(*leaves).sum()
    with Crossings() as backward:
        total.backward()
    return forward, backward


@check
def of_divergences_spread_over_the_batch_nothing_crosses() -> None:
    x, y = (spread(each, Shard(0)) for each in logits((6, 64)))
    mask = spread(torch.arange(6) % 3 > 0, Shard(0))
    for beta, reduction, where in itertools.product((0.0, 0.3, 1.0), REDUCTIONS, (None, mask)):
        for crossing in crossings(divergence(beta, reduction, where), x, y):
            # The number of rows that count, and the sum that it divides; other losses are sums not yet added up.
            crossing.expect(1, *(["all_reduce"] if reduction == "mean" and where is not None else []))


@check
def of_divergences_spread_over_the_classes_only_sums_and_maxima_of_rows_cross() -> None:
    x, y = (spread(each, Shard(-1)) for each in logits((6, 64)))
    mask = torch.arange(6) % 3 > 0
    masks = {None: None, "whole": spread(mask, Replicate()), "in parts": spread(mask, Shard(0))}
    for beta, reduction, (kind, where) in itertools.product((0.0, 0.3, 1.0), REDUCTIONS, masks.items()):
        for crossing in crossings(divergence(beta, reduction, where), x, y):
            crossing.expect(6, "all_reduce", *(["all_gather_into_tensor"] if kind == "in parts" else []))
            assert crossing.sizes
    with Crossings() as gathered:
        x.full_tensor()
    assert max(gathered.sizes) == 6 * 64  # it would have been seen


@check
def the_closed_form_of_divergences_keeps_the_placement_and_gathers_nothing() -> None:
    x, y = logits((6, 64))
    result: Any
    for placement, beta, reduction in itertools.product((Shard(0), Shard(-1)), (0.0, 0.3, 1.0), REDUCTIONS):
        ones = torch.ones(6, dtype=x.dtype) if reduction == "none" else None
        options: Any = {"temperature": 1.5, "argnums": (0, 1)}
        a, b = (x, y) if beta < 1.0 else (y, x)
        expected, of_one = js_div_with_logits_value_and_grad(a, b, beta, reduction, cotangent=ones, **options)
        parts = spread(a, placement), spread(b, placement)
        ones_in_parts: Any = None if ones is None else spread(ones, Replicate())
        with Crossings() as crossing:
            result = js_div_with_logits_value_and_grad(*parts, beta, reduction, cotangent=ones_in_parts, **options)
        crossing.expect(6, *(["all_reduce"] if placement == Shard(-1) else []))
        value, gradients = result
        assert all(gradient.placements == parts[0].placements for gradient in gradients)
        for got, wanted in zip((value, *gradients), (expected, *of_one), strict=True):
            torch.testing.assert_close(got.full_tensor(), wanted, rtol=1e-11, atol=1e-13)


@check
def a_divergence_of_sixteen_bits_is_rounded_once() -> None:
    for dtype, placement, reduction in itertools.product(
        (torch.float16, torch.bfloat16), (Shard(0), Shard(-1)), REDUCTIONS
    ):
        x, y = (each.to(dtype) for each in tensors((6, 64), log_target=True))
        value: Any = kl_div_with_logits(spread(x, placement), spread(y, placement), reduction)
        assert value.dtype == dtype
        wide = kl_div_with_logits(x.double(), y.double(), reduction)
        # Half a spacing, and the roundings of float32.
        torch.testing.assert_close(
            value.full_tensor().double(), wide, rtol=0.502 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny
        )


@check
def sums_of_sixteen_bits_are_rounded_once() -> None:
    # Each half overflows float16; the whole does not.
    x = torch.tensor([[-60000.0], [-60000.0], [59000.0], [59000.0]])
    y = torch.ones_like(x)
    for dtype in (torch.float16, torch.bfloat16):
        for reduction in REDUCTIONS[1:]:
            a, b = x.to(dtype), y.to(dtype)
            value: Any = kl_div(spread(a, Shard(0)), spread(b, Shard(0)), reduction)
            assert value.dtype == dtype
            assert value.full_tensor() == kl_div(a, b, reduction)
    total: Any = kl_div(spread(x.half(), Shard(0)), spread(y.half(), Shard(0)), "sum")
    assert total.full_tensor() == 2 * (60000 - 59008)  # in float16, 59000 is 59008


@check
def tensors_spread_differently_are_taken() -> None:
    x, y = tensors((6, 8))
    expected = kl_div(x, y, "none")
    for one, other in itertools.permutations((Shard(0), Shard(1), Replicate()), 2):
        loss: Any = kl_div(spread(x, one), spread(y, other), "none")
        assert torch.equal(loss.full_tensor(), expected)


@check
def sums_that_are_not_yet_added_up_are_added_up_first() -> None:
    for log_target in (False, True):
        x, y = tensors((6, 8), log_target)
        a, b = (DTensor.from_local(whole / 2, mesh(), [Partial()]) for whole in (x, y))  # to halve and add is exact
        loss: Any = kl_div(a, b, "none", log_target)
        assert torch.equal(loss.full_tensor(), kl_div(x, y, "none", log_target))


@check
def what_does_not_fit_is_refused() -> None:
    x, y = tensors((6, 8))
    part = spread(x, Shard(0))
    two_axes = init_device_mesh("cpu", (2, 1), mesh_dim_names=("batch", "class"))
    elsewhere = distribute_tensor(y, two_axes, [Shard(0), Shard(1)])
    refused(lambda: kl_div(part, y), ValueError, "must be on one device", "DeviceMesh", "and cpu")
    refused(lambda: kl_div(x, spread(y, Shard(0))), ValueError, "must be on one device", "got cpu and DeviceMesh")
    refused(
        lambda: kl_div(part, elsewhere), ValueError, "must be on one device", "DeviceMesh((2,)", "(batch=2, class=1)"
    )
    refused(
        lambda: kl_div_value_and_grad(part, part, "none", cotangent=x), ValueError, "cotangent must be on one device"
    )
    refused(lambda: kl_div(part, spread(y[:3], Shard(0))), ValueError, "(6, 8) and (3, 8)")  # the shapes of the whole
    refused(lambda: kl_div(part, spread(y.int(), Shard(0))), TypeError, "int32")


def model(loss: torch.nn.Module | None = None) -> torch.nn.Module:
    """A student, the same in both processes; with a loss inside, it takes the targets, too."""
    torch.manual_seed(3)
    layers = torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 8), torch.nn.LogSoftmax(-1)
    student = torch.nn.Sequential(*layers).double()
    return student if loss is None else WithLoss(student, loss)


class WithLoss(torch.nn.Module):
    def __init__(self, student: torch.nn.Module, loss: torch.nn.Module) -> None:
        super().__init__()
        self.student, self.loss = student, loss

    def forward(self, features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.loss(self.student(features), target)
        return result


def steps(trained: torch.nn.Module, loss: Any, share: slice) -> list[torch.Tensor]:
    """Parameters after three steps on a share of the batch; the second time with other data."""
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    for seed in range(3):
        features = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        target = tensors((6, 8), seed=seed)[1].double()
        optimizer.zero_grad()
        loss(trained, features[share], target[share]).backward()
        optimizer.step()
    parameters = [p.detach() for p in trained.parameters()]
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in parameters]


def agrees_with_one_process(parallel: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    rank = dist.get_rank()
    half = slice(3 * rank, 3 * rank + 3)
    for reduction in ("batchmean", "mean"):
        loss = KLDivModule(reduction=reduction)
        for inside in (True, False):
            step: Any = (lambda m, a, b: m(a, b)) if inside else (lambda m, a, b, of=loss: of(m(a), b))
            expected = steps(model(loss if inside else None), step, slice(0, 6))
            got = steps(parallel(model(loss if inside else None)), step, half)
            for one, other in zip(got, expected, strict=True):
                # Half the digits of float64: rounding is far below that, and a share counted twice far above.
                torch.testing.assert_close(one, other, rtol=HALF_THE_DIGITS, atol=HALF_THE_DIGITS)
            assert not any(map(torch.equal, got, model().parameters()))


@check
def ddp_trains_as_one_process_does() -> None:
    agrees_with_one_process(DistributedDataParallel)


@check
def fsdp2_trains_as_one_process_does() -> None:
    def sharded(whole: torch.nn.Module) -> torch.nn.Module:
        for layer in whole.modules():
            if isinstance(layer, torch.nn.Linear):
                fully_shard(layer, mesh=mesh())
        fully_shard(whole, mesh=mesh())
        return whole

    agrees_with_one_process(sharded)


@check
def a_compiled_loss_takes_dtensors() -> None:
    x, y = tensors((6, 8))
    loss = KLDivModule(reduction="batchmean")
    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager")
    value, *gradients = loss_and_gradients(compiled, spread(x, Shard(0)), spread(y, Shard(0)))
    check_value(value.full_tensor(), KLDivLoss("batchmean"), x, y)
    expected = loss_and_gradients(loss, x, y)
    for argnum, (gradient, of_one_process) in enumerate(zip(gradients, expected[1:], strict=True)):
        exact.gradients_agree(gradient.full_tensor(), of_one_process, x, y, argnum, loss.log_target, dtype_name(x))


@check
def a_compiled_divergence_takes_dtensors() -> None:
    x, y = logits((6, 8))
    for loss, placement in itertools.product(
        (KLDivWithLogitsLoss("mean"), JSDivWithLogitsLoss(0.3)), (Shard(0), Shard(-1))
    ):
        compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager")
        got = loss_and_gradients(compiled, spread(x, placement), spread(y, placement))
        for one, wanted in zip(got, loss_and_gradients(loss, x, y), strict=True):
            torch.testing.assert_close(one.full_tensor(), wanted, rtol=1e-11, atol=1e-13)
