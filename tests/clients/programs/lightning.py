"""Lightning's trainer with mixed precision, and PyTorch's scaler of gradients: distillation of a small network."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import drive
import lightning
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

LICENCE = "Apache-2.0"
WHAT = '15 steps of a `Trainer` with `precision="bf16-mixed"`, and 15 with `torch.amp.GradScaler` and float16'
PACKAGES = ("lightning", "torch")
STEPS, ROWS, CLASSES, TEMPERATURE = 15, 16, 10, 2.0
losses = drive.torch_losses


class _Distillation(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = (
            torch.nn.Sequential(torch.nn.Linear(32, width), torch.nn.ReLU(), torch.nn.Linear(width, CLASSES))
            for width in (64, 16)
        )
        self.loss = torch.nn.KLDivLoss(reduction="batchmean")
        self.found: list[torch.Tensor] = []

    def training_step(self, batch: list[torch.Tensor], number: int = 0) -> torch.Tensor:
        (images,) = batch
        with torch.no_grad():
            target = functional.softmax(self.teacher(images) / TEMPERATURE, -1)
        loss = self.loss(functional.log_softmax(self.student(images) / TEMPERATURE, -1), target) * TEMPERATURE**2
        self.found.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.student.parameters(), lr=0.1)


def _with_trainer() -> list[torch.Tensor]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.manual_seed(0)
    module, images = _Distillation(), torch.randn(STEPS * ROWS, 32)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(images), batch_size=ROWS))
    return module.found


def _with_scaler() -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    module, batch = _Distillation(), [torch.randn(ROWS, 32)]
    optimizer, scaler = module.configure_optimizers(), torch.amp.GradScaler("cpu")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = module.training_step(batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


step = _with_scaler


def figures() -> dict[str, Any]:
    scaled = _with_scaler()
    return {
        **{f"Trainer, step {number}": loss for number, loss in enumerate(_with_trainer())},
        **{f"GradScaler, step {number}": scaled() for number in range(STEPS)},
    }
