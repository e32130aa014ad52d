"""The loss and its derivative by the input in few passes over tensors, each of which takes time on a GPU.

They give what the formulas give, with fewer masks: a mask is written only where the formula has another value than the
convention. At a target of 0, ``xlogy(y, y) - y x`` is 0 for any finite ``x``, and the derivative ``-y`` is 0 in any
case. Eager tensors only: the functions write to their temporaries. Imported on demand, because it imports torch.
"""

import torch

from kldiv_xp._options import Options

ONE_PASS = ("cpu", "cuda", "meta")
"""Devices on which the derivative of ``max(y, 0)`` masks in one pass: 0 where ``y <= 0``, and not where ``y`` is NaN.

Apple's GPUs mask where ``y`` is NaN, too.
"""


def loss_in_few_passes(x: torch.Tensor, y: torch.Tensor, options: Options) -> torch.Tensor:
    """Loss of each element."""
    convention = options.convention
    if convention == "torch" and not options.log_target:
        return torch.xlogy(y, y).sub_(y * x)
    elements = torch.exp(y).mul_(y - x) if options.log_target else torch.log(y).sub_(x).mul_(y)
    if convention == "limit":  # 0 on the edge, and NaN beside a NaN
        edge = y == (-torch.inf if options.log_target else 0.0)
        return torch.where(edge, torch.clamp(x, 0.0, 0.0), elements)
    if options.log_target:
        return elements
    if y.device.type not in ONE_PASS:
        return elements.masked_fill_(y <= 0.0, 0.0)
    masked: torch.Tensor = torch.ops.aten.threshold_backward(elements, y, 0)
    return masked


def derivative_in_few_passes(y: torch.Tensor, weight: torch.Tensor, options: Options) -> torch.Tensor:
    """Derivative of each element's loss by the input, times ``weight``; autograd cannot differentiate it."""
    if weight.ndim and weight.numel() and not any(weight.stride()):  # a number, expanded
        weight = weight[(0,) * weight.ndim]
    if options.log_target:
        return torch.exp(y).mul_(-weight)
    if options.convention == "oneflow":
        return torch.clamp(y, min=0.0).mul_(-weight)
    return y * -weight
