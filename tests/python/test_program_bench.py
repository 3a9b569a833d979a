"""bench(): the program's own bench, found and read."""

import sys

import pytest

import fpsattention as fpsa


def script(tmp_path, body):
    path = tmp_path / "fpsa"
    path.write_text(f"#!{sys.executable}\nimport json, sys\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_report_of_the_program_comes_back(tmp_path):
    path = script(tmp_path, "open(sys.argv[sys.argv.index('--json') + 1], 'w').write(json.dumps(sys.argv[1:3] + sys.argv[5:]))")
    assert fpsa.bench(path=path, arguments=["--threads", "1"]) == ["bench", "attention", "--quick", "--threads", "1"]
    assert fpsa.bench(path=path, quick=False) == ["bench", "attention"]


def test_errors_say_how_to_get_the_program_and_what_it_printed(tmp_path, monkeypatch):
    monkeypatch.delenv("FPSA_PROGRAM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="FPSA_PROGRAM=ON"):
        fpsa.bench()
    with pytest.raises(FileNotFoundError, match="nothing"):
        fpsa.bench(path=tmp_path / "nothing")
    monkeypatch.setenv("FPSA_PROGRAM", str(script(tmp_path, "sys.exit('no such flag')")))
    with pytest.raises(RuntimeError, match="no such flag"):
        fpsa.bench()


def test_the_real_program_is_called_with_flags_that_it_knows(program):
    with pytest.raises(RuntimeError) as error:
        fpsa.bench(path=program, arguments=["--no-such-flag"])
    assert "no-such-flag" in str(error.value) and "--quick" not in str(error.value).split("failed")[1]
