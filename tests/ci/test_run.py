"""What `.ci/run` and `make test` promise about the processes that they start."""

import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_run_that_fails_early_leaves_no_installer_behind(tmp_path):
    tree, child = tmp_path / "tree", tmp_path / "child"
    script(tree / ".ci" / "run", "")
    shutil.copy(ROOT / ".ci" / "run", tree / ".ci" / "run")
    # The package installer is a child of bootstrap.sh; the build fails while it works.
    script(tree / "scripts" / "bootstrap.sh",
           f'[ "$1" = --system ] && exit 0\nsleep 60 &\necho $! >{child}.new && mv {child}.new {child}\nwait\n')
    script(tmp_path / "bin" / "cmake", f"while [ ! -e {child} ]; do sleep 0.05; done\nexit 3\n")
    done = subprocess.run([tree / ".ci" / "run"], env=dict(os.environ, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}"),
                          capture_output=True, text=True, timeout=50)
    assert done.returncode == 3, done.stdout + done.stderr
    pid = int(child.read_text())
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid), "the installer goes on"


def test_python_tests_take_as_many_processes_as_jobs_were_asked_for():
    done = subprocess.run(["make", "-n", "test-python", "JOBS=3"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "-n 3 --maxprocesses 8" in done.stdout, done.stdout + done.stderr
