"""torch.compile and torch.export: the operators have shapes without data, and one graph serves every phase and layer."""

import pytest
import torch

import fpsattention as fpsa
from reference import GRID, TILE, TOKENS, tensors

SCHEDULE = fpsa.Schedule([fpsa.Phase(0.5, TILE, (1, 2, 2), "e4m3"), fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE)
MASK = fpsa.BlockMask.from_matrix(torch.eye(12, dtype=torch.bool), tile=TILE)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("arguments", [
    {}, dict(schedule=SCHEDULE.text, grid=GRID), dict(schedule=SCHEDULE.text, grid=GRID, phases=[1, 0], layer=3),
    dict(schedule=MASK._text("none", None), grid=GRID, scale=0.2)],
    ids=["dense", "schedule", "phases", "mask"])
def test_the_operator_passes_opcheck(arguments, save):
    q, k, v = tensors(2, TOKENS, 2, 16, requires_grad=save)
    mask = (MASK.row_begin, MASK.col) if "scale" in arguments else ()
    torch.library.opcheck(torch.ops.fpsa.scheduled_attention.default, (q, k, v, *mask), dict(arguments, save=save))
    heads_first = [x.detach().transpose(1, 2).contiguous().requires_grad_(save) for x in (q, k, v)]
    torch.library.opcheck(torch.ops.fpsa.scheduled_attention.default, (*heads_first, *mask),
                          dict(arguments, save=save, heads_first=True))


@pytest.mark.parametrize("bias", [False, True])
def test_the_linear_operator_passes_opcheck(bias):
    x, weight = torch.randn(3, 5, 16, requires_grad=True), torch.randn(8, 16, requires_grad=True)
    torch.library.opcheck(torch.ops.fpsa.e4m3_linear.default,
                          (x, weight, torch.randn(8, requires_grad=True) if bias else None))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_code_has_the_bits_and_gradients_of_eager_code(backend):
    if backend == "inductor":
        pytest.importorskip("torch._inductor")

    def attend(q, k, v):
        return fpsa.attention(q * 2, k, v, grid=GRID, pattern=fpsa.SlidingTile((1, 2, 2), TILE), quant="e4m3") + 1

    q, k, v = tensors(1, 2, TOKENS, 16, requires_grad=True)
    eager = attend(q, k, v)
    wanted = torch.autograd.grad(eager.square().sum(), [q, k, v])
    compiled = torch.compile(attend, fullgraph=True, backend=backend)(q, k, v)
    assert torch.equal(compiled, eager)
    for one, other in zip(torch.autograd.grad(compiled.square().sum(), [q, k, v]), wanted):
        torch.testing.assert_close(one, other)


def test_one_graph_serves_each_phase_and_any_layer():
    graphs = []

    def counting(module, inputs):
        graphs.append(module)
        return module

    @torch.compile(fullgraph=True, backend=counting)
    def attend(q, k, v, step, layer):
        return fpsa.attention(q, k, v, grid=GRID, schedule=SCHEDULE, step=step, steps=20, layer=layer)

    q, k, v = tensors(1, 2, TOKENS, 16)
    for step in range(20):
        for layer in range(3):
            expected = fpsa.attention(q, k, v, grid=GRID, schedule=SCHEDULE, step=step, steps=20, layer=layer)
            assert torch.equal(attend(q, k, v, step, layer), expected), (step, layer)
    assert len(graphs) <= 6, f"{len(graphs)} graphs for 20 steps in two phases and 3 layers"


def test_dynamic_batches_and_lengths_compile_once():
    graphs = []

    def counting(module, inputs):
        graphs.append(module)
        return module

    attend = torch.compile(lambda q, k, v: fpsa.attention(q, k, v), fullgraph=True, dynamic=True, backend=counting)
    for batch, tokens in [(2, 40), (3, 50), (4, 61)]:
        q, k, v = tensors(batch, 5, tokens, 16)  # no two sizes alike: a compiler takes those for one
        assert torch.equal(attend(q, k, v), fpsa.attention(q, k, v))
    assert len(graphs) == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 20, 50, 97])
def test_the_phase_of_a_step_is_the_same_while_compiling(monkeypatch, steps):
    schedules = [fpsa.Schedule.default(), SCHEDULE, fpsa.Schedule(
        [fpsa.Phase(1 / 3, TILE), fpsa.Phase(0.7, TILE), fpsa.Phase(0.9, TILE), fpsa.Phase(1.0, TILE)], tile=TILE)]
    expected = [[schedule.phase_at(step, steps) for step in range(steps)] for schedule in schedules]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert [[schedule.phase_at(step, steps) for step in range(steps)] for schedule in schedules] == expected


def test_export_keeps_the_operator():
    class Attend(torch.nn.Module):
        def forward(self, q, k, v):
            return fpsa.attention(q, k, v, grid=GRID, schedule=SCHEDULE, step=0, steps=2)

    q, k, v = tensors(1, 2, TOKENS, 16)
    program = torch.export.export(Attend(), (q, k, v))
    assert any("scheduled_attention" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(q, k, v), Attend()(q, k, v))
