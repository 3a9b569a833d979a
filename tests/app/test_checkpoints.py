"""Checkpoints from outside: broken, hostile, ambiguous or of another kind, each is refused by name before the work."""

import json
import os
import shutil
import struct

import pytest

from program import FAILED, PROMPT, USAGE, assert_error, outputs, transformer_file


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


@pytest.fixture
def repackaged(model, tmp_path_factory):
    """The tiny model's files as a repackaged folder, with a second VAE and a second text encoder."""
    root = tmp_path_factory.mktemp("repackaged")
    for part, folder, name in (("transformer", "diffusion_models", "diffusion_pytorch_model"),
                               ("vae", "vae", "diffusion_pytorch_model"), ("text_encoder", "text_encoders", "model")):
        (root / folder).mkdir()
        for copy in ("a", "b"):
            shutil.copy(model / part / f"{name}.safetensors", root / folder / f"{copy}.safetensors")
    (root / "diffusion_models" / "b.safetensors").unlink()
    # Tensors do not show a head of 32 nor the statistics of 4 latent channels.
    shutil.copy(model / "transformer" / "config.json", root / "diffusion_models" / "config.json")
    shutil.copy(model / "vae" / "config.json", root / "vae" / "config.json")
    return root


def test_ambiguous_parts_are_named_by_flags(fpsa, model, repackaged, tmp_path):
    root = repackaged
    common = ("generate", "--model", root / "diffusion_models" / "a.safetensors", *PROMPT, "--size", "96*64",
              "--num-frames", 9, "--fps", 8, "--num-inference-steps", 2, "--flow-shift", 3, "--threads", 1)
    assert_error(fpsa(*common), FAILED, "vae/a.safetensors", "vae/b.safetensors", "--vae PATH")
    vae = ("--vae", root / "vae" / "b.safetensors")
    assert_error(fpsa(*common, *vae), FAILED, "text_encoders/b.safetensors", "--text-encoder PATH")
    text = ("--t5", root / "text_encoders" / "b.safetensors")
    assert_error(fpsa(*common, *vae, *text), FAILED, "no tokenizer", "--tokenizer PATH")
    assert_error(fpsa("info", root, *vae), FAILED, "--text-encoder PATH")
    assert outputs(tmp_path) == []

    parts = (*vae, *text, "--tokenizer", model / "tokenizer")
    done = fpsa(*common, *parts, "--output", "named.mp4", "--perf-dump-path", "perf.json")
    assert done.returncode == 0, done.stderr
    used = json.loads((tmp_path / "perf.json").read_text())["parameters"]
    assert (used["vae"], used["text_encoder"], used["tokenizer"]) == ("b.safetensors", "b.safetensors", "tokenizer")
    whole = fpsa("generate", "--model", model, *PROMPT, "--num-inference-steps", 2, "--threads", 1, "--output",
                 "whole.mp4")
    assert whole.returncode == 0, whole.stderr
    assert fpsa("compare", "named.mp4", "whole.mp4").stdout == "identical\n"


@pytest.mark.parametrize("flag, value, words", [
    ("--vae", "nowhere", "--vae: expected the path of the vae, received 'nowhere'"),
    ("--text-encoder-path", "nowhere", "--text-encoder: expected the path of the text encoder"),
    ("--tokenizer", "nowhere", "nowhere"),
    ("--vae", "{model}/transformer", "expected the vae of a Wan2.1 model, received the transformer"),
    ("--t5xxl", "{model}/vae", "expected the text encoder of a Wan2.1 model, received the vae"),
    ("--vae", "{model}/tokenizer", "expected *.safetensors"),
])
def test_a_named_part_that_is_none_is_refused(fpsa, model, tmp_path, flag, value, words):
    done = fpsa("generate", "--model", model, *PROMPT, flag, value.format(model=model))
    assert_error(done, FAILED, words)
    assert outputs(tmp_path) == []


def test_a_text_encoder_beside_prompt_embeds_is_refused(fpsa, model):
    done = fpsa("generate", "--model", model, "--prompt-embeds", "e.safetensors", "--text-encoder", model / "text_encoder")
    assert_error(done, USAGE, "--text-encoder: expected none beside --prompt-embeds")


def test_a_scheduler_that_asks_for_other_arithmetic_is_refused_before_the_work(fpsa, copy_of_model, tmp_path):
    file = copy_of_model / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    del config["use_flow_sigmas"]
    file.write_text(json.dumps(config))
    for done in (fpsa("generate", "--model", copy_of_model, *PROMPT), fpsa("info", copy_of_model)):
        assert_error(done, FAILED, "scheduler_config.json: 'use_flow_sigmas' must be true")
    assert outputs(tmp_path) == []


# --- schedules, latents, prompts --------------------------------------------------------------------------------


def test_the_rope_scale_of_a_models_folder_is_that_of_the_flag(fpsa, copy_of_model, tmp_path):
    from safetensors.torch import load_file

    def latents(name, *flags):
        done = fpsa("generate", "--model", copy_of_model, *PROMPT, "--num-frames", 5, "--height", 32, "--width", 32,
                    "--num-inference-steps", 2, "--output", f"{name}.mp4", "--dump-latents", f"{name}.safetensors", *flags)
        assert done.returncode == 0, done.stderr
        return load_file(tmp_path / f"{name}.safetensors")["final"]

    plain = latents("plain")
    assert latents("ones", "--rope-scale", "1,1,1").equal(plain)
    scaled = latents("flag", "--rope-scale", "1,0.5,0.5")
    assert (scaled - plain).abs().max() > 1e-4
    (copy_of_model / "fpsa.json").write_text(json.dumps({"rope_scale": "1,0.5,0.5"}))
    assert latents("folder").equal(scaled)
