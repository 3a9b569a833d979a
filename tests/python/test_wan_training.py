"""apply() in training loops: phases by noise level, gradient checkpointing, adapters of PEFT."""

import pytest
import torch

import fpsattention as fpsa
from reference import rms
from wan_models import GRID, SCHEDULE, TILE, calls_of_attention, inputs, run, transformer


def test_a_level_has_the_phase_that_inference_has_there():
    """At every level that a sampler of diffusers visits, rounded to whole timesteps or not."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    schedules = [fpsa.Schedule([fpsa.Phase(a, TILE), fpsa.Phase(b, TILE), fpsa.Phase(1.0, TILE)], tile=TILE, shift=shift)
                 for a, b in ((0.2, 0.6), (0.23, 0.57), (0.1 + 0.2, 0.7)) for shift in (1.0, 3.0, 5.0)]
    for schedule in schedules:
        for steps in (10, 20, 50):
            unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                                            num_train_timesteps=1000, flow_shift=schedule.shift)
            unipc.set_timesteps(steps)
            for levels in (unipc.sigmas[:-1].tolist(), [t / 1000 for t in unipc.timesteps.tolist()]):
                found = [schedule.step_of_level(level, steps) for level in levels]
                assert [schedule.phase_at(step, steps) for step in found] == [schedule.phase_at(i, steps) for i in range(steps)]
    with pytest.raises(ValueError, match="sigma = 1.5"):
        schedules[0].step_of_level(1.5)
    with pytest.raises(ValueError, match="1 to 1000.*1001"):
        schedules[0].step_of_level(0.5, 1001)


def test_training_attends_by_the_phases_of_the_pipeline(monkeypatch):
    """The timesteps of a pipeline's run, given to the transformer alone, take it through the same phases."""
    import tiny_random_model

    pipe = tiny_random_model.build()
    pipe.set_progress_bar_config(disable=True)
    schedule = fpsa.Schedule([fpsa.Phase(0.3, TILE, (1, 1, 1), "none"), fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE,
                             shift=tiny_random_model.FLOW_SHIFT)
    calls = calls_of_attention(monkeypatch)
    with fpsa.apply(pipe, schedule):
        run(pipe, steps=10)
    of_pipeline = calls[::4]  # of two passes of two layers
    calls.clear()
    with torch.no_grad(), fpsa.apply(pipe.transformer, schedule, num_inference_steps=10):
        for timestep in pipe.scheduler.timesteps:
            pipe.transformer(**inputs(1, timestep.view(1).float()))
    assert calls[::2] == of_pipeline and {phases for _, phases, _ in calls} == {(0,), (1,)}


def test_in_training_each_sample_has_the_phase_of_its_noise_level(tolerance):
    model = transformer().eval()
    # shift 5: phase 1 while u > .5, that is sigma > .833
    levels = torch.tensor([950.0, 300.0, 900.0])
    steps = [SCHEDULE.step_of_level(level / 1000) for level in levels.tolist()]
    assert [SCHEDULE.phase_at(step, 50) for step in steps] == [0, 1, 0]
    batch = inputs(3, levels)
    with torch.no_grad(), fpsa.apply(model, SCHEDULE) as applied:
        together = model(**batch).sample
        assert {entry["step"] for entry in applied.explain()} == set(steps)
        for i in range(3):
            alone = model(**{name: x[i:i + 1] for name, x in batch.items()}).sample
            assert rms(together[i:i + 1], alone) <= tolerance("kModelF32")


@pytest.mark.parametrize("quant", ["none", "e4m3"])
def test_gradient_checkpointing_gives_the_same_gradients_even_across_forwards(quant):
    """Two forwards in different phases before one backward: what is computed again must see its own phase."""
    schedule = fpsa.Schedule([fpsa.Phase(0.5, TILE, (1, 1, 1), quant), fpsa.Phase(1.0, TILE, "all", quant)], tile=TILE)
    model = transformer().train()
    batches = [inputs(2, torch.tensor([950.0, 300.0])), inputs(2, 990.0), inputs(1, 100.0)]
    grads = []
    with fpsa.apply(model, schedule):
        for checkpointing in (False, True):
            model.gradient_checkpointing = False
            if checkpointing:
                model.enable_gradient_checkpointing()
            model.zero_grad()
            sum(model(**batch).sample.square().mean() for batch in batches).backward()
            grads.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 0
    assert all(torch.equal(one, other) for one, other in zip(*grads))


def test_gradients_equal_those_of_the_original_where_attention_is_dense(tolerance):
    model = transformer()
    batch = inputs(2)
    grads = []
    for ours in (False, True):
        applied = fpsa.apply(model, "dense") if ours else None
        model.zero_grad()
        model(**batch).sample.square().sum().backward()
        grads.append({name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None})
        if applied:
            applied.remove()
    for name, expected in grads[0].items():
        assert rms(grads[1][name], expected) <= tolerance("kModelF32"), name


def test_adapters_of_peft_train_alone_and_count(tolerance):
    from peft import LoraConfig

    model = transformer().requires_grad_(False)
    batch = inputs(2, torch.tensor([950.0, 300.0]))
    with fpsa.apply(model, SCHEDULE):
        before = model(**batch).sample
        model.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
        out = model(**batch).sample
        assert rms(out, before) > tolerance("kModelF32"), "the adapters were passed over"
        out.square().mean().backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == ("lora_" in name), name
            if "attn1" in name and "lora_" in name:
                assert parameter.grad.abs().max() > 0, name
        model.fuse_lora()
        with torch.no_grad():
            assert rms(model(**batch).sample, out) <= tolerance("kModelF32")


def test_an_e4m3_feed_forward_over_adapters_is_refused_and_nothing_is_left_behind():
    from peft import LoraConfig

    model = transformer().requires_grad_(False)
    model.add_adapter(LoraConfig(r=4, target_modules=["ffn.net.2"]))
    schedule = fpsa.Schedule([fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE, feed_forward="e4m3")
    processors = [block.attn1.processor for block in model.blocks]
    with pytest.raises(TypeError, match="merge adapters"):
        fpsa.apply(model, schedule)
    assert [block.attn1.processor for block in model.blocks] == processors and not model._forward_pre_hooks
    assert "_fpsattention" not in model.__dict__
