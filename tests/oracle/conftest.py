"""What the parity tests share: running the engine's parity binary and comparing tensors.

Every test builds a module of diffusers or transformers with random weights, writes its tensors, runs one case of
fpsa_parity (tests/tools) on them and compares. The folder of the binary comes from FPSA_BIN_DIR. Tolerances are the
constants of tests/tolerance.h; there are none in the Python files.
"""

import json
import os
import pathlib
import re
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ.get("FPSA_BIN_DIR", ROOT / "build" / "release" / "tests"))


def read_tolerances():
    text = (ROOT / "tests" / "tolerance.h").read_text()
    return {name: float(value) for name, value in re.findall(r"(?m)^inline constexpr double (k\w+) = ([^;]+);", text)}


TOLERANCES = read_tolerances()


@pytest.fixture(scope="session")
def tolerance():
    """Looks a constant of tests/tolerance.h up by its name."""
    return lambda name: TOLERANCES[name]


@pytest.fixture(scope="session")
def bin_dir():
    return BIN_DIR


@pytest.fixture(scope="session")
def fpsa_binary():
    """The program `fpsa`, which lies beside the tests (build/<preset>/bin), or None where it is not built."""
    path = BIN_DIR.parent / "bin" / "fpsa"
    return path if path.exists() else None


@pytest.fixture
def parity(tmp_path):
    """parity(case, config, tensors) runs one case and returns its output tensors by name.

    config becomes config.json; tensors (name -> torch.Tensor) becomes in.safetensors. A failing run fails the test
    with what the binary said, unless check=False, which returns the finished process instead.
    """

    def run(case, config, tensors, check=True):
        config_path, in_path = tmp_path / "config.json", tmp_path / "in.safetensors"
        out_path = tmp_path / "out.safetensors"
        config_path.write_text(json.dumps(config))
        # Contiguous copies: safetensors refuses tensors that share memory.
        save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, in_path)
        env = dict(os.environ, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
        done = subprocess.run(
            [BIN_DIR / "fpsa_parity", case, config_path, in_path, out_path], capture_output=True, text=True, env=env
        )
        if not check:
            return done
        assert done.returncode == 0, f"fpsa_parity {case} failed ({done.returncode}): {done.stderr}"
        return load_file(out_path)

    return run


@pytest.fixture(scope="session")
def weights():
    """weights(module) -> the module's tensors under the names a case expects ("weights." and the module's own)."""
    return lambda module, prefix="weights.": {prefix + name: t for name, t in module.state_dict().items()}


def relative_error(actual, expected):
    """Largest absolute difference over the range of the expected values."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    assert torch.isfinite(actual).all(), "the engine's result has non-finite values"
    span = (expected.max() - expected.min()).clamp_min(1e-30)
    return ((actual - expected).abs().max() / span).item()


@pytest.fixture(scope="session")
def assert_close():
    """assert_close(actual, expected, allowed, what): the relative error must not exceed `allowed`."""

    def check(actual, expected, allowed, what="result"):
        error = relative_error(actual, expected)
        if error > allowed:
            worst = (actual.double() - expected.double()).abs().argmax().item()
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape))
            pytest.fail(
                f"{what}: error {error:.3e} of the range, allowed {allowed:.1e}; worst at {index}: "
                f"expected {expected[index].item():.8g}, got {actual[index].item():.8g}"
            )
        return error

    return check


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state and leaves torch deterministic for its size."""
    torch.manual_seed(20250604)
