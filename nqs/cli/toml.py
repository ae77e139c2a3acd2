"""Options of a script as TOML, and TOML as options on the command line.

Keys are the long flags without leading dashes; flags with a dot are in tables:

    script = "bose-hubbard"
    shape = [3, 3]
    U = 8.0
    n_max = "None"

    [model]
    width = 32

TOML has no null; the text "None" represents it.
"""

import difflib
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

SCRIPT = "script"  # key of the script's name


def options_table(config: Any) -> dict[str, Any]:
    """Options of a script's configuration by their names on the command line, those with a dot in tables.

    Fields that are None by default are left out if they are None, and so are options of this call alone.
    """
    table: dict[str, Any] = {}
    for name, field, value in _options(config):
        if field.metadata.get("of this call") or (value is None and field.default is None):
            continue
        *names, last = name.split(".")
        inner = table
        for outer in names:
            inner = inner.setdefault(outer, {})
        if value is None or isinstance(value, Path):
            value = str(value)
        inner[last] = list(value) if isinstance(value, tuple) else value
    return table


def option_names(config: Any) -> set[str]:
    """Names of all options in a TOML file; those in tables contain a dot."""
    return {name for name, _, _ in _options(config)} - {"config", "started_by", "begin"}


def _options(config: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Name on the command line, field and value of every option."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value = getattr(config, field.name)
        metadata = getattr(hints[field.name], "__metadata__", ())
        if not is_dataclass(value):
            yield prefix + field.name, field, value
        elif any(getattr(item, "name", None) == "" for item in metadata):  # tyro.conf.arg(name=""): without a prefix
            yield from _options(value, prefix)
        else:
            yield from _options(value, f"{prefix}{field.name}.")


def to_toml(script: str, table: Mapping[str, Any]) -> str:
    """TOML text of the options of a run, for --config; characters that are not printable as escapes of TOML.

    Raises:
        ValueError: options that no script stores.
    """
    import tomli_w

    try:
        text = tomli_w.dumps({SCRIPT: script, **table})
    except TypeError as error:
        raise ValueError(f"the options in the archive are none of a script: {error}") from None
    return "".join(c if c.isprintable() or c == "\n" else f"\\U{ord(c):08x}" for c in text)


def read_toml(path: Path, script: str) -> dict[str, Any]:
    """The options in a file.

    Raises:
        ValueError: no such file, invalid TOML, or options of another script.
    """
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}.") from None
    named = table.pop(SCRIPT, script)
    if named != script:
        raise ValueError(f"{path} holds options of {named!r}, not of {script!r}: run that script, or change the file.")
    return table


def command_line_flags(table: Mapping[str, Any], known: Collection[str] | None, path: Path) -> list[str]:
    """The options of a table as command-line arguments.

    Args:
        known: names of all options; None if they are not known.
        path: path of the file, for messages.

    Raises:
        ValueError: an unknown option, or a value of an impossible type.
    """
    flags = []
    for name, value in _flat(table):
        if known is not None and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "--help lists the options."
            raise ValueError(f"{path}: {name!r} is no option of this script; {hint}")
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            head, dot, last = flag.rpartition(".")
            flags.append(f"--{head}{dot}{'' if value else 'no-'}{last}")
        elif isinstance(value, (str, int, float)):
            flags += [f"--{flag}", str(value)]
        elif isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
            flags += [f"--{flag}", *map(str, value)]
        else:
            raise ValueError(
                f"{path}: {name} = {value!r} is neither a number, text, true or false, nor a list of them."
            )
    return flags


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
