"""Parameters of one run as the start of another: copied exactly where all fits, and a better start where not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import VMC, Archive, ArchiveError, RunConfig, resume
from nqs.archive.serialise import to_plain
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard, Heisenberg
from nqs.lattice import chain, from_edges, honeycomb, square
from nqs.models import MarshallSign, Symmetrised, TransformerConfig
from nqs.pretraining import fit
from nqs.protocols import Wavefunction, WavefunctionConfig
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.samplers.tree import TreeSampling
from nqs.symmetry import translations
from nqs.transfer import counterparts, load, origin, transfer

CONFIG = small_transformer(phase="zero")


def trained(path: Path, hamiltonian: Any, config: WavefunctionConfig = CONFIG, steps: int = 25) -> Archive:
    VMC(hamiltonian, config.build(hamiltonian.hilbert)).run(steps, archive=path, progress=False)
    return Archive.open(path)


def energy(hamiltonian: Any, wavefunction: Wavefunction) -> float:
    samples = ExhaustiveSampler().build(wavefunction).sample(torch.Generator())
    return (samples.weights @ local_energies(hamiltonian, wavefunction, samples).values.real).item()


def with_signs(hamiltonian: Any, **options: Any) -> TransformerConfig:
    sublattice = tuple(hamiltonian.lattice.sublattices().tolist())
    return replace(CONFIG, reference=MarshallSign(sublattice=sublattice), **options)


def test_other_couplings_start_from_the_very_same_state(tmp_path: Path) -> None:
    weak, strong = (BoseHubbard(chain(4), 4, U=U) for U in (4.0, 5.0))
    archive = trained(tmp_path / "weak.h5", weak)
    model = replace(CONFIG, seed=7).build(strong.hilbert)
    random = energy(strong, model)
    said = transfer(model, strong, archive)
    assert said == f"parameters of {tmp_path / 'weak.h5'} after 25 steps"
    assert energy(weak, model) == pytest.approx(archive.result.energy, abs=1e-12)  # type: ignore[union-attr]
    for name, values in archive.parameters().items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), values)
    assert energy(strong, model) < random


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_larger_lattice_starts_lower_than_at_random(tmp_path: Path, symmetric: bool) -> None:
    small, large = (Heisenberg(chain(L), total_sz=0) for L in (6, 8))
    archive = trained(tmp_path / "small.h5", small, with_signs(small))
    config: WavefunctionConfig = with_signs(large)
    if symmetric:
        config = Symmetrised(base=config, symmetry=translations(large.lattice, large.hilbert))
    model = config.build(large.hilbert)
    random = energy(large, model)
    said = transfer(model, large, archive)
    assert said.endswith("after 25 steps, site embeddings repeated from 6 sites")
    exact = -3.651093409
    assert energy(large, model) - exact < 0.3 * (random - exact)


def factored(hamiltonian: Any) -> TransformerConfig:
    classes = tuple(map(tuple, hamiltonian.lattice.displacements().tolist()))
    return replace(CONFIG, heads=None, attention="factored", displacements=classes)


def test_factored_attention_is_carried_over_to_other_lattices_and_couplings(tmp_path: Path) -> None:
    small, large = (BoseHubbard(chain(L, periodic=True), L, U=4.0) for L in (4, 6))
    archive = trained(tmp_path / "small.h5", small, factored(small))
    model = factored(large).build(large.hilbert)
    random = energy(large, model)
    transfer(model, large, archive)
    old = torch.from_numpy(archive.parameters()["blocks.0.attention.mixing.weight"])
    new = model.blocks[0].attention.mixing.weight.detach()
    assert (old.shape, new.shape) == ((8, 4), (8, 6))
    torch.testing.assert_close(new[:, 0], old[:, 0])  # of a site with itself
    assert energy(large, model) < random
    same = replace(factored(small), seed=9).build(small.hilbert)
    transfer(same, small, archive)
    assert energy(small, same) == pytest.approx(archive.result.energy, abs=1e-12)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"attention=factored, here is one with heads=4, attention=dot-product"):
        transfer(replace(CONFIG, heads=4).build(small.hilbert), small, archive)


def test_more_bosons_on_a_larger_lattice(tmp_path: Path) -> None:
    small, large = BoseHubbard(chain(3), 3, U=4.0), BoseHubbard(chain(5), 5, U=4.0)
    archive = trained(tmp_path / "small.h5", small)
    model = CONFIG.build(large.hilbert)
    random = energy(large, model)
    said = transfer(model, large, archive)
    assert said.endswith("site embeddings repeated from 3 sites, local states above 3 start as that one")
    old = archive.parameters()
    token = model.token.weight.detach().numpy()  # type: ignore[union-attr]
    np.testing.assert_array_equal(token, old["token.weight"][[0, 1, 2, 3, 3, 3, 4]])  # the last row opens
    assert energy(large, model) < random


def test_fewer_bosons_than_before(tmp_path: Path) -> None:
    large, small = BoseHubbard(chain(4), 4, U=4.0), BoseHubbard(chain(3), 2, U=4.0)
    archive = trained(tmp_path / "large.h5", large, steps=2)
    model = CONFIG.build(small.hilbert)
    transfer(model, small, archive)
    old = archive.parameters()
    np.testing.assert_array_equal(model.token.weight.detach().numpy(), old["token.weight"][[0, 1, 2, 5]])  # type: ignore[union-attr]
    np.testing.assert_array_equal(model.head.weight.detach().numpy(), old["head.weight"][:3])  # type: ignore[union-attr]


def test_phases_are_copied_between_models_with_the_same_kind_of_reference(tmp_path: Path) -> None:
    h = Heisenberg(chain(4), total_sz=0)
    learned = replace(CONFIG, phase="learned")
    archive = trained(tmp_path / "plain.h5", h, learned, steps=2)
    head = archive.parameters()["head.weight"]
    same, other = replace(learned, seed=3).build(h.hilbert), with_signs(h, phase="learned", seed=3).build(h.hilbert)
    fresh = other.head.weight.detach().clone().numpy()  # type: ignore[union-attr]
    assert "phase head" not in transfer(same, h, archive)
    np.testing.assert_array_equal(same.head.weight.detach().numpy(), head)  # type: ignore[union-attr]
    assert transfer(other, h, archive).endswith("the phase head starts anew")
    found = other.head.weight.detach().numpy()  # type: ignore[union-attr]
    np.testing.assert_array_equal(found, np.concatenate([head[:2], fresh[2:]]))
    positive = CONFIG.build(h.hilbert)
    assert "phase head" not in transfer(positive, h, archive)
    np.testing.assert_array_equal(positive.head.weight.detach().numpy(), head[:2])  # type: ignore[union-attr]


# ----------------------------------------------------------------------------------------------------------- sites


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (6, 8, [0, 1, 2, 3, 2, 3, 4, 5]),
        (6, 12, [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5]),
        (5, 6, [0, 1, 2, 3, 3, 4]),
        (4, 4, [0, 1, 2, 3]),
        (6, 4, [0, 1, 4, 5]),
        (5, 2, [0, 4]),
        (1, 3, [0, 0, 0]),
        (3, 1, [0]),
    ],
)
def test_sites_are_counted_from_both_ends(old: int, new: int, expected: list[int]) -> None:
    small, large = (BoseHubbard(chain(L, periodic=False), 1, U=1.0) for L in (old, new))
    assert counterparts(small, large).tolist() == expected


def test_sites_are_counted_in_each_direction() -> None:
    old, new = (BoseHubbard(square(*shape, "open"), 1, U=1.0) for shape in ((2, 3), (2, 5)))
    assert counterparts(old, new).view(2, 5).tolist() == [[0, 1, 2, 1, 2], [3, 4, 5, 4, 5]]


@pytest.mark.parametrize(
    "lattice", [chain(5), square(2, 3), honeycomb(2, 2), from_edges([(0, 1), (1, 2), (2, 3)], n_sites=4), chain(1)]
)
def test_on_the_same_lattice_each_site_stays_what_it_is(lattice: Any) -> None:
    h = BoseHubbard(lattice, 1, U=1.0)
    assert counterparts(h, h).tolist() == list(range(lattice.n_sites))


def test_lattices_of_different_kinds_are_walked_along_the_numbering() -> None:
    old, new = BoseHubbard(chain(2), 1, U=1.0), BoseHubbard(square(2, 2), 1, U=1.0)
    assert counterparts(old, new).tolist() == [0, 1, 0, 1]


# ---------------------------------------------------------------------------------------------- errors and archives


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    h = BoseHubbard(chain(3), 3, U=4.0)
    archive = trained(tmp_path / "run.h5", h, steps=1)
    wide = replace(CONFIG, width=16, layers=2).build(h.hilbert)
    expected = (
        r"holds a transformer with width=8, layers=1, here is one with width=16, layers=2: .*\(--model.width 8 --mo"
    )
    with pytest.raises(ValueError, match=expected):
        transfer(wide, h, archive)
    spins = Heisenberg(chain(4), total_sz=0)
    with pytest.raises(ValueError, match=r"is about sites that are 0, 1, 2, 3, here they are -1/2, 1/2"):
        transfer(CONFIG.build(spins.hilbert), spins, archive)


def test_a_model_of_another_shape_is_fitted_to_the_loaded_one(tmp_path: Path) -> None:
    h = BoseHubbard(chain(3), 3, U=4.0)
    archive = trained(tmp_path / "run.h5", h, steps=20)
    target = load(archive)
    assert archive.result is not None
    assert energy(h, target) == pytest.approx(archive.result.energy, abs=1e-12)
    model = replace(CONFIG, width=4, heads=1).build(h.hilbert)
    assert fit(model, target, steps=40, progress=False).fidelity > 0.999


def test_a_run_from_other_parameters_resumes_bit_for_bit_even_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h = BoseHubbard(chain(3), 3, U=8.0)
    source = trained(tmp_path / "source.h5", BoseHubbard(chain(3), 3, U=4.0), steps=3)

    def vmc() -> VMC:
        model = CONFIG.build(h.hilbert)
        transfer(model, h, source)
        return VMC(h, model, TreeSampler(n_samples=40), evaluation=TreeSampler(n_samples=300))

    whole = vmc().run(4, archive=tmp_path / "whole.h5", initial=origin(source), progress=False)
    assert Archive.open(tmp_path / "whole.h5").config["initial"] == {"run": origin(source)["run"], "step": 3}

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TreeSampling, "sample", stopped)
        with pytest.raises(KeyboardInterrupt):
            vmc().run(4, archive=tmp_path / "stopped.h5", initial=origin(source), progress=False)
    assert Archive.open(tmp_path / "stopped.h5").step == 0
    assert resume(tmp_path / "stopped.h5", progress=False).estimate == whole.estimate
    with pytest.raises(ArchiveError, match=r"initial\.run: \w+ / None\n  initial\.step: 3 / None\n"):
        vmc().run(4, archive=tmp_path / "whole.h5", progress=False)


def test_an_archive_without_the_parameters_of_its_start_is_not_resumed(tmp_path: Path) -> None:
    h = BoseHubbard(chain(3), 3, U=8.0)
    vmc = VMC(h, CONFIG.build(h.hilbert))
    config = to_plain(vmc.config(RunConfig(steps=3, annealing=0.5), {"run": "0", "step": 1}))
    Archive.create(tmp_path / "run.h5", config=config, hamiltonian=str(h), unit="J").close()
    with pytest.raises(ArchiveError, match="stopped before its initial parameters were kept: repeat the command"):
        resume(tmp_path / "run.h5", progress=False)
