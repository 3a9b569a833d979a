"""From a dense pipeline and prompts to a schedule: the C++ calibration, fed by diffusers."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from . import _checkpoint, _native, _wan
from ._schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """What a calibration found.

    schedule: the schedule of least error (or density) within the budget.
    error, density: its predicted means over steps, layers and heads; error is the relative L2 distance of attention
        outputs from the dense ones.
    errors: [candidate, step, layer, head] float64, what each candidate does.
    candidates: their descriptions, and their densities.
    """

    schedule: Schedule
    error: float
    density: float
    errors: torch.Tensor
    candidates: list[str]
    densities: list[float]


def calibrate(pipe: Any, prompts: str | Sequence[str], *, density: float | None = None, max_error: float | None = None,
              per: str = "phases", candidates: str | os.PathLike[str] | None = None, quant: str = "e4m3",
              step_stride: int = 1, layer_stride: int = 1, seed: int = 0, **arguments: Any) -> Calibrated:
    """Runs prompts through the dense pipeline and measures beside it what each candidate setting would do.

    Args:
        pipe: a diffusers Wan pipeline with one transformer. Its own attention is put back afterwards.
        prompts: one or several; each starts from the noise of `seed`.
        density: limit on the mean density (0.25 when neither limit is given); the error is made least.
        max_error: limit on the mean error instead; the density is made least.
        per: "phases" (three, the same for all layers), "layer" or "head".
        candidates: a TOML file of [[candidate]] tables; a default list for the grid when absent.
        quant: precision of the default list.
        step_stride, layer_stride: measure every n-th step or layer only.
        arguments: for the pipeline: height, width, num_frames, num_inference_steps, guidance_scale ...

    Errors: ValueError: a budget that cannot be met, candidates that do not fit the grid, fewer than three steps.

    Source: accel::Calibration, schedule::choose; ``fpsa calibrate`` is the same with a page of evidence.
    """
    _native.check_budget(density=density, max_error=max_error, per=per)
    if arguments.get("num_inference_steps", 3) < 3:
        raise ValueError(f"num_inference_steps: expected 3 or more, for three phases, got {arguments['num_inference_steps']}")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise ValueError("prompts: expected at least one")
    transformers = _wan._transformers_of(pipe)
    if len(transformers) != 1 or pipe is transformers[0]:
        raise TypeError("pipe: expected a Wan pipeline with one transformer")
    config = transformers[0].config
    carried, _ = _checkpoint.of_loaded(transformers[0])
    chosen = None if candidates is None else _native.CandidateList.parse(
        pathlib.Path(candidates).read_text(encoding="utf-8"), os.fspath(candidates))
    measuring: Any = None

    def measure(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: Sequence[int], layer: int) -> torch.Tensor:
        nonlocal measuring
        if measuring is None:
            found = chosen or _native.CandidateList.default(grid, tile=None if carried is None else carried.tile,
                                                            quant=quant, per=per)
            found.check_for_grid(grid)
            measuring = _native.Calibration(found, step_stride=step_stride, layer_stride=layer_stride)
        step, steps = applied._place.steps_now[0]
        return measuring.attention(q, k, v, grid=grid, layer=layer, layers=config.num_layers, step=step, steps=steps)

    applied = _wan.Applied(transformers, Schedule.dense(), pipe, compute=measure)
    with applied, torch.no_grad():
        for prompt in texts:
            pipe(prompt=prompt, generator=torch.Generator().manual_seed(seed), output_type="latent", **arguments)
    shift = getattr(pipe.scheduler.config, "flow_shift", None) or getattr(pipe.scheduler.config, "shift", None) or 1.0
    native, error, mean_density = measuring.choose(density=density, max_error=max_error, per=per, shift=shift)
    schedule = Schedule._of(native)
    if carried is not None and carried.feed_forward != "none":
        schedule = Schedule(schedule.phases, tile=schedule.tile, shift=schedule.shift, overrides=schedule.overrides,
                            feed_forward=carried.feed_forward)
    list_ = measuring.candidates
    return Calibrated(schedule, error, mean_density, measuring.errors(), list_.descriptions, measuring.densities())
