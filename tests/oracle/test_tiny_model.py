"""The embedded model as diffusers sees it: WanPipeline loads the folder and walks to the same latents."""

import pathlib
import shutil
import subprocess

import torch
from diffusers import WanPipeline
from safetensors.torch import load_file

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models" / "tiny"
PROMPT = "a yellow star bounces on a purple background"
SIZE = dict(height=128, width=128, num_frames=17)


def test_wan_pipeline_loads_the_folder_and_gives_the_same_latents(fpsa_binary, tolerance, assert_close, tmp_path):
    pipeline = WanPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(prompt=PROMPT, guidance_scale=3.0, num_inference_steps=4, output_type="latent",
                        generator=torch.Generator().manual_seed(3), **SIZE).frames

    assert fpsa_binary, "the program is not built"
    done = subprocess.run(
        [fpsa_binary.resolve(), "generate", "--model", MODEL, "--prompt", PROMPT, "--dtype", "f32", "--attention", "dense",
         "--size", "128*128", "--num-frames", "17", "--num-inference-steps", "4", "--guidance-scale", "3", "--seed", "3",
         "--output", "out.mp4", "--dump-latents", "out.safetensors"],
        capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert_close(load_file(tmp_path / "out.safetensors")["final"], expected, tolerance("kPipelineLatents"), "latents")


def test_the_adapted_model_runs_with_the_schedule_that_it_carries_without_being_told(fpsa_binary, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL.with_name("tiny_fps"), model)  # what its links point to, as cp -rL does
    assert not any(path.is_symlink() for path in model.rglob("*"))
    done = subprocess.run(
        [fpsa_binary.resolve(), "generate", "--model", model, "--prompt", PROMPT, "--size", "128*128", "--num-frames", "17",
         "--num-inference-steps", "2", "--explain", "--output", "out.mp4"],
        capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "auto: with the checkpoint's fpsa.schedule" in done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert len(steps) == 2 and all("fps: attention_fwd_e4m3" in step for step in steps), done.stdout
    assert "granularity (3,4,4); phase 1 of 3" in steps[0] and "phase 3 of 3" in steps[1], done.stdout
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_the_folder_stays_small():
    size = sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file())
    assert size <= 24 * 2**20
