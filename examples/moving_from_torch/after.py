"""Learn from images of which each comes with three candidate digits, one of them true.

The target is learned along with the network: a distribution for each image, over its candidates alone. It is exactly
zero everywhere else, and its gradient is needed.
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from kldiv_xp.torch import KLDivLoss


@dataclass(frozen=True)
class Result:
    """What the first step gave, and what the training came to."""

    first_loss: float
    by_target: Tensor  # gradients of the first loss by the target, and by the logits that it is the softmax of
    by_logits: Tensor
    target: Tensor
    found: float  # share of the images whose likeliest digit is the true one


def train(epochs: int = 300) -> Result:
    """Train the network and the target of each image together."""
    torch.manual_seed(0)
    images, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = images.float() / 16
    others = torch.rand(len(digits), 10).scatter(1, digits[:, None], 2.0).topk(3).indices
    candidates = torch.zeros(len(digits), 10, dtype=torch.bool).scatter(1, others, True)

    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    logits = nn.Parameter(torch.zeros(len(digits), 10))
    optimizer = torch.optim.Adam([*network.parameters(), logits], lr=0.01)
    criterion = KLDivLoss(reduction="batchmean")

    first = None
    for _ in range(epochs):
        target = logits.masked_fill(~candidates, -torch.inf).softmax(-1)
        target.retain_grad()
        loss = criterion(network(images).log_softmax(-1), target)
        optimizer.zero_grad()
        loss.backward()
        if first is None:
            assert target.grad is not None
            assert logits.grad is not None
            first = loss.item(), target.grad.clone(), logits.grad.clone(), target.detach()
        optimizer.step()

    assert first is not None
    found = network(images).argmax(-1) == digits
    return Result(*first, found.double().mean().item())


if __name__ == "__main__":
    print(train())
