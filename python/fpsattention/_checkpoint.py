"""The schedule that a trained checkpoint carries in the metadata of its safetensors files."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import struct
from typing import Any, BinaryIO

from . import _native
from ._schedule import Schedule

# A header of more bytes than this is no safetensors file (the format's own limit).
_MAX_HEADER_BYTES = 100_000_000


def _header(path: pathlib.Path, file: BinaryIO) -> dict[str, Any]:
    """The JSON header, with the file left at the first byte of data."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= _MAX_HEADER_BYTES:
        raise ValueError(f"{path}: expected a safetensors file, got a header of {length} bytes")
    try:
        found = json.loads(file.read(length))
    except ValueError as error:
        raise ValueError(f"{path}: expected a safetensors file, got a header that is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a safetensors file, got a header that is no JSON object")
    return found


def _metadata(path: pathlib.Path) -> dict[str, str]:
    with path.open("rb") as file:
        return _header(path, file).get("__metadata__") or {}


def _files(place: pathlib.Path) -> list[pathlib.Path]:
    if not place.is_dir():
        return [place]
    folder = place / "transformer" if (place / "transformer").is_dir() else place
    return sorted(folder.glob("*.safetensors"))


def carried_schedule(path: str | os.PathLike[str]) -> Schedule | None:
    """The schedule of a safetensors file, of a model folder, or of a pipeline folder's transformer; None without one.

    Errors: OSError; ValueError for a damaged file or schedule, or where shards carry different ones.
    """
    place = pathlib.Path(path)
    found: dict[str, pathlib.Path] = {}
    for file in _files(place):
        text = _metadata(file).get(_native.METADATA_KEY)
        if text:
            found.setdefault(text, file)
    if len(found) > 1:
        raise ValueError(f"{place}: its files carry different schedules: {', '.join(map(str, found.values()))}")
    for text, file in found.items():
        return Schedule.parse(text, f"{file}: {_native.METADATA_KEY}")
    return None


def attach_schedule(path: str | os.PathLike[str], schedule: Schedule) -> None:
    """Writes a schedule into a safetensors file, a model folder's files or a pipeline folder's transformer.

    What a training loop does after save_pretrained(): the checkpoint then brings the schedule that it was trained with.
    Tensors stay as they are; each file is written under a temporary name and renamed.

    Errors: OSError; ValueError for a damaged file or a folder without safetensors files.
    """
    files = _files(pathlib.Path(path))
    if not files:
        raise ValueError(f"{path}: expected a folder with safetensors files")
    for file in files:
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        try:
            with file.open("rb") as old, temporary.open("wb") as new:
                header = _header(file, old)
                header["__metadata__"] = {"format": "pt", **(header.get("__metadata__") or {}), _native.METADATA_KEY: schedule.text}
                text = json.dumps(header).encode()
                text += b" " * (-len(text) % 8)  # tensors stay aligned
                new.write(struct.pack("<Q", len(text)) + text)
                shutil.copyfileobj(old, new, 1 << 20)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def of_loaded(model: object) -> tuple[Schedule | None, str]:
    """The schedule of the checkpoint that a diffusers model was loaded from, and where that was looked for."""
    config = getattr(model, "config", None)
    name = getattr(config, "_name_or_path", None) or ""
    if not name:
        return None, "the model was not loaded by from_pretrained"
    if os.path.isdir(name):
        return carried_schedule(name), name
    return _of_hub_cache(name), f"{name} in the hub's cache"


def _of_hub_cache(repository: str) -> Schedule | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for file in ("transformer/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors",
                 "transformer/diffusion_pytorch_model.safetensors.index.json"):
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return carried_schedule(os.path.dirname(cached))
    return None
