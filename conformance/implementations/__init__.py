"""The implementations that the suite knows: ``kldiv_xp`` in the folder of its name, the foreign ones beside it.

What is light runs here. What needs an environment of its own (OneFlow, an old PyTorch), or takes long (Optax compiles
for every new shape), was run by ``conformance/record.py``, and its recording lies in ``conformance/recordings``.
"""

from functools import cache
from pathlib import Path

from conformance.implementations import scipy, torch
from conformance.implementations.kldiv_xp import (
    array_api_strict,
    cubed,
    cupy,
    dask,
    dpnp,
    jax,
    jax_sharded,
    mlx,
    ndonnx,
    numpy,
    paths,
    sparse,
    torch_dtensor,
    torch_export,
    torch_func,
)
from conformance.implementations.kldiv_xp import torch as kldiv_xp_torch
from conformance.record import Implementation, load_corpus
from conformance.recording import read_recording

CONVENTIONS = ("oneflow", "torch", "limit")
RECORDINGS = Path(__file__).parents[1] / "recordings"

_KLDIV_XP = (
    numpy,
    array_api_strict,
    jax,
    jax_sharded,
    kldiv_xp_torch,
    torch_func,
    torch_export,
    torch_dtensor,
    mlx,
    dask,
    cubed,
    ndonnx,
    sparse,
    dpnp,
    cupy,
    paths,
)
_FOREIGN = (torch, scipy)


def reference() -> Implementation:
    """``torch.nn.KLDivLoss`` on the CPU, which the others are held against unless another is named."""
    return torch.TorchNN()


@cache
def every_implementation() -> tuple[Implementation, ...]:
    """What is installed and what was recorded; what cannot run here is taken from a recording, if there is one."""
    installed = [i for convention in CONVENTIONS for module in _KLDIV_XP for i in module.implementations(convention)]
    installed += [i for module in _FOREIGN for i in module.implementations()]
    corpus = load_corpus()
    recorded = {i.label: i for i in (read_recording(path, corpus) for path in sorted(RECORDINGS.glob("*.npz")))}
    here = [recorded.pop(i.label, i) if i.not_run() else i for i in installed]
    return (*here, *(i for label, i in recorded.items() if label not in {i.label for i in here}))
