"""Output files of the commands: checked before the work, and replaced only by complete files."""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from secrets import token_hex
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO, ParamSpec, TextIO, cast

P = ParamSpec("P")

STDOUT = Path("-")


def figure_file(text: str) -> Path:
    """Path of a figure, as a type for ``argparse``: Matplotlib takes the format from the ending of its name."""
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(text)
    endings = [f".{name}" for name in FigureCanvasBase.get_supported_filetypes()]
    if path.suffix.lower() not in endings:
        raise argparse.ArgumentTypeError(f"{path} ends with none of {', '.join(endings)}")
    return path


class OutputError(Exception):
    """A file that cannot be written; the message names it."""


def check_outputs(parser: argparse.ArgumentParser, outputs: Iterable[Path], reads: Iterable[Path] = ()) -> None:
    """Create missing directories, and exit with 2 if an output cannot be written or would replace what is in use.

    Parameters
    ----------
    parser
        Parser of the command, which shows the error.
    outputs
        Files that the command is going to write; ``-`` is the standard output.
    reads
        Files that the command reads, and must not replace.
    """
    used: dict[tuple[object, ...], str] = {}
    for path in reads:
        with suppress(OSError):
            used.setdefault(_identity(path), f"this command reads it as {path}")
    for path in outputs:
        if path == STDOUT:
            continue
        try:
            problem = _problem(path) or used.get(_identity(path))
        except OSError as error:
            problem = _reason(error)
        if problem is not None:
            parser.error(f"cannot write {path}: {problem}; choose another path")
        used[_identity(path)] = f"this command also writes {path}, which is the same file"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when it is complete; ``-`` is the standard output.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if path == STDOUT:
        with _dropping(sys.stdout):
            sys.stdout.flush()
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            with path.open("wb") as stream:
                yield stream
            return
        target = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target)
        try:
            with temporary.open("xb") as file:
                yield file
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, as ``replacing`` does."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Make a command exit with 2 and an error message if its output cannot be written.

    A closed standard output, as behind ``head``, is not an error: the command runs to its end.
    """

    @wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        stream = sys.stdout
        sys.stdout = cast("TextIO", _Guarded(stream))
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except OutputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        finally:
            sys.stdout = stream

    return guarded


class _Guarded:
    """A standard output that ignores a closed pipe, and raises ``OutputError`` for other errors."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _dropping(self._stream):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with _dropping(self._stream):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _dropping(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Python writes the remaining buffer when it exits, and that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"cannot write to the standard output: {_reason(error)}") from error


def _problem(path: Path) -> str | None:
    """Why no file can be written to ``path``, tested by creating one beside it; ``None`` if it can."""
    blocking = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
    if blocking is not None:
        return f"{blocking} is not a directory"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if S_ISDIR(mode):
            return "it is a directory"
        if not os.access(path, os.W_OK):
            return "it is write-protected"
        if not S_ISREG(mode):
            return None
    probe = _beside(_target(path))
    probe.open("xb").close()
    probe.unlink()
    return None


def _identity(path: Path) -> tuple[object, ...]:
    """A key that is equal for all paths to one file: for an existing file, its device and inode.

    For a new file: its directory and its name in lower case, because some file systems ignore case.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        target = _target(path)
        status = target.parent.stat()
        return status.st_dev, status.st_ino, target.name.casefold()
    return status.st_dev, status.st_ino


def _target(path: Path) -> Path:
    """The file that a link points to: writing keeps the link."""
    return Path(os.path.realpath(path))


def _beside(target: Path) -> Path:
    """New name in the same directory, and so in the same file system."""
    return target.with_name(f".{token_hex(8)}.tmp")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
