"""Attention by torch alone, in float64, with the mask of a pattern: what the operator is compared with."""

import torch

import fpsattention as fpsa

GRID, TILE = (4, 6, 10), (2, 4, 4)
TOKENS = 4 * 6 * 10


def visible(pattern, grid=GRID):
    """[masks, L, L] bool from the pattern's tiles."""
    tiles = fpsa._native.token_tiles(grid, pattern.tile).long()
    matrix = pattern.mask(grid).matrix(int(tiles.max()) + 1)
    return matrix[:, tiles][:, :, tiles]


def attend(q, k, v, mask=None, scale=None):
    """[B,H,L,D] in float64; a row that sees nothing is 0."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ v, scores.logsumexp(-1)


def tensors(*shape, dtype=torch.float32, count=3, requires_grad=False):
    return [torch.randn(*shape).to(dtype).requires_grad_(requires_grad) for _ in range(count)]


def worst(actual, expected, of):
    """Largest difference over the largest magnitude of `of`."""
    return ((actual.double() - expected.double()).abs().max() / of.double().abs().max()).item()


def rms(actual, expected):
    """Root mean square of the difference over that of the expected."""
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()
