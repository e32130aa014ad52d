"""Reading recordings, which are untrusted: the reader validates every part of a file, and executes none."""

import io
import re
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from conformance.record import (
    KEPT,
    LONGEST_TEXT,
    RECORDING_FORMAT,
    Case,
    Corpus,
    Implementation,
    Outcome,
    Result,
    Values,
    from_bfloat16_bits,
    kept,
    printable,
    size_of,
)

STORED_AS = {"bfloat16": "uint16"}
_INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8")
DTYPES = (*_INTEGERS, "bfloat16", "float16", "float32", "float64", "complex64", "complex128")
LARGEST_FILE, LARGEST_CONTENT = 8 * 2**20, 64 * 2**20
"""Bytes. A recording over this corpus has about one megabyte, and three megabytes of content."""
BYTES_FOR_A_CASE = 4096
"""Limit of the manifest. Some 300 are usual; error messages are cut at ``LONGEST_TEXT`` characters."""

Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Length = Annotated[int, msgspec.Meta(ge=0, le=2**32)]


class RecordingError(ValueError):
    """A file that is not a valid recording over this corpus."""


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A structure with exactly the declared fields."""


class _Identity(_Strict):
    name: Name
    library: Name
    version: Name
    convention: Literal["oneflow", "torch", "limit"] | None
    device: Name
    compiled: bool
    contracts: bool = False


class _Result(_Strict):
    dtype: Name
    shape: Annotated[list[Length], msgspec.Meta(max_length=32)]
    at: Length


class _Entry(_Strict):
    case: Text
    results: dict[str, _Result] = {}
    error: Text | None = None
    unsupported: Text | None = None
    left_out: Text | None = None
    changed: Annotated[list[Literal["input", "target", "cotangent"]], msgspec.Meta(max_length=3)] = []


class _Manifest(_Strict):
    format: int
    corpus: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    implementation: _Identity
    environment: Annotated[dict[Name, Name], msgspec.Meta(max_length=20)]
    outcomes: list[_Entry]


class _AnyFormat(msgspec.Struct):
    format: int


class Recorded(Implementation):
    """An implementation, as recorded."""

    def __init__(
        self, identity: _Identity, environment: Mapping[str, str], outcomes: Mapping[str, Outcome], path: Path
    ) -> None:
        super().__init__(
            identity.name,
            identity.library,
            convention=identity.convention,
            device=identity.device,
            compiled=identity.compiled,
        )
        self._version, self._outcomes = identity.version, outcomes
        self.contracts = identity.contracts
        self.divergences = any(case.startswith("logits/") for case in outcomes)
        # Override these keys: a recording may claim to be live.
        self.environment = {**environment, "source": "recorded", "file": printable(path.name)}
        self.suffix = ""

    def show_file(self, name: str) -> None:
        """Show the name of the file with every mention of the implementation, whose name is only a claim."""
        self.suffix = f" ({printable(name)})"
        self.environment = {**self.environment, "source": "file", "file": printable(name)}

    @property
    def label(self) -> str:
        """Unique name, with the name of the file unless the recording belongs to the suite."""
        return f"{super().label}{self.suffix}"

    def beside(self, other: "Recorded") -> "Recorded":
        """The recording with the outcomes of another one, over the other corpus, added to its own."""
        mine, theirs = self.environment["file"], other.environment["file"]
        if self.version() != other.version() or self._outcomes.keys() & other._outcomes.keys():
            raise RecordingError(f"{mine} and {theirs} are of two versions, or over the same cases: record both again")
        self._outcomes = {**other._outcomes, **self._outcomes}
        self.divergences = self.divergences or other.divergences
        return self

    def standing_in_for(self, implementation: Implementation) -> "Recorded":
        """Copy the properties of an implementation that cannot run here."""
        self.gradients_by, self.lazy = implementation.gradients_by, implementation.lazy
        self.distributed = implementation.distributed
        return self

    def version(self) -> str:
        """Recorded version of the library."""
        return self._version

    def takes(self, case: Case) -> bool:
        """Whether the case belongs to the corpus of the recording."""
        return case.id in self._outcomes

    def compute(self, case: Case) -> Outcome:
        """Recorded outcome."""
        return self._outcomes[case.id]


def read_recording(path: Path, *corpora: Corpus) -> Recorded:
    """Recording in the file at ``path``, made over one of the corpora.

    Raises
    ------
    RecordingError
        If the file is damaged, is no recording, or was made over another corpus; the message says what to do.
    """
    try:
        members = _read_members(path, max(corpora, key=lambda corpus: len(corpus.cases)))
        manifest, corpus = _read_manifest(members.pop("manifest", b""), corpora)
        pools = {name: _read_pool(name, content) for name, content in members.items()}
        outcomes = {e.case: _outcome(case, e, pools) for case, e in zip(corpus.cases, manifest.outcomes, strict=True)}
    except RecordingError as error:
        raise RecordingError(f"{path}: {printable(str(error))}") from None  # it may quote the file
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror or error}") from None
    return Recorded(manifest.implementation, manifest.environment, outcomes, path)


def _read_members(path: Path, corpus: Corpus) -> dict[str, bytes]:
    """Contents of the archive, none larger than a recording over this corpus can need."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise RecordingError("cannot be read: it is not a file")
    with path.open("rb") as stream:
        file = io.BytesIO(stream.read(LARGEST_FILE + 1))
    if file.getbuffer().nbytes > LARGEST_FILE:
        raise RecordingError(f"has more than {LARGEST_FILE} bytes, which no recording needs; {_AGAIN}")
    limits = {f"{name}.npy": 3 * len(corpus.cases) * KEPT * 16 + 4096 for name in DTYPES}
    limits["manifest.npy"] = len(corpus.cases) * BYTES_FOR_A_CASE
    contents: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.filename not in limits or info.filename.removesuffix(".npy") in contents:
                    raise RecordingError(f"has a member {info.filename!r}, which no recording has; {_AGAIN}")
                # Python decompresses members of other types at once, without a limit.
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise RecordingError(f"has another compression than numpy.savez in {info.filename}; {_AGAIN}")
                limit = min(limits[info.filename], LARGEST_CONTENT - sum(map(len, contents.values())))
                with archive.open(info) as member:
                    content = member.read(limit + 1)
                if len(content) > limit:
                    raise RecordingError(f"has more than {limit} bytes in {info.filename}; {_AGAIN}")
                contents[info.filename.removesuffix(".npy")] = content
    except RecordingError:
        raise
    # Python does not document what a damaged archive raises: BadZipFile, EOFError, zlib.error, NotImplementedError, ...
    except Exception as error:
        raise RecordingError(f"is no .npz file, or a damaged one ({error}); copy or {_AGAIN}") from None
    return contents


def _read_manifest(content: bytes, corpora: Sequence[Corpus]) -> tuple[_Manifest, Corpus]:
    """Manifest, and the corpus that it names."""
    text = _read_array("manifest", content, "uint8").tobytes()
    try:
        stated = msgspec.json.decode(text, type=_AnyFormat).format
        if stated != RECORDING_FORMAT:
            raise RecordingError(
                f"has format {stated}, this program reads {RECORDING_FORMAT}; record with the record.py beside it"
            )
        manifest = msgspec.json.decode(text, type=_Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RecordingError(f"has an invalid manifest ({error}); {_AGAIN}") from None
    corpus = next((corpus for corpus in corpora if corpus.digest == manifest.corpus), corpora[0])
    if manifest.corpus != corpus.digest:
        raise RecordingError(
            f"was made over the corpus {manifest.corpus[:12]}, and this one is {corpus.digest[:12]};"
            " record over this corpus, or judge with the version of this program that has the other one"
        )
    known, given = [case.id for case in corpus.cases], [entry.case for entry in manifest.outcomes]
    if given != known:
        missing = [case for case in known if case not in set(given)]
        what = f"lacks {len(missing)} cases, the first is {missing[0]}" if missing else "has cases twice or in disorder"
        raise RecordingError(f"{what}; {_AGAIN}")
    _refuse_unprintable(manifest)
    identity = manifest.implementation
    if (identity.convention is not None) != identity.name.startswith("kldiv_xp "):
        raise RecordingError(f"gives {identity.name} the convention {identity.convention}, but only kldiv_xp has one")
    return manifest, corpus


def _refuse_unprintable(manifest: _Manifest) -> None:
    """Raise for control characters, which terminals obey and XML cannot contain."""
    identity, environment = msgspec.structs.asdict(manifest.implementation), manifest.environment
    texts = [*identity.values(), *environment, *environment.values()]
    texts += [text for entry in manifest.outcomes for text in (entry.error, entry.unsupported, entry.left_out)]
    for text in texts:
        if isinstance(text, str) and not text.isprintable():
            raise RecordingError(f"has unprintable characters in {text!r}; {_AGAIN}")


def _read_pool(dtype: str, content: bytes) -> Values:
    pool = _read_array(dtype, content, STORED_AS.get(dtype, dtype))
    return from_bfloat16_bits(pool) if dtype == "bfloat16" else pool


_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][a-z]\d{1,2})', 'fortran_order': False, 'shape': \((\d{1,10}),\), \} *\n",
    re.DOTALL,
)


def _read_array(name: str, content: bytes, dtype: str) -> Values:
    """One-dimensional array of a known dtype; NumPy's own reader would allocate any declared shape."""
    header = _HEADER.match(content)
    if header is None:
        raise RecordingError(f"has no array of one dimension in {name}.npy; {_AGAIN}")
    expected, length = np.dtype(dtype), int(header[2])
    if header[1].decode() != expected.newbyteorder("<").str:
        raise RecordingError(f"has the dtype {header[1].decode()} in {name}.npy; {_AGAIN}")
    body = content[header.end() :]
    if len(body) != length * expected.itemsize:
        raise RecordingError(f"declares {length} elements in {name}.npy, and has {len(body)} bytes of them; {_AGAIN}")
    return np.frombuffer(body, expected.newbyteorder("<")).astype(expected)


def _outcome(case: Case, entry: _Entry, pools: Mapping[str, Values]) -> Outcome:
    ways = (entry.results or entry.unsupported, entry.error is not None, entry.left_out is not None)
    if sum(map(bool, ways)) != 1:
        raise RecordingError(f"has not either results or an error for {case.id}; {_AGAIN}")
    results = {name: _result(case, name, result, pools) for name, result in entry.results.items()}
    loss = results.pop("loss", None)
    return Outcome(loss, results, entry.error, entry.unsupported, tuple(entry.changed), entry.left_out)


def _result(case: Case, quantity: str, result: _Result, pools: Mapping[str, Values]) -> Result:
    what, shape = f"{quantity} of {case.id}", tuple(result.shape)
    if quantity not in case.quantities:
        raise RecordingError(f"has an unexpected result, {what}; {_AGAIN}")
    if not _possible(shape, case, quantity):
        raise RecordingError(f"has the shape {shape} for the {what}; {_AGAIN}")
    indices = kept(size_of(shape))
    values = pools.get(result.dtype, np.empty(0))[result.at : result.at + indices.size]
    if result.dtype not in pools or values.size != indices.size:
        raise RecordingError(f"has not all elements of the {what}, of {result.dtype}{shape}; {_AGAIN}")
    return Result(values.reshape(shape) if indices.size == size_of(shape) else values, result.dtype, shape)


def _possible(shape: tuple[int, ...], case: Case, quantity: str) -> bool:
    """Whether a result can have this shape: that of its argument; for a loss, that of both arguments or ()."""
    if quantity != "loss":
        return bool(shape == np.shape(getattr(case, quantity).values))
    if case.reduction != "none" and all(length == 1 for length in shape):
        return True
    if case.logits is not None:
        rows = list(np.shape(case.input.values))
        del rows[case.logits.axis]
        return shape == tuple(rows)
    try:
        full = np.broadcast_shapes(*(np.shape(operand.values) for operand in (case.input, case.target)))
    except ValueError:
        return False
    return shape == full


_AGAIN = "record it again with conformance/record.py"
