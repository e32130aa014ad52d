"""What is particular to PyTorch. Imported with the library, so it must not import torch itself."""

import math
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from kldiv_xp import _blocks
from kldiv_xp._formulas import edge_of, guarded_loss_elements, loss_elements, loss_off_edge
from kldiv_xp._options import Convention, Reduction

Array = Any
DType = Any

FEW = 2**12
"""Elements that are evaluated at once."""

# Devices that torch.is_autocast_enabled refuses. torch.amp.is_autocast_available, which says so, cannot be traced by
# torch.compile before PyTorch 2.12.
_WITHOUT_AUTOCAST = ("meta", "lazy", "vulkan")


def is_tensor(x: object) -> bool:
    # Of what torch.compile reads, nothing may ask sys.modules: it would look at all of them, and some import others
    # when they are looked at. And array_api_compat.is_torch_array is cached, which torch.compile warns of.
    if not hasattr(x, "__torch_function__"):
        return False
    import torch

    return isinstance(x, torch.Tensor)


def refuse_layout(name: str, x: Any) -> None:
    """Raise for a tensor that lacks comparisons or sizes, or whose meaning would be lost."""
    import torch

    if x.is_nested:
        raise TypeError(f"{name} is a nested tensor, whose sizes differ from row to row; pass its values() instead")
    if x.layout is not torch.strided:
        raise TypeError(f"{name} is a tensor of layout {x.layout}; call its method to_dense() first")
    if type(x).__name__ == "MaskedTensor":
        raise TypeError(f"{name} is a masked tensor; pass its get_data(), with targets of 0 for what is masked")


def namespace() -> Any:
    import array_api_compat.torch

    return array_api_compat.torch


def result_dtype(input: Any, target: Any) -> Any:
    """Promoted dtype of two tensors; at least float32 under autocast, as for ``torch.nn.functional.kl_div``."""
    import torch

    # Not torch.result_type, which torch.compile cannot trace with dynamic shapes.
    dtype = torch.promote_types(input.dtype, target.dtype)
    kind = input.device.type
    if kind not in _WITHOUT_AUTOCAST and torch.is_autocast_enabled(kind):
        dtype = torch.promote_types(dtype, torch.float32)
    return dtype


def placement(x: Any) -> Any:
    """Device of ``x``; of a DTensor the mesh that it is spread over."""
    return getattr(x, "device_mesh", x.device)


def added_up(x: Any) -> Any:
    """``x``, with the parts of a sum that the processes of a DTensor hold added up.

    A DTensor leaves that to whoever looks at the sum, and would add up what has been rounded to 16 bits by then.
    """
    placements = getattr(x, "placements", ())
    if not any(p.is_partial() for p in placements):
        return x
    from torch.distributed.tensor import Replicate

    return x.redistribute(placements=[Replicate() if p.is_partial() else p for p in placements])


def is_compiling(x: object) -> bool:
    """Whether ``torch.compile`` reads what is done with ``x``: it is shown the plain formulas to compile."""
    if not hasattr(x, "__torch_function__"):
        return False
    import torch

    return torch.compiler.is_compiling()


def is_ordinary_type(kind: type) -> bool:
    """Whether tensors of this type mean nothing but their elements."""
    torch = sys.modules.get("torch")
    return torch is not None and kind in (torch.Tensor, torch.nn.Parameter)


def is_ordinary(x: Array, y: Any) -> bool:
    """Whether :mod:`kldiv_xp._blocks` can evaluate the loss of ``x``, which is of an ordinary type, and ``y``.

    They are in memory, of one shape, and no one but autograd's reverse mode watches what is done with them.
    """
    dtypes, strided = _dtypes_and_layout()
    return (
        (type(y) is type(x) or is_ordinary_type(type(y)))
        and not is_watched()  # before the shapes, which torch.jit.trace makes tensors
        and x.is_cpu
        and y.is_cpu
        and x.dtype in dtypes
        and (y.dtype is x.dtype or y.dtype in dtypes)
        and x.layout is strided
        and y.layout is strided
        and not x.is_nested  # then it has no shape
        and not y.is_nested
        and x.shape == y.shape
    )


@cache
def _dtypes_and_layout() -> tuple[frozenset[DType], Any]:
    torch = sys.modules["torch"]
    return frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64)), torch.strided


def is_watched() -> bool:
    """Whether what is done with tensors is transformed, traced or differentiated in forward mode.

    PyTorch asks itself these questions in ``torch.autograd.function`` and ``torch.autograd.forward_ad``, and has no
    public names for them.
    """
    torch = sys.modules["torch"]
    inside = torch._C
    watched: bool = (
        inside._are_functorch_transforms_active()
        or inside._len_torch_dispatch_stack() > 0
        or inside._is_tracing()
        or torch.autograd.forward_ad._current_level >= 0
    )
    return watched


def differentiable_loss_elements(
    x: Array, y: Array, computing: DType, log_target: bool, convention: Convention
) -> Array:
    """Loss of each element, with the closed form as its derivative unless a compiler looks for one of its own."""
    import torch

    options = (log_target, convention, namespace())
    if is_compiling(x) or torch._C._is_tracing() or not is_ordinary_type(type(x)):
        return guarded_loss_elements(x.to(computing), y.to(computing), *options)
    if not (is_watched() or needs_grad(x, y)):
        return loss_elements(x.to(computing), y.to(computing), *options)
    from kldiv_xp._torch_autograd import LossElements

    return LossElements.apply(x, y, computing, log_target, convention)  # type: ignore[no-untyped-call]


def sum(x: Array) -> Array:
    """Sum of all elements: on the CPU in float64, and of that dtype, because compiled code adds one behind the other.

    See https://github.com/pytorch/pytorch/issues/154703. GPUs add in blocks, and not all are fast in float64.
    """
    import torch

    return torch.sum(x, dtype=torch.float64) if x.device.type == "cpu" else torch.sum(x)


def loss(x: Array, y: Array, reduction: Reduction, log_target: bool, convention: Convention) -> Array:
    """Loss of ordinary tensors."""
    torch = sys.modules["torch"]
    recorded = (x.requires_grad or y.requires_grad) and torch.is_grad_enabled()
    size = x.numel()
    dtype = x.dtype
    wide = dtype is y.dtype and (dtype is torch.float32 or dtype is torch.float64)
    if wide and 0 < size <= FEW and reduction != "none" and not (recorded and y.requires_grad):
        # Here each operation takes longer than the arithmetic. By the input the formula is linear, so that autograd
        # finds the closed form, and keeps the probabilities alone.
        elements = loss_off_edge(x, y, log_target, convention, torch, in_place=True)
        total = elements.sum()
        value = total.item()
        if not math.isfinite(value):  # something may be on the edge: see _blocks
            edge = edge_of(x, y, log_target, convention, torch)
            # Autograd multiplies by each probability, and zero times one of -inf is NaN.
            if edge is not None and (not recorded or log_target or math.isfinite(y.sum().item())):
                total = torch.where(edge, 0.0, elements).sum()
                value = total.item()
        if math.isfinite(value):
            count = _blocks.counted(x, reduction, size)
            if recorded:
                return total / count if count > 1 else total
            return total.fill_(value / count)
    if recorded:
        return _loss_in_blocks()(x, y, (reduction, log_target, convention))
    return _blocks.loss(x, y, reduction, log_target, convention, sys.modules[__name__])[0]


@cache
def _loss_in_blocks() -> Callable[..., Array]:
    from kldiv_xp._torch_autograd import LossInBlocks

    apply: Callable[..., Array] = LossInBlocks.apply
    return apply


def needs_grad(*tensors: Array) -> bool:
    """Whether autograd records what is done with these."""
    return any(x.requires_grad for x in tensors) and sys.modules["torch"].is_grad_enabled()


def native() -> Any:
    return sys.modules["torch"]


def computing_dtype(dtype: DType) -> DType:
    torch = sys.modules["torch"]
    return torch.float64 if dtype is torch.float64 else torch.float32


def size_of(x: Array) -> int:
    size: int = x.numel()
    return size


def strides_of(x: Array) -> tuple[int, ...]:
    strides: tuple[int, ...] = x.stride()
    return strides


def cast(x: Array, dtype: DType) -> Array:
    return x if x.dtype is dtype else x.to(dtype)


def empty_like(x: Array, dtype: DType) -> Array:
    return sys.modules["torch"].empty_like(x, dtype=dtype)


def number(value: float, dtype: DType) -> Array:
    torch = sys.modules["torch"]
    # In float64 first, for what is too large to be infinite; and a default device may be another.
    return torch.scalar_tensor(value, dtype=torch.float64, device=_cpu()).to(dtype)


@cache
def _cpu() -> Any:
    return sys.modules["torch"].device("cpu")


def block_size() -> int:
    """Elements of a block: PyTorch gives each thread at least 32768, and temporaries are to stay below 8 MiB."""
    threads: int = sys.modules["torch"].get_num_threads()
    return 2**15 * min(max(threads, 2), 4)


def each(function: Callable[..., Any], blocks: Iterable[tuple[Array, ...]]) -> list[Any]:
    """Results of the function for each block."""
    return [function(*block) for block in blocks]
