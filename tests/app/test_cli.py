"""The program from outside: bad input gets a clear error, the right exit code, and leaves nothing behind."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from program import FAILED, INTERRUPTED, PROMPT, USAGE, assert_error, outputs, transformer_file


def test_an_unknown_flag_is_refused_with_the_nearest_one(fpsa, model):
    assert_error(fpsa("generate", "--model", model, *PROMPT, "--num-frame", 9), USAGE, "--num-frame:", "--num-frames")


def test_an_unknown_command_is_refused_with_the_nearest_one(fpsa):
    assert_error(fpsa("generat"), USAGE, "generat", "did you mean generate")


def test_no_command_and_no_model_and_no_prompt_are_usage_errors(fpsa, model):
    assert fpsa().returncode == USAGE
    assert_error(fpsa("generate", *PROMPT), USAGE, "--model: expected")
    assert_error(fpsa("generate", "--model", model), USAGE, "exactly one of --prompt, --prompt-file and --prompt-embeds")


def test_help_and_version_succeed(fpsa):
    help_text = fpsa("generate", "--help")
    assert help_text.returncode == 0
    for flag in ("--negative-prompt", "--perf-dump-path", "--frame-num", "--init-latents", "--explain"):
        assert flag in help_text.stdout
    assert fpsa("--version").returncode == 0


@pytest.mark.parametrize("flag, value, words", [
    ("--dtype", "f12", "--dtype: expected auto|bf16|f32, got 'f12'"),
    ("--num-inference-steps", "0", "from 1 to 1000, got '0'"),
    ("--num-inference-steps", "1001", "from 1 to 1000"),
    ("--num-frames", "10", "expected 4k+1 for this model, got 10; nearest: 9 or 13"),
    ("--height", "100", "expected a multiple of 16 for this model, got 100; nearest: 96 or 112"),
    ("--width", "-16", "--width: expected a whole number"),
    ("--size", "64", "expected WIDTH*HEIGHT"),
    ("--guidance-scale", "many", "--guidance-scale: expected a number"),
    ("--output", "clip.gif", "ends in .mp4"),
    ("--sampler", "ddim", "unipc|dpm++|euler"),
    ("--task", "i2v-14B", "text-to-video"),
])
def test_values_out_of_range_are_named(fpsa, model, tmp_path, flag, value, words):
    assert_error(fpsa("generate", "--model", model, *PROMPT, f"{flag}={value}"), USAGE, words)
    assert outputs(tmp_path) == []


def test_settings_files_reject_unknown_keys_and_the_command_line_wins(fpsa, model, tmp_path):
    (tmp_path / "bad.toml").write_text('num_frame = 9\n')
    assert_error(fpsa("generate", "--model", model, *PROMPT, "--config", "bad.toml"), USAGE, "bad.toml", "num-frames")
    settings = {"model": str(model), "prompt": "from the file", "num_inference_steps": 3, "seed": 4,
                "perf_dump_path": "perf.json"}
    (tmp_path / "good.json").write_text(json.dumps(settings))
    done = fpsa("generate", "--config", "good.json", "--num_inference_steps", 2)
    assert done.returncode == 0, done.stderr
    used = json.loads((tmp_path / "perf.json").read_text())["parameters"]
    assert (used["num_inference_steps"], used["seed"], used["prompt"]) == (2, 4, "from the file")
    # What neither says comes from the model's own fpsa.json.
    assert (used["height"], used["width"], used["num_frames"], used["fps"]) == (64, 96, 9, 8)


def test_wan_s_own_command_line_is_understood(fpsa, model, tmp_path):
    done = fpsa("generate", "--task", "t2v-1.3B", "--size", "64*64", "--ckpt_dir", model, "--frame_num", 5,
                "--sample_steps", 2, "--sample_shift", 8, "--sample_guide_scale", 6, "--base_seed", 3, "--offload_model",
                "True", "--t5_cpu", "--prompt", "two cats", "--save_file", "wan.mp4", "--perf-dump-path", "perf.json")
    assert done.returncode == 0, done.stderr
    assert "--offload-model: no effect" in done.stderr and "--t5-cpu: no effect" in done.stderr
    used = json.loads((tmp_path / "perf.json").read_text())["parameters"]
    assert (used["width"], used["height"], used["num_frames"], used["num_inference_steps"]) == (64, 64, 5, 2)
    assert (used["flow_shift"], used["guidance_scale"], used["seed"]) == (8, 6, 3)


def test_a_gpu_that_cannot_be_used_is_refused(fpsa, model, tmp_path):
    done = fpsa("generate", "--model", model, *PROMPT, "--device", "cuda")
    assert_error(done, FAILED, "--device: expected cpu or auto, got cuda")
    assert outputs(tmp_path) == []


# --- checkpoints ------------------------------------------------------------------------------------------------


def test_an_unknown_schedule_key_is_named_with_its_line(fpsa, model, tmp_path):
    (tmp_path / "bad.toml").write_text("version = 1\ntyle = [6, 8, 8]\n")
    for arguments in (("info", "bad.toml"), ("generate", "--model", model, *PROMPT, "--schedule", "bad.toml")):
        assert_error(fpsa(*arguments), FAILED, "bad.toml:2", "tyle")


def test_the_feed_forward_of_a_schedule_is_said_and_changes_the_latents(fpsa, model, tmp_path):
    from safetensors.torch import load_file

    phase = "[[phase]]\nuntil = 1.0\ngranularity = [1, 2, 2]\nwindow = 'all'\nquant = 'none'\n"
    latents = {}
    for name, line in (("plain", ""), ("coded", "feed_forward = 'e4m3'\n")):
        (tmp_path / f"{name}.toml").write_text("version = 1\ntile = [1, 2, 2]\n" + line + phase)
        done = fpsa("generate", "--model", model, *PROMPT, "--num-frames", 5, "--height", 32, "--width", 32,
                    "--num-inference-steps", 2, "--attention", "fps", "--schedule", f"{name}.toml", "--output",
                    f"{name}.mp4", "--dump-latents", f"{name}.safetensors")
        assert done.returncode == 0, done.stderr
        assert ("feed-forward in e4m3" in done.stdout + done.stderr) == (name == "coded")
        latents[name] = load_file(tmp_path / f"{name}.safetensors")["final"]
    assert not latents["plain"].equal(latents["coded"])


def test_latents_of_another_shape_are_refused(fpsa, model, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"initial": torch.zeros(1, 4, 3, 8, 8)}, tmp_path / "latents.safetensors")
    done = fpsa("generate", "--model", model, *PROMPT, "--init-latents", "latents.safetensors")
    assert_error(done, FAILED, "--init-latents", "[1, 4, 3, 8, 12]", "[1, 4, 3, 8, 8]")


def test_an_empty_prompt_file_is_refused(fpsa, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n  \n")
    assert_error(fpsa("generate", "--model", model, "--prompt-file", "prompts.txt"), FAILED, "prompts.txt")


def test_every_line_of_a_prompt_file_is_its_own_run(fpsa, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue star\n")
    common = ("generate", "--model", model, "--num-inference-steps", 2, "--threads", 1)
    done = fpsa(*common, "--prompt-file", "prompts.txt", "--output", "clip.mp4", "--frames-dir", "frames")
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path) == ["clip-0001.mp4", "clip-0002.mp4", "frames", "prompts.txt"]
    assert outputs(tmp_path / "frames") == ["clip-0001", "clip-0002"]
    assert fpsa(*common, "--prompt", "a blue star", "--output", "alone.mp4").returncode == 0
    compared = fpsa("compare", "alone.mp4", "clip-0002.mp4")
    assert compared.stdout == "identical\n"


# --- places, memory, interruption -------------------------------------------------------------------------------


@pytest.mark.parametrize("flag, path", [
    ("--output", "missing/clip.mp4"), ("--perf-dump-path", "missing/perf.json"), ("--dump-latents", "missing/l.safetensors"),
    ("--frames-dir", "missing/frames"),
])
def test_unwritable_places_are_found_before_the_work(fpsa, model, tmp_path, flag, path):
    started = time.monotonic()
    done = fpsa("generate", "--model", model, *PROMPT, "--num-inference-steps", 1000, flag, path)
    assert_error(done, FAILED, flag + ":", "missing")
    assert time.monotonic() - started < 60, "the check came after the work"
    assert outputs(tmp_path) == []


@pytest.mark.parametrize("flag", ["--output", "--perf-dump-path"])
def test_a_full_disk_is_an_error(fpsa, model, tmp_path, flag):
    done = fpsa("generate", "--model", model, *PROMPT, "--num-inference-steps", 1, flag, "/dev/full")
    assert_error(done, FAILED, "/dev/full", "No space left")
    assert [name for name in outputs(tmp_path) if name != "out.mp4"] == []


def test_too_little_space_is_said_before_the_work(fpsa, model, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", small], capture_output=True).returncode != 0:
        pytest.skip("this machine does not let the test mount a small file system")
    try:
        done = fpsa("generate", "--model", model, *PROMPT, "--num-inference-steps", 1000, "--output", small / "x.mp4")
        assert_error(done, FAILED, "--output: expected about", "free space")
        assert outputs(small) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_too_little_memory_is_said_before_the_work_with_flags_that_help(fpsa, model, tmp_path):
    started = time.monotonic()
    done = fpsa("generate", "--model", model, *PROMPT, "--size", "16384*16384", "--num-frames", 1025)
    assert_error(done, FAILED, "memory: expected about", "what helps:", "--num-frames")
    assert time.monotonic() - started < 60, "the check came after the work"
    assert outputs(tmp_path) == []


def test_memory_that_runs_out_ends_with_the_flags_that_help(binary, model, tmp_path):
    import resource

    def limit():  # the program itself maps some 1 GiB; the first latents of this clip take 1.1 GiB
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(
        [binary, "generate", "--model", model, *PROMPT, "--size", "8192*8192", "--num-frames", "257",
         "--ignore-memory-check", "--cfg", "batched", "--vae-tiling", "off", "--threads", "1"],
        cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"), preexec_fn=limit,
        timeout=240)
    assert_error(done, FAILED, "out of memory: 1.0 GiB could not be allocated; what helps: fewer --num-frames",
                 "--cfg sequential", "--vae-tiling on", "--dtype bf16")
    assert len(done.stderr.splitlines()) < 8, done.stderr
    assert outputs(tmp_path) == []


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_does_not_end_the_run(binary, model, tmp_path, stream):
    read, write = os.pipe()
    os.close(read)  # as head does after its last line
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    process = subprocess.Popen(
        [binary, "generate", "--model", model, *PROMPT, "--num-inference-steps", "2", "--explain"], cwd=tmp_path, text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"), **streams)
    os.close(write)
    text = "".join(part or "" for part in process.communicate(timeout=240))
    assert process.returncode == 0, text
    assert outputs(tmp_path) == ["out.mp4"]


def test_standard_output_that_takes_nothing_is_an_error_and_a_closed_one_is_not(binary, model, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([binary, "info"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert_error(done, FAILED, "standard output: expected to take all text")
    done = subprocess.run(["sh", "-c", 'exec "$0" "$@" >&-', binary, "generate", "--model", model, *PROMPT,
                           "--num-inference-steps", "1", "--explain", "--frames-dir", "frames"],
                          cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    assert subprocess.run([binary, "info", "out.mp4"], cwd=tmp_path, capture_output=True).returncode == 0


def test_a_frames_folder_of_a_longer_clip_is_refused_before_the_work(fpsa, model, tmp_path):
    common = ("generate", "--model", model, *PROMPT, "--num-inference-steps", 1, "--frames-dir", "frames")
    assert fpsa(*common).returncode == 0
    before = outputs(tmp_path / "frames")
    assert len(before) == 9
    assert_error(fpsa(*common, "--num-frames", 5, "--output", "short.mp4"), FAILED, "--frames-dir: expected", "frame-0005.png")
    assert outputs(tmp_path / "frames") == before and outputs(tmp_path) == ["frames", "out.mp4"]
    assert fpsa(*common, "--num-frames", 13).returncode == 0
    assert len(outputs(tmp_path / "frames")) == 13


def test_tiled_decoding_shows_its_progress(fpsa, model):
    common = ("generate", "--model", model, *PROMPT, "--num-inference-steps", 1, "--num-frames", 5, "--size", "272*64")
    # Two latent frames; one tile is 256 wide, the second begins at 192.
    for tiling, chunks in (("off", 2), ("on", 4)):
        done = fpsa(*common, "--vae-tiling", tiling)
        assert done.returncode == 0, done.stderr
        assert f"decode: chunk {chunks}/{chunks}" in done.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_with_its_exit_code_and_leaves_nothing(binary, model, tmp_path, number, code):
    process = subprocess.Popen(
        [binary, "generate", "--model", model, *PROMPT, "--num-inference-steps", "1000", "--num-frames", "33",
         "--output", "clip.mp4", "--frames-dir", "frames", "--dump-latents", "latents.safetensors"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    try:
        for line in process.stderr:
            if "1 clip of" in line:  # the work begins
                break
        time.sleep(0.5)
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == code, rest
    finally:
        process.kill()
    assert "interrupted" in rest
    assert outputs(tmp_path) in ([], ["frames"])
    if (tmp_path / "frames").exists():
        assert outputs(tmp_path / "frames") == []


def test_an_old_video_survives_a_failed_run(fpsa, copy_of_model, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"old")
    os.truncate(transformer_file(copy_of_model), 1000)
    assert fpsa("generate", "--model", copy_of_model, *PROMPT, "--output", "clip.mp4").returncode == FAILED
    assert (tmp_path / "clip.mp4").read_bytes() == b"old"


# --- info, compare, sheet ---------------------------------------------------------------------------------------


def test_info_describes_machine_model_file_and_video(fpsa, model, tmp_path):
    machine = json.loads(fpsa("info", "--json").stdout)
    assert machine["threads"] >= 1 and machine["isa"] in machine["isa_levels"] and machine["memory_total_bytes"] > 0
    assert "kernels" in fpsa("info").stdout
    assert "2 layers, 2 heads of 32" in fpsa("info", model).stdout
    listed = fpsa("info", transformer_file(model), "--tensors").stdout
    assert "blocks.0.attn1.to_q.weight F32 [64,64]" in listed
    done = fpsa("generate", "--model", model, *PROMPT, "--num-inference-steps", 1, "--seed", 9)
    assert done.returncode == 0, done.stderr
    video = fpsa("info", "out.mp4").stdout
    assert "9 frames 96x64 at 8 fps" in video and '"seed":9' in video


def test_info_refuses_what_generate_would_refuse(fpsa, copy_of_model):
    import torch
    from safetensors.torch import load_file, save_file

    vae = copy_of_model / "vae"
    weights, config = vae / "diffusion_pytorch_model.safetensors", vae / "config.json"
    assert "4 latent channels" in fpsa("info", vae).stdout
    tensors = load_file(weights)
    save_file(dict(tensors, **{"quant_conv.bias": torch.zeros(3)}), weights)
    for path in (weights, vae, copy_of_model):
        assert_error(fpsa("info", path), FAILED, "quant_conv.bias: expected [8], received [3]")
    save_file(tensors, weights)
    text = config.read_text()
    config.write_text(text.replace("{", '{"z_dim": 4, ', 1))
    for path in (weights, vae, copy_of_model):
        assert_error(fpsa("info", path), FAILED, "config.json: key 'z_dim' appears twice")
    config.write_text(text)
    os.truncate(weights, weights.stat().st_size - 1)
    for path in (weights, vae, copy_of_model):
        assert_error(fpsa("info", path), FAILED, weights.name)


def test_info_describes_files_that_are_no_part_and_folders_without_text(fpsa, copy_of_model, tmp_path):
    import torch
    from safetensors.torch import save_file

    schedule = "version = 1\ntile = [3, 4, 4]\n[[phase]]\nuntil = 1.0\ngranularity = [3, 4, 4]\nwindow = [1, 1, 1]\nquant = 'e4m3'\n"
    save_file({"initial": torch.zeros(1, 2)}, tmp_path / "latents.safetensors",
              metadata={"fpsa.schedule": schedule, "long": "x" * 5000})
    done = fpsa("info", "latents.safetensors", "--tensors")
    assert done.returncode == 0, done.stderr
    for part in ("not a part of a Wan2.1 model", "F32: 1 tensors, 8 B", "initial F32 [1,2]", "phase 1: steps 0% to 100%"):
        assert part in done.stdout
    assert "x" * 400 + " ..." in done.stdout and "x" * 401 not in done.stdout
    save_file({"vace_blocks.0.after_proj.bias": torch.zeros(1)}, tmp_path / "vace.safetensors")
    assert "not supported:" in fpsa("info", "vace.safetensors").stdout
    assert_error(fpsa("info", "latents.safetensors", "--vae", "x"), USAGE, "expected the folder of a model")

    shutil.rmtree(copy_of_model / "text_encoder")
    done = fpsa("info", copy_of_model)
    assert done.returncode == 0, done.stderr
    assert "generate with --prompt-embeds" in done.stdout and "sampler unipc, flow shift 3" in done.stdout


def test_compare_and_sheet(fpsa, model, tmp_path):
    for seed in (1, 2):
        done = fpsa("generate", "--model", model, *PROMPT, "--num-inference-steps", 1, "--seed", seed, "--output",
                    f"{seed}.mp4", "--frames-dir", f"frames{seed}")
        assert done.returncode == 0, done.stderr
    report = json.loads(fpsa("compare", "1.mp4", "2.mp4", "--json").stdout)
    assert not report["identical"] and 0 < report["psnr_db"] < 60 and len(report["frame_psnr_db"]) == 9
    assert fpsa("compare", "frames1", "frames1").stdout == "identical\n"
    assert_error(fpsa("compare", "1.mp4", "nothing.mp4"), FAILED, "nothing.mp4")
    done = fpsa("sheet", "sheet.png", "1.mp4", "frames2", "--label", "first", "--label", "second", "--columns", 4)
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
