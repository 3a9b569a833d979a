"""Our self-attention in diffusers' Wan transformers: put in, told where it is, and taken out again.

Grid, step and layer are not guessed. The grid is that of the latents which the model's rotary embedding receives; the
step comes from the pipeline's scheduler and the timestep that the transformer is called with; a layer knows its index
because its processor was made for it. They travel with the rotary embedding, an argument of every layer, so a layer
that is computed again (gradient checkpointing) sees what it saw the first time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import _attention, _checkpoint, _native
from ._schedule import Schedule

ScheduleLike = "Schedule | str | os.PathLike[str] | None"


def _schedule_of(value: Any, model: Any) -> Schedule:
    if isinstance(value, Schedule):
        return value
    if value is None:
        carried, place = _checkpoint.of_loaded(model)
        if carried is None:
            raise ValueError(f"schedule: expected one, since the checkpoint carries none ({place}); pass a "
                             'fpsattention.Schedule, the path of a TOML file, or "dense"')
        return carried
    if value == "dense":
        return Schedule.dense()
    if isinstance(value, (str, os.PathLike)):
        return Schedule.load(value)
    raise TypeError(f'schedule: expected a fpsattention.Schedule, a path, "dense" or None, got {type(value).__name__}')


def _transformers_of(target: Any) -> list[Any]:
    try:
        from diffusers import WanTransformer3DModel
    except ImportError as error:
        raise ImportError("fpsattention.apply works on diffusers' Wan models; pip install diffusers") from error
    if isinstance(target, WanTransformer3DModel):
        return [target]
    parts = [getattr(target, name, None) for name in ("transformer", "transformer_2")]
    found = [part for part in parts if isinstance(part, WanTransformer3DModel)]
    if not found:
        raise TypeError("target: expected a diffusers Wan pipeline or a WanTransformer3DModel (of a wrapper such as DDP, "
                        f"the module inside), got {type(target).__name__}")
    return found


class _Place:
    """Where in the run a forward happens: set before each forward of the transformer, read by its rotary embedding."""

    def __init__(self, schedule: Schedule, scheduler: Any, train_timesteps: int) -> None:
        self.schedule = schedule
        self.scheduler = scheduler
        self.train_timesteps = train_timesteps
        self.fixed: tuple[int, int] | None = None
        self.phases: tuple[int, ...] = (0,)
        self.step: tuple[int, int] | None = None
        self.seen: dict[tuple[int, int], tuple[tuple[int, ...], torch.dtype]] = {}

    def enter(self, timestep: torch.Tensor) -> None:
        if self.fixed is not None:
            self.step = self.fixed
            self.phases = (self.schedule.phase_at(*self.step),)
            return
        # Wan2.2's TI2V gives every token a timestep of its own, 0 where the image is: the rest of the sample decides.
        values = timestep.detach().reshape(timestep.shape[0], -1).amax(1).tolist() if timestep.dim() else [float(timestep)]
        if len(set(values)) == 1:
            values = values[:1]
        if self.scheduler is None:
            self.step = None
            self.phases = tuple(self.schedule.phase_at_sigma(min(max(v / self.train_timesteps, 0.0), 1.0)) for v in values)
            return
        steps = [self._step_of(value) for value in values]
        self.step = steps[0]
        self.phases = tuple(self.schedule.phase_at(*step) for step in steps)

    def _step_of(self, value: float) -> tuple[int, int]:
        timesteps = self.scheduler.timesteps
        matches = (timesteps.to(torch.float64) == value).nonzero().flatten().tolist()
        if len(matches) > 1:
            current = getattr(self.scheduler, "step_index", None)
            matches = [current] if current in matches else matches[:1]
        if not matches:
            raise ValueError(f"timestep: {value} is none of the {len(timesteps)} timesteps of the pipeline's "
                             f"{type(self.scheduler).__name__}; call its set_timesteps, say where you are with "
                             "Applied.at(step, steps), or apply to pipe.transformer for training")
        return matches[0], len(timesteps)


class _SelfAttention:
    """A processor of diffusers for one layer's self-attention: projections, norm, rotation, our operator."""

    def __init__(self, layer: int, schedule: Schedule, original: Any,
                 compute: Callable[..., torch.Tensor] | None = None) -> None:
        self.layer = layer
        self.text = schedule.text
        self.original = original
        self.compute = compute

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                 attention_mask: torch.Tensor | None = None, rotary_emb: Any = None, **kwargs: Any) -> torch.Tensor:
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("self-attention: expected neither encoder_hidden_states nor attention_mask")
        if rotary_emb is None or len(rotary_emb) != 4:
            raise RuntimeError("self-attention was called outside the transformer's forward, so its grid and step are not "
                               "known; call fpsattention.attention, or the transformer itself")
        cos, sin, grid, phases = rotary_emb
        if getattr(attn, "fused_projections", False):
            q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        q = _rotate(attn.norm_q(q).unflatten(2, (attn.heads, -1)), cos, sin)
        k = _rotate(attn.norm_k(k).unflatten(2, (attn.heads, -1)), cos, sin)
        v = v.unflatten(2, (attn.heads, -1))
        if self.compute is not None:
            out = self.compute(q, k, v, grid, self.layer)
        else:
            out, _ = _attention._call(q, k, v, self.text, grid, phases, self.layer)
        out = out.flatten(2).to(hidden_states.dtype)
        for part in attn.to_out:
            out = part(out)
        return out


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns neighbouring pairs of channels. x [B,L,H,D]; cos, sin [1,L,1,D], each angle twice."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., ::2], sin[..., ::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


class Applied:
    """What :func:`apply` did to a pipeline or transformer, and the way to undo it. Also a context manager."""

    def __init__(self, target: Any, transformers: Sequence[Any], schedule: Schedule, scheduler: Any,
                 compute: Callable[..., torch.Tensor] | None = None) -> None:
        self.schedule = schedule
        self.transformers = list(transformers)
        training = scheduler if scheduler is not None else getattr(target, "scheduler", None)
        train_timesteps = getattr(getattr(training, "config", None), "num_train_timesteps", 1000)
        self._place = _Place(schedule, scheduler, train_timesteps)
        self._hooks: list[Any] = []
        self._linears: list[torch.nn.Module] = []
        for transformer in self.transformers:
            config = transformer.config
            schedule.check_for(layers=config.num_layers, heads=config.num_attention_heads)
        for transformer in self.transformers:
            previous = transformer.__dict__.get("_fpsattention")
            if previous is not None:
                previous.remove()
            self._enter(transformer, compute)

    def _enter(self, transformer: Any, compute: Callable[..., torch.Tensor] | None) -> None:
        transformer.__dict__["_fpsattention"] = self
        place = self._place

        @torch.compiler.disable
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            timestep = kwargs.get("timestep", args[1] if len(args) > 1 else None)
            if timestep is None:
                raise TypeError("timestep: expected the transformer to be called with it")
            place.enter(timestep)
            latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            if place.step is not None:
                place.seen[place.step] = (_grid_of(latents, module.rope), latents.dtype)

        def around_rope(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            return (*output, _grid_of(args[0], module), place.phases)

        self._hooks.append(transformer.register_forward_pre_hook(before, with_kwargs=True))
        self._hooks.append(transformer.rope.register_forward_hook(around_rope))
        for layer, block in enumerate(transformer.blocks):
            block.attn1.set_processor(_SelfAttention(layer, self.schedule, block.attn1.processor, compute))
            if self.schedule.feed_forward == "e4m3" and compute is None:
                for linear in (block.ffn.net[0].proj, block.ffn.net[2]):
                    self._code(linear)

    def _code(self, linear: Any) -> None:
        if not isinstance(linear, torch.nn.Linear) or "forward" in linear.__dict__:
            raise TypeError("the schedule's feed_forward = \"e4m3\" works on torch.nn.Linear, got "
                            f"{type(linear).__name__}; merge adapters into the weights first (pipe.fuse_lora and "
                            "pipe.unload_lora_weights)")
        linear.forward = lambda x: _attention.e4m3_linear(x, linear.weight, linear.bias)
        self._linears.append(linear)

    def at(self, step: int | None, steps: int | None = None) -> Applied:
        """For a sampling loop of your own: this is step `step` of `steps`, until told otherwise; at(None) undoes it."""
        if step is None:
            self._place.fixed = None
        else:
            if steps is None:
                raise ValueError("steps: expected the number of steps beside step")
            self.schedule.phase_at(step, steps)
            self._place.fixed = (step, steps)
        return self

    def explain(self) -> list[dict[str, Any]]:
        """What ran since apply() or the last reset(): an entry for each step and layer that were seen.

        Keys: step, layer, kernel, isa, coder, pattern, density, granularity, reason. Steps are known where a pipeline's
        scheduler counts them, or :meth:`at` does.
        """
        config = self.transformers[0].config
        entries: list[dict[str, Any]] = []
        for (step, steps), (grid, dtype) in sorted(self._place.seen.items()):
            entries += self.schedule.explain(grid, steps=steps, layers=config.num_layers,
                                             heads=config.num_attention_heads, head_dim=config.attention_head_dim,
                                             dtype=dtype, only_steps=[step])
        return entries

    def reset(self) -> None:
        """Forgets what explain() would tell."""
        self._place.seen.clear()

    def remove(self) -> None:
        """Puts the original attention back. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for linear in self._linears:
            del linear.forward
        self._linears.clear()
        for transformer in self.transformers:
            if transformer.__dict__.get("_fpsattention") is not self:
                continue
            for block in transformer.blocks:
                if isinstance(block.attn1.processor, _SelfAttention):
                    block.attn1.set_processor(block.attn1.processor.original)
            del transformer.__dict__["_fpsattention"]

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _grid_of(latents: torch.Tensor, rope: Any) -> tuple[int, ...]:
    """Tokens (t, y, x) of latents [B,C,T,H,W], by the patches that the rotary embedding counts in."""
    return tuple(extent // patch for extent, patch in zip(latents.shape[2:], rope.patch_size))


def apply(target: Any, schedule: Schedule | str | os.PathLike[str] | None = None) -> Applied:
    """Replaces the self-attention of a diffusers Wan pipeline or transformer; cross-attention stays as it is.

    Args:
        target: a Wan pipeline (text- or image-to-video; both transformers of Wan2.2): the step is that of its
            scheduler. Or a WanTransformer3DModel, for training loops: each sample has the phase of its noise level,
            timestep / 1000.
        schedule: a :class:`Schedule`, the path of a TOML file, "dense", or None for the one that the checkpoint carries.

    Returns: an :class:`Applied`, whose remove() undoes it. A second apply() replaces the first.

    Works with gradient checkpointing, FSDP2 (before or after fully_shard), accelerate and PEFT. With
    ``feed_forward = "e4m3"`` in the schedule the two linear layers after attention multiply E4M3 codes too.

    Errors: TypeError for another target; ValueError for a schedule that does not fit the model's layers and heads, and
    at the first forward for one that does not fit the grid.
    """
    transformers = _transformers_of(target)
    found = _schedule_of(schedule, transformers[0])
    scheduler = None if target is transformers[0] else target.scheduler
    return Applied(target, transformers, found, scheduler)


def explain(target: Any) -> str:
    """What ran in a pipeline or transformer that apply() was called on, a line for each step and run of layers."""
    applied = getattr(_transformers_of(target)[0], "_fpsattention", None)
    if applied is None:
        raise ValueError("target: expected a model that fpsattention.apply was called on")
    lines: list[list[Any]] = []
    for entry in applied.explain():
        words = (f"{entry['kernel']}{' after ' + entry['coder'] if entry['coder'] else ''}, {entry['pattern']} (density "
                 f"{entry['density']:.3f}), granularity {entry['granularity']}; {entry['reason']}")
        if lines and lines[-1][0] == entry["step"] and lines[-1][3] == words:
            lines[-1][2] = entry["layer"]
        else:
            lines.append([entry["step"], entry["layer"], entry["layer"], words])
    return "\n".join(f"step {step:3}  layer{'' if first == last else 's'} "
                     f"{first if first == last else f'{first}-{last}'}  {words}" for step, first, last, words in lines)


def register_backend() -> str:
    """Makes "fpsa" a backend of diffusers' attention dispatcher: dense attention by our kernels, for any of its models.

    The dispatcher knows neither grid nor layer nor step, so schedules and patterns need :func:`apply`. Afterwards
    ``transformer.set_attention_backend("fpsa")`` and ``with attention_backend("fpsa")`` work.

    Returns: "fpsa". Errors: ImportError where diffusers is missing or has no dispatcher.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    if "fpsa" in AttentionBackendName._value2member_map_:
        return "fpsa"
    # The dispatcher finds backends by an enumeration, which Python does not extend; its tables are filled by hand.
    member = str.__new__(AttentionBackendName, "fpsa")
    member._name_, member._value_ = "FPSA", "fpsa"
    AttentionBackendName._member_map_["FPSA"] = member
    AttentionBackendName._value2member_map_["fpsa"] = member
    AttentionBackendName._member_names_.append("FPSA")

    @_AttentionBackendRegistry.register(member)
    def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
              dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
              return_lse: bool = False, _parallel_config: Any = None) -> Any:
        for name, value_, plain in (("attn_mask", attn_mask, None), ("dropout_p", dropout_p, 0.0),
                                    ("is_causal", is_causal, False), ("enable_gqa", enable_gqa, False),
                                    ("parallel_config", _parallel_config, None)):
            if value_ is not plain and value_ != plain:
                raise ValueError(f'{name}: the attention backend "fpsa" has none; choose another backend for this model')
        return _attention.attention(query, key, value, scale=scale, layout="BLHD", return_lse=return_lse)

    return "fpsa"
