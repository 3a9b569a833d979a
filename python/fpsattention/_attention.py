"""The operator: attention by a pattern or a schedule, with gradients, for eager and compiled code."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch

from ._patterns import BlockMask, Pattern, three
from ._schedule import Schedule

_LAYOUTS = ("BHLD", "BLHD")


# What comes back depends on return_lse, and a type checker knows.
@overload
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, grid: Sequence[int] | None = ..., pattern: Pattern | None = ...,
    schedule: Schedule | None = ..., step: int | None = ..., steps: int | None = ..., layer: int = ..., quant: str = ...,
    granularity: Sequence[int] | None = ..., scale: float | None = ..., layout: str = ..., return_lse: Literal[False] = ...,
) -> torch.Tensor: ...
@overload
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, grid: Sequence[int] | None = ..., pattern: Pattern | None = ...,
    schedule: Schedule | None = ..., step: int | None = ..., steps: int | None = ..., layer: int = ..., quant: str = ...,
    granularity: Sequence[int] | None = ..., scale: float | None = ..., layout: str = ..., return_lse: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, grid: Sequence[int] | None = ..., pattern: Pattern | None = ...,
    schedule: Schedule | None = ..., step: int | None = ..., steps: int | None = ..., layer: int = ..., quant: str = ...,
    granularity: Sequence[int] | None = ..., scale: float | None = ..., layout: str = ..., return_lse: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]: ...

def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    grid: Sequence[int] | None = None,
    pattern: Pattern | None = None,
    schedule: Schedule | None = None,
    step: int | None = None,
    steps: int | None = None,
    layer: int = 0,
    quant: str = "none",
    granularity: Sequence[int] | None = None,
    scale: float | None = None,
    layout: str = "BHLD",
    return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """softmax(scale q k^T over the visible keys) v.

    Without `pattern` and `schedule`: dense, k and v may have a length of their own, and no grid is needed. With a
    pattern: the same at every step, in precision `quant`. With a schedule: what it says for this step and layer.

    Args:
        q: queries [B,H,L,D], or [B,L,H,D] with ``layout="BLHD"``; float32 or bfloat16 on the CPU, D a multiple of 8
            from 8 to 256; on CUDA (see :func:`devices`) bfloat16 or float16, D 64 or 128, and float32 with "e4m3" or
            after ``torch.set_float32_matmul_precision("medium")``, since it is rounded to bfloat16 there; tokens in
            raster order (T, then Y, then X fastest). Any strides whose innermost is 1 are read in place.
        k, v: keys and values, likewise.
        grid: (t, y, x) tokens, t * y * x = L.
        pattern: :class:`Dense`, :class:`SlidingTile`, :class:`Radial` or :class:`BlockMask`.
        schedule: a :class:`Schedule`.
        step, steps: the denoising step, from 0, and their number; for a schedule of several phases.
        layer: the transformer layer, from 0, by which the schedule's overrides are looked up.
        quant: "none", "e4m3" or "int8", beside a pattern.
        granularity: (t, y, x) tokens that share one scale of Q and of K; the pattern's tile when absent.
        scale: softmax scale; 1/sqrt(D) when absent.
        layout: "BHLD" or "BLHD".
        return_lse: also return the log-sum-exp [B,H,L], float32, natural log, not differentiable.

    Returns: out, of q's shape and dtype; or (out, lse).

    Gradients flow to q, k and v, straight through the casts to E4M3; INT8 has none. Inside autocast of their
    device the inputs are cast to its type.

    Errors: ValueError, TypeError: argument, expected, received, remedy.

    Source: accel::scheduled_attention.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f'layout: expected "BHLD" or "BLHD", got {layout!r}')
    if pattern is not None and schedule is not None:
        raise ValueError("pattern and schedule: expected one of them, got both; a schedule's overrides name patterns")
    text, phase, row_begin, col = "", 0, None, None
    if schedule is not None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule: expected a fpsattention.Schedule, got {type(schedule).__name__}; "
                            "read one with Schedule.load(path) or Schedule.parse(text)")
        if quant != "none" or granularity is not None:
            raise ValueError("quant and granularity: a schedule brings its own; leave them out")
        text, phase = schedule.text, _phase(schedule, step, steps)
    elif pattern is not None:
        if not isinstance(pattern, Pattern):
            raise TypeError(f"pattern: expected a fpsattention.Pattern such as SlidingTile, got "
                            f"{type(pattern).__name__}")
        text = pattern._text(quant, granularity)
        if isinstance(pattern, BlockMask):
            row_begin, col = pattern.row_begin, pattern.col
    elif quant != "none" or granularity is not None:
        raise ValueError("quant and granularity: quantisation needs a grid and a tile; pass grid= and pattern=Dense(tile)")
    if text and grid is None:
        raise ValueError("grid: a pattern or schedule needs the tokens as (t, y, x); pass grid=")
    if not isinstance(scale, (int, float, torch.SymFloat, type(None))):
        raise TypeError(f"scale: expected a number, got {scale!r}")
    extents = tuple(_integer(extent, "grid") for extent in three(grid, "grid")) if text else ()
    out, lse = _call(q, k, v, text, extents, (phase,), _integer(layer, "layer"), row_begin, col, scale, layout == "BHLD")
    return (out, lse) if return_lse else out


def _integer(value: Any, name: str) -> Any:
    """Numbers that a compiler follows pass as they are. Errors: TypeError."""
    if torch.compiler.is_compiling() or isinstance(value, torch.SymInt):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None


def _check_tensors(**tensors: Any) -> None:
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")


def _phase(schedule: Schedule, step: int | None, steps: int | None) -> int:
    if step is None and steps is None:
        if len(schedule._untils) > 1:
            raise ValueError(f"step and steps: the schedule has {len(schedule._untils)} phases; say which step of how many "
                             "this is")
        return 0
    if step is None or steps is None:
        raise ValueError("step and steps: expected both or none")
    return schedule.phase_at(step, steps)


def _call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, text: str, grid: Sequence[int], phases: Sequence[int],
          layer: int, row_begin: torch.Tensor | None = None, col: torch.Tensor | None = None,
          scale: float | None = None, heads_first: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    _check_tensors(q=q, k=k, v=v)
    save = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    out, lse, _, _ = torch.ops.fpsa.scheduled_attention(
        q, k, v, row_begin, col, schedule=text, grid=grid, phases=phases, layer=layer, scale=scale,
        heads_first=heads_first, save=save)
    return out, lse


def _setup(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Any, ...]) -> None:
    q, k, v, row_begin, col = inputs
    out, lse, row_max, exact = output
    ctx.mark_non_differentiable(lse, row_max, exact)
    ctx.saved = keyword_only_inputs["save"]
    if not ctx.saved:
        return
    # With E4M3 the backward wants the output of unrounded P in the place of the output; both have q's shape.
    ctx.save_for_backward(q, k, v, exact if exact.dim() == 4 else out, lse, row_max, row_begin, col)
    ctx.arguments = {name: value for name, value in keyword_only_inputs.items() if name != "save"}


def _backward(ctx: Any, d_out: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    if not ctx.saved:
        raise RuntimeError("fpsa::scheduled_attention: the forward kept nothing for a backward; call it with save=True, "
                           "or through fpsattention.attention")
    return *torch.ops.fpsa.scheduled_attention_backward(d_out, *ctx.saved_tensors, **ctx.arguments), None, None


torch.library.register_autograd("fpsa::scheduled_attention", _backward, setup_context=_setup)


def e4m3_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + bias, the product on E4M3 codes with a scale for each row of x and of W.

    Args:
        x: [..., in], float32 or bfloat16 on the CPU.
        weight: [out, in]. bias: [out] or None.

    Returns: [..., out] of x's dtype.

    Gradients are those of the linear layer at the quantised x and W. Errors: TypeError, ValueError. Source: ops::e4m3_linear.
    """
    _check_tensors(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
    return torch.ops.fpsa.e4m3_linear(x, weight, bias)[0]


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, bias = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])
    ctx.x_shape, ctx.types = x.shape, (weight.dtype, None if bias is None else bias.dtype)


def _linear_backward(ctx: Any, d_y: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    wanted = [*ctx.needs_input_grad[:2], ctx.types[1] is not None and ctx.needs_input_grad[2]]
    d_x, d_weight, d_bias = torch.ops.fpsa.e4m3_linear_backward(d_y.reshape(-1, d_y.shape[-1]), *ctx.saved_tensors, wanted)
    return (d_x.view(ctx.x_shape) if wanted[0] else None, d_weight.to(ctx.types[0]) if wanted[1] else None,
            d_bias.to(ctx.types[1]) if wanted[2] else None)


torch.library.register_autograd("fpsa::e4m3_linear", _linear_backward, setup_context=_linear_setup)
