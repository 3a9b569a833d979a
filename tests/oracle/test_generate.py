"""The whole program against diffusers' WanPipeline: same prompt, same seed, same latents and pixels."""

import json
import os
import pathlib
import subprocess

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny_random_model

PROMPT = "a red circle moves left on a gray background"
NEGATIVE = "blurry, ugly"
SIZE = dict(height=64, width=96, num_frames=9)


@pytest.fixture(scope="module")
def pipeline():
    pipeline = tiny_random_model.build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_random_model.write(tmp_path_factory.mktemp("model"))


@pytest.fixture
def generate(bin_dir, model, tmp_path):
    """Runs `fpsa generate` on the tiny random model, F32 and dense; returns its dumped latents."""
    places = [bin_dir / "bin" / "fpsa", bin_dir.parent / "bin" / "fpsa"]
    binary = next((place for place in places if place.exists()), None)
    assert binary, f"the program is not built: {places}"

    def run(*arguments, name="out"):
        done = subprocess.run(
            [binary.resolve(), "generate", "--model", model, "--dtype", "f32", "--attention", "dense", "--threads", "1",
             "--output", f"{name}.mp4", "--dump-latents", f"{name}.safetensors", *map(str, arguments)],
            capture_output=True, text=True, cwd=tmp_path, timeout=240)
        assert done.returncode == 0, done.stderr
        return load_file(tmp_path / f"{name}.safetensors")

    return run


def oracle(pipeline, steps, output_type="latent", seed=5, **arguments):
    return pipeline(generator=torch.Generator().manual_seed(seed), num_inference_steps=steps, output_type=output_type,
                    **SIZE, **arguments).frames


@pytest.mark.parametrize("prompt, negative, guidance, steps", [
    (PROMPT, "", 5.0, 6),
    (PROMPT, NEGATIVE, 3.0, 4),
    ("", "", 1.0, 3),  # no guidance, and nothing but the end of the text
    ("  一只猫 &amp; a dog 🐕 " + "long " * 600, "", 5.0, 2),  # cut at 512 ids
], ids=["defaults", "negative prompt", "no guidance", "long and unclean"])
def test_latents_equal_diffusers(pipeline, generate, tolerance, assert_close, prompt, negative, guidance, steps):
    expected = oracle(pipeline, steps, prompt=prompt, negative_prompt=negative, guidance_scale=guidance)
    latents = generate("--prompt", prompt, "--negative-prompt", negative, "--guidance-scale", guidance,
                       "--num-inference-steps", steps, "--seed", 5)
    noise = torch.randn(latents["initial"].shape, generator=torch.Generator().manual_seed(5))
    assert torch.equal(latents["initial"], noise), "a seed must mean the same noise as in diffusers"
    assert_close(latents["final"], expected, tolerance("kPipelineLatents"), "latents")


@pytest.mark.parametrize("cfg", ["batched", "sequential"])
def test_both_ways_of_guidance_equal_diffusers(pipeline, generate, tolerance, assert_close, cfg):
    expected = oracle(pipeline, 3, prompt=PROMPT)
    latents = generate("--prompt", PROMPT, "--num-inference-steps", 3, "--seed", 5, "--cfg", cfg)
    assert_close(latents["final"], expected, tolerance("kPipelineLatents"), cfg)


def test_frames_equal_diffusers(pipeline, generate, tmp_path):
    expected = oracle(pipeline, 3, output_type="np", prompt=PROMPT)[0]
    generate("--prompt", PROMPT, "--num-inference-steps", 3, "--seed", 5, "--frames-dir", "frames")
    files = sorted((tmp_path / "frames").iterdir())
    assert len(files) == SIZE["num_frames"]
    frames = numpy.stack([numpy.asarray(Image.open(file)) for file in files]).astype(int)
    # Latents that differ by rounding may land on either side of a half.
    difference = numpy.abs(frames - numpy.round(expected * 255))
    assert difference.max() <= 1, f"largest difference {difference.max()} of 255"


def test_init_latents_and_prompt_embeds_replace_seed_and_prompt(pipeline, generate, tolerance, assert_close, tmp_path):
    positive, negative = pipeline.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=512)
    save_file({"prompt_embeds": positive.contiguous(), "negative_prompt_embeds": negative.contiguous()},
              tmp_path / "embeds.safetensors")
    latents = generate("--prompt", PROMPT, "--negative-prompt", NEGATIVE, "--num-inference-steps", 3, "--seed", 5)
    again = generate("--prompt-embeds", "embeds.safetensors", "--num-inference-steps", 3, "--init-latents",
                     "out.safetensors", name="again")
    assert torch.equal(again["initial"], latents["initial"])
    assert_close(again["final"], latents["final"], tolerance("kPipelineLatents"), "latents")
    # Embeddings shorter than 512 are padded with zeros.
    save_file({"prompt_embeds": positive[:, :100].contiguous(), "negative_prompt_embeds": negative[:, :90].contiguous()},
              tmp_path / "short.safetensors")
    short = generate("--prompt-embeds", "short.safetensors", "--num-inference-steps", 3, "--init-latents",
                     "out.safetensors", name="short")
    assert torch.equal(short["final"], again["final"])


@pytest.mark.parametrize("attention", ["dense", "sta", "fp8", "int8", "fps"])
def test_the_same_seed_gives_the_same_bytes(generate, tmp_path, attention):
    (tmp_path / "schedule.toml").write_text(
        "version = 1\ntile = [3, 4, 4]\n[[phase]]\nuntil = 1.0\ngranularity = [3, 4, 4]\nwindow = [1, 1, 1]\nquant = 'e4m3'\n")
    extra = [] if attention == "dense" else ["--schedule", "schedule.toml"]
    for name in ("one", "two"):
        generate("--prompt", PROMPT, "--num-inference-steps", 3, "--seed", 5, "--attention", attention, *extra, name=name)
    for suffix in ("mp4", "safetensors"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_the_perf_dump_says_what_ran(generate, tmp_path):
    (tmp_path / "schedule.toml").write_text(
        "version = 1\ntile = [3, 4, 4]\n[[phase]]\nuntil = 0.5\ngranularity = [3, 4, 4]\nwindow = [1, 1, 1]\nquant = 'e4m3'\n"
        "[[phase]]\nuntil = 1.0\ngranularity = [3, 4, 4]\nwindow = 'all'\nquant = 'none'\n")
    generate("--prompt", PROMPT, "--num-inference-steps", 4, "--attention", "fps", "--schedule", "schedule.toml",
             "--warmup", "--perf-dump-path", "perf.json")
    report = json.loads((tmp_path / "perf.json").read_text())
    assert set(report["stage_seconds"]) == {"load", "text", "warmup", "denoise", "vae", "write"}
    assert len(report["videos"][0]["step_seconds"]) == 4
    assert 0 < report["attention"]["share_of_denoising"] < 1
    calls = report["attention"]["calls"]
    assert len(calls) == 4 * 2 and all(call["reason"] and call["kernel"] for call in calls)
    assert calls[0]["density"] < 1 and calls[-1]["density"] == 1
    assert report["machine"]["threads"] == 1 and report["peak_rss_bytes"] > 0
