"""Peaked states of any Hamiltonian that names a peak, and runs without sums over the sector."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import nqs
from nqs import exact
from nqs.hamiltonians import BoseHubbard, FermiHubbard
from nqs.lattice import chain
from nqs.models import ListedState
from nqs.optimisation import Evaluation
from nqs.protocols import peak_of
from nqs.recipes import peaked
from nqs.recipes.model import network_of
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler


@dataclass(frozen=True, repr=False)
class Peaked(FermiHubbard):
    """A Hubbard model in strong fields, whose ground state is close to one configuration."""

    @property
    def peak(self) -> Tensor:
        n = self.hilbert.configurations()
        return n[self.diagonal(n).argmin()]


def hubbard() -> Peaked:
    return Peaked(chain(6, boundary="open"), 3, 3, U=2.0, t=0.3, potential=(0.0, 3.0, 0.5, 4.0, 1.0, 5.0))


@pytest.mark.usefixtures("unchecked")
def test_any_hamiltonian_that_names_a_peak_starts_from_a_list() -> None:
    hamiltonian = hubbard()
    assert peak_of(FermiHubbard(chain(6), 3, 3, U=2.0)) is None
    plan = nqs.recipes.plan(hamiltonian, sampled=True, steps=20, device="cpu")
    assert isinstance(network_of(plan.model).reference, ListedState)
    assert "selected configurations" in plan.reason("signs")
    assert plan.reason("symmetry") == ""
    assert isinstance(plan.stages[-1].sampler, GumbelSampler)
    assert peaked.is_peaked(plan.model.build(hamiltonian.hilbert))
    result = nqs.ground_state(hamiltonian, sampled=True, steps=20, device="cpu", progress=False)
    energy = exact.ground_state(hamiltonian).energy
    assert result.exact is None  # was not computed
    assert result.estimate.energy == pytest.approx(energy, abs=1e-4 * abs(energy))


@pytest.mark.parametrize(("attention", "heads"), [("dot-product", peaked.HEADS), ("factored", None)])
def test_the_number_of_heads_is_not_left_to_the_network(attention: str, heads: int | None) -> None:
    found = peaked.listed(hubbard(), "t")
    assert found is not None
    assert peaked.transformer({"attention": attention}, "learned", found[0], "cpu").heads == heads
    assert peaked.transformer({"attention": attention, "heads": 2}, "learned", found[0], "cpu").heads == 2


def test_the_list_is_normalised_and_has_the_energy_of_the_selected_state() -> None:
    hamiltonian = hubbard()
    found = peaked.listed(hamiltonian, "t")
    assert found is not None
    reference, _ = found
    rank = hamiltonian.hilbert.rank(torch.from_numpy(reference.configurations))
    psi = torch.zeros(hamiltonian.hilbert.dimension, dtype=torch.float64)
    psi[rank] = torch.from_numpy(reference.amplitudes)
    psi = (psi / psi.norm()).numpy()
    ground = exact.ground_state(hamiltonian)
    assert abs(psi @ ground.state) ** 2 > 0.99
    assert psi @ exact.sparse_matrix(hamiltonian) @ psi - ground.energy < 0.02


def test_a_state_beside_the_ground_state_does_not_end_with_the_list() -> None:
    """Whose energy is the lowest one."""
    hamiltonian = hubbard()
    ground = exact.ground_state(hamiltonian)
    result = nqs.ground_state(
        hamiltonian, sampled=True, steps=40, device="cpu", progress=False, orthogonal_to=[ground.state]
    )
    assert result.history["overlap_0"][0] > 0.99
    assert result.history["overlap_0"][-1] < 0.9
    assert result.overlaps[0][0] < 0.95
    assert result.estimate.energy > ground.energy + 0.01


def test_sampled_runs_of_a_lattice_have_no_sums() -> None:
    hamiltonian = BoseHubbard(chain(5), 5, U=4.0)
    summed = nqs.recipes.plan(hamiltonian, symmetry="none", device="cpu")
    assert isinstance(summed.stages[-1].sampler, ExhaustiveSampler)
    sampled = nqs.recipes.plan(hamiltonian, symmetry="none", device="cpu", sampled=True)
    assert [stage.name for stage in sampled.stages] == ["main"]
    assert isinstance(sampled.stages[-1].sampler, TreeSampler)
    assert isinstance(sampled.evaluation, Evaluation)
    result = nqs.ground_state(hamiltonian, symmetry="none", sampled=True, steps=3, device="cpu", progress=False)
    assert result.estimate.error > 0
    assert result.exact is None


@dataclass(frozen=True, repr=False)
class Flat(FermiHubbard):
    """A Hubbard model that names a peak, although its ground state has none."""

    @property
    def peak(self) -> Tensor:
        return self.hilbert.configurations()[0]


def test_a_state_without_a_peak_starts_from_the_mean_field() -> None:
    flat = Flat(chain(8), 4, 4, U=1.0)
    assert peaked.listed(flat, "t") is None
    found = nqs.recipes.signs(flat)
    assert found.computed
    assert found.reference == nqs.recipes.signs(FermiHubbard(chain(8), 4, 4, U=1.0)).reference
    assert found.phase == "learned"
    assert "many configurations" in found.why
