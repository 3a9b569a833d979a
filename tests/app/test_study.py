"""The study from outside: it is resumed, notices changed settings, and its report has every arm."""

import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

from program import FAILED, INTERRUPTED, USAGE, assert_error, outputs

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "models" / "tiny"
SMALL = ("--num-frames", 9, "--height", 64, "--width", 64, "--num-inference-steps", 2, "--threads", 1)
STUDY = ("study", "--model", TINY, "--out", "out", *SMALL, "--prompts", 2, "--ablation-prompts", 1)


def report(folder):
    return json.loads((folder / "report.json").read_text())


def arms(folder):
    return {arm["name"]: arm for arm in report(folder)["arms"]}


def records(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.glob("arms/*/item-*.json")}


def test_a_study_is_whole_and_a_second_run_makes_nothing_again(fpsa, tmp_path):
    # Tiles enough, and steps in the last phase, for windows to hide something.
    some = (*STUDY, "--num-frames", 5, "--height", 256, "--width", 256, "--num-inference-steps", 4,
            "--only", "fp8,sparse,fps,int8,window-narrower", "--clips", 1)
    done = fpsa(*some)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    made = records(out)
    assert len(made) == 4 * 2 + 2 * 1
    found = arms(out)
    assert list(found) == ["dense", "fp8", "sparse", "fps", "window-narrower", "int8"]
    for name, arm in found.items():
        main = arm["group"] == "main"
        assert arm["clips_done"] == arm["clips_planned"] == (2 if main else 1)
        assert (arm["accuracy"] is not None) == main
        assert arm["speed"]["attention_ratio"] > 0
        if name == "dense":
            assert arm["speed"]["total_ratio"] == 1 and arm["psnr_db"] is None
        else:
            assert arm["ssim"]["mean"] <= 1 and arm["psnr_db"]["mean"] > 5
    assert found["fp8"]["density"] == pytest.approx(1)
    assert found["sparse"]["density"] == found["fps"]["density"] < 1
    assert found["window-narrower"]["density"] < found["fps"]["density"]
    assert found["int8"]["kernels"] != found["fps"]["kernels"]

    page = (out / "report.html").read_text()
    for label in ("Dense", "FP8 only", "Sparse only", "FP8 + sparse, training-free", "INT8 in place of E4M3"):
        assert label in page
    assert page.count("<video autoplay loop muted playsinline") == 4  # one prompt, the main arms
    assert "src=\"http" not in page and "href" not in page
    assert "LPIPS is left out" in page and found["fps"]["lpips"] is None

    again = fpsa(*some)
    assert again.returncode == 0, again.stderr
    assert "to make: 0 clips" in again.stdout
    assert records(out) == made
    assert report(out)["arms"] == [found[name] for name in found]


def test_the_clips_are_those_of_generate(fpsa, tmp_path):
    done = fpsa(*STUDY, "--only", "fps", "--clips", 2)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/arms/fps/item-0001.json").read_text())
    assert record["seed"] == 1
    common = ("generate", "--model", TINY, *SMALL, "--prompt", record["prompt"], "--seed", 1)
    for name, flags in (("dense", ("--attention", "dense")),
                        ("fps", ("--attention", "fps", "--schedule", TINY / "fps.toml"))):
        assert fpsa(*common, *flags, "--output", f"{name}.mp4").returncode == 0
        compared = fpsa("compare", f"{name}.mp4", f"out/arms/{name}/item-0001.mp4")
        assert compared.stdout == "identical\n", compared.stdout + compared.stderr


def test_ctrl_c_keeps_what_is_done_and_the_next_run_does_the_rest(binary, fpsa, tmp_path):
    arguments = (*STUDY, "--only", "sparse", "--prompts", 40, "--clips", 0)
    process = subprocess.Popen([binary, *map(str, arguments)], cwd=tmp_path, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    try:
        for line in process.stderr:
            if "item 2/40 done" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=120) == INTERRUPTED, rest
    finally:
        process.kill()
    assert "the same command goes on from here" in rest
    out = tmp_path / "out"
    made = records(out)
    assert 4 <= len(made) < 80
    assert not [path for path in out.rglob("*") if path.name.startswith(".") or ".tmp" in path.name]
    before = arms(out)["dense"]
    assert 2 <= before["clips_done"] < 40 and any("not complete" in text for text in report(out)["verdicts"])

    done = fpsa(*arguments, "--prompts", len(made) // 2 + 2)
    assert done.returncode == 0, done.stderr
    after = records(out)
    assert all(after[path] == stamp for path, stamp in made.items())
    assert all(arm["clips_done"] == arm["clips_planned"] for arm in arms(out).values())


def test_changed_settings_are_refused(fpsa, tmp_path):
    (tmp_path / "narrow.toml").write_text((TINY / "fps.toml").read_text().replace("[3, 2, 2]", "[1, 1, 1]"))
    one = (*STUDY, "--only", "fps", "--prompts", 1)
    assert fpsa(*one).returncode == 0
    before = records(tmp_path / "out")
    assert_error(fpsa(*one, "--num-inference-steps", 3), USAGE,
                 "--out: out holds a study with num_inference_steps 2, expected 3")
    assert_error(fpsa(*one, "--seed", 5), USAGE, "with seed 0, expected 5")
    assert_error(fpsa(*one, "--schedule", "narrow.toml"), USAGE, "an arm 'fps' with another schedule")
    assert records(tmp_path / "out") == before
    # An arm added later goes beside the ones that are there, timed against a dense clip of its own run.
    (tmp_path / "arms.toml").write_text("[[arm]]\nname = 'mine'\nmethod = 'sta'\nwindow = [1, 1, 1]\n")
    done = fpsa(*one[:-4], "--only", "mine", "--arms", "arms.toml", "--prompts", 1)
    assert done.returncode == 0, done.stderr
    assert set(before) < set(records(tmp_path / "out"))
    assert arms(tmp_path / "out")["mine"]["group"] == "own"


@pytest.mark.parametrize("flags, code, words", [
    (("--only", "spars"), USAGE, "did you mean sparse?"),
    (("--trained", "fps"), USAGE, "--trained: expected NAME=FOLDER, got 'fps'"),
    (("--trained", "good=missing"), USAGE, "missing, which does not exist"),
    (("--trained", f"dense={TINY}"), USAGE, "expected a name that no other arm has, got 'dense'"),
    (("--arms", "missing.toml"), FAILED, "missing.toml"),
    (("--schedule", "missing.toml"), FAILED, "missing.toml"),
    (("--prompt-file", "missing.txt"), USAGE, "missing.txt"),
    (("--report", "--dry-run"), USAGE, "--report: expected neither"),
    (("--prompts", 0), USAGE, "--prompts: expected a whole number from 1"),
    (("--prompt", "a red circle"), USAGE, "--prompt: expected one of the flags"),
    (("--lora", "a.safetensors"), USAGE, "--lora: expected one of the flags"),
    (("--trained", f"int8={TINY}"), USAGE, "expected a name that no other arm has, got 'int8'"),
])
def test_bad_input_is_named_and_leaves_nothing(fpsa, tmp_path, flags, code, words):
    assert_error(fpsa(*STUDY, *flags), code, words)
    assert outputs(tmp_path) == []


def test_a_folder_of_something_else_is_left_alone(fpsa, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    assert_error(fpsa(*STUDY), USAGE, "--out: expected a study's folder", "with other content")
    assert outputs(tmp_path / "out") == ["thesis.txt"]
    assert_error(fpsa("study", *SMALL), USAGE, "--out: expected a folder")


def test_the_plan_is_printed_with_its_hours_and_a_dry_run_writes_nothing(fpsa, tmp_path):
    done = fpsa("study", "--model", TINY, "--out", "out", "--full", "--dry-run")
    assert done.returncode == 0, done.stderr
    for line in (r"dense +400 of 400 clips", r"fps +400 of 400 clips", r"int8 +32 of 32 clips",
                 r"fps-density-25 +32 of 32 clips"):
        assert re.search(line, done.stdout), done.stdout
    done = fpsa(*STUDY, "--only", "sparse", "--dry-run", "--budget")
    assert done.returncode == 0, done.stderr
    assert re.search(r"to make: 4 clips, about \d+\.\d\d hours", done.stdout), done.stdout
    assert outputs(tmp_path) == []


def test_other_models_take_a_prompt_file_and_vbench_names(fpsa, model, copy_of_model, tmp_path):
    random = ("study", "--model", model, "--out", "out", "--num-inference-steps", 1, "--num-frames", 5, "--threads", 1,
              "--trained", f"taught={copy_of_model}", "--only", "taught")
    assert_error(fpsa(*random), USAGE, "--prompt-file: expected prompts for this model")
    (tmp_path / "bad.txt").write_text("a/b\n")
    (tmp_path / "twice.txt").write_text("a cat\na cat\n")
    for name, words in (("bad.txt", "without '/'"), ("twice.txt", "'a cat' twice")):
        assert_error(fpsa(*random, "--prompt-file", name, "--vbench-layout", "videos"), USAGE, words)
    (tmp_path / "suite.txt").write_text("a cat\ntwo <dogs>\n")
    suite = (*random, "--prompt-file", "suite.txt", "--vbench-layout", "videos", "--samples", 2)
    done = fpsa(*suite)
    assert done.returncode == 0, done.stderr
    names = ["a cat-0.mp4", "a cat-1.mp4", "two <dogs>-0.mp4", "two <dogs>-1.mp4"]
    for arm in ("dense", "taught"):
        assert outputs(tmp_path / "videos" / arm) == names
    found = arms(tmp_path / "out")
    assert found["taught"]["accuracy"] is None and found["taught"]["trained"]
    page = (tmp_path / "out/report.html").read_text()
    assert "two &lt;dogs&gt;" in page and "<dogs>" not in page
    # A lost video is made again, and nothing else.
    before = records(tmp_path / "out")
    (tmp_path / "videos/taught/a cat-1.mp4").unlink()
    again = fpsa(*suite)
    assert again.returncode == 0, again.stderr
    assert outputs(tmp_path / "videos/taught") == names
    changed = [path for path, stamp in records(tmp_path / "out").items() if before[path] != stamp]
    assert [str(path) for path in changed] == ["arms/taught/item-0001.json"]
    # Weights that changed are not the arm's.
    weights = copy_of_model / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert_error(fpsa(*suite), USAGE, "an arm 'taught' with another model")
