"""What is particular to PyTorch. Imported with the library, so it must not import torch itself."""

import sys
from typing import Any


def is_tensor(x: object) -> bool:
    # array_api_compat.is_torch_array would do, but it is cached with lru_cache, and torch.compile
    # warns about every such function that it meets.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def refuse_layout(name: str, x: Any) -> None:
    """Raise for a tensor that lacks comparisons or sizes, or whose meaning would be lost."""
    if x.is_nested:
        raise TypeError(f"{name} is a nested tensor, whose sizes differ from row to row; pass its values() instead")
    if x.layout is not sys.modules["torch"].strided:
        raise TypeError(f"{name} is a tensor of layout {x.layout}; call its method to_dense() first")
    if type(x).__name__ == "MaskedTensor":
        raise TypeError(f"{name} is a masked tensor; pass its get_data(), with targets of 0 for what is masked")


def namespace() -> Any:
    import array_api_compat.torch

    return array_api_compat.torch


def result_dtype(input: Any, target: Any) -> Any:
    """Promoted dtype of two tensors; at least float32 under autocast, as for ``torch.nn.functional.kl_div``."""
    import torch

    # Not torch.result_type, which torch.compile cannot trace with dynamic shapes.
    dtype = torch.promote_types(input.dtype, target.dtype)
    kind = input.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.promote_types(dtype, torch.float32)
    return dtype


def placement(x: Any) -> Any:
    """Device of ``x``; of a DTensor the mesh that it is spread over."""
    return getattr(x, "device_mesh", x.device)


def added_up(x: Any) -> Any:
    """``x``, with the parts of a sum that the processes of a DTensor hold added up.

    A DTensor leaves that to whoever looks at the sum, and would add up what has been rounded to 16 bits by then.
    """
    placements = getattr(x, "placements", ())
    if not any(p.is_partial() for p in placements):
        return x
    from torch.distributed.tensor import Replicate

    return x.redistribute(placements=[Replicate() if p.is_partial() else p for p in placements])
