"""The implementations that the suite knows: ``kldiv_xp`` in the folder of its name, the foreign ones beside it.

What is light runs here. What needs an environment of its own (OneFlow, an old PyTorch), or takes long (Optax compiles
for every new shape), was run by ``conformance/record.py``, and its recording lies in ``conformance/recordings``.
"""

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from conformance.implementations import kldiv_xp, torch
from conformance.record import Implementation, load_corpus
from conformance.recording import read_recording

RECORDINGS = Path(__file__).parents[1] / "recordings"
RUN_HERE = ("torch", "scipy")
"""Foreign implementations that are run, by their files."""


def reference() -> Implementation:
    """``torch.nn.KLDivLoss`` on the CPU, which the others are held against unless another is named."""
    return torch.TorchNN()


@cache
def every_implementation() -> tuple[Implementation, ...]:
    """What is installed and what was recorded; what cannot run here is taken from a recording, if there is one."""
    files = [f"kldiv_xp.{module.name}" for module in pkgutil.iter_modules(kldiv_xp.__path__)]
    installed = sorted(
        (i for file in files for i in _of_file(file)), key=lambda i: kldiv_xp.CONVENTIONS.index(str(i.convention))
    )
    installed += [i for file in RUN_HERE for i in _of_file(file)]
    corpus = load_corpus()
    recordings = (read_recording(path, corpus) for path in sorted(RECORDINGS.glob("*.npz")))
    recorded = {recording.label: recording for recording in recordings}
    for number, implementation in enumerate(installed):
        if implementation.label in recorded and implementation.not_run():
            installed[number] = recorded.pop(implementation.label).standing_in_for(implementation)
    known = {implementation.label for implementation in installed}
    return (*installed, *(i for label, i in recorded.items() if label not in known))


def _of_file(file: str) -> Iterator[Implementation]:
    """Implementations of an adapter; none of a file that several adapters share."""
    module = import_module(f"{__name__}.{file}")
    yield from getattr(module, "implementations", tuple)()
