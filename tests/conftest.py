"""Every test runs with the shape annotations of nqs executed, on one deterministic CPU thread."""

import functools
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # NetKet is only a reference here: leave the GPU to nqs
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # compiling NetKet's loops takes longer than they do on small matrices

import jaxtyping
import pytest
import torch
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.vale import Is
from hypothesis import settings

# ------------------------------------------------------------------------------------------ executed annotations

CONF = BeartypeConf(is_pep484_tower=True)


def check_types(function: Callable) -> Callable:
    """beartype on what it can check in a single function; an int may stand for a float, as for mypy."""
    function.__annotations__ = {name: checkable(hint) for name, hint in function.__annotations__.items()}
    return beartype(conf=CONF)(function)


def checkable(hint: Any) -> Any:
    """The hint as beartype can execute it, with the fields of named tuples.

    Self, type variables and protocols that are not @runtime_checkable become Any, because beartype refuses them.
    """
    if hint is Self or isinstance(hint, TypeVar):
        return Any
    if getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False):
        return Any
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return Annotated[hint, FIELDS_FIT]
    arguments = get_args(hint)
    executable = tuple(checkable(argument) for argument in arguments)
    if executable == arguments:
        return hint
    origin = get_origin(hint)
    return Union[executable] if origin is Union or isinstance(hint, UnionType) else origin[executable]  # noqa: UP007


def fields_fit(value: Any) -> bool:
    """Whether every field of a named tuple fits its annotation, all of them with the same axis sizes."""
    with jaxtyping.jaxtyped("context"):
        return all(field_fits(getattr(value, name), hint) for name, hint in field_hints(type(value)).items())


FIELDS_FIT = Is[fields_fit]


def field_fits(value: Any, hint: Any) -> bool:
    try:
        return is_bearable(value, hint, conf=CONF)
    except jaxtyping.AnnotationError:  # an axis such as D/H, from names that are not in the tuple
        return True


@functools.cache
def field_hints(named_tuple: type) -> dict[str, Any]:
    return {name: checkable(hint) for name, hint in get_type_hints(named_tuple).items()}


class OtherFinders:
    """All finders but jaxtyping's own, which asks only PathFinder and so misses packages in editable mode."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not hook)
        return next((spec for spec in specs if spec is not None), None)


assert "nqs" not in sys.modules, "nqs was imported before its annotations could be executed"
hook = jaxtyping.install_import_hook("nqs", f"sys.modules[{__name__!r}].check_types").hook
hook._original_pathfinder = OtherFinders  # a test in test_hilbert.py notices if this stops working


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No executed annotations, as for a user: for errors that nqs itself raises about wrong types, and for speed."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# ------------------------------------------------------------------------------------------------- determinism

# Shared machines are slow at times: no test fails for its duration.
settings.register_profile("nqs", parent=settings(), deadline=None)
settings.load_profile("nqs")


@pytest.fixture(scope="session", autouse=True)
def heeding_interrupts() -> None:
    """A shell starts background commands with SIGINT ignored, and their children would ignore it too."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def deterministic(request: pytest.FixtureRequest) -> Iterator[None]:
    """Also fills uninitialised memory with nan. Not on GPUs, where operators that nqs needs would be refused."""
    torch.use_deterministic_algorithms(request.node.get_closest_marker("gpu") is None)
    yield
    torch.use_deterministic_algorithms(False)


# ------------------------------------------------------------------------------------------------------ devices


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch finds none")


# ------------------------------------------------------------------------------------------------- longer tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=8, help="runs that test_kill.py kills at random moments")
    parser.addoption("--mutations", type=int, default=120, help="damaged archives that test_fuzz.py reads")
    parser.addoption("--fuzz", type=int, default=200, help="hostile archives that test_fuzz_archives.py tries")
