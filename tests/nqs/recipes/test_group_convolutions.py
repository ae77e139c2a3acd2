"""Group convolutions for frustrated spins: when recipes choose them, and a run."""

from pathlib import Path

import pytest

import nqs
from nqs.hamiltonians import BoseHubbard, Heisenberg
from nqs.lattice import chain, square, triangular
from nqs.models import GroupConvolutionalConfig, MarshallSign, TransformerConfig
from nqs.optimisation import StochasticReconfiguration
from nqs.recipes import NetworkOptions, plan
from nqs.recipes.model import network_of
from nqs.samplers import MetropolisSampler

FRUSTRATED = Heisenberg(square(6, 6), total_sz=0, J=(1.0, 0.5))
REQUESTED = NetworkOptions(network="group-convolutional")


def test_frustrated_spins_beyond_sums_get_group_convolutions() -> None:
    chosen = plan(FRUSTRATED, device="cpu")
    model, (stage,) = chosen.model, chosen.stages
    assert isinstance(model, GroupConvolutionalConfig)
    assert isinstance(model.reference, MarshallSign)
    assert model.symmetry.order == 576
    assert isinstance(stage.sampler, MetropolisSampler)
    assert stage.sampler.powers == (pytest.approx(2 / 3),)
    assert isinstance(stage.optimiser, StochasticReconfiguration)
    assert stage.optimiser.final_diagonal_shift == stage.optimiser.diagonal_shift
    assert chosen.evaluation.sampler.powers == (1.0,)
    assert "frustrated spins on a lattice of several dimensions" in chosen.reason("model")
    assert chosen.reason("symmetry") == "576 symmetries in the network, all even"


@pytest.mark.parametrize(
    ("hamiltonian", "options"),
    [
        (Heisenberg(square(4, 4), total_sz=0, J=(1.0, 0.5)), {}),  # orbits can be listed
        (Heisenberg(chain(32), total_sz=0, J=(1.0, 0.4)), {}),  # one dimension
        (Heisenberg(square(6, 6, boundary="open"), total_sz=0, J=(1.0, 0.5)), {}),  # fewer symmetries than sites
        (FRUSTRATED, {"symmetry": "none"}),
        (FRUSTRATED, {"distinct": 100}),
        (FRUSTRATED, {"reference": "none"}),
        (FRUSTRATED, {"model": NetworkOptions(network="transformer")}),
        (FRUSTRATED, {"model": NetworkOptions(attention="factored")}),
    ],
)
def test_others_keep_the_transformer(hamiltonian: Heisenberg, options: dict[str, object]) -> None:
    assert isinstance(network_of(plan(hamiltonian, device="cpu", **options).model), TransformerConfig)


def test_wishes_are_followed() -> None:
    wishes = NetworkOptions(network="group-convolutional", width=3, layers=1, phase="zero", dtype="mixed", seed=4)
    model = plan(BoseHubbard(square(2, 3), n_particles=4, U=4.0), device="cpu", model=wishes).model
    assert isinstance(model, GroupConvolutionalConfig)
    assert (model.width, model.layers, model.phase, model.dtype, model.seed) == (3, 1, "zero", "mixed", 4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"determinants": 2}, "determinants=2: group convolutions have no such option"),
        ({"attention": "factored"}, "attention='factored': group convolutions have no such option"),
        ({"heads": 2}, "heads=2: group convolutions have no such option"),
        ({"width": 0}, "width=0: it must be at least 1"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkOptions(network="group-convolutional", **options)


def test_group_convolutions_need_a_symmetry() -> None:
    uneven = Heisenberg(square(2, 2, boundary="open"), total_sz=0, J=(1.0, 0.5), h=(0.1, 0.2, 0.3, 0.9))
    with pytest.raises(ValueError, match="network='group-convolutional' needs a symmetry"):
        plan(uneven, device="cpu", model=REQUESTED)


@pytest.mark.parametrize(
    ("hamiltonian", "options", "message"),
    [
        # Of six spins the ground state is odd under the spin flip, which nobody knows without its signs.
        (Heisenberg(chain(6), total_sz=0, J=(1.0, 0.5)), {"reference": "none"}, "its symmetry sector, are not known"),
        (Heisenberg(triangular(4, 4), total_sz=0), {}, "its symmetry sector, are not known"),
        (FRUSTRATED, {"symmetry": "none"}, "leave out symmetry='none'"),
        (Heisenberg(square(12, 12), total_sz=0, J=(1.0, 0.5)), {}, "at most 2,048 are allowed"),
    ],
)
def test_sectors_that_are_not_known_are_refused(
    hamiltonian: Heisenberg, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(hamiltonian, device="cpu", model=REQUESTED, **options)


def test_a_run_comes_close_to_the_ground_state_and_is_continued(tmp_path: Path) -> None:
    hamiltonian, path = Heisenberg(chain(10), total_sz=0, J=(1.0, 0.5)), tmp_path / "run.h5"
    exact = nqs.exact.ground_state(hamiltonian).energy
    options = {"model": REQUESTED, "sampled": True, "device": "cpu", "progress": False, "archive": path}
    result = nqs.ground_state(hamiltonian, steps=60, distinct=256, **options)
    assert result.estimate.energy == pytest.approx(exact, rel=1e-2)
    again = nqs.ground_state(hamiltonian, steps=60, distinct=256, **options)
    assert again.estimate == result.estimate
