"""Studies of design questions: orders, encodings, families and estimators against sums and dense matrices."""

import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nqs import VMC, exact
from nqs.hamiltonians import BoseHubbard, Family, FermiHubbard
from nqs.lattice import square
from nqs.models.parts import Attention, FamilyConfig, LatentConfig
from nqs.recipes.optimiser import LARGE, SAMPLED
from nqs.samplers import TreeSampler
from nqs.samples import Samples
from nqs.scripts import ablations
from nqs.scripts.ablation import (
    families,
    gradient_estimators,
    local_energy_proxies,
    memory_of_orders,
    reuse,
    tails,
    variants,
)
from nqs.scripts.ablation.jobs import Column, Job, Question
from nqs.scripts.ablation.orders import (
    ORDERS,
    SplitElectrons,
    SplitReference,
    displacements,
    hilbert_curve,
    order_of_sites,
    reordered,
)
from nqs.scripts.ablation.parallel import measure, missing, places, read_rows
from nqs.scripts.ablation.probabilities import SUMS, extended
from nqs.scripts.ablation.problems import PROBLEMS, ising_ring, known_signs
from nqs.scripts.ablation.questions import questions, run
from nqs.scripts.ablation.sampling_node import extended as extension
from nqs.scripts.ablation.small import early_state, hamiltonian_of, sector
from nqs.scripts.ablation.table import cell, draw, table, with_errors
from nqs.scripts.ablation.training import baseline, matched, parameters_of, train

TOY = ("bose-hubbard-6", "heisenberg-8", "hubbard-2x2")


def job(question: str, problem: str, variant: str, seconds: float = 0.2) -> Job:
    return Job(question=question, problem=problem, variant=variant, seed=0, seconds=seconds, device="cpu")


# ------------------------------------------------------------------------------------------------------------- orders


@pytest.mark.parametrize("shape", [(1, 6), (2, 2), (3, 4), (4, 3), (4, 4), (6, 6), (4, 8)], ids=str)
def test_orders_visit_every_site_once_and_curves_only_neighbours(shape: tuple[int, int]) -> None:
    rows, columns = shape
    for name in ORDERS:
        assert sorted(order_of_sites(name, shape)) == list(range(rows * columns))
    for name in ("snake", "hilbert"):
        places_ = [divmod(site, columns) for site in order_of_sites(name, shape)]
        steps = {abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in itertools.pairwise(places_)}
        assert steps == {1}
    assert order_of_sites("rows", shape) == list(range(rows * columns))


def test_a_hilbert_curve_stays_in_quadrants() -> None:
    """4 x 4: each quarter is left only when it is full."""
    quarters = [(x // 2, y // 2) for x, y in hilbert_curve(4, 4)]
    assert len({tuple(quarters[k : k + 4]) for k in range(0, 16, 4)}) == 4
    assert all(len(set(quarters[k : k + 4])) == 1 for k in range(0, 16, 4))


def test_the_order_changes_no_energy() -> None:
    lattice = square(2, 3)
    for build in (lambda at: FermiHubbard(at, 2, 1, U=4.0), lambda at: BoseHubbard(at, 3, U=2.0)):
        energy = exact.ground_state(build(lattice)).energy
        for name in ORDERS:
            order = order_of_sites(name, (2, 3))
            other = build(reordered(lattice, order))
            assert exact.ground_state(other).energy == pytest.approx(energy, abs=1e-9)
            # Displacements follow the sites: neighbours in both lists.
            classes = torch.tensor(displacements(lattice, order))
            bonds = other.lattice.bonds()
            assert len(classes[bonds[:, 0], bonds[:, 1]].unique()) <= 8


@pytest.mark.parametrize("encoding", ["interleaved", "blocks"])
def test_electrons_split_over_orbitals_have_the_same_levels(encoding: Any) -> None:
    base = FermiHubbard(square(2, 2), 2, 1, U=4.0)
    split = SplitElectrons(base, encoding)
    n = base.hilbert.configurations()
    orbitals = split.split(n)
    assert split.joint(orbitals).equal(n)
    assert split.hilbert.contains(orbitals).all()
    assert split.hilbert.dimension == base.hilbert.dimension
    # The same matrix in another order of the basis.
    dense = exact.sparse_matrix(base).toarray()
    place = split.hilbert.rank(orbitals).numpy()
    assert exact.sparse_matrix(split).toarray()[place][:, place] == pytest.approx(dense)
    reference = known_signs(base)[1]
    assert reference is not None
    assert SplitReference(reference, split).phase(orbitals).equal(reference.phase(n))
    classes = split.classes(tuple(map(tuple, square(2, 2).displacements().tolist())))
    assert len(classes) == 8
    assert all(len(row) == 8 for row in classes)


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("problem", TOY)
def test_every_variant_has_about_the_parameters_of_the_baseline(problem: str) -> None:
    wanted = parameters_of(baseline(job("tokens", problem, "categorical")))
    for table_ in (variants.TOKENS, variants.POSITIONS, variants.DEEMBEDDING, variants.PHASES, variants.BACKBONES):
        for variant in variants.possible(table_, problem):
            setting = variants.with_parts(table_)(job("", problem, variant))
            found = matched(setting).build(setting.hamiltonian.hilbert).n_parameters
            assert 0.6 < found / wanted < 1.5, variant


@pytest.mark.usefixtures("unchecked")  # for speed
def test_training_ends_above_the_exact_energy() -> None:
    setting = baseline(job("tokens", "heisenberg-8", ""))
    row = train(job("tokens", "heisenberg-8", "categorical", 1.0), setting)
    assert row["error"] > -5 * row["energy_error"]
    assert row["steps"] > 0
    assert row["parameters"] == parameters_of(setting)
    json.dumps(row)


@pytest.mark.usefixtures("unchecked")  # for speed
@pytest.mark.parametrize("sampler", variants.SAMPLERS)
def test_every_sampler_makes_steps(sampler: str) -> None:
    wanted = job("sampling", "hubbard-2x2", sampler, 0.5)
    assert math.isfinite(train(wanted, variants.samplers(wanted))["energy"])


@pytest.mark.usefixtures("unchecked")  # for speed
def test_mixtures_orders_and_objectives_make_steps() -> None:
    for setting, variant in (
        (variants.latents, "2 latents"), (variants.orders, "blocks"), (variants.orders, "snake"),
        (variants.objectives, "energy, Adam"), (variants.objectives, "entropy weight 0.3"),
        (variants.backbones, variants.CACHED),
    ):  # fmt: skip
        wanted = job("", "hubbard-2x2", variant, 0.5)
        assert math.isfinite(train(wanted, setting(wanted))["energy"])
    assert isinstance(variants.latents(job("", "ising-16-ordered", "2 latents")).model, LatentConfig)


def test_reference_energies_are_those_of_exact_diagonalisation() -> None:
    for name in TOY:
        problem = PROBLEMS[name]
        assert exact.ground_state(problem.hamiltonian(problem.lattice)).energy == pytest.approx(problem.energy)
    ring = PROBLEMS["ising-16-ordered"]
    assert exact.ground_state(ring.hamiltonian(ring.lattice)).energy == pytest.approx(ising_ring(16, 0.5))
    xxz = families.PROBLEMS["xxz-16"]
    held_out = xxz.held_out(families.HELD_OUT)
    assert exact.ground_state(xxz.hamiltonian(held_out[3])).energy == pytest.approx(families.EXACT["xxz-16"][3])
    assert not set(held_out) & set(xxz.grid(families.TRAINED))


def test_large_problems_are_measured_if_named_and_removed_variants_marked() -> None:
    for problems, wanted in (((), False), (("heisenberg-8x8",), True), (("heisenberg-6x6",), False)):
        assert ablations.Config(question=("order",), problems=problems).chooses("heisenberg-8x8", "rows") is wanted
    row = {"question": "positions", "problem": "heisenberg-6x6", "seconds": 55.0, "seed": 0, "error": 0.1}
    text = table([row | {"variant": v} for v in ("attention, sinusoidal", "attention, rotary")], "positions",
                 questions()["positions"])  # fmt: skip
    assert "| heisenberg-6x6 | attention, sinusoidal (removed) |" in text
    assert "| heisenberg-6x6 | attention, rotary |" in text


@pytest.mark.usefixtures("unchecked")  # for speed
def test_a_family_is_trained_and_measured_at_other_couplings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(families.PROBLEMS["xxz-16"], outside=(2.5,))
    h = lambda D: hamiltonian_xxz(6, D)  # noqa: E731
    small = replace(small, hamiltonian=h)
    monkeypatch.setitem(families.PROBLEMS, "xxz-16", small)
    couplings = [*small.held_out(families.HELD_OUT), 2.5]
    monkeypatch.setitem(families.EXACT, "xxz-16", tuple(exact.ground_state(h(c)).energy for c in couplings))
    monkeypatch.setattr(families, "PARAMETERS", tmp_path)
    with pytest.raises(ValueError, match="measure the variant 'one for all'"):
        families.run(job("family", "xxz-16", "fine-tuned", 1.0))
    row = families.run(job("family", "xxz-16", "one for all", 1.0))
    assert len(row["errors"]) == families.HELD_OUT + 1
    assert -1e-9 < min(row["errors"]) <= row["largest"]
    assert row["outside"] == row["errors"][-1]
    assert "coupling 2.5000, relative error" in capsys.readouterr().err
    each = families.run(job("family", "xxz-16", "one for each", 1.0))
    assert each["largest"] == max(each["errors"])
    assert len(each["errors"]) == families.HELD_OUT
    assert each["parameters"] == row["parameters"]
    with monkeypatch.context() as patch:  # without a step: where fine-tuning begins
        patch.setattr(families, "optimise", lambda *_: 0)
        begun = families.run(job("family", "xxz-16", "fine-tuned", 1.0))
    assert begun["errors"] == pytest.approx(row["errors"][: families.HELD_OUT], rel=1e-9)
    # In a fixed number of steps, for couplings that are trained on and others.
    members = tuple(h(D) for D in small.grid(4))
    sector, couplings = members[0].hilbert, tuple((D,) for D in small.grid(4))
    component = replace(families.network(small, job("", "", "")), width=8, layers=1)
    config = FamilyConfig(component=component, sector=sector, couplings=couplings)
    together = Family(members)
    family = config.build(together.hilbert)
    optimiser = families.FamilyReconfiguration(**(SAMPLED | LARGE))
    VMC(together, family, TreeSampler(n_samples=10**6), optimiser, TreeSampler(n_samples=100)).run(60, progress=False)
    for D in (-0.5, 1.0, 2.0):
        energy = exact.ground_state(h(D)).energy
        assert -1e-9 < families.error_of(h(D), family.member((D,)), energy) < 0.02


def test_members_count_by_their_relative_errors() -> None:
    """All members summed over: the gradient of the mean of log|E_k|, up to a factor, against that of each member."""
    members = tuple(BoseHubbard(square(1, 3), 3, U=U) for U in (1.0, 9.0))
    h, sector = Family(members), members[0].hilbert
    component = replace(families.network(families.PROBLEMS["bose-hubbard-10"], job("", "", "")), mixer=Attention())
    family = FamilyConfig(component=component, sector=sector, couplings=((1.0,), (9.0,))).build(h.hilbert)
    n = h.hilbert.configurations()
    with torch.no_grad():
        log_modulus, phase = family.log_psi(n)
    samples = Samples(
        configurations=n, weights=(2 * log_modulus).exp(), log_modulus=log_modulus, phase=phase,
        inclusion_probability=torch.ones_like(log_modulus),
    )  # fmt: skip
    found = families.RelativeEnergies(h, 0.1).local(family, samples)
    plain = families.local_energies(h, family, samples)
    parts = [n[:, 0] == k for k in range(2)]
    w = samples.weights
    E = [((w * plain.values.real)[rows].sum() / w[rows].sum()).item() for rows in parts]
    assert abs(E[0]) != pytest.approx(abs(E[1]), rel=0.1)
    assert samples.mean(found.values.real).item() == pytest.approx(samples.mean(plain.values.real).item())
    common = (abs(E[0]) + abs(E[1])) / 2
    for rows, energy in zip(parts, E, strict=True):
        for mine, theirs in ((found.values, plain.values), (found.diagonal, plain.diagonal)):
            relative = (theirs[rows] - energy) / abs(energy) * common
            torch.testing.assert_close(mine[rows] - samples.mean(plain.values.real), relative)


def hamiltonian_xxz(L: int, Delta: float) -> Any:
    from nqs.hamiltonians import Heisenberg
    from nqs.lattice import chain

    return Heisenberg(chain(L), total_sz=0, Delta=Delta)


# ------------------------------------------------------------------------------------------------------- measurements


def test_estimators_of_the_gradient_are_unbiased_where_they_say_so() -> None:
    """Mean over all draws of one sample each, weighted with their probabilities, against the exact gradient."""
    psi = early_state("heisenberg-6", 0, steps=2)
    of = sector(hamiltonian_of("heisenberg-6"), psi)
    one = torch.eye(len(of.p), dtype=torch.float64)
    for name in ("plain", "constant baseline"):
        mean = of.p @ gradient_estimators.estimates(name, of, one, torch.ones_like(of.p))
        torch.testing.assert_close(mean, of.gradient)
    # Two samples: all pairs.
    pairs = (one[:, None] + one[None]).flatten(0, 1)
    weight = torch.outer(of.p, of.p).flatten()
    for name, factor in (("sample mean", 0.5), ("leave one out", 1.0)):
        mean = weight @ gradient_estimators.estimates(name, of, pairs, torch.ones_like(of.p))
        torch.testing.assert_close(mean, factor * of.gradient)
    # The whole sector with its weights: earlier samples, weighted, give the gradient of the present state.
    flat = torch.full_like(of.p, 1 / len(of.p))[None] * 1000
    found = gradient_estimators.estimates("earlier samples, 1", of, flat, of.p * len(of.p))
    torch.testing.assert_close(found[0], of.gradient)


def test_local_energy_proxies_with_everything_are_the_local_energies() -> None:
    h, psi = hamiltonian_of("bose-hubbard-4"), early_state("bose-hubbard-4", 0, steps=2)
    of = sector(h, psi, gradients=False)
    at = local_energy_proxies.Elements(h, of, psi)
    every = torch.ones(len(of.p), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for name in ("all", "samples", "samples, rescaled"):
        values, evaluated = local_energy_proxies.local_values(name, at, every, generator)
        torch.testing.assert_close(values, of.local)
        assert evaluated == 0
    half = at.largest_half
    number = torch.bincount(at.row, weights=half.double()), torch.bincount(at.row)
    assert (number[0] == (number[1] + 1) // 2).all()
    means = [local_energy_proxies.local_values("drawn", at, every, generator)[0] for _ in range(1_000)]
    torch.testing.assert_close(torch.stack(means).mean(0), of.local, rtol=0.1, atol=0.6)
    assert torch.stack(means).std(0).max() > 0.1


@pytest.mark.usefixtures("unchecked")  # for speed
def test_the_variance_of_evaluations_without_a_tail_is_that_of_the_sector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "STEPS", 10)
    monkeypatch.setattr(tails, "EVALUATIONS", 5)
    monkeypatch.setattr(tails, "EVALUATION", 10**7)
    free, cut = (tails.run(job("tails", "bose-hubbard-6", variant)) for variant in tails.CUTOFFS)
    assert 0 < free["weight"] < 1
    assert cut["weight"] == cut["of_variance"] == 0
    for row in (free, cut):
        assert row["sampled"] == pytest.approx(row["variance"], rel=0.02)
        assert row["coverage"] > 0.5


def test_log_psi_of_long_sequences() -> None:
    logits = torch.randn((50, 64, 3), generator=torch.Generator().manual_seed(0))
    n = logits.argmax(-1, keepdim=True)
    expected = extended(logits, n)
    for name, method in SUMS.items():
        torch.testing.assert_close(method(logits, n).double(), expected, rtol=1e-4, atol=1e-4, msg=name)


def test_mutual_information_of_a_product_and_of_a_singlet() -> None:
    n = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.uint8)
    p = torch.outer(torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.8])).flatten().double()
    assert memory_of_orders.information(n, p) == pytest.approx([0], abs=1e-6)
    assert memory_of_orders.information(n, torch.tensor([0, 0.5, 0.5, 0]).double()) == pytest.approx([1])


def test_the_extension_to_relaxed_samples_is_multilinear() -> None:
    f = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.rand((5, 3, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(-1)
    expected = torch.einsum("bi,bj,bk,ijk->b", *x.unbind(1), f.view(2, 2, 2))
    torch.testing.assert_close(extension(f, list(x.unbind(1))), expected)


@pytest.mark.usefixtures("unchecked")  # for speed
def test_reused_amplitudes_and_gradients_are_those_from_scratch() -> None:
    for way in (*reuse.ENERGIES, *reuse.GRADIENTS):
        row = reuse.run(job("reuse", "bose-hubbard-5", f"{way}; 50"))
        assert row["difference"] < 1e-9, way
        assert row["time"] > 0


# ------------------------------------------------------------------------------------------------------- distribution


def test_finished_jobs_are_not_repeated_and_failed_ones_are(tmp_path: Path) -> None:
    every = questions()["probabilities"].jobs("probabilities", seeds=(0,), seconds=9, device="cpu")
    jobs = [job for job in every if job.problem == "L=64, d=2"]
    assert {j.seconds for j in jobs} == {0.0}  # no time limit without training
    broken = replace(jobs[0], variant="none such")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"cut off')
    assert measure([*jobs[:2], broken], path, device="cpu", parallel=1) == 1
    rows = read_rows(path)
    assert len(rows) == 3
    assert sum("failed" in row for row in rows) == 1
    assert missing([*jobs[:3], broken], rows) == [jobs[2], broken]


def test_workers_are_spread_over_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places("cuda", 2)] == ["3", "5", "3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match="no GPU is visible"):
        places("cuda", 2)
    assert len(places("cpu", 3)) == 3


def test_tables_have_medians_and_ranges(tmp_path: Path, drawn_figures: None) -> None:
    question = Question(
        number=1, text="?", variants={"p": ("b", "a")}, run=run, columns=(Column("error", "error", ".1e"),), times=1.0
    )
    rows = [
        {"question": "q", "problem": "p", "variant": v, "seed": s, "seconds": 1.0, "energy": -e}
        for v, s, e in (("a", 0, 10.0), ("a", 1, 8.0), ("a", 2, 5.0), ("b", 0, 9.0))
    ]
    complete = with_errors([*rows, {"question": "q", "problem": "p", "variant": "a", "failed": "x"}])
    assert [row["error"] for row in complete[:4]] == pytest.approx([0, 0.2, 0.5, 0.1])  # above the lowest energy
    above = [{"problem": "p", "energy": E, "energy_error": 0.2, "error": (E + 5) / 5} for E in (-4.0, -5.5)]
    assert [row["error_bar"] for row in with_errors(above)] == pytest.approx([0.04, 0.04])
    lines = table(complete, "q", question).splitlines()
    assert lines[0] == "| problem | variant | error | seeds |"
    assert lines[2:] == ["| p | b | 1.0e-01 | 1 |", "| p | a | 2.0e-01 (0.0e+00 to 5.0e-01) | 3 |"]
    assert cell([], Column("error", "error")) == "-"
    assert table([], "q", question) == ""
    draw(complete, "q", question, tmp_path / "q.png")
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ablations.main(ablations.Config(list=True))
    listed = capsys.readouterr().out
    assert all(f"{name}: " in listed for name in questions())
    # Variants of several questions: each is chosen where a question has it.
    some = ablations.Config(
        question=("tokens", "deembedding", "phase"), variants=("one-hot", "last position"), problems=("hubbard-3x4",),
        list=True,
    )  # fmt: skip
    ablations.main(some)
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("      ")]
    assert listed == [f"      hubbard-3x4: {name}" for name in ("one-hot", "last position", "last position")]
    assert {question.number for question in questions().values()} == set(range(1, 15))
    rows = tmp_path / "rows.jsonl"
    config = ablations.Config(question=("probabilities",), problems=("L=64, d=2",), variants=("product",), rows=rows)
    assert ablations.main(config) == 0
    assert "1 runs to make" in capsys.readouterr().out
    assert ablations.main(config) == 0
    found = capsys.readouterr().out
    assert "0 runs to make, 1 of 1" in found
    assert "| L=64, d=2 | product |" in found
    monkeypatch.setattr(sys, "stdin", None)
    for wrong, text in (
        ({"question": ("toknes",)}, "no question 'toknes'"),
        ({"question": ("tokens",), "problems": ("ising",)}, "no problem 'ising'"),
        ({}, "choose --question NAME"),
        ({"all": True, "seconds": 0.0}, "positive seconds"),
    ):
        with pytest.raises(ValueError, match=text):
            ablations.main(ablations.Config(**wrong, rows=rows))
