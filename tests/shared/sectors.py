"""Small sectors of every kind, in which models and samplers are tested."""

from nqs.hilbert import Charge, HilbertSpace, bosons, fermions, spinful_fermions, spins

SPACES: dict[str, HilbertSpace] = {
    "bosons": bosons(4, 4),
    "bosons with a cutoff": bosons(4, 5, n_max=2),
    "grand-canonical bosons": bosons(3, None, n_max=3),
    "fermions": fermions(6, 3),
    "electrons": spinful_fermions(3, 2, 1),
    "spins 1/2": spins(6, 0),
    "spins 1": spins(4, 1, spin=1),
    "fermions of odd parity": HilbertSpace(5, ("empty", "occupied"), (Charge("parity", (0, 1), 1, 2),)),
    "one site": bosons(1, None, n_max=4),
    "one configuration": bosons(3, 0),
}
