"""Compare ``js_div_with_logits`` with what TRL's ``generalized_jsd_loss`` computes: losses and gradients.

``python examples/replacing_trl.py`` needs PyTorch and Rich. If TRL is installed, it calls TRL's function, otherwise the
same composition of PyTorch's functions. It exits with 1 if a loss or a gradient differs by more than rounding.
"""

import math
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from kldiv_xp import js_div_with_logits

IGNORED = -100  # label of a token that does not count
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
TEMPERATURES = (0.5, 1.0, 4.0)
BOUND = 1e-10  # on relative differences in float64; rounding makes them up to 1e-13

Loss = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]


def one_call(student: Tensor, teacher: Tensor, labels: Tensor, beta: float, temperature: float) -> Tensor:
    """Mean over the tokens that count, by kldiv_xp."""
    return js_div_with_logits(student, teacher, beta, "mean", temperature=temperature, where=labels != IGNORED)


def composition(student: Tensor, teacher: Tensor, labels: Tensor, beta: float, temperature: float) -> Tensor:
    """The same, by PyTorch's functions."""
    log_q, log_p = ((logits / temperature).log_softmax(-1) for logits in (student, teacher))
    if beta == 0.0:
        tokens = _kl(log_p, log_q)
    elif beta == 1.0:
        tokens = _kl(log_q, log_p)
    else:
        log_m = torch.stack((log_p + math.log(beta), log_q + math.log1p(-beta))).logsumexp(0)
        tokens = beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)
    counts = labels != IGNORED
    return tokens[counts].sum() / counts.sum()


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def theirs() -> tuple[str, Loss]:
    """TRL's own function if it is installed, or the composition, with its name."""
    try:
        loss = import_module("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss
    except (ImportError, AttributeError):
        return "PyTorch's functions", composition
    return "TRL", loss


class Comparison(NamedTuple):
    """Two losses, and the relative differences of the losses and of their gradients."""

    loss: float
    other: float
    of_losses: float
    of_gradients: float

    @property
    def agree(self) -> bool:
        """Whether both differences are rounding; not so if one is NaN."""
        return self.of_losses <= BOUND and self.of_gradients <= BOUND


def compare(loss: Loss, other: Loss, beta: float, temperature: float) -> Comparison:
    """Both losses of one batch: two sequences of 16 tokens, with prompts and padding that do not count."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 2, 16, 1000, generator=generator, dtype=torch.float64)
    labels = torch.randint(1000, (2, 16), generator=generator)
    labels[0, :5] = labels[1, :3] = labels[1, 12:] = IGNORED
    student.requires_grad_()
    value, expected = (f(student, teacher, labels, beta, temperature) for f in (loss, other))
    (gradient,), (expected_gradient,) = (torch.autograd.grad(v, student) for v in (value, expected))
    of_gradients = (gradient - expected_gradient).abs().max() / expected_gradient.abs().max()
    return Comparison(value.item(), expected.item(), abs(value / expected - 1).item(), of_gradients.item())


def main() -> int:
    """Compare, print, and return the exit status."""
    name, other = theirs()
    table = Table(title=f"js_div_with_logits and {name}, in float64", title_justify="left")
    for heading in ("beta", "temperature", "kldiv_xp", name, "losses differ by", "gradients differ by"):
        table.add_column(heading, justify="right")
    agree = True
    for beta in BETAS:
        for temperature in TEMPERATURES:
            result = compare(one_call, other, beta, temperature)
            agree &= result.agree
            numbers = (f"{result.loss:.10f}", f"{result.other:.10f}")
            differences = (f"{result.of_losses:.0e}", f"{result.of_gradients:.0e}")
            table.add_row(f"{beta:g}", f"{temperature:g}", *numbers, *differences)
    console = Console(width=100, highlight=False)
    console.print(table)
    console.print(f"Losses and gradients {'agree' if agree else 'do not agree'} to {BOUND:g}, relative.")
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
