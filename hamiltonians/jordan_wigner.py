r"""Fermions that hop on a lattice: the Jordan-Wigner signs, and what the fermionic families share.

    H_t = - sum_k sum_<ij>_k t_ij (e^{i theta_ij} c+_j c_i + h.c.),   |n> = c+_{s_1} c+_{s_2} .. c+_{s_N} |0>

with the k-th neighbours <ij>_k as the lattice lists them and the occupied orbitals s_1 < s_2 < .. in Jordan-Wigner
order. A hop between the orbitals i and j passes the electrons between them, so that for n = n' with one electron moved
from i to j

    <n|c+_j c_i|n'> = (-1)^(number of electrons strictly between i and j).

Spinful families put ALL UP ORBITALS FIRST in the order of the sites, then all down orbitals: a hop that conserves the
spin passes only electrons of its own spin, and each spin has the signs of spinless fermions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64, Num, UInt8
from torch import Tensor

from nqs.hamiltonians.couplings import Numbers, is_zero, values
from nqs.hilbert.fermion_signs import fermions_between
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected


class Hops(NamedTuple):
    """Every bond in each direction, with the amplitude of <n|H|n'> for n' = n with one electron moved along it."""

    source: Int64[Tensor, " M"]
    target: Int64[Tensor, " M"]
    amplitude: Num[Tensor, " M"]  # without the Jordan-Wigner sign; complex128 only where a bond carries a phase


def lattice_hops(lattice: Lattice, t: Sequence[Any], twist: Numbers | None = None) -> Hops:
    """The hops of H_t; amplitudes that are zero have none.

    Args:
        lattice: bonds, and the signs of antiperiodic boundaries.
        t: t_1, t_2, ..., for each order of neighbours one amplitude, or a tuple with one for each bond.
        twist: one boundary angle per direction, radians: theta_ij = lattice.twist_phases(twist, k).

    Raises:
        ValueError: an order that the lattice does not have, or a twist that does not fit it.
    """
    angles = torch.zeros(len(lattice.shape)) if twist is None else torch.as_tensor(twist, dtype=torch.float64)
    bonds = [torch.zeros(0, 2, dtype=torch.int64)]
    amplitudes = [torch.zeros(0, dtype=torch.float64)]
    phases = [torch.zeros(0, dtype=torch.float64)]
    for order, strength in enumerate(t, start=1):
        if is_zero(strength):
            continue
        try:
            signs, theta = lattice.signs(order), lattice.twist_phases(angles, order)
        except ValueError as error:
            raise ValueError(f"hopping between neighbours of order {order}: {error}") from error
        amplitude = -values(strength, len(signs)) * signs
        active = amplitude != 0
        bonds.append(lattice.bonds(order)[active])
        amplitudes.append(amplitude[active])
        phases.append(theta[active])
    i, j = torch.cat(bonds).T
    amplitude, theta = torch.cat(amplitudes), torch.cat(phases)
    if theta.any():
        amplitude = amplitude * torch.polar(torch.ones_like(theta), theta)
    # <n|H|n'> with the electron of n on i and that of n' on j moves it back from j to i, against the bond.
    return Hops(torch.cat([i, j]), torch.cat([j, i]), torch.cat([amplitude.conj(), amplitude]))


def hopped(
    n: UInt8[Tensor, "B L"], occupied: Bool[Tensor, "B L"], free: Bool[Tensor, "B L"], hops: Hops, electron: int
) -> Connected:
    """One electron of one spin moves along each hop from an occupied to a free site.

    Args:
        n: configurations.
        occupied: the sites with an electron of this spin.
        free: the sites to which one can hop.
        hops: bonds in each direction, with amplitudes.
        electron: bit of this spin in a local state.
    """
    source, target, amplitude = (part.to(n.device) for part in hops)
    parents, hop = (occupied[:, source] & free[:, target]).nonzero().T  # (K,) each
    source, target, amplitude = source[hop], target[hop], amplitude[hop]
    odd = fermions_between(occupied, parents, source, target) % 2 == 1
    return Connected(toggled(n[parents], source, target, electron), torch.where(odd, -amplitude, amplitude), parents)


def toggled(n: UInt8[Tensor, "K L"], i: Int64[Tensor, " K"], j: Int64[Tensor, " K"], bits: int) -> UInt8[Tensor, "K L"]:
    """n, changed in place: the bits of its local states on two sites of each row flipped."""
    k = torch.arange(len(n), device=n.device)
    n[k, i] ^= bits
    n[k, j] ^= bits
    return n


def joined(parts: Sequence[Connected]) -> Connected:
    """Connected configurations of several terms, concatenated."""
    configurations, elements, parents = zip(*parts, strict=True)
    return Connected(torch.cat(configurations), torch.cat(elements), torch.cat(parents))


def never_positive(hops: Hops, n_sites: int, n_others: int | None) -> bool:
    """Whether these hops have no positive element between any two configurations of the sector.

    The Jordan-Wigner sign is definite where the number of electrons between the two sites is the same in every
    configuration: nearest neighbours of a chain have none, the bond that closes a ring has all others between them.
    On any other bond of a partly filled lattice both signs occur.

    Args:
        hops: amplitudes without that sign.
        n_sites: number of sites L.
        n_others: electrons that the sign counts, anywhere but on the two sites; None if their number is free.
    """
    if hops.amplitude.is_complex():
        return False
    if n_others is not None and not 0 <= n_others <= n_sites - 2:  # no electron, or no free site
        return True
    inside = (hops.source - hops.target).abs() - 1  # (M,) sites between
    if n_others is None:
        fewest, most = torch.zeros_like(inside), inside
    else:
        fewest = (n_others - (n_sites - 2 - inside)).clamp(min=0)  # all other sites full
        most = inside.clamp(max=n_others)
    sign = 1 - 2 * (fewest % 2)
    return bool(((fewest == most) & (hops.amplitude * sign <= 0)).all())
