"""The causal VAE against diffusers' AutoencoderKLWan, with the same random weights, in F32."""

import json

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan

BASE = dict(base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True])

# name -> (changes to BASE, input): frames, height and width are those of the video.
CASES = {
    "base": ({}, dict()),
    "one_frame": ({}, dict(frames=1)),
    "batch_of_two": ({}, dict(frames=5, batch=2)),
    "space_only": (dict(temperal_downsample=[False]), dict()),
    "wan_levels": (dict(dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]), dict(frames=9, size=(32, 48))),
    "wan_levels_17": (dict(dim_mult=[1, 1, 2, 4], temperal_downsample=[False, True, True]), dict(frames=17, size=(16, 24))),
    "time_first": (dict(dim_mult=[1, 2, 2, 4], temperal_downsample=[True, True, False]), dict(frames=9, size=(16, 8))),
    "time_ends": (dict(dim_mult=[1, 2, 3, 4], temperal_downsample=[True, False, True]), dict(frames=9, size=(8, 16))),
    "time_middle": (dict(dim_mult=[1, 2, 1], temperal_downsample=[False, True]), dict(frames=17, size=(12, 8))),
    "no_downsampling": (dict(dim_mult=[2], temperal_downsample=[]), dict(frames=5, size=(6, 10))),
    "two_residuals": (dict(num_res_blocks=2), dict()),
    "attention": (dict(attn_scales=[1.0, 0.5], num_res_blocks=2), dict(frames=5, size=(8, 12))),
    "attention_below": (dict(attn_scales=[0.5]), dict(frames=5, size=(8, 12))),
    "other_decoder_dim": (dict(decoder_base_dim=12), dict()),
    "four_channels": (dict(in_channels=4, out_channels=2), dict(frames=5)),
    "wide": (dict(base_dim=40, z_dim=16), dict(frames=5, size=(12, 20))),
}

# frame size, (tile_y, tile_x, stride_y, stride_x): both axes, one axis, remainders smaller than the overlap, no overlap.
TILINGS = {
    "both": ((24, 40), (16, 16, 12, 12)),
    "one_axis": ((8, 40), (16, 16, 12, 8)),
    "small_remainder": ((26, 38), (16, 16, 8, 12)),
    "rectangular": ((28, 30), (12, 20, 8, 14)),
    "no_overlap": ((24, 24), (8, 12, 8, 12)),
    "fits": ((16, 16), (16, 16, 12, 12)),
}


@pytest.fixture(autouse=True)
def encoder_attention(monkeypatch):
    """The encoder hands its attention layers a feature cache that their forward does not take; let them ignore it."""
    forward = autoencoder_kl_wan.WanAttentionBlock.forward
    monkeypatch.setattr(
        autoencoder_kl_wan.WanAttentionBlock, "forward", lambda self, x, feat_cache=None, feat_idx=None: forward(self, x)
    )


def build(changes):
    config = {**BASE, **changes}
    z, mask = config["z_dim"], config["temperal_downsample"]
    config.update(
        scale_factor_temporal=2 ** sum(mask), scale_factor_spatial=2 ** len(mask),
        latents_mean=torch.randn(z).tolist(), latents_std=(torch.rand(z) + 0.5).tolist(),
    )
    model = AutoencoderKLWan(**config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("gamma"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
        # The last layers are scaled so that the range is that of a video: clamping must matter, but not everywhere.
        model.decoder.conv_out.weight.mul_(2.0)
    return model, {"vae": json.loads(model.to_json_string())}


def inputs(model, frames=9, size=(12, 8), batch=1):
    config = model.config
    video = torch.rand(batch, config.in_channels, frames, *size) * 2 - 1
    latents = torch.randn(
        batch, config.z_dim, 1 + (frames - 1) // config.scale_factor_temporal,
        size[0] // config.scale_factor_spatial, size[1] // config.scale_factor_spatial,
    )
    return video, latents



@pytest.mark.parametrize("name", CASES)
def test_encode(name, parity, weights, assert_close, tolerance):
    changes, sizes = CASES[name]
    model, config = build(changes)
    video, _ = inputs(model, **sizes)
    with torch.no_grad():
        dist = model.encode(video).latent_dist
    out = parity("vae.encode", config, {**weights(model), "video": video})
    assert_close(out["moments"], dist.parameters, tolerance("kModelF32"), "moments")
    assert_close(out["whole"], dist.parameters, tolerance("kModelF32"), "moments of the whole sequence")
    mean = torch.tensor(model.config.latents_mean).view(1, -1, 1, 1, 1)
    scale = 1.0 / torch.tensor(model.config.latents_std).view(1, -1, 1, 1, 1)
    assert_close(out["normalised"], (dist.mode() - mean) * scale, tolerance("kModelF32"), "normalised latents")


@pytest.mark.parametrize("name", CASES)
def test_decode(name, parity, weights, assert_close, tolerance):
    changes, sizes = CASES[name]
    model, config = build(changes)
    _, latents = inputs(model, **sizes)
    with torch.no_grad():
        video = model.decode(latents).sample
    assert 0.02 < (video.abs() < 1).float().mean() <= 1
    out = parity("vae.decode", config, {**weights(model), "latents": latents})
    assert_close(out["video"], video, tolerance("kModelF32"), "video")
    assert_close(out["whole"], video, tolerance("kModelF32"), "video of the whole sequence")
    mean = torch.tensor(model.config.latents_mean).view(1, -1, 1, 1, 1)
    scale = 1.0 / torch.tensor(model.config.latents_std).view(1, -1, 1, 1, 1)
    assert_close(out["denormalised"], latents / scale + mean, tolerance("kModelF32"), "denormalised latents")


@pytest.mark.parametrize("name", TILINGS)
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_tiled(name, direction, parity, weights, assert_close, tolerance):
    size, tiling = TILINGS[name]
    model, config = build({})
    video, latents = inputs(model, frames=5, size=size)
    model.enable_tiling(*tiling)
    tensors = {**weights(model), "video": video, "latents": latents}
    with torch.no_grad():
        if direction == "encode":
            expected, key = model.encode(video).latent_dist.parameters, "moments"
        else:
            expected, key = model.decode(latents).sample, "video"
    out = parity(f"vae.{direction}", {**config, "tiling": tiling}, tensors)
    assert_close(out[key], expected, tolerance("kModelF32"), key)


def test_names_and_shapes_of_the_real_vae(parity):
    with torch.device("meta"):
        model = AutoencoderKLWan()
    out = parity("vae.names", {"vae": json.loads(model.to_json_string())}, {})
    declared = {name: tuple(t.shape)[:-1] for name, t in out.items()}
    assert declared == {name: tuple(t.shape) for name, t in model.state_dict().items()}
