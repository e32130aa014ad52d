"""array-api-strict, which wraps NumPy arrays, and has its own devices."""

import sys

from kldiv_xp.backends._on_numpy import OnNumPy
from kldiv_xp.backends._standard import Array, DType


class Strict(OnNumPy):
    """Arrays of array-api-strict."""

    in_memory = True

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether this is the library's only array type."""
        library = sys.modules.get("array_api_strict")
        return library is not None and kind is library._array_object.Array

    def adding_dtype(self, dtype: DType, x: Array) -> DType:
        """float64, if the device has it."""
        has_float64 = "float64" in self.xp.__array_namespace_info__().dtypes(device=x.device)
        return super().adding_dtype(dtype, x) if has_float64 else self.computing_dtype(dtype)
