"""The loss and its derivative by the input in few passes over tensors, each of which takes time on a GPU.

They give what the formulas give, with fewer masks: a mask is written only where the formula has another value than the
convention. At a target of 0, ``xlogy(y, y) - y x`` is 0 for any finite ``x``, and the derivative ``-y`` is 0 in any
case. Eager tensors only: the functions write to their temporaries. Imported on demand, because it imports torch.
"""

import torch

from kldiv_xp._options import Options


def loss_elements(x: torch.Tensor, y: torch.Tensor, options: Options) -> torch.Tensor:
    """Loss of each element. Not of ``log(y) - x``: the errors of a float32 logarithm have a bias."""
    convention = options.convention
    if options.log_target:
        elements = torch.exp(y).mul_(y - x)
        return _without_edge(elements, x, y == -torch.inf) if convention == "limit" else elements
    y_log_y = torch.xlogy(y, y)
    if convention == "torch":
        return y_log_y.sub_(y * x)
    if convention == "limit":
        return y_log_y.addcmul_(y, _without_edge(x, x, y == 0.0), value=-1.0)
    # The derivative of max(y, 0) masks in one pass: it is 0 where y <= 0, and keeps what is beside a NaN.
    masked: torch.Tensor = torch.ops.aten.threshold_backward(y_log_y.addcmul_(y, x, value=-1.0), y, 0)
    return masked


def derivative_by_input(y: torch.Tensor, weight: torch.Tensor, options: Options) -> torch.Tensor:
    """Derivative of each element's loss by the input, times ``weight``; autograd cannot differentiate it."""
    if weight.ndim and not any(weight.stride()):  # a number, expanded
        weight = weight[(0,) * weight.ndim]
    if options.log_target:
        return torch.exp(y).mul_(-weight)
    if options.convention == "oneflow":
        return torch.clamp(y, min=0.0).mul_(-weight)
    return y * -weight


def _without_edge(of: torch.Tensor, x: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    """``of``, with 0 on the edge, or NaN where ``x`` is NaN."""
    return torch.where(edge, torch.clamp(x, 0.0, 0.0), of)
