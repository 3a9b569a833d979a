"""apply() on diffusers' Wan models: what it replaces, what it knows, how it trains, and that it can be undone."""

import json
import struct

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

import fpsattention as fpsa
from reference import rms
from wan_models import GRID, SCHEDULE, TILE, calls_of_attention, inputs, run, transformer


@pytest.fixture
def default_backend():
    """Puts diffusers' default back, which set_attention_backend changes for every model of the process."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry._active_backend = before


@pytest.fixture(scope="module")
def pipeline():
    import tiny_random_model

    pipe = tiny_random_model.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_dense_gives_the_latents_of_the_original_and_remove_gives_its_bits(pipeline, tolerance):
    original = run(pipeline)
    processors = [block.attn2.processor for block in pipeline.transformer.blocks]
    applied = fpsa.apply(pipeline, "dense")
    ours = run(pipeline)
    assert [block.attn2.processor for block in pipeline.transformer.blocks] == processors, "cross-attention was touched"
    assert ((ours - original).abs().max() / original.abs().max()) <= tolerance("kPipelineLatents")
    assert not torch.equal(ours, original), "attention was not replaced"
    applied.remove()
    applied.remove()
    assert torch.equal(run(pipeline), original)
    assert not pipeline.transformer._forward_pre_hooks and not pipeline.transformer.rope._forward_hooks
    assert "_fpsattention" not in pipeline.transformer.__dict__


def test_grid_and_step_are_those_of_the_run(pipeline):
    with fpsa.apply(pipeline, SCHEDULE) as applied:
        run(pipeline, steps=4)
        entries = applied.explain()
        assert [(e["step"], e["layer"]) for e in entries] == [(s, l) for s in range(4) for l in range(2)]
        sparse = fpsa.SlidingTile((1, 1, 1), TILE).density(GRID)
        assert [e["density"] for e in entries] == pytest.approx([sparse] * 4 + [1.0] * 4)
        text = fpsa.explain(pipeline)
        assert text.splitlines()[0].startswith("step   0  layers 0-1") and len(text.splitlines()) == 4
        applied.reset()
        assert applied.explain() == []
    with pytest.raises(ValueError, match="apply was called on"):
        fpsa.explain(pipeline)


def test_a_model_is_explained_by_the_kernels_of_its_device():
    model = WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=64, in_channels=4,
                                  out_channels=4, text_dim=32, freq_dim=32, ffn_dim=96, num_layers=2)
    applied = fpsa.apply(model, SCHEDULE).at(0, 4)
    model(**inputs())
    assert all(entry["kernel"].startswith("attention_fwd_f32") and entry["isa"] != "sm90a" for entry in applied.explain())
    # Without a card: what a forward on one notes.
    applied._place.note(GRID, torch.bfloat16, torch.device("cuda", 0))
    assert {(entry["kernel"], entry["isa"]) for entry in applied.explain()} == {("attention_fwd_bf16_sm90a", "sm90a")}
    assert "attention_fwd_bf16_sm90a" in fpsa.explain(model)
    applied.reset()
    model.to("meta")(**{name: value.to("meta") for name, value in inputs().items()})
    with pytest.raises(ValueError, match="device: expected cpu or cuda, got meta"):  # so it is the model's that is asked for
        applied.explain()


def test_each_step_of_a_pipeline_attends_by_its_phase(pipeline, monkeypatch):
    calls = calls_of_attention(monkeypatch)
    with fpsa.apply(pipeline, SCHEDULE):
        run(pipeline, steps=5)
    # 5 steps, with and without the prompt, 2 layers; f = 0, .2, .4 | .6, .8
    assert calls == [(GRID, (phase,), layer) for phase in (0, 0, 0, 1, 1) for _ in range(2) for layer in range(2)]


def test_other_samplers_and_two_runs_in_a_row_keep_count(pipeline):
    original = pipeline.scheduler
    try:
        with fpsa.apply(pipeline, SCHEDULE) as applied:
            pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)  # the one of the run counts
            first = run(pipeline, steps=3)
            assert torch.equal(run(pipeline, steps=3), first)
            assert sorted({e["step"] for e in applied.explain()}) == [0, 1, 2]
    finally:
        pipeline.scheduler = original


def test_a_second_apply_replaces_the_first(pipeline):
    original = run(pipeline, steps=2)
    first = fpsa.apply(pipeline, SCHEDULE)
    second = fpsa.apply(pipeline, "dense")
    assert len(pipeline.transformer._forward_pre_hooks) == 1
    first.remove()  # of no effect any more
    assert isinstance(pipeline.transformer.blocks[0].attn1.processor, fpsa._wan._SelfAttention)
    second.remove()
    assert torch.equal(run(pipeline, steps=2), original)


def test_image_to_video_models_keep_their_cross_attention(tolerance):
    model = transformer(image_dim=24, added_kv_proj_dim=64).eval()
    arguments = dict(inputs(), encoder_hidden_states=torch.randn(1, 512, 32), encoder_hidden_states_image=torch.randn(1, 9, 24))
    with torch.no_grad():
        expected = model(**arguments).sample
        with fpsa.apply(model, "dense"):
            ours = model(**arguments).sample
    assert rms(ours, expected) <= tolerance("kModelF32") and not torch.equal(ours, expected)


def test_fused_projections_give_the_same_result(tolerance):
    model = transformer().eval()
    arguments = inputs()
    with torch.no_grad(), fpsa.apply(model, SCHEDULE):
        expected = model(**arguments).sample
        for block in model.blocks:
            block.attn1.fuse_projections()
        assert rms(model(**arguments).sample, expected) <= tolerance("kModelF32")


def test_a_feed_forward_in_e4m3_is_coded_and_undone(tolerance):
    model = transformer(layers=1).eval()
    arguments = inputs()
    with torch.no_grad():
        plain = model(**arguments).sample
        schedule = fpsa.Schedule([fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE, feed_forward="e4m3")
        with fpsa.apply(model, schedule):
            coded = model(**arguments).sample
            layer = model.blocks[0].ffn.net[2]
            x = torch.randn(5, 96)
            assert torch.equal(layer(x), fpsa.e4m3_linear(x, layer.weight, layer.bias))
        assert torch.equal(model(**arguments).sample, plain)
    assert tolerance("kModelF32") < rms(coded, plain) < 2 * tolerance("kOpsE4m3")


def with_metadata(path, text):
    """Puts any text in, as a damaged file might hold."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    header["__metadata__"] = {"format": "pt", "fpsa.schedule": text}
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length:])


def test_a_checkpoint_brings_its_schedule(tmp_path):
    transformer().save_pretrained(tmp_path / "transformer")
    plain = WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert fpsa.carried_schedule(tmp_path) is None
    with pytest.raises(ValueError, match="carries none"):
        fpsa.apply(plain)
    fpsa.attach_schedule(tmp_path, SCHEDULE)
    assert fpsa.carried_schedule(tmp_path) == SCHEDULE
    assert [path.name for path in (tmp_path / "transformer").iterdir() if "tmp" in path.name] == []
    model = WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    with fpsa.apply(model) as applied:
        assert applied.schedule == SCHEDULE
    with_metadata(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors", "version = 9")
    with pytest.raises(ValueError, match="fpsa.schedule"):
        fpsa.apply(model)
    (tmp_path / "broken.safetensors").write_bytes(b"abc")
    with pytest.raises(ValueError, match="broken.safetensors"):
        fpsa.carried_schedule(tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="broken.safetensors"):
        fpsa.attach_schedule(tmp_path / "broken.safetensors", SCHEDULE)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_errors_say_what_was_expected(pipeline):
    with pytest.raises(TypeError, match="WanTransformer3DModel.*Linear"):
        fpsa.apply(torch.nn.Linear(2, 2), "dense")
    with pytest.raises(TypeError, match="schedule"):
        fpsa.apply(pipeline, 3)
    with pytest.raises(ValueError, match="num_inference_steps"):
        fpsa.apply(pipeline, "dense", num_inference_steps=4)
    with pytest.raises(ValueError, match="1 to 1000.*0"):
        fpsa.apply(pipeline.transformer, "dense", num_inference_steps=0)
    with fpsa.apply(pipeline.transformer, "dense"), pytest.raises(ValueError, match="noise level.*1500"):
        pipeline.transformer(**inputs(1, 1500.0))
    with pytest.raises(FileNotFoundError):
        fpsa.apply(pipeline, "no-such.toml")
    with pytest.raises(ValueError, match="override 1 layers.*7"):
        fpsa.apply(pipeline, fpsa.Schedule([fpsa.Phase(1.0, TILE)], tile=TILE,
                                           overrides=[fpsa.Override(layers=[7], window="all")]))
    model = pipeline.transformer
    with fpsa.apply(pipeline, SCHEDULE) as applied:
        pipeline.scheduler.set_timesteps(4)
        with pytest.raises(ValueError, match="none of the 4 timesteps"):
            model(**inputs(1, 1.5))
        applied.at(3, 4)
        with torch.no_grad():
            model(**inputs(1, 1.5))
        assert {(e["step"]) for e in applied.explain()} == {3}
        with pytest.raises(ValueError, match="step"):
            applied.at(4, 4)
        with pytest.raises(RuntimeError, match="outside the transformer"):
            model.blocks[0].attn1(torch.randn(1, 72, 64))
    assert "_fpsattention" not in model.__dict__


def test_layers_compile_whole_and_serve_all_steps(pipeline):
    torch._dynamo.reset()
    model = transformer(layers=3).eval()
    arguments = [inputs(1, level) for level in (990.0, 950.0, 300.0, 20.0)]
    with torch.no_grad(), fpsa.apply(model, SCHEDULE):
        expected = [model(**batch).sample for batch in arguments]
        for block in model.blocks:
            block.compile(fullgraph=True, backend="aot_eager")
        for batch, wanted in zip(arguments, expected):
            torch.testing.assert_close(model(**batch).sample, wanted)


def test_the_dispatcher_has_a_dense_backend(default_backend, tolerance):
    from diffusers.models.attention_dispatch import attention_backend

    assert fpsa.register_backend() == fpsa.register_backend() == "fpsa"
    model = transformer().eval()
    arguments = inputs()
    with torch.no_grad():
        expected = model(**arguments).sample
        with attention_backend("fpsa"):
            ours = model(**arguments).sample
        assert rms(ours, expected) <= tolerance("kModelF32") and not torch.equal(ours, expected)
        model.set_attention_backend("fpsa")
        assert torch.equal(model(**arguments).sample, ours)
        model.reset_attention_backend()
    from diffusers.models.attention_dispatch import dispatch_attention_fn
    q = torch.randn(1, 5, 2, 16)
    with pytest.raises(ValueError, match="is_causal"), attention_backend("fpsa"):
        dispatch_attention_fn(q, q, q, is_causal=True)


def test_calibration_finds_the_sparse_schedule_that_costs_least(pipeline, monkeypatch, tmp_path, tolerance):
    original = run(pipeline, steps=3)
    (tmp_path / "candidates.toml").write_text(f"tile = {list(TILE)}\n" + "".join(
        f'[[candidate]]\ngranularity = {list(TILE)}\nwindow = {window}\nquant = "none"\n'
        for window in ('"all"', "[2, 2, 1]", "[1, 1, 1]")))
    arguments = dict(height=64, width=96, num_frames=9, num_inference_steps=3, guidance_scale=3.0,
                     candidates=tmp_path / "candidates.toml")
    found = fpsa.calibrate(pipeline, ["a red circle", "a blue star"], density=0.6, **arguments)
    assert found.errors.shape == (len(found.candidates), 3, 2, 2) and len(found.densities) == len(found.candidates)
    assert 0 < found.density <= 0.6 and found.error >= 0
    found.schedule.check_for(grid=GRID, layers=2, heads=2)
    assert found.schedule.shift == 3.0
    assert torch.equal(run(pipeline, steps=3), original), "the pipeline's own attention was not put back"
    assert found.densities == pytest.approx([fpsa.SlidingTile(window, TILE).density(GRID)
                                             for window in ("all", (2, 2, 1), (1, 1, 1))])
    assert found.errors[0].abs().max() < tolerance("kModelF32") < found.errors[1].mean() < found.errors[2].mean()
    # Before anything runs.
    monkeypatch.setattr(type(pipeline), "__call__", lambda *_, **__: pytest.fail("the pipeline ran"))
    with pytest.raises(ValueError, match="one of them"):
        fpsa.calibrate(pipeline, "x", density=0.5, max_error=0.1, **arguments)
    with pytest.raises(ValueError, match="per"):
        fpsa.calibrate(pipeline, "x", per="token", **arguments)
    with pytest.raises(ValueError, match="density.*1.5"):
        fpsa.calibrate(pipeline, "x", density=1.5, **arguments)
    with pytest.raises(ValueError, match="max_error.*-1"):
        fpsa.calibrate(pipeline, "x", max_error=-1.0, **arguments)
    with pytest.raises(ValueError, match="num_inference_steps.*2"):
        fpsa.calibrate(pipeline, "x", **dict(arguments, num_inference_steps=2))
    with pytest.raises(ValueError, match="prompts"):
        fpsa.calibrate(pipeline, [], **arguments)
