"""Small Wan transformers and pipelines of diffusers with random weights, and what they are called with."""

import torch
from diffusers import WanTransformer3DModel

import fpsattention as fpsa

TILE = (2, 2, 3)
GRID = (3, 4, 6)  # of 9 frames of 64x96
SCHEDULE = fpsa.Schedule([fpsa.Phase(0.5, TILE, (1, 1, 1), "none"), fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE)
PROMPT = "a red circle moves left"


def transformer(layers=2, seed=3, **options):
    torch.manual_seed(seed)
    options = dict(dict(in_channels=4), **options)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, out_channels=4, text_dim=32, freq_dim=32,
        ffn_dim=96, num_layers=layers, cross_attn_norm=True, qk_norm="rms_norm_across_heads", **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def inputs(batch=1, timestep=500.0, requires_grad=False):
    return dict(hidden_states=torch.randn(batch, 4, 3, 8, 12, requires_grad=requires_grad),
                timestep=torch.full((batch,), timestep) if isinstance(timestep, float) else timestep,
                encoder_hidden_states=torch.randn(batch, 7, 32))


def run(pipe, steps=4, **arguments):
    return pipe(prompt=PROMPT, height=64, width=96, num_frames=9, num_inference_steps=steps, output_type="latent",
                generator=torch.Generator().manual_seed(5), guidance_scale=3.0, **arguments).frames


def calls_of_attention(monkeypatch):
    """A list that grows by (grid, phases, layer) with each call of our self-attention."""
    calls = []
    call = fpsa._attention._call

    def spy(q, k, v, text, grid, phases, layer, *rest):
        calls.append((tuple(grid), tuple(phases), layer))
        return call(q, k, v, text, grid, phases, layer, *rest)

    monkeypatch.setattr(fpsa._attention, "_call", spy)
    return calls
