"""LoRA files against diffusers and PEFT: theirs merge in the engine, ours load there, with the same result."""

import json
import subprocess

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tiny_random_model
from diffusers import WanPipeline
from test_generate import PROMPT, generate, model, oracle  # noqa: F401

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
STEPS = 3
ALPHA, RANK = 10, 4


@pytest.fixture
def adapted():
    """The pipeline with random adapters beside its weights."""
    pipeline = tiny_random_model.build()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS,
                                                init_lora_weights=False))
    with torch.no_grad():
        for name, parameter in pipeline.transformer.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.15 * torch.randn_like(parameter))
    return pipeline


def save(pipeline, folder):
    """As diffusers' training scripts do it, the configuration included."""
    WanPipeline.save_lora_weights(
        folder, transformer_lora_layers=get_peft_model_state_dict(pipeline.transformer),
        transformer_lora_adapter_metadata=json.loads(json.dumps(pipeline.transformer.peft_config["default"].to_dict(),
                                                                default=list)))
    return folder / "pytorch_lora_weights.safetensors"


def comfy(file, target):
    """The same adapters under the original repository's names, alpha as a tensor."""
    names = {"attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v",
             "attn1.to_out.0": "self_attn.o", "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k",
             "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o", "ffn.net.0.proj": "ffn.0",
             "ffn.net.2": "ffn.2"}
    tensors = {}
    for key, tensor in load_file(file).items():
        _, _, layer, rest = key.split(".", 3)
        module, half, _ = rest.rsplit(".", 2)
        stem = f"diffusion_model.blocks.{layer}.{names[module]}"
        tensors[f"{stem}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[half] }.weight"] = tensor
        tensors[f"{stem}.alpha"] = torch.tensor(float(ALPHA))
    save_file(tensors, target)
    return target


def test_a_lora_of_diffusers_gives_diffusers_latents(adapted, generate, tolerance, assert_close, tmp_path):  # noqa: F811
    file = save(adapted, tmp_path / "lora")
    expected = oracle(adapted, STEPS, prompt=PROMPT)
    plain = generate("--prompt", PROMPT, "--num-inference-steps", STEPS, "--seed", 5)["final"]
    assert (plain - expected).norm() > 0.1 * expected.norm(), "the adapters must matter for this test to mean anything"
    for name, path in {"diffusers": file, "comfy": comfy(file, tmp_path / "comfy.safetensors")}.items():
        latents = generate("--prompt", PROMPT, "--num-inference-steps", STEPS, "--seed", 5, "--lora", path, name=name)
        assert_close(latents["final"], expected, tolerance("kPipelineLatents"), name)


def test_a_scale_and_a_second_lora_add_up(adapted, generate, tolerance, assert_close, tmp_path):  # noqa: F811
    file = save(adapted, tmp_path / "lora")
    adapted.transformer.set_adapters(["default"], [0.75])
    expected = oracle(adapted, STEPS, prompt=PROMPT)
    latents = generate("--prompt", PROMPT, "--num-inference-steps", STEPS, "--seed", 5, "--lora", f"{file}:0.5",
                       "--lora", f"{file}:0.25")
    assert_close(latents["final"], expected, tolerance("kPipelineLatents"), "latents")


RECIPE = """
kind = "dit"
prompt_dropout = 0.0
[optimizer]
ema = 0.0
warmup_steps = 1
[report]
preview_minutes = 0
[lora]
rank = 3
alpha = 6
targets = ["attn1.to_q", "to_v", "ffn.net.2"]
[[stage]]
frames = 5
height = 32
width = 32
batch = 2
steps = 2
learning_rate = [0.05, 0.05]
pool_start = 16
pool_clips = 16
refresh_every = 0
"""


def test_a_lora_trained_here_loads_in_diffusers(  # noqa: F811
        generate, model, fpsa_binary, tolerance, assert_close, tmp_path):
    (tmp_path / "lora.toml").write_text(RECIPE)
    ours = tmp_path / "ours.safetensors"
    for command in (["train", "--recipe", "lora.toml", "--model", model, "--out", "run", "--threads", "1"],
                    ["train", "export", "--checkpoint", "run/checkpoint.safetensors", "--lora", ours]):
        done = subprocess.run([fpsa_binary, *map(str, command)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with safe_open(ours, "pt") as opened:
        keys = set(opened.keys())
        assert json.loads(opened.metadata()["lora_adapter_metadata"])["transformer.lora_alpha"] == 6
    modules = [f"blocks.{layer}.{name}" for layer in range(2)
               for name in ("attn1.to_q", "attn1.to_v", "attn2.to_v", "ffn.net.2")]
    assert keys == {f"transformer.{module}.lora_{half}.weight" for module in modules for half in "AB"}

    pipeline = tiny_random_model.build()
    pipeline.set_progress_bar_config(disable=True)
    plain = oracle(pipeline, STEPS, prompt=PROMPT)
    pipeline.load_lora_weights(ours)
    config = next(iter(pipeline.transformer.peft_config.values()))
    assert (config.r, config.lora_alpha) == (3, 6)
    expected = oracle(pipeline, STEPS, prompt=PROMPT)
    assert (plain - expected).norm() > 0.02 * expected.norm(), "the adapters must matter for this test to mean anything"
    latents = generate("--prompt", PROMPT, "--num-inference-steps", STEPS, "--seed", 5, "--lora", ours)
    assert_close(latents["final"], expected, tolerance("kPipelineLatents"), "latents")
