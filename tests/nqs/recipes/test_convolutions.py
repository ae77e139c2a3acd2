"""Which network recipes choose for positive ground states, and a run of it."""

from pathlib import Path

import pytest
import torch

import nqs
from nqs.hamiltonians import TV, BoseHubbard, Heisenberg, Ising
from nqs.lattice import chain, from_edges, square
from nqs.models import ConvolutionalConfig, MarshallSign, Projected, TransformerConfig
from nqs.protocols import Hamiltonian
from nqs.recipes import NetworkOptions, convolutions, plan
from nqs.recipes.model import network_of
from nqs.samplers import LocalMoves, MetropolisSampler

BOSONS = BoseHubbard(square(4, 4), n_particles=16, U=8.0)
SPINS = Heisenberg(square(6, 6), total_sz=0)


@pytest.mark.parametrize("hamiltonian", [BOSONS, SPINS], ids=str)
def test_positive_states_beyond_sums_get_convolutions(hamiltonian: Hamiltonian) -> None:
    chosen = plan(hamiltonian, device="cpu")
    assert isinstance(chosen.model, ConvolutionalConfig)
    lattice = hamiltonian.lattice
    assert chosen.model.displacements == tuple(map(tuple, lattice.displacements().tolist()))
    (stage,) = chosen.stages
    assert isinstance(stage.sampler, MetropolisSampler)
    assert chosen.run.total_minutes == 5
    assert "conserved charges on a lattice of several dimensions" in chosen.reason("model")


@pytest.mark.parametrize(
    ("hamiltonian", "device", "wins"),
    [
        (SPINS, "cuda", False),  # averages over a symmetry are affordable
        (SPINS, "cpu", True),
        (BOSONS, "cuda", False),
        (BOSONS, "cpu", True),
        (Heisenberg(square(8, 8), total_sz=0), "cuda", True),
    ],
)
def test_averages_over_a_symmetry_come_first_on_a_gpu(hamiltonian: Hamiltonian, device: str, wins: bool) -> None:
    assert bool(convolutions.reason(hamiltonian, None, {}, "zero", device)) == wins


def test_signs_of_a_rule_are_a_reference() -> None:
    model = plan(SPINS, device="cpu").model
    assert isinstance(model, ConvolutionalConfig)
    assert isinstance(model.reference, MarshallSign)


def test_sites_differ_where_symmetries_say_so() -> None:
    hamiltonians = (BOSONS, Heisenberg(square(5, 5, boundary="open"), total_sz=0.5))
    periodic, opened = (plan(h, device="cpu").model for h in hamiltonians)
    assert isinstance(periodic, ConvolutionalConfig)
    assert periodic.sites == ()
    assert isinstance(opened, ConvolutionalConfig)
    assert len(set(opened.sites)) == 6  # a square of 5 x 5 sites has six that its point group does not relate


def test_evaluation_on_a_gpu_projects_on_the_point_group() -> None:
    model, text = convolutions.convolutional(BOSONS, {}, None, "cuda")
    assert isinstance(model, Projected)
    assert model.symmetry.order == 8
    assert model.trained == (0,)
    assert "8 symmetries" in text
    alone, _ = convolutions.convolutional(BOSONS, {}, None, "cuda", symmetric=False)
    assert alone == model.base


@pytest.mark.parametrize(
    ("hamiltonian", "options"),
    [
        (Heisenberg(square(4, 4), total_sz=0), {}),  # a sum
        (Ising(chain(20), h=1.0), {}),  # samples, and a sum in the evaluation
        (Ising(square(5, 5, boundary="open"), h=3.0), {}),  # nothing is conserved
        (Heisenberg(chain(32), total_sz=0), {}),  # one dimension
        (Heisenberg(square(32, 1), total_sz=0), {}),
        (TV(chain(32), n_particles=15, V=1.0), {}),
        (Heisenberg(from_edges([(i, (i + 1) % 32) for i in range(32)]), total_sz=0), {}),
        (Heisenberg(chain(32), total_sz=0, J=(1.0, 0.4)), {}),  # signs to learn
        (SPINS, {"distinct": 100}),
        (SPINS, {"reference": "none"}),
        (SPINS, {"model": NetworkOptions(network="transformer")}),
        (SPINS, {"model": NetworkOptions(attention="dot-product")}),
        (SPINS, {"model": NetworkOptions(phase="zero")}),
    ],
)
def test_others_keep_the_transformer(hamiltonian: Hamiltonian, options: dict[str, object]) -> None:
    chosen = plan(hamiltonian, device="cpu", **options)
    assert isinstance(network_of(chosen.model), TransformerConfig)


@pytest.mark.parametrize(
    "hamiltonian", [Ising(square(5, 5, boundary="open"), h=3.0), Heisenberg(chain(32), 0.0)], ids=str
)
def test_others_may_have_convolutions(hamiltonian: Hamiltonian) -> None:
    chosen = plan(hamiltonian, device="cpu", model=NetworkOptions(network="convolutional"))
    assert isinstance(chosen.model, ConvolutionalConfig)
    assert isinstance(chosen.stages[0].sampler, MetropolisSampler)


def test_amplitudes_copy_tables_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hamiltonian = Heisenberg(square(4, 4), total_sz=0)
    wishes = NetworkOptions(network="convolutional", width=8)
    model = plan(hamiltonian, device="cpu", model=wishes).model.build(hamiltonian.hilbert).for_steps()
    n = hamiltonian.hilbert.random(5, torch.Generator().manual_seed(0))
    first = model.log_psi(n)

    def copy(*_: object, **__: object) -> None:
        raise AssertionError("a copy from the host waits for the device")

    for name in ("tensor", "from_numpy", "as_tensor"):
        monkeypatch.setattr(torch, name, copy)
    again = model.log_psi(n)
    assert torch.equal(again.log_modulus, first.log_modulus)
    assert torch.equal(again.phase, first.phase)


def test_wishes_are_followed() -> None:
    wishes = NetworkOptions(network="convolutional", width=8, layers=1, dtype="mixed", seed=4)
    chosen = plan(Heisenberg(square(4, 4), total_sz=0), device="cpu", model=wishes, distinct=64)
    model = chosen.model
    assert isinstance(model, ConvolutionalConfig)
    assert (model.width, model.layers, model.dtype, model.seed) == (8, 1, "mixed", 4)
    sampler = chosen.stages[0].sampler
    assert isinstance(sampler, MetropolisSampler)
    assert (sampler.n_samples, sampler.n_chains) == (64, 64)
    near = sampler.moves[0]
    assert isinstance(near, LocalMoves)
    assert near.sites == tuple(map(tuple, square(4, 4).bonds().tolist()))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"determinants": 2}, "determinants=2: convolutions have none"),
        ({"attention": "dot-product"}, "attention='dot-product': convolutions have weights by displacement"),
        ({"phase": "learned"}, "phase='learned': convolutions are positive"),
        ({"width": 0}, "width=0: it must be at least 1"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkOptions(network="convolutional", **options)


def test_convolutions_need_known_signs() -> None:
    frustrated = Heisenberg(square(4, 4), total_sz=0, J=(1.0, 0.5))
    with pytest.raises(ValueError, match="network='convolutional' needs a lattice and a ground state that is positive"):
        plan(frustrated, device="cpu", model=NetworkOptions(network="convolutional"))


def test_lattices_made_from_edges_have_weights_by_distance() -> None:
    ring = from_edges([(i, (i + 1) % 24) for i in range(24)])
    model = plan(Heisenberg(ring, total_sz=0), device="cpu", model=NetworkOptions(network="convolutional")).model
    assert isinstance(model, ConvolutionalConfig)
    assert model.displacements is not None
    assert model.displacements[0] == tuple(min(i, 24 - i) for i in range(24))


def test_a_run_comes_close_to_the_ground_state_and_is_continued(tmp_path: Path) -> None:
    hamiltonian, path = BoseHubbard(square(2, 3), n_particles=4, U=4.0), tmp_path / "run.h5"
    exact = nqs.exact.ground_state(hamiltonian).energy
    wishes = NetworkOptions(network="convolutional", width=8)
    options = {"model": wishes, "sampled": True, "device": "cpu", "progress": False, "archive": path, "distinct": 256}
    result = nqs.ground_state(hamiltonian, steps=60, **options)
    assert result.estimate.energy == pytest.approx(exact, rel=5e-3)
    assert result.estimate.v_score < 1e-2
    again = nqs.ground_state(hamiltonian, steps=60, **options)
    assert again.estimate == result.estimate
