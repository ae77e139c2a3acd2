"""Observables, one kind per file."""

from nqs.observables.densities import correlations, densities, double_occupancy, local_state_probabilities
from nqs.observables.entropy import renyi2_entropy
from nqs.observables.expectation import Expectation
from nqs.observables.momenta import allowed_momenta, structure_factor
from nqs.observables.one_body import condensate_fraction, momentum_distribution, one_body, one_body_density_matrix
from nqs.observables.operators import matrix_element
from nqs.observables.species import site_values
from nqs.observables.spins import spin_correlations
from nqs.observables.state_vector import StateVector, exact_samples, fidelity
from nqs.observables.total_spin import natural_orbitals, total_spin_squared

__all__ = [
    "Expectation",
    "StateVector",
    "allowed_momenta",
    "condensate_fraction",
    "correlations",
    "densities",
    "double_occupancy",
    "exact_samples",
    "fidelity",
    "local_state_probabilities",
    "matrix_element",
    "momentum_distribution",
    "natural_orbitals",
    "one_body",
    "one_body_density_matrix",
    "renyi2_entropy",
    "site_values",
    "spin_correlations",
    "structure_factor",
    "total_spin_squared",
]
