"""Arrays of libraries that cannot be computed with are refused by name, with what to do.

Few of them are installed here. A class that is called like theirs stands in for each: it shows what this library does
with the name, and not what theirs is.
"""

import warnings
from typing import Any

import numpy as np
import pytest

from kldiv_xp import KLDivLoss, kl_div, kl_div_value_and_grad

FORMS: tuple[Any, ...] = (kl_div, kl_div_value_and_grad, KLDivLoss())


def stand_in(module: str, name: str, **members: Any) -> Any:
    """Object of a class of this name, which says that it speaks the standard."""
    members = {"__module__": module, "__array_namespace__": lambda *_, **__: np, **members}
    return type(name, (), members)()


@pytest.mark.parametrize(
    ("module", "name", "remedy"),
    [
        ("blosc2.ndarray", "NDArray", r"\[:\]"),
        ("marray", "MArray", "masked"),
    ],
)
@pytest.mark.parametrize("position", [0, 1], ids=["input", "target"])
def test_an_array_that_only_claims_the_standard(position: int, module: str, name: str, remedy: str) -> None:
    given: Any = [np.zeros(2), np.ones(2)]
    given[position] = stand_in(module, name)
    for form in FORMS:
        with pytest.raises(TypeError, match=rf"{('input', 'target')[position]} is a {module}.{name}, .*{remedy}"):
            form(*given)


def test_so_is_a_class_that_derives_from_it() -> None:
    derived = type("Mine", (type(stand_in("blosc2.ndarray", "NDArray")),), {})()
    with pytest.raises(TypeError, match=r"decompress"):
        kl_div(derived, derived)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("paddle", "Tensor"),
        ("tensorflow.python.framework.ops", "EagerTensor"),
        ("tinygrad.tensor", "Tensor"),
        ("xarray.core.dataarray", "DataArray"),
        ("pandas", "DataFrame"),
        ("awkward.highlevel", "Array"),
        ("pint", "Quantity"),
    ],
)
def test_an_array_that_does_not_speak_the_standard(module: str, name: str) -> None:
    other = type(name, (), {"__module__": module, "shape": (2,), "dtype": np.dtype(np.float32)})()
    for form in FORMS:
        with pytest.raises(TypeError, match=f"input must be an array.*, got {module}.{name}; pass the array"):
            form(other, other)


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc", "to_mkldnn"])
@pytest.mark.parametrize("position", [0, 1], ids=["input", "target"])
@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta state:UserWarning")
def test_a_sparse_tensor_of_pytorch(position: int, layout: str) -> None:
    torch = pytest.importorskip("torch")
    given = [torch.zeros(2, 3), torch.ones(2, 3)]
    given[position] = getattr(given[position], layout)()
    for form in FORMS:
        with pytest.raises(
            TypeError, match=rf"{('input', 'target')[position]} is a tensor of layout torch.*to_dense\(\)"
        ):
            form(*given)


def test_a_sparse_matrix_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    matrix = scipy.csr_array(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"input must be an array.*got scipy.sparse._csr.csr_array"):
        kl_div(matrix, matrix)


def test_a_sparse_array_of_jax() -> None:
    sparse = pytest.importorskip("jax.experimental.sparse")
    array = sparse.BCOO.fromdense(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"input must be an array.*got jax.experimental.sparse.bcoo.BCOO"):
        kl_div(array, array)


@pytest.mark.parametrize("layout", ["strided", "jagged"])
def test_a_nested_tensor_of_pytorch(layout: str) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        rows = [torch.ones(2, 3), torch.ones(4, 3)]
        nested = torch.nested.nested_tensor(rows, layout=getattr(torch, layout))
    with pytest.raises(TypeError, match=r"input is a nested tensor.*pass its values\(\)"):
        kl_div(nested, nested)


def test_a_masked_tensor_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # masked tensors are a prototype
        masked = torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False]))
    with pytest.raises(TypeError, match=r"input is a masked tensor; pass its get_data\(\)"):
        kl_div(masked, masked)
