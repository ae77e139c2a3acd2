"""Amplitude cache: amplitudes computed while sampling are reused, for example in local energies."""

# Shapes: U samples, K connected configurations, L sites.

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nqs.amplitudes.prefixes import log_psi_sharing_prefixes
from nqs.protocols import LogPsi, Wavefunction
from nqs.samples import Lookup, Samples, distinct


def amplitudes_with_cache(
    wavefunction: Wavefunction, n: UInt8[Tensor, "K L"], samples: Samples, known: Lookup | None = None
) -> tuple[LogPsi, int]:
    """log psi of the configurations n, and the number of network evaluations; `known`: lookup of the samples."""
    lookup = known or Lookup(wavefunction.hilbert, samples.configurations)
    return amplitudes_at(wavefunction, n, samples, lookup.rows(n))


def amplitudes_at(
    wavefunction: Wavefunction, n: UInt8[Tensor, "K L"], samples: Samples, rows: Int64[Tensor, " K"]
) -> tuple[LogPsi, int]:
    """The same, given the row of each configuration among the samples; -1 if not sampled."""
    unknown = (rows < 0).nonzero()[:, 0]
    if not len(unknown):
        return LogPsi(samples.log_modulus[rows], samples.phase[rows]), 0
    first, classes = distinct(wavefunction.hilbert, n[unknown])
    evaluated = log_psi_sharing_prefixes(wavefunction, n[unknown[first]])
    rows = rows.index_copy(0, unknown, samples.n_distinct + classes)
    return LogPsi(
        torch.cat([samples.log_modulus, evaluated.log_modulus])[rows], torch.cat([samples.phase, evaluated.phase])[rows]
    ), len(first)
