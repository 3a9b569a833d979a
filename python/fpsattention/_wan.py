"""Our self-attention in diffusers' Wan transformers: put in, told where it is, and taken out again.

Grid, step and layer are not guessed. The grid is that of the latents which the model's rotary embedding receives; the
step comes from the pipeline's scheduler and the timestep that the transformer is called with; a layer knows its index
because its processor was made for it. They travel with the rotary embedding, an argument of every layer, so a layer
that is computed again (gradient checkpointing) sees what it saw the first time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from . import _attention, _checkpoint, _native
from ._schedule import Schedule

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


# The model sees the timestep 1000 * sigma, in every release of Wan.
_TRAIN_TIMESTEPS = 1000


class _Place:
    """Where in the run a forward happens: set before each forward of the transformer, read by its rotary embedding."""

    def __init__(self, schedule: Schedule, pipe: Any, steps: int) -> None:
        self.schedule = schedule
        self.pipe = pipe  # None: training, where a noise level tells the step of a run of `steps`
        self.steps = steps
        self.fixed: tuple[int, int] | None = None
        self.phases: tuple[int, ...] = (0,)
        self.steps_now: list[tuple[int, int]] = []
        self.seen: dict[tuple[int, int], tuple[tuple[int, ...], torch.dtype, torch.device]] = {}

    def enter(self, timestep: torch.Tensor) -> None:
        self.steps_now = [self.fixed] if self.fixed is not None else self._steps_of(timestep)
        self.phases = tuple(self.schedule.phase_at(*step) for step in self.steps_now)

    def note(self, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        """Keeps for explain() what this forward attends over, in which type and where."""
        kind = device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        for step in self.steps_now:
            self.seen[step] = (grid, torch.get_autocast_dtype(kind) if autocast else dtype, device)

    def _steps_of(self, timestep: torch.Tensor) -> list[tuple[int, int]]:
        """The step of each sample, or the one of all."""
        # Wan2.2's TI2V gives every token a timestep of its own, 0 where the image is: the rest of the sample decides.
        values = timestep.detach().reshape(timestep.shape[0], -1).amax(1).tolist() if timestep.dim() else [float(timestep)]
        if len(set(values)) == 1:
            values = values[:1]
        if self.pipe is not None:
            return [self._step_of(value) for value in values]
        return [(self.schedule.step_of_level(self._level_of(value), self.steps), self.steps) for value in values]

    @staticmethod
    def _level_of(value: float) -> float:
        level = value / _TRAIN_TIMESTEPS
        if not 0 <= level <= 1 + 1e-5:  # float32 may leave it just above
            raise ValueError(f"timestep: expected {_TRAIN_TIMESTEPS} times a noise level in [0, 1], got {value}")
        return min(level, 1.0)

    def _step_of(self, value: float) -> tuple[int, int]:
        scheduler = self.pipe.scheduler  # asked each time, since it may be replaced
        timesteps = scheduler.timesteps
        matches = (timesteps.to(torch.float64) == value).nonzero().flatten().tolist()
        if len(matches) > 1:
            current = getattr(scheduler, "step_index", None)
            matches = [current] if current in matches else matches[:1]
        if not matches:
            raise ValueError(f"timestep: {value} is none of the {len(timesteps)} timesteps of the pipeline's "
                             f"{type(scheduler).__name__}; call its set_timesteps, say where you are with "
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

    def __init__(self, transformers: Sequence[Any], schedule: Schedule, pipe: Any, *,
                 steps: int = _native.DEFAULT_STEPS, compute: Callable[..., torch.Tensor] | None = None) -> None:
        self.schedule = schedule
        self.transformers = list(transformers)
        self._place = _Place(schedule, pipe, steps)
        self._hooks: list[Any] = []
        self._linears: list[torch.nn.Module] = []
        for transformer in self.transformers:
            config = transformer.config
            schedule.check_for(layers=config.num_layers, heads=config.num_attention_heads)
        for transformer in self.transformers:
            previous = transformer.__dict__.get("_fpsattention")
            if previous is not None:
                previous.remove()
        coded = []  # found before the first hook: a model may be refused
        if schedule.feed_forward == "e4m3" and compute is None:
            coded = [linear for transformer in self.transformers for linear in _feed_forward(transformer)]
        for transformer in self.transformers:
            self._enter(transformer, compute)
        for linear in coded:
            self._code(linear)

    def _enter(self, transformer: Any, compute: Callable[..., torch.Tensor] | None) -> None:
        transformer.__dict__["_fpsattention"] = self
        place = self._place

        @torch.compiler.disable
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            timestep = kwargs.get("timestep", args[1] if len(args) > 1 else None)
            if timestep is None:
                raise TypeError("timestep: expected the transformer to be called with it")
            place.enter(timestep)

        note = torch.compiler.disable(place.note)

        def around_rope(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            grid = _grid_of(args[0], module)
            note(grid, args[0].dtype, args[0].device)  # here, since accelerate's autocast begins after the hook before
            return (*output, grid, place.phases)

        self._hooks.append(transformer.register_forward_pre_hook(before, with_kwargs=True))
        self._hooks.append(transformer.rope.register_forward_hook(around_rope))
        for layer, block in enumerate(transformer.blocks):
            block.attn1.set_processor(_SelfAttention(layer, self.schedule, block.attn1.processor, compute))

    def _code(self, linear: Any) -> None:
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

        Keys: step, layer, kernel, isa, coder, pattern, density, granularity, reason. The step is that of the pipeline's
        scheduler or of :meth:`at`; in training, the one that a noise level belongs to. The kernels are those of the
        device that the model was on.
        """
        config = self.transformers[0].config
        entries: list[dict[str, Any]] = []
        for (step, steps), (grid, dtype, device) in sorted(self._place.seen.items()):
            entries += self.schedule.explain(grid, steps=steps, layers=config.num_layers,
                                             heads=config.num_attention_heads, head_dim=config.attention_head_dim,
                                             dtype=dtype, only_steps=[step], device=device)
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


def _feed_forward(transformer: Any) -> Iterator[torch.nn.Linear]:
    """The two linear layers after attention of each layer. Errors: TypeError where they are something else."""
    for block in transformer.blocks:
        for linear in (block.ffn.net[0].proj, block.ffn.net[2]):
            if not isinstance(linear, torch.nn.Linear) or "forward" in linear.__dict__:
                raise TypeError("the schedule's feed_forward = \"e4m3\" works on torch.nn.Linear, got "
                                f"{type(linear).__name__}; merge adapters into the weights first (pipe.fuse_lora and "
                                "pipe.unload_lora_weights)")
            yield linear


def _grid_of(latents: torch.Tensor, rope: Any) -> tuple[int, ...]:
    """Tokens (t, y, x) of latents [B,C,T,H,W], by the patches that the rotary embedding counts in."""
    return tuple(extent // patch for extent, patch in zip(latents.shape[2:], rope.patch_size))


def apply(target: Any, schedule: Schedule | str | os.PathLike[str] | None = None, *,
          num_inference_steps: int | None = None) -> Applied:
    """Replaces the self-attention of a diffusers Wan pipeline or transformer; cross-attention stays as it is.

    Args:
        target: a Wan pipeline (text- or image-to-video; both transformers of Wan2.2): the step is that of its
            scheduler. Or a WanTransformer3DModel, for training loops: each sample has the phase that inference has at
            its noise level, timestep / 1000 (:meth:`Schedule.step_of_level`).
        schedule: a :class:`Schedule`, the path of a TOML file, "dense", or None for the one that the checkpoint carries.
        num_inference_steps: for training, the steps of the inference that is trained for, 1 to 1000; 50 when absent.
            The recipe key of that name.

    Returns: an :class:`Applied`, whose remove() undoes it. A second apply() replaces the first.

    Norm and rotation of queries and keys stay those of diffusers, in training and inference, which so have the same
    bits; ``fpsa generate`` makes them and the codes in one pass. With ``feed_forward = "e4m3"`` in the schedule the two
    linear layers after attention multiply E4M3 codes too. Call it on the module itself, before torch.compile, DDP, FSDP2
    or PEFT wrap it. A mixed-precision policy of FSDP2 rounds the timestep to bfloat16 before the model sees it, unless
    cast_forward_inputs is False: a level beside the border of two phases may then fall on its other side.

    Threads: one forward of a transformer at a time.

    Errors: TypeError for another target; ValueError for a schedule that does not fit the model's layers and heads, and
    at the first forward for one that does not fit the grid or a timestep that is none of the run's.
    """
    transformers = _transformers_of(target)
    found = _schedule_of(schedule, transformers[0])
    if target is not transformers[0]:
        if num_inference_steps is not None:
            raise ValueError("num_inference_steps: the pipeline's scheduler knows it; leave it out, or apply to "
                             "pipe.transformer for training")
        return Applied(transformers, found, target)
    steps = _native.DEFAULT_STEPS if num_inference_steps is None else num_inference_steps
    found.step_of_level(1.0, steps)  # checks the number
    return Applied(transformers, found, None, steps=steps)


def explain(target: Any) -> str:
    """What ran in a pipeline or transformer that apply() was called on, a line for each step and run of layers.

    Errors: ValueError where apply() was not called; TypeError for another target.

    Source: accel::explain_scheduled, by :meth:`Applied.explain`.
    """
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
    ``transformer.set_attention_backend("fpsa")`` (which, in diffusers, sets the default of all models too) and ``with
    attention_backend("fpsa")`` work.

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
