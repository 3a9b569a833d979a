"""`fpsa calibrate` from outside: what it writes loads, agrees with itself, and nothing is left of a failed run."""

import html.parser
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from test_cli import FAILED, INTERRUPTED, PROMPT, USAGE, assert_error, outputs

TINY = pathlib.Path(__file__).resolve().parents[2] / "models" / "tiny"
SMALL = ("--size", "128*128", "--num-frames", 17, "--num-inference-steps", 4, "--threads", 1)
CANDIDATES = """
tile = [2, 4, 4]
[[candidate]]
granularity = [2, 4, 4]
window = "all"
quant = "none"
[[candidate]]
granularity = [2, 4, 4]
window = "all"
quant = "e4m3"
[[candidate]]
granularity = [4, 8, 8]
window = ["all", 1, 2]
quant = "e4m3"
[[candidate]]
granularity = [1, 1, 1]
window = [1, 1, 1]
quant = "int8"
"""


@pytest.fixture
def calibrate(fpsa, tmp_path):
    (tmp_path / "candidates.toml").write_text(CANDIDATES)

    def run(*arguments, sizes=SMALL, prompt=PROMPT):
        return fpsa("calibrate", "--model", TINY, *prompt, *sizes, "--candidates", "candidates.toml", *arguments)

    return run


def mean(values):
    flat = [x for step in values for layer in step for x in layer]
    return sum(flat) / len(flat)


def test_the_schedule_loads_and_the_json_says_the_same(fpsa, calibrate, tmp_path):
    done = calibrate("--density", 0.5, "--json", "c.json")
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path) == ["c.json", "calibrate.html", "candidates.toml", "schedule.toml"]
    measured = json.loads((tmp_path / "c.json").read_text())
    assert (measured["format"], measured["version"]) == ("fpsa-calibration", 1)
    assert (measured["steps"], measured["layers"], measured["heads"]) == (4, list(range(6)), 4)
    assert measured["settings"]["rope_scale"] == "1,1,1"
    assert measured["settings"]["grid"] == [5, 8, 8] and measured["settings"]["prompts"] == [PROMPT[1]]
    exact, coded, half, sparse = measured["candidates"]
    assert mean(exact["relative_l2"]) == 0 and exact["snr_db"][0][0][0] is None
    assert 0 < mean(coded["relative_l2"]) < mean(half["relative_l2"]) and mean(coded["cosine"]) > mean(half["cosine"])
    # Tiles of 2x4x4 on 5x8x8: two of four in the plane; along t 2, 2 and 1 tokens.
    assert (half["density"], sparse["density"]) == (0.5, 0.09)
    assert measured["density"] <= 0.5 + 1e-6
    text = (tmp_path / "schedule.toml").read_text()
    assert text.startswith("# Made by fpsa calibrate") and text.endswith(measured["schedule"])
    assert f"mean density {measured['density']:.3g}, mean error {measured['relative_l2']:.3g}" in text
    assert f"mean error {measured['relative_l2']:.3g}" in done.stdout

    assert "attention schedule version 1, tile (2,4,4)" in fpsa("info", "schedule.toml").stdout
    made = fpsa("generate", "--model", TINY, *PROMPT, *SMALL, "--attention", "fps", "--schedule", "schedule.toml",
                "--explain")
    assert made.returncode == 0, made.stderr
    densities = [float(x) for x in re.findall(r"density ([0-9.]+)\)", made.stdout)]
    assert densities and max(densities) <= 1 and min(densities) < 0.6


def test_the_prediction_is_that_of_the_measured_settings(calibrate, tmp_path):
    """The emitted phases, read by another TOML reader and applied to the JSON, give the error and density it states."""
    import tomllib

    done = calibrate("--max-error", 0.1, "--json", "c.json")
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "c.json").read_text())
    schedule = tomllib.loads((tmp_path / "schedule.toml").read_text())
    assert measured["relative_l2"] <= 0.1 + 1e-6 and "override" not in schedule

    def axis(window):
        return ["all"] * 3 if window == "all" else window

    error = density = 0
    for step in range(4):
        phase = next(p for p in schedule["phase"] if step / 4 < p["until"] - 1e-12)
        (candidate,) = [c for c in measured["candidates"] if c["granularity"] == phase["granularity"]
                        and c["window"] == axis(phase["window"]) and c["quant"] == phase["quant"]]
        error += mean([candidate["relative_l2"][step]]) / 4
        density += candidate["density"] / 4
    assert error == pytest.approx(measured["relative_l2"], rel=1e-4)
    assert density == pytest.approx(measured["density"], rel=1e-4)


def test_layers_and_heads_are_no_worse_than_phases(fpsa, calibrate, tmp_path):
    found = {}
    for per in ("phases", "layer", "head"):
        done = calibrate("--density", 0.3, "--per", per, "--json", f"{per}.json", "--output", f"{per}.toml")
        assert done.returncode == 0, done.stderr
        found[per] = json.loads((tmp_path / f"{per}.json").read_text())
        assert found[per]["density"] <= 0.3 + 1e-6
        assert fpsa("info", f"{per}.toml").returncode == 0
    assert found["layer"]["relative_l2"] <= found["phases"]["relative_l2"] + 1e-6
    assert found["head"]["relative_l2"] <= found["phases"]["relative_l2"] + 1e-6
    made = fpsa("generate", "--model", TINY, *PROMPT, *SMALL, "--attention", "fps", "--schedule", "head.toml")
    assert made.returncode == 0, made.stderr


def test_the_same_request_gives_the_same_bytes_and_prompts_are_all_measured(calibrate, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue star grows\n")
    many = ("--prompt-file", "prompts.txt")
    names = ("schedule.toml", "calibrate.html", "c.json")
    contents = []
    for _ in range(2):
        assert calibrate("--json", "c.json", prompt=many).returncode == 0
        contents.append([(tmp_path / name).read_bytes() for name in names])
    assert contents[0] == contents[1]
    assert calibrate("--json", "c.json", prompt=("--prompt", "a red circle")).returncode == 0
    two, one = json.loads(contents[0][2]), json.loads((tmp_path / "c.json").read_text())
    assert len(two["settings"]["prompts"]) == 2
    assert two["candidates"][3]["relative_l2"] != one["candidates"][3]["relative_l2"]


def test_strides_measure_less(calibrate, tmp_path):
    sizes = (*SMALL[:4], "--num-inference-steps", 5, "--threads", 1)
    done = calibrate("--step-stride", 2, "--layer-stride", 4, "--rope-scale", "1,0.5,0.25", "--json", "c.json", sizes=sizes)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "c.json").read_text())
    assert measured["layers"] == [0, 4] and measured["settings"]["rope_scale"] == "1,0.5,0.25"
    errors = measured["candidates"][3]["relative_l2"]
    assert len(errors) == 5 and errors[0] == errors[1] != errors[2] == errors[3]
    assert "One step of 2 was measured" in (tmp_path / "calibrate.html").read_text()


def test_a_carried_schedule_gives_the_tile_and_the_linear_layers(fpsa, model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    carried = ("version = 1\ntile = [1, 2, 3]\n%s[[phase]]\nuntil = 1.0\ngranularity = [1, 2, 3]\nwindow = 'all'\n"
               "quant = 'e4m3'\n")
    found = {}
    for name, line in (("plain", ""), ("coded", "feed_forward = 'e4m3'\n")):
        save_file(load_file(file), file, metadata={"format": "pt", "fpsa.schedule": carried % line})
        done = fpsa("calibrate", "--model", folder, *PROMPT, "--density", 0.7, "--threads", 1, "--json", "c.json",
                    "--output", f"{name}.toml")
        assert done.returncode == 0, done.stderr
        found[name] = json.loads((tmp_path / "c.json").read_text())
        assert found[name]["tile"] == [1, 2, 3]
    assert "feed_forward" not in (tmp_path / "plain.toml").read_text()
    assert 'feed_forward = "e4m3"' in found["coded"]["schedule"]
    assert "feed-forward in e4m3" in (tmp_path / "coded.toml").read_text()
    # The second layer's queries come through the linear layers of the first.
    errors = [found[name]["candidates"][-1]["relative_l2"][0] for name in ("plain", "coded")]
    assert errors[0][0] == errors[1][0] and errors[0][1] != errors[1][1]


class Outline(html.parser.HTMLParser):
    """Checks that tags close in order, and collects what a browser would fetch or run."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.counts, self.foreign, self.text = [], {}, [], ""

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.foreign += [value for name, value in attributes if name in ("src", "href") or name.startswith("on")]
        self.foreign += [tag] if tag in ("script", "link", "img", "iframe") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_self_contained_and_escaped(calibrate, tmp_path):
    prompt = "a <script>alert('x')</script> & \"red\" circle"
    done = calibrate("--per", "head", prompt=("--prompt", prompt))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "calibrate.html").read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == [] and outline.foreign == []
    assert prompt in outline.text and "http" not in page and "url(" not in page
    assert outline.counts["svg"] == 4 + 4, "a map per candidate, two legends, the schedule and the chart"
    assert "fpsa calibrate --model" in outline.text and "--per head" in outline.text
    assert (tmp_path / "schedule.toml").read_text() in outline.text


def test_default_candidates_fit_the_grid(fpsa, tmp_path):
    done = fpsa("calibrate", "--model", TINY, *PROMPT, "--size", "128*128", "--num-frames", 9,
                "--num-inference-steps", 3, "--threads", 1, "--quant", "int8", "--json", "c.json")
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "c.json").read_text())
    assert measured["tile"] == [2, 2, 2] and {c["quant"] for c in measured["candidates"]} == {"int8"}
    assert measured["density"] <= 0.25 + 1e-6


@pytest.mark.parametrize("arguments, words", [
    (("--density", 0.05), "--density: expected at least 0.09, the density of the sparsest candidate "
                          "(granularity (1,1,1), window (1,1,1), int8 of tile 2x4x4), got 0.05"),
    (("--density", 0.5, "--max-error", 0.1), "--density: expected at most one of --density and --max-error"),
    (("--density", "1.5"), "--density: expected a number from 0 to 1, got '1.5'"),
    (("--per", "token"), "--per: expected phases|layer|head, got 'token'"),
    (("--per", "head", "--layer-stride", 2), "--layer-stride: expected 1 with --per head"),
    (("--step-stride", 2), "--step-stride: expected at most 1 for 4 steps"),
    (("--num-inference-steps", 2), "--num-inference-steps: expected at least 3"),
    (("--quant", "int8"), "--quant: expected none beside --candidates"),
    (("--output", "schedule.mp4"), "--output: expected a name that ends in .toml"),
    (("--report", "page.txt"), "--report: expected a name that ends in .html"),
    (("--json", "c.toml"), "--json: expected a name that ends in .json"),
    (("--num-frames", 10), "--num-frames: expected 4k+1"),
    (("--prompt-file", "p.txt"), "exactly one of --prompt, --prompt-file and --prompt-embeds, got several"),
])
def test_wrong_requests_are_named_before_the_work(calibrate, tmp_path, arguments, words):
    assert_error(calibrate(*arguments), USAGE, words)
    assert outputs(tmp_path) == ["candidates.toml"]


@pytest.mark.parametrize("text, words", [
    ("tile = [2, 4, 4]\n", "candidates.toml: candidate: expected at least one [[candidate]]"),
    (CANDIDATES.replace("[4, 8, 8]", "[3, 8, 8]"), "candidates.toml:12: candidate 3 granularity"),
    (CANDIDATES.replace('"int8"', '"fp4"'), "candidates.toml:18: candidate 4 quant"),
    (CANDIDATES + "[[phase]]\n", "unknown key 'phase'"),
])
def test_bad_candidates_are_named_with_their_line(calibrate, tmp_path, text, words):
    (tmp_path / "candidates.toml").write_text(text)
    assert_error(calibrate(), FAILED, words)
    assert outputs(tmp_path) == ["candidates.toml"]


def test_an_error_that_no_candidate_reaches_leaves_nothing(calibrate, tmp_path):
    (tmp_path / "candidates.toml").write_text(CANDIDATES.replace('"none"', '"int8"'))
    done = calibrate("--max-error", 0.0001)
    assert_error(done, FAILED, "--max-error: budget: expected a mean error of at least", "received 0.0001")
    assert outputs(tmp_path) == ["candidates.toml"]


@pytest.mark.parametrize("flag, path", [("--output", "missing/s.toml"), ("--report", "missing/c.html"),
                                        ("--json", "missing/c.json")])
def test_unwritable_places_are_found_before_the_work(calibrate, tmp_path, flag, path):
    assert_error(calibrate(flag, path), FAILED, flag + ":", "missing")
    assert outputs(tmp_path) == ["candidates.toml"]


def test_a_full_disk_leaves_no_other_output(calibrate, tmp_path):
    assert_error(calibrate("--json", "/dev/full"), FAILED, "/dev/full", "No space left")
    assert outputs(tmp_path) == ["candidates.toml"]


def test_ctrl_c_leaves_nothing(binary, tmp_path):
    process = subprocess.Popen(
        [binary, "calibrate", "--model", TINY, *PROMPT, "--num-inference-steps", "1000", "--json", "c.json"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"))
    try:
        for line in process.stderr:
            if "candidates of tile" in line:  # the work begins
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == INTERRUPTED, rest
    finally:
        process.kill()
    assert "interrupted" in rest and outputs(tmp_path) == []
