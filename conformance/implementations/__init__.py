"""The implementations of the suite: ``kldiv_xp`` in the folder of that name, and the foreign ones.

Small libraries run here. ``conformance/record.py`` recorded those that need their own environment (OneFlow, old
PyTorch) or take long (Optax compiles for every new shape); the recordings are in ``conformance/recordings``.
"""

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from conformance.implementations import composition, kldiv_xp, torch
from conformance.record import FOUND, LOGITS, Corpus, Implementation, load_corpus
from conformance.recording import Recorded, read_recording

RECORDINGS = Path(__file__).parents[1] / "recordings"
RUN_HERE = ("torch", "scipy")
"""Foreign implementations that run here, by their files."""


def reference() -> Implementation:
    """The default reference: ``torch.nn.KLDivLoss`` on the CPU."""
    return torch.TorchNN()


def reference_from_logits() -> Implementation:
    """The default reference for the divergences from logits, which is no candidate itself."""
    return composition.Composition()


@cache
def corpora() -> tuple[Corpus, Corpus, Corpus]:
    """The corpus of the loss, that of the divergences from logits, and what the fuzzer has found."""
    return load_corpus(), load_corpus(LOGITS), load_corpus(FOUND)


@cache
def every_implementation() -> tuple[Implementation, ...]:
    """Installed and recorded implementations. A recording replaces an implementation that cannot run here."""
    files = [f"kldiv_xp.{module.name}" for module in pkgutil.iter_modules(kldiv_xp.__path__)]
    installed = sorted(
        (i for file in files for i in _of_file(file)), key=lambda i: kldiv_xp.CONVENTIONS.index(str(i.convention))
    )
    installed += [i for file in RUN_HERE for i in _of_file(file)]
    recorded: dict[str, Recorded] = {}
    for path in sorted(RECORDINGS.glob("*.npz")):
        recording = read_recording(path, *corpora())
        other = recorded.get(recording.label)
        recorded[recording.label] = recording.beside(other) if other else recording
    for number, implementation in enumerate(installed):
        if implementation.label in recorded and implementation.not_run():
            installed[number] = recorded.pop(implementation.label).standing_in_for(implementation)
    known = {implementation.label for implementation in installed}
    return (*installed, *(i for label, i in recorded.items() if label not in known))


def _of_file(file: str) -> Iterator[Implementation]:
    """Implementations of an adapter; none for a file that several adapters share."""
    module = import_module(f"{__name__}.{file}")
    yield from getattr(module, "implementations", tuple)()
