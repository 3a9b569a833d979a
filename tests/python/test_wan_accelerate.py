"""apply() under accelerate, two Gloo processes: DDP in mixed precision, and FSDP2."""

import os
import subprocess
import sys

import pytest

# Each script runs after this one.
COMMON = """
import os
import sys

import torch
from accelerate import Accelerator
import fpsattention as fpsa
from wan_models import TILE, inputs, transformer

schedule = fpsa.Schedule([fpsa.Phase(0.5, TILE, (1, 1, 1), "e4m3"), fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE,
                         feed_forward="e4m3")
levels = torch.tensor([950.0, 300.0])  # a sample in each phase


def kernels(applied):
    return {entry["kernel"] for entry in applied.explain()}
"""

DDP = """
accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
model = transformer()
model.enable_gradient_checkpointing()
applied = fpsa.apply(model, schedule)
start = [parameter.detach().clone() for parameter in model.parameters()]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model, optimizer = accelerator.prepare(model, optimizer)
torch.manual_seed(accelerator.process_index)
for _ in range(4):
    with accelerator.accumulate(model):
        loss = model(**inputs(2, levels)).sample.float().square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
plain = accelerator.unwrap_model(model)
moved = sum(not torch.equal(one, other) for one, other in zip(plain.parameters(), start))
total = torch.stack([parameter.detach().double().sum() for parameter in plain.parameters()]).sum()
alike = accelerator.gather(total.view(1))
assert accelerator.num_processes == 2 and (alike == alike[0]).all(), alike
assert moved > len(start) * 3 // 4 and torch.isfinite(loss), (moved, len(start), loss)
ran = kernels(applied)
assert any("e4m3" in kernel for kernel in ran) and any("bf16" in kernel for kernel in ran), ran
assert not any("f32" in kernel.split("_") for kernel in ran), ran
applied.remove()
accelerator.print("trained", moved, flush=True)
"""

# Without a card accelerate calls a run of several processes MULTI_CPU, to which it gives DDP whatever plugin it is handed
# (AcceleratorState). The one line about _prepare_backend names another kind; all after it is accelerate's FSDP2 as it is.
FSDP2 = """
from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

precision = sys.argv[1]
PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
accelerator = Accelerator(mixed_precision=precision, fsdp_plugin=FullyShardedDataParallelPlugin(
    fsdp_version=2, auto_wrap_policy="transformer_based_wrap",
    cpu_ram_efficient_loading=False))  # True looks for a method that diffusers' models have not (accelerate 1.15)
assert accelerator.is_fsdp2 and accelerator.num_processes == 2


def train(model, optimizer, backward):
    torch.manual_seed(7)
    for _ in range(3):
        loss = model(**inputs(2, levels)).sample.float().square().mean()
        backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return loss


def prepared():
    model = transformer()
    model.enable_gradient_checkpointing()
    applied = fpsa.apply(model, schedule)
    return model, applied, torch.optim.SGD(model.parameters(), lr=0.1)


model, applied, optimizer = prepared()
model, optimizer = accelerator.prepare(model, optimizer)
assert isinstance(model, FSDPModule) and isinstance(model.blocks[0], FSDPModule)
assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
assert torch.isfinite(train(model, optimizer, accelerator.backward))
ran = kernels(applied)
assert any("e4m3" in kernel for kernel in ran), ran
assert any({"no": "f32", "bf16": "bf16"}[precision] in kernel.split("_") for kernel in ran), ran
trained = {name: parameter.full_tensor().detach() for name, parameter in model.named_parameters()}

alone, _, optimizer = prepared()
start = {name: parameter.detach().clone() for name, parameter in alone.named_parameters()}
train(alone, optimizer, torch.Tensor.backward)
wanted = dict(alone.named_parameters())
assert trained.keys() == wanted.keys()


def norm(tensors):
    return torch.stack([tensor.double().norm() for tensor in tensors]).norm().item()


# Both processes have the same samples, so their mean gradient is that of one process.
moved = norm(wanted[name].detach() - start[name] for name in wanted)
apart = norm(trained[name] - wanted[name].detach() for name in wanted)
accelerator.print("moved", moved, "apart", apart, flush=True)
"""

# A group that something still holds keeps its threads while the interpreter ends, and then a process aborts now and then, by
# torch alone: gloo_exit.py. Of DDP accelerate, the model and what refers to it hold the group, and let go of it.
END = """
accelerator.wait_for_everyone()
applied, model, optimizer = accelerator.free_memory(applied, model, optimizer)
accelerator.end_training()
threads = [open(f"/proc/self/task/{tid}/comm").read().strip() for tid in os.listdir("/proc/self/task")]
assert not any(name.startswith("pt_gloo") for name in threads), threads
"""

# After FSDP2 the threads are still there (torch 2.13), so nothing is left to the interpreter's end.
END_OF_FSDP2 = """
accelerator.wait_for_everyone()
accelerator.end_training()
sys.stdout.flush()
os._exit(0)
"""


def run_two(script, environment, folder, *arguments, end=END):
    path = folder / "train.py"
    path.write_text(COMMON + script + end)
    here = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", path, *arguments],
        env=dict(environment, PYTHONPATH=os.pathsep.join([environment["PYTHONPATH"], here]), ACCELERATE_TORCH_DEVICE="cpu"),
        cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ddp_trains_two_processes_in_mixed_precision(environment, tmp_path):
    assert "trained" in run_two(DDP, environment, tmp_path)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_fsdp2_trains_two_processes_like_one(environment, tmp_path, tolerance, precision):
    said = run_two(FSDP2, environment, tmp_path, precision, end=END_OF_FSDP2).split()
    moved, apart = (float(said[said.index(word) + 1]) for word in ("moved", "apart"))
    assert moved > 0
    if precision == "no":
        assert apart <= tolerance("kModelF32") * moved


def test_accelerate_has_fsdp2_on_cards_only(environment, tmp_path):
    """Why the test above names another kind of run; when this fails, it need not any more."""
    run_two("""
from accelerate import FullyShardedDataParallelPlugin
accelerator = Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
applied = model = optimizer = None
assert not accelerator.is_fsdp2 and str(accelerator.distributed_type) == "DistributedType.MULTI_CPU", accelerator.state
""", environment, tmp_path)
