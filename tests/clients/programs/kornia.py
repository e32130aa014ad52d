"""kornia's divergences of heat maps."""

from typing import Any

import drive
import kornia
import torch

LICENCE = "Apache-2.0"
WHAT = "`kl_div_loss_2d` and `js_div_loss_2d` of heat maps, with gradients"
PACKAGES = ("kornia",)
TESTS = ("--doctest-modules", "--pyargs", "kornia.losses.divergence")
losses = drive.torch_losses


def _maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand((2, 4, 3, 32, 32), generator=generator).unbind()
    x, y = (z / z.sum((-2, -1), keepdim=True) for z in (x, y))
    return x.requires_grad_(), y.requires_grad_()


def figures() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for loss in (kornia.losses.kl_div_loss_2d, kornia.losses.js_div_loss_2d):
        for reduction in ("mean", "sum", "none"):
            x, y = _maps()
            value = loss(x, y, reduction=reduction).sum()
            by_x, by_y = torch.autograd.grad(value, (x, y))
            name = f"{loss.__name__}, {reduction}"
            found |= {name: value, f"{name}, by pred": by_x.norm(), f"{name}, by target": by_y.norm()}
    return found


def step() -> Any:
    x, y = _maps()
    return lambda: kornia.losses.js_div_loss_2d(x, y).backward()
