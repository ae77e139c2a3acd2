"""The study of samplers: its targets, its rows, its errors."""

import pytest
import torch

from nqs.hamiltonians import FermiHubbard
from nqs.lattice import square
from nqs.samplers import TreeSampler
from nqs.scripts import sampler_study
from nqs.scripts.sampler_study import Config, IsingTable, main, measured, samplers, targets


def test_the_gradient_of_an_ising_target_is_that_of_its_amplitudes() -> None:
    psi = IsingTable(4, 1.5)
    n = psi.hilbert.configurations()
    one_hot = torch.nn.functional.one_hot(n.long(), 2).double()
    difference = psi.relaxed_log_modulus(one_hot) - psi.log_psi(n).log_modulus
    torch.testing.assert_close(difference, difference[:1].expand(16))
    assert (2 * psi.log_psi(n).log_modulus).exp().sum().item() == pytest.approx(1)


@pytest.mark.usefixtures("unchecked")  # for speed
def test_every_sampler_comes_close_to_every_target() -> None:
    psi = targets(1.0)["ising-4"]
    independent = measured(TreeSampler(n_samples=8 * 100), psi, 8, 0).variation[0]
    for name, sampler in samplers(8, 100).items():
        found = measured(sampler, psi, 8, 0)
        assert found.variation[0] < 4 * independent + 0.05, name
        assert 0 < found.acceptance <= 1
        assert found.rate > 0


@pytest.mark.usefixtures("unchecked")  # for speed
def test_the_table_has_a_row_for_each_sampler(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Config(trials=8, steps=10, targets=("ising-4",))) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == len(samplers(8, 20))
    assert all(row.count("|") == 8 for row in rows)
    assert sum("step size" in row for row in rows) == 8


def test_unknown_targets_are_named() -> None:
    with pytest.raises(SystemExit, match="no target 'ising': choose among ising-4"):
        main(Config(targets=("ising",)))


@pytest.mark.usefixtures("unchecked")  # for speed
def test_proposals_for_a_determinant_have_their_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = FermiHubbard(square(2, 2), 1, 1, U=8.0)
    monkeypatch.setattr(sampler_study, "FermiHubbard", lambda *_, **__: small)
    assert main(Config(proposals=True, trials=16, steps=1, first=1)) == 0
    names = [row.split("|")[1].strip() for row in capsys.readouterr().out.splitlines()[2:]]
    assert names[:4] == ["Metropolis", "independence", "QUEST", "importance"]
    assert names[4:] == ["importance, conditionals^0.7", "SMC, conditionals^0.7"]


@pytest.mark.usefixtures("unchecked")
def test_samplers_are_chosen_by_name_and_memory_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Config(trials=8, steps=4, targets=("ising-4",), samplers=("SMC", "autoregressive"))) == 0
    names = [row.split("|")[2].split(",")[0].strip() for row in capsys.readouterr().out.splitlines()[2:]]
    assert names == ["SMC", "SMC", "autoregressive"]
    assert main(Config(memory=50)) == 0
    assert capsys.readouterr().out.startswith("50 distinct: 0.")
