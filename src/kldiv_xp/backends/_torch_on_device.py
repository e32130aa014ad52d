"""Divergences from logits of tensors on a GPU, some rows at a time, so that no temporary has the size of the logits.

Nothing waits for the device. Imported on demand, because it imports torch.
"""

from typing import Any

import torch

from kldiv_xp._formulas_from_logits import divergence_terms
from kldiv_xp._options import LogitsOptions

ROWS = 2**24
"""Elements of some rows: enough to keep a device busy, in 64 MiB of float32."""


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
    computing = backend.computing_dtype(dtype)
    gradients = [torch.empty_like((x, y)[argnum]) for argnum in wanted]
    x, y, *outs = (z.movedim(options.axis, -1) for z in (x, y, *gradients))
    rows = torch.empty(x.shape[:-1], dtype=computing, device=x.device)
    where = None if where is None else where.broadcast_to(rows.shape)
    if isinstance(weight, torch.Tensor):
        weight = weight.to(computing)
    weights = None
    if options.reduction == "none":
        weights = weight.unsqueeze(-1) if isinstance(weight, torch.Tensor) else None
    else:
        weight = backend.averaged(weight, rows, options.reduction, computing, where)
    options = options._replace(axis=-1)
    arrays = (x, y, where, weights, *outs)
    for some, of_x, of_y, mask, weights_of_some, *some_outs in backend.row_blocks(ROWS, rows, *arrays):
        a, b = of_x.to(computing), of_y.to(computing)
        if mask is not None:
            a, b = (torch.where(mask[..., None], z, 0.0) for z in (a, b))
        of = backend.softmaxes(a, b, options)
        some.copy_(backend.sum(divergence_terms(of, options.beta, backend.xp), -1).squeeze(-1))
        for argnum, out in zip(wanted, some_outs, strict=True):
            times = weight if weights_of_some is None else weights_of_some
            derivative = backend.derivative_of_softmaxes(of, argnum, times, options)
            out.copy_(derivative if mask is None else torch.where(mask[..., None], derivative, 0.0))
    if where is not None:
        rows = torch.where(where, rows, 0.0)
    if options.reduction == "none":
        return rows.to(dtype), gradients
    mean = backend.averaged(backend.sum(rows), rows, options.reduction, computing, where)
    return backend.rounded(mean, dtype), gradients
