"""Run an implementation over the corpus, and write its outcomes to a recording.

To record a framework in its own environment, copy this file, the corpus and an adapter there. It needs the framework,
Python 3.7 or newer and NumPy 1.21 or newer, and nothing else of this project::

    python record.py oneflow.py --corpus corpus.npz --output recordings

A corpus is one ``.npz`` file without pickles. Its member ``manifest`` is a JSON text (as bytes) with the format's
version, the cases, and the operands that the cases name; the other members are arrays. An operand is one of

- an array in the file (bfloat16 is stored as the ``uint16`` of its bits),
- a recipe: a large array that is computed on loading, in integer arithmetic and single IEEE operations,
  so that every NumPy gives the same bits,
- a Python object, for calls that must raise.

An array may have a memory layout, one of ``LAYOUTS``. A case may have an upstream gradient, the cotangent (ones by
default), and says how the loss is called: one of ``CALLS``.

The digest is the SHA-256 of the manifest and of every array. It names the corpus in recordings and reports.

A recording is also one ``.npz`` file without pickles. Its ``manifest`` has the implementation, its environment, the
corpus digest, and an outcome for each case: a kind of error, or the place of loss and gradients in the other members.
Each of these holds all results of one dtype, concatenated. For an array with more than ``KEPT`` elements, the recording
keeps a sample from all rows and columns. An outcome also names the arguments that the call modified.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import types
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]

CORPUS_FORMAT = 2
RECORDING_FORMAT = 2
KEPT = 400
"""Largest number of elements kept of a result; the grids of special values are smaller."""
LONGEST_TEXT = 300
LOGIT_UNIT = 4096
CORPUS = Path(__file__).with_name("corpus.npz")
LOGITS = Path(__file__).with_name("logits.npz")
"""The corpus of the divergences from logits, with its own digest: recordings over the other one stay valid."""
FOUND = Path(__file__).with_name("found.npz")
"""The corpus of what the fuzzer has found, of both kinds."""

CALLS = {
    "once": "one call, one backward pass",
    "twice": "the same call on the same arrays again, whose outcome counts",
    "others between": "another call on other arrays, before the results of the first are read and differentiated",
    "backward twice": "a second backward pass, whose gradients count",
    "one array": "one array as both arguments; the gradient by the input is the one by that array",
    "in a graph": "arguments that are results of other operations, and a loss that others go on with",
    "changed after": "an input that is overwritten between the forward and the backward pass",
}
"""How the loss is called, with descriptions."""


@dataclass(frozen=True)
class Operand:
    """An array to pass to an implementation, or a Python object that it should reject.

    NumPy has no bfloat16: ``values`` is then float32, which is exact, and ``dtype`` is ``"bfloat16"``.
    """

    values: Any
    dtype: str | None
    layout: str = "contiguous"
    """Memory layout: one of ``LAYOUTS``."""

    @property
    def is_array(self) -> bool:
        """Whether this is an array rather than another Python object."""
        return self.dtype is not None

    def laid_out(self) -> Values:
        """Copy of the values, in the layout."""
        return LAYOUTS[self.layout](self.values)


@dataclass(frozen=True)
class FromLogits:
    """The options of a divergence between the softmaxes of logits, beside the reduction."""

    beta: float
    """Share of the teacher in the mixture: 0 is ``KL(teacher || student)``, 1 is ``KL(student || teacher)``."""
    temperature: float
    axis: int
    where: Operand | None = None
    """Mask of the rows that count; ``None`` for all."""


@dataclass(frozen=True)
class Case:
    """Two operands, the options of the loss, the gradients to compute, and the way of calling the loss."""

    id: str
    group: str
    input: Operand
    target: Operand
    reduction: str
    log_target: bool
    gradients: tuple[str, ...]
    cotangent: Operand | None = None
    """Upstream gradient, of the loss's shape; ``None`` for ones."""
    call: str = "once"
    """One of ``CALLS``."""
    logits: FromLogits | None = None
    """Options of the divergence, if input and target are logits; ``log_target`` then has no meaning."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """The loss and the gradients to compute."""
        return ("loss", *self.gradients)

    @property
    def counts(self) -> Values:
        """Mask of the rows of logits that count, in the shape of the rows."""
        assert self.logits is not None
        shape = np.moveaxis(self.input.values, self.logits.axis, -1).shape[:-1]
        return np.broadcast_to(True if self.logits.where is None else self.logits.where.values, shape)

    @property
    def divisor(self) -> int:
        """Number that the reduction of a divergence from logits divides the sum of the rows by."""
        rows = self.counts
        if self.reduction == "mean":
            return int(rows.sum())
        return rows.shape[0] if self.reduction == "batchmean" and rows.ndim else 1

    @property
    def layouts(self) -> tuple[str, ...]:
        """Layouts of the arrays other than contiguous."""
        operands = (self.input, self.target, self.cotangent)
        found = {o.layout for o in operands if o is not None and o.layout != "contiguous"}
        return tuple(sorted(found))

    def simplified(self) -> Case:
        """The same case in its simplest form: one call, on contiguous arrays."""

        def contiguous(operand: Operand) -> Operand:
            return replace(operand, layout="contiguous")

        return replace(
            self,
            input=contiguous(self.input),
            target=contiguous(self.target),
            cotangent=None if self.cotangent is None else contiguous(self.cotangent),
            call="one array" if self.call == "one array" else "once",
        )


@dataclass(frozen=True)
class Corpus:
    """All cases, with the digest of the data that they come from."""

    cases: tuple[Case, ...]
    digest: str

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in the order of the cases."""
        return tuple(dict.fromkeys(case.group for case in self.cases))


@dataclass(frozen=True)
class Result:
    """A NumPy array, with the dtype of the implementation's result (NumPy has no bfloat16)."""

    values: Values
    """All elements, or a flat array of those that a recording kept."""
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What an implementation gave for a case: loss and gradients, or the kind of error."""

    loss: Result | None = None
    gradients: Mapping[str, Result] = field(default_factory=dict)
    error: str | None = None
    unsupported: str | None = None
    """Why the loss or a gradient is missing without an error."""
    changed: tuple[str, ...] = ()
    """Arguments that the call modified."""
    left_out: str | None = None
    """Why the case was not run."""

    def quantity(self, name: str) -> Result | None:
        """The loss, or the gradient by the argument of this name."""
        return self.loss if name == "loss" else self.gradients.get(name)


class UnsupportedError(Exception):
    """The implementation cannot compute this case; neither a refusal nor a wrong result.

    Parameters
    ----------
    reason
        Why, for the report.
    loss
        The loss, if only the gradients are missing.
    """

    def __init__(self, reason: str, loss: Any = None) -> None:
        super().__init__(reason)
        self.loss = loss


class Implementation:
    """Base class of the adapters of implementations.

    An adapter defines three methods: :meth:`given` makes an array of the library, :meth:`evaluate` calls the loss, and
    :meth:`result` reads an array. Adapters of libraries that record operations and differentiate them afterwards derive
    from :class:`Taped` instead.

    Parameters
    ----------
    name
        Name in reports: the name that users import.
    library
        Package name of the library.
    convention
        Convention of ``kldiv_xp``; ``None`` for foreign implementations.
    device
        Kind of device: ``"cpu"`` or ``"cuda"``.
    compiled
        Whether a compiler processes the whole loss rather than single operations.

    Attributes
    ----------
    gradients_by
        Source of the gradients, in a word or two, for the support tables.
    lazy
        Whether the library computes only on request.
    distributed
        What the arrays are distributed over, for example ``"2 processes"``; empty if they are not.
    layouts
        Memory layouts that arrays of the library can have, of ``LAYOUTS``.
    mutable
        Whether arrays of the library are mutable.
    calls
        Which of ``CALLS`` the method ``evaluate`` handles itself.
    contracts
        Whether the compiler fuses a product and a sum into one operation with one rounding, as on some processors.
    slow_to_start
        Whether a call with a new shape or new options takes long: to compile, to schedule, or to send.
    losses, divergences
        Whether there is the loss of log-probabilities, and whether there are divergences from logits.
    """

    gradients_by = ""
    lazy = False
    distributed = ""
    layouts: Iterable[str] = ()
    mutable = True
    contracts = False
    calls: Iterable[str] = ()
    slow_to_start = False
    losses = True
    divergences = False

    def __init__(
        self,
        name: str,
        library: str,
        *,
        convention: str | None = None,
        device: str = "cpu",
        compiled: bool = False,
    ) -> None:
        self.name = name
        self.library = library
        self.convention = convention
        self.device = device
        self.compiled = compiled
        if compiled:
            self.slow_to_start = True

    @property
    def label(self) -> str:
        """Unique name: with the convention, or for a foreign implementation with the version."""
        return f"{self.name} [{self.convention}]" if self.convention else f"{self.name} {self.version()}".rstrip()

    def version(self) -> str:
        """Version of the library; empty if it is not installed."""
        raise NotImplementedError

    def not_run(self) -> str | None:
        """Why this implementation cannot run here; ``None`` if it can."""
        return None

    def left_out(self, case: Case) -> str | None:
        """Why an ordinary run skips this case; ``None`` if it does not."""
        return None

    def takes(self, case: Case) -> bool:
        """Whether the implementation has what the case calls; a divergence knows no conventions."""
        if case.logits is None:
            return self.losses
        return self.divergences and self.convention in (None, "oneflow")

    def run(self, case: Case) -> Outcome:
        """Outcome of a case, which may be an error that the implementation raises."""
        try:
            with np.errstate(all="ignore"):
                return self.compute(case)
        except UnsupportedError as reason:
            return Outcome(unsupported=str(reason))
        except Exception as error:
            return Outcome(error=_described(error))

    def compute(self, case: Case) -> Outcome:
        """Outcome of the call that the case describes."""
        missing = sorted(set(case.layouts) - set(self.layouts))
        if missing:
            raise UnsupportedError(f"no array of {self.library} is {missing[0]}")
        operands = {"input": case.input, "target": case.target, "cotangent": case.cotangent}
        given = {name: self.given(operand) for name, operand in operands.items() if operand is not None}
        if case.call == "one array":
            given["target"] = given["input"]
        watched = [name for name in given if self.mutable and case.group != "refused"]
        before = {name: self._bytes(given[name]) for name in watched}
        outcome = self._outcome(case, given["input"], given["target"], given.get("cotangent"))
        changed = tuple(name for name in watched if self._bytes(given[name]) != before[name])
        return replace(outcome, changed=changed)

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and gradients of the call that the case describes."""
        if case.call == "one array" and case.gradients:
            both = replace(case, gradients=("input", "target"))
            loss, gradients = self.evaluate(both, input, target, cotangent)
            parts = [gradients[name] for name in both.gradients]
            return loss, {"input": None if any(part is None for part in parts) else parts[0] + parts[1]}
        if case.call == "twice":
            self.evaluate(case, input, target, cotangent)
        elif case.call == "others between":
            results = self.evaluate(case, input, target, cotangent)
            self.evaluate(case, target, input, cotangent)
            return results
        elif case.call not in ("once", "one array", *self.calls):
            raise UnsupportedError(f"{self.library} computes loss and gradients in one call")
        return self.evaluate(case, input, target, cotangent)

    def given(self, operand: Operand) -> Any:
        """New array of the library with the values and the layout of an operand; Python objects unchanged."""
        raise NotImplementedError

    def result(self, array: Any) -> Result:
        """Values of an array of the library; :func:`as_result` converts a NumPy array."""
        raise NotImplementedError

    def evaluate(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss, and the gradients of ``case.gradients`` for the upstream gradient ``cotangent``.

        A cotangent of ``None`` means ones: with ``"none"`` the gradients are then those of the sum of the loss.
        """
        raise NotImplementedError

    def _outcome(self, case: Case, input: Any, target: Any, cotangent: Any) -> Outcome:
        """Outcome of the call, which may be an error."""
        try:
            loss, gradients = self.called(case, input, target, cotangent)
            absent = [name for name in case.gradients if gradients.get(name) is None]
            return Outcome(
                self.result(loss),
                {name: self.result(gradients[name]) for name in case.gradients if name not in absent},
                unsupported=f"{self.library} gives no gradient by the {absent[0]}, and no error" if absent else None,
            )
        except UnsupportedError as reason:
            loss = None if reason.loss is None else self.result(reason.loss)
            return Outcome(loss, unsupported=str(reason))
        except Exception as error:
            return Outcome(error=_described(error))

    def _bytes(self, array: Any) -> bytes:
        """Contents of an array, to detect modification."""
        return self.result(array).values.tobytes()


class Taped(Implementation):
    """Base class for libraries that record operations, and differentiate them afterwards."""

    def tracked(self, array: Any) -> Any:
        """An array with the same values that gradients can be computed for."""
        raise NotImplementedError

    def loss(self, case: Case) -> Callable[[Any, Any], Any]:
        """Function of input and target, with the options of the case."""
        raise NotImplementedError

    def gradients(self, loss: Any, arrays: Sequence[Any], cotangent: Any, *, again: bool) -> Sequence[Any]:
        """Gradients by the arrays, for an upstream gradient; ``None`` means ones.

        ``again`` keeps what another backward pass needs.
        """
        raise NotImplementedError

    def overwrite(self, array: Any) -> None:
        """Write other values into a computed array."""
        raise UnsupportedError(f"arrays of {self.library} cannot be written to")

    def called(self, case: Case, input: Any, target: Any, cotangent: Any) -> tuple[Any, Mapping[str, Any]]:
        """Loss and gradients of the call that the case describes."""
        function = self.loss(case)
        one_array = input is target
        arguments = {"input": input, "target": target}
        leaves = {name: self.tracked(arguments[name]) for name in case.gradients}
        arguments.update(leaves)
        if one_array:
            arguments["target"] = arguments["input"]
        if case.call in ("in a graph", "changed after"):
            # Only for arguments that are differentiated: a copy of the others tests nothing.
            arguments.update((name, leaf * 1) for name, leaf in leaves.items())
        if case.call == "twice":
            self._differentiated(function(*arguments.values()), leaves, cotangent)
        loss = function(*arguments.values())
        if case.call == "others between":
            others = function(arguments["target"], arguments["input"])
            gradients = self._differentiated(loss, leaves, cotangent)
            self._differentiated(others, leaves, cotangent)
            return loss, gradients
        if case.call == "changed after":
            self.overwrite(arguments["input"])
        if case.call == "backward twice":
            self._differentiated(loss, leaves, cotangent, again=True)
        if case.call == "in a graph" and leaves and cotangent is not None:
            return loss, self._differentiated((loss * cotangent).sum(), leaves, None)
        return loss, self._differentiated(loss, leaves, cotangent)

    def _differentiated(
        self, loss: Any, leaves: Mapping[str, Any], cotangent: Any, *, again: bool = False
    ) -> Mapping[str, Any]:
        if not leaves:
            return {}
        return dict(zip(leaves, self.gradients(loss, list(leaves.values()), cotangent, again=again)))


def as_result(values: Any, dtype: Any) -> Result:
    """Result with a copy of ``values``, in float32 for bfloat16, which NumPy lacks."""
    name = str(dtype).rpartition(".")[-1]  # "torch.float32" and "array_api_strict.float32" are float32
    array = np.array(values)
    return Result(array.astype(np.float32) if name == "bfloat16" else array, name, array.shape)


def load_corpus(path: Path = CORPUS) -> Corpus:
    """Corpus in the file at ``path``, verified against the digest inside it."""
    with np.load(str(path), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    manifest_text, stated = arrays.pop("manifest").tobytes(), arrays.pop("digest").tobytes().decode()
    digest = content_digest(manifest_text, arrays)
    if digest != stated:
        raise ValueError(f"{path} is damaged: its content has the digest {digest}, but it states {stated}")
    manifest = json.loads(manifest_text.decode())
    if manifest["format"] != CORPUS_FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}, this program reads {CORPUS_FORMAT}")
    operands = {name: _operand(spec, arrays) for name, spec in manifest["operands"].items()}
    return Corpus(tuple(_cases(manifest["cases"], operands)), digest)


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
        # A field missing from an entry has its default value.
        optional = {"call": entry["call"]} if "call" in entry else {}
        if "cotangent" in entry:
            optional["cotangent"] = operands[entry["cotangent"]]
        if "logits" in entry:
            given = dict(entry["logits"])
            where = given.pop("where", None)
            optional["logits"] = FromLogits(where=None if where is None else operands[where], **given)
        yield Case(
            id=entry["id"],
            group=entry["group"],
            input=operands[entry["input"]],
            target=operands[entry["target"]],
            reduction=entry["reduction"],
            log_target=entry.get("log_target", False),
            gradients=tuple(entry["gradients"]),
            **optional,
        )


def _operand(spec: dict[str, Any], arrays: Mapping[str, Values]) -> Operand:
    if "object" in spec:
        return Operand(spec["object"], None)
    dtype = spec["dtype"]
    if "recipe" in spec:
        values = _RECIPES[spec["recipe"]](spec, arrays)
        values = from_bfloat16_bits(to_bfloat16_bits(values)) if dtype == "bfloat16" else values.astype(dtype)
    else:
        stored = arrays[spec["array"]]
        values = from_bfloat16_bits(stored) if dtype == "bfloat16" else stored
    if "rows" in spec:
        values = np.repeat(values, spec["rows"], axis=0)
    values.flags.writeable = False
    return Operand(values, dtype, spec.get("layout", "contiguous"))


def _transposed(values: Values) -> Values:
    return values.swapaxes(-1, -2).copy(order="C").swapaxes(-1, -2)


def _with_gaps(values: Values) -> Values:
    """Every second element of every second row: in the middle of an array whose other elements are NaN."""
    whole = np.full([2 * n + 1 for n in values.shape], np.nan, values.dtype)
    part = whole[(slice(1, None, 2),) * values.ndim]
    part[...] = values
    return part


def _of_one_row(values: Values) -> Values:
    return _expanded(values[:1], values)


def _of_one_element(values: Values) -> Values:
    return _expanded(values[(slice(1),) * values.ndim], values)


def _expanded(part: Values, values: Values) -> Values:
    whole = np.broadcast_to(part.copy(), values.shape)
    if not np.array_equal(whole, values, equal_nan=True):
        raise ValueError("an array that repeats a part of it must have equal values there")
    return whole


LAYOUTS: dict[str, Callable[[Values], Values]] = {
    "contiguous": lambda values: values.copy(order="C"),
    "transposed": _transposed,
    "in Fortran order": lambda values: values.copy(order="F"),
    "sliced": _with_gaps,
    "reversed": lambda values: np.flip(np.flip(values).copy()),
    "expanded from a row": _of_one_row,
    "expanded from an element": _of_one_element,
}
"""Memory layouts: functions that copy an array into the layout."""
NO_NEGATIVE_STRIDES = tuple(layout for layout in LAYOUTS if layout != "reversed")
"""Layouts of a library whose strides are never negative."""


def storage(values: Values) -> tuple[Values, tuple[int, ...], int]:
    """Memory of an array as a 1-d array, with the strides and the offset of the array in elements."""
    whole = values
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    size = values.itemsize
    offset = (values.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) // size
    return whole.ravel(order="K"), tuple(stride // size for stride in values.strides), offset


def to_bfloat16_bits(values: Values) -> Values:
    """Bits of ``values`` rounded to bfloat16, ties to even."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bfloat16_bits(bits: Values) -> Values:
    """Values of bfloat16 numbers, in float32."""
    return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def random_integers(seed: int, shape: tuple[int, ...], bits: int) -> npt.NDArray[np.uint64]:
    """Uniform integers from SplitMix64 (Steele et al., https://doi.org/10.1145/2714064.2660195)."""
    counter = np.arange(1, size_of(shape) + 1, dtype=np.uint64) + np.uint64(seed << 32)
    z = counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(64 - bits)).reshape(shape)


def _probabilities(spec: dict[str, Any], _: Mapping[str, Values]) -> Values:
    """Rows of skewed probabilities, including zeros: cubes of integers, divided by their sum."""
    weights = random_integers(spec["seed"], tuple(spec["shape"]), bits=20) ** np.uint64(3) >> np.uint64(20)
    weights = np.maximum(weights, np.uint64(spec.get("smallest", 0)))
    result: Values = weights.astype(np.float64) / weights.sum(axis=-1, keepdims=True).astype(np.float64)
    return result


def _log_probabilities(spec: dict[str, Any], arrays: Mapping[str, Values]) -> Values:
    """Rows of log-softmax: logits minus the logarithm of their sum of exponentials, which the corpus stores."""
    return (logits(spec["seed"], tuple(spec["shape"])) - arrays[spec["log_sums"]]) / LOGIT_UNIT


def logits(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Uniform logits in [-8, 8), in units of one over ``LOGIT_UNIT``."""
    return random_integers(seed, shape, bits=16).astype(np.int64) - 8 * LOGIT_UNIT


def _logits(spec: dict[str, Any], _: Mapping[str, Values]) -> Values:
    """Logits of the student, or of the teacher with ``near``: numbers of one seed, plus others over ``near``."""
    values: Values = logits(spec["seed"], tuple(spec["shape"])) / LOGIT_UNIT
    if "near" not in spec:
        return values
    noise: Values = logits(spec["seed"] + 1, tuple(spec["shape"])) / LOGIT_UNIT / spec["near"]
    return values + noise


def _constant(spec: dict[str, Any], _: Mapping[str, Values]) -> Values:
    return np.full(spec["shape"], spec["value"])


def _uneven(spec: dict[str, Any], _: Mapping[str, Values]) -> Values:
    """Multiples of 1/4 between -2 and 2, exact in every dtype: upstream gradients of both signs, the first zero."""
    result: Values = random_integers(spec["seed"], tuple(spec["shape"]), bits=4).astype(np.float64) / 4 - 2
    result.flat[0] = 0
    return result


_RECIPES: dict[str, Callable[[dict[str, Any], Mapping[str, Values]], Values]] = {
    "probabilities": _probabilities,
    "log_probabilities": _log_probabilities,
    "logits": _logits,
    "constant": _constant,
    "uneven": _uneven,
}


def size_of(shape: Iterable[int]) -> int:
    """Number of elements of an array of this shape."""
    return int(np.prod(tuple(shape), dtype=np.int64))


def kept(size: int) -> npt.NDArray[np.int64]:
    """Flat indices of the elements that a recording keeps of an array of this size."""
    if size <= KEPT:
        return np.arange(size, dtype=np.int64)
    # A prime stride visits every column; an even one would revisit a few.
    indices = np.arange(KEPT - 1, dtype=np.int64) * 7919 % size
    return np.unique(np.append(indices, size - 1))


def write_recording(path: Path, implementation: Implementation, corpus: Corpus, outcomes: Iterable[Outcome]) -> None:
    """Write the outcomes of ``implementation``, one for each case of ``corpus`` in their order."""
    pools = _Pools()
    entries = [_entry(case, outcome, pools) for case, outcome in zip(corpus.cases, outcomes)]
    manifest = {
        "format": RECORDING_FORMAT,
        "corpus": corpus.digest,
        "implementation": {
            "name": implementation.name,
            "library": implementation.library,
            "version": implementation.version(),
            "convention": implementation.convention,
            "device": implementation.device,
            "compiled": implementation.compiled,
            "contracts": implementation.contracts,
        },
        "environment": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "platform": f"{platform.system()} {platform.machine()}",
            "date": datetime.date.today().isoformat(),
            **_revision(),
        },
        "outcomes": entries,
    }
    text = json.dumps(manifest, separators=(",", ":")).encode()
    members: dict[str, Any] = {"manifest": np.frombuffer(text, np.uint8)}
    members.update(pools.members())
    # Replace an existing recording only by a complete one.
    path = Path(os.path.realpath(str(path)))
    temporary = path.with_name(f".recording-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **members)
        temporary.replace(path)
    finally:
        if temporary.exists():
            temporary.unlink()


def file_name(implementation: Implementation, corpus: Corpus) -> str:
    """Name of an implementation's recording; one that computes losses and divergences has two."""
    both = implementation.losses and implementation.divergences and corpus.cases[0].logits is not None
    name = re.sub("[^A-Za-z0-9._]+", "-", implementation.label).strip("-")
    return f"{name}{'-from-logits' if both else ''}.npz"


def _revision() -> dict[str, str]:
    """Commit of the checkout of this file, and so of ``kldiv_xp`` in its recordings."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": text.decode().strip()}


def _entry(case: Case, outcome: Outcome, pools: _Pools) -> dict[str, Any]:
    entry: dict[str, Any] = {"case": case.id}
    for reason in ("error", "unsupported", "left_out"):
        text = getattr(outcome, reason)
        if text is not None:
            entry[reason] = printable(text)
    if outcome.changed:
        entry["changed"] = list(outcome.changed)
    results = {name: result for name, result in ((q, outcome.quantity(q)) for q in case.quantities) if result}
    if results:
        entry["results"] = {
            name: {"dtype": result.dtype, "shape": list(result.shape), "at": pools.add(result)}
            for name, result in results.items()
        }
    return entry


class _Pools:
    """All results of each dtype, concatenated; equal results are stored once."""

    def __init__(self) -> None:
        self._arrays: dict[str, list[Values]] = {}
        self._lengths: dict[str, int] = {}
        self._places: dict[tuple[str, bytes], int] = {}

    def add(self, result: Result) -> int:
        """Index of the result's first element among those of its dtype."""
        array = result.values.ravel()
        array = array[kept(array.size)]
        if result.dtype == "bfloat16":
            array = to_bfloat16_bits(array)
        key = result.dtype, array.tobytes()
        if key not in self._places:
            self._places[key] = self._lengths.get(result.dtype, 0)
            self._arrays.setdefault(result.dtype, []).append(array)
            self._lengths[result.dtype] = self._places[key] + array.size
        return self._places[key]

    def members(self) -> dict[str, Values]:
        """One array for each dtype."""
        return {dtype: np.concatenate(arrays) for dtype, arrays in self._arrays.items()}


def _described(error: Exception) -> str:
    """Kind of an error, and the first line of its message."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"


def printable(text: str) -> str:
    """Text without control characters, cut to the longest length."""
    text = re.sub("\x1b\\[[0-9;]*m", "", text)  # the colours of a terminal
    return "".join(character if character.isprintable() else "?" for character in text)[:LONGEST_TEXT]


def _adapters(path: Path) -> list[Implementation]:
    """Implementations of the adapter in a file."""
    spec = importlib.util.spec_from_file_location(f"adapter_{path.stem}", str(path))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    if "conformance" not in sys.modules:
        # Adapters import others of their folder by their names in the suite, whose own modules need more than NumPy.
        for name in ("conformance", "conformance.implementations"):
            package: Any = types.ModuleType(name)
            package.__path__ = [str(path.parent)]
            sys.modules[name] = package
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "implementations"):
        raise ImportError(f"{path} has no function implementations()")
    return list(module.implementations())


def _outcomes(implementation: Implementation, corpus: Corpus, *, sample: bool) -> Iterator[Outcome]:
    for number, case in enumerate(corpus.cases, start=1):
        left_out = implementation.left_out(case) if sample else None
        outcome = implementation.run(case) if left_out is None else Outcome(left_out=left_out)
        if number % 100 == 0 or number == len(corpus.cases):
            ending = "\n" if number == len(corpus.cases) else "\r"
            print(f"{implementation.label}: {number} of {len(corpus.cases)} cases", end=ending, file=sys.stderr)
        yield outcome


def _obstacle(path: Path, used: Iterable[Path]) -> str | None:
    """Why no recording can be written to ``path``; it may replace a recording, but no file that this command reads."""
    if path.is_dir():
        return "it is a directory"
    for file in used:
        if path.exists() and path.samefile(str(file)):
            return f"this command reads it as {file}"
    return None


def main() -> int:
    """Record every implementation of an adapter."""
    parser = argparse.ArgumentParser(description="Run implementations over the corpus, and write their recordings.")
    parser.add_argument("adapter", type=Path, help="Python file with a function implementations()")
    parser.add_argument(
        "--corpus",
        type=Path,
        action="append",
        help="default: corpus.npz beside this program; given twice, each implementation runs over the one that it has",
    )
    parser.add_argument("--output", type=Path, default=Path(), help="directory for the recordings; default: this one")
    parser.add_argument("-i", "--implementation", metavar="TEXT", default="", help="only those with TEXT in their name")
    parser.add_argument("--sample", action="store_true", help="skip the cases that an ordinary run of the suite skips")
    options = parser.parse_args()
    read = [options.adapter, *(options.corpus or [CORPUS])]
    for given in read:
        if not given.is_file():
            parser.error(f"there is no file {given}")
    corpora = []
    for given in read[1:]:
        try:
            corpora.append(load_corpus(given))
        except Exception as error:  # NumPy does not document what it raises for a damaged file
            parser.error(f"{given} is not a corpus of this suite: {error}")
    # Check before running any case: recording may take hours.
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=str(options.output)).close()
    except OSError as error:
        parser.error(f"cannot write into {options.output}: {error.strerror}; --output takes a directory")
    try:
        implementations = [i for i in _adapters(options.adapter) if options.implementation in i.label]
    except ImportError as error:
        parser.error(f"{options.adapter} cannot be used here: {error}")
    if not implementations:
        parser.error(f"{options.adapter} has no implementation with {options.implementation!r} in its name")
    over = [(i, corpus) for i in implementations for corpus in corpora if all(map(i.takes, corpus.cases))]
    if not over:
        names = " or ".join(map(str, read[1:]))
        parser.error(f"{options.adapter} has no implementation of what {names} calls; --corpus names another")
    recordings: dict[Path, tuple[Implementation, Corpus]] = {}
    for implementation, corpus in over:
        reason = implementation.not_run()
        if reason is not None:
            print(f"{implementation.label}: not run: {reason}", file=sys.stderr)
            continue
        path = options.output / file_name(implementation, corpus)
        if path in recordings:
            parser.error(f"{recordings[path][0].label} and {implementation.label} would both be written to {path}")
        obstacle = _obstacle(path, read)
        if obstacle is not None:
            parser.error(f"cannot write {path}: {obstacle}; choose another --output")
        recordings[path] = implementation, corpus
    for path, (implementation, corpus) in recordings.items():
        try:
            write_recording(path, implementation, corpus, _outcomes(implementation, corpus, sample=options.sample))
        except OSError as error:
            print(f"error: cannot write {path}: {error.strerror or error}", file=sys.stderr)
            return 2
        print(path)
    return 0


if __name__ == "__main__":
    # Adapters import this module by its name in the suite.
    sys.modules["conformance.record"] = sys.modules["__main__"]
    raise SystemExit(main())
