"""attention(): against float64, in both layouts, with gradients, in every dtype, and its errors."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch._subclasses.fake_tensor import FakeTensorMode

import fpsattention as fpsa
from reference import GRID, TILE, TOKENS, attend, rms, tensors, visible, worst

WINDOW = (1, 2, 2)
SLIDING = fpsa.SlidingTile(WINDOW, TILE)
KIND = {torch.float32: "kOpsF32", torch.bfloat16: "kOpsBf16"}
QUANT = {"e4m3": "kOpsE4m3", "int8": "kOpsInt8"}


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 2), heads=st.integers(1, 3), queries=st.integers(1, 70), keys=st.integers(1, 70),
       dim=st.integers(1, 10).map(lambda n: 8 * n), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
       layout=st.sampled_from(["BHLD", "BLHD"]), seed=st.integers(0, 2**16))
def test_dense_equals_float64_for_any_shape(tolerance, batch, heads, queries, keys, dim, dtype, layout, seed):
    torch.manual_seed(seed)
    order = (0, 1, 2, 3) if layout == "BHLD" else (0, 2, 1, 3)
    q = torch.randn(batch, heads, queries, dim).to(dtype)
    k, v = tensors(batch, heads, keys, dim, dtype=dtype, count=2)
    out, lse = fpsa.attention(*(x.permute(order).contiguous() for x in (q, k, v)), layout=layout, return_lse=True)
    expected, expected_lse = attend(q, k, v)
    assert out.dtype == dtype and out.permute(order).shape == q.shape
    assert worst(out.permute(order), expected, v) <= tolerance(KIND[dtype])
    assert lse.dtype == torch.float32 and lse.shape == (batch, heads, queries)
    assert (lse - expected_lse).abs().max() <= tolerance(KIND[dtype]) * expected_lse.abs().max().clamp_min(1)


@settings(max_examples=25, deadline=None)
@given(grid=st.tuples(*[st.integers(1, 7)] * 3), tile=st.tuples(*[st.integers(1, 4)] * 3),
       window=st.tuples(*[st.integers(1, 3)] * 3), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
       seed=st.integers(0, 2**16))
def test_sliding_tiles_equal_masked_float64_on_any_grid(tolerance, grid, tile, window, dtype, seed):
    torch.manual_seed(seed)
    pattern = fpsa.SlidingTile(window, tile)
    q, k, v = tensors(1, 2, grid[0] * grid[1] * grid[2], 16, dtype=dtype)
    out = fpsa.attention(q, k, v, grid=grid, pattern=pattern)
    assert worst(out, attend(q, k, v, visible(pattern, grid))[0], v) <= tolerance(KIND[dtype])


@pytest.mark.parametrize("quant", ["e4m3", "int8"])
@pytest.mark.parametrize("pattern", [fpsa.Dense(TILE), SLIDING, fpsa.Radial(TILE)], ids=["dense", "sta", "radial"])
def test_quantised_attention_is_near_float64(tolerance, pattern, quant):
    q, k, v = tensors(1, 3, TOKENS, 64)
    out = fpsa.attention(q, k, v, grid=GRID, pattern=pattern, quant=quant)
    expected, _ = attend(q, k, v, visible(pattern))
    # Q, K and V are rounded as well as P; the tolerances of the operators are for rows of many keys.
    assert worst(out, expected, v) <= 2 * tolerance(QUANT[quant])


@pytest.mark.parametrize("layout", ["BHLD", "BLHD"])
def test_strided_views_are_read_in_place_with_the_same_bits(layout):
    packed = torch.randn(2, TOKENS, 3, 4, 32)  # one projection for q, k and v
    q, k, v = (x if layout == "BLHD" else x.transpose(1, 2) for x in packed.unbind(2))
    assert not q.is_contiguous()
    assert torch.equal(fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING, layout=layout),
                       fpsa.attention(q.contiguous(), k.contiguous(), v.contiguous(), grid=GRID, pattern=SLIDING, layout=layout))


def test_masks_of_ones_own_may_differ_by_head_and_hide_whole_rows(tolerance):
    tiles = 2 * 2 * 3
    matrix = torch.rand(2, tiles, tiles) < 0.4
    matrix[1, 3] = False
    pattern = fpsa.BlockMask.from_matrix(matrix, tile=TILE)
    q, k, v = tensors(2, 2, TOKENS, 32)
    out, lse = fpsa.attention(q, k, v, grid=GRID, pattern=pattern, return_lse=True)
    mask = visible(pattern)
    assert worst(out, attend(q, k, v, mask)[0], v) <= tolerance("kOpsF32")
    hidden = ~mask[1].any(-1)
    assert hidden.any() and (out[:, 1, hidden] == 0).all() and (lse[:, 1, hidden] == -torch.inf).all()


@pytest.mark.parametrize("layout", ["BHLD", "BLHD"])
@pytest.mark.parametrize("pattern", [None, SLIDING, "mask"], ids=["dense", "sta", "mask"])
def test_gradients_equal_float64(tolerance, pattern, layout):
    if pattern == "mask":
        pattern = fpsa.BlockMask.from_matrix(torch.rand(12, 12) < 0.6, tile=TILE)
    order = (0, 1, 2, 3) if layout == "BHLD" else (0, 2, 1, 3)
    q, k, v = tensors(2, 2, TOKENS, 32, requires_grad=True)
    weight = torch.randn(2, 2, TOKENS, 32)
    out = fpsa.attention(*(x.permute(order) for x in (q, k, v)), grid=GRID, pattern=pattern, layout=layout)
    actual = torch.autograd.grad((out.permute(order) * weight).sum(), [q, k, v])
    expected_out, _ = attend(q, k, v, None if pattern is None else visible(pattern))
    expected = torch.autograd.grad((expected_out * weight).sum(), [q, k, v])
    for one, other in zip(actual, expected):
        assert rms(one, other) <= tolerance("kOpsGradRms")


def test_quantised_gradients_go_straight_through_the_casts(tolerance):
    q, k, v = tensors(1, 2, TOKENS, 32, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(1, 2, TOKENS, 32)
    out = fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING, quant="e4m3")
    actual = torch.autograd.grad((out.float() * weight).sum(), [q, k, v])
    expected_out, _ = attend(q, k, v, visible(SLIDING))
    expected = torch.autograd.grad((expected_out * weight).sum(), [q, k, v])
    for one, other in zip(actual, expected):
        assert rms(one, other) <= 2 * tolerance("kOpsE4m3")  # as above


def test_training_computes_the_bits_of_inference():
    q, k, v = tensors(1, 2, TOKENS, 32, requires_grad=True)
    for quant in ("none", "e4m3"):
        trained = fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING, quant=quant)
        with torch.no_grad():
            assert torch.equal(trained, fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING, quant=quant))


def test_a_schedule_gives_each_step_the_bits_of_its_pattern():
    schedule = fpsa.Schedule(
        [fpsa.Phase(0.5, TILE, WINDOW, "e4m3"), fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE,
        overrides=[fpsa.Override(layers=[1], window="all"), fpsa.Override(heads=[2], pattern="radial")])
    q, k, v = tensors(2, 3, TOKENS, 32)

    def scheduled(step, layer):
        return fpsa.attention(q, k, v, grid=GRID, schedule=schedule, step=step, steps=4, layer=layer)

    def one(pattern, quant):
        return fpsa.attention(q, k, v, grid=GRID, pattern=pattern, quant=quant)

    radial = one(fpsa.Radial(TILE), "e4m3")
    for step, layer, expected in [(0, 0, one(SLIDING, "e4m3")), (1, 0, one(SLIDING, "e4m3")),
                                  (1, 1, one(fpsa.Dense(TILE), "e4m3"))]:
        out = scheduled(step, layer)
        assert torch.equal(out[:, :2], expected[:, :2]) and torch.equal(out[:, 2], radial[:, 2])
    assert torch.equal(scheduled(2, 0)[:, :2], fpsa.attention(q, k, v)[:, :2])


def test_autocast_runs_in_its_type_and_keeps_gradients_in_the_inputs():
    q, k, v = tensors(1, 2, TOKENS, 32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, fpsa.attention(*(x.bfloat16() for x in (q, k, v)), grid=GRID, pattern=SLIDING))
    out.sum().backward()
    assert q.grad.dtype == torch.float32 and q.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_on_cuda_runs_in_its_type(dtype, monkeypatch):
    """On tensors without data, which a machine without a card has too; torch must not look for one, and its autograd,
    which does, is left to the CPU's test above: the cast is the same code."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with FakeTensorMode():
        q, k, v = (torch.empty(1, 2, TOKENS, 64, device="cuda") for _ in range(3))
        for arguments in ({}, dict(grid=GRID, pattern=SLIDING, quant="e4m3")):
            assert fpsa.attention(q, k, v, **arguments).dtype == torch.float32
            with torch.autocast("cuda", dtype=dtype):
                out, lse = fpsa.attention(q, k, v, return_lse=True, **arguments)
            assert (out.dtype, out.device, lse.dtype) == (dtype, q.device, torch.float32)
            with torch.autocast("cpu", dtype=torch.bfloat16):  # another device's
                assert fpsa.attention(q, k, v, **arguments).dtype == torch.float32


def test_every_operator_of_autocast_on_the_cpu_has_it_on_cuda():
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fpsa::")]
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    cast = {name for name in names if has(name, "AutocastCPU")}
    assert cast == {"fpsa::scheduled_attention"}
    assert cast == {name for name in names if has(name, "AutocastCUDA")}


@pytest.mark.parametrize("change, kind, words", [
    (dict(q=torch.zeros(1, 2, TOKENS, 30)), ValueError, ["head dim of q", "multiple of 8", "30"]),
    (dict(q=torch.zeros(1, 2, TOKENS, 32, dtype=torch.float16)), TypeError, ["q must be float32 or bfloat16", "Half", "cast"]),
    (dict(q=torch.zeros(2, TOKENS, 32)), ValueError, ["[B,H,L,D]", "3 dimensions"]),
    (dict(k=torch.zeros(1, 1, TOKENS, 32)), ValueError, ["k must have the batch, heads and head dim of q", "(1, 1, 32)"]),
    (dict(k=torch.zeros(1, 2, TOKENS, 32, dtype=torch.bfloat16)), TypeError, ["k must have q's dtype"]),
    (dict(q=[1.0]), TypeError, ["q: expected a torch.Tensor", "list"]),
    (dict(grid=(4, 6, 9)), ValueError, ["q must have the 216 tokens of grid 4x6x9", "240"]),
    (dict(grid=(4, 60)), ValueError, ["grid: expected (t, y, x)", "(4, 60)"]),
    (dict(grid=(4, 6, 10.0)), TypeError, ["grid: expected an integer", "10.0"]),
    (dict(layer=0.5), TypeError, ["layer: expected an integer", "0.5"]),
    (dict(scale="1"), TypeError, ["scale: expected a number", "'1'"]),
    (dict(grid=240), TypeError, ["grid: expected (t, y, x)", "240"]),
    (dict(granularity=(4, 4)), ValueError, ["granularity: expected (t, y, x)", "(4, 4)"]),
    (dict(grid=None), ValueError, ["grid", "pass grid="]),
    (dict(layout="LBHD"), ValueError, ["layout", "BHLD", "LBHD"]),
    (dict(quant="fp4"), ValueError, ["quant", "e4m3", "fp4"]),
    (dict(granularity=(3, 4, 4)), ValueError, ["granularity", "3"]),
    (dict(pattern=None, quant="e4m3"), ValueError, ["quantisation needs a grid"]),
    (dict(pattern="sta"), TypeError, ["pattern", "SlidingTile", "str"]),
    (dict(schedule=fpsa.Schedule.default()), ValueError, ["pattern and schedule", "got both"]),
    (dict(pattern=None, schedule="fps.toml"), TypeError, ["schedule", "Schedule.load"]),
    (dict(pattern=None, schedule=fpsa.Schedule.default()), ValueError, ["step and steps", "3 phases"]),
    (dict(pattern=None, schedule=fpsa.Schedule.default(), step=4, steps=4), ValueError, ["step", "4"]),
    (dict(scale=float("nan")), ValueError, ["scale must be finite"]),
    (dict(pattern=fpsa.BlockMask(torch.tensor([0, 1]), torch.tensor([0]), tile=TILE)), ValueError, ["row_begin", "12"]),
], ids=lambda value: None)
def test_errors_name_argument_expectation_and_value(change, kind, words):
    q, k, v = tensors(1, 2, TOKENS, 32)
    arguments = dict(dict(q=q, k=k, v=v, grid=GRID, pattern=SLIDING), **change)
    with pytest.raises(kind) as error:
        fpsa.attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert "Exception raised from" not in str(error.value)


def test_gradients_that_do_not_exist_are_errors():
    q, k, v = tensors(1, 2, TOKENS, 32, requires_grad=True)
    with pytest.raises(ValueError, match="INT8 attention has no gradients"):
        fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING, quant="int8")
    out, lse = fpsa.attention(q, k, v, return_lse=True)
    assert out.requires_grad and not lse.requires_grad
    with pytest.raises(RuntimeError):
        torch.autograd.grad(torch.autograd.grad(out.sum(), q, create_graph=True)[0].sum(), k)
    unsaved = torch.ops.fpsa.scheduled_attention(q, k, v)[0]
    with pytest.raises(RuntimeError, match="save=True"):
        unsaved.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_e4m3_linear_layer_is_the_linear_layer_of_quantised_operands(tolerance, dtype):
    x, weight, bias = torch.randn(2, 50, 48).to(dtype), torch.randn(40, 48).to(dtype), torch.randn(40).to(dtype)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]

    def quantised(t):
        scale = t.float().abs().amax(-1, keepdim=True) / 448
        return (t.float() / scale).to(torch.float8_e4m3fn).float() * scale

    y = fpsa.e4m3_linear(*leaves)
    expected = torch.nn.functional.linear(quantised(x), quantised(weight), bias.float())
    assert y.dtype == dtype and rms(y, expected) <= tolerance("kE4m3LinearRms")
    d_y = torch.randn_like(y)
    grads = torch.autograd.grad(y, leaves, d_y)
    rows = d_y.flatten(0, 1).float()
    for grad, wanted in zip(grads, (d_y.float() @ quantised(weight), rows.T @ quantised(x).flatten(0, 1), rows.sum(0))):
        assert grad.dtype == dtype and rms(grad, wanted) <= tolerance("kE4m3LinearRms")
