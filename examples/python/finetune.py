"""Fine-tunes a Wan transformer with FSDP2, FP8 and sparsity in the loop: one process per device under torchrun.

    torchrun --nproc-per-node 2 examples/python/finetune.py --model models/tiny --schedule models/tiny/fps.toml

It trains on noise-like stand-ins for encoded videos; put your own latents and prompt embeddings where they are made.
"""

import argparse
import os

import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

import fpsattention

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="models/tiny")
parser.add_argument("--schedule", default="models/tiny/fps.toml")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--output", default=None, help="a folder for the trained transformer")
options = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = WanTransformer3DModel.from_pretrained(os.path.join(options.model, "transformer"), torch_dtype=torch.float32)
applied = fpsattention.apply(model, options.schedule)  # each sample attends in the phase of its noise level
model.enable_gradient_checkpointing()
for block in model.blocks:
    fully_shard(block)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

torch.manual_seed(1 + rank)
latents = torch.randn(2, model.config.in_channels, 5, 16, 16)  # [B,C,T,H,W], your encoded videos
text = torch.randn(2, 64, model.config.text_dim)  # [B,tokens,C], your encoded captions
for step in range(options.steps):
    u = torch.rand(2)
    shift = applied.schedule.shift
    sigma = shift * u / (1 + (shift - 1) * u)
    noise = torch.randn_like(latents)
    level = sigma.view(-1, 1, 1, 1, 1)
    velocity = model(hidden_states=(1 - level) * latents + level * noise, timestep=1000 * sigma,
                     encoder_hidden_states=text).sample
    loss = (velocity - (noise - latents)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    dist.all_reduce(loss.detach_(), dist.ReduceOp.AVG)
    if rank == 0:
        print(f"step {step} loss {loss.item():.4f}", flush=True)

if options.output:
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        trained = WanTransformer3DModel.from_config(model.config)
        trained.load_state_dict(state)
        trained.save_pretrained(options.output)
        fpsattention.attach_schedule(options.output, applied.schedule)  # the checkpoint brings it from now on
dist.destroy_process_group()
