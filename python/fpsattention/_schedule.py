"""Schedules: which granularity, window and precision attention has at each denoising step."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from . import _native
from ._native import Override, Phase

__all__ = ["Override", "Phase", "Schedule"]


class Schedule:
    """Phases over the denoising steps, with overrides for layers and heads; immutable.

    The same text serves training, ``fpsa generate`` and a checkpoint's metadata ``fpsa.schedule``.

    Args:
        phases: a list of :class:`Phase`; the last one has ``until=1.0``.
        tile: (t, y, x) tokens of a tile, the unit of sparsity.
        shift: the flow shift that training assumes when it maps a noise level to a phase.
        feed_forward: "e4m3" multiplies E4M3 codes in the linear layers after attention too, or "none".
        overrides: a list of :class:`Override`; later ones win.

    Units: windows in tiles, granularities in tokens; layers and heads count from 0, phases of an override from 1.

    Errors: ValueError with the first broken rule: key, received value, expected range.

    Source: fpsa/schedule/schedule.h.
    """

    def __init__(self, phases: Sequence[Phase], *, tile: Sequence[int] = (6, 8, 8), shift: float = 5.0,
                 feed_forward: str = "none", overrides: Sequence[Override] = ()) -> None:
        for name, kind, items in (("phases", Phase, phases), ("overrides", Override, overrides)):
            if not isinstance(items, Sequence) or not all(isinstance(item, kind) for item in items):
                raise TypeError(f"{name}: expected a list of fpsattention.{kind.__name__}, got {items!r}")
        self._set(_native.Schedule(list(phases), tile=tile, shift=shift, feed_forward=feed_forward,
                                   overrides=list(overrides)))

    def _set(self, native: _native.Schedule) -> None:
        self._native = native
        self.text: str = native.to_toml()
        self._untils = tuple(phase.until for phase in native.phases)

    @classmethod
    def _of(cls, native: _native.Schedule) -> Schedule:
        schedule = cls.__new__(cls)
        schedule._set(native)
        return schedule

    @classmethod
    def parse(cls, text: str, origin: str = "schedule") -> Schedule:
        """Reads TOML text; `origin` is how messages call it ("origin:line: key: what")."""
        return cls._of(_native.Schedule.parse(text, origin))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Reads a TOML file. Errors: OSError, ValueError."""
        return cls.parse(pathlib.Path(path).read_text(encoding="utf-8"), os.fspath(path))

    @classmethod
    def default(cls) -> Schedule:
        """Three phases after the paper: coarse and sparse, then fine and dense, then in between."""
        return cls._of(_native.Schedule.default())

    @classmethod
    def dense(cls, tile: Sequence[int] = (6, 8, 8)) -> Schedule:
        """All keys at every step, without quantisation: the bits of dense attention."""
        return cls([Phase(1.0, tile, "all", "none")], tile=tile)

    @property
    def phases(self) -> list[Phase]:
        return self._native.phases

    @property
    def overrides(self) -> list[Override]:
        return self._native.overrides

    @property
    def tile(self) -> tuple[int, int, int]:
        return self._native.tile

    @property
    def shift(self) -> float:
        return self._native.shift

    @property
    def feed_forward(self) -> str:
        return self._native.feed_forward

    def check_for(self, *, grid: Sequence[int] | None = None, layers: int | None = None,
                  heads: int | None = None) -> None:
        """Raises ValueError unless the schedule can run on this grid, and on these numbers of layers and heads."""
        if (layers is None) != (heads is None):
            raise ValueError("layers and heads: expected both or none")
        if grid is not None:
            self._native.check_for_grid(grid)
        if layers is not None and heads is not None:
            self._native.check_for_model(layers, heads)

    def phase_at(self, step: int, steps: int) -> int:
        """The phase, from 0, of step `step` of `steps`, from 0. Errors: ValueError for a step outside [0, steps)."""
        if torch.compiler.is_compiling():
            # The rule of the C++ function in words that a compiler can trace, so that a graph is made for each phase.
            if not 0 <= step < steps:
                raise ValueError(f"step = {step}: expected [0, {steps})")
            for phase, until in enumerate(self._untils[:-1]):
                if step < until * steps - 1e-12 * steps:
                    return phase
            return len(self._untils) - 1
        return self._native.phase_at(step, steps)

    def step_of_level(self, sigma: float, steps: int = _native.DEFAULT_STEPS) -> int:
        """The step, from 0, of a run of `steps` (1 to 1000) that a noise level in [0, 1] belongs to: training's way to a phase.

        Each step stands for the levels from its own, UniPC's at the schedule's shift, down to that of the next step; so
        a level has the phase in training that inference has there. Errors: ValueError.

        Source: train::StepLevels, by which ``fpsa train`` goes.
        """
        return self._native.step_of_level(sigma, steps)

    def setting(self, phase: int, layer: int, head: int) -> dict[str, Any]:
        """Pattern, granularity, window and quant of one layer and head in a phase, overrides applied."""
        return self._native.setting(phase, layer, head)

    def explain(self, grid: Sequence[int], *, steps: int, layers: int, heads: int, head_dim: int,
                dtype: torch.dtype = torch.bfloat16, only_steps: Sequence[int] | None = None,
                device: torch.device | str = "cpu") -> list[dict[str, Any]]:
        """What would run on this machine, an entry for each step and layer: kernel, pattern, density, reason.

        device: "cpu" or a CUDA device. Where the CUDA kernels cannot run here, or refuse the call (then the kernel is
        "none"), the reason says so.

        Source: accel::explain_scheduled, the entries of ``fpsa generate --explain``.
        """
        return self._native.explain(grid, steps=steps, layers=layers, heads=heads, head_dim=head_dim,
                                    dtype=str(dtype).removeprefix("torch."), only_steps=only_steps, device=str(device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the TOML text, under a temporary name first."""
        target = pathlib.Path(path)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        temporary.write_text(self.text, encoding="utf-8")
        temporary.replace(target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Schedule.parse({self.text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Schedule.parse, (self.text,)
