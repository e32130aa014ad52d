"""torchdistill's losses of distillation: a training run with each."""

from collections.abc import Callable
from typing import Any

import drive
import torch

drive.with_torchvision()

from torchdistill.losses import mid_level  # noqa: E402

LICENCE = "MIT"
WHAT = "`KDLoss`, `LogitStdKDLoss`, `SRDLoss`, `SSKDLoss` and `SKDInstanceLoss`: 12 steps each of a small student"
PACKAGES = ("torchdistill",)
STEPS, ROWS, WIDTH, CLASSES = 12, 16, 32, 10
losses = drive.torch_losses


class _Network(torch.nn.Module):
    """A network whose outputs of modules are collected as torchdistill collects them."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classes = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, images: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
        features = self.features(images).relu()
        return {"features": {"output": features}, "classes": {"output": self.classes(features)}}


def _of(module: str, *kinds: str) -> dict[str, str]:
    both = [f"{who}_{kind}module" for who in ("student", "teacher") for kind in kinds or ("",)]
    return {f"{name}_{key}": value for name in both for key, value in (("path", module), ("io", "output"))}


def _losses() -> dict[str, torch.nn.Module]:
    logits = _of("classes")
    return {
        "KDLoss": mid_level.KDLoss(**logits, temperature=4.0, alpha=0.5),
        "KDLoss, mean": mid_level.KDLoss(**logits, temperature=4.0, alpha=0.5, reduction="mean"),
        "LogitStdKDLoss": mid_level.LogitStdKDLoss(**logits, temperature=2.0, alpha=0.5, beta=9.0),
        "SRDLoss": mid_level.SRDLoss(**_of("features", "feature_"), **_of("classes", "linear_"), temperature=2.0),
        "SSKDLoss": mid_level.SSKDLoss(
            **_of("features", "ss_"),
            **_of("classes", "linear_"),
            kl_temp=4.0,
            ss_temp=0.5,
            tf_temp=4.0,
            ss_ratio=0.75,
            tf_ratio=1.0,
        ),
        "SKDInstanceLoss, paper": mid_level.SKDInstanceLoss(**logits, temperature=1.0, mode="paper"),
        "SKDInstanceLoss, code": mid_level.SKDInstanceLoss(**logits, temperature=1.0, mode="code"),
    }


def _run(loss: torch.nn.Module) -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    teacher, student = _Network(), _Network()
    images, labels = torch.randn(ROWS, WIDTH), torch.randint(CLASSES, (ROWS,))
    if isinstance(loss, mid_level.SSKDLoss):
        labels = labels[::4]  # three of four images are made of the first
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.no_grad():
            by_teacher = teacher(images)
        value: torch.Tensor = loss(student(images), by_teacher, labels)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def step() -> Callable[[], torch.Tensor]:
    return _run(_losses()["KDLoss"])


def figures() -> dict[str, Any]:
    steps = {name: _run(loss) for name, loss in _losses().items()}
    return {f"{name}, step {number}": step() for name, step in steps.items() for number in range(STEPS)}
