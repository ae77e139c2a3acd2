"""scripts/molecule.py and scripts/dissociation.py at toy size, and the recipe of states on few configurations."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT

import nqs
from nqs import Archive
from nqs.cli.commands.run import run
from nqs.cli.errors import ExitCode
from nqs.estimators.local_energy import local_energies
from nqs.estimators.selected import selected_state
from nqs.hamiltonians import Molecule
from nqs.hamiltonians.orbital_order import fiedler_vector, reordered
from nqs.models import ListedState, TransformerConfig
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler

WATER = ROOT / "tests" / "hamiltonians" / "data" / "h2o.fcidump.gz"
FCI = -75.0124013950  # by PySCF


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], unchecked: None) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: str) -> tuple[int, str, str]:
        code: Any = 0
        try:
            run(arguments)
        except SystemExit as end:
            code = end.code or 0
        return (code, *capfd.readouterr())

    return called


def test_molecule_from_a_file_reaches_a_tenth_of_a_millihartree(call: Any) -> None:
    options = ("molecule", "--fcidump", str(WATER), "--sampled", "--steps", "20", "--device", "cpu", "--fci", "0")
    code, out, err = call(*options, "--archive", "water.h5")
    assert code == 0, err
    with Archive.open("water.h5") as archive:
        assert archive.result.energy == pytest.approx(FCI, abs=1e-4)
        assert archive.result.energy + 5 * archive.result.error > FCI
        assert archive.observables()["total_spin_squared"] == pytest.approx(0, abs=1e-3)
    assert "no exact energy: sampled=True" in out
    assert "in mHartree" in out.splitlines()[-1]
    again, out, _ = call(*options, "--archive", "water.h5")  # shows the finished run
    assert again == 0
    assert "E = -75.012" in out


def test_without_pyscf_a_file_is_enough(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyscf", None)
    options = ("--sampled", "--steps", "1", "--device", "cpu")
    code, out, err = call("molecule", "--fcidump", str(WATER), *options)
    assert code == 0, err
    assert "for PySCF" in out
    assert "to determinant" in out.splitlines()[-1]
    code, out, err = call("molecule", "--atom", "H 0 0 0; H 0 0 1", *options)
    assert code == ExitCode.USAGE
    assert len(err.strip().splitlines()) == 1
    assert "pip install 'nqs[molecules]'" in err


def test_a_list_of_another_program_is_the_start(call: Any, tmp_path: Path) -> None:
    molecule = Molecule.from_fcidump(WATER)
    state = selected_state(molecule, molecule.peak[None], 30)
    letters = [" ".join("0ab2"[token] for token in row) for row in state.configurations.tolist()]
    lines = (f"{k} {x:.10f}  {row}" for k, (x, row) in enumerate(zip(state.amplitudes.tolist(), letters, strict=True)))
    (tmp_path / "dice.out").write_text("\n".join(lines))
    options = ("molecule", "--fcidump", str(WATER), "--determinants", "dice.out")
    run_options = ("--sampled", "--steps", "1", "--device", "cpu", "--fci", "0", "--archive", "water.h5")
    code, out, err = call(*options, *run_options)
    assert code == 0, err
    assert "dice.out: 30 given configurations" in out
    with Archive.open("water.h5") as archive:
        assert FCI < archive.history["energy"][0] < FCI + 2e-3
    code, _, err = call(*options, "--order", "fiedler")
    assert code == ExitCode.USAGE
    assert len(err.strip().splitlines()) == 1
    assert "leave --order out" in err


@pytest.mark.parametrize("arguments", [(), ("--fcidump", "x", "--atom", "H 0 0 0")])
def test_either_a_file_or_a_geometry(call: Any, arguments: tuple[str, ...]) -> None:
    code, _, err = call("molecule", *arguments)
    assert code == ExitCode.USAGE
    assert "give either --fcidump FILE or --atom" in err


def test_dissociation_of_hydrogen(call: Any, drawn_figures: None) -> None:
    pytest.importorskip("pyscf")
    options = ("--atom", "H 0 0 0; H 0 0 {}", "--basis", "6-31g", "--distances", "0.7", "2.0")
    code, out, err = call("dissociation", *options, "--steps", "60", "--device", "cpu", "--plot", "curve.png")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.strip().startswith(("0.700", "2.000"))]
    assert len(rows) == 2
    assert all(abs(float(row[-1])) < 0.01 for row in rows)  # mHartree above FCI
    assert Path("curve.png").exists()
    code, _, err = call("dissociation", "--atom", "H 0 0 0; H 0 0 1")
    assert code == ExitCode.USAGE
    assert "write {} where the distance belongs" in err


# --- the recipe -------------------------------------------------------------------------------------------------


def test_plan_of_a_molecule() -> None:
    water = Molecule.from_fcidump(WATER, irreps="none")
    sampled = nqs.recipes.plan(water, sampled=True, device="cpu")
    model = sampled.model
    assert isinstance(model, TransformerConfig)
    assert isinstance(model.reference, ListedState)
    assert model.start == "reference"
    assert len(model.reference.configurations) <= 0.75 * water.hilbert.dimension
    sampler = sampled.stages[-1].sampler
    assert isinstance(sampler, GumbelSampler)
    assert sampler.n_distinct <= 0.75 * water.hilbert.dimension
    assert sampled.steps is None  # as many as fit into the time
    assert sampled.minutes == 5.0
    assert isinstance(nqs.recipes.plan(water, device="cpu").stages[-1].sampler, ExhaustiveSampler)
    wanted = nqs.recipes.plan(water, sampled=True, device="cpu", reference="none", symmetry="none", steps=3)
    assert isinstance(wanted.stages[-1].sampler, TreeSampler)


def test_first_step_is_at_the_energy_of_the_list() -> None:
    """In the sum over the whole sector, with signs of the first-order amplitudes."""
    water = Molecule.from_fcidump(WATER)
    plan = nqs.recipes.plan(water, sampled=True, device="cpu", steps=1)
    wavefunction = plan.model.build(water.hilbert)
    samples = ExhaustiveSampler().build(wavefunction).sample(torch.Generator())
    energy = samples.mean(local_energies(water, wavefunction, samples).values.real).item()
    assert FCI < energy < FCI + 1e-3


# --- orders of orbitals -----------------------------------------------------------------------------------------


def test_orders_of_the_orbitals() -> None:
    water = Molecule.from_fcidump(WATER)
    assert reordered(water, "given") is water
    assert reordered(water, "reversed").peak.tolist() == water.peak.flip(0).tolist()
    mixed = water.reordered([3, 5, 0, 6, 1, 4, 2])
    assert reordered(mixed, "energy").integrals == reordered(water, "energy").integrals
    assert reordered(mixed, "energy").peak.tolist() == [3, 3, 3, 3, 3, 0, 0]
    found = fiedler_vector(reordered(water, "fiedler"))
    assert (found[1:] >= found[:-1]).all()
