#!/usr/bin/env bash
# Builds the Python package as `pip install .` does, isolated, installs the wheel into a fresh environment that sees the
# torch of .venv, and runs its self-check there. Most objects come from the compiler cache, where the release preset's build
# put them: under the name that CMake gives the compiler, while scikit-build-core takes the one that Python was built with.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export CC=${CC:-cc} CXX=${CXX:-c++}
.venv/bin/python -m pip wheel --disable-pip-version-check -q --no-deps -w "$work/dist" .
.venv/bin/python -m venv "$work/venv"
python=$work/venv/bin/python
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$packages/torch_of_the_project.pth"
"$python" -m pip install --disable-pip-version-check -q --no-deps --no-index "$work"/dist/*.whl
cd "$work"
"$python" -m fpsattention
"$python" - <<'PYTHON'
import pathlib, fpsattention
folder = pathlib.Path(fpsattention.__file__).parent
assert str(folder).startswith(str(pathlib.Path.cwd())), folder
assert (folder / "py.typed").exists() and (folder / "_native.pyi").exists(), list(folder.iterdir())
PYTHON
