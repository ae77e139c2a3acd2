"""Configuration dataclasses and arrays as plain data (JSON), and back. Reading executes no code of an archive."""

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

import numpy as np

from nqs.runtime.text import printable

LONG = 32  # largest number of entries of a list that messages show in full
SHORT = 8  # largest number of entries of a list of numbers or names that is compared as a whole
SHOWN = 3  # differing entries of a list that messages name
LONGEST_TEXT = 120  # characters of a value in a message
ADDED = {"species", "tensor"}  # keys that archives of earlier versions lack; not compared
MAX_NUMBERS = 1_000_000  # of an array in a configuration: about 20 MB of JSON, parsed by every reader of the archive
# Types whose values Python's int and float represent exactly, so that JSON keeps every bit; no long double.
ARRAY_TYPES = {"bool", "float16", "float32", "float64"} | {f"{k}int{b}" for k in ("", "u") for b in (8, 16, 32, 64)}
COMPLEX_TYPES = {"complex64": "float32", "complex128": "float64"}  # stored as pairs, in a last axis


def to_plain(value: Any, *, strict: bool = True) -> Any:
    """Dataclasses become {"type": class name, field: ...}, tuples lists; numbers, text and None stay.

    Arrays and tensors become {"type": "array", "dtype": ..., "shape": [...], "data": [...]}, the data in row-major
    order; tensors are marked by "tensor": True.

    Args:
        strict: refuse objects that JSON cannot represent; else keep them, for configurations in memory.

    Raises:
        TypeError: `strict`, and an object that JSON cannot represent.
        ValueError: `strict`, and an array of more than MAX_NUMBERS numbers.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {
            _key(f): to_plain(getattr(value, f.name), strict=strict) for f in fields(value) if _is_stored(value, f)
        }
    if isinstance(value, (list, tuple)):
        return [to_plain(item, strict=strict) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, strict=strict) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    array = _as_array(value)
    if array is not None and array.dtype.name in ARRAY_TYPES | COMPLEX_TYPES.keys() and array.size <= MAX_NUMBERS:
        numbers = np.ascontiguousarray(array).reshape(-1)
        numbers = numbers.view(COMPLEX_TYPES.get(array.dtype.name, array.dtype))
        kind = {} if isinstance(value, (np.ndarray, np.generic)) else {"tensor": True}
        shape = list(array.shape)
        return {"type": "array", "dtype": array.dtype.name, "shape": shape, "data": numbers.tolist()} | kind
    if not strict:
        return value
    if array is not None and array.size > MAX_NUMBERS:
        raise ValueError(
            f"an array of shape {array.shape} cannot be written to an archive: a configuration holds at most "
            f"{MAX_NUMBERS:,} numbers in one array. Give what it is computed from, or run without an archive."
        )
    raise TypeError(
        f"{value!r} ({type(value).__name__}) cannot be written to an archive: use dataclasses and plain data."
    )


def _key(field: Field[Any]) -> str:
    """Name of a field in archives; fields that were renamed keep their old one ("stored_as")."""
    return str(field.metadata.get("stored_as", field.name))


def _is_stored(value: Any, field: Field[Any]) -> bool:
    """Fields that were added to a class later ("stored_if_default": False) change no digest of older configurations."""
    return field.init and (field.metadata.get("stored_if_default", True) or getattr(value, field.name) != field.default)


def _as_array(value: Any) -> np.ndarray | None:
    """Array or tensor as an array; None for anything else."""
    torch = sys.modules.get("torch")  # without it there are no tensors, and importing it takes seconds
    if torch is not None and isinstance(value, torch.Tensor):
        try:
            return value.detach().cpu().resolve_conj().resolve_neg().numpy()
        except TypeError:  # a type that NumPy lacks, such as bfloat16
            return None
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value, dtype=value.dtype.newbyteorder("="))
    return None


def _to_array(data: Mapping[str, Any]) -> np.ndarray:
    """The array of {"dtype": ..., "shape": ..., "data": ...}.

    Raises:
        ValueError: data that `to_plain` does not write.
    """
    dtype, shape, numbers = data.get("dtype"), data.get("shape"), data.get("data")
    pairs = isinstance(dtype, str) and dtype in COMPLEX_TYPES
    if not isinstance(dtype, str) or not (pairs or dtype in ARRAY_TYPES):
        raise ValueError(
            f"an array of {dtype!r}: an archive holds {', '.join(sorted(ARRAY_TYPES | COMPLEX_TYPES.keys()))}."
        )
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an array of shape {_brief(shape)}: it must be a list of integers.")
    fit = isinstance(numbers, list) and len(numbers) == math.prod(shape) * (2 if pairs else 1)
    if not fit or not all(isinstance(number, (int, float)) for number in numbers or ()):
        raise ValueError(f"an array of shape {shape} whose data are {_brief(numbers)}: they do not fit.")
    try:
        return np.array(numbers, dtype=COMPLEX_TYPES.get(dtype, dtype)).view(dtype).reshape(shape)
    except OverflowError as error:
        raise ValueError(f"an array of {dtype} with numbers out of its range: {error}") from None


def from_plain(data: Any, types: Mapping[str, type]) -> Any:
    """The inverse of `to_plain`; lists become tuples.

    Only the dataclasses in `types`, arrays and tensors (on the CPU) are built.

    Raises:
        ValueError: a class that is not a dataclass in `types`, or fields that it does not have.
    """
    if isinstance(data, list):
        return tuple(from_plain(item, types) for item in data)
    if not isinstance(data, dict):
        return data
    if data.get("type") == "array":
        array = _to_array(data)
        if data.get("tensor") is not True:
            return array
        import torch

        return torch.from_numpy(array)
    values = {key: from_plain(item, types) for key, item in data.items() if key != "type"}
    if "type" not in data:
        return values
    name = data["type"]
    allowed = sorted(key for key, item in types.items() if is_dataclass(item))
    if name not in allowed:
        raise ValueError(
            f"{name!r} is none of the classes that an archive may name ({', '.join(allowed)}). "
            "If it is a dataclass of your own: nqs resume FILE --module file.py, or in Python "
            "nqs.resume(FILE, types={name: class})."
        )
    names = {_key(f): f.name for f in fields(types[name])}
    values = {names.get(key, key): value for key, value in values.items()}
    try:
        built = types[name](**values)
    except TypeError as error:
        raise ValueError(f"{name} cannot be built from {values}: {error}") from error
    if name == "HilbertSpace" and not values.keys() & ADDED:
        from nqs.archive.species_of_0_1 import with_species  # imports torch

        return with_species(built)
    return built


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Leaves in which two plain configurations differ, one line each: 'hamiltonian.U: 4.0 / 8.0'."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first and key not in ADDED)]
        pairs = [(f"{path}.{key}".lstrip("."), first.get(key), second.get(key)) for key in keys]
        return [line for name, a, b in pairs for line in differences(a, b, name)]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second) and not _is_short(first):
        entries = [differences(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(first, second, strict=True))]
        found = [lines for lines in entries if lines]
        more = [f"{path}: {len(found)} of {len(first)} entries differ"] if len(found) > SHOWN else []
        return [line for lines in found[:SHOWN] for line in lines] + more
    both_nan = first != first and second != second
    return [] if first == second or both_nan else [printable(f"{path}: {_brief(first)} / {_brief(second)}")]


def _is_short(values: list[Any]) -> bool:
    return len(values) <= SHORT and not any(isinstance(value, (dict, list)) for value in values)


def _brief(value: Any) -> str:
    """Text of a value; groups, and long lists such as the permutations of a symmetry group, are shortened."""
    if isinstance(value, dict):
        return f"{value.get('type', '')}(…)"
    if isinstance(value, list) and len(value) > LONG:
        return f"[{', '.join(map(_brief, value[:2]))}, … {len(value)} in all]"
    text = f"[{', '.join(map(_brief, value))}]" if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"


def digest(value: Any) -> str:
    """Eight hexadecimal digits of the SHA-256 of a configuration, for file names."""
    text = json.dumps(to_plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
