"""Archives of version 0.1, where exact steps were stochastic reconfiguration with sums over the sector."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nqs import Archive, ArchiveError, resume
from nqs.archive.upgrade import upgraded
from nqs.optimisation import ExactSteps, StochasticReconfiguration
from nqs.report.compare import hamiltonian_of
from nqs.transfer import load
from nqs.vmc import rebuild

EXACT = Path(__file__).parent / "data" / "version-2-exact.h5"  # six of twelve steps
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


@pytest.mark.parametrize(
    ("name", "value"),
    [("implicit", False), ("propagated", False), ("adaptive", False), ("logarithmic", True), ("space", "parameters"),
     ("momentum", 0.5), ("final_learning_rate", 0.1)],
)  # fmt: skip
def test_an_option_that_is_gone_is_named_in_one_line(name: str, value: object, tmp_path: Path) -> None:
    config = Archive.open(EXACT).config
    config = {**config, "optimiser": {**config["optimiser"], name: value}}
    with pytest.raises(ArchiveError, match=f"^the optimiser of this run has {name}={value!r}, .* removed") as error:
        rebuild(config)
    assert "\n" not in str(error.value)
    assert set(rebuild(config, only=("hamiltonian", "model"))) == {"hamiltonian", "model"}  # to measure, to plot


def test_options_with_their_default_value_are_dropped() -> None:
    config = Archive.open(EXACT).config
    sampled = {"type": "TreeSampler", "n_distinct": 10}
    momentum = {**config["optimiser"], "momentum": 0.5}
    assert rebuild({**config, "sampler": sampled, "optimiser": momentum})["optimiser"] == StochasticReconfiguration(
        learning_rate=1.0, final_learning_rate=1.0, final_diagonal_shift=1e-7, max_step=0.15, momentum=0.5
    )
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
    config = {"sampler": {"type": "ExhaustiveSampler"}, "optimiser": {"type": "StochasticReconfiguration"}}
    assert upgraded(config) == config
