"""Functions whose keyword options are the fields of a dataclass."""

import inspect
from dataclasses import dataclass, fields

import pytest

import nqs
from nqs import driver, recipes
from nqs.hamiltonians import Heisenberg
from nqs.lattice import chain
from nqs.recipes import Choices
from nqs.runtime.keywords import takes

H = Heisenberg(chain(4), total_sz=0)


@dataclass(frozen=True, kw_only=True)
class Base:
    """Options.

    Attributes:
        x: a number,
            on two lines.
        y: of the base.
    """

    x: int = 1
    y: str = "base"


@dataclass(frozen=True, kw_only=True)
class More(Base):
    """More of them.

    Attributes:
        y: another text.

    Raises:
        ValueError: never.
    """

    y: str = "more"


@takes(More)
def product(factor: int, options: More) -> str:
    """A text, times.

    Args:
        factor: how often.
        {options}

    Raises:
        TypeError: an unknown option.
    """
    return factor * options.x * options.y


def test_options_are_the_fields() -> None:
    assert product(2) == product(factor=2) == "moremore"
    assert product(1, x=2, y="a") == "aa"
    assert str(inspect.signature(product)) == "(factor: int, *, x: int = 1, y: str = 'more') -> str"
    with pytest.raises(TypeError, match=r"product\(\) got an unexpected keyword argument 'z'"):
        product(1, z=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"product\(\) missing a required argument: 'factor'"):
        product()  # type: ignore[call-arg]


def test_the_documentation_is_that_of_the_fields() -> None:
    lines = [line.strip() for line in inspect.getdoc(product).splitlines()]  # type: ignore[union-attr]
    assert lines[3:7] == ["factor: how often.", "x: a number,", "on two lines.", "y: another text."]
    assert lines[-1] == "TypeError: an unknown option."


def test_every_option_of_a_run_is_in_its_signature_and_documented() -> None:
    for function, kind in ((recipes.plan, Choices), (nqs.ground_state, driver.Options)):
        parameters = list(inspect.signature(function).parameters)[1:]
        assert set(parameters) == {field.name for field in fields(kind)}
        documentation = inspect.getdoc(function) or ""
        missing = [name for name in parameters if f"    {name}: " not in documentation]
        assert not missing


@pytest.mark.usefixtures("unchecked")
def test_unknown_options_are_refused() -> None:
    for call in (recipes.plan, nqs.ground_state):
        with pytest.raises(TypeError, match=rf"{call.__name__}\(\) got an unexpected keyword argument 'stepz'"):
            call(H, stepz=3)  # type: ignore[call-arg]
