"""A prompt becomes a video with diffusers' WanPipeline and our self-attention in two lines.

    python examples/python/generate.py --model models/tiny --schedule models/tiny/fps.toml --output circle.mp4

Without --schedule: the one that the checkpoint carries; with --schedule dense: dense attention by our kernels.
"""

import argparse

import torch
from diffusers import WanPipeline

import fpsattention

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="models/tiny")
parser.add_argument("--prompt", default="a red circle moves left on a gray background")
parser.add_argument("--schedule", default=None)
parser.add_argument("--size", default="256*256", help="width*height")
parser.add_argument("--num-frames", type=int, default=33)
parser.add_argument("--num-inference-steps", type=int, default=20)
parser.add_argument("--guidance-scale", type=float, default=3.0)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
parser.add_argument("--output", default=None, help="an mp4")
parser.add_argument("--dump-latents", default=None, help="a safetensors file with the tensor `final`")
options = parser.parse_args()

pipe = WanPipeline.from_pretrained(options.model, torch_dtype=getattr(torch, options.dtype))
applied = fpsattention.apply(pipe, options.schedule)

width, height = map(int, options.size.split("*"))
arguments = dict(prompt=options.prompt, width=width, height=height, num_frames=options.num_frames,
                 num_inference_steps=options.num_inference_steps, guidance_scale=options.guidance_scale)
generator = torch.Generator().manual_seed(options.seed)
if options.dump_latents:
    from safetensors.torch import save_file

    latents = pipe(**arguments, generator=generator, output_type="latent").frames
    save_file({"final": latents.float().contiguous()}, options.dump_latents)
else:
    from diffusers.utils import export_to_video

    export_to_video(pipe(**arguments, generator=generator).frames[0], options.output or "out.mp4", fps=16)
print(fpsattention.explain(pipe))
applied.remove()
