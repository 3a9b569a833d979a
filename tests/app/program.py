"""What the tests of the program share: its exit codes, the form of its errors, names in folders."""

PROMPT = ("--prompt", "a red circle moves left on a gray background")
FAILED, USAGE, INTERRUPTED = 1, 2, 130


def assert_error(done, code, *parts):
    assert done.returncode == code, f"exit {done.returncode}, expected {code}: {done.stderr}"
    line = next((line for line in done.stderr.splitlines() if line.startswith("fpsa: error: ")), None)
    assert line, f"no error line: {done.stderr!r}"
    for part in parts:
        assert part in done.stderr, f"{part!r} is not in {done.stderr!r}"


def outputs(folder):
    return sorted(path.name for path in folder.iterdir())


def transformer_file(folder):
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


# --- the command line -------------------------------------------------------------------------------------------
