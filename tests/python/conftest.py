"""What the tests of the Python package share. They import the build tree's copy (build/<preset>/python), whose sources
are links into python/; FPSA_PYTHON_DIR names another place, or "" an installed package."""

import os
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = os.environ.get("FPSA_PYTHON_DIR", str(ROOT / "build" / "release" / "python"))
if PLACE:
    sys.path.insert(0, PLACE)
sys.path.insert(0, str(ROOT / "tests" / "oracle"))

import torch  # noqa: E402

TOLERANCES = {
    name: float(value)
    for name, value in re.findall(r"(?m)^inline constexpr double (k\w+) = ([^;]+);",
                                  (ROOT / "tests" / "tolerance.h").read_text())
}


@pytest.fixture(scope="session")
def tolerance():
    """Looks a constant of tests/tolerance.h up by its name."""
    return lambda name: TOLERANCES[name]


@pytest.fixture(scope="session")
def environment():
    """The environment in which another Python process imports the same package."""
    places = [place for place in (PLACE, os.environ.get("PYTHONPATH", "")) if place]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(places), OMP_NUM_THREADS="1")


@pytest.fixture(scope="session")
def program():
    """The program fpsa: of the build tree, or of FPSA_BIN_DIR."""
    folder = pathlib.Path(os.environ.get("FPSA_BIN_DIR", ROOT / "build" / "release"))
    for path in (folder / "bin" / "fpsa", folder.parent / "bin" / "fpsa"):
        if path.exists():
            return path.resolve()
    raise FileNotFoundError(f"no bin/fpsa in {folder} or beside it; build it, or set FPSA_BIN_DIR")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20250604)
