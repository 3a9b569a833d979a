#!/usr/bin/env bash
# Builds the Python package as `pip install .` does, isolated, installs it into a fresh environment, and checks it there.
# Most objects come from the compiler cache, where the release preset's build put them: under the name that CMake gives the
# compiler, while scikit-build-core takes the one that Python was built with.
#
#   scripts/check_wheel.sh                     beside the torch of .venv: the self-check
#   scripts/check_wheel.sh 2.11.0 [FLAG ...]   beside that torch from the package index (a CUDA build, several GB), in an
#                                              environment under out/, removed at the end: the self-check, the time of the
#                                              import, tests of the operator and a fine-tune in two processes, by the
#                                              packages that make test puts into .venv. FLAGs are pip's:
#                                              -C cmake.define.FPSA_CUDA=ON compiles the sm_90a kernels too.
# FPSA_CHECK_ENV=FOLDER names the environment, which then stays.
set -euo pipefail
cd "$(dirname "$0")/.."
export CC=${CC:-cc} CXX=${CXX:-c++}
torch=${1:-}
source=$PWD
work=$(mktemp -d)
place=$(realpath -m "${FPSA_CHECK_ENV:-out/torch-$torch}")
cleanup() {
  rm -rf "$work"
  if [ -n "$torch" ] && [ -z "${FPSA_CHECK_ENV:-}" ]; then rm -rf "$place"; fi
}
trap cleanup EXIT
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

# Behind an environment's own packages those of .venv: torch, or, where it has one, the tests' alone.
lend() {
  "$source"/.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    > "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages_of_the_project.pth"
}

if [ -z "$torch" ]; then
  python=.venv/bin/python
  pip wheel -q --no-deps -w "$work/dist" .
  "$python" -m venv "$work/venv"
  python=$work/venv/bin/python
  lend
  pip install -q --no-deps --no-index "$work"/dist/*.whl
else
  shift
  [ -x "$place/bin/python" ] || python3 -m venv "$place"
  python=$place/bin/python
  pip install -q "torch==$torch"
  pip install -q "$@" .
fi

cd "$work"
"$python" -m fpsattention
"$python" - <<'PYTHON'
import pathlib, sys, time, torch
begin = time.process_time()
import fpsattention
seconds = time.process_time() - begin
folder = pathlib.Path(fpsattention.__file__).parent
assert str(folder).startswith(sys.prefix), folder
assert (folder / "py.typed").exists() and (folder / "_native.pyi").exists(), list(folder.iterdir())
print(f"import after torch {torch.__version__}: {seconds:.2f} s of the processor")
assert seconds < 1
PYTHON
if [ -n "$torch" ]; then
  lend
  FPSA_PYTHON_DIR="" "$python" -m pytest -q -p no:cacheprovider --rootdir "$source" "$source"/tests/python/test_attention.py \
    "$source"/tests/python/test_compile.py
  "$python" -m torch.distributed.run --standalone --nproc-per-node 2 "$source"/examples/python/finetune.py \
    --model "$source"/models/tiny --schedule "$source"/models/tiny/fps.toml
fi
