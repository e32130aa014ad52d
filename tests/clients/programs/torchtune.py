"""torchtune's losses of distillation, which compute the divergence themselves: training runs of tiny models."""

from collections.abc import Callable
from typing import Any

import torch
from torchtune.models.llama3 import llama3
from torchtune.modules.loss import kd_losses

from kldiv_xp import kl_div_with_logits

LICENCE = "BSD-3-Clause"
WHAT = "forward, reverse and symmetric losses, whole and in chunks: 10 steps each of a tiny language model"
PACKAGES = ("torchtune",)
STEPS, ROWS, TOKENS, WORDS = 10, 4, 16, 64

Model = torch.nn.Module


class _ForwardKLLoss(kd_losses.ForwardKLLoss):
    """The cross-entropy, of which the divergence is the part that depends on the student."""

    def forward(
        self, student_logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor, normalize: bool = True
    ) -> torch.Tensor:
        where, reduction = labels.reshape(-1) != self.ignore_index, "mean" if normalize else "sum"
        entropies = torch.special.entr(teacher_logits.softmax(-1, dtype=torch.float32)).sum(-1)[where]
        divergence = kl_div_with_logits(student_logits.float(), teacher_logits.float(), reduction, where=where)
        return divergence + (entropies.mean() if normalize else entropies.sum())


class _ReverseKLLoss(kd_losses.ReverseKLLoss):
    def forward(
        self, student_logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor, normalize: bool = True
    ) -> torch.Tensor:
        where, reduction = labels.reshape(-1) != self.ignore_index, "mean" if normalize else "sum"
        return kl_div_with_logits(teacher_logits.float(), student_logits.float(), reduction, where=where)


def losses() -> list[tuple[Any, str, Any]]:
    return [(kd_losses, "ForwardKLLoss", _ForwardKLLoss), (kd_losses, "ReverseKLLoss", _ReverseKLLoss)]


def _model(width: int) -> Model:
    return llama3(
        vocab_size=WORDS,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        embed_dim=width,
        max_seq_len=TOKENS,
        rope_base=10_000,
    )


def _run(kind: str) -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    teacher, student, loss = _model(32), _model(16), getattr(kd_losses, kind)()
    tokens, labels = torch.randint(WORDS, (2, ROWS, TOKENS)).unbind()
    labels = labels.masked_fill(torch.rand(ROWS, TOKENS) < 0.3, -100)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    if "Chunked" in kind:
        for model in (teacher, student):
            model.set_num_output_chunks(loss.num_output_chunks)

    def logits(model: Model) -> Any:
        found = model(tokens)
        return found if isinstance(found, list) else found.reshape(-1, WORDS)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.no_grad():
            by_teacher = logits(teacher)
        value: torch.Tensor = loss(logits(student), by_teacher, labels if "Chunked" in kind else labels.reshape(-1))
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def step() -> Callable[[], torch.Tensor]:
    return _run("ReverseKLLoss")


def figures() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("Forward", "Reverse", "Symmetric"):
        for kind in (f"{name}KLLoss", f"{name}KLWithChunkedOutputLoss"):
            step = _run(kind)
            found |= {f"{kind}, step {number}": step() for number in range(STEPS)}
    return found
