"""Training with FPSAttention from outside: train, evaluate under other methods, export, and generate as trained."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

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
    page = (out / "train.html").read_text()
    for part in ("Finished.", "<h3>loss: flow: ", "<h3>attention density: ", "<h3>gradient norm: ", "until = 0.5"):
        assert part in page, part
    assert "refresh" not in page and "://" not in page
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

    def sheet(*flags):
        done = fpsa(*judge, "--sheet", folder / "sheet.png", *flags)
        assert done.returncode == 0, done.stderr
        return (folder / "sheet.png").read_bytes()

    scale = ("--rope-scale", "1,0.5,0.5")
    plain, scaled, of_checkpoint = sheet(), sheet(*scale), sheet("--checkpoint", checkpoint)
    assert plain != scaled
    own = model / "fpsa.json"
    own.write_text(json.dumps(dict(json.loads(own.read_text()), rope_scale=scale[1])))
    assert sheet() == scaled and sheet("--rope-scale", "1,1,1") == plain
    assert sheet("--checkpoint", checkpoint) == of_checkpoint, "a checkpoint alone was scaled by another model's folder"

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


def lines(run):
    text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def checkpoint_step(run):
    with safe_open(run / "checkpoint.safetensors", "pt") as opened:
        return int(opened.metadata()["step"])


def kill_past(binary, command, run, step):
    """Trains and kills, without a chance to tidy up, once there is a report from past `step`."""
    process = subprocess.Popen([binary, *map(str, command)], env=dict(os.environ, OMP_NUM_THREADS="1"),
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        if max((line.get("step", 0) for line in lines(run)), default=0) > step:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {errors}"


def test_a_killed_run_loses_at_most_one_checkpoint_interval_and_ends_with_the_same_bits(fpsa, binary, folder):
    steps = 40
    text = RECIPE.replace("steps = 2\n", f"steps = {steps}\n").replace(
        "[report]\n", "gradient_checkpointing = true\n[report]\nlog_seconds = 0\ncheckpoint_seconds = 0\n")
    assert f"steps = {steps}" in text
    (folder / "kill.toml").write_text(text)

    def train(run, *more):
        return ("train", "--recipe", folder / "kill.toml", "--weights", TINY, "--model", folder / "model", "--out", run,
                "--latents", folder / "latents", "--threads", 1, *more)

    run, whole = folder / "killed", folder / "whole"
    kill_past(binary, train(run), run, steps // 4)
    told, kept = lines(run)[-1]["step"], checkpoint_step(run)
    assert told - 1 <= kept < steps, "a checkpoint after every step: at most the one that was being written is lost"
    kill_past(binary, train(run, "--resume"), run, steps // 2)
    done = fpsa(*train(run, "--resume"))
    assert done.returncode == 0 and f"finished at step {steps}" in done.stdout, done.stderr
    assert fpsa(*train(whole)).returncode == 0
    one, other = (load_file(place / "checkpoint.safetensors") for place in (run, whole))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)

    # What is left of the file once the steps that were done again are dropped tells the same losses.
    def told_losses(place):
        losses = {}
        for line in lines(place):
            if "run" in line:
                losses = {step: loss for step, loss in losses.items() if step <= line["step"]}
            elif "flow" in line:
                losses[line["step"]] = line["flow"]
        return losses

    assert told_losses(run) == told_losses(whole) and len(told_losses(whole)) == steps
    assert [line["run"] for line in lines(run) if "run" in line] == ["begun", "resumed", "resumed"]
    assert "Finished." in (run / "train.html").read_text()


def test_a_file_size_limit_is_an_error_that_leaves_the_checkpoint(fpsa, folder):
    import resource

    run = folder / "limited"
    train = ("train", "--recipe", folder / "recipe.toml", "--weights", TINY, "--model", folder / "model", "--out", run)
    assert fpsa(*train, "--stop-after", 1).returncode == 0
    before = (run / "checkpoint.safetensors").read_bytes()
    limit = len(before) // 2
    done = fpsa(*train, "--resume", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 1, done.stderr
    assert "checkpoint.safetensors" in done.stderr and "ulimit -f" in done.stderr
    assert (run / "checkpoint.safetensors").read_bytes() == before
    page = (run / "train.html").read_text()
    assert "Failed: " in page and "ulimit -f" in page and "refresh" not in page


def test_a_lora_brings_the_schedule_it_was_trained_with(fpsa, folder, tmp_path):
    loras = {}
    for name, shift in (("one", "4.0"), ("other", "6.0")):
        (folder / f"{name}.fps.toml").write_text(SCHEDULE.replace("shift = 4.0", f"shift = {shift}"))
        recipe = folder / f"{name}.toml"
        recipe.write_text(RECIPE.replace('"fps.toml"', f'"{name}.fps.toml"').replace("preview_prompts = 0", """
preview_steps = 1
prompts = ["a red circle", "a blue square"]
[lora]
rank = 2
targets = ["to_q"]""").replace("steps = 2\n", "steps = 1\n"))
        done = fpsa("train", "--recipe", recipe, "--model", TINY, "--out", folder / name, "--latents",
                    folder / "latents")
        assert done.returncode == 0, done.stderr
        assert (folder / name / "previews" / "step0000001.png").stat().st_size > 0
        assert 'src="data:image/png;base64,' in (folder / name / "train.html").read_text()
        loras[name] = folder / f"{name}.safetensors"
        done = fpsa("train", "export", "--checkpoint", folder / name / "checkpoint.safetensors", "--lora", loras[name])
        assert done.returncode == 0 and "with the schedule" in done.stdout, done.stderr

    def generate(*more):
        return fpsa("generate", "--model", TINY, "--prompt", "a red circle", *SIZE, "--num-inference-steps", 1, *more)

    done = generate("--lora", loras["one"])
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert f"attention: fps (auto: with the fpsa.schedule of the LoRA {loras['one']})" in said
    assert "shift 4," in said
    both = ("--lora", loras["one"], "--lora", loras["other"])
    done = generate(*both)
    assert done.returncode == 1, done.stderr
    assert all(str(path) in done.stderr for path in loras.values()) and "--schedule FILE" in done.stderr
    for way in (("--schedule", folder / "fps.toml"), ("--attention", "dense")):
        assert generate(*both, *way).returncode == 0
    none = generate("--lora", loras["one"], "--lora", f"{loras['other']}:0")
    assert none.returncode == 0, "a LoRA of scale 0 brings no schedule"
