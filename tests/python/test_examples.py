"""The examples, run as a user runs them, at tiny size."""

import importlib.util
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


def schedule_of(quant):
    return fpsa.Schedule([fpsa.Phase(0.5, (1, 2, 2), (2, 1, 2), quant), fpsa.Phase(1.0, (3, 4, 4), "all", quant)],
                         tile=(1, 2, 2))


def run(command, environment, folder):
    done = subprocess.run(list(map(str, command)), env=environment, cwd=folder, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def latents(environment, program, tmp_path):
    """latents("dense" or a schedule) -> those of the example, those of the program, and what the example printed."""

    def run_both(schedule):
        path = "dense"
        if schedule != "dense":
            path = tmp_path / "schedule.toml"
            schedule.save(path)
        said = run([sys.executable, EXAMPLES / "generate.py", "--model", MODEL, "--schedule", path, *SHAPE,
                    "--dump-latents", "ours.safetensors"], environment, tmp_path)
        flags = ["dense"] if schedule == "dense" else ["fps", "--schedule", path]
        run([program, "generate", "--model", MODEL, "--dtype", "f32", *SHAPE, "--output", "out.mp4", "--dump-latents",
             "theirs.safetensors", "--attention", *flags], environment, tmp_path)
        return *(load_file(tmp_path / f"{name}.safetensors")["final"] for name in ("ours", "theirs")), said

    return run_both


def test_generate_gives_the_latents_of_the_program(latents, tolerance):
    ours, theirs, said = latents("dense")
    assert (ours - theirs).abs().max() / (theirs.max() - theirs.min()) <= tolerance("kPipelineLatents")
    assert "dense" in said


def test_generate_by_a_schedule_gives_the_latents_of_the_program(latents, tolerance):
    """Without quantisation the windows, phases and layers must be the same, to rounding. With E4M3 a difference d of two
    inputs moves about 16 d of the codes, each by 1/16: sqrt(16 d) / 16 of the output, so what is 1e-6 at the first layer
    is the whole rounding error, 1/16, after half a dozen. Two right results are then as far from each other as from the
    unquantised one, and no further: the rule for peers."""
    plain, their_plain, said = latents(schedule_of("none"))
    assert (plain - their_plain).abs().max() / (plain.max() - plain.min()) <= tolerance("kPipelineLatents")
    assert "window (2,1,2) of tile (1,2,2)" in said and "phase 2 of 2" in said
    ours, theirs, said = latents(schedule_of("e4m3"))
    assert "attention_fwd_e4m3" in said
    allowed = 2 * (theirs - plain).norm()
    assert 0 < (ours - plain).norm() <= allowed and (ours - theirs).norm() <= allowed


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


def test_a_model_of_ones_own_learns(capsys, tolerance):
    spec = importlib.util.spec_from_file_location("custom_model", EXAMPLES / "custom_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    losses = module.main()
    assert losses[-1] < losses[0]
    assert float(capsys.readouterr().out.split("compiled differs by")[1]) < tolerance("kModelF32")


def test_the_fine_tune_stays_short():
    lines = (EXAMPLES / "finetune.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 60
