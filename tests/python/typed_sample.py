"""What a type checker must say of a program that uses the package: test_stubs.py runs mypy on it, never Python."""

import torch
from typing_extensions import assert_type

import fpsattention as fpsa

q = torch.zeros(1, 2, 240, 32)
schedule = fpsa.Schedule([fpsa.Phase(0.5, (2, 4, 4), (1, 2, "all"), "e4m3"), fpsa.Phase(1.0, (2, 4, 4))], tile=(2, 4, 4),
                         overrides=[fpsa.Override(layers=[0, (2, 3)], window="all")])
assert_type(fpsa.attention(q, q, q), torch.Tensor)
assert_type(fpsa.attention(q, q, q, grid=(4, 6, 10), pattern=fpsa.SlidingTile((1, 2, 2), (2, 4, 4)), return_lse=False), torch.Tensor)
out, lse = fpsa.attention(q, q, q, grid=(4, 6, 10), schedule=schedule, step=0, steps=4, layer=1, return_lse=True)
assert_type(lse, torch.Tensor)
assert_type(schedule.phases, list[fpsa.Phase])
assert_type(schedule.tile, tuple[int, int, int])
assert_type(schedule.phase_at(0, 4), int)
mask: fpsa.Pattern = fpsa.BlockMask.from_matrix(torch.ones(12, 12, dtype=torch.bool), tile=(2, 4, 4))
assert_type(mask.density((4, 6, 10)), float)
assert_type(fpsa.devices(), dict[str, str])
with fpsa.apply(object(), schedule) as applied:
    assert_type(applied, fpsa.Applied)
assert_type(fpsa.explain(object()), str)
assert_type(fpsa.carried_schedule("x"), fpsa.Schedule | None)
assert_type(fpsa.calibrate(object(), ["a"], density=0.5).errors, torch.Tensor)
fpsa.attention(q, q, q, patern=None)  # wrong: no such argument
fpsa.Schedule([fpsa.Phase(1.0, 3)])  # wrong: three extents
