"""The whole pipeline against diffusers' WanPipeline: prompt to latents, in F32, with tiny random modules.

Twice: piece by piece through the parity binary (tokenizer, text encoder, sampling loop, VAE decoder), and through the
program itself (`fpsa generate --dump-latents`) on the folder that diffusers saved.
"""

import json
import subprocess

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from safetensors.torch import load_file
import tiny_random_model

HEIGHT, WIDTH, FRAMES = 64, 96, 9
LATENT = (tiny_random_model.LATENT_CHANNELS, 3, HEIGHT // 8, WIDTH // 8)
TEXT_TOKENS = 512
PROMPT = "a red circle moves left on a gray background"

FLOW = dict(use_flow_sigmas=True, prediction_type="flow_prediction", num_train_timesteps=1000)
CASES = {
    "as diffusers defaults": dict(steps=6, guidance=5.0),
    "negative prompt": dict(steps=4, guidance=3.0, negative="blurred, 模糊"),
    "no guidance": dict(steps=5, guidance=1.0),
    "dpm++ at shift 5": dict(
        steps=5, guidance=5.0, scheduler=lambda: DPMSolverMultistepScheduler(flow_shift=5.0, **FLOW), sampler="dpm++"
    ),
    "euler at shift 5": dict(
        steps=5, guidance=5.0, scheduler=lambda: FlowMatchEulerDiscreteScheduler(shift=5.0), sampler="euler"
    ),
    "unipc, 20 steps at shift 8": dict(
        steps=20, guidance=2.0, scheduler=lambda: UniPCMultistepScheduler(flow_shift=8.0, **FLOW), sampler="unipc"
    ),
    "Chinese prompt": dict(steps=3, guidance=4.0, prompt="一个红色的圆圈  向左移动 🎈"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_random_model.write(tmp_path_factory.mktemp("tiny_random"))


@pytest.fixture(scope="module")
def pipeline():
    pipe = tiny_random_model.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def reference(pipe, case, output_type):
    """What diffusers makes of a case, and the scheduler it used."""
    default = pipe.scheduler
    pipe.scheduler = case["scheduler"]() if "scheduler" in case else default
    used = pipe.scheduler
    try:
        frames = pipe(
            prompt=case.get("prompt", PROMPT), negative_prompt=case.get("negative"), height=HEIGHT, width=WIDTH,
            num_frames=FRAMES, num_inference_steps=case["steps"], guidance_scale=case["guidance"],
            generator=torch.Generator("cpu").manual_seed(42), output_type=output_type,
        ).frames
    finally:
        pipe.scheduler = default
    return frames, used


def json_of(config):
    return {k: v for k, v in json.loads(config.to_json_string()).items() if v != float("-inf")}


def encode_text(pipe, folder, text, parity, weights):
    """Text states through the engine's tokenizer and encoder, zeros after the prompt."""
    cleaned = parity("text.clean", {"texts": [text]}, {"unused": torch.zeros(1)})
    cleaned = bytes(cleaned["bytes"][: cleaned["lengths"][0]].tolist()).decode()
    tokens = parity(
        "text.tokens", {"folder": str(folder / "tokenizer"), "texts": [cleaned], "max_length": TEXT_TOKENS},
        {"unused": torch.zeros(1)},
    )
    encoder = {k: t for k, t in weights(pipe.text_encoder).items() if not k.endswith("encoder.embed_tokens.weight")}
    ids, mask = tokens["ids"].long(), tokens["mask"].long()
    states = parity(
        "text.encode", {"text_encoder": json_of(pipe.text_encoder.config)}, {**encoder, "ids": ids, "mask": mask}
    )["states"]
    return states * mask.unsqueeze(-1)


@pytest.mark.parametrize("name", CASES)
def test_pieces_make_the_latents_of_diffusers(name, pipeline, folder, parity, weights, tolerance, assert_close):
    case = CASES[name]
    with torch.no_grad():
        expected, scheduler = reference(pipeline, case, "latent")
    noise = parity("sampler.noise", {"runs": [{"seed": 42, "shape": LATENT}]}, {"unused": torch.zeros(1)})["0"]
    text = encode_text(pipeline, folder, case.get("prompt", PROMPT), parity, weights)
    negative = encode_text(pipeline, folder, case.get("negative", ""), parity, weights)
    config = {
        "transformer": json.loads(pipeline.transformer.to_json_string()), "scheduler": json_of(scheduler),
        "steps": case["steps"], "guidance_scale": case["guidance"],
    }
    tensors = {**weights(pipeline.transformer), "initial": noise, "text": text, "negative": negative}
    for sequential in (False, True):
        final = parity("loop.denoise", {**config, "sequential": sequential}, tensors)["final"]
        error = assert_close(final, expected, tolerance("kPipelineLatents"), f"{name}, sequential={sequential}")
        print(f"{name}: {error:.1e}")


def test_decoded_video_is_that_of_diffusers(pipeline, parity, weights, tolerance, assert_close):
    case = CASES["as diffusers defaults"]
    with torch.no_grad():
        latents, _ = reference(pipeline, case, "latent")
        expected, _ = reference(pipeline, case, "pt")
    def decode(z):
        config = {"vae": json.loads(pipeline.vae.to_json_string())}
        return parity("vae.decode", config, {**weights(pipeline.vae), "latents": z})

    # The case decodes what it is given and shows the de-normalised latents beside; diffusers gives [0, 1] per frame.
    video = decode(decode(latents)["denormalised"])["video"]
    assert_close((video / 2 + 0.5).clamp(0, 1), expected.permute(0, 2, 1, 3, 4), tolerance("kPipelineLatents"))


@pytest.mark.parametrize("name", CASES)
def test_program_makes_the_latents_of_diffusers(name, pipeline, folder, fpsa_binary, tmp_path, tolerance, assert_close):
    if fpsa_binary is None:
        pytest.skip("the program fpsa is not built beside the tests")
    case = CASES[name]
    with torch.no_grad():
        expected, scheduler = reference(pipeline, case, "latent")
    dump = tmp_path / "latents.safetensors"
    command = [
        fpsa_binary, "generate", "--model", folder, "--prompt", case.get("prompt", PROMPT), "--seed", "42",
        "--height", str(HEIGHT), "--width", str(WIDTH), "--num-frames", str(FRAMES), "--dtype", "f32",
        "--num-inference-steps", str(case["steps"]), "--guidance-scale", str(case["guidance"]),
        "--attention", "dense", "--dump-latents", dump, "--output", tmp_path / "clip.mp4",
    ]
    if "negative" in case:
        command += ["--negative-prompt", case["negative"]]
    if "sampler" in case:
        shift = scheduler.config.get("flow_shift", scheduler.config.get("shift"))
        command += ["--sampler", case["sampler"], "--flow-shift", str(shift)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = load_file(dump)
    noise = torch.randn((1, *LATENT), generator=torch.Generator("cpu").manual_seed(42))
    assert torch.equal(got["initial"], noise)
    assert_close(got["final"], expected, tolerance("kPipelineLatents"), name)
