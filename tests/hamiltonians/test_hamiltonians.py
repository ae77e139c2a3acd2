"""The contract that the rest of the package relies on, for every Hamiltonian; NetKet's operators are the reference.

A new Hamiltonian joins with one line in CONTRACT, and every check below then runs on it.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nqs import exact
from nqs.archive.serialise import from_plain, to_plain
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import TJ, TV, FermiHubbard, LocalHamiltonian, NetKetOperator, to_netket
from nqs.observables import StateVector, exact_samples
from nqs.protocols import max_connected
from nqs.vmc.continuation import known_types

from families import (
    as_it_was_in_netket,
    as_its_family_in_netket,
    bose_hubbard,
    bose_hubbard_in_netket,
    dipolar_bosons,
    dipolar_bosons_in_netket,
    fermions,
    fermions_in_netket,
    heisenberg,
    heisenberg_in_netket,
    ising,
    ising_in_netket,
    local_hamiltonians,
    molecule_in_netket,
    molecules,
    netket_operators,
    rydberg,
    rydberg_in_netket,
)
from matrices import assert_same, dense, netket_matrix, rows


class Family(NamedTuple):
    """A family under contract.

    Attributes:
        recipes: functions that build small members: a strategy of hypothesis, such as `st.sampled_from([build])`.
        netket: operators of NetKet whose sum is the same Hamiltonian, in its sector.
        projected: NetKet's operators also lead out of the sector, which the Hamiltonian leaves out.
    """

    recipes: st.SearchStrategy[Callable[[], Any]]
    netket: Callable[[Any], list[Any]]
    projected: bool = False


CONTRACT = {
    "BoseHubbard": Family(bose_hubbard(), bose_hubbard_in_netket),
    "Heisenberg": Family(heisenberg(), heisenberg_in_netket),
    "Ising": Family(ising(), ising_in_netket),
    "Rydberg": Family(rydberg(), rydberg_in_netket, projected=True),
    "FermiHubbard": Family(fermions(FermiHubbard), fermions_in_netket),
    "TV": Family(fermions(TV), fermions_in_netket),
    "TJ": Family(fermions(TJ), fermions_in_netket, projected=True),
    "Molecule": Family(molecules(), molecule_in_netket, projected=True),  # one sector of the orbital parities
    "DipolarBosons": Family(dipolar_bosons(), dipolar_bosons_in_netket),  # of docs/adding_hamiltonian.md
    "LocalHamiltonian": Family(local_hamiltonians(), as_its_family_in_netket, projected=True),  # t-J among them
    "NetKetOperator": Family(netket_operators(), as_it_was_in_netket),
}

every_family = pytest.mark.parametrize("family", CONTRACT.values(), ids=CONTRACT)
drawn = given(data=st.data())
EXAMPLES = settings(max_examples=15)


@every_family
@EXAMPLES
@drawn
def test_matrix_is_hermitian_and_equals_netket(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    matrix = dense(h)
    assert_same(matrix, matrix.conj().T)
    assert_same(exact.sparse_matrix(h).toarray(), matrix)
    assert_same(matrix, netket_matrix(h.hilbert, *family.netket(h), projected=family.projected))


@every_family
@EXAMPLES
@drawn
def test_connected_is_flat_without_zeros_or_duplicates_inside_the_sector(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    n = h.hilbert.configurations()
    diagonal, (k, elements, parents) = h.diagonal(n), h.connected(n)
    assert diagonal.dtype == torch.float64
    assert diagonal.shape == (len(n),)
    assert k.dtype == torch.uint8
    assert k.shape == (len(parents), h.hilbert.n_sites)
    assert elements.dtype in (torch.float64, torch.complex128)
    assert elements.shape == parents.shape
    assert (elements != 0).all()
    assert (k != n[parents]).any(1).all()
    assert h.hilbert.contains(k).all()
    for charge in h.hilbert.charges:
        values, sites = torch.from_numpy(h.hilbert.table(charge.values).copy()), torch.arange(h.hilbert.n_sites)
        change = values[sites, k.long()].sum(1) - values[sites, n[parents].long()].sum(1)
        if charge.target is not None:
            assert ((change % charge.modulus if charge.modulus else change) == 0).all()
    listed = [(p, *row) for p, row in zip(parents.tolist(), k.tolist(), strict=True)]
    assert len(set(listed)) == len(listed)


@every_family
@EXAMPLES
@drawn
def test_any_batch_gives_the_rows_of_the_matrix(family: Family, data: st.DataObject) -> None:
    """In any order, with repetitions, alone, or empty; and the batch itself is left as it was."""
    h = data.draw(family.recipes)()
    index = data.draw(st.lists(st.integers(0, h.hilbert.dimension - 1), max_size=20))
    n = h.hilbert.configurations()[torch.tensor(index, dtype=torch.int64)]
    before = n.clone()
    assert_same(rows(h, n), dense(h)[index])
    assert torch.equal(n, before)


@every_family
@EXAMPLES
@drawn
def test_no_row_has_more_than_the_largest_number_connected(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    parents = h.connected(h.hilbert.configurations()).parents
    assert parents.bincount(minlength=1).max() <= max_connected(h)


@every_family
@EXAMPLES
@drawn
def test_local_energy_of_an_eigenstate_has_no_variance(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    matrix = dense(h)
    energies, states = np.linalg.eigh(matrix)
    which = data.draw(st.integers(0, len(energies) - 1))
    psi = np.where(np.abs(states[:, which]) > 1e-6, states[:, which], 0.0)  # where it is 0, E_loc is not defined
    samples = exact_samples(h.hilbert, psi)
    local = local_energies(h, StateVector(h.hilbert, states[:, which]), samples).values
    deviation = (local - energies[which]).abs() * samples.log_modulus.exp()
    assert deviation.max() < 1e-12 * max(1.0, np.abs(matrix).sum(1).max())


@every_family
@settings(max_examples=80)
@drawn
def test_stoquastic_means_no_positive_off_diagonal_element(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    if getattr(h, "is_stoquastic", False):  # optional: a hint for the choice of the model
        elements = h.connected(h.hilbert.configurations()).elements
        assert (elements.imag == 0).all() if elements.is_complex() else True
        assert (elements.real <= 0).all()


@every_family
@EXAMPLES
@drawn
def test_to_netket_and_back(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    back = NetKetOperator.from_netket(to_netket(h))
    assert back.hilbert == h.hilbert
    assert_same(dense(back), dense(h))


@every_family
@EXAMPLES
@drawn
def test_serialisation_through_json(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    again = from_plain(json.loads(json.dumps(to_plain(h))), known_types() | {type(h).__name__: type(h)})
    assert type(again) is type(h)
    assert again.hilbert == h.hilbert
    assert str(again) == str(h)
    assert np.array_equal(dense(again), dense(h))


@every_family
@EXAMPLES
@drawn
def test_hamiltonians_are_values(family: Family, data: st.DataObject) -> None:
    """Equal by content, hashable, frozen."""
    recipe = data.draw(family.recipes)
    h = recipe()
    assert h == recipe()
    assert hash(h) == hash(recipe())
    with pytest.raises(dataclasses.FrozenInstanceError):
        h.hilbert = None


@every_family
@EXAMPLES
@drawn
def test_text_is_a_formula_with_its_normalisation(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    text = repr(h)
    assert text == str(h)
    if isinstance(h, (LocalHamiltonian, NetKetOperator)):  # which says what it was made of
        return
    formula = text.split("H = ")[1].split(", twist")[0]
    assert not any(pair in formula for pair in ("--", "+ -", "- -", "-0 "))
    if "2 Sz" in (charge.name for charge in h.hilbert.charges) or isinstance(h, TJ):
        assert "S = " in text or "Pauli" in text


@pytest.mark.gpu
@every_family
@EXAMPLES
@drawn
def test_gpu_agrees_with_cpu(family: Family, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    n = h.hilbert.configurations()
    torch.testing.assert_close(h.diagonal(n.cuda()).cpu(), h.diagonal(n), rtol=1e-14, atol=1e-13)
    for found, expected in zip(h.connected(n.cuda()), h.connected(n), strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-14, atol=1e-13)
