"""Archives of version 0.1 whose model was wrapped by `WithReference`, stopped after three of five steps.

They were made by that version: Heisenberg(chain(6), 0.0), exact sums, Marshall's signs, alone and on orbits.
"""

import json
from pathlib import Path

import pytest

import nqs
from nqs import Archive
from nqs.archive.upgrade import without_wrapper
from nqs.cli import main
from nqs.models import MarshallSign, OnOrbits, TransformerConfig
from nqs.transfer import load
from nqs.vmc.continuation import rebuild

DATA = Path(__file__).parent / "data"
# Energies of all five steps, from an uninterrupted run of version 0.1.
RUNS = {
    "version-2-reference.h5": [-1.53561589, -1.64751535, -1.750243, -1.08647597, -1.5956999],
    "version-2-reference-on-orbits.h5": [-2.08089002, -2.37066043, -2.61580161, -2.76816289, -2.80270702],
}
every_archive = pytest.mark.parametrize("name", RUNS)


@every_archive
def test_the_reference_is_an_argument_of_the_network(name: str) -> None:
    archive = Archive.open(DATA / name)
    assert (archive.step, archive.steps) == (3, 5)
    model = rebuild(archive.config)["model"]
    network = model.base if isinstance(model, OnOrbits) else model
    assert isinstance(model, OnOrbits) == ("orbits" in name)
    assert isinstance(network, TransformerConfig)
    assert (network.width, network.seed) == (4, 3)
    assert network.reference == MarshallSign(sublattice=(0, 1) * 3)
    assert "WithReference" not in json.dumps(archive.config)
    wavefunction = load(archive)  # every parameter has its place
    assert wavefunction.state_dict().keys() == archive.parameters().keys()


@every_archive
def test_it_resumes_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes((DATA / name).read_bytes())
    result = nqs.resume(path, progress=False)
    assert result.steps_left == 0
    assert result.history["energy"].tolist() == pytest.approx(RUNS[name], abs=1e-7)
    again = Archive.open(path)  # now written by this version
    assert again.finished
    assert load(again).state_dict().keys() == again.parameters().keys()


@every_archive
def test_the_command_line_shows_and_compares_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(DATA / name)])
    shown = capsys.readouterr().out
    assert "3 of 5 steps, stopped" in shown
    assert "reference=MarshallSign(sublattice=[0, 1, 0, 1, 0, 1])" in shown
    main(["compare", *(str(DATA / name) for name in RUNS)])
    assert name in capsys.readouterr().out


def test_what_has_no_wrapper_or_two_stays_as_it_is() -> None:
    sign = {"type": "MarshallSign", "sublattice": [0, 1]}
    plain = {"type": "TransformerConfig", "width": 8}
    assert without_wrapper(plain) == (plain, 0)
    assert without_wrapper(None) == (None, 0)
    once = {"type": "WithReference", "base": plain, "reference": sign}
    assert without_wrapper(once) == (plain | {"reference": sign}, 1)
    symmetric = {"type": "OnOrbits", "base": once, "symmetry": {}}
    assert without_wrapper(symmetric) == (symmetric | {"base": plain | {"reference": sign}}, 1)
    twice = {"type": "WithReference", "base": once, "reference": sign}
    assert without_wrapper(twice)[0]["type"] == "WithReference"
