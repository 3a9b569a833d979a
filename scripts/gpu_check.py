#!/usr/bin/env python3
"""`make gpu-check`: everything that needs an H100, H200 or H20, in under ten minutes, build included.

Builds the rooms that the kernels and operators need, with nvcc, g++, CMake and torch 2.11 to 2.13 and nothing else; walks
the table of attention cases on the card, plain and under compute-sanitizer's memcheck and racecheck where it is installed;
holds the operators against the CPU's; takes the figures of `fpsa bench attention --device cuda`. Writes one report, as JSON
and as text. Exit code 0 when everything passed, 1 when something failed, 2 when this machine cannot run it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Under the sanitizer a case takes minutes where it takes milliseconds without: one of each kind.
SANITIZED = {"memcheck": "D128", "racecheck": "window D128"}


class Unable(Exception):
    """This machine cannot run the check; the message says what is missing and what to do."""


def first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError:
        return ""
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return lines[-1].strip() if done.returncode == 0 and lines else ""


def find_tools(python: str) -> dict[str, str]:
    """Versions of what the check needs.

    Raises Unable, naming everything that is missing.
    """
    missing = []
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    found = {
        "nvcc": first_line([nvcc, "--version"]),
        "g++": first_line(["g++", "-dumpfullversion"]),
        "cmake": first_line(["cmake", "--version"]),
        "torch": first_line([python, "-c", "import torch; print(torch.__version__, 'CUDA', torch.version.cuda)"]),
    }
    for name, version in found.items():
        if not version:
            missing.append(f"{name} (for torch: in {python}; another one by --python)" if name == "torch" else name)
    if missing:
        raise Unable("expected nvcc 13, g++ 12 or newer, CMake 3.22 or newer and torch 2.11 to 2.13, missing: "
                     + ", ".join(missing) + "; install them")
    if found["torch"].endswith("None"):
        raise Unable(f"expected a build of torch with CUDA in {python}, got {found['torch']}; install one, or name another "
                     "interpreter with --python")
    return found


def find_card(text: str | None = None) -> str:
    """The first card of compute capability 9.0 that nvidia-smi lists (or `text` in its place).

    Raises Unable where there is none.
    """
    if text is None:
        smi = shutil.which("nvidia-smi")
        if not smi:
            raise Unable("expected a card of compute capability 9.0 (H100, H200, H20), found no NVIDIA driver (no "
                         "nvidia-smi); run this on a machine that has one")
        done = subprocess.run([smi, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=60)
        text = done.stdout if done.returncode == 0 else ""
    cards = [line.strip() for line in text.splitlines() if line.strip()]
    if not cards or cards[0].split(",")[-2].strip() != "9.0":
        raise Unable("expected a card of compute capability 9.0 (H100, H200, H20) as device 0, found "
                     + ("; ".join(cards) or "none") + "; choose one with CUDA_VISIBLE_DEVICES, or run this elsewhere")
    return cards[0]


class Check:
    """One run: its steps, how long each took, and what it said."""

    def __init__(self, build: pathlib.Path, python: str):
        self.build, self.python = build, python
        self.steps: list[dict] = []

    def step(self, name: str, command: list[str], timeout: float) -> subprocess.CompletedProcess | None:
        """Runs a command and notes it; None where it ran out of time."""
        print(f"== {name}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
            failure = "" if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip())[-2000:]
            if done.returncode != 0 and not failure:
                failure = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            done, failure = None, f"took longer than {timeout:.0f} s"
        except OSError as error:
            done, failure = None, str(error)
        self.steps.append({"name": name, "seconds": round(time.monotonic() - begin, 1), "passed": not failure,
                           **({"failure": failure} if failure else {})})
        if failure:
            print(f"   FAILED: {failure.splitlines()[-1]}", file=sys.stderr, flush=True)
        return done

    def compile(self) -> bool:
        torch_dir = first_line([self.python, "-c", "import torch, os; print(os.path.dirname(torch.__file__))"])
        jobs = str(os.cpu_count() or 2)
        options = {"CMAKE_BUILD_TYPE": "Release", "FPSA_CUDA": "ON", "FPSA_PROGRAM": "OFF", "FPSA_PYTHON": "OFF",
                   "FPSA_TESTS": "OFF", "FPSA_GPU_CHECK": "ON", "FPSA_TORCH_DIR": torch_dir}
        for name, command in (
            ("configure", ["cmake", "-S", str(ROOT), "-B", str(self.build)]
             + [f"-D{key}={value}" for key, value in options.items()]),
            ("build", ["cmake", "--build", str(self.build), "-j", jobs, "--target", "fpsa_gpu_cases", "fpsa_gpu_bench"]),
        ):
            self.step(name, command, 480)
            if not self.steps[-1]["passed"]:
                return False
        return True

    def binary(self, name: str) -> str:
        return str(self.build / "bin" / name)

    def cases(self) -> list[dict]:
        done = self.step("cases on the card", [self.binary("fpsa_gpu_cases")], 120)
        return parsed(done, "cases") or []

    def sanitizers(self) -> None:
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        for name, only in SANITIZED.items():
            if not os.path.exists(tool):
                self.steps.append({"name": name, "seconds": 0, "passed": False, "skipped": True,
                                   "failure": "compute-sanitizer is not installed"})
                continue
            self.step(name, [tool, "--tool", name, "--error-exitcode", "1", self.binary("fpsa_gpu_cases"), only], 150)

    def bench(self) -> dict:
        done = self.step("operators and figures", [self.binary("fpsa_gpu_bench"), "--python", self.python], 240)
        return {"operators": parsed(done, "operators") or [], "bench": parsed(done, "bench") or {}}


def parsed(done: subprocess.CompletedProcess | None, key: str):
    """A member of the JSON that a step printed; None where it printed none."""
    try:
        return json.loads(done.stdout)[key] if done else None
    except (json.JSONDecodeError, KeyError):
        return None


def report_of(machine: dict, steps: list[dict], cases: list[dict], measured: dict, seconds: float) -> dict:
    """The whole report; `passed` says whether every step, case and operator did. Figures below their aims do not fail it."""
    failed = [f"{step['name']}: {step.get('failure', '')}" for step in steps
              if not step["passed"] and not step.get("skipped")]
    for kind, items in (("case", cases), ("operator", measured["operators"])):
        failed += [f"{kind} {item['name']}: {item.get('failure', '')}" for item in items if not item["passed"]]
    if not cases:
        failed.append("cases: none ran")
    if not measured["operators"]:
        failed.append("operators: none ran")
    return {"passed": not failed, "failed": failed, "seconds": round(seconds, 1), "machine": machine, "steps": steps,
            "cases": cases, **measured}


def text_of(report: dict) -> str:
    """The report for people."""
    lines = [f"gpu-check: {'passed' if report['passed'] else 'FAILED'} in {report['seconds']:.0f} s"]
    lines += [f"  {failure}" for failure in report["failed"]] + [""]
    about = {**report["machine"], **report["bench"].get("about", {})}
    lines += [f"{name:<24}{value}" for name, value in about.items()] + [""]
    for step in report["steps"]:
        state = "skipped" if step.get("skipped") else "passed" if step["passed"] else "FAILED"
        lines.append(f"{step['name']:<24}{state:<9}{step['seconds']:>7.1f} s"
                     + (f"  {step['failure'].splitlines()[0]}" if step.get("skipped") else ""))
    for kind in ("cases", "operators"):
        items = report[kind]
        lines.append(f"{kind:<24}{sum(item['passed'] for item in items)} of {len(items)} passed")
    lines.append("")
    for item in report["bench"].get("figures", []):
        aim = f"at least {item['at_least']}" if "at_least" in item else f"at most {item['at_most']}"
        value = "no figure" if item["value"] is None else f"{item['value']:.4g}"
        note = item.get("why") or ("met" if item["met"] else "NOT MET")
        lines.append(f"{item['name']:<28}{value:>12}  aim {aim}: {note}")
    lines.append("")
    for item in report["bench"].get("cases", []):
        head = f"{item['group']:<10}{item['name']:<26}{item['kernel']:<46}"
        if "failure" in item:
            lines.append(f"{head}FAILED: {item['failure'].splitlines()[0]}")
            continue
        rate = item.get("operations_per_second")
        lines.append(f"{head}{1e3 * item['seconds']:10.3f} ms" + (f"{1e-12 * rate:9.0f} TFLOP/s" if rate else ""))
    return "\n".join(lines) + "\n"


def write(report: dict, folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Writes NAME.json and NAME.txt, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, text in ((".json", json.dumps(report, indent=2) + "\n"), (".txt", text_of(report))):
        path = folder / (name + suffix)
        temporary = path.with_suffix(path.suffix + ".part")
        temporary.write_text(text)
        temporary.replace(path)
        paths.append(path)
    return paths


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "gpu-check", help="build folder")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out", help="folder of the report")
    venv = ROOT / ".venv" / "bin" / "python"
    parser.add_argument("--python", default=str(venv) if venv.exists() else sys.executable, help="the one that has torch")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    try:
        card = find_card()
        machine = {"card": card, "host": platform.processor() or platform.machine(), "processors": os.cpu_count(),
                   **find_tools(options.python),
                   "commit": first_line(["git", "-C", str(ROOT), "rev-parse", "HEAD"]) or "unknown",
                   "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}
    except Unable as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    check = Check(options.build, options.python)
    cases, measured = [], {"operators": [], "bench": {}}
    if check.compile():
        cases = check.cases()
        measured = check.bench()
        check.sanitizers()
    report = report_of(machine, check.steps, cases, measured, time.monotonic() - begin)
    paths = write(report, options.out, "gpu-check")
    print(text_of(report), end="")
    print("written: " + ", ".join(str(path) for path in paths), file=sys.stderr)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
