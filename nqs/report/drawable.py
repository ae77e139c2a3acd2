"""Contents of an archive as they can be drawn: shapes are checked, long curves thinned, non-finite values left out.

A valid archive may hold anything: what matplotlib cannot draw, or not within seconds, is refused with one line.
"""

import numpy as np

from nqs.archive.archive import Archive
from nqs.archive.errors import ArchiveError
from nqs.report.panels import SCALARS, Arrays
from nqs.runtime.text import printable

MAX_POINTS = 10_000  # of a curve: more than a figure has pixels
LARGEST = 1e100  # of a value: axes square their ranges
# Axes of observables by name or beginning of the name; a letter that occurs twice has one size. L sites, d local
# states, S sites or modes, K momenta, D directions.
AXES = {
    "local_state_probabilities": "Ld",
    "density_": "S",
    "spin_correlations": "LL",
    "correlations_": "LL",
    "distances": "LL",
    "one_body_density_matrix": "LL",
    "momentum_distribution": "K",
    "particle_wave_vectors": "KD",
    "structure_factor_": "Q",
    "wave_vectors": "QD",
}
MAX_SIZES = {"d": 256, "D": 16}  # MAX_POINTS for other letters
PLAIN = ("distances", "particle_wave_vectors", "wave_vectors", "local_state_probabilities")  # without error bars
MAX_CELLS = 2**24  # of a matrix over pairs of sites


def history_of(run: Archive) -> dict[str, np.ndarray]:
    """Columns of the history for curves: about MAX_POINTS rows at most, nan for values that cannot be drawn.

    "elapsed" is the sum of the seconds until each step.
    """
    columns = {name: finite(values) for name, values in run.history.items()}
    columns["elapsed"] = columns["seconds"].cumsum()
    every = -(-len(columns["seconds"]) // MAX_POINTS)
    return {name: values[::every] for name, values in columns.items()}


def finite(values: np.ndarray) -> np.ndarray:
    """Floating-point numbers, nan where they are not finite or too large to draw."""
    values = values.astype(complex if values.dtype.kind == "c" else float)
    values[~(np.abs(values) < LARGEST)] = np.nan
    return values


def exact_energy_of(run: Archive) -> float | None:
    """The stored exact energy, if it can be drawn."""
    energy = (run.exact or {}).get("energy")
    return float(energy) if energy is not None and abs(energy) < LARGEST else None


def observables_of(run: Archive) -> Arrays:
    """Observables whose shapes are those that nqs measures.

    Raises:
        ArchiveError: other shapes, sizes or types, or an observable without its error bars.
    """
    found, sizes = run.observables(), dict[str, int]()
    for name, values in found.items():
        if values.dtype.kind not in "fiuc":
            raise _misshapen(run, name, f"of type {values.dtype}")
        scalar = name.removesuffix("_error").removesuffix("_exact") in (*SCALARS, "double_occupancy")
        if scalar and (not values.size or values.dtype.kind == "c"):
            raise _misshapen(run, name, f"{values.dtype} of shape {values.shape}")
        axes = _axes(name)
        if axes is None:
            continue
        if len(axes) != values.ndim:
            raise _misshapen(run, name, f"of shape {values.shape}, not ({', '.join(axes)})")
        bound = {} if axes in ("S", "Ld") else sizes  # densities of sites and of modes may differ
        for letter, size in zip(axes, values.shape, strict=True):
            allowed = MAX_SIZES.get(letter, MAX_POINTS)
            if not 0 < size <= allowed or bound.setdefault(letter, size) != size or values.size > MAX_CELLS:
                raise _misshapen(run, name, f"of shape {values.shape}: sizes must fit together, up to {allowed:,}")
        if name.endswith("_error"):
            if values.dtype.kind == "c" or (values < 0).any():
                raise _misshapen(run, name, "not real and non-negative")
        elif not name.endswith("_exact") and name not in PLAIN and f"{name}_error" not in found:
            raise _misshapen(run, name, "without error bars")
    if "momentum_distribution" in found and "wave_vectors" in found and "particle_wave_vectors" not in found:
        raise _misshapen(run, "momentum_distribution", "without particle_wave_vectors")
    if {"wave_vectors", "particle_wave_vectors"} <= found.keys():
        a, b = found["wave_vectors"].shape[1], found["particle_wave_vectors"].shape[1]
        if a != b:
            raise _misshapen(run, "wave_vectors", f"in {a} directions, those of particles in {b}")
    return {name: finite(values) for name, values in found.items()}


def _axes(name: str) -> str | None:
    stem = name.removesuffix("_error").removesuffix("_exact")
    beginnings = (axes for key, axes in AXES.items() if stem == key or (key.endswith("_") and stem.startswith(key)))
    return next(beginnings, None)


def _misshapen(run: Archive, name: str, what: str) -> ArchiveError:
    return ArchiveError(
        f"{run.path} cannot be drawn: its observable {printable(name, longest=60)} is {what}. "
        "It was not written by a run of nqs."
    )
