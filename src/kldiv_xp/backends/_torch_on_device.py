"""Divergences from logits of tensors on a GPU, some rows at a time, so that no temporary has the size of the logits.

Nothing waits for the device. Imported on demand, because it imports torch.
"""

from typing import Any

import torch

from kldiv_xp._formulas_from_logits import IMPOSSIBLE, Softmaxes, divergence_terms_of_wide
from kldiv_xp._options import LogitsOptions

ROWS = 2**22
"""Elements of some rows: enough to keep a device busy, in 32 MiB of float64."""


def divergence_on_device(
    x: torch.Tensor,
    y: torch.Tensor,
    options: LogitsOptions,
    where: torch.Tensor | None,
    wanted: tuple[int, ...],
    weight: torch.Tensor | float,
    backend: Any,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The divergence, and its gradients by the arguments in ``wanted``, times ``weight``."""
    dtype = backend.result_dtype(x, y)
    gradients = [torch.empty_like((x, y)[argnum]) for argnum in wanted]
    x, y, *outs = (z.movedim(options.axis, -1) for z in (x, y, *gradients))
    rows = torch.empty(x.shape[:-1], dtype=torch.float64, device=x.device)
    where = None if where is None else where.broadcast_to(rows.shape)
    if isinstance(weight, torch.Tensor):
        weight = weight.to(rows.dtype)
    weights = None
    if options.reduction == "none":
        weights = weight.unsqueeze(-1) if isinstance(weight, torch.Tensor) else None
    else:
        weight = backend.averaged(weight, rows, options.reduction, rows.dtype, where)
    options = options._replace(axis=-1)
    arrays = (x, y, where, weights, *outs)
    for some, of_x, of_y, mask, weights_of_some, *some_outs in backend.row_blocks(ROWS, rows, *arrays):
        of = _softmaxes(*((of_y, of_x) if options.exchanged else (of_x, of_y)), mask, options.temperature)
        torch.sum(divergence_terms_of_wide(of, options.beta, backend.xp), -1, out=some)
        for argnum, out in zip(wanted, some_outs, strict=True):
            times = weight if weights_of_some is None else weights_of_some
            if options.beta == 0.0 and argnum == int(options.exchanged):
                derivative = (of.q - of.p) * (times / options.temperature)
            else:
                derivative = backend.derivative_of_softmaxes(of, argnum, times, options)
            out.copy_(derivative if mask is None else torch.where(mask[..., None], derivative, 0.0))
    if where is not None:
        rows = torch.where(where, rows, 0.0)
    if options.reduction == "none":
        return rows.to(dtype), gradients
    mean = backend.averaged(backend.sum(rows), rows, options.reduction, rows.dtype, where)
    return backend.rounded(mean, dtype), gradients


def _softmaxes(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor | None, temperature: float) -> Softmaxes:
    """Softmaxes of both arrays in float64, with zeros in the rows that do not count."""
    both = torch.empty((2, *x.shape), dtype=torch.float64, device=x.device)
    both[0], both[1] = x, y
    if mask is not None:
        both.masked_fill_(~mask[..., None], 0.0)
    if temperature != 1.0:
        both /= temperature
    logarithms = torch.log_softmax(both, -1)
    torch.exp(logarithms, out=both)
    log_q, log_p = logarithms.clamp_(min=IMPOSSIBLE)
    return Softmaxes(both[1], both[0], log_p - log_q)
