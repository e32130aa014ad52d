"""The rooms of the house: no imports in a circle, and no array library named where all of them are served."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import kldiv_xp

SOURCE = Path(kldiv_xp.__file__).parent
OWN = (
    "torch.py",
    "backends/__init__.py",
    "backends/_on_numpy.py",
    "backends/_torch_autograd.py",
    "backends/_torch_autograd_from_logits.py",
    "backends/_torch_in_few_passes.py",
    "backends/_torch_on_device.py",
)
"""Files of one library that are not named as a public module of ``backends`` is, and the list of the libraries."""
SHARED = [
    path
    for path in (file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py"))
    if path not in OWN and (not path.startswith("backends/") or Path(path).name.startswith("_"))
]
OTHER_NAMES = "np jax jnp xla pytorch tensor tensorflow cuda cupy mx ndx dpnp oneflow paddle keras optax onnx scipy"
NAMES = {file.stem for file in (SOURCE / "backends").glob("[a-z]*.py")} | {*OTHER_NAMES.split()}
LIBRARIES = re.compile(rf"(?<![a-z])({'|'.join(NAMES)})(?![a-z])", re.IGNORECASE)
BY_NAME = ("kldiv_xp.backends", "conformance.implementations")
CONVENTIONS = {"'oneflow'", '"oneflow"', '"torch"'}
"""Names of conventions, which are no libraries."""


@pytest.mark.parametrize("package", ["kldiv_xp", "conformance", "benchmarks", "examples"])
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    graph = grimp.build_graph(package, cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert len(imports) > 3
    for importer in BY_NAME:  # files that are imported by their names, which no statement shows
        if importer in imports:
            imports[importer] |= {module for module in imports if module.startswith(f"{importer}.")}
    TopologicalSorter(imports).prepare()  # raises for a circle, and names it


@pytest.mark.parametrize("file", SHARED)
def test_a_shared_file_names_no_array_library_outside_of_docstrings(file: str) -> None:
    found = [
        (token.start[0], token.string)
        for token in _tokens_but_docstrings((SOURCE / file).read_text(encoding="utf-8"))
        if token.string not in CONVENTIONS and LIBRARIES.search(re.sub(r"https?://\S+", "", token.string))
    ]
    assert found == []


def test_a_name_of_a_library_would_be_found() -> None:
    text = '"""NumPy"""\nimport numpy as np\n# as in PyTorch\n"JAX"\nx = "torch"\nsparsely = 1\n'
    found = [token.string for token in _tokens_but_docstrings(text) if LIBRARIES.search(token.string)]
    assert found == ["numpy", "np", "# as in PyTorch", '"JAX"', '"torch"']


def _tokens_but_docstrings(text: str) -> Iterator[tokenize.TokenInfo]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, documented) and ast.get_docstring(node))
    lines = {node.body[0].lineno for node in nodes}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if not (token.type == tokenize.STRING and token.start[0] in lines):
            yield token
