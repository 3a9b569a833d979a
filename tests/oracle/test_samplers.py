"""Samplers, noise levels and initial noise against diffusers' schedulers."""

import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor

FLOW = dict(use_flow_sigmas=True, prediction_type="flow_prediction", num_train_timesteps=1000)
SCHEDULERS = {
    "unipc": lambda shift: UniPCMultistepScheduler(flow_shift=shift, **FLOW),
    "dpm++": lambda shift: DPMSolverMultistepScheduler(flow_shift=shift, **FLOW),
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "unipc_order_1": lambda shift: UniPCMultistepScheduler(flow_shift=shift, solver_order=1, **FLOW),
    "dpm++_order_1": lambda shift: DPMSolverMultistepScheduler(flow_shift=shift, solver_order=1, **FLOW),
}


def config_of(scheduler):
    """Its scheduler_config.json, less the keys whose value JSON cannot hold (lambda_min_clipped is -infinity)."""
    config = json.loads(scheduler.to_json_string())
    return {key: value for key, value in config.items() if value != float("-inf")}


def velocity(x, timestep):
    """The field of the case sampler.trajectory."""
    return torch.tanh(x * 3.0 + timestep.to(torch.float32) / 500.0) + x * 0.5


@pytest.mark.parametrize("name", SCHEDULERS)
def test_walks_the_trajectory_of_diffusers(name, parity, tolerance, assert_close):
    initial = torch.randn(2, 4, 3, 5)
    runs = [(steps, SCHEDULERS[name](shift)) for shift in (1.0, 3.0, 5.0, 8.0) for steps in (1, 2, 3, 5, 12, 50)]
    config = {"runs": [{"scheduler": config_of(scheduler), "steps": steps} for steps, scheduler in runs]}
    got = parity("sampler.trajectory", config, {"initial": initial})
    worst = 0.0
    for i, (steps, scheduler) in enumerate(runs):
        what = f"{scheduler.config}, {steps} steps"
        scheduler.set_timesteps(steps)
        scheduler.set_begin_index(0)
        assert torch.equal(got[f"{i}.sigmas"], scheduler.sigmas), what
        assert torch.equal(got[f"{i}.timesteps"], scheduler.timesteps.to(torch.float32)), what
        x = initial
        for step, timestep in enumerate(scheduler.timesteps):
            x = scheduler.step(velocity(x, timestep), timestep, x, return_dict=False)[0]
            error = assert_close(got[f"{i}.samples"][step], x, tolerance("kSamplerTrajectory"), f"{what}, step {step}")
            worst = max(worst, error)
    print(f"{name}: {worst:.1e}")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_writes_a_config_that_diffusers_reads_into_the_same_sampler(name, parity):
    scheduler = SCHEDULERS[name](2.5)
    got = parity("sampler.scheduler", {"scheduler": config_of(scheduler)}, {"unused": torch.zeros(1)})
    written = json.loads(bytes(got["json"].tolist()))
    assert written["_class_name"] == type(scheduler).__name__
    again, unused = type(scheduler).from_config(written, return_unused_kwargs=True)
    assert not {key for key in unused if not key.startswith("_")}
    differences = {
        key for key, value in scheduler.config.items() if not key.startswith("_") and again.config[key] != value
    }
    assert not differences


def test_noise_is_that_of_diffusers(parity):
    runs = [
        (seed, shape)
        for seed in (0, 42, 2**31, 2**63 + 5)
        for shape in ((1, 1, 1, 1), (4, 3, 5, 7), (16, 5, 32, 32))
    ]
    config = {"runs": [{"seed": seed, "shape": shape} for seed, shape in runs]}
    got = parity("sampler.noise", config, {"unused": torch.zeros(1)})
    for i, (seed, shape) in enumerate(runs):
        generator = torch.Generator("cpu").manual_seed(seed)
        expected = randn_tensor((1, *shape), generator=generator, device=torch.device("cpu"), dtype=torch.float32)
        assert torch.equal(got[str(i)], expected), f"seed {seed}, shape {shape}"


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(_class_name="DDIMScheduler"), "DDIMScheduler"),
        (dict(use_flow_sigmas=False), "use_flow_sigmas"),
        (dict(prediction_type="epsilon"), "prediction_type"),
        (dict(solver_order=3), "order"),
        (dict(solver_type="bh1"), "solver_type"),
        (dict(use_karras_sigmas=True), "use_karras_sigmas"),
        (dict(lower_order_final=False), "lower_order_final"),
        (dict(disable_corrector=[0]), "disable_corrector"),
        (dict(flow_shift=0), "shift"),
        (dict(flow_shift="3"), "flow_shift"),
        (dict(num_train_timesteps=500), "num_train_timesteps"),
    ],
)
def test_refuses_a_scheduler_by_the_name_of_what_is_wrong(change, named, parity):
    config = {**config_of(SCHEDULERS["unipc"](3.0)), **change}
    done = parity("sampler.scheduler", {"scheduler": config}, {"unused": torch.zeros(1)}, check=False)
    assert done.returncode == 1
    assert named in done.stderr


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_refuses_a_number_of_steps_out_of_range(steps, parity):
    config = {"runs": [{"scheduler": config_of(SCHEDULERS["unipc"](3.0)), "steps": steps}]}
    done = parity("sampler.trajectory", config, {"initial": torch.zeros(1)}, check=False)
    assert done.returncode == 1
    assert "steps" in done.stderr
