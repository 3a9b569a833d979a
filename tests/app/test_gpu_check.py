"""scripts/gpu_check.py as far as no card is needed: what it refuses, what its report says, that the peers' program runs."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from program import FAILED, USAGE, assert_error

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a driver")
def test_without_a_card_it_says_so_and_writes_nothing(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--out", tmp_path / "out", "--build", tmp_path / "build"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert "gpu-check: expected a card of compute capability 9.0 (H100, H200, H20), found no NVIDIA driver" in done.stderr
    assert "run this on a machine that has one" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_only_a_card_of_capability_90_will_do(gpu_check):
    assert gpu_check.find_card("NVIDIA H200, 9.0, 580.65.06\n").startswith("NVIDIA H200")
    for text in ("", "NVIDIA A100, 8.0, 580.65.06\n", "NVIDIA B200, 10.0, 580.65.06\nNVIDIA H200, 9.0, 580.65.06\n"):
        with pytest.raises(gpu_check.Unable, match="expected a card of compute capability 9.0"):
            gpu_check.find_card(text)


def test_a_torch_without_cuda_is_refused(gpu_check):
    with pytest.raises(gpu_check.Unable, match="torch|nvcc"):
        gpu_check.find_tools("/no/such/python")


MEASURED = {
    "operators": [{"name": "forward", "passed": True}],
    "bench": {
        "about": {"device": "NVIDIA H200"},
        "figures": [{"name": "paper_speedup", "value": 12.5, "at_least": 11, "met": True},
                    {"name": "backward_tflops", "value": None, "at_least": 570, "met": False, "why": "no such case"}],
        "cases": [{"group": "dense", "name": "32K", "kernel": "ours", "seconds": 0.008, "operations_per_second": 1.1e15},
                  {"group": "dense", "name": "fa3", "kernel": "peer: fa3", "failure": "ImportError: none\nmore"}],
    },
}
STEPS = [{"name": "build", "seconds": 200.0, "passed": True},
         {"name": "racecheck", "seconds": 0, "passed": False, "skipped": True, "failure": "not installed"}]
CASES = [{"name": "window D128", "passed": True}]


def test_the_report_is_whole_in_both_forms(gpu_check, tmp_path):
    report = gpu_check.report_of({"card": "NVIDIA H200, 9.0, 580"}, STEPS, CASES, MEASURED, 321.0)
    assert report["passed"] and report["failed"] == []
    paths = gpu_check.write(report, tmp_path / "new", "gpu-check")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["gpu-check.json", "gpu-check.txt"]
    assert json.loads(paths[0].read_text()) == report
    text = paths[1].read_text()
    for part in ("gpu-check: passed in 321 s", "NVIDIA H200", "racecheck               skipped", "not installed",
                 "1 of 1 passed", "paper_speedup", "12.5  aim at least 11: met", "no figure", "no such case",
                 "1100 TFLOP/s", "FAILED: ImportError: none"):
        assert part in text, text


def test_one_failure_fails_the_report(gpu_check):
    bad = {"name": "x", "passed": False, "failure": "wrong rows"}
    for steps, cases, operators in (([{**bad, "seconds": 1.0}], CASES, MEASURED["operators"]),
                                    (STEPS, [bad], MEASURED["operators"]), (STEPS, CASES, [bad]), (STEPS, [], [bad]),
                                    (STEPS, CASES, [])):
        report = gpu_check.report_of({}, steps, cases, {"operators": operators, "bench": {}}, 1.0)
        assert not report["passed"] and report["failed"]
        assert gpu_check.text_of(report).startswith("gpu-check: FAILED")


def test_a_step_that_fails_or_hangs_is_noted(gpu_check, tmp_path):
    check = gpu_check.Check(tmp_path, sys.executable)
    check.step("fails", [sys.executable, "-c", "raise SystemExit('no card')"], 60)
    check.step("hangs", [sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    check.step("is not there", ["/no/such/program"], 60)
    assert [step["passed"] for step in check.steps] == [False] * 3
    assert check.steps[0]["failure"] == "no card" and "longer than" in check.steps[1]["failure"]


def test_the_peers_program_compiles_and_says_what_is_missing():
    source = (ROOT / "fpsa/bench/gpu_peers.py").read_text()
    compile(source, "gpu_peers.py", "exec")
    assert ")peer_program" not in source, "it is a raw string of C++"


def test_the_bench_on_a_gpu_refuses_in_words(fpsa):
    assert_error(fpsa("bench", "attention", "--device", "cuda"), FAILED, "bench: --device cuda: ")
    assert_error(fpsa("bench", "attention", "--device", "cuda", "--quick"), USAGE, "--device: with cuda expected none of")


def test_info_says_why_no_gpu_serves(fpsa):
    machine = json.loads(fpsa("info", "--json").stdout)
    assert machine["cuda_devices"] == [] or machine["cuda_devices"][0]["name"]
    runs = any(gpu["runs_kernels"] for gpu in machine["cuda_devices"])
    assert runs == (machine["cuda_reason"] == "")
