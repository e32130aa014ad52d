"""The closed form of divergences from logits as PyTorch's derivative. Imported on demand, because it imports torch."""

from collections.abc import Sequence
from typing import Any

import torch

from kldiv_xp._options import LogitsOptions
from kldiv_xp.backends._torch_autograd import batch_first, needs_plain_operations


class DivergencesInReverse(torch.autograd.Function):
    """Divergence of each row, for reverse mode alone: ``torch.compile`` takes no function with a ``jvp``."""

    @staticmethod
    def forward(x: torch.Tensor, y: torch.Tensor, options: LogitsOptions, backend: Any) -> torch.Tensor:
        """Divergence of each row, with the axis of the classes kept."""
        rows: torch.Tensor = backend.plain_divergences(x, y, options)
        return rows

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG004
        """Save the logits, and nothing of their size besides."""
        x, y, ctx.options, ctx.backend = inputs
        ctx.save_for_backward(x, y)
        ctx.save_for_forward(x, y)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[torch.Tensor | None, ...]:
        """Gradients, which autograd can differentiate again."""
        (weight,) = cotangents
        needed = [weight is not None and needs for needs in ctx.needs_input_grad[:2]]
        return *_derivatives(ctx, needed, (weight, weight)), None, None


class Divergences(DivergencesInReverse):
    """Divergence of each row, for every mode of autograd and for ``torch.func``. The axis counts from the last."""

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004
        in_dims: tuple[int | None, ...],
        x: torch.Tensor,
        y: torch.Tensor,
        *options: Any,
    ) -> tuple[torch.Tensor, int]:
        """Divergences of the rows of a batch, which goes first."""
        rows: torch.Tensor = Divergences.apply(*batch_first(x, y, in_dims), *options)  # type: ignore[no-untyped-call]
        return rows, 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        """Tangent of the divergences."""
        needed = [tangent is not None for tangent in tangents[:2]]
        terms = [term for term in _derivatives(ctx, needed, tangents[:2]) if term is not None]
        tangent: torch.Tensor = ctx.backend.sum(sum(terms[1:], start=terms[0]), ctx.options.axis)
        return tangent


class DivergenceInBlocks(torch.autograd.Function):
    """Divergence of tensors in memory. The gradient by one argument alone is computed with the loss.

    Computing it again would take as long as the loss. It takes no more memory than the gradient that it becomes, unless
    no gradient is asked for in the end.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        y: torch.Tensor,
        options: LogitsOptions,
        backend: Any,
        where: torch.Tensor | None,
    ) -> torch.Tensor:
        """Reduced divergence, or that of each row."""
        needed = ctx.needs_input_grad[:2]
        # On a device, a weight that is not looked at would round 16 bits twice.
        once = sum(needed) == 1 and (x.is_cpu or x.element_size() >= 4 <= y.element_size())
        wanted = (needed.index(True),) if once else ()
        loss: torch.Tensor
        loss, ctx.gradients = backend.divergence_in_blocks(x, y, options, where, wanted)
        ctx.save_for_backward(x, y)
        ctx.options, ctx.backend, ctx.where = options, backend, where
        return loss

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[torch.Tensor | None, ...]:
        """Gradients: in blocks, unless autograd or ``vmap`` needs plain operations."""
        (weight,) = cotangents
        x, y = ctx.saved_tensors
        options, backend, where = ctx.options, ctx.backend, ctx.where
        wanted = [argnum for argnum in (0, 1) if ctx.needs_input_grad[argnum]]
        if torch.is_grad_enabled() or backend.is_watched() or needs_plain_operations(weight):
            gradients = backend.gradients_from_logits(x, y, options, wanted, weight, where)
        else:
            # Taken once, because the caller may write to it.
            gradients, ctx.gradients = ctx.gradients, ()
            gradients = _weighted(gradients, weight, options.axis)
            if not gradients:
                weight = weight.item() if options.reduction != "none" and weight.is_cpu else weight
                gradients = backend.divergence_in_blocks(x, y, options, where, wanted, weight)[1]
        of_argument = dict(zip(wanted, gradients, strict=True))
        return of_argument.get(0), of_argument.get(1), None, None, None


def _weighted(gradients: Sequence[torch.Tensor], weight: torch.Tensor, axis: int) -> Sequence[torch.Tensor]:
    """The gradients times ``weight``, or none if this would round 16 bits twice."""
    if weight.ndim == 0 and weight.is_cpu and weight.item() == 1.0:  # waiting for a device would take longer
        return gradients
    if any(gradient.element_size() < 4 for gradient in gradients):
        return ()
    return [gradient.mul_(weight if weight.ndim == 0 else weight.unsqueeze(axis)) for gradient in gradients]


def _derivatives(ctx: Any, needed: list[bool], weights: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
    x, y = ctx.saved_tensors
    return [
        ctx.backend.derivative_from_logits(x, y, argnum, weights[argnum], ctx.options) if needs else None
        for argnum, needs in enumerate(needed)
    ]
