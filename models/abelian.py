"""Abelian subgroups and their characters: convolutions over them are products in Fourier space."""

# Shapes: G elements of a group, T of an abelian subgroup, r powers of an element.
import numpy as np
from jaxtyping import Int64

MAX_SEEDS = 64  # elements that a search begins with


def largest_abelian_subgroup(products: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """Elements of a large abelian subgroup, the identity (0) first; found greedily, the largest one of several.

    Args:
        products: index of the element g h, (G, G).
        preferred: all elements in the order in which they are tried, (G,).
    """
    commute = products == products.T
    best = np.zeros(1, dtype=np.int64)
    for seed in preferred[:MAX_SEEDS]:
        found, candidates, element = np.zeros(1, dtype=np.int64), np.ones(len(products), dtype=bool), int(seed)
        while True:
            found = products[np.ix_(_powers_outside(products, found, element), found)].reshape(-1)
            candidates &= commute[element]
            others = candidates.copy()
            others[found] = False
            if not others.any():
                break
            element = int(preferred[others[preferred]][0])
        if len(found) > len(best):
            best = found
    return best


def characters(products: np.ndarray) -> np.ndarray:
    """Arguments of the characters of an abelian group in units of 2 pi, one row for each: (T, T).

    By extension from a subgroup H to the group that H and one more element a generate: chi(a)^r = chi(a^r) where a^r is
    the first power in H.

    Args:
        products: index of the element g h, (T, T); the identity is 0.
    """
    found, angles = np.zeros(1, dtype=np.int64), np.zeros((1, 1))
    while len(found) < len(products):
        element = int(np.setdiff1d(np.arange(len(products)), found)[0])
        powers = _powers_outside(products, found, element)
        r = len(powers)
        first_inside = int(products[powers[-1], element])
        of_element = (angles[:, found == first_inside] + np.arange(r)) / r  # (characters of H, r)
        new = angles[:, None, None] + of_element[:, :, None, None] * np.arange(r)[:, None]
        angles = new.reshape(len(angles) * r, -1)
        found = products[np.ix_(powers, found)].reshape(-1)
    return angles[:, np.argsort(found)] % 1.0


def _powers_outside(products: np.ndarray, subgroup: np.ndarray, element: int) -> Int64[np.ndarray, " r"]:
    """1, a, a^2, .. before the first power in the subgroup."""
    powers = [0]
    while (following := int(products[powers[-1], element])) not in subgroup:
        powers.append(following)
    return np.array(powers, dtype=np.int64)


def real_transform(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines and sines of one of each pair of conjugate characters, (K, T) each, and how many it stands for, (K,).

    x(t) = 1/T sum_k m_k Re[chi_k(t)^* X_k] for real x with X_k = sum_t chi_k(t) x(t).
    """
    T = len(angles)
    keys = [tuple(row) for row in np.rint(angles * 2 * T).astype(int) % (2 * T)]
    conjugate = [tuple(row) for row in -np.rint(angles * 2 * T).astype(int) % (2 * T)]
    kept = [k for k in range(T) if keys[k] <= conjugate[k]]
    number = np.array([1 if keys[k] == conjugate[k] else 2 for k in kept])
    turns = 2 * np.pi * angles[kept]
    return np.cos(turns), np.sin(turns), number
