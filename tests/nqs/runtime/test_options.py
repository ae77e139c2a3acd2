"""Options of wrong types at the public doors: one line each, with what was found and what is allowed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from networks import small_transformer
from optimisers import exact_steps, natural_gradient

import nqs
from nqs import VMC
from nqs.archive import FlushPolicy
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.models import Transformer, TransformerConfig
from nqs.optimisation.stages import Evaluation, RunConfig
from nqs.recipes import NetworkOptions, OptimiserOptions, plan
from nqs.samplers import GumbelSampler, TreeSampler

pytestmark = pytest.mark.usefixtures("unchecked")
H = BoseHubbard(chain(3), 3, U=4.0)


def model() -> Transformer:
    return small_transformer().build(H.hilbert)


WRONG = {
    "steps in words": ({"steps": "ten"}, r"steps='ten' is a str: give a whole number, or None\."),
    "steps as text": ({"steps": "10"}, r"steps='10' is a str: .*; leave the quotes out, steps=10\."),
    "half a step": ({"steps": 2.5}, r"steps=2\.5 is a float: give a whole number, or None\."),
    "steps as float": ({"steps": 10.0}, r"steps=10\.0 is a float: .*; write steps=10\."),
    "steps as bool": ({"steps": True}, r"steps=True is a bool"),
    "minutes as text": ({"minutes": "5"}, r"minutes='5' is a str: give a number, or None; leave the quotes out"),
    "seed": ({"seed": "a"}, r"seed='a' is a str: give a whole number"),
    "no seed": ({"seed": None}, r"seed=None is a NoneType: give a whole number"),
    "temperature": ({"temperature": [1]}, r"temperature=\[1\] is a list: give a number"),
    "model": ({"model": {"width": 8}}, r"model=\{'width': 8\} is a dict: give NetworkOptions\(\.\.\.\)"),
    "class of a model": ({"model": TransformerConfig}, r"model=.*: give NetworkOptions"),
    "reference": ({"reference": "marshall"}, r"reference='marshall' is a str: give \"auto\", \"none\" or a ref"),
    "symmetry": ({"symmetry": 3}, r"symmetry=3 is a int: give \"auto\" or \"none\""),
    "optimiser": ({"optimiser": "adam"}, r"optimiser='adam' is a str: give OptimiserOptions"),
    "distinct": ({"distinct": "many"}, r"distinct='many' is a str: give a whole number"),
    "device": ({"device": 0}, r"device=0 is a int: give \"cpu\" or \"cuda\""),
    "threads": ({"threads": "two"}, r"threads='two' is a str: give a whole number"),
    "pretrain": ({"pretrain": 1}, r"pretrain=1 is a int: give \"none\", \"mean-field\" or \"exact\""),
}  # fmt: skip
OF_A_RUN = {
    "archive": ({"archive": 3}, r"archive=3 is a int: give the path of a file, or None"),
    "watchers": ({"watch": [3]}, r"watch=\[3\] is a list: give a list of observers with the methods step\(row\)"),
    "watcher": ({"watch": 3}, r"watch=3 is a int: give a list of observers"),
    "until": ({"until": 1e-3}, r"until=0\.001 is a float: give a function of a row of the history"),
    "flush": ({"flush": 10}, r"flush=10 is a int: give a FlushPolicy"),
    "progress": ({"progress": "no"}, r"progress='no' is a str: give True or False"),
    "exact": (
        {"exact": "yes"},
        r"exact='yes' is a str: give \"auto\", what exact\.ground_state returned, or an energy",
    ),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_plans(options: dict[str, Any], message: str) -> None:
    for call in (plan, nqs.ground_state):
        with pytest.raises(TypeError, match=message) as error:
            call(H, **options)  # type: ignore[operator]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("options", "message"), OF_A_RUN.values(), ids=OF_A_RUN)
def test_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        nqs.ground_state(H, **options)
    with pytest.raises(TypeError, match=message):
        VMC(H, model()).run(1, **options)


DOORS: dict[str, tuple[Callable[[], Any], str]] = {
    "no Hamiltonian": (lambda: nqs.ground_state(None), r"hamiltonian=None is a NoneType: give an object with hilbert"),
    "a class": (lambda: nqs.ground_state(BoseHubbard), r"hamiltonian=.*give an object with hilbert, diagonal and"),
    "plan of nothing": (lambda: plan("Heisenberg"), r"hamiltonian='Heisenberg' is a str"),
    "VMC of nothing": (lambda: VMC(3, None), r"hamiltonian=3 is a int"),
    "no model": (
        lambda: VMC(H, small_transformer()),
        r"wavefunction=.* is a TransformerConfig: give a model built for",
    ),
    "no sampler": (lambda: VMC(H, model(), TreeSampler), r"sampler=.*not a class"),
    "steps of VMC": (lambda: VMC(H, model()).run("ten"), r"steps='ten' is a str"),
    "unknown option": (lambda: VMC(H, model()).run(3, sede=1), r"run\(\) has no option sede"),
    "seed of VMC": (lambda: VMC(H, model()).run(3, seed="a"), r"RunConfig: seed='a' is a str"),
    "samples": (lambda: nqs.expect(H, model(), "many"), r"samples=<str>: give a whole number"),
    "seed of expect": (lambda: nqs.expect(H, model(), seed=0.5), r"seed=0\.5 is a float"),
    "run": (
        lambda: RunConfig(steps="ten", annealing=0.5),
        r"RunConfig: steps='ten' is a str: give a whole number, or None",
    ),
    "annealing": (lambda: RunConfig(annealing="half"), r"RunConfig: annealing='half' is a str: give a number"),
    "tree": (lambda: TreeSampler(n_distinct="100"), r"TreeSampler: n_distinct='100' .* leave the quotes out"),
    "gumbel": (lambda: GumbelSampler(n_distinct=10.5), r"GumbelSampler: n_distinct=10\.5 is a float: give a whole"),
    "network": (lambda: NetworkOptions(width="wide"), r"NetworkOptions: width='wide' is a str"),
    "transformer": (lambda: small_transformer(layers=1.5), r"TransformerConfig: layers=1\.5 is a float"),
    "rate": (lambda: OptimiserOptions(learning_rate="fast"), r"OptimiserOptions: learning_rate='fast' is a str"),
    "steps of SR": (lambda: natural_gradient(max_step="1"), r"max_step='1' is a str: .* max_step=1"),
    "exact steps": (lambda: exact_steps(time=None), r"ExactSteps: time=None is a NoneType: give a number"),
    "evaluation": (lambda: Evaluation(sampler=TreeSampler(n_samples=1), batches="2", error=1.0), r"batches='2' is a"),
    "flush": (lambda: FlushPolicy(longest="1 min"), r"FlushPolicy: longest='1 min' is a str: give a number"),
}


@pytest.mark.parametrize(("call", "message"), DOORS.values(), ids=DOORS)
def test_doors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_numbers_of_numpy_are_numbers() -> None:
    config = RunConfig(steps=np.int64(3), temperature=np.float64(0.5), annealing=1)
    assert (config.steps, config.temperature) == (3, 0.5)
    assert plan(H, steps=np.int32(2), seed=np.uint8(1), device="cpu", threads=1).steps == 2
