"""The stubs say what the extension module has: names, and the arguments of its functions; and type checkers understand them."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import fpsattention as fpsa

NATIVE = fpsa._native
STUB = ast.parse(pathlib.Path(fpsa.__file__).with_name("_native.pyi").read_text())


def named(nodes):
    """The name of each definition, and its node."""
    found = {}
    for node in nodes:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
    return found


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_")}


def arguments(docstring):
    """Argument names of a function, from the signature that pybind11 puts first: those before "*", and those after."""
    inside = re.match(r"\w+\((.*)\) -> ", docstring.splitlines()[0]).group(1)
    while "[" in inside:
        inside = re.sub(r"\[[^\[\]]*\]", "", inside)
    names = [part.split(":")[0].split("=")[0].strip() for part in re.sub(r"\([^()]*\)", "", inside).split(",") if part.strip()]
    names = [name for name in names if name != "self"]
    star = names.index("*") if "*" in names else len(names)
    return names[:star], names[star + 1:]


def test_every_name_is_in_the_stub_and_no_other():
    stub = named(STUB.body)
    assert public(NATIVE) == set(stub)
    for name, node in stub.items():
        if isinstance(node, ast.ClassDef):
            assert public(getattr(NATIVE, name)) == {method for method in named(node.body) if not method.startswith("_")}, name


@pytest.mark.parametrize("path, node", [(name, node) for name, node in named(STUB.body).items() if isinstance(node, ast.FunctionDef)]
                         + [(f"{cls}.{name}", node) for cls, outer in named(STUB.body).items() if isinstance(outer, ast.ClassDef)
                            for name, node in named(outer.body).items()
                            if isinstance(node, ast.FunctionDef) and not node.decorator_list], ids=lambda x: x if isinstance(x, str) else "")
def test_arguments_are_those_of_the_module(path, node):
    thing = NATIVE
    for part in path.split("."):
        thing = getattr(thing, part)
    if path.endswith("__len__"):
        return
    stub = [a.arg for a in node.args.args if a.arg != "self"], [a.arg for a in node.args.kwonlyargs]
    assert arguments(thing.__doc__) == stub


@pytest.mark.parametrize("name", fpsa.__all__)
def test_what_is_public_is_documented(name):
    thing = getattr(fpsa, name)
    assert inspect.getdoc(thing) and len(inspect.getdoc(thing)) > 30


def test_mypy_types_a_program_and_finds_its_mistakes(tmp_path):
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\nfollow_imports = silent\n" + "".join(
        f"[mypy-{other}.*]\nfollow_imports = skip\n" for other in ("torch", "diffusers", "huggingface_hub")))
    sample = pathlib.Path(__file__).with_name("typed_sample.py")
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path / "cache", sample],
                          env={"MYPYPATH": str(pathlib.Path(fpsa.__file__).parents[1])}, capture_output=True, text=True, timeout=600)
    wrong = {number for number, line in enumerate(sample.read_text().splitlines(), 1) if "# wrong" in line}
    found = {int(number) for number in re.findall(r"typed_sample\.py:(\d+): error", done.stdout)}
    assert len(wrong) == 2 and found == wrong, done.stdout + done.stderr
