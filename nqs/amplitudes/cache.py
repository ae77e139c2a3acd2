"""Amplitude cache: amplitudes computed while sampling are reused, for example in local energies."""

# Shapes: U samples, K configurations of a request, V distinct ones among them that are not sampled, L sites.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nqs.amplitudes.prefixes import log_psi_sharing_prefixes
from nqs.protocols import LogPsi, Wavefunction
from nqs.samples import Lookup, Samples, distinct


class Request(NamedTuple):
    """Configurations whose amplitudes are wanted: each a sample, or one of `unknown`."""

    rows: Int64[Tensor, " K"]  # row among the samples, or U + row among the unknown ones
    unknown: UInt8[Tensor, "V L"]  # distinct, in lexicographic order


def amplitudes_with_cache(
    wavefunction: Wavefunction, n: UInt8[Tensor, "K L"], samples: Samples, known: Lookup | None = None
) -> tuple[LogPsi, int]:
    """log psi of the configurations n, and the number of network evaluations; `known`: lookup of the samples."""
    lookup = known or Lookup(wavefunction.hilbert, samples.configurations)
    (found,), evaluated = amplitudes_of(wavefunction, samples, [request(samples, n, lookup.rows(n), lookup)])
    return found, evaluated


def request(samples: Samples, n: UInt8[Tensor, "K L"], rows: Int64[Tensor, " K"], known: Lookup) -> Request:
    """The request for configurations n, given the row of each among the samples; -1 if not sampled."""
    unknown = (rows < 0).nonzero()[:, 0]
    if not len(unknown):
        return Request(rows, n[:0])
    others = n[unknown]
    first, classes = distinct(known.hilbert, others)
    return Request(rows.index_copy(0, unknown, samples.n_distinct + classes), others[first])


def amplitudes_of(
    wavefunction: Wavefunction, samples: Samples, requests: Sequence[Request]
) -> tuple[list[LogPsi], int]:
    """log psi of what each request asks for, and the number of network evaluations: one for each distinct unknown
    configuration of all requests together, in lexicographic order, so that as many prefixes as possible are shared.
    """
    numbers = [len(each.unknown) for each in requests]
    if not sum(numbers):
        return [LogPsi(samples.log_modulus[rows], samples.phase[rows]) for rows, _ in requests], 0
    filled = [each.unknown for each, number in zip(requests, numbers, strict=True) if number]
    if len(filled) == 1:
        (unknown,) = filled
        evaluated = of_unknown = log_psi_sharing_prefixes(wavefunction, unknown)
    else:
        unknown = torch.cat(filled)
        first, classes = distinct(wavefunction.hilbert, unknown)
        evaluated = log_psi_sharing_prefixes(wavefunction, unknown[first])
        of_unknown = LogPsi(evaluated.log_modulus[classes], evaluated.phase[classes])
    parts = zip(of_unknown.log_modulus.split(numbers), of_unknown.phase.split(numbers), strict=True)
    found = [
        LogPsi(torch.cat([samples.log_modulus, log_modulus])[each.rows], torch.cat([samples.phase, phase])[each.rows])
        for each, (log_modulus, phase) in zip(requests, parts, strict=True)
    ]
    return found, len(evaluated.log_modulus)
