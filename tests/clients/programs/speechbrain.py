"""SpeechBrain's label smoothing and its wrapper of margin losses: a training run with each."""

import sys
from collections.abc import Callable
from typing import Any

import drive
import torch

try:
    import torchaudio  # noqa: F401
except OSError:  # its compiled operators, which no loss here calls, need a PyTorch with CUDA
    sys.modules["torchaudio._extension.utils"]._load_lib = lambda _: False  # type: ignore[attr-defined]

from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper, kldiv_loss

LICENCE = "Apache-2.0"
WHAT = "`kldiv_loss` with smoothed labels, in four reductions, and `LogSoftmaxWrapper`: 12 steps each"
PACKAGES = ("speechbrain",)
TESTS = ("--doctest-modules", "--pyargs", "speechbrain.nnet.losses")
STEPS, ROWS, FRAMES, WIDTH, CLASSES = 12, 4, 8, 16, 10
losses = drive.torch_losses

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _smoothed(reduction: str) -> Loss:
    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found = kldiv_loss(
            outputs.log_softmax(-1), labels, torch.full((ROWS,), FRAMES), label_smoothing=0.1, reduction=reduction
        )
        return found.mean() / FRAMES

    return loss


def _margin(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    wrapped = LogSoftmaxWrapper(AdditiveAngularMargin(margin=0.2, scale=30.0))
    cosines = torch.nn.functional.normalize(outputs.flatten(0, 1), dim=-1)
    loss: torch.Tensor = wrapped(cosines.unsqueeze(1), labels.reshape(-1, 1))
    return loss


LOSSES: dict[str, Loss] = {
    **{f"kldiv_loss, {reduction}": _smoothed(reduction) for reduction in ("mean", "batchmean", "batch", "sum")},
    "LogSoftmaxWrapper": _margin,
}


def _run(loss: Loss) -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    network = torch.nn.Linear(WIDTH, CLASSES)
    sounds, labels = torch.randn(ROWS, FRAMES, WIDTH), torch.randint(CLASSES, (ROWS, FRAMES))  # 0 is padding
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(network(sounds), labels)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def step() -> Callable[[], torch.Tensor]:
    return _run(LOSSES["kldiv_loss, batchmean"])


def figures() -> dict[str, Any]:
    steps = {name: _run(loss) for name, loss in LOSSES.items()}
    return {f"{name}, step {number}": step() for name, step in steps.items() for number in range(STEPS)}
