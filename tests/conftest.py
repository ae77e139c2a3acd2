"""Every test runs with the shape annotations of nqs executed, on one deterministic CPU thread."""

import ast
import functools
import importlib.machinery
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, ClassVar, Self, TypeVar, Union, get_args, get_origin, get_type_hints

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # NetKet is only a reference here: leave the GPU to nqs
# Compiling what NetKet computes takes longer than its matrices, which are small.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.vale import Is
from hypothesis import settings
from jaxtyping._import_hook import Typechecker
from matplotlib.figure import Figure

# ------------------------------------------------------------------------------------------ executed annotations

CONF = BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError)  # int for float, as for mypy


def execute(decorated: Any) -> Any:
    """A function, or the `__init__` of a dataclass, whose calls are checked against its annotations.

    `jaxtyping.jaxtyped(typechecker=...)` checks the same, but its calls take longer than most that they check. Here a
    call like one before, with tensors of the same shapes and dtypes, is not checked again, and the check is compiled
    when a call needs it first: functions inside functions are defined anew in every call of the outer one.
    """
    if isinstance(decorated, type):
        written = getattr(decorated.__dict__.get("__init__"), "executed", False)
        if is_dataclass(decorated) and "__init__" in decorated.__dict__ and not written:
            decorated.__init__ = execute(decorated.__init__)  # type: ignore[misc]
        return decorated
    if decorated.__module__ == "nqs.models.triton_kernels":  # their sources are compiled, in their own module
        return decorated
    if inspect.isgeneratorfunction(decorated):  # its body runs after the call
        return jaxtyping.jaxtyped(decorated, typechecker=check_types)
    checks = Checks.of(decorated)
    checked: Callable | None = None

    @functools.wraps(decorated)
    def executed(*arguments: Any, **options: Any) -> Any:
        nonlocal checked
        if jaxtyping.config.jaxtyping_disable:
            return decorated(*arguments, **options)
        kinds: Any = ()
        if checks.alike:
            kinds = tuple(map(kind, arguments))
            if options:
                kinds = (kinds, *options, *map(kind, options.values()))
            results = checks.accepted.get(kinds)
            if results is not None:
                result = decorated(*arguments, **options)
                if (found := kind(result)) not in results:
                    checks.check(arguments, options, result=result)
                    results.add(found)
                return result
        if checks.short_lived:
            checks.check(arguments, options)
            result = decorated(*arguments, **options)
            checks.check(arguments, options, result=result)
        else:
            checked = checked or check_types(decorated)
            with jaxtyping.jaxtyped("context"):  # one name, one size: in all arguments and what is returned
                result = checked(*arguments, **options)
        if checks.alike:
            checks.accepted.setdefault(kinds, set()).add(kind(result))
        return result

    executed.executed = True  # type: ignore[attr-defined]
    return executed


class Checks:
    """What is known of the calls of a function, and of all that are made from the same lines.

    Attributes:
        hints: its annotations, as beartype can execute them.
        alike: values of one kind all fit them, or none.
        accepted: kinds of results by those of arguments.
    """

    known: ClassVar[dict[int, list["Checks"]]] = {}  # by the id of the code: its hash takes long

    def __init__(self, function: Callable) -> None:
        self.code, self.name = function.__code__, function.__qualname__  # kept, so that no other code gets its id
        self.signature = inspect.signature(function)
        self.names, self.annotations = function.__globals__, dict(function.__annotations__)
        self.accepted: dict[Any, set[Any]] = {}

    @classmethod
    def of(cls, function: Callable) -> "Checks":
        """Those of a function with the same code and annotations."""
        same = cls.known.setdefault(id(function.__code__), [])
        for checks in same:
            if checks.annotations == function.__annotations__:
                return checks
        same.append(cls(function))
        return same[-1]

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        return {name: checkable(known(hint, self.names)) for name, hint in self.annotations.items()}

    @functools.cached_property
    def alike(self) -> bool:
        return all(map(decided_by_kind, self.hints.values()))

    @functools.cached_property
    def short_lived(self) -> bool:
        """Defined inside a function: compiling a check for each of its objects would take longer than its calls."""
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return "<locals>" in self.name and all(p.kind not in several for p in self.signature.parameters.values())

    def check(self, arguments: tuple[Any, ...], options: dict[str, Any], **result: Any) -> None:
        """Arguments, and a result if there is one, one value after the other.

        Raises:
            jaxtyping.TypeCheckError: one of them does not fit.
        """
        values = self.signature.bind(*arguments, **options).arguments
        if result:
            values["return"] = result["result"]
        with jaxtyping.jaxtyped("context"):
            for name, hint in self.hints.items():
                if name in values and not is_bearable(values[name], hint, conf=CONF):
                    raise jaxtyping.TypeCheckError(f"{self.name}: {name} is no {hint}: {values[name]!r}")


CLASS, ARRAY, TUPLE = range(3)
LAYOUTS: dict[type, int] = {}


def kind(value: Any) -> Any:
    """What decides about a value for hints that are `decided_by_kind`."""
    cls = type(value)
    layout = LAYOUTS.get(cls)
    if layout is None:
        array = issubclass(cls, torch.Tensor | np.ndarray)
        layout = LAYOUTS[cls] = ARRAY if array else TUPLE if issubclass(cls, tuple) else CLASS
    if layout == CLASS:
        return cls
    return (cls, value.dtype, value.shape) if layout == ARRAY else (cls, *map(kind, value))


def decided_by_kind(hint: Any) -> bool:
    """Whether values of one kind all fit an annotation, or none: tensors, classes, short tuples, and unions of them."""
    if get_origin(hint) is Annotated:
        cls = get_args(hint)[0]
        return get_args(hint)[1:] == (FIELDS_FIT,) and all(map(decided_by_kind, field_hints(cls).values()))
    if get_origin(hint) in (Union, UnionType, tuple):
        return all(argument is not ... and decided_by_kind(argument) for argument in get_args(hint))
    plain = isinstance(hint, type) and not getattr(hint, "_is_protocol", False) and not get_args(hint)
    return hint is Any or hint is None or get_origin(hint) is Callable or plain


def check_types(function: Callable) -> Callable:
    """beartype on what it can check in a single function, without names that are not there when it is defined."""
    function.__annotations__ = dict(Checks.of(function).hints)
    return beartype(conf=CONF)(function)


def known(hint: Any, names: dict[str, Any]) -> Any:
    """A hint whose texts are resolved; Any if one of them is not."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"hint": hint}), names, include_extras=True)["hint"]
    except NameError:
        return Any


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


class Executed(Typechecker):
    """Puts `execute` itself before functions and classes, not `jaxtyped(typechecker=execute)`."""

    def get_ast(self) -> ast.expr:
        return super().get_ast().keywords[0].value


assert "nqs" not in sys.modules, "nqs was imported before its annotations could be executed"
hook = jaxtyping.install_import_hook("nqs", None).hook
hook._original_pathfinder = OtherFinders  # a test in test_hilbert.py notices if this stops working
hook._typechecker = Executed(f"sys.modules[{__name__!r}].execute")


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


# ------------------------------------------------------------------------------------------------------ archives


@pytest.fixture(scope="session", autouse=True)
def archives_read_by_one_process() -> Iterator[None]:
    """Tests of the child process itself start their own: own_reader in tests/nqs/archive/test_untrusted_archives.py."""
    from one_reader import one_reader  # it imports nqs

    with one_reader():
        yield


# ------------------------------------------------------------------------------------------------------ figures


@pytest.fixture
def drawn_figures() -> None:
    """For tests of what is drawn: see `empty_figures`."""


@pytest.fixture(autouse=True)
def empty_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes more time than a toy run: figures are made up and written everywhere, but their lines and texts are
    drawn only in the tests of reports, in those with the fixture `drawn_figures`, and by other processes."""
    if "report" not in request.node.path.parts and "drawn_figures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "draw", lambda *_: None)


# ------------------------------------------------------------------------------------------------------ devices


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests, those of scripts, come first: no worker then waits for the last test of another one."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/scripts/"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch finds none")


# ------------------------------------------------------------------------------------------------- longer tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=8, help="runs that test_kill.py kills at random moments")
    parser.addoption("--mutations", type=int, default=120, help="damaged archives that test_fuzz.py reads")
    parser.addoption("--fuzz", type=int, default=200, help="hostile archives that test_fuzz_archives.py tries")
