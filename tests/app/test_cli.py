"""The program from outside: bad input gets a clear error, the right exit code, and leaves nothing behind."""

import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import time

import pytest

PROMPT = ("--prompt", "a red circle moves left on a gray background")
FAILED, USAGE, INTERRUPTED = 1, 2, 130


def assert_error(done, code, *parts):
    assert done.returncode == code, f"exit {done.returncode}, expected {code}: {done.stderr}"
    line = next((line for line in done.stderr.splitlines() if line.startswith("fpsa: error: ")), None)
    assert line, f"no error line: {done.stderr!r}"
    for part in parts:
        assert part in done.stderr, f"{part!r} is not in {done.stderr!r}"


def outputs(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def copy_of_model(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy") / "model"
    shutil.copytree(model, folder)
    return folder


def transformer_file(folder):
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


# --- the command line -------------------------------------------------------------------------------------------


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


def test_a_missing_checkpoint(fpsa):
    assert_error(fpsa("generate", "--model", "nowhere", *PROMPT), FAILED, "nowhere")


def test_a_truncated_checkpoint(fpsa, copy_of_model, tmp_path):
    file = transformer_file(copy_of_model)
    os.truncate(file, file.stat().st_size - 100)
    assert_error(fpsa("generate", "--model", copy_of_model, *PROMPT), FAILED, file.name)
    assert_error(fpsa("info", file), FAILED, file.name)
    assert outputs(tmp_path) == []


def test_a_mis_shaped_checkpoint_names_every_tensor(fpsa, copy_of_model):
    import torch
    from safetensors.torch import load_file, save_file

    file = transformer_file(copy_of_model)
    tensors = load_file(file)
    tensors["blocks.0.ffn.net.2.bias"] = torch.zeros(3)
    del tensors["blocks.1.attn1.to_q.weight"]
    tensors["blocks.9.surprise"] = torch.zeros(1)
    save_file(tensors, file)
    assert_error(fpsa("generate", "--model", copy_of_model, *PROMPT), FAILED, "blocks.0.ffn.net.2.bias",
                 "blocks.1.attn1.to_q.weight", "blocks.9.surprise")


def header_file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize("content, words", [
    (b"", ""),
    (header_file({"a": F32}, b"1234", length=2**63), "header"),
    (header_file({"a": F32}, b"12345678"), ""),
    (header_file({"a": dict(F32, data_offsets=[0, 8])}, b"12345678"), "a"),
    (header_file({"a": F32, "b": dict(F32, data_offsets=[2, 6])}, b"123456"), ""),
    (header_file({"a": dict(F32, dtype="F12")}, b"1234"), "F12"),
    (header_file({"a": dict(F32, shape=[2**62, 8])}, b"1234"), "a"),
    (header_file(b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), b"1234"), "a"),
    (header_file(b"[1]"), ""),
], ids=["empty", "huge header", "hole at the end", "bytes do not fit the shape", "overlap", "unknown dtype",
        "shape overflows", "duplicate key", "no object"])
def test_hostile_safetensors_are_refused(fpsa, copy_of_model, tmp_path, content, words):
    file = transformer_file(copy_of_model)
    file.write_bytes(content)
    for done in (fpsa("info", file), fpsa("generate", "--model", copy_of_model, *PROMPT)):
        assert_error(done, FAILED, file.name, words)
    assert outputs(tmp_path) == []


def test_non_finite_weights_end_without_a_video(fpsa, copy_of_model, tmp_path):
    from safetensors.torch import load_file, save_file

    file = transformer_file(copy_of_model)
    tensors = load_file(file)
    tensors["proj_out.bias"].fill_(float("nan"))
    save_file(tensors, file)
    assert_error(fpsa("generate", "--model", copy_of_model, *PROMPT), FAILED, "finite")
    assert outputs(tmp_path) == []


def test_an_all_black_result_is_an_error(fpsa, copy_of_model, tmp_path):
    from safetensors.torch import load_file, save_file

    file = copy_of_model / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.weight"].zero_()
    tensors["decoder.conv_out.bias"].fill_(-1)
    save_file(tensors, file)
    assert_error(fpsa("generate", "--model", copy_of_model, *PROMPT), FAILED, "black")
    assert outputs(tmp_path) == []


# --- schedules, latents, prompts --------------------------------------------------------------------------------


def test_an_unknown_schedule_key_is_named_with_its_line(fpsa, model, tmp_path):
    (tmp_path / "bad.toml").write_text("version = 1\ntyle = [6, 8, 8]\n")
    for arguments in (("info", "bad.toml"), ("generate", "--model", model, *PROMPT, "--schedule", "bad.toml")):
        assert_error(fpsa(*arguments), FAILED, "bad.toml:2", "tyle")


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
