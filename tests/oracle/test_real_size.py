"""Wan2.1-1.3B at its real size: random weights in the published file layout, two steps at 832x480, 17 frames.

Shows that the engine runs the real shapes within this machine's memory; prints peak memory and seconds per step.
No quality is claimed: the weights are noise. The text encoder (11 GB) is replaced by --prompt-embeds.
"""

import json
import os
import pathlib
import subprocess

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("FPSA_BIN_DIR", ROOT / "build/release/tests")).parent
SHARD_BYTES = 5 * 10**9  # as in the published folder: two shards

TRANSFORMER = dict(
    patch_size=(1, 2, 2), num_attention_heads=12, attention_head_dim=128, in_channels=16, out_channels=16,
    text_dim=4096, freq_dim=256, ffn_dim=8960, num_layers=30, cross_attn_norm=True,
    qk_norm="rms_norm_across_heads", eps=1e-6,
)


def random_tensor(name, shape, generator):
    if "norm" in name and name.endswith(("weight", "gamma")):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    fan_in = max(1, int(torch.tensor(shape[1:]).prod())) if len(shape) > 1 else shape[0]
    return torch.randn(shape, generator=generator) * fan_in**-0.5


def write_module(folder, module_class, config, generator, sharded):
    with torch.device("meta"):
        module = module_class(**config)
    folder.mkdir(parents=True)
    module.save_config(folder)
    shards, size = [{}], 0
    for name, meta in module.state_dict().items():
        tensor = random_tensor(name, tuple(meta.shape), generator)
        if sharded and size + tensor.numel() * 4 > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.numel() * 4
    if not sharded:
        save_file(shards[0], folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"diffusion_pytorch_model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in shard})
        shard.clear()
    total = sum(4 * p.numel() for p in module.state_dict().values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel

    folder = tmp_path_factory.mktemp("wan13b")
    generator = torch.Generator().manual_seed(0)
    write_module(folder / "transformer", WanTransformer3DModel, TRANSFORMER, generator, sharded=True)
    write_module(folder / "vae", AutoencoderKLWan, {}, generator, sharded=False)
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "WanPipeline", "_diffusers_version": "0.33.0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"], "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"], "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    embeds = {name: torch.randn(1, 512, 4096, generator=generator)
              for name in ("prompt_embeds", "negative_prompt_embeds")}
    save_file(embeds, folder / "embeds.safetensors")
    yield folder


def test_the_1_3b_model_makes_a_video_at_832x480(model_folder, tmp_path):
    video, perf = tmp_path / "noise.mp4", tmp_path / "perf.json"
    result = subprocess.run(
        [BUILD / "bin" / "fpsa", "generate", "--model", model_folder, "--prompt-embeds",
         model_folder / "embeds.safetensors", "--size", "832*480", "--num-frames", "17",
         "--num-inference-steps", "2", "--dtype", "bf16", "--seed", "0", "--output", video,
         "--perf-dump-path", perf],
        capture_output=True, text=True, env={**os.environ})
    print(result.stdout[-3000:])
    assert result.returncode == 0, result.stderr
    assert video.stat().st_size > 10_000
    report = json.loads(perf.read_text())
    print(json.dumps(report, indent=1)[:3000])
    assert report["peak_rss_bytes"] < 12 * 2**30
