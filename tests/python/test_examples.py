"""The examples, run as a user runs them, at tiny size."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import fpsattention as fpsa

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "python"
MODEL = ROOT / "models" / "tiny"
# 3x4x4 tokens.
SHAPE = ["--size", "64*64", "--num-frames", "9", "--num-inference-steps", "3", "--guidance-scale", "3", "--seed", "3",
         "--prompt", "a yellow star bounces on a purple background"]


SCHEDULE = fpsa.Schedule([fpsa.Phase(0.5, (1, 2, 2), (2, 1, 2)), fpsa.Phase(1.0, (3, 4, 4))], tile=(1, 2, 2))


def program():
    folder = pathlib.Path(os.environ.get("FPSA_BIN_DIR", ROOT / "build" / "release"))
    for path in (folder / "bin" / "fpsa", folder.parent / "bin" / "fpsa"):
        if path.exists():
            return path.resolve()
    raise FileNotFoundError("the program is not built")


def run(command, environment, folder):
    done = subprocess.run(list(map(str, command)), env=environment, cwd=folder, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("schedule", ["dense", "fps"])
def test_generate_gives_the_latents_of_the_program(environment, tolerance, tmp_path, schedule):
    path = "dense" if schedule == "dense" else tmp_path / "schedule.toml"
    SCHEDULE.save(tmp_path / "schedule.toml")
    said = run([sys.executable, EXAMPLES / "generate.py", "--model", MODEL, "--schedule", path, *SHAPE,
                "--dump-latents", "ours.safetensors"], environment, tmp_path)
    run([program(), "generate", "--model", MODEL, "--dtype", "f32", "--attention", schedule, *SHAPE, "--output", "out.mp4",
         *([] if schedule == "dense" else ["--schedule", path]), "--dump-latents", "theirs.safetensors"], environment, tmp_path)
    ours, theirs = (load_file(tmp_path / f"{name}.safetensors")["final"] for name in ("ours", "theirs"))
    difference = (ours - theirs).abs()
    span = theirs.max() - theirs.min()
    if schedule == "dense":
        assert difference.max() / span <= tolerance("kPipelineLatents")
        assert "dense" in said
    else:
        # Rounding elsewhere in the network moves a Q, K or V across a code's border here and there, and such a flip
        # is 1/16 of a value; nearly all codes are the same, so the mean stays far below the worst.
        assert difference.mean() / span <= tolerance("kPipelineLatents")
        assert difference.max() / span <= tolerance("kAttentionE4m3")
        assert "attention_fwd_e4m3" in said and "window (2,1,2) of tile (1,2,2)" in said and "phase 2 of 2" in said


def test_the_fine_tune_runs_under_torchrun_and_its_export_brings_the_schedule(environment, tmp_path):
    out = run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               EXAMPLES / "finetune.py", "--model", MODEL, "--schedule", MODEL / "fps.toml", "--steps", "6",
               "--output", tmp_path / "trained"], environment, tmp_path)
    losses = [float(x) for x in re.findall(r"loss ([0-9.]+)", out)]
    assert len(losses) == 6 and all(loss < 100 for loss in losses)
    assert fpsa.carried_schedule(tmp_path / "trained") == fpsa.Schedule.load(MODEL / "fps.toml")
    from diffusers import WanTransformer3DModel
    trained = WanTransformer3DModel.from_pretrained(tmp_path / "trained")
    start = WanTransformer3DModel.from_pretrained(MODEL / "transformer", torch_dtype=torch.float32)
    moved = [not torch.equal(one, other) for one, other in zip(trained.state_dict().values(), start.state_dict().values())]
    assert sum(moved) > len(moved) // 2
    fpsa.apply(trained).remove()


def test_a_model_of_ones_own_learns(capsys):
    spec = importlib.util.spec_from_file_location("custom_model", EXAMPLES / "custom_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    losses = module.main()
    assert losses[-1] < losses[0]
    assert float(capsys.readouterr().out.split("compiled differs by")[1]) < 1e-4


def test_the_fine_tune_stays_short():
    lines = (EXAMPLES / "finetune.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 60
