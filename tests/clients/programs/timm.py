"""timm's tasks of distillation and its loss of AugMix: training runs of small networks."""

from collections.abc import Callable
from typing import Any

import drive
import torch

drive.with_torchvision()

from timm import create_model  # noqa: E402
from timm.loss import JsdCrossEntropy  # noqa: E402
from timm.task import LogitDistillationTask, TokenDistillationTask  # noqa: E402

LICENCE = "Apache-2.0"
WHAT = "`LogitDistillationTask`, `TokenDistillationTask` and `JsdCrossEntropy`: 12 steps each of a small network"
PACKAGES = ("timm",)
SDIST = "timm==1.0.31"
TESTS = ("tests/test_task.py",)
STEPS = 12
losses = drive.torch_losses

Step = Callable[[], torch.Tensor]


def _steps(parameters: Any, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], rows: int) -> Step:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    images, labels = torch.randn(rows, 3, 32, 32), torch.randint(10, (rows,))

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(images, labels)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def _task(kind: type, student: torch.nn.Module, **options: Any) -> Step:
    teacher = create_model("test_resnet", num_classes=10)
    task = kind(student, teacher, criterion=torch.nn.CrossEntropyLoss(), verbose=False, **options).train()
    return _steps(task.get_trainable_module().parameters(), lambda x, y: task(x, y)["loss"], 8)


def _logits() -> Step:
    return _task(LogitDistillationTask, create_model("test_resnet", num_classes=10), temperature=4.0)


def _token() -> Step:
    student = create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10
    )
    return _task(TokenDistillationTask, student, distill_type="soft", temperature=2.0)


def _augmix() -> Step:
    network, loss = create_model("test_resnet", num_classes=10), JsdCrossEntropy(num_splits=3)
    return _steps(network.parameters(), lambda x, y: loss(network(x), y), 12)


def figures() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in {"logits": _logits, "token": _token, "AugMix": _augmix}.items():
        torch.manual_seed(0)
        step = make()
        found |= {f"{name}, step {number}": step() for number in range(STEPS)}
    return found


def step() -> Step:
    torch.manual_seed(0)
    return _token()
