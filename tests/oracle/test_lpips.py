"""LPIPS against what the package lpips gave for the same random weights and clips (lpips_case.py)."""

import json
import subprocess

import numpy
import pytest
from PIL import Image
from safetensors.torch import save_file

from lpips_case import CLIPS, DISTANCES, clips, weights


def write_frames(folder, frames):
    folder.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:04}.png")
    return folder


def compare(binary, *arguments):
    return subprocess.run([binary, "compare", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("shape, expected", list(zip(CLIPS, DISTANCES, strict=True)))
def test_the_distance_is_that_of_the_package(fpsa_binary, tolerance, tmp_path, shape, expected):
    save_file(weights(), tmp_path / "lpips.safetensors")
    a, b = (write_frames(tmp_path / name, frames) for name, frames in zip("ab", clips(*shape)))
    for one, other, distance in ((a, b, expected), (b, a, expected), (a, a, 0)):
        done = compare(fpsa_binary, one, other, "--json", "--lpips-weights", tmp_path / "lpips.safetensors")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["lpips"] == pytest.approx(distance, rel=tolerance("kLpips"))
    words = compare(fpsa_binary, a, b, "--lpips-weights", tmp_path / "lpips.safetensors").stdout
    assert words.endswith(f"LPIPS {expected:.4f}\n")
    assert "lpips" not in json.loads(compare(fpsa_binary, a, b, "--json").stdout)


def test_what_does_not_fit_is_refused(fpsa_binary, tmp_path):
    folder = write_frames(tmp_path / "a", numpy.zeros((1, 30, 64, 3), numpy.uint8))
    state = weights()
    save_file(state, tmp_path / "good.safetensors")
    done = compare(fpsa_binary, folder, folder, "--lpips-weights", tmp_path / "good.safetensors")
    assert done.returncode == 1 and "expected frames of at least 31x31, got 64x30" in done.stderr
    del state["lin3.model.1.weight"]
    state["net.slice1.0.weight"] = state["net.slice1.0.weight"][:, :, :3, :3].clone()
    state["net.slice6.12.weight"] = state["net.slice5.10.weight"]
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "bad.safetensors")
    done = compare(fpsa_binary, folder, folder, "--lpips-weights", tmp_path / "bad.safetensors")
    assert done.returncode == 1
    for words in ("bad.safetensors: LPIPS on AlexNet", "lin3.model.1.weight", "net.slice1.0.weight", "net.slice6.12"):
        assert words in done.stderr
