"""Names and shapes of all tensors at the real sizes, and the mapping from the original Wan names.

No weights are allocated: diffusers and transformers modules live on the meta device, and the mapping is tested on one
number per tensor. Oracles: the modules themselves, diffusers' own conversion of original checkpoints, and for UMT5,
which diffusers does not convert, a forward pass written from the original's definition.
"""

import math

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from transformers import UMT5Config, UMT5EncoderModel

T2V_1_3B = dict(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30)
T2V_14B = dict(num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, num_layers=40)
TRANSFORMER = dict(patch_size=[1, 2, 2], in_channels=16, out_channels=16, text_dim=4096, freq_dim=256,
                   cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=1e-6)
VAE = dict(base_dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
           temperal_downsample=[False, True, True], dropout=0.0)
UMT5_XXL = dict(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                relative_attention_num_buckets=32, relative_attention_max_distance=128,
                feed_forward_proj="gated-gelu")


def on_meta(build):
    with torch.device("meta"):
        module = build()
    shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    shapes.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    return shapes


@pytest.mark.parametrize("sizes", [T2V_1_3B, T2V_14B], ids=["1.3B", "14B"])
def test_transformer_declares_what_diffusers_declares(parity, sizes):
    config = dict(TRANSFORMER, **sizes)
    ours = parity("weights.declared", {"part": "transformer", "config": config}, {})
    assert {n: t.tolist() for n, t in ours.items()} == on_meta(lambda: WanTransformer3DModel(**config))


def test_vae_declares_what_diffusers_declares(parity):
    ours = parity("weights.declared", {"part": "vae", "config": VAE}, {})
    assert {n: t.tolist() for n, t in ours.items()} == on_meta(lambda: AutoencoderKLWan(**VAE))


def test_umt5_declares_what_transformers_declares(parity):
    ours = parity("weights.declared", {"part": "text encoder", "config": dict(UMT5_XXL, model_type="umt5")}, {})
    assert {n: t.tolist() for n, t in ours.items()} == on_meta(lambda: UMT5EncoderModel(UMT5Config(**UMT5_XXL)))


def original_transformer_names(layers):
    linears = ["patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2",
               "time_projection.1", "head.head"]
    names = ["head.modulation"]
    for i in range(layers):
        block = f"blocks.{i}"
        names.append(f"{block}.modulation")
        linears += [f"{block}.norm3", f"{block}.ffn.0", f"{block}.ffn.2"]
        for attention in ("self_attn", "cross_attn"):
            linears += [f"{block}.{attention}.{x}" for x in "qkvo"]
            names += [f"{block}.{attention}.norm_q.weight", f"{block}.{attention}.norm_k.weight"]
    return names + [f"{linear}.{kind}" for linear in linears for kind in ("weight", "bias")]


def original_vae_names():
    """Wan2.1's own VAE: 2 residuals per level down, 3 up, 4 levels."""
    names, linears = [], ["conv1", "conv2"]

    def residual(at, shortcut):
        names.extend([f"{at}.residual.0.gamma", f"{at}.residual.3.gamma"])
        linears.extend([f"{at}.residual.2", f"{at}.residual.6"] + ([f"{at}.shortcut"] if shortcut else []))

    for side in ("encoder", "decoder"):
        linears.extend([f"{side}.conv1", f"{side}.head.2", f"{side}.middle.1.to_qkv", f"{side}.middle.1.proj"])
        names.extend([f"{side}.head.0.gamma", f"{side}.middle.1.norm.gamma"])
        residual(f"{side}.middle.0", False)
        residual(f"{side}.middle.2", False)
    for entry, kind in enumerate("rr2rr3rr3rr"):
        at = f"encoder.downsamples.{entry}"
        residual(at, entry in (3, 6)) if kind == "r" else linears.append(f"{at}.resample.1")
        if kind == "3":
            linears.append(f"{at}.time_conv")
    for entry, kind in enumerate("rrr3rrr3rrr2rrr"):
        at = f"decoder.upsamples.{entry}"
        residual(at, entry == 4) if kind == "r" else linears.append(f"{at}.resample.1")
        if kind == "3":
            linears.append(f"{at}.time_conv")
    return names + [f"{linear}.{kind}" for linear in linears for kind in ("weight", "bias")]


def numbered(names):
    """A different number for each name, so that a swap of two tensors shows."""
    return {name: torch.tensor([float(i)]) for i, name in enumerate(sorted(names))}


def assert_same(ours, theirs):
    assert {n: t.item() for n, t in ours.items()} == {n: t.item() for n, t in theirs.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("layers", [30, 40])
def test_original_transformer_names_map_as_diffusers_maps_them(parity, layers, prefix):
    original = {prefix + name: t for name, t in numbered(original_transformer_names(layers)).items()}
    ours = parity("weights.renamed", {"part": "transformer"}, original)
    assert_same(ours, convert_wan_transformer_to_diffusers(dict(original)))
    declared = on_meta(lambda: WanTransformer3DModel(**TRANSFORMER, **(T2V_1_3B if layers == 30 else T2V_14B)))
    assert ours.keys() == declared.keys()


def test_original_vae_names_map_as_diffusers_maps_them(parity):
    original = numbered(original_vae_names())
    ours = parity("weights.renamed", {"part": "vae"}, original)
    assert_same(ours, convert_wan_vae_to_diffusers(dict(original)))
    assert ours.keys() == on_meta(lambda: AutoencoderKLWan(**VAE)).keys()


def original_umt5(w, ids, heads, layers):
    """The encoder as the original defines it: pre-norm, unscaled attention with a bias table per layer, and
    fc2(fc1(x) * gelu(gate(x)))."""

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w[name]

    x = w["token_embedding.weight"][ids]
    length = ids.shape[1]
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    buckets = (distance > 0).long() * 16 + distance.abs()  # exact for distances below 8, with 32 buckets
    assert length <= 8
    for i in range(layers):
        b = f"blocks.{i}."
        y = norm(x, b + "norm1.weight")
        q, k, v = ((y @ w[f"{b}attn.{n}.weight"].T).unflatten(-1, (heads, -1)).transpose(1, 2) for n in "qkv")
        scores = q @ k.transpose(-1, -2) + w[b + "pos_embedding.embedding.weight"][buckets].permute(2, 0, 1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        x = x + y @ w[b + "attn.o.weight"].T
        y = norm(x, b + "norm2.weight")
        gate = y @ w[b + "ffn.gate.0.weight"].T
        gate = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        x = x + (y @ w[b + "ffn.fc1.weight"].T * gate) @ w[b + "ffn.fc2.weight"].T
    return norm(x, "norm.weight")


def test_original_umt5_weights_mean_the_same_under_transformers_names(parity, assert_close, tolerance):
    dim, heads, head_dim, hidden, layers, vocab = 24, 3, 8, 40, 2, 50
    shapes = {"token_embedding.weight": (vocab, dim), "norm.weight": (dim,)}
    for i in range(layers):
        inner = heads * head_dim
        for name, shape in {"norm1": (dim,), "norm2": (dim,), "attn.q": (inner, dim), "attn.k": (inner, dim),
                            "attn.v": (inner, dim), "attn.o": (dim, inner), "ffn.gate.0": (hidden, dim),
                            "ffn.fc1": (hidden, dim), "ffn.fc2": (dim, hidden),
                            "pos_embedding.embedding": (32, heads)}.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
    original = {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}
    ours = parity("weights.renamed", {"part": "text encoder"}, original)

    config = UMT5Config(vocab_size=vocab, d_model=dim, d_kv=head_dim, d_ff=hidden, num_layers=layers, num_heads=heads,
                        feed_forward_proj="gated-gelu", dropout_rate=0.0)
    module = UMT5EncoderModel(config).eval()
    missing, unexpected = module.load_state_dict(ours, strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"} and not unexpected
    ids = torch.randint(0, vocab, (2, 7))
    with torch.no_grad():
        expected = module(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert_close(original_umt5(original, ids, heads, layers), expected, tolerance("kModelF32"))


def test_real_umt5_names_map_onto_what_transformers_declares(parity):
    names = ["token_embedding.weight", "norm.weight"]
    for i in range(UMT5_XXL["num_layers"]):
        names += [f"blocks.{i}.{n}.weight" for n in ("norm1", "norm2", "attn.q", "attn.k", "attn.v", "attn.o", "ffn.gate.0",
                                                     "ffn.fc1", "ffn.fc2", "pos_embedding.embedding")]
    ours = parity("weights.renamed", {"part": "text encoder"}, numbered(names))
    assert ours.keys() == on_meta(lambda: UMT5EncoderModel(UMT5Config(**UMT5_XXL))).keys()
