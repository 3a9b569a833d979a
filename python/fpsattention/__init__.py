"""FPSAttention in Python: 8-bit and tile-sparse self-attention of video diffusion, by a schedule over the steps.

The kernels, patterns and schedules are the C++ ones of this project; this package names them, and puts them into
diffusers' Wan pipelines. ``python -m fpsattention`` says what runs on this machine and checks it.

    >>> import fpsattention
    >>> fpsattention.apply(pipe, schedule="my.toml")          # a diffusers Wan pipeline; .remove() undoes it
    >>> fpsattention.attention(q, k, v, grid=(21, 45, 80), pattern=fpsattention.SlidingTile((6, 6, 1)))
"""

import torch  # its libraries are loaded before those that need them

from . import _loading

_native = _loading.native()
__version__: str = _native.version

from ._attention import attention, e4m3_linear  # noqa: E402
from ._bench import bench  # noqa: E402
from ._calibrate import Calibrated, calibrate  # noqa: E402
from ._checkpoint import attach_schedule, carried_schedule  # noqa: E402
from ._machine import devices, isa_levels, selected_kernels, set_isa  # noqa: E402
from ._patterns import BlockMask, Dense, Pattern, Radial, SlidingTile  # noqa: E402
from ._schedule import Override, Phase, Schedule  # noqa: E402
from ._wan import Applied, apply, explain, register_backend  # noqa: E402

__all__ = [
    "Applied", "BlockMask", "Calibrated", "Dense", "Override", "Pattern", "Phase", "Radial", "Schedule", "SlidingTile",
    "apply", "attach_schedule", "attention", "bench", "calibrate", "carried_schedule", "devices", "e4m3_linear",
    "explain", "isa_levels", "register_backend", "selected_kernels", "set_isa",
]
