"""The formula of a Hamiltonian with its numbers, for `repr`."""

from collections.abc import Iterable


def signed_sum(terms: Iterable[tuple[float, str]]) -> str:
    """'-1 sum_i X_i + 0.5 sum_i Z_i' from factors and operators; terms with factor 0 are left out."""
    text = " + ".join(f"{factor:g} {operator}" for factor, operator in terms if factor)
    return text.replace("+ -", "- ") or "0"
