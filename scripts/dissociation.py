"""Energy of a molecule as a function of a distance: a run for each point, a table and a plot.

    python scripts/dissociation.py --atom "N 0 0 0; N 0 0 {}" --distances 0.9 1.1 1.5 2.1
    python scripts/dissociation.py --atom "H 0 0 0; F 0 0 {}" --distances 0.8 0.9 1.0 --basis 6-31g --frozen 1
    python scripts/dissociation.py --help                           every option

Every distance takes the place of {} in the positions (Angstrom). Each point starts from its own list of selected
determinants: orbitals of neighbouring points may differ in order and sign. `--minutes` is the time of a point. Needs
PySCF. A repeated command continues where it was interrupted.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from matplotlib.figure import Figure

from nqs import Result
from nqs.cli.options import CommonOptions, Options, command_line
from nqs.estimators.estimate import with_error
from nqs.hamiltonians import Molecule
from nqs.hamiltonians.reference_energies import Energies


@dataclass(frozen=True, kw_only=True)
class Config:
    """A curve E(R)."""

    atom: str = "N 0 0 0; N 0 0 {}"  # elements and positions, {} for the distance
    distances: tuple[float, ...] = (0.75, 0.9, 1.05, 1.2, 1.35, 1.5, 1.65, 1.8, 1.95, 2.1, 2.25)  # Angstrom
    basis: str = "sto-3g"
    charge: int = 0
    spin: int | None = None  # n_up - n_down; None: 0 or 1
    frozen: int = 0  # number of the first orbitals that stay doubly occupied
    active: int | None = None  # number of orbitals after these; None: all
    fci: int = 10_000_000  # largest number of determinants for full configuration interaction; 0: none
    plot: Path | None = None  # file of the plot; None: in results/, named after the molecule

    options: CommonOptions = field(default_factory=Options)


@dataclass(frozen=True)
class Point:
    """Result at one distance."""

    distance: float
    result: Result
    energies: Energies

    @property
    def row(self) -> str:
        e, known = self.result.estimate, self.energies
        above = math.nan if math.isnan(known.fci) else 1000 * (e.energy - known.fci)
        others = "".join(f"{energy:>15.6f}" for energy in (known.hartree_fock, known.ccsd_t, known.fci))
        return f"{self.distance:>9.3f}{with_error(e.energy, e.error):>22}{others}{above:>12.4f}"


def main(config: Config) -> list[Point]:
    if "{}" not in config.atom:
        raise ValueError(
            f'--atom "{config.atom}": write {{}} where the distance belongs, such as "N 0 0 0; N 0 0 {{}}".'
        )
    if config.options.archive is not None:
        raise ValueError("--archive names one file, but a curve has one for each point: leave it out.")
    points, name = [], ""
    for distance in config.distances:
        molecule = Molecule.from_geometry(
            config.atom.replace("{}", f"{distance:.10g}"), config.basis, charge=config.charge, spin=config.spin,
            frozen=config.frozen, active=config.active,
        )  # fmt: skip
        name = "".join(letter if letter.isalnum() else "-" for letter in molecule.name)
        print(f"--- {molecule.name} at {distance:g} Angstrom")
        options = replace(config.options, begin=None)  # the time limit is that of a point
        result = options.ground_state(molecule, name=f"dissociation-{name}-{distance:g}")
        points.append(Point(distance, result, Energies.of(molecule, config.fci)))
    print(f"{'R':>9}{'E':>22}{'Hartree-Fock':>15}{'CCSD(T)':>15}{'FCI':>15}{'above / mHa':>12}")
    for point in points:
        print(point.row)
    path = config.plot or Path("results") / f"dissociation-{name}.png"
    draw(points, path)
    print(f"plot {path}")
    return points


def draw(points: list[Point], path: Path) -> None:
    """The curve with those of the other methods."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    R = [point.distance for point in points]
    styles = (("hartree_fock", "Hartree-Fock", ":"), ("ccsd_t", "CCSD(T)", "--"), ("fci", "FCI", "-"))
    for attribute, label, style in styles:
        energies = [getattr(point.energies, attribute) for point in points]
        if not all(map(math.isnan, energies)):
            axes.plot(R, energies, style, label=label)
    estimates = [point.result.estimate for point in points]
    axes.errorbar(R, [e.energy for e in estimates], [e.error for e in estimates], fmt="o", label="VMC", markersize=4)
    axes.set_xlabel("R / Å")
    axes.set_ylabel("E / Hartree")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
