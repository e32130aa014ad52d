"""The loss as one writes it by hand, in NumPy, CuPy or ``jax.numpy``."""

from typing import Any

from benchmarks.workload import Workload


def loss(x: Any, y: Any, workload: Workload, xp: Any) -> Any:
    """The formula in the documentation of ``torch.nn.KLDivLoss``, zero where the target is."""
    elements = xp.exp(y) * (y - x) if workload.log_target else xp.where(y > 0, y * (xp.log(y) - x), 0)
    return elements if workload.reduction == "none" else elements.sum() / len(x)


def gradient(x: Any, y: Any, workload: Workload, xp: Any) -> Any:
    """Derivative of the ``"batchmean"`` loss by the input."""
    return (-xp.exp(y) if workload.log_target else xp.where(y > 0, -y, 0)) / len(x)
