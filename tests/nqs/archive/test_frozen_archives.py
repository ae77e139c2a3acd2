"""Archives of every past version, one of each kind of run: they open, show, compare, verify, and go on.

tests/data/0.1-*.h5 were written by nqs 0.1.0, version-1.h5 by an earlier one, 0.2-*.h5 by the version after 0.2.0.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from places import DATA

from nqs import Archive, resume
from nqs.cli import main

# Steps made, steps wanted, energy of the last evaluation, exact energy.
RUNS = {
    "version-1": (5, 5, -1.9321231040454778, -3.1749615197),
    "0.1-bosons-exact": (8, 8, -2.066948866601404, -3.976513013742048),
    "0.1-spins-marshall-sampled": (8, 8, -3.2083811137689837, -3.6510934089371756),
    "0.1-electrons-on-orbits": (8, 8, -2.475948383097002, -2.7521579565770304),
    "0.1-symmetrised-unfinished": (1, 12, -9.372315616735214, None),
    "0.1-warm-up": (1, 8, 11.139700407590457, None),
    "0.1-initial": (1, 4, -0.5109264050097746, None),
    "0.1-gumbel-annealed": (6, 6, 0.07130932778428857, None),
    "0.1-script": (1, 6, 0.5210586748309982, -3.976513013742048),
    "0.2-bosons-sampled": (3, 3, -2.0814557576436696, None),
    "0.2-determinant-chains": (2, 2, -5.846903756622199, None),
    "0.2-molecule": (2, 2, -1.1167411950432458, None),
}
UNFINISHED = [name for name, (made, wanted, _, _) in RUNS.items() if made < wanted]


@pytest.fixture(params=RUNS)
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy, which a test may write to."""
    return copied(request.param, tmp_path)


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copy(DATA / f"{name}.h5", folder / f"{name}.h5"))


def test_every_file_is_listed() -> None:
    """Those named version-2-* are of tests/nqs/archive/test_upgrade.py."""
    assert {path.stem for path in DATA.glob("*.h5") if not path.stem.startswith("version-2-")} == set(RUNS)
    assert all(path.stat().st_size < 100_000 for path in DATA.glob("*.h5"))


def test_it_opens(frozen: Path) -> None:
    archive = Archive.open(frozen)
    made, wanted, energy, exact = RUNS[frozen.stem]
    assert (archive.step, archive.steps, archive.result_step, archive.finished) == (made, wanted, made, made == wanted)
    assert archive.result is not None
    assert archive.result.energy == energy
    assert (archive.exact and archive.exact["energy"]) == (exact if exact is None else pytest.approx(exact))
    assert all(len(values) == made for values in archive.history.values())
    checkpoint = archive.checkpoint()
    assert checkpoint.model
    assert bool(checkpoint.sampler) == (frozen.stem in ("0.2-bosons-sampled", "0.2-determinant-chains"))
    assert ("initial" in archive.config) == (frozen.stem == "0.1-initial")
    assert ("warm_up" in archive.config) == (frozen.stem == "0.1-warm-up")


def test_it_is_shown(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(frozen)])
    text = capsys.readouterr().out
    made, wanted, energy, _ = RUNS[frozen.stem]
    shown = re.search(r"energy +(-?[0-9.]+)", text)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(energy, abs=0.2)  # rounded to its error bar
    assert f"{made} of {wanted} steps" in text


def test_it_is_verified(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", str(frozen)])
    assert str(frozen) in capsys.readouterr().out


def test_it_is_compared_with_every_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(copied(name, tmp_path)) for name in RUNS]
    main(["compare", *files])
    text = capsys.readouterr().out
    assert all(name in text for name in RUNS)


def test_it_is_written_again_without_a_loss(frozen: Path) -> None:
    old = Archive.open(frozen)
    with Archive.open(frozen, "a") as archive:
        archive.flush()
    new = Archive.open(frozen)
    assert new.config == old.config
    assert new.result == old.result
    assert new.history.keys() == old.history.keys()
    for name, values in old.history.items():
        np.testing.assert_array_equal(new.history[name], values)
    for name, values in old.parameters().items():
        assert new.parameters()[name].tobytes() == values.tobytes()


# ---------------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_run_goes_on(name: str, tmp_path: Path) -> None:
    path = copied(name, tmp_path)
    old = Archive.open(path)
    result = resume(path, progress=False)
    new = Archive.open(path)
    assert new.finished
    assert result.steps_left == 0
    assert np.isfinite(new.history["energy"]).all()
    assert len(new.history["energy"]) == RUNS[name][1]
    np.testing.assert_array_equal(new.history["energy"][: old.step], old.history["energy"])


@pytest.mark.parametrize("name", [name for name in RUNS if name not in UNFINISHED])
def test_a_finished_run_gives_its_result_again(name: str, tmp_path: Path) -> None:
    path = copied(name, tmp_path)
    result = resume(path, progress=False)
    assert result.estimate.energy == RUNS[name][2]
    assert result.steps_left == 0
