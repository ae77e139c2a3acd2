"""Products of local operators on one site: tables of a local state and a factor for every local state."""

import math
from typing import Any, NamedTuple

from nqs.hilbert import HilbertSpace, Species

KINDS = {"b": ("boson",), "b+": ("boson",), "c": ("fermion",), "c+": ("fermion",), "n": ("boson", "fermion")}
KINDS |= dict.fromkeys(("S+", "S-", "Sz"), ("spin",))

# Number of each species, then 2 S^z of each localised spin; the index of the state where those do not tell it.
Content = tuple[int, ...]


class Table(NamedTuple):
    """Action of a product of local operators on one site, on <a| for each local state a of the row space."""

    columns: tuple[int, ...]  # local state of the column space; -1: none
    values: tuple[complex, ...]


class Site:
    """Local states of one site in the spaces of bra (rows) and ket (columns), by what they hold."""

    def __init__(self, bra: HilbertSpace, ket: HilbertSpace, site: int) -> None:
        self.space, self.site = bra, site
        self.species = bra.species
        found = [contents_of(space, site) for space in (bra, ket)]
        if None in found:  # local states that are told apart by their number alone
            self.species = ()
            found = [[(a,) for a in range(space.local_dims[site])] for space in (bra, ket)]
        self.rows, self.columns = (contents or [] for contents in found)
        self.row_of = {content: a for a, content in enumerate(self.rows)}
        self.column_of = {content: b for b, content in enumerate(self.columns)}
        self.tops = self._tops()
        self._tables: dict[Any, Table] = {}

    def _tops(self) -> list[float]:
        """The largest content of the site where intermediate states may exceed it, infinity elsewhere.

        So it is for bosons whose largest occupation follows from their number.
        """
        tops = [math.inf] * len(self.rows[0])
        for k, species in enumerate(self.species):
            number, largest = self.space.number_of(species), max(content[k] for content in self.rows)
            if species.kind == "boson" and number is not None and largest >= number:
                tops[k] = largest
        return tops

    def translation(self, d: int) -> list[int]:
        """Local state of the ket for each one of the bra, -1 for none."""
        return [self.column_of.get(content, -1) for content in self.rows] + [-1] * (d - len(self.rows))

    def fermion(self, factor: Any) -> int:
        """Which species of fermions a factor c or c+ is about."""
        fermions = [k for k, one in enumerate(self.species) if one.kind == "fermion"]
        return fermions.index(self._of(factor.name, factor.detail)[0])

    def _of(self, name: str, detail: tuple[Any, ...]) -> list[int]:
        """The species that a factor acts on; all bosons and fermions for n."""
        found = [k for k, one in enumerate(self.species) if one.kind in KINDS[name]]
        if detail:
            spin = {"up": 1, "down": -1}.get(detail[0])
            found = [k for k in found if detail[0] == self.species[k].name or (spin and self._spin(k) == spin)]
        if KINDS[name] == ("spin",):
            found = [k for k in found if self.species[k].twice_sz]
        if not found or (len(found) > 1 and name != "n"):
            names = ", ".join(f"{one.name!r} ({one.kind})" for one in self.species) or "none that is known"
            raise ValueError(
                f"{name}_{self.site}{''.join(f',{d}' for d in detail)} needs one {' or '.join(KINDS[name])} of that "
                f"kind; the space has the species {names}: name one of them, for electrons 'up' or 'down'."
            )
        return found

    def _spin(self, k: int) -> int:
        """2 S^z of a fermion of this species; 0 if it has none."""
        species: Species = self.species[k]
        if species.twice_sz is None:
            return 0
        number, twice_sz = (self.space.table(values)[self.site] for values in (species.occupation, species.twice_sz))
        return next((sign for sign in (1, -1) if (twice_sz == sign * number).all()), 0)

    def table(self, factors: tuple[tuple[str, Any], ...]) -> Table:
        """The product of (name, detail) of factors, acting on each <a| from left to right."""
        if factors not in self._tables:
            acted = [self._acted(content, factors) for content in self.rows]
            self._tables[factors] = Table(*map(tuple, zip(*acted, strict=True)))
        return self._tables[factors]

    def _acted(self, content: Content, factors: tuple[tuple[str, Any], ...]) -> tuple[int, complex]:
        square, value = 1, complex(1)  # value sqrt(square): products of ladder operators without rounding
        for name, detail in factors:
            content, more, factor = self._step(content, name, detail)
            square, value = square * more, value * factor
            if not (square and value and self._exists(content)):
                return -1, 0j
        column = self.column_of.get(content, -1)
        return (column, value * math.sqrt(square)) if column >= 0 else (-1, 0j)

    def _exists(self, content: Content) -> bool:
        """As an intermediate state."""
        if content in self.row_of or content in self.column_of:
            return True
        within = tuple(min(x, top) for x, top in zip(content, self.tops, strict=True))
        return within in self.row_of

    def _step(self, content: Content, name: str, detail: tuple[Any, ...]) -> tuple[Content, int, complex]:
        """<content| times one factor: the new content, and the square and the rest of the element."""
        if name == "f":
            self._check_states(len(detail))
            a = self.row_of.get(content, -1)
            return content, 1, complex(*detail[a]) if a >= 0 else 0j
        if name == "|a><b|":
            self._check_states(max(detail) + 1, exactly=False)
            a, b = detail
            fermions = [k for k, one in enumerate(self.species) if one.kind == "fermion"]
            if any(self.rows[a][k] != self.rows[b][k] for k in fermions):
                raise ValueError(
                    f"a matrix at site {self.site} changes the fermions there, whose signs depend on other sites: "
                    "write it with c and c_dag."
                )
            return (self.rows[b], 1, 1) if self.rows[a] == content else (content, 1, 0j)
        which = self._of(name, detail)
        k = which[0]
        if name == "n":
            return content, 1, sum(content[k] for k in which)
        if KINDS[name] == ("spin",):
            return self._spin_step(content, name, k)
        x = content[k]
        step, square = (-1, x) if name.endswith("+") else (1, x + 1)
        if KINDS[name] == ("fermion",):
            square = int(x + step in (0, 1))
        return (*content[:k], x + step, *content[k + 1 :]), square, 1

    def _spin_step(self, content: Content, name: str, k: int) -> tuple[Content, int, complex]:
        spins = [j for j, one in enumerate(self.species) if one.kind == "spin" and one.twice_sz]
        k = len(self.species) + spins.index(k)
        m = content[k]  # 2 S^z
        if name == "Sz":
            return content, 1, m / 2
        S = max(c[k] for c in self.rows)  # 2 S
        step = -2 if name == "S+" else 2
        square = (S * (S + 2) - m * (m + step)) // 4
        return (*content[:k], m + step, *content[k + 1 :]), square, 1

    def _check_states(self, d: int, *, exactly: bool = True) -> None:
        if d > len(self.rows) or (exactly and d < len(self.rows)):
            states = self.space.states_at(self.site)
            raise ValueError(
                f"a matrix at site {self.site} is about {d} local states; the site has {len(states)}: {states}."
            )


def contents_of(hilbert: HilbertSpace, site: int) -> list[Content] | None:
    """What each local state of a site holds; None if that does not tell them apart."""
    numbers = [hilbert.table(species.occupation)[site] for species in hilbert.species]
    spins = [hilbert.table(species.twice_sz)[site] for species in hilbert.of_kind("spin") if species.twice_sz]
    d = hilbert.local_dims[site]
    contents = [tuple(int(column[a]) for column in (*numbers, *spins)) for a in range(d)]
    return contents if hilbert.species and len(set(contents)) == d else None
