"""What libraries have in common that compute with NumPy, at once or later."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kldiv_xp.backends._standard import Array, Backend, DType


class OnNumPy(Backend):
    """A library that computes with NumPy."""

    lazy = False
    """Whether nothing is computed before the caller asks."""
    has_bfloat16 = False
    """Whether the numbers of ``ml_dtypes.bfloat16`` may be in an array. NumPy does not count them as floating."""

    def takes(self, dtype: DType) -> bool:
        """Whether a dtype is real floating, and has 16 bits or more."""
        return self._is_bfloat16(dtype) or super().takes(dtype)

    def result_dtype(self, x: Array, y: Array) -> DType:
        """Promoted dtype. NumPy has none for bfloat16 and float16: float32, as in PyTorch and JAX."""
        one, other = x.dtype, y.dtype
        if not (self._is_bfloat16(one) or self._is_bfloat16(other)):
            return super().result_dtype(x, y)
        if self._is_bfloat16(one) is not self._is_bfloat16(other):
            one, other = self.computing_dtype(one), self.computing_dtype(other)
        return sys.modules["numpy"].promote_types(one, other)  # in the byte order of this machine

    def computing_dtype(self, dtype: DType) -> DType:
        """Dtype to compute in: 16 bits are too few for sums, and for the terms that cancel."""
        return self.xp.float32 if self._is_bfloat16(dtype) else super().computing_dtype(dtype)

    def adding_dtype(self, dtype: DType, x: Array) -> DType:
        """float64: the terms of close distributions cancel, and NumPy's float32 logarithm errs to one side."""
        return self.xp.result_type(self.computing_dtype(dtype), self.xp.float64)

    def quiet(self) -> AbstractContextManager[Any]:
        """Context without floating-point warnings: what is NaN is meant to be."""
        if self.lazy:
            return nullcontext()
        errstate: AbstractContextManager[Any] = sys.modules["numpy"].errstate(all="ignore")
        return errstate

    def _is_bfloat16(self, dtype: DType) -> bool:
        # By its name, so that ml_dtypes is not imported here.
        return self.has_bfloat16 and getattr(dtype, "name", "") == "bfloat16"
