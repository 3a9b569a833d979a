"""`fpsa bench` from outside: what it reports, what it refuses, and that a broken peer is not hidden."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from test_cli import FAILED, USAGE, assert_error, outputs

TINY = pathlib.Path(__file__).resolve().parents[2] / "models" / "tiny"
pytestmark = pytest.mark.alone

SUMMARY = [
    "isa", "dense_bf16_peak_fraction", "dense_bf16_vs_torch_best", "dense_bf16_vs_torch_shipped", "e4m3_vs_bf16",
    "int8_peak_fraction", "sparse_efficiency", "paper_case_vs_torch_best", "sparse_backward_vs_torch_best",
    "prepass_share", "ragged_waste", "threads_scaling", "peak_threads_scaling",
]


@pytest.fixture(scope="module")
def quick(binary, tmp_path_factory):
    """One whole --quick run on two threads: the finished process and its JSON."""
    folder = tmp_path_factory.mktemp("bench")
    done = subprocess.run([binary, "bench", "attention", "--quick", "--threads", "2", "--json", "bench.json"], cwd=folder,
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outputs(folder) == ["bench.json"]
    return done, json.loads((folder / "bench.json").read_text())


def test_the_backwards_figure_is_that_of_the_primary_case_and_the_papers_is_in_its_case(quick):
    _, report = quick
    cases = [case for case in report["cases"] if case["group"] == "backward"]
    sparse = [case for case in cases if case["density"] < 1]
    assert len(sparse) == 2 and sparse[0]["tokens"] != sparse[1]["tokens"]
    for case in sparse:
        torch = min(other["seconds"] for other in cases
                    if other["tokens"] == case["tokens"] and other["kernel"].startswith("torch"))
        assert case["vs_torch_best"] == pytest.approx(torch / case["seconds"])
    assert report["summary"]["sparse_backward_vs_torch_best"] == sparse[0]["vs_torch_best"]


def test_a_peer_says_what_went_wrong_in_one_line(binary, tmp_path):
    request = {"prepare": {"grid": [1, 1, 1], "heads": -1, "dim": 8, "heads_first": False, "backward": False, "rows": []}}
    done = subprocess.run([binary, "bench-peer", "--threads", "1"], input=json.dumps(request) + "\n", cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)
    error = json.loads(done.stdout.splitlines()[1])["error"]
    assert "negative dimension" in error and "Exception raised from" not in error and "frame #" not in error


def selected(report, dtype):
    return next(name for name in report["machine"]["kernels"] if name.startswith(f"attention_fwd_{dtype}_"))


def test_the_summary_has_exactly_its_keys_and_each_has_a_number_or_a_reason(quick):
    _, report = quick
    assert sorted(report["summary"]) == sorted(SUMMARY)
    for key, value in report["summary"].items():
        if value is None:
            assert report["summary_notes"][key], key
        elif key == "isa":
            assert value == report["machine"]["isa"]
        else:
            assert isinstance(value, float) and value >= 0, key
    # What every build can measure.
    for key in ("dense_bf16_vs_torch_best", "dense_bf16_vs_torch_shipped", "e4m3_vs_bf16", "sparse_efficiency",
                "paper_case_vs_torch_best", "sparse_backward_vs_torch_best", "prepass_share", "threads_scaling"):
        assert report["summary"][key] > 0, report["summary_notes"]
    assert report["summary"]["dense_bf16_vs_torch_best"] <= report["summary"]["dense_bf16_vs_torch_shipped"]
    if "avx512bf16" in report["machine"]["isa_levels"]:
        assert report["summary"]["int8_peak_fraction"] > 0
    if "avx2" in report["machine"]["isa_levels"]:
        assert report["summary"]["dense_bf16_peak_fraction"] > 0 and report["summary"]["peak_threads_scaling"] > 0


def test_every_case_has_its_fields(quick):
    _, report = quick
    assert report["extent"] == "quick" and report["threads"] == 2 and report["failures"] == []
    groups = {case["group"] for case in report["cases"]}
    assert groups >= {"machine", "waste", "kernels", "dense", "scaling", "sparse", "prepass", "paper", "backward"}
    names = [case["name"] for case in report["cases"]]
    assert len(names) == len(set(names))
    for case in report["cases"]:
        assert "failure" not in case, case
        if case["group"] == "waste":
            assert 0 <= case["waste"] < 1
            assert case["density"] < 1 or case["waste"] <= case["waste_bound"] < 1
            continue
        assert case["seconds"] > 0 and case["samples"] and case["spread"] >= 0, case
        assert isinstance(case["disturbed"], bool) and isinstance(case["rejected"], int), case
        assert min(case["samples"]) <= case["seconds"] <= max(case["samples"]), case
        if case["group"] == "kernels" and case["isa"] != "reference":
            assert 0 <= case["error"] < (0.06 if case["format"] == "int8" else 0.02), case
        if case["group"] in ("dense", "sparse", "paper"):
            assert 0 <= case["error"] < (0.06 if case["format"] == "int8" else 0.02), case
            assert case["operations"] > 0 and 0 < case["density"] <= 1, case
        if case["group"] == "backward" and case["kernel"].startswith("attention_bwd_"):
            assert 0 <= case["error"] < 0.02, case
        if case["group"] == "sparse" and case["density"] < 1:
            assert case["efficiency"] > 0
        if case["group"] == "kernels" and case["isa"] != "reference":
            assert case["vs_reference"] > 0 and case["vs_lower"] > 0


def test_the_kernels_group_walks_the_whole_table(quick):
    _, report = quick
    timed = {case["kernel"] for case in report["cases"] if case["group"] == "kernels"}
    for level in report["machine"]["isa_levels"]:
        assert any(name.endswith("_" + level) for name in timed), level
    assert {selected(report, dtype) for dtype in ("f32", "bf16", "e4m3", "int8")} <= timed


def test_the_text_names_machine_kernels_and_torch(quick):
    done, report = quick
    for part in (report["machine"]["processor"], "torch " + report["machine"]["torch"], "ISA", selected(report, "bf16"),
                 "summary", "torch as shipped"):
        assert part in done.stdout, part
    for key in SUMMARY:
        assert key in done.stdout, key


@pytest.mark.parametrize("arguments, words", [
    (("attention", "--threads", "-1"), "--threads: expected a whole number from 0 to 1024, got '-1'"),
    (("attention", "--threads", "two"), "--threads"),
    (("attention", "--only", "dens"), "--only: expected machine|"),
    (("attention", "--isa", "sse9"), "isa: expected one of auto, reference"),
    (("attention", "--quick", "--full"), "at most one of --quick and --full"),
    (("attention", "--quik"), "did you mean --quick"),
    (("conv",), "conv: expected a command, got an unknown one; all: fpsa bench --help"),
    (("--isa=x",), "got an unknown one; it goes after 'fpsa bench attention'; all: fpsa bench --help"),
    ((), "expected what to measure: attention or train"),
    (("train",), "--recipe: expected a TOML file, got nothing"),
    (("train", "--steps", "0"), "--steps: expected a whole number from 1 to 1000, got '0'"),
])
def test_bad_flags_are_named(fpsa, tmp_path, arguments, words):
    assert_error(fpsa("bench", *arguments), USAGE, words)
    assert outputs(tmp_path) == []


def test_the_help_lists_levels_and_ranges(fpsa):
    done = fpsa("bench", "attention", "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert "auto|reference|avx2|avx512|avx512bf16|amx" in text and "0 to 1024" in text


def test_one_group_alone_says_what_it_left_out(fpsa, tmp_path):
    done = fpsa("bench", "attention", "--quick", "--only", "waste", "--threads", 1, "--json", "waste.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "waste.json").read_text())
    assert {case["group"] for case in report["cases"]} == {"waste"}
    assert report["summary"]["ragged_waste"] >= 0
    assert report["summary"]["dense_bf16_vs_torch_best"] is None
    assert "--only" in report["summary_notes"]["dense_bf16_vs_torch_best"]


def test_a_forced_level_is_the_one_that_is_measured(fpsa, tmp_path):
    done = fpsa("bench", "attention", "--quick", "--only", "sparse", "--isa", "reference", "--json", "reference.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "reference.json").read_text())
    assert report["summary"]["isa"] == "reference"
    assert all(case["kernel"].endswith("_reference") for case in report["cases"])


def test_places_are_checked_before_the_work_and_an_old_file_survives(fpsa, binary, tmp_path):
    started = time.monotonic()
    assert_error(fpsa("bench", "attention", "--json", "missing/bench.json"), FAILED, "--json:", "missing")
    assert time.monotonic() - started < 30, "the check came after the work"
    (tmp_path / "bench.json").write_text("old")
    process = subprocess.Popen([binary, "bench", "attention", "--json", "bench.json"], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while "machine/peak" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.communicate()
    assert outputs(tmp_path) == ["bench.json"] and (tmp_path / "bench.json").read_text() == "old"


def children(process):
    path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(text) for text in path.read_text().split()]


def test_a_peer_that_dies_is_reported_and_fails_the_run(binary, tmp_path):
    process = subprocess.Popen([binary, "bench", "attention", "--quick", "--only", "dense", "--json", "bench.json"],
                               cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not (found := children(process)):
            time.sleep(0.002)
        assert found, "no peer was started"
        os.kill(found[0], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == FAILED, stdout + stderr
    assert "fpsa: error: bench:" in stderr and "signal 9" in stdout
    report = json.loads((tmp_path / "bench.json").read_text())
    failed = [case for case in report["cases"] if "failure" in case]
    assert failed and all("signal 9" in case["failure"] and "torch" in case["kernel"] for case in failed)
    assert report["failures"]
    assert report["summary"]["dense_bf16_vs_torch_shipped"] is None
    assert report["summary_notes"]["dense_bf16_vs_torch_shipped"]
    assert report["summary"]["e4m3_vs_bf16"] > 0, "our own figures stay"


def test_without_the_preloaded_library_the_best_peer_is_a_failure_not_a_guess(binary, tmp_path):
    alone = tmp_path / "elsewhere" / "bin"
    alone.mkdir(parents=True)
    shutil.copy(binary, alone / "fpsa")
    done = subprocess.run([alone / "fpsa", "bench", "attention", "--quick", "--only", "dense"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=240)
    if "GenuineIntel" in pathlib.Path("/proc/cpuinfo").read_text():
        assert done.returncode == 0
        return
    assert done.returncode == FAILED
    assert "libfpsa_mkl_vendor.so" in done.stdout and "fpsa: error: bench:" in done.stderr


RECIPE = """
kind = "dit"
seed = 3
attention = "fps"
schedule = "fps.toml"
num_inference_steps = 8
[report]
preview_minutes = 0
[[stage]]
frames = 5
height = 64
width = 64
batch = 1
micro_batches = 2
density_steps = 2
steps = 2
learning_rate = [1e-4, 1e-4]
"""
SCHEDULE = """
version = 1
tile = [1, 2, 2]
shift = 5.0
[[phase]]
until = 1.0
granularity = [1, 2, 2]
window = [1, 1, 1]
quant = "e4m3"
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "fps.toml").write_text(SCHEDULE)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def test_a_training_step_is_timed_dense_and_with_the_schedule_in_turns(fpsa, recipe, tmp_path):
    done = fpsa("bench", "train", "--recipe", recipe, "--model", TINY, "--weights", TINY, "--steps", 2,
                "--threads", 1, "--json", "steps.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "steps.json").read_text())
    dense, sparse = report["cases"]
    assert (dense["attention"], dense["density"]) == ("dense", 1)
    # 2x4x4 tokens in 1x2x2 tiles: 2x2x2 tiles, each of which sees itself. The stage's wider first windows do not count.
    assert (sparse["attention"], sparse["density"]) == ("fps", pytest.approx(1 / 8))
    for case in report["cases"]:
        assert len(case["steps"]) == 2 and all(0 < step["forward_seconds"] and 0 < step["backward_seconds"]
                                               for step in case["steps"])
        totals = [step["forward_seconds"] + step["backward_seconds"] for step in case["steps"]]
        assert case["seconds"] == pytest.approx(sum(totals) / 2)
    assert report["speed_up"] == pytest.approx(dense["seconds"] / sparse["seconds"])
    for words in ("5x64x64, 32 tokens, 2 x 1 clips", "as fast as dense", "peak memory", "gradient checkpointing off"):
        assert words in done.stdout, done.stdout
    assert "teacher" not in done.stdout and report["teacher_left_out"] is False
    assert outputs(tmp_path) == ["fps.toml", "recipe.toml", "steps.json"]


def test_the_density_of_steps_in_two_phases_is_the_mean_over_their_batches(fpsa, recipe, tmp_path):
    # Early steps see all tiles, late ones an eighth; which phase a batch is in follows from its noise level.
    phase = SCHEDULE[SCHEDULE.index("[[phase]]"):]
    (tmp_path / "fps.toml").write_text(SCHEDULE.replace("[[phase]]", phase.replace("1.0", "0.8").replace(
        "[1, 1, 1]", "[2, 2, 2]") + "[[phase]]"))
    done = fpsa("bench", "train", "--recipe", recipe, "--model", TINY, "--steps", 6, "--attention", "fps", "--threads", 1,
                "--json", "steps.json")
    assert done.returncode == 0, done.stderr
    case, = json.loads((tmp_path / "steps.json").read_text())["cases"]
    densities = [step["density"] for step in case["steps"]]
    batches = {(1 + 1) / 2, (1 + 1 / 8) / 2, (1 / 8 + 1 / 8) / 2}
    assert all(any(density == pytest.approx(mean) for mean in batches) for density in densities), densities
    assert any(density == pytest.approx((1 + 1 / 8) / 2) for density in densities), "no step has batches of both phases"
    assert len(set(densities)) > 1 and case["density"] == pytest.approx(sum(densities) / 6)


def test_the_teacher_of_a_recipe_is_left_out_of_its_steps_and_that_is_said(fpsa, recipe, tmp_path):
    recipe.write_text(RECIPE.replace("num_inference_steps", "distill_weight = 0.1\nnum_inference_steps"))
    done = fpsa("bench", "train", "--recipe", recipe, "--model", TINY, "--steps", 1, "--threads", 1, "--json", "steps.json")
    assert done.returncode == 0, done.stderr
    assert "without the teacher of distill_weight 0.1" in done.stdout
    assert json.loads((tmp_path / "steps.json").read_text())["teacher_left_out"] is True


def test_each_attention_has_a_peak_of_its_own_that_shows_gradient_checkpointing(fpsa, recipe, tmp_path):
    recipe.write_text(RECIPE.replace("frames = 5", "frames = 17").replace("height = 64", "height = 128")
                      .replace("width = 64", "width = 128").replace("batch = 1", "batch = 8", 1))

    def peaks(*flags):
        done = fpsa("bench", "train", "--recipe", recipe, "--model", TINY, "--latents", "latents", "--steps", 1,
                    "--threads", 1, "--json", "steps.json", *flags)
        assert done.returncode == 0, done.stderr
        return {case["attention"]: case["peak_rss_bytes"] for case in
                json.loads((tmp_path / "steps.json").read_text())["cases"]}

    without, alone = peaks("--gradient-checkpointing", "off"), peaks("--gradient-checkpointing", "off", "--attention", "fps")
    assert alone["fps"] == pytest.approx(without["fps"], rel=0.1), "the other attention's memory is in it"
    with_it = peaks("--gradient-checkpointing", "on")
    for attention in ("dense", "fps"):
        assert with_it[attention] < 0.8 * without[attention], (with_it, without)


def test_latents_beside_a_recipes_own_videos_are_refused(fpsa, recipe, tmp_path):
    recipe.write_text(RECIPE + '[data]\nfolder = "videos"\n')
    assert_error(fpsa("bench", "train", "--recipe", recipe, "--latents", "encoded"), USAGE, "--latents: expected none",
                 "[data]", "got encoded", "leave it out")
    assert outputs(tmp_path) == ["fps.toml", "recipe.toml"]


def test_an_arm_that_cannot_start_says_why_and_leaves_nothing(fpsa, recipe, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    assert_error(fpsa("bench", "train", "--recipe", recipe, "--model", "nowhere"), FAILED, "nowhere")
    assert outputs(tmp_path / "temporary") == []
    monkeypatch.setenv("TMPDIR", str(tmp_path / "no folder"))
    assert_error(fpsa("bench", "train", "--recipe", recipe, "--model", TINY), FAILED, "no folder")


def test_a_training_step_needs_a_schedule_and_a_stage(fpsa, recipe, tmp_path):
    assert_error(fpsa("bench", "train", "--recipe", recipe, "--stage", 2), USAGE, "--stage: expected at most 1")
    recipe.write_text(RECIPE.replace('attention = "fps"', "").replace('schedule = "fps.toml"', "")
                      .replace("density_steps = 2", ""))
    assert_error(fpsa("bench", "train", "--recipe", recipe), USAGE, "--attention: expected dense", "no schedule")
