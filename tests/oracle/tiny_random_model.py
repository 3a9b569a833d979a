"""A complete Wan2.1 folder with random weights, small enough for tests, made by diffusers and transformers themselves.

    python tests/oracle/tiny_random_model.py FOLDER
"""

import json
import pathlib
import shutil
import sys

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "models" / "tiny" / "tokenizer"
FLOW_SHIFT = 3.0
LATENT_CHANNELS = 4


def build(seed=7):
    """The pipeline with random weights, F32."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
                   dropout_rate=0.0, feed_forward_proj="gated-gelu")
    ).eval()
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS, text_dim=32, freq_dim=32, ffn_dim=96, num_layers=2, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    ).eval()
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=LATENT_CHANNELS, dim_mult=[1, 1, 2, 2], num_res_blocks=1, attn_scales=[],
        temperal_downsample=[False, True, True], latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.9, 1.1, 1.3, 0.7],
    ).eval()
    with torch.no_grad():
        # As built, the head is near zero and the modulation small: the prediction would hardly depend on the text.
        for module in (transformer, text_encoder):
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        # A decoder with small output would make a near-gray clip; some contrast keeps the checks of the result awake.
        vae.decoder.conv_out.weight.mul_(4.0)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=FLOW_SHIFT
    )
    return WanPipeline(tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, scheduler=scheduler,
                       transformer=transformer)


def write(folder, seed=7):
    """Writes the folder, with the clip shape the tests use as its default, and returns its path."""
    folder = pathlib.Path(folder)
    build(seed).save_pretrained(folder, safe_serialization=True)
    # save_pretrained keeps tokenizer.json only; published Wan folders hold spiece.model too, and the engine reads it.
    shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
    (folder / "fpsa.json").write_text(
        json.dumps({"height": 64, "width": 96, "num_frames": 9, "fps": 8, "num_inference_steps": 4})
    )
    return folder


if __name__ == "__main__":
    print(write(sys.argv[1]))
