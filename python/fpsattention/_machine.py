"""What this machine runs."""

from __future__ import annotations

import torch

from . import _native


def isa_levels() -> dict[str, bool]:
    """The instruction-set levels of the CPU kernels, rising, and whether this machine has each."""
    return {name: supported for name, _, supported in _native.isa_levels()}


def set_isa(name: str) -> None:
    """Limits the kernels to a level, for comparisons; "auto" takes the best one again. As FPSA_ISA in the environment.

    Errors: ValueError for an unknown level or one that this machine lacks.
    """
    _native.force_isa(name)


def selected_kernels() -> list[str]:
    """The kernels that serve now, by name."""
    return _native.selected_kernels()


def devices() -> dict[str, str]:
    """Each device that torch sees, and whether attention of this package runs there.

    The CUDA kernels, where they are in this build, run on cards of compute capability 9.0 (H100, H200, H20). On tensors of
    another card attention is an error that says so; torch's own scaled_dot_product_attention runs there. "cuda" stands for
    all cards where torch sees none.
    """
    found = {"cpu": f"supported, {_native.current_isa()}"}
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(cards):
        refusal = _native.cuda_refusal(index)
        state = f"not supported: {refusal}" if refusal else "supported, sm90a"
        found[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}: {state}"
    if not cards:
        kernels = ("the CUDA kernels are in this build, for cards of compute capability 9.0 (H100, H200, H20)"
                   if _native.cuda_kernels_built() else "the CUDA kernels are not in this build")
        found["cuda"] = f"no card that torch sees; {kernels}"
    return found
