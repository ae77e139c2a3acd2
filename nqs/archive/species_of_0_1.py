"""Species of particles, which archives of version 0.1 do not state."""

from collections.abc import Callable
from dataclasses import replace

from nqs.hilbert import Charge, HilbertSpace, Species, bosons, electrons, fermions, spins


def with_species(hilbert: HilbertSpace) -> HilbertSpace:
    """A Hilbert space without species, with the species of the constructor that makes an equal space.

    Other spaces are returned unchanged.
    """
    L, d, states = hilbert.n_sites, hilbert.local_dim, hilbert.state_names
    targets = [charge.target for charge in hilbert.charges]
    total = targets[0] if len(targets) == 1 else None
    candidates: list[Callable[[], HilbertSpace]] = [
        lambda: fermions(L, total),
        lambda: bosons(L, total, d - 1),
        lambda: spins(L, None if total is None else total / 2, (d - 1) / 2),
        lambda: electrons(L, states, *targets),
        lambda: _electrons_of_fixed_total(L, total),
    ]
    for build in candidates:
        try:
            candidate = build()
        except (TypeError, ValueError):  # impossible for this constructor
            continue
        if candidate == hilbert:
            return replace(hilbert, species=candidate.species)
    return hilbert


def _electrons_of_fixed_total(n_sites: int, total: int | None) -> HilbertSpace:
    """Electrons with a fixed total number, as imported from NetKet; its Jordan-Wigner order has spin down first."""
    up, down = (0, 1, 0, 1), (0, 0, 1, 1)
    species = (
        Species("down electrons", "fermion", down, tuple(-n for n in down)),
        Species("up electrons", "fermion", up, up),
    )
    charge = Charge("electrons", (0, 1, 1, 2), total)
    return HilbertSpace(n_sites, ("empty", "up", "down", "both"), (charge,), species)
