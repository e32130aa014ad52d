"""PyTorch: tensors on the CPU are evaluated in blocks, others by plain operations, from logits some rows at a time.

The derivative is in closed form.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from kldiv_xp._formulas import edge_of, guarded_loss_elements, loss_off_edge
from kldiv_xp._options import LogitsOptions, Options
from kldiv_xp.backends._row_blocks import CLOSE, Exponentials, InRowBlocks
from kldiv_xp.backends._scratch import Scratch, SpareMemory
from kldiv_xp.backends._standard import Array, DType

FEW = 2**12

# torch.is_autocast_enabled raises for these devices. PyTorch 2.11, which made the recordings on CUDA, cannot compile
# torch.amp.is_autocast_available.
_WITHOUT_AUTOCAST = ("meta", "lazy", "vulkan")


def _memory(size: int, dtype: DType) -> Array:
    """New numbers on the CPU, which can be written to in any mode."""
    import torch

    with torch.inference_mode(False):
        return torch.empty(size, dtype=dtype, device="cpu")


@contextmanager
def _without_tracer_warnings() -> Iterator[None]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


class _ForONNX:
    """A namespace without ``xlogy``: PyTorch's exporter by tracing does not know it."""

    xlogy = None

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)


class Torch(InRowBlocks):
    """Tensors."""

    few = FEW
    spare_memory: SpareMemory = SpareMemory(_memory, 1)

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether arrays of this type are tensors."""
        # Do not read sys.modules where torch.compile traces: it would inspect all modules, and some import others when
        # inspected.
        if not hasattr(kind, "__torch_function__"):
            return False
        import torch

        return issubclass(kind, torch.Tensor)

    @classmethod
    def of(cls, x: Array) -> "Torch":  # noqa: ARG003
        """Backend for tensors."""
        # Not array_namespace: it calls a cached function, and torch.compile warns about those.
        import array_api_compat.torch

        return cls(array_api_compat.torch)

    def __init__(self, xp: Any) -> None:
        import torch

        super().__init__(xp)
        self.native: Any = torch
        self.float64: DType = torch.float64
        self.ordinary: tuple[type, ...] = (torch.Tensor, torch.nn.Parameter)
        self._dtypes = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))

    def accepted(self, name: str, x: Array) -> Array:
        """The tensor; raise for nested, sparse and masked ones."""
        if x.is_nested:
            raise TypeError(f"{name} is a nested tensor, whose sizes differ from row to row; pass its values() instead")
        if x.layout is not self.native.strided:
            raise TypeError(f"{name} is a tensor of layout {x.layout}; call its method to_dense() first")
        if type(x).__name__ == "MaskedTensor":
            raise TypeError(f"{name} is a masked tensor; pass its get_data(), with targets of 0 for what is masked")
        return x

    def device_of(self, x: Array) -> Any:
        """Device of ``x``; for a DTensor, its mesh."""
        return getattr(x, "device_mesh", x.device)

    def result_dtype(self, x: Array, y: Array) -> DType:
        """Promoted dtype; at least float32 under autocast, as for ``torch.nn.functional.kl_div``."""
        torch = self.native
        # Not torch.result_type, which torch.compile cannot trace with dynamic shapes.
        dtype = torch.promote_types(x.dtype, y.dtype)
        kind = x.device.type
        if kind not in _WITHOUT_AUTOCAST and torch.is_autocast_enabled(kind):
            dtype = torch.promote_types(dtype, torch.float32)
        return dtype

    def computing_dtype(self, dtype: DType) -> DType:
        """Dtype to compute in: at least float32."""
        return self.native.float64 if dtype is self.native.float64 else self.native.float32

    def cast(self, x: Array, dtype: DType) -> Array:
        """``x`` in another dtype; ``x`` itself if it has that dtype."""
        return x if x.dtype is dtype else x.to(dtype)

    def prepared(self, *arrays: Array, **axis: Any) -> tuple[Array, Array, Array, Array]:
        """The caller's tensors, checked; a program of ``torch.jit.trace`` checks their shapes again."""
        torch = self.native
        x, y, *others = super().prepared(*arrays, **axis)
        if not torch.compiler.is_compiling() and torch._C._is_tracing() and not torch.onnx.is_in_onnx_export():
            # Of no elements: stack raises for shapes that differ, which the traced operations would broadcast.
            nothing = torch.stack([z.unsqueeze(-1).narrow(-1, 0, 0) for z in (x, y)]).sum()
            y = y + nothing.to(y.dtype)
        return x, y, *others

    def elements(self, x: Array, y: Array, dtype: DType, options: Options) -> Array:
        """Loss of each element, with the derivative in closed form, except where a compiler derives its own."""
        torch = self.native
        if torch.compiler.is_compiling() or torch._C._is_tracing() or self._has_no_rules(x):
            xp = _ForONNX(self.xp) if torch.onnx.is_in_onnx_export() else self.xp
            return guarded_loss_elements(x.to(dtype), y.to(dtype), options, xp)
        if not (self.is_watched() or self.needs_grad(x, y)):
            from kldiv_xp.backends._torch_in_few_passes import loss_in_few_passes

            return loss_in_few_passes(x.to(dtype), y.to(dtype), options)
        from kldiv_xp.backends._torch_autograd import LossElements

        return LossElements.apply(x, y, dtype, options)  # type: ignore[no-untyped-call]

    def sum(self, x: Array, axis: int | None = None) -> Array:
        """Sum of all elements, or along an axis: on the CPU in float64, because compiled code adds sequentially.

        See https://github.com/pytorch/pytorch/issues/154703. GPUs add in blocks, and some are slow in float64.
        """
        torch = self.native
        wide = torch.float64 if x.device.type == "cpu" else None
        if axis is None:
            return torch.sum(x, dtype=wide)
        # A conversion to the same dtype would hide the gradients of a derivative of our own from torch.compile of 2.11.
        return self.cast(torch.sum(x, axis, keepdim=True, dtype=wide), x.dtype)

    def rounded(self, loss: Array, dtype: DType) -> Array:
        """The loss in the dtype of the result. The partial sums of a DTensor are added up before they are rounded.

        A DTensor adds up its partial sums only when it is read, which would be after rounding to 16 bits.
        """
        placements = getattr(loss, "placements", ())
        if self.computing_dtype(dtype) is not dtype and any(p.is_partial() for p in placements):
            from torch.distributed.tensor import Replicate

            loss = loss.redistribute(placements=[Replicate() if p.is_partial() else p for p in placements])
        return self.cast(loss, dtype)

    def loss(self, input: Array, target: Array, options: Options, where: Array = None) -> Array:
        """The loss of the caller's tensors."""
        ordinary = self.is_ordinary(input, target)
        if not (ordinary and (where is None or self.is_mask(where, input))):
            with self._surroundings(input, target):
                return super().loss(input, target, options, where)
        recorded = (input.requires_grad or target.requires_grad) and self.native.is_grad_enabled()
        size = input.numel()
        few = 0 < size <= self.few and where is None
        if few and not (recorded and target.requires_grad):
            loss = self._loss_of_few(input, target, options, recorded)
            if loss is not None:
                return loss
        if recorded:
            from kldiv_xp.backends._torch_autograd import LossInBlocks

            return LossInBlocks.apply(input, target, options, self, where)  # type: ignore[no-untyped-call]
        return self.loss_in_blocks(input, target, options, where)[0]

    def loss_from_logits(self, input: Array, target: Array, options: LogitsOptions, where: Array = None) -> Array:
        """The divergence between the softmaxes of the caller's tensors."""
        if not (self.needs_grad(input, target) and self.has_ordinary_rows(input, target, options, where)):
            with self._surroundings(input, target):
                return super().loss_from_logits(input, target, options, where)
        from kldiv_xp.backends._torch_autograd_from_logits import DivergenceInBlocks

        return DivergenceInBlocks.apply(input, target, options, self, where)  # type: ignore[no-untyped-call]

    def value_and_grad(self, input: Array, target: Array, *options: Any) -> tuple[Array, list[Array]]:
        """The loss of the caller's tensors, and its gradients."""
        with self._surroundings(input, target):
            return super().value_and_grad(input, target, *options)

    def value_and_grad_from_logits(self, input: Array, target: Array, *options: Any) -> tuple[Array, list[Array]]:
        """The divergence between the softmaxes of the caller's tensors, and its gradients."""
        with self._surroundings(input, target):
            return super().value_and_grad_from_logits(input, target, *options)

    def divergences(self, x: Array, y: Array, options: LogitsOptions) -> Array:
        """Divergence of each row, with the derivative in closed form, which keeps the logits alone."""
        torch = self.native
        if not hasattr(x, "device_mesh") and self._has_no_rules(x):  # DTensors take a derivative of our own
            return self.plain_divergences(x, y, options)
        from kldiv_xp.backends._torch_autograd_from_logits import Divergences, DivergencesInReverse

        compiling = torch.compiler.is_compiling()
        if not compiling and (torch._C._is_tracing() or not (self.is_watched() or self.needs_grad(x, y))):
            return self.plain_divergences(x, y, options)
        function = DivergencesInReverse if compiling else Divergences
        return function.apply(x, y, options, self)  # type: ignore[no-untyped-call]

    def at_least(self, x: Array, bound: float) -> Array:
        """``x``, with smaller elements replaced by ``bound``, and NaN kept."""
        return x.clamp(min=bound)

    def top(self, x: Array, axis: int) -> Array:
        """Largest number along an axis, which stays; a constant to autodiff."""
        return x.detach().amax(axis, keepdim=True)

    def divergence_in_blocks(
        self,
        x: Array,
        y: Array,
        options: LogitsOptions,
        where: Array = None,
        wanted: tuple[int, ...] = (),
        weight: Array | float = 1.0,
    ) -> tuple[Array, list[Array]]:
        """The divergence, and its gradients by the arguments in ``wanted``."""
        if not x.is_cpu:
            from kldiv_xp.backends._torch_on_device import divergence_on_device

            return divergence_on_device(x, y, options, where, wanted, weight, self)
        few = x.numel() <= self.row_block_size()
        if few and where is None and options.beta == 0.0 and options.reduction != "none":
            at_once = self._divergence_at_once(x, y, options, wanted, weight)
            if at_once is not None:
                return at_once
        return super().divergence_in_blocks(x, y, options, where, wanted, weight)

    def _divergence_at_once(
        self, x: Array, y: Array, options: LogitsOptions, wanted: tuple[int, ...], weight: Any
    ) -> tuple[Array, list[Array]] | None:
        """``KL(p || q)`` of one block, with few operations; ``None`` where this does not apply."""
        axis, student = options.axis, int(options.exchanged)
        if any(argnum != student for argnum in wanted):
            return None
        of, dtype = (x, y)[student], self.result_dtype(x, y)
        count = self.counted(x.select(axis, 0), options.reduction)
        least = CLOSE * (x.numel() // x.shape[axis])
        if student:
            x, y = y, x
        scratch = self.spare_memory.taken()
        if axis not in (-1, x.ndim - 1):
            x, y = x.movedim(axis, -1), y.movedim(axis, -1)
        if x.numel() <= self.few:
            q, p, total = self._softmaxes_of_few(x, y, options.temperature, scratch, bool(wanted))
        else:
            q, p, r, *_, log_ratio = self.exponentials(x, y, options.temperature, scratch)
            total = self.row_dot(p, r, scratch).sum() - log_ratio.sum()
        value = total.item()
        gradients = []
        if wanted and value >= least:
            q -= p
            q *= weight / (count * options.temperature)
            gradients.append(self.empty_like(of, of.dtype))
            gradients[0].movedim(axis, -1).copy_(q)
        self.spare_memory.give_back(scratch)
        if not value >= least:  # the terms cancel, or a class is impossible
            return None
        return self.number(value / count, dtype), gradients

    def _softmaxes_of_few(
        self, x: Array, y: Array, temperature: float, scratch: Scratch, wanted: bool
    ) -> tuple[Array, Array, Array]:
        """Softmaxes, if they are wanted, and the sum of the divergences."""
        torch = self.native
        both, log_q, log_p = self._both(x, y, temperature, scratch)
        torch.log_softmax(both, -1, out=both)
        if not wanted:
            return log_q, log_p, torch.kl_div(log_q, log_p, 2, log_target=True)
        log_ratio = log_p - log_q
        torch.exp(both, out=both)
        return log_q, log_p, (log_p * log_ratio).sum()

    def _both(self, x: Array, y: Array, temperature: float, scratch: Scratch) -> tuple[Array, Array, Array]:
        """Both arrays over the temperature in one array, for operations on both at once, and each of them."""
        both = scratch("both", (2, *x.shape), self.native.float64)
        of_x, of_y = both.unbind()
        of_x.copy_(x)
        of_y.copy_(y)
        if temperature != 1.0 and math.frexp(temperature)[0] == 0.5:  # a power of two: its reciprocal is exact
            both *= 1.0 / temperature
        elif temperature != 1.0:
            both /= temperature
        return both, of_x, of_y

    def _loss_of_few(self, x: Array, y: Array, options: Options, recorded: bool) -> Array | None:
        """Loss of few elements, with few operations; ``None`` where this does not apply.

        The formula is linear in the input, so autograd derives the closed form, and keeps only the probabilities.
        """
        torch, dtype = self.native, x.dtype
        if dtype is not y.dtype:
            return None
        if options.reduction == "none":
            wide = dtype is torch.float32 or dtype is torch.float64
            same_formula = wide and options.log_target and options.convention != "limit"
            return torch.kl_div(x, y, 0, log_target=True) if same_formula else None
        if not (dtype is torch.float32 or dtype is torch.float64):
            dtype, y = self.result_dtype(x, y), y.float()  # operations promote x themselves, which takes less time
        if options.log_target or options.convention == "torch":  # the same formula, in one call
            total = torch.kl_div(x, y, 2, log_target=options.log_target)
        else:
            total = loss_off_edge(x, y, options, torch, in_place=True).sum()
        value, edge = total.item(), None
        if not math.isfinite(value):  # elements may be on the edge: see InBlocks
            edge = edge_of(x, y, options, torch)
            # Autograd multiplies by each probability, and zero times one of -inf is NaN.
            if edge is not None and (not recorded or options.log_target or math.isfinite(y.sum().item())):
                total = torch.where(edge, 0.0, loss_off_edge(x, y, options, torch)).sum()
                value = total.item()
        if not math.isfinite(value):
            return None
        if edge is not None:
            self.notice(y, options)
        count = self.counted(x, options.reduction)
        if recorded:
            return self.cast(total / count if count > 1 else total, dtype)
        if dtype is total.dtype:
            return total.fill_(value / count)
        return torch.scalar_tensor(value / count, dtype=dtype, device="cpu")

    def is_ordinary(self, x: Array, y: Any) -> bool:
        """Whether ``x`` and ``y`` are plain CPU tensors of one shape.

        False if anything other than reverse-mode autograd records operations on them.
        """
        return self._are_eager(x, y) and x.is_cpu and y.is_cpu

    def as_weight(self, cotangent: Array | float) -> Array | float:
        """The upstream gradient of a reduced loss, which is looked at only if this does not wait for a device."""
        return cotangent if getattr(cotangent, "is_cpu", True) is False else float(cotangent)

    def has_views_of_rows(self, x: Array, y: Array) -> bool:
        """Whether ``x`` and ``y`` are plain tensors on one device, some rows of which can be computed at a time.

        That is in float64, which not all devices have.
        """
        return self._are_eager(x, y) and x.device == y.device and (x.is_cpu or x.is_cuda or x.is_meta)

    def _are_eager(self, x: Array, y: Any) -> bool:
        """Whether ``x`` and ``y`` are plain tensors of one shape, on which only reverse-mode autograd records."""
        strided = self.native.strided
        return (
            type(x) in self.ordinary
            and type(y) in self.ordinary
            and not self.is_watched()  # before the shapes, which are tensors in torch.jit.trace
            and x.dtype in self._dtypes
            and (y.dtype is x.dtype or y.dtype in self._dtypes)
            and x.layout is strided
            and y.layout is strided
            and not x.is_nested  # a nested tensor has no shape
            and not y.is_nested
            and x.shape == y.shape
        )

    def is_watched(self) -> bool:
        """Whether operations on tensors are transformed, traced or differentiated in forward mode.

        PyTorch has no public names for these checks. Its ``torch.autograd.function`` and ``torch.autograd.forward_ad``
        use the same ones.
        """
        inside = self.native._C
        watched: bool = (
            inside._are_functorch_transforms_active()
            or inside._len_torch_dispatch_stack() > 0
            or inside._is_tracing()
            or self.native.autograd.forward_ad._current_level >= 0
        )
        return watched

    def _has_no_rules(self, x: Array) -> bool:
        """Whether a derivative of our own is not possible: for subclasses, and under ``torch.func.functionalize``.

        PyTorch has no rule for it there: ``custom_function_call`` in ``torch._functorch.autograd_function``.
        """
        if type(x) not in self.ordinary:
            return True
        if self.native.compiler.is_compiling() or not self.is_watched():
            return False
        functorch = self.native._C._functorch
        transforms = functorch.get_interpreter_stack()
        return any(each.key() == functorch.TransformType.Functionalize for each in transforms or ())

    def _surroundings(self, *arrays: Array) -> AbstractContextManager[Any]:
        """Context for plain operations on these tensors."""
        modes = (getattr(x, "fake_mode", None) for x in arrays if type(x) not in self.ordinary)
        mode: AbstractContextManager[Any] | None = next((mode for mode in modes if mode is not None), None)
        if mode is not None:  # fake tensors combine with numbers in their mode alone
            return mode
        # That comparisons of shapes are constants does not matter: no result depends on them.
        return _without_tracer_warnings() if self.native._C._is_tracing() else nullcontext()

    def needs_grad(self, *arrays: Array) -> bool:
        """Whether autograd records operations on these tensors."""
        return any(x.requires_grad for x in arrays) and self.native.is_grad_enabled()

    def size_of(self, x: Array) -> int:
        """Number of elements."""
        size: int = x.numel()
        return size

    def strides_of(self, x: Array) -> tuple[int, ...]:
        """Strides in memory, for each axis."""
        strides: tuple[int, ...] = x.stride()
        return strides

    def empty_like(self, x: Array, dtype: DType) -> Array:
        """New tensor, in the memory order of ``x``."""
        return self.native.empty_like(x, dtype=dtype)

    def number(self, value: float, dtype: DType) -> Array:
        """A number as a 0-d tensor on the CPU, whatever the default device."""
        # In float64 first, so that a number beyond the range of dtype becomes infinite.
        return self.native.scalar_tensor(value, dtype=self.native.float64, device="cpu").to(dtype)

    def fill(self, x: Array, mask: Array, value: float) -> None:
        """Write a number where the mask is true."""
        x.masked_fill_(mask, value)

    def row_max(self, x: Array) -> Array:
        """Largest element of each row, with the axis kept."""
        return x.amax(-1, keepdim=True)

    def row_sum(self, x: Array) -> Array:
        """Sum of each row, with the axis kept."""
        return x.sum(-1, keepdim=True)

    def row_dot(self, x: Array, y: Array, scratch: Scratch) -> Array:
        """Sum of the products of each row, with the axis kept."""
        return self.native.mul(x, y, out=scratch("products", x.shape, self.native.float64)).sum(-1, keepdim=True)

    def row_block_size(self) -> int:
        """Elements of a block of rows."""
        return self.block_size()

    def exponentials(self, x: Array, y: Array, temperature: float, scratch: Scratch) -> Exponentials:
        """Softmaxes of complete rows, which sum to 1: PyTorch computes them faster than exponentials alone.

        The largest probability is the reciprocal of the sum of the exponentials.
        """
        torch = self.native
        both, of_x, of_y = self._both(x, y, temperature, scratch)
        r = torch.sub(of_y, of_x, out=scratch("r", x.shape, torch.float64))
        top_x, top_y = both.amax(-1, keepdim=True).unbind()
        torch.softmax(both, -1, out=both)
        largest_x, largest_y = both.amax(-1, keepdim=True).unbind()
        one = torch.ones((1,), dtype=torch.float64, device="cpu")
        return Exponentials(of_x, of_y, r, one, one, top_y - top_x + torch.log(largest_x / largest_y))

    def block_size(self) -> int:
        """Elements of a block: 65536 for each thread of PyTorch, of which it counts two to four."""
        threads: int = self.native.get_num_threads()
        return 2**16 * min(max(threads, 2), 4)

    def each(self, function: Callable[..., Any], blocks: Iterable[tuple[Array, ...]]) -> list[Any]:
        """Results of the function for each block."""
        return [function(*block) for block in blocks]


class TracedTorch(Torch):
    """Tensors of a call that ``torch.compile`` traces: by the plain formulas alone, which it compiles."""

    @classmethod
    def traces(cls, input: Array, target: Array, *others: Array) -> bool:
        """Whether ``torch.compile`` traces a call with these, and all are tensors; others may be missing."""
        if not (hasattr(input, "__torch_function__") and hasattr(target, "__torch_function__")):
            return False
        import torch

        return torch.compiler.is_compiling() and all(
            isinstance(x, torch.Tensor) for x in (input, target, *(x for x in others if x is not None))
        )

    def _are_eager(self, x: Array, y: Any) -> bool:
        """False."""
        return False

    def _surroundings(self, *arrays: Array) -> AbstractContextManager[Any]:
        """A context that changes nothing."""
        return nullcontext()
