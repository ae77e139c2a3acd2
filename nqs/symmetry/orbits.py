"""Lists one representative of every orbit of a group on a sector without enumerating all configurations.

Configurations grow site by site. A prefix is discarded as soon as some element of the group maps all of its
continuations to smaller configurations: then none of them is the lexicographically smallest of its orbit. The
configurations that remain after the last site are the representatives (orderly generation; Read, Ann. Discrete Math. 2,
107 (1978)).
"""

# Shapes: F prefixes, G group elements, L sites, d local states, s sites of a prefix, E of the elements, W words.
import math

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.runtime.memory import max_chunk_rows, require_memory

EXACT_INTEGERS = 2**53  # float64 represents every integer below exactly


def smallest_of_orbits(
    permutations: np.ndarray, maps: np.ndarray, hilbert: HilbertSpace, device: torch.device
) -> tuple[UInt8[Tensor, "N L"], Int64[Tensor, " N"]]:
    """The smallest configuration of every orbit, in lexicographic order, and the number of members of the orbit.

    Args:
        permutations, maps: of the elements as in `nqs.symmetry.Symmetry`, (G, L) and (G, d); they keep the sector.

    Raises:
        ValueError: the list does not fit into memory.
    """
    G, d = maps.shape
    tables = hilbert.tables(device)
    prefixes = torch.empty((1, 0), dtype=torch.uint8, device=device)
    remainder = torch.full((1,), hilbert.start, device=device)
    decided_before = np.zeros(G, dtype=int)
    for s in range(hilbert.n_sites):
        grown = len(prefixes) * d
        require_memory(
            grown * (3 * (s + 1) + 5 * 8),
            f"the list of the orbits of {G} symmetries in a sector of dimension {hilbert.dimension:,}, with up to "
            f"{grown:,} beginnings of {s + 1} sites,",
            "choose a smaller system or sector, or do without symmetries",
            device,
        )
        row, token = (tables.log_uniform[s, remainder] > -torch.inf).nonzero().T
        prefixes = torch.cat([prefixes.index_select(0, row), token[:, None].to(torch.uint8)], dim=1)
        remainder = tables.after(s, remainder[row], token)
        # Number of leading sites of each image that the prefix determines. Only images with more than before matter.
        decided = np.cumprod(permutations <= s, axis=1).sum(1)
        news = decided > decided_before
        decided_before = decided
        if s + 1 < hilbert.n_sites and news.any():
            words = differences(permutations[news], maps[news], decided[news], s + 1).to(device)
            rows = max_chunk_rows(8 * (3 * words.shape[2] + d * (s + 1)), device)
            kept = torch.cat([(compared(part, words) >= 0).all(1) for part in prefixes.split(rows)])
            prefixes, remainder = prefixes[kept], remainder[kept]
    words = differences(permutations, maps, decided, hilbert.n_sites).to(device)
    rows = max_chunk_rows(8 * (3 * G + d * hilbert.n_sites), device)
    orders = (compared(part, words) for part in prefixes.split(rows))
    kept, stabilisers = map(torch.cat, zip(*(((o >= 0).all(1), (o == 0).sum(1)) for o in orders), strict=True))
    return prefixes[kept], G // stabilisers[kept]


def differences(
    permutations: np.ndarray, maps: np.ndarray, decided: np.ndarray, length: int
) -> Float64[Tensor, "W sd E"]:
    """Coefficients of the one-hot prefix in the keys of its images less its own key, of their leading sites.

    Keys are exact integers, in as many words as the sites need, the most significant first.
    """
    E, d = maps.shape
    per_word = max(1, int(math.log(EXACT_INTEGERS / 2) / math.log(max(d, 2))))
    words = np.zeros((-(-length // per_word), length, d, E))
    for t in range(int(decided.max())):
        word, place = divmod(t, per_word)
        unit = float(d) ** (per_word - 1 - place)
        known = np.flatnonzero(decided > t)
        words[word, permutations[known, t], :, known] += unit * maps[known]  # image site t has the state of perm_g[t]
        words[word, t, :, known] -= unit * np.arange(d)
    return torch.from_numpy(words.reshape(len(words), length * d, E))


def compared(n: UInt8[Tensor, "F s"], words: Float64[Tensor, "W sd E"]) -> Float64[Tensor, "F E"]:
    """Negative, zero or positive, as the image under an element is smaller, equal or larger."""
    d = words.shape[1] // n.shape[1]
    one_hot = (n[:, :, None] == torch.arange(d, device=n.device)).flatten(1).double()
    order = one_hot @ words[0]
    for word in words[1:]:
        order = torch.where(order == 0, one_hot @ word, order)
    return order
