"""Sparsity patterns: which key tiles a query tile sees, the same at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Union

import torch

from . import _native

Axis = Union[int, str]
Triple = Sequence[int]


def _axis(extent: Axis) -> str:
    return '"all"' if extent == "all" else f"{extent}"


def three(value: Any, name: str) -> tuple[Any, Any, Any]:
    """(t, y, x) as a tuple. Errors: TypeError for what is no sequence, ValueError for another length."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected (t, y, x), got {value!r}")
    extents = tuple(value)
    if len(extents) != 3:
        raise ValueError(f"{name}: expected (t, y, x), got {value!r}")
    return extents


def _list(extents: Sequence[Axis]) -> str:
    return f"[{_axis(extents[0])}, {_axis(extents[1])}, {_axis(extents[2])}]"


class Pattern:
    """A function from a grid to a block mask. See :class:`Dense`, :class:`SlidingTile`, :class:`Radial` and
    :class:`BlockMask`."""

    tile: Triple

    def _text(self, quant: str, granularity: Triple | None) -> str:
        """This pattern at every step, as the text of a schedule. Plain string work, so that compilers can trace it."""
        window = self.window if isinstance(self, SlidingTile) else ("all", "all", "all")
        text = (f"version = 1\ntile = {_list(self.tile)}\n[[phase]]\nuntil = 1.0\n"
                f"granularity = {_list(self.tile if granularity is None else three(granularity, 'granularity'))}\n"
                f'window = {_list(window)}\nquant = "{quant}"\n')
        if isinstance(self, Radial):
            text += '[[override]]\npattern = "radial"\n'
        return text

    def _check(self) -> None:
        if not torch.compiler.is_compiling():
            _native.Schedule.parse(self._text("none", None), type(self).__name__)

    def mask(self, grid: Triple) -> BlockMask:
        """The block mask on a grid (t, y, x) of tokens."""
        raise NotImplementedError

    def density(self, grid: Triple) -> float:
        """Visible (query, key) pairs / L^2 on a grid, averaged over heads."""
        mask = self.mask(grid)
        return _native.mask_density(grid, self.tile, mask.row_begin, mask.col)


@dataclasses.dataclass(frozen=True)
class Dense(Pattern):
    """Every query sees every key.

    Args:
        tile: (t, y, x) in tokens: the group that shares a scale, where attention is quantised.

    Errors: ValueError for an extent below 1; TypeError for what is no triple.

    Source: pattern::dense.
    """

    tile: Triple = (6, 8, 8)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile", three(self.tile, "tile"))
        self._check()

    def mask(self, grid: Triple) -> BlockMask:
        return BlockMask(*_native.make_pattern("dense", grid, self.tile), tile=self.tile)


@dataclasses.dataclass(frozen=True)
class SlidingTile(Pattern):
    """A window of tiles around the query's tile, moved inward at the border.

    Args:
        window: (t, y, x) in tiles, "all" for an axis or for all of them.
        tile: (t, y, x) in tokens.

    Errors: ValueError for an extent below 1.

    Source: pattern::sliding_tile; Sliding Tile Attention, arXiv 2502.04507.
    """

    window: Union[str, Sequence[Axis]]
    tile: Triple = (6, 8, 8)

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", ("all",) * 3 if self.window == "all" else three(self.window, "window"))
        object.__setattr__(self, "tile", three(self.tile, "tile"))
        self._check()

    def mask(self, grid: Triple) -> BlockMask:
        return BlockMask(*_native.make_pattern("sta", grid, self.tile, self.window), tile=self.tile)


@dataclasses.dataclass(frozen=True)
class Radial(Pattern):
    """A neighbourhood that shrinks with the distance in time.

    Args:
        tile: (t, y, x) in tokens.

    Errors: ValueError for an extent below 1; TypeError for what is no triple.

    Source: pattern::radial; Radial Attention, arXiv 2506.19852.
    """

    tile: Triple = (6, 8, 8)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile", three(self.tile, "tile"))
        self._check()

    def mask(self, grid: Triple) -> BlockMask:
        return BlockMask(*_native.make_pattern("radial", grid, self.tile), tile=self.tile)

    @staticmethod
    def with_options(grid: Triple, tile: Triple = (6, 8, 8), *, decay: float = 0.2, min_band: int = 128) -> BlockMask:
        """The mask of other constants than the published ones.

        Args:
            decay: factor on the band, in (0, 1].
            min_band: tokens; bands never get narrower.

        Errors: ValueError for a decay outside (0, 1] or a min_band below 1.
        """
        return BlockMask(*_native.make_pattern("radial", grid, tile, "all", decay, min_band), tile=tile)


def _integers(values: Any, name: str) -> torch.Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected integers in a tensor or list, got {values!r}") from None


class BlockMask(Pattern):
    """A mask of your own: which key tiles each query tile sees, per head or shared by all heads.

    Make one with :meth:`from_matrix`, or from CSR lists: ``row_begin`` [masks * tiles + 1] and ``col``, the visible key
    tiles of each query tile, ascending. A row may be empty: its output is 0 and its lse -inf.

    Errors: TypeError for what are no integers; ValueError, when attention meets it, for lists that do not fit the grid.

    Source: pattern::BlockMask.
    """

    def __init__(self, row_begin: torch.Tensor | Sequence[int], col: torch.Tensor | Sequence[int], *, tile: Triple) -> None:
        self.row_begin = _integers(row_begin, "row_begin")
        self.col = _integers(col, "col")
        self.tile = three(tile, "tile")
        self._check()

    @classmethod
    def from_matrix(cls, visible: torch.Tensor, *, tile: Triple) -> BlockMask:
        """From a bool tensor [tiles, tiles], or [heads, tiles, tiles], True = visible; tiles in raster order.

        Errors: TypeError for another dtype, ValueError for another shape.
        """
        return cls(*_native.mask_from_matrix(visible), tile=tile)

    def mask(self, grid: Triple) -> BlockMask:
        return self

    def matrix(self, tiles: int) -> torch.Tensor:
        """The mask as a bool tensor [masks, tiles, tiles]."""
        counts = self.row_begin.diff().long()
        visible = torch.zeros(counts.numel(), tiles, dtype=torch.bool)
        visible[torch.repeat_interleave(torch.arange(counts.numel()), counts), self.col.long()] = True
        return visible.view(-1, tiles, tiles)
