"""Schedules and patterns as Python objects over the C++ ones."""

import copy
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import fpsattention as fpsa
from reference import GRID, TILE, visible

EXTENT = st.integers(1, 9)
TRIPLE = st.tuples(EXTENT, EXTENT, EXTENT)
WINDOW = st.one_of(st.just("all"), st.tuples(*[st.one_of(EXTENT, st.just("all"))] * 3))
QUANT = st.sampled_from(["none", "e4m3", "int8"])


@st.composite
def schedules(draw):
    tile = draw(TRIPLE)
    untils = sorted(draw(st.sets(st.integers(1, 99), min_size=0, max_size=3)))
    phases = [fpsa.Phase(until / 100, [n * draw(st.integers(1, 3)) for n in tile], draw(WINDOW), draw(QUANT))
              for until in [*untils, 100]]
    overrides = [fpsa.Override(layers=draw(st.sampled_from([None, [0], [1, (3, 5)]])),
                               heads=draw(st.sampled_from([None, [(0, 2)]])),
                               phases=draw(st.sampled_from([None, [1], [(1, len(phases))]])),
                               window=draw(WINDOW), quant=draw(st.sampled_from([None, "none", "e4m3"])))
                 for _ in range(draw(st.integers(0, 3)))]
    return fpsa.Schedule(phases, tile=tile, shift=draw(st.floats(1, 9)), overrides=overrides,
                         feed_forward=draw(st.sampled_from(["none", "e4m3"])))


@settings(max_examples=80, deadline=None)
@given(schedules())
def test_text_pickle_and_copy_give_the_same_schedule(schedule):
    for other in (fpsa.Schedule.parse(schedule.text), pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule),
                  fpsa.Schedule(schedule.phases, tile=schedule.tile, shift=schedule.shift,
                                feed_forward=schedule.feed_forward, overrides=schedule.overrides)):
        assert other == schedule and hash(other) == hash(schedule) and other.text == schedule.text
    assert eval(repr(schedule), {"Schedule": fpsa.Schedule}) == schedule


def test_files_are_read_and_written_whole(tmp_path):
    schedule = fpsa.Schedule.default()
    schedule.save(tmp_path / "schedule.toml")
    assert fpsa.Schedule.load(tmp_path / "schedule.toml") == schedule
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.toml"]


def test_settings_follow_phases_and_overrides():
    schedule = fpsa.Schedule([fpsa.Phase(0.5, (2, 4, 4), (1, 2, 2)), fpsa.Phase(1.0, (4, 4, 4), quant="none")], tile=TILE,
                             overrides=[fpsa.Override(layers=[2], heads=[(1, 3)], phases=[1], window=(1, 1, "all"))])
    assert [schedule.phase_at(step, 4) for step in range(4)] == [0, 0, 1, 1]
    assert schedule.step_of_level(1.0) == 0 and schedule.step_of_level(0.0, 20) == 19
    assert schedule.setting(0, 0, 0) == dict(pattern="sta", granularity=(2, 4, 4), window=(1, 2, 2), quant="e4m3", override=None)
    assert schedule.setting(0, 2, 3)["window"] == (1, 1, "all") and schedule.setting(0, 2, 3)["override"] == 1
    assert schedule.setting(1, 2, 3)["window"] == ("all",) * 3 and schedule.setting(1, 2, 3)["quant"] == "none"


@pytest.mark.parametrize("make, kind, words", [
    (lambda: fpsa.Schedule([]), ValueError, ["phase"]),
    (lambda: fpsa.Schedule([1.0]), TypeError, ["phases: expected a list of fpsattention.Phase", "1.0"]),
    (lambda: fpsa.Schedule(None), TypeError, ["phases", "None"]),
    (lambda: fpsa.BlockMask("x", [0], tile=TILE), TypeError, ["row_begin", "'x'"]),
    (lambda: fpsa.Schedule([fpsa.Phase(0.5, TILE)], tile=TILE), ValueError, ["until", "0.5"]),
    (lambda: fpsa.Schedule([fpsa.Phase(1.0, (3, 4, 4))], tile=TILE), ValueError, ["granularity", "multiple"]),
    (lambda: fpsa.Phase(1.0, (2, 4)), ValueError, ["granularity", "(2, 4)"]),
    (lambda: fpsa.Phase(1.0, (2, 4, 4.5)), TypeError, ["granularity", "4.5"]),
    (lambda: fpsa.Phase(1.0, "all"), TypeError, ["granularity"]),
    (lambda: fpsa.Phase(1.0, TILE, "most"), TypeError, ["window", "most"]),
    (lambda: fpsa.Phase(1.0, TILE, "all", "fp4"), ValueError, ["quant", "fp4"]),
    (lambda: fpsa.Override(layers=3), TypeError, ["layers", "3"]),
    (lambda: fpsa.Schedule.parse("version = 1\ntile = [1, 2]\n", "x.toml"), ValueError, ["x.toml:2: tile"]),
    (lambda: fpsa.Schedule.parse("version = 1\ncolour = 3\n", "x.toml"), ValueError, ["x.toml:2", "colour"]),
    (lambda: fpsa.Schedule.default().phase_at(5, 5), ValueError, ["step", "5"]),
    (lambda: fpsa.Schedule.default().check_for(grid=(0, 1, 1)), ValueError, ["grid"]),
    (lambda: fpsa.Schedule.default().check_for(layers=2), ValueError, ["both or none"]),
    (lambda: fpsa.SlidingTile((1, 2), TILE), ValueError, ["window", "(1, 2)"]),
    (lambda: fpsa.SlidingTile("most", TILE), TypeError, ["window", "most"]),
    (lambda: fpsa.Dense(3), TypeError, ["tile", "(t, y, x)", "3"]),
    (lambda: fpsa.Schedule([fpsa.Phase(1.0, TILE)], tile=TILE, overrides=[fpsa.Override(heads=[9], window="all")]).check_for(
        layers=2, heads=4), ValueError, ["override 1", "9"]),
    (lambda: fpsa.SlidingTile((0, 1, 1), TILE), ValueError, ["window", "0"]),
    (lambda: fpsa.SlidingTile((1, 1, 1), (2, -4, 4)), ValueError, ["tile", "-4"]),
    (lambda: fpsa.BlockMask.from_matrix(torch.ones(3, 3), tile=TILE), TypeError, ["visible", "bool"]),
])
def test_errors_have_the_texts_of_the_program(make, kind, words):
    with pytest.raises(kind) as error:
        make()
    for word in words:
        assert word in str(error.value), str(error.value)


def test_explain_names_kernel_pattern_and_reason():
    schedule = fpsa.Schedule([fpsa.Phase(0.5, TILE, (1, 2, 2)), fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE,
                             overrides=[fpsa.Override(layers=[1], heads=[0], window="all", phases=[1])])
    entries = schedule.explain(GRID, steps=4, layers=2, heads=3, head_dim=64)
    assert [(e["step"], e["layer"]) for e in entries] == [(s, l) for s in range(4) for l in range(2)]
    first, second, last = entries[0], entries[1], entries[-1]
    assert "attention_fwd_e4m3" in first["kernel"] and "quantize_e4m3" in first["coder"]
    assert first["density"] == pytest.approx(fpsa.SlidingTile((1, 2, 2), TILE).density(GRID))
    assert "heads 0-0: dense" in second["pattern"] and "override 1" in second["reason"]
    assert second["density"] == pytest.approx((1 + 2 * first["density"]) / 3)
    assert last["pattern"] == "dense" and "phase 2 of 2" in last["reason"] and last["granularity"] == "-"


def test_explain_names_the_kernels_of_cuda_for_a_cuda_device_and_says_where_they_cannot_run():
    schedule = fpsa.Schedule([fpsa.Phase(0.5, TILE, (1, 2, 2)), fpsa.Phase(1.0, TILE, "all", "none")], tile=TILE)

    def kernels(dtype, head_dim=64, schedule=schedule):
        entries = schedule.explain(GRID, steps=2, layers=1, heads=3, head_dim=head_dim, dtype=dtype, device="cuda:0")
        return [(entry["kernel"], entry["coder"], entry["isa"]) for entry in entries], [entry["reason"] for entry in entries]

    coded = ("attention_fwd_e4m3_sm90a", "quantize_sm90a", "sm90a")
    names, reasons = kernels(torch.bfloat16)
    assert names == [coded, ("attention_fwd_bf16_sm90a", "", "sm90a")]
    why = fpsa._native.cuda_refusal(0)
    for reason in reasons:
        assert ("what would run on cuda:0, not here: " + why in reason) if why else ("not here" not in reason), reason
    assert kernels(torch.float16)[0] == [coded, ("attention_fwd_f16_sm90a", "", "sm90a")]
    names, reasons = kernels(torch.float32)  # the products of F32 are not theirs
    assert names == [coded, ("none", "", "none")] and "refused on cuda:0: dtype: expected bfloat16" in reasons[1]
    names, reasons = kernels(torch.bfloat16, head_dim=80)
    assert {name for name, _, _ in names} == {"none"} and "head_dim: expected 64 or 128" in reasons[0]
    with pytest.raises(ValueError, match="device: expected cpu or cuda, got meta"):
        schedule.explain(GRID, steps=2, layers=1, heads=3, head_dim=64, device="meta")
    with pytest.raises(ValueError, match="dtype: expected float32 or bfloat16, or float16 on CUDA, got Half"):
        schedule.explain(GRID, steps=2, layers=1, heads=3, head_dim=64, dtype=torch.float16)


@pytest.mark.parametrize("pattern", [fpsa.Dense(TILE), fpsa.SlidingTile((1, 2, 2), TILE), fpsa.Radial(TILE),
                                     fpsa.SlidingTile("all", TILE)], ids=repr)
def test_density_is_the_share_of_visible_pairs(pattern):
    mask = visible(pattern)
    assert pattern.density(GRID) == pytest.approx(mask.float().mean().item())
    assert torch.equal(visible(fpsa.BlockMask.from_matrix(pattern.mask(GRID).matrix(12), tile=TILE)), mask)


def test_the_radial_pattern_takes_other_constants():
    grid = (8, 16, 16)
    assert torch.equal(fpsa.Radial.with_options(grid, TILE).col, fpsa.Radial(TILE).mask(grid).col)
    narrow = fpsa.Radial.with_options(grid, TILE, decay=0.05, min_band=8)
    assert narrow.density(grid) < fpsa.Radial(TILE).density(grid)
    with pytest.raises(ValueError, match="decay"):
        fpsa.Radial.with_options((8, 8, 8), decay=2.0)
