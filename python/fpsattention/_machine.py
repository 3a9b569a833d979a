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
    """Each device that torch sees, and whether attention of this package runs there."""
    found = {"cpu": f"supported, {_native.current_isa()}"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}: not supported in this version"
    return found
