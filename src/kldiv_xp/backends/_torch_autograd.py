"""The closed form as PyTorch's derivative. Imported on demand, because it imports torch.

Plain autograd would keep the formula's intermediate results for the backward pass, and multiply by ``1 / y``, which is
infinite for a float32 target below 3e-39.
"""

from typing import Any

import torch

from kldiv_xp._formulas import loss_derivative, without_masked
from kldiv_xp._options import Options
from kldiv_xp.backends._torch_in_few_passes import derivative_in_few_passes, loss_in_few_passes


class LossElements(torch.autograd.Function):
    """Loss of each element, for every mode of autograd and for ``torch.func``."""

    @staticmethod
    def forward(x: torch.Tensor, y: torch.Tensor, computing: torch.dtype, options: Options) -> torch.Tensor:
        """Loss of each element in the dtype ``computing``; the saved tensors keep their own dtypes."""
        return loss_in_few_passes(x.to(computing), y.to(computing), options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG004
        """Save only the tensors that the derivative needs."""
        x, y, ctx.computing, ctx.options = inputs
        _save(ctx, x, y)
        ctx.save_for_forward(x, y)
        ctx.set_materialize_grads(False)  # keep a missing tangent None: zeros times infinity are NaN

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[torch.Tensor | None, ...]:
        """Gradients, which autograd can differentiate again."""
        saved = _saved(ctx)
        gradients = _derivatives(ctx, saved, ctx.needs_input_grad[:2], (*cotangents, *cotangents))
        narrow = (g if g is None else g.to(of.dtype) for g, of in zip(gradients, saved, strict=True))
        return *narrow, None, None

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004
        in_dims: tuple[int | None, ...],
        x: torch.Tensor,
        y: torch.Tensor,
        *options: Any,
    ) -> tuple[torch.Tensor, int]:
        """Loss of each element of a batch. PyTorch's generated rule would require saving both tensors."""
        elements: torch.Tensor = LossElements.apply(*batch_first(x, y, in_dims), *options)  # type: ignore[no-untyped-call]
        return elements, 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        """Tangent of the loss."""
        terms = [term for term in _derivatives(ctx, ctx.saved_tensors, (True, True), tangents) if term is not None]
        tangent: torch.Tensor = sum(terms[1:], start=terms[0])
        return tangent


class LossInBlocks(torch.autograd.Function):
    """Loss of tensors for which the backend's ``is_ordinary`` is true.

    Without ``setup_context``, which would make a call take half as long again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        y: torch.Tensor,
        options: Options,
        backend: Any,
        where: torch.Tensor | None,
    ) -> torch.Tensor:
        """Reduced or unreduced loss."""
        loss: torch.Tensor
        loss, ctx.on_edge = backend.loss_in_blocks(x, y, options, where)
        _save(ctx, x, y)
        ctx.options, ctx.backend, ctx.where = options, backend, where
        return loss

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[torch.Tensor | None, ...]:
        """Gradients: in blocks, unless autograd or ``vmap`` needs plain operations."""
        (weight,) = cotangents
        x, y = _saved(ctx)
        options, backend, where = ctx.options, ctx.backend, ctx.where
        count = backend.counted(x, options.reduction, where) or 1
        if torch.is_grad_enabled() or backend.is_watched() or needs_plain_operations(weight):
            computing = backend.computing_dtype(backend.result_dtype(x, y))
            wide, weight = (x.to(computing), y.to(computing)), weight.to(computing) / count
            if where is not None:
                wide = without_masked(*wide, where, options, torch)

            def gradient(argnum: int) -> torch.Tensor:
                derivative = loss_derivative(*wide, argnum, weight, options, torch)
                if where is not None:
                    derivative = torch.where(where, derivative, 0.0)
                narrow: torch.Tensor = derivative.to((x, y)[argnum].dtype)
                return narrow
        else:
            if options.reduction != "none":
                weight = weight.item() / count

            def gradient(argnum: int) -> torch.Tensor:
                of_blocks: torch.Tensor = backend.gradient(x, y, argnum, weight, ctx.on_edge, options, where)
                return of_blocks

        by_x, by_y, *_ = ctx.needs_input_grad
        return gradient(0) if by_x else None, gradient(1) if by_y else None, None, None, None


def _save(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    """Save the target, and the input if the derivative by the target needs it.

    PyTorch raises in the backward pass if a saved tensor was modified in place.
    """
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, y)
    ctx.dtype_of_x = x.dtype


def _saved(ctx: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and target; an arbitrary tensor of the right dtype replaces an input that was not saved.

    Its values have no effect: where the target is zero, the derivative by the input is zero, on the edge or off it.
    """
    x, y = ctx.saved_tensors
    if x is None:
        x = y if y.dtype is ctx.dtype_of_x else y.new_zeros((), dtype=ctx.dtype_of_x).expand_as(y)
    return x, y


def batch_first(x: torch.Tensor, y: torch.Tensor, in_dims: tuple[int | None, ...]) -> tuple[torch.Tensor, ...]:
    """Both tensors of a call that ``vmap`` maps, with the batch along axis 0."""
    x, y = (a.unsqueeze(0) if dim is None else a.movedim(dim, 0) for a, dim in zip((x, y), in_dims, strict=False))
    return torch.broadcast_tensors(x, y)  # type: ignore[no-any-return,no-untyped-call]


def needs_plain_operations(cotangent: torch.Tensor) -> bool:
    """Whether an upstream gradient cannot be read or written to: a subclass, or mapped.

    By ``torch.autograd.grad(..., is_grads_batched=True)``, or by ``torch.func``; ``is_watched`` does not detect these
    here.
    """
    functorch = torch._C._functorch
    return (
        type(cotangent) is not torch.Tensor
        or functorch.is_legacy_batchedtensor(cotangent)
        or functorch.is_functorch_wrapped_tensor(cotangent)
    )


def _derivatives(
    ctx: Any,
    saved: tuple[torch.Tensor, torch.Tensor],
    needed: tuple[bool, ...],
    weights: tuple[torch.Tensor | None, ...],
) -> list[torch.Tensor | None]:
    x, y = (tensor.to(ctx.computing) for tensor in saved)

    def derivative(argnum: int, weight: torch.Tensor) -> torch.Tensor:
        # Tangents and cotangents of functorch, and those that autograd differentiates, need plain operations.
        if argnum == 0 and not (torch.is_grad_enabled() or needs_plain_operations(weight)):
            return derivative_in_few_passes(y, weight, ctx.options)
        by_formula: torch.Tensor = loss_derivative(x, y, argnum, weight, ctx.options, torch)
        return by_formula

    return [
        None if weight is None or not needs else derivative(argnum, weight)
        for argnum, (needs, weight) in enumerate(zip(needed, weights[:2], strict=True))
    ]
