"""The project's own bench, run as what it is: a program, since it times torch in processes that it starts itself."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any


def program(path: str | os.PathLike[str] | None = None) -> str:
    """The program `fpsa`: the argument, else FPSA_PROGRAM, else the one in the package, else the one on the PATH.

    Errors: FileNotFoundError with what to do.
    """
    packaged = pathlib.Path(__file__).with_name("bin") / "fpsa"
    for candidate in (path, os.environ.get("FPSA_PROGRAM"), packaged if packaged.exists() else None,
                      shutil.which("fpsa")):
        if candidate:
            if not os.access(candidate, os.X_OK):
                raise FileNotFoundError(f"program: {candidate} is not an executable file")
            return os.fspath(candidate)
    raise FileNotFoundError("program: expected the program fpsa on the PATH, in FPSA_PROGRAM or as an argument; `make` in "
                            "the source folder builds build/release/bin/fpsa, and pip install . "
                            "-C cmake.define.FPSA_PROGRAM=ON puts it into the package")


def bench(*, quick: bool = True, arguments: Sequence[str] = (), path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Times the kernels against this machine's limits and against torch, verified first: ``fpsa bench attention``.

    Args:
        quick: seconds instead of minutes.
        arguments: more flags of the command, as ``["--threads", "1"]``.
        path: the program; see :func:`program`.

    Returns: what ``--json`` writes: machine, kernels, cases with median, spread and ratio.

    Errors: FileNotFoundError without the program; RuntimeError with what it printed when it failed.

    Source: fpsa/app/bench_attention.h.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "bench.json"
        command = [program(path), "bench", "attention", "--json", str(report), *(["--quick"] if quick else []), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found
