"""What the tests of the program share: the binary, a folder with a tiny random model, and a way to run."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "oracle"))


def find_binary():
    folder = pathlib.Path(os.environ.get("FPSA_BIN_DIR", ROOT / "build" / "release"))
    for candidate in (folder / "bin" / "fpsa", folder.parent / "bin" / "fpsa"):
        if candidate.exists():
            return candidate.resolve()
    raise FileNotFoundError(f"no bin/fpsa in {folder} or beside it; build it, or set FPSA_BIN_DIR")


@pytest.fixture(scope="session")
def binary():
    return find_binary()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    import tiny_random_model

    return tiny_random_model.write(tmp_path_factory.mktemp("model"))


@pytest.fixture
def fpsa(binary, tmp_path):
    """fpsa("generate", ...) runs the program in tmp_path and returns the finished process."""

    def run(*arguments, **options):
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        return subprocess.run(
            [binary, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path, env=environment,
            timeout=options.pop("timeout", 240), **options
        )

    return run


@pytest.fixture
def copy_of_model(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy") / "model"
    shutil.copytree(model, folder)
    return folder
