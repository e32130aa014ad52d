"""The student in PyTorch: a module, an optimizer, a DataLoader, and the losses as modules."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from examples.distillation.problem import Array, Problem, Weights
from kldiv_xp.torch import KLDivLoss, KLDivWithLogitsLoss


class Student(nn.Module):
    """Two linear layers with ReLU between them."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.hidden = _linear(weights.hidden, weights.hidden_bias)
        self.output = _linear(weights.output, weights.output_bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``."""
        logits: Tensor = self.output(self.hidden(images).relu())
        return logits


class DistillationLoss(nn.Module):
    """The loss of the regime: mostly from the teacher, a little from the labels."""

    def __init__(self, temperature: float, teacher_weight: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.teacher_weight = teacher_weight
        self.from_teacher = KLDivWithLogitsLoss(temperature=temperature)
        self.from_labels = KLDivLoss(reduction="batchmean")

    def forward(self, logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Loss of the student's ``logits`` against the teacher's, and against one-hot ``labels``."""
        soft: Tensor = self.from_teacher(logits, teacher)
        hard: Tensor = self.from_labels(logits.log_softmax(-1), labels)
        return self.teacher_weight * self.temperature**2 * soft + (1 - self.teacher_weight) * hard


def train(problem: Problem, batches: Iterable[list[int]]) -> tuple[list[float], Weights]:
    """Loss of each step, and the weights in the end."""
    regime = problem.regime
    student = Student(problem.initial)
    criterion = DistillationLoss(regime.temperature, regime.teacher_weight)
    optimizer = torch.optim.SGD(student.parameters(), lr=regime.learning_rate)
    data = TensorDataset(*map(torch.from_numpy, (problem.images, problem.teacher, problem.labels)))
    losses = []
    for images, teacher, labels in DataLoader(data, batch_sampler=batches):
        optimizer.zero_grad()
        loss = criterion(student(images), teacher, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, _weights(student)


def _linear(weight: Array, bias: Array) -> nn.Linear:
    inputs, outputs = weight.shape
    layer = nn.Linear(inputs, outputs, dtype=torch.float64)
    layer.load_state_dict({"weight": torch.tensor(weight.T), "bias": torch.tensor(bias)})
    return layer


def _weights(student: Student) -> Weights:
    hidden, output = student.hidden, student.output
    return Weights(*(x.detach().numpy() for x in (hidden.weight.T, hidden.bias, output.weight.T, output.bias)))
