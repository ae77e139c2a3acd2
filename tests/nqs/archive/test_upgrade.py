"""Options and classes of version 0.1 that were renamed or removed since.

tests/data/version-2-*.h5 and 0.1-script.h5 were written by that version and stopped before their last step.
"""

import json
import re
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import small_transformer
from places import DATA

import nqs
from nqs import VMC, Archive, ArchiveError, RunConfig, resume
from nqs.archive.serialise import to_plain
from nqs.archive.upgrade import upgraded, without_wrapper
from nqs.cli import main
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.models import (
    ConvolutionalConfig,
    DeterminantConfig,
    GroupConvolutionalConfig,
    JastrowConfig,
    ListedState,
    MarshallSign,
    OnOrbits,
    ProductConfig,
    RBMConfig,
    TransformerConfig,
    VisionConfig,
)
from nqs.models.parts import ComposedConfig, RotaryAttention
from nqs.optimisation import ExactSteps, StochasticReconfiguration, TorchOptimiser
from nqs.report.compare import hamiltonian_of
from nqs.samplers import TreeSampler
from nqs.symmetry import Symmetry
from nqs.transfer import load
from nqs.vmc.continuation import rebuild

# ------------------------------------------------------------------------------------------- models with a reference
# Heisenberg(chain(6), 0.0), exact sums, Marshall's signs in `WithReference`, alone and on orbits; three of five steps.

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


# ------------------------------------------------------------------------------------------------------- exact steps
# In 0.1 they were stochastic reconfiguration with sums over the whole sector.

EXACT = DATA / "version-2-exact.h5"  # six of twelve steps
# Of the same run that was not interrupted, by 0.1.
ENERGIES = [-2.0476810670504713, -3.0482686562558285, -3.6400066405215554, -3.9378776251125744, -3.9763067021133462,
            -3.9765129773429386]  # fmt: skip


def test_exact_steps_of_an_old_archive_are_resumed(tmp_path: Path) -> None:
    path = Path(shutil.copy(EXACT, tmp_path / "run.h5"))
    old = Archive.open(path)
    assert old.config["optimiser"]["propagated"] is True
    assert isinstance(rebuild(old.config)["optimiser"], ExactSteps)
    result = resume(path, progress=False)
    np.testing.assert_allclose(result.history["energy"][6:], ENERGIES, rtol=0, atol=1e-10)
    assert result.estimate.energy == pytest.approx(-3.976513013738197, abs=1e-11)
    assert resume(path, progress=False).steps_left == 0  # once more: nothing is left


def test_numbers_that_were_not_given_are_those_of_then() -> None:
    config = Archive.open(EXACT).config
    left_out = dict.fromkeys(("learning_rate", "final_learning_rate", "final_diagonal_shift", "max_step"))
    optimiser = rebuild({**config, "optimiser": {**config["optimiser"], **left_out}})["optimiser"]
    assert optimiser == ExactSteps(time=1.0, diagonal_shift=1e-3, final_diagonal_shift=1e-7, max_step=0.15)
    for kind, numbers in (
        (StochasticReconfiguration, (0.3, 0.02, 1e-3, 1e-5, 0.1)),
        (ExactSteps, (1.0, 1e-3, 1e-7, 0.15)),
        (TorchOptimiser, ("Adam", 1e-3, 1e-4)),
    ):
        names = [field.name for field in fields(kind) if field.default is MISSING]
        built = rebuild({"optimiser": {"type": kind.__name__}}, only=("optimiser",))["optimiser"]
        assert tuple(getattr(built, name) for name in names) == numbers
    assert rebuild({"run": {"type": "RunConfig", "steps": 1}}, only=("run",))["run"].annealing == 0.5


def test_sizes_that_were_not_given_are_those_of_then() -> None:
    trivial = Symmetry(permutations=((0,),), maps=((0, 1),), angles=(0.0,))
    listed = ListedState(configurations=np.array([[3, 0]], dtype=np.uint8), amplitudes=np.ones(1), rest=1e-3)
    models: list[Any] = [
        TransformerConfig(width=32, layers=2, heads=4, mlp_ratio=2, dtype="mixed", reference=listed),
        DeterminantConfig(width=16, layers=1, mlp_ratio=2, correction=0.01),
        ConvolutionalConfig(width=16, layers=2, mlp_ratio=2),
        GroupConvolutionalConfig(symmetry=trivial, width=6, layers=2),
        VisionConfig(width=16, layers=2, mlp_ratio=2),
        RBMConfig(density=1, initial=0.1),
        JastrowConfig(initial=0.01),
    ]
    product = ProductConfig(factors=tuple(models))
    stored = to_plain(product)
    pairs = [*zip(models, stored["factors"], strict=True), (listed, stored["factors"][0]["reference"])]
    for model, plain in pairs:
        sizes = [f.name for f in fields(model) if f.default is MISSING and isinstance(plain[f.name], int | float)]
        assert sizes
        for name in sizes:
            del plain[name]
    assert rebuild({"model": stored}, only=("model",))["model"] == product


@pytest.mark.parametrize(
    ("name", "value"),
    [("implicit", False), ("propagated", False), ("adaptive", False), ("logarithmic", True), ("space", "parameters"),
     ("momentum", 0.5), ("final_learning_rate", 0.1)],
)  # fmt: skip
def test_an_option_that_is_gone_is_named_in_one_line(name: str, value: object, tmp_path: Path) -> None:
    config = Archive.open(EXACT).config
    config = {**config, "optimiser": {**config["optimiser"], name: value}}
    message = f"^the optimiser of this run has {name}={value!r}, an option that was removed"
    with pytest.raises(ArchiveError, match=message) as error:
        rebuild(config)
    assert "\n" not in str(error.value)
    assert set(rebuild(config, only=("hamiltonian", "model"))) == {"hamiltonian", "model"}  # to measure, to plot


def test_options_with_their_default_value_are_dropped() -> None:
    config = Archive.open(EXACT).config
    sampled = {"type": "TreeSampler", "n_distinct": 10}
    momentum = {**config["optimiser"], "momentum": 0.5}
    assert rebuild({**config, "sampler": sampled, "optimiser": momentum})["optimiser"] == StochasticReconfiguration(
        learning_rate=1.0, final_learning_rate=1.0, diagonal_shift=1e-3, final_diagonal_shift=1e-7, max_step=0.15,
        momentum=0.5,
    )  # fmt: skip
    adam = {"type": "TorchOptimiser", "name": "Adam", "baseline": True}
    assert "baseline" not in upgraded({**config, "optimiser": adam})["optimiser"]
    with pytest.raises(ArchiveError, match="baseline=False"):
        upgraded({**config, "optimiser": {**adam, "baseline": False}})
    warm_up = {"type": "WarmUp", "share": 0.5, "sampler": sampled, "optimiser": config["optimiser"]}
    assert isinstance(rebuild({**config, "warm_up": warm_up})["warm_up"].optimiser, StochasticReconfiguration)


def test_an_old_archive_is_opened_and_measured() -> None:
    archive = Archive.open(EXACT)
    assert hamiltonian_of(archive).hilbert.dimension == 35
    assert load(archive).n_parameters > 0


def test_todays_configurations_stay() -> None:
    h = BoseHubbard(chain(3), 3, U=4.0)
    vmc = VMC(h, small_transformer(width=4, heads=1).build(h.hilbert), TreeSampler(n_samples=9))
    plain = to_plain(vmc.config(RunConfig(steps=2, annealing=0.5)))
    assert upgraded(plain) == plain


# ---------------------------------------------------------------------------------- options of the sampler, of the run


def test_a_sampler_records_graphs_under_another_name() -> None:
    old = {"type": "TreeSampler", "n_samples": 5, "n_distinct": None, "max_frontier": 9, "recorded": False}
    built = rebuild(Archive.open(DATA / "0.1-initial.h5").config | {"sampler": old, "evaluation": old})
    assert built["sampler"] == built["evaluation"] == TreeSampler(n_samples=5, max_frontier=9, use_cuda_graph=False)


@pytest.mark.parametrize(("name", "value"), [("clip", 5.0), ("first_samples", 0.5)])
def test_a_removed_option_prevents_steps_but_no_looking(
    name: str, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(DATA / "0.1-initial.h5", tmp_path / "run.h5"))
    with Archive.open(path, "a") as archive:
        archive.config["run"][name] = value
        archive._attributes[""]["config"] = json.dumps(archive.config)
        archive.flush()
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=f"^error: this run has {name}={value}, an option that was removed") as error:
        main(["resume", str(path)])
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    main(["show", str(path)])
    assert f"{name}={value}" in capsys.readouterr().out
    for command in ("compare", "verify"):
        main([command, str(path)])
    main(["plot", str(path), "-o", str(tmp_path / "run.png")])
    main(["report", str(path), "-o", str(tmp_path / "run.html")])


# -------------------------------------------------------------------------------------- parts of composed wavefunctions


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"positions": {"type": "Sinusoidal"}}, "Sinusoidal()"),
        ({"mixer": {"type": "RotaryAttention", "heads": 4, "grid": True}}, "RotaryAttention(grid=True)"),
    ],
)
def test_a_part_that_is_gone_is_named_in_one_line(
    part: dict[str, Any], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, h = tmp_path / "run.h5", BoseHubbard(chain(3), 3, U=4.0)
    model = ComposedConfig(width=4, layers=1).build(h.hilbert)
    VMC(h, model, TreeSampler(n_samples=9)).run(2, archive=path, progress=False)
    with Archive.open(path, "a") as archive:
        archive.config["model"].update(part)
        archive._attributes[""]["config"] = json.dumps(archive.config)
        archive.flush()
    message = f"the model of this run has a part that was removed, {re.escape(name)}: nqs of commit bca6904"
    for finished in (False, True):  # another part would be another state
        with pytest.raises(ArchiveError, match=message):
            rebuild(Archive.open(path).config, finished=finished)
    with pytest.raises(SystemExit, match=f"^error: {message}") as error:
        main(["resume", str(path)])
    assert "\n" not in str(error.value)
    main(["show", str(path)])
    assert name.split("(")[0] in capsys.readouterr().out
    main(["compare", str(path)])
    main(["plot", str(path), "-o", str(tmp_path / "run.png")])


def test_rotary_attention_without_a_grid_is_rebuilt() -> None:
    config = Archive.open(EXACT).config
    stored = to_plain(ComposedConfig(mixer=RotaryAttention(heads=2)))
    stored["mixer"]["grid"] = False
    built = rebuild({**config, "model": stored}, only=("hamiltonian", "model"))
    assert built["model"] == ComposedConfig(mixer=RotaryAttention(heads=2))


# --------------------------------------------------------------------------------------------------- repeated commands


def repeated(path: Path, *options: str) -> None:
    """The command that wrote 0.1-script.h5, with an archive of one of its six steps."""
    size = ["--shape", "4", "--n-particles", "4", "--steps", "6", "--model.width", "4", "--model.layers", "1"]
    main(["run", "bose-hubbard", *size, "--archive", str(path), "--device", "cpu", *options])


def test_a_repeated_command_goes_on_with_the_run_of_an_older_version(tmp_path: Path) -> None:
    path = Path(shutil.copy(DATA / "0.1-script.h5", tmp_path / "run.h5"))
    old = Archive.open(path)
    network: Any = old.config["model"]["base"]
    assert network["heads"] is None  # today 4
    repeated(path)
    new = Archive.open(path)
    assert new.finished
    assert new.history["energy"][0] == old.history["energy"][0]


def test_another_command_is_another_run(tmp_path: Path) -> None:
    path = Path(shutil.copy(DATA / "0.1-script.h5", tmp_path / "run.h5"))
    with pytest.raises(SystemExit) as error:
        repeated(path, "--model.heads", "2", "--model.dtype", "float64")
    lines = [line.strip() for line in str(error.value).splitlines() if line.startswith("  ")]
    assert lines == ["model.base.heads: 4 / 2", "model.base.dtype: mixed / float64"]
