"""Training with FPSAttention from outside: train, evaluate under other methods, export, and generate as trained."""

import pathlib
import shutil

import pytest

TINY = pathlib.Path(__file__).resolve().parents[2] / "models" / "tiny"
SIZE = ("--num-frames", 5, "--height", 64, "--width", 64)
SCHEDULE = """version = 1
tile = [1, 2, 2]
shift = 4.0
[[phase]]
until = 0.5
granularity = [2, 4, 4]
window = [1, 1, 2]
quant = "e4m3"
[[phase]]
until = 1.0
granularity = [1, 2, 2]
window = "all"
quant = "e4m3"
"""
RECIPE = """kind = "dit"
attention = "fps"
schedule = "fps.toml"
num_inference_steps = 2
[report]
preview_prompts = 0
[[stage]]
frames = 5
height = 64
width = 64
batch = 2
steps = 2
pool_start = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    for part in ("vae", "tokenizer"):
        shutil.copytree(TINY / part, folder / "model" / part)
    (folder / "fps.toml").write_text(SCHEDULE)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def test_an_exported_model_is_generated_and_judged_as_it_was_trained(fpsa, folder):
    out, model = folder / "out", folder / "model"
    done = fpsa("train", "--recipe", folder / "recipe.toml", "--weights", TINY, "--model", model, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "  density " in done.stdout
    checkpoint = out / "checkpoint.safetensors"
    assert fpsa("train", "export", "--checkpoint", checkpoint, "--model", model).returncode == 0

    done = fpsa("generate", "--model", model, "--prompt", "a red circle moves left on a gray background", *SIZE,
                "--num-inference-steps", 2, "--explain")
    assert done.returncode == 0, done.stderr
    assert "auto: with the checkpoint's fpsa.schedule" in done.stdout + done.stderr
    assert "fps: attention_fwd_e4m3" in done.stdout
    assert "sta window (1,1,2) of tile (1,2,2) (density 0.250), granularity (2,4,4); phase 1 of 2" in done.stdout
    assert "shift 4" in done.stdout + done.stderr

    judge = ("train", "eval", "--model", model, "--eval-prompts", 1, "--num-inference-steps", 2, *SIZE)
    carried = fpsa(*judge)
    assert carried.returncode == 0, carried.stderr
    assert "attention: fps (auto: with the checkpoint's fpsa.schedule), density 0.625" in carried.stdout
    assert "attention: fps (auto: with the checkpoint's" in fpsa(*judge, "--checkpoint", checkpoint).stdout
    assert "attention: dense (asked for), density 1.000" in fpsa(*judge, "--attention", "dense").stdout
    for method, density in (("sta", "0.625"), ("fp8", "1.000")):
        done = fpsa(*judge, "--attention", method, "--schedule", folder / "fps.toml")
        assert f"attention: {method} (with the schedule {folder}/fps.toml), density {density}" in done.stdout

    done = fpsa(*judge, "--attention", "dense", "--schedule", folder / "fps.toml")
    assert done.returncode == 2 and "--schedule: expected --attention auto, sta" in done.stderr
    done = fpsa(*judge, "--attention", "fps", "--schedule", folder / "none.toml")
    assert done.returncode == 1 and "none.toml" in done.stderr


def test_a_recipe_with_a_faulty_schedule_is_refused_before_anything_is_written(fpsa, folder):
    (folder / "int8.toml").write_text(SCHEDULE.replace('"e4m3"', '"int8"'))
    (folder / "faulty.toml").write_text(RECIPE.replace("fps.toml", "int8.toml"))
    done = fpsa("train", "--recipe", folder / "faulty.toml", "--model", folder / "model", "--out", folder / "never")
    assert done.returncode == 1 and "INT8 attention has no backward" in done.stderr
    assert not (folder / "never").exists()
