"""Local states, conserved charges, and the sectors of the Hilbert space that they define."""

from nqs.hilbert.charges import Charge, Kind, Species, Values
from nqs.hilbert.completions import SectorTables, count_text
from nqs.hilbert.constructors import bosons, electrons, fermions, one_for_each, product_space, spinful_fermions, spins
from nqs.hilbert.exclusions import Exclusion, excluded_pairs
from nqs.hilbert.space import MAX_LOCAL_STATES, HilbertSpace

__all__ = [
    "MAX_LOCAL_STATES",
    "Charge",
    "Exclusion",
    "HilbertSpace",
    "Kind",
    "SectorTables",
    "Species",
    "Values",
    "bosons",
    "count_text",
    "electrons",
    "excluded_pairs",
    "fermions",
    "one_for_each",
    "product_space",
    "spinful_fermions",
    "spins",
]
