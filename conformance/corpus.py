"""The corpus: every case, as data that any framework in any environment can be run over.

A corpus is one ``.npz`` file without pickles. Its member ``manifest`` is a JSON text (as bytes) with the format's
version, the cases, and the operands that the cases name; the other members are arrays. An operand is one of

- an array in the file (bfloat16 is stored as the ``uint16`` of its bits),
- a recipe: a large array that is computed on loading, in integer arithmetic and single IEEE operations,
  so that every NumPy gives the same bits,
- a Python object, for calls that must be refused.

The digest is the SHA-256 of the manifest and of every array in it, and names the corpus in recordings and reports.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = 1
LOGIT_UNIT = 4096
PATH = Path(__file__).with_name("corpus.npz")

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Operand:
    """An array as every implementation is given it, or a Python object that it should refuse.

    NumPy has no bfloat16: ``values`` holds such an array in float32, which is exact, and ``dtype`` names the real one.
    """

    values: Any
    dtype: str | None

    @property
    def is_array(self) -> bool:
        """Whether this is an array, and not some other Python object."""
        return self.dtype is not None


@dataclass(frozen=True)
class Case:
    """Two operands, the options of the loss, and which gradients are asked for."""

    id: str
    group: str
    input: Operand
    target: Operand
    reduction: str
    log_target: bool
    gradients: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """All cases, with the digest of the data that they come from."""

    cases: tuple[Case, ...]
    digest: str

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in the order of the cases."""
        return tuple(dict.fromkeys(case.group for case in self.cases))


def load(path: Path = PATH) -> Corpus:
    """Corpus in the file at ``path``, verified against the digest inside it."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    manifest_text, stated = arrays.pop("manifest").tobytes(), arrays.pop("digest").tobytes().decode()
    digest = content_digest(manifest_text, arrays)
    if digest != stated:
        raise ValueError(f"{path} is damaged: its content has the digest {digest}, but it states {stated}")
    manifest = json.loads(manifest_text)
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}, this program reads {FORMAT}")
    operands = {name: _operand(spec, arrays) for name, spec in manifest["operands"].items()}
    return Corpus(tuple(_cases(manifest["cases"], operands)), digest)


def save(
    path: Path, cases: list[dict[str, Any]], operands: dict[str, dict[str, Any]], arrays: dict[str, Values]
) -> str:
    """Write a corpus, and return its digest."""
    manifest = json.dumps({"format": FORMAT, "cases": cases, "operands": operands}, separators=(",", ":")).encode()
    digest = content_digest(manifest, arrays)
    as_bytes = {"manifest": manifest, "digest": digest.encode()}
    members: dict[str, Any] = {**{name: np.frombuffer(text, np.uint8) for name, text in as_bytes.items()}, **arrays}
    np.savez_compressed(path, **members)
    return digest


def content_digest(manifest: bytes, arrays: Mapping[str, Values]) -> str:
    """SHA-256 of the manifest and of every array's name, dtype, shape and bytes."""
    digest = hashlib.sha256(manifest)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _cases(entries: list[dict[str, Any]], operands: Mapping[str, Operand]) -> Iterator[Case]:
    for entry in entries:
        yield Case(
            id=entry["id"],
            group=entry["group"],
            input=operands[entry["input"]],
            target=operands[entry["target"]],
            reduction=entry["reduction"],
            log_target=entry["log_target"],
            gradients=tuple(entry["gradients"]),
        )


def _operand(spec: dict[str, Any], arrays: Mapping[str, Values]) -> Operand:
    if "object" in spec:
        return Operand(spec["object"], None)
    dtype = spec["dtype"]
    if "recipe" in spec:
        values = RECIPES[spec["recipe"]](spec, arrays)
        values = from_bfloat16_bits(to_bfloat16_bits(values)) if dtype == "bfloat16" else values.astype(dtype)
    else:
        stored = arrays[spec["array"]]
        values = from_bfloat16_bits(stored) if dtype == "bfloat16" else stored
    values.flags.writeable = False
    return Operand(values, dtype)


def to_bfloat16_bits(values: Values) -> Values:
    """Bits of ``values`` rounded to bfloat16, ties to even."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bfloat16_bits(bits: Values) -> Values:
    """Values of bfloat16 numbers, in float32."""
    return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _random_integers(seed: int, shape: tuple[int, ...], bits: int) -> npt.NDArray[np.uint64]:
    """Uniform integers from SplitMix64 (Steele et al., https://doi.org/10.1145/2714064.2660195)."""
    counter = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(seed << 32)
    z = counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(64 - bits)).reshape(shape)


def _probabilities(spec: dict[str, Any], _: Mapping[str, Values]) -> Values:
    """Rows of skewed probabilities, zeros among them: cubes of integers, divided by their sum."""
    weights = _random_integers(spec["seed"], tuple(spec["shape"]), bits=20) ** np.uint64(3) >> np.uint64(20)
    result: Values = weights.astype(np.float64) / weights.sum(axis=-1, keepdims=True).astype(np.float64)
    return result


def _log_probabilities(spec: dict[str, Any], arrays: Mapping[str, Values]) -> Values:
    """Rows of log-softmax: logits less the logarithm of their sum of exponentials, which is data."""
    return (logits(spec["seed"], tuple(spec["shape"])) - arrays[spec["log_sums"]]) / LOGIT_UNIT


def logits(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Uniform logits in [-8, 8), in units of one over ``LOGIT_UNIT``."""
    return _random_integers(seed, shape, bits=16).astype(np.int64) - 8 * LOGIT_UNIT


RECIPES: dict[str, Callable[[dict[str, Any], Mapping[str, Values]], Values]] = {
    "probabilities": _probabilities,
    "log_probabilities": _log_probabilities,
}
