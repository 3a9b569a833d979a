"""The video transformer against diffusers' WanTransformer3DModel, with the same random weights, in F32."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models import embeddings

# One small base; each case changes what its name says. Head dim 40 splits into (16, 12, 12), not evenly. The engine has
# fused passes for widths that are multiples of 16 and composed ones for the rest: head dims 40, 32 and 64 and the width
# of one head of 40 reach all of them.
BASE = dict(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=40, in_channels=4, out_channels=4, text_dim=24,
    freq_dim=16, ffn_dim=72, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=1e-6,
    rope_max_seq_len=64,
)

CASES = {
    "base": ({}, dict()),
    "odd_grid": ({}, dict(latent=(3, 10, 14))),
    "single_token": ({}, dict(latent=(1, 2, 2))),
    "one_frame": ({}, dict(latent=(1, 6, 4))),
    "batch_of_different_timesteps": ({}, dict(timestep=(17.0, 901.5, 500.0))),
    "batch_at_one_timestep": ({}, dict(timestep=(250.0, 250.0))),
    "no_cross_norm": (dict(cross_attn_norm=False), dict(timestep=(3.0, 999.0))),
    "patch_222": (dict(patch_size=(2, 2, 2)), dict(latent=(4, 6, 4))),
    "patch_113": (dict(patch_size=(1, 1, 3)), dict(latent=(2, 5, 6))),
    "patch_111": (dict(patch_size=(1, 1, 1)), dict(latent=(2, 3, 5))),
    "other_out_channels": (dict(in_channels=3, out_channels=7), dict()),
    "head_dim_128": (dict(attention_head_dim=128, num_attention_heads=1), dict()),
    "head_dim_64_of_4": (dict(num_attention_heads=4, attention_head_dim=64), dict()),
    "widths_of_16_with_different_timesteps": (dict(attention_head_dim=32), dict(timestep=(40.0, 770.0))),
    "width_of_40": (dict(num_attention_heads=1), dict(timestep=(40.0, 770.0))),
    "one_layer_large_eps": (dict(num_layers=1, eps=1e-3), dict()),
    "one_text_token": ({}, dict(text_tokens=1)),
    "padded_text": ({}, dict(text_tokens=9, text_zeros=6)),
    "integer_timestep": ({}, dict(timestep=(999.0,))),
    "timestep_zero": ({}, dict(timestep=(0.0,))),
}


def make_case(name):
    changes, inputs = CASES[name]
    config = {**BASE, **changes}
    model = WanTransformer3DModel(**config).eval()
    randomise(model)
    timestep = torch.tensor(inputs.get("timestep", (640.25,)))
    batch = timestep.numel()
    text = torch.randn(batch, inputs.get("text_tokens", 7), config["text_dim"])
    if inputs.get("text_zeros"):
        text[:, -inputs["text_zeros"] :] = 0
    latents = torch.randn(batch, config["in_channels"], *inputs.get("latent", (3, 6, 8)))
    return model, dict(latents=latents, timestep=timestep, text=text)


def randomise(model):
    """Every tensor away from its initial value: zero biases and unit norms would hide a missing term."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                p.copy_(1.0 + 0.2 * torch.randn_like(p))
            elif p.dim() >= 2 and "scale_shift_table" not in name:
                p.copy_(torch.randn_like(p) * (1.2 / p[0].numel() ** 0.5))
            else:
                p.copy_(0.3 * torch.randn_like(p))


def config_of(model):
    return {"transformer": json.loads(model.to_json_string())}


def reference(model, inputs):
    return model(
        hidden_states=inputs["latents"], timestep=inputs["timestep"], encoder_hidden_states=inputs["text"],
        return_dict=False,
    )[0]


@pytest.mark.parametrize("name", CASES)
def test_predicts_what_diffusers_predicts(name, parity, weights, tolerance, assert_close):
    model, inputs = make_case(name)
    with torch.no_grad():
        expected = reference(model, inputs)
    got = parity("dit.predict", config_of(model), {**weights(model), **inputs})
    error = assert_close(got["velocity"], expected, tolerance("kModelF32"), name)
    print(f"{name}: {error:.1e}")


@pytest.mark.parametrize("layer", [0, 1])
def test_tap_returns_the_states_after_a_layer(layer, parity, weights, tolerance, assert_close):
    model, inputs = make_case("batch_of_different_timesteps")
    states = {}
    model.blocks[layer].register_forward_hook(lambda module, args, output: states.update(out=output))
    with torch.no_grad():
        expected = reference(model, inputs)
    got = parity("dit.predict", {**config_of(model), "tap_layer": layer}, {**weights(model), **inputs})
    assert_close(got["velocity"], expected, tolerance("kModelF32"))
    assert_close(got["tap"], states["out"], tolerance("kModelF32"))


def test_stretched_positions_rotate_as_scaled_positions(parity, weights, tolerance, assert_close):
    """diffusers has no such option, so its tables are rebuilt here from scaled positions."""
    model, inputs = make_case("base")
    stretch = (1.0, 2.5, 2.0)
    sizes = [model.rope.t_dim, model.rope.h_dim, model.rope.w_dim]
    tables = [
        embeddings.get_1d_rotary_pos_embed(
            dim, torch.arange(BASE["rope_max_seq_len"], dtype=torch.float64) * factor, use_real=True,
            repeat_interleave_real=True, freqs_dtype=torch.float64,
        )
        for dim, factor in zip(sizes, stretch)
    ]
    model.rope.freqs_cos = torch.cat([cos for cos, _ in tables], dim=1)
    model.rope.freqs_sin = torch.cat([sin for _, sin in tables], dim=1)
    with torch.no_grad():
        expected = reference(model, inputs)
    got = parity("dit.predict", {**config_of(model), "rope_stretch": stretch}, {**weights(model), **inputs})
    assert_close(got["velocity"], expected, tolerance("kModelF32"))
    plain = parity("dit.predict", config_of(model), {**weights(model), **inputs})
    assert (plain["velocity"] - expected).abs().max() > 1e-2, "the stretch changed nothing"


@pytest.mark.parametrize(
    "name",
    ["base", "batch_of_different_timesteps", "no_cross_norm", "patch_222", "head_dim_64_of_4",
     "widths_of_16_with_different_timesteps", "width_of_40"],
)
def test_gradients_are_those_of_diffusers(name, parity, weights, tolerance, assert_close):
    model, inputs = make_case(name)
    leaves = {k: v.clone().requires_grad_(k != "timestep") for k, v in inputs.items()}
    expected = reference(model, leaves)
    cotangent = torch.randn_like(expected)
    (expected * cotangent).sum().backward()
    got = parity("dit.gradients", config_of(model), {**weights(model), **inputs, "cotangent": cotangent})
    assert_close(got["grad_latents"], leaves["latents"].grad, tolerance("kModelF32"), "latents")
    assert_close(got["grad_text"], leaves["text"].grad, tolerance("kModelF32"), "text")
    for weight_name, p in model.named_parameters():
        assert_close(got["grad." + weight_name], p.grad, tolerance("kModelF32"), weight_name)


WAN_1_3B = dict(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30, text_dim=4096)
WAN_14B = dict(num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, num_layers=40, text_dim=4096)


@pytest.mark.parametrize("config", [WAN_1_3B, WAN_14B, dict(cross_attn_norm=False, num_layers=1)])
def test_declares_the_tensors_that_diffusers_declares(config, parity):
    with torch.device("meta"):
        model = WanTransformer3DModel(**config)
    got = parity("dit.names", config_of(model), {"unused": torch.zeros(1)})
    declared = {name: tuple(t.shape)[:-1] for name, t in got.items()}
    assert declared == {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(image_dim=1280), "image_dim"),
        (dict(added_kv_proj_dim=5120), "added_kv_proj_dim"),
        (dict(pos_embed_seq_len=514), "pos_embed_seq_len"),
        (dict(vace_layers=[0, 5]), "vace_layers"),
        (dict(_class_name="WanVACETransformer3DModel"), "WanVACETransformer3DModel"),
        (dict(qk_norm="rms_norm"), "qk_norm"),
        (dict(num_layers=0), "num_layers"),
        (dict(num_layers="2"), "num_layers"),
        (dict(attention_head_dim=21), "attention_head_dim"),
        (dict(patch_size=[1, 2]), "patch_size"),
        (dict(eps=0), "eps"),
        (dict(window_length=3), "window_length"),
    ],
)
def test_refuses_a_config_by_the_name_of_what_is_wrong(change, named, parity):
    config = {**json.loads(json.dumps(BASE)), "_class_name": "WanTransformer3DModel", **change}
    done = parity("dit.names", {"transformer": config}, {"unused": torch.zeros(1)}, check=False)
    assert done.returncode == 1
    assert named in done.stderr


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(latents=torch.zeros(1, 4, 3, 5, 8)), "patch"),
        (dict(latents=torch.zeros(1, 5, 3, 6, 8)), "latents"),
        (dict(latents=torch.zeros(1, 4, 65, 2, 2)), "65"),
        (dict(timestep=torch.zeros(2)), "timestep"),
        (dict(text=torch.zeros(1, 7, 25)), "text"),
    ],
)
def test_refuses_inputs_by_name(change, named, parity, weights):
    model, inputs = make_case("base")
    done = parity("dit.predict", config_of(model), {**weights(model), **inputs, **change}, check=False)
    assert done.returncode == 1
    assert named in done.stderr
