"""Ways to hold the particle number, on chains small enough for every probability to be known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import small_transformer
from torch import Tensor

from nqs.cli.options import command_line
from nqs.hilbert import HilbertSpace
from nqs.scripts.equalisation import (
    SCHEMES,
    Config,
    Penalised,
    Problem,
    ProblemName,
    Scheme,
    fixed_states,
    main,
    optimise,
)
from nqs.scripts.equalisers import equalised, excess, neighbours

PROBLEMS: tuple[ProblemName, ...] = ("bose-hubbard", "hubbard")


def particles(space: HilbertSpace, n: Tensor) -> list[list[int]]:
    """Number of each charge, counted in Python."""
    return [[sum(c.values[k] for k in row) for c in space.charges] for row in n.tolist()]  # type: ignore[misc]


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_configuration_is_brought_into_the_sector(name: ProblemName) -> None:
    problem = Problem(name, 4, 4.0)
    n = problem.free.hilbert.configurations()
    guide = small_transformer(layers=2).build(problem.free.hilbert)
    targets = [c.target for c in problem.sector.charges]
    assert excess(problem.sector, n).tolist() == [
        [number - target for number, target in zip(row, targets, strict=True)]  # type: ignore[operator]
        for row in particles(problem.sector, n)
    ]
    inside = problem.sector.contains(n)
    for used in (None, guide):
        found = equalised(n, problem.sector, torch.Generator().manual_seed(0), used)
        assert problem.sector.contains(found).all()
        assert (found[inside] == n[inside]).all()
        # As few particles as possible are moved: none is removed and added again.
        moved = (torch.tensor(per_site(problem.sector, found)) - torch.tensor(per_site(problem.sector, n))).abs()
        assert (moved.sum(1) == excess(problem.sector, n).abs()).all()


def per_site(space: HilbertSpace, n: Tensor) -> list:
    return [[[c.values[k] for c in space.charges] for k in row] for row in n.tolist()]


def test_local_states_with_one_particle_less_or_more() -> None:
    assert neighbours(Problem("bose-hubbard", 4, 4.0).sector, 0).tolist() == [[-1, 0, 1, 2], [1, 2, 3, -1]]
    electrons = Problem("hubbard", 4, 4.0).sector  # empty, up, down, both
    assert neighbours(electrons, 0).tolist() == [[-1, 0, -1, 2], [1, -1, 3, -1]]
    assert neighbours(electrons, 1).tolist() == [[-1, -1, 0, 1], [2, 3, -1, -1]]


@pytest.mark.parametrize("guided", [False, True])
def test_sites_are_drawn_with_the_stated_probabilities(guided: bool) -> None:
    """One boson too many on (2, 0, 1, 1): it is removed from one of three sites."""
    problem = Problem("bose-hubbard", 4, 4.0)
    guide = small_transformer(layers=2).build(problem.free.hilbert)
    n = torch.tensor([[2, 0, 2, 1]], dtype=torch.uint8)
    log_p = guide.conditionals(n).log_p[0]
    ratio = torch.tensor([(log_p[s, k - 1] - log_p[s, k]).exp().item() for s, k in ((0, 2), (2, 2), (3, 1))])
    expected = ratio / ratio.sum() if guided else torch.full((3,), 1 / 3)
    many = 20_000
    found = equalised(n.repeat(many, 1), problem.sector, torch.Generator().manual_seed(0), guide if guided else None)
    observed = torch.stack([(found[:, s] != n[0, s]).double().mean() for s in (0, 2, 3)])
    chi_square = (many * (observed - expected).square() / expected).sum().item()
    assert chi_square < 13.8  # two degrees of freedom, probability 1e-3


@pytest.mark.usefixtures("unchecked")  # for speed
@pytest.mark.parametrize("name", PROBLEMS)
def test_masks_and_penalties_sample_what_the_amplitudes_say_and_equalisers_do_not(name: ProblemName) -> None:
    problem = Problem(name, 4, 4.0)
    found = fixed_states(problem, Config(L=4, draws=100_000, fixed_steps=5, samples=500, width=8))
    for scheme in ("masked", "penalty"):
        state = found[scheme]  # type: ignore[index]
        assert state.variation[0] < 1.5 * state.variation[1]
        assert state.chi_square < 2
        assert abs(state.bias[0]) < 4 * state.bias[1]
        assert state.variance[0] == pytest.approx(state.variance[1], rel=0.1)
    assert found["masked"].in_sector == 1
    assert found["masked"].gradient == pytest.approx((1, 1), abs=0.03)
    assert found["penalty"].gradient[0] < 0.95  # that of another loss
    for scheme in ("random", "guided"):
        state = found[scheme]  # type: ignore[index]
        assert 0 < state.in_sector < 1
        assert state.variation[0] > 2 * state.variation[1]
        assert state.chi_square > 5
    assert abs(found["random"].bias[0]) > 5 * found["random"].bias[1]
    assert all(state.q.sum().item() == pytest.approx(1) for state in found.values())


def test_gradient_of_the_penalty_scheme_is_that_of_its_loss() -> None:
    problem = Problem("hubbard", 2, 4.0)
    scheme = Scheme("penalty", problem, width=4, penalty=3.0)
    space = problem.free.hilbert
    n = space.configurations()
    assert isinstance(scheme.hamiltonian, Penalised)
    # <H> + 3 <(N_up - 1)^2 + (N_down - 1)^2> with a dense matrix.
    H = torch.zeros(len(n), len(n), dtype=torch.float64)
    hops = problem.free.connected(n)
    H.index_put_((hops.parents, space.rank(hops.configurations)), hops.elements, accumulate=True)
    numbers = torch.tensor(particles(space, n)).double()
    H += torch.diag(problem.free.diagonal(n) + 3.0 * (numbers - 1).square().sum(1))
    psi = scheme.psi.log_psi(n).log_modulus.exp()
    expected = torch.autograd.grad(psi @ H @ psi / (psi @ psi), list(scheme.psi.parameters()))
    with torch.no_grad():
        p, local = psi.square(), H @ psi / psi
    torch.testing.assert_close(scheme.gradient(n, p, local), torch.cat([g.flatten() for g in expected]))


@pytest.mark.usefixtures("unchecked")  # for speed
def test_optimisation_with_masks_finds_the_ground_state() -> None:
    problem = Problem("hubbard", 4, 4.0)
    run = optimise(Scheme("masked", problem, width=8, penalty=4.0), 500, torch.Generator().manual_seed(0), steps=60)
    assert run.steps == 60
    assert len(run.seconds) == len(run.energies) == 8
    assert run.energies[0] > 0.1
    assert -1e-12 < run.energies[-1] < 0.01
    assert run.quoted == pytest.approx(run.energies[-1], abs=0.01)
    assert run.in_sector == 1


@pytest.mark.usefixtures("unchecked")  # for speed
def test_the_table_has_a_row_for_each_scheme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn_figures: None
) -> None:
    plot = tmp_path / "figures" / "equalisation.png"
    toy = {"L": 2, "draws": 1_000, "fixed_steps": 2, "samples": 50, "width": 4, "seconds": 0.05, "trials": 2}
    main(Config(**toy, plot=plot))  # type: ignore[arg-type]
    head, _, *rows, last = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1:3] for row in rows] == [[f" {p} ", f" {s} "] for p in PROBLEMS for s in SCHEMES]
    assert {row.count("|") for row in rows} == {head.count("|")}
    assert last == f"figure {plot}"
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("unchecked")  # for speed
def test_single_schemes_are_those_of_the_whole_table() -> None:
    problem = Problem("bose-hubbard", 3, 4.0)
    toy = Config(L=3, draws=1_000, fixed_steps=2, samples=50, width=4)
    single = fixed_states(problem, replace(toy, schemes=("random",)))
    assert list(single) == ["random"]
    assert single["random"].bias == fixed_states(problem, toy)["random"].bias


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--L 1", "L=1: give at least 2."),
        ("--penalty 0", "penalty=0.0: give a positive number."),
        ("--plot table.txt", "plot=table.txt: its name must end with .png, .pdf or .svg."),
        ("--width 3", "width=3 is not divisible by heads=2"),
    ],
)
def test_impossible_options_are_named(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^[12]$"):
        command_line(main, Config, None, args=option.split())
    assert message in capsys.readouterr().err
