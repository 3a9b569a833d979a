"""Loads the extension module and explains the one way in which that goes wrong: another torch than it was built for."""

import importlib
import types

import torch


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split("+")[0].split(".")[:2])


def native() -> types.ModuleType:
    """The extension module. Its import registers the operators torch.ops.fpsa.

    Errors: ImportError when torch is of another release than the package was built for (C++ libraries of torch keep
    no promise between releases).
    """
    remedy = "reinstall it beside this torch: pip install --force-reinstall --no-deps <the source folder>"
    try:
        module = importlib.import_module("fpsattention._native")
    except ImportError as error:
        raise ImportError(f"fpsattention: the extension module does not load with torch {torch.__version__} ({error}); "
                          f"{remedy}") from error
    if _release(module.torch_version) != _release(torch.__version__):
        raise ImportError(f"fpsattention was built for torch {module.torch_version}, got torch {torch.__version__}; "
                          f"{remedy}")
    return module
