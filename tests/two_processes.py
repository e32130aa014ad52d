"""What two processes check together: DTensor, DDP and FSDP2, held against the same in one process.

``tests/test_torch_distributed.py`` starts the two.
"""

import itertools
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad
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


def spread(x: torch.Tensor, placement: Any) -> DTensor:
    return distribute_tensor(x, init_device_mesh("cpu", (2,)), [placement])


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
    mesh = init_device_mesh("cpu", (2,))
    for log_target in (False, True):
        x, y = tensors((6, 8), log_target)
        a, b = (DTensor.from_local(whole / 2, mesh, [Partial()]) for whole in (x, y))  # to halve and add is exact
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
        loss = KLDivModule(reduction)
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
        mesh = init_device_mesh("cpu", (2,))
        for layer in whole.modules():
            if isinstance(layer, torch.nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(whole, mesh=mesh)
        return whole

    agrees_with_one_process(sharded)


@check
def a_compiled_loss_takes_dtensors() -> None:
    x, y = tensors((6, 8))
    loss = KLDivModule("batchmean")
    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager")
    value, *gradients = loss_and_gradients(compiled, spread(x, Shard(0)), spread(y, Shard(0)))
    check_value(value.full_tensor(), KLDivLoss("batchmean"), x, y)
    expected = loss_and_gradients(loss, x, y)
    for argnum, (gradient, of_one_process) in enumerate(zip(gradients, expected[1:], strict=True)):
        exact.gradients_agree(gradient.full_tensor(), of_one_process, x, y, argnum, loss.log_target, dtype_name(x))
