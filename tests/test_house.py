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
SHARED = (
    "__init__.py",
    "_losses.py",
    "_formulas.py",
    "_options.py",
    "_arguments.py",
    "backends/_standard.py",
    "backends/_blocks.py",
)
NAMES = "numpy np jax jnp xla torch pytorch tensor cuda cupy mlx mx ndonnx ndx dask cubed sparse dpnp autograd oneflow"
LIBRARIES = re.compile(rf"(?<![a-z])({'|'.join(NAMES.split())})(?![a-z])", re.IGNORECASE)
CONVENTIONS = {"'oneflow'", '"oneflow"', '"torch"'}
"""Names of conventions, which are no libraries."""


@pytest.mark.parametrize("package", ["kldiv_xp", "conformance", "benchmarks", "examples"])
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 3
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
