"""Configuration objects as plain data (JSON), and back: frozen dataclasses named by their class, nothing executed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from nqs.archive.version_0_1 import with_species
from nqs.hilbert import HilbertSpace

LONG = 32  # entries of a list that is printed in full
ADDED = {"species"}  # fields that archives of version 0.1 lack, which is no difference


def to_plain(value: Any) -> Any:
    """Dataclasses become {"type": class name, field: ...}, tuples become lists; numbers, text and None stay.

    Raises:
        TypeError: something that JSON cannot hold.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {
            f.name: to_plain(getattr(value, f.name)) for f in fields(value) if f.init
        }
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"{value!r} ({type(value).__name__}) cannot be written to an archive: use dataclasses and plain data."
    )


def from_plain(data: Any, types: Mapping[str, type]) -> Any:
    """The inverse of `to_plain`; only the dataclasses in `types` are built. Lists come back as tuples.

    Raises:
        ValueError: a class that is not a dataclass in `types`, or fields that it does not have.
    """
    if isinstance(data, list):
        return tuple(from_plain(item, types) for item in data)
    if not isinstance(data, dict):
        return data
    values = {key: from_plain(item, types) for key, item in data.items() if key != "type"}
    if "type" not in data:
        return values
    name = data["type"]
    allowed = sorted(key for key, item in types.items() if is_dataclass(item))
    if name not in allowed:
        raise ValueError(
            f"{name!r} is none of the classes that an archive may name ({', '.join(allowed)}). "
            "If it is your own dataclass, pass it in `types`."
        )
    try:
        if types[name] is HilbertSpace and "species" not in values:
            return with_species(HilbertSpace(**values))
        return types[name](**values)
    except TypeError as error:
        raise ValueError(f"{name} cannot be built from {values}: {error}") from error


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two plain configurations differ, one line each: 'hamiltonian.U: 4.0 / 8.0'."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first and key not in ADDED)]
        pairs = [(f"{path}.{key}".lstrip("."), first.get(key), second.get(key)) for key in keys]
        return [line for name, a, b in pairs for line in differences(a, b, name)]
    return [] if first == second else [f"{path}: {_brief(first)} / {_brief(second)}"]


def _brief(value: Any) -> str:
    """Without most of the rows of a long table, such as those of a symmetry group."""
    long = isinstance(value, list) and len(value) > LONG
    return f"[{', '.join(map(_brief, value[:2]))}, … {len(value)} in all]" if long else str(value)


def digest(value: Any) -> str:
    """Eight hexadecimal digits that stand for a configuration, to name files after it."""
    text = json.dumps(to_plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
