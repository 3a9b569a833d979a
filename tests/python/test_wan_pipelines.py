"""apply() on the pipelines that Wan2.1 and 2.2 have beside text-to-video with one transformer."""

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

import fpsattention as fpsa
from wan_models import GRID, SCHEDULE, calls_of_attention, run, transformer


def parts():
    import tiny_random_model

    pipe = tiny_random_model.build()
    return dict(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder, vae=pipe.vae, scheduler=pipe.scheduler)


def picture():
    return Image.linear_gradient("L").resize((96, 64)).convert("RGB")


# Conditions of an image are channels beside the latents: 4 of the mask and 4 latents.
def image_to_video_of_2_1():
    encoder = CLIPVisionModel(CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                                               num_attention_heads=2, image_size=32, patch_size=16)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    model = transformer(in_channels=12, image_dim=24, added_kv_proj_dim=64).eval()
    pipe = WanImageToVideoPipeline(**parts(), image_encoder=encoder, image_processor=processor, transformer=model)
    return pipe, dict(image=picture())


def image_to_video_of_2_2():
    pipe = WanImageToVideoPipeline(**parts(), image_encoder=None, image_processor=None, boundary_ratio=0.9,
                                   transformer=transformer(in_channels=12).eval(),
                                   transformer_2=transformer(in_channels=12, seed=4).eval())
    return pipe, dict(image=picture())


def text_to_video_of_2_2():
    pipe = WanPipeline(**parts(), boundary_ratio=0.9, transformer=transformer().eval(), transformer_2=transformer(seed=4).eval())
    return pipe, {}


def text_or_image_to_video_by_text():
    return WanPipeline(**parts(), expand_timesteps=True, transformer=transformer().eval()), {}


def text_or_image_to_video_by_image():
    pipe = WanImageToVideoPipeline(**parts(), image_encoder=None, image_processor=None, expand_timesteps=True,
                                   transformer=transformer().eval())
    return pipe, dict(image=picture())


@pytest.mark.parametrize("make", [image_to_video_of_2_1, image_to_video_of_2_2, text_to_video_of_2_2,
                                  text_or_image_to_video_by_text, text_or_image_to_video_by_image],
                         ids=lambda make: make.__name__)
def test_every_pipeline_keeps_its_latents_and_knows_its_phases(make, monkeypatch, tolerance):
    torch.manual_seed(11)
    pipe, arguments = make()
    pipe.set_progress_bar_config(disable=True)
    original = run(pipe, steps=5, **arguments)
    applied = fpsa.apply(pipe, "dense")
    assert len(applied.transformers) == (2 if pipe.config.boundary_ratio else 1)
    ours = run(pipe, steps=5, **arguments)
    assert (ours - original).abs().max() / original.abs().max() <= tolerance("kPipelineLatents")
    assert not torch.equal(ours, original), "attention was not replaced"
    calls = calls_of_attention(monkeypatch)
    with fpsa.apply(pipe, SCHEDULE):
        sparse = run(pipe, steps=5, **arguments)
        steps = {int(line.split()[1]) for line in fpsa.explain(pipe).splitlines()}
    # 5 steps, with and without the prompt, 2 layers; f = 0, .2, .4 | .6, .8
    assert calls == [(GRID, (phase,), layer) for phase in (0, 0, 0, 1, 1) for _ in range(2) for layer in range(2)]
    assert steps == set(range(5)) and not torch.equal(sparse, ours)
    assert torch.equal(run(pipe, steps=5, **arguments), original)
