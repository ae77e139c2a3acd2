"""Expectation values and matrix elements of any operator in a wavefunction, or in the state of an archive."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.archive.archive import Archive
from nqs.hilbert import count_text
from nqs.observables.expectation import Expectation
from nqs.observables.operators import matrix_element
from nqs.observables.two_body import moves_of_two, two_body_density_matrix
from nqs.optimisation.stages import Evaluation
from nqs.protocols import AutoregressiveWavefunction, SamplerConfig, Wavefunction
from nqs.recipes.samplers import final_evaluation
from nqs.runtime.memory import require_memory
from nqs.runtime.options import OptionError, check_options, has, whole
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.samples import Samples, fewer
from nqs.vmc.rebuilding import rebuild
from nqs.vmc.stored import check_parameters, one_line

State = Wavefunction | Archive | str | Path
AMPLITUDES = {"cpu": 2**22, "cuda": 2**27}  # of density matrices
BYTES = 128  # of a configuration of a sum, besides its sites: weight, amplitude, local value


def expect(
    operator: Any,
    state: State,
    samples: Samples | SamplerConfig | int | None = None,
    *,
    bra: State | None = None,
    seed: int = 0,
    types: Mapping[str, type] | None = None,
    device: torch.device | str = "cpu",
) -> Expectation:
    """<psi|O|psi> with its standard error; with `bra` <phi|O|psi>, also between two sectors.

    The value is real where the operator is Hermitian, complex elsewhere; the error is 0 for exhaustive sums. Definition
    and bias: nqs.observables.operators.

    Args:
        operator: a sum of products (nqs.hamiltonians.operators), or anything with `diagonal` and `connected`, such as a
            Hamiltonian; a list of operators gives arrays, from the same samples.
        state: psi: a wavefunction, or the archive of a run, whose wavefunction after the last step is taken.
        samples: of psi, of phi where there is a bra; a sampler, or the number of independent samples to draw. By
            default the sampler of the archive's final evaluation, or a choice by the dimension of the sector.
        bra: phi; samples are drawn from it.
        seed: of the samples that are drawn.
        types: classes of your own that the archive was built from, by name.
        device: of the wavefunction that an archive is rebuilt on.

    Raises:
        ValueError: an operator that does not fit the space, is not Hermitian and does not say so, or leads between
            states that are not normalised.
        TypeError: no operator, or a state that cannot be sampled.
        ArchiveError: no readable archive, or no finished step in it.

    >>> from nqs import exact
    >>> from nqs.hamiltonians import Heisenberg, operators
    >>> from nqs.lattice import chain
    >>> from nqs.observables import StateVector
    >>> ring = Heisenberg(chain(6), total_sz=0, spin=1)
    >>> psi = StateVector(ring.hilbert, exact.ground_state(ring).state)
    >>> found = expect([operators.exchange(0, 1), operators.splus(0) * operators.sminus(3)], psi)
    >>> print([f"{x:.6f}" for x in found.value.real.tolist()])
    ['-1.436237', '-0.572132']
    """
    check_options(seed=seed, types=types, device=device)
    if samples is not None and not (whole(samples) or isinstance(samples, Samples) or has("build")(samples)):
        raise OptionError(
            f"samples=<{type(samples).__name__}>: give a whole number, a sampler's configuration or Samples, or leave "
            "it out."
        )
    ket, sampler = _wavefunction(state, types, device)
    sampled = ket
    if bra is not None:
        sampled, sampler = _wavefunction(bra, types, device)
    generator = torch.Generator(_device_of(sampled)).manual_seed(seed)
    if not isinstance(samples, Samples):
        if isinstance(samples, int):
            samples = TreeSampler(n_samples=samples)
        chosen = samples or sampler or _chosen(sampled, generator.device)
        if isinstance(chosen, Evaluation):
            chosen = chosen.whole
        samples = chosen.build(sampled).sample(generator)
    samples = sampled.to_sector_samples(samples, generator)
    several = isinstance(operator, Sequence)
    found = [
        matrix_element(one, samples, sampled, None if bra is None else ket)
        for one in (operator if several else [operator])
    ]
    if not several:
        return found[0]
    dtype = torch.complex128 if any(value.is_complex() for value, _ in found) else torch.float64
    return Expectation(torch.stack([value.to(dtype) for value, _ in found]), torch.stack([error for _, error in found]))


def _wavefunction(
    state: State, types: Mapping[str, type] | None, device: torch.device | str
) -> tuple[Wavefunction, SamplerConfig | None]:
    """The state and, of an archive, the sampler of its evaluation.

    Raises:
        TypeError: neither.
    """
    if isinstance(state, Wavefunction):
        return state, None
    if isinstance(state, (np.ndarray, torch.Tensor)):
        raise TypeError(
            f"a vector of shape {tuple(state.shape)} does not say which configurations its amplitudes belong to: give "
            "nqs.observables.StateVector(hilbert, vector)."
        )
    if not isinstance(state, (Archive, str, Path)):
        raise TypeError(
            f"{type(state).__name__} is no state: give a wavefunction, the archive of a run or its path, or "
            "nqs.observables.StateVector(hilbert, vector)."
        )
    archive = state if isinstance(state, Archive) else Archive.open(state)
    built = rebuild(archive.config, types, only=("hamiltonian", "model", "evaluation"))
    with one_line(archive.place):
        check_parameters(built["model"], built["hamiltonian"].hilbert, archive)
        wavefunction: Wavefunction = built["model"].build(built["hamiltonian"].hilbert, device)
        wavefunction.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in archive.parameters().items()})
    return wavefunction, built["evaluation"]


def density_matrices(
    state: State,
    *,
    seed: int = 0,
    types: Mapping[str, type] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Float64[Tensor, "M M"], Expectation]:
    """One- and two-body density matrices of electrons (nqs.observables.two_body), from samples of its own.

    As many distinct samples as take about half a minute of a CPU; all configurations of sectors that are smaller.

    Args:
        state, types, device: as in `expect`.
        seed: of the samples.

    Raises:
        ValueError: no electrons in orbitals, or too many of them.
        TypeError, ArchiveError: as `expect`.
    """
    psi, sampler = _wavefunction(state, types, device)
    generator = torch.Generator(_device_of(psi)).manual_seed(seed)
    most = max(1, AMPLITUDES[generator.device.type] // (psi.n_images * moves_of_two(psi.hilbert)))
    chosen: Any
    if psi.hilbert.dimension <= most:
        chosen = ExhaustiveSampler()
    elif isinstance(psi.sampled, AutoregressiveWavefunction):
        chosen = TreeSampler(n_distinct=most)
    else:
        chosen = sampler.sampler if isinstance(sampler, Evaluation) else sampler or _chosen(psi, generator.device)
    samples = psi.to_sector_samples(chosen.build(psi).sample(generator), generator)
    two = two_body_density_matrix(samples if samples.n_distinct <= most else fewer(samples, most, generator), psi)
    pairs = torch.einsum("ppqq->", two.value).item()  # N (N - 1)
    others = round((math.sqrt(1 + 4 * pairs) - 1) / 2)
    return torch.einsum("pqrr->pq", two.value) / max(1, others), two


def _chosen(wavefunction: Wavefunction, device: torch.device) -> SamplerConfig | Evaluation:
    """By the dimension of the sector; a state that cannot be drawn from is summed.

    Raises:
        ValueError: that sum does not fit into memory.
    """
    if isinstance(wavefunction.sampled, AutoregressiveWavefunction):
        return final_evaluation(wavefunction, device)
    dimension, n_sites = wavefunction.hilbert.dimension, wavefunction.hilbert.n_sites
    require_memory(
        dimension * (n_sites + BYTES),
        f"the sum over all {count_text(dimension)} configurations of a {type(wavefunction).__name__}",
        "give samples of it",
        device,
    )
    return ExhaustiveSampler(max_dimension=wavefunction.n_images * dimension)


def _device_of(wavefunction: Wavefunction) -> torch.device:
    tensors = (*wavefunction.parameters(), *wavefunction.buffers())
    return tensors[0].device if tensors else torch.device("cpu")
