"""``python -m fpsattention``: versions, instruction sets, devices, and a self-check of under five seconds."""

from __future__ import annotations

import argparse
import sys
import time

import torch

import fpsattention as fpsa


def _reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    """Attention in float64, by torch alone. visible [L, L]."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ v


def self_check() -> list[tuple[str, float, float, float]]:
    """Each precision and pattern against dense attention in float64, masked where the pattern is sparse.

    Returns: (what, error, allowed, milliseconds) of each case. The error is relative L2: against exact arithmetic a few
    roundings of the output's type, and what 8-bit codes cost for E4M3 and INT8 (4 mantissa bits, 2^-4 a value at worst,
    over products of two; 1/127 of the largest value of a group).
    """
    grid, tile, window = (6, 10, 14), (3, 4, 4), (1, 3, 3)
    tokens = grid[0] * grid[1] * grid[2]
    torch.manual_seed(0)
    sliding = fpsa.SlidingTile(window, tile)
    tiles = fpsa._native.token_tiles(grid, tile).long()
    matrix = sliding.mask(grid).matrix(int(tiles.max()) + 1)[0]
    visible = matrix[tiles][:, tiles]
    cases = [("dense float32", torch.float32, None, "none", 1e-5), ("dense bfloat16", torch.bfloat16, None, "none", 2**-7),
             ("sliding tile float32", torch.float32, sliding, "none", 1e-5),
             ("sliding tile bfloat16", torch.bfloat16, sliding, "none", 2**-7),
             ("sliding tile E4M3", torch.bfloat16, sliding, "e4m3", 2**-3),
             ("sliding tile INT8", torch.bfloat16, sliding, "int8", 2**-3)]
    results = []
    for what, dtype, pattern, quant, allowed in cases:
        q, k, v = (torch.randn(1, 2, tokens, 64).to(dtype) for _ in range(3))
        expected = _reference(q, k, v, None if pattern is None else visible)
        fpsa.attention(q, k, v, grid=grid, pattern=pattern, quant=quant)
        begin = time.perf_counter()
        out = fpsa.attention(q, k, v, grid=grid, pattern=pattern, quant=quant)
        elapsed = time.perf_counter() - begin
        error = ((out.double() - expected).norm() / expected.norm()).item()
        results.append((what, error, allowed, 1e3 * elapsed))
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fpsattention", description=__doc__)
    parser.add_argument("--no-check", action="store_true", help="print what there is, without the self-check")
    options = parser.parse_args(arguments)
    print(f"fpsattention {fpsa.__version__}, built for torch {fpsa._native.torch_version}; torch {torch.__version__}, "
          f"Python {sys.version.split()[0]}, {torch.get_num_threads()} threads")
    print("instruction sets: " + ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in fpsa.isa_levels().items()))
    print("kernels: " + ", ".join(fpsa.selected_kernels()))
    for device, state in fpsa.devices().items():
        print(f"device {device}: {state}")
    if options.no_check:
        return 0
    failed = 0
    for what, error, allowed, milliseconds in self_check():
        good = error <= allowed
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what:22} error {error:.2e} (allowed {allowed:.1e}), {milliseconds:.2f} ms")
    print("self-check " + ("passed" if not failed else f"failed in {failed} cases"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
