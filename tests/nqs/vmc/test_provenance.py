"""Where the numbers of a run come from: initial parameters, versions, device, threads, settings of PyTorch."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import VMC, Archive, ArchiveError, resume
from nqs.hamiltonians import BoseHubbard, Heisenberg
from nqs.lattice import chain
from nqs.models import OnOrbits, Transformer, TransformerConfig
from nqs.protocols import Wavefunction
from nqs.runtime.threads import using_threads
from nqs.samplers import TreeSampler
from nqs.samplers.tree import TreeSampling
from nqs.symmetry import translations
from nqs.vmc.provenance import digest_of, given_parameters, steps_differ

H = BoseHubbard(chain(3), 3, U=4.0)
STEPS = 4


def model() -> Transformer:
    return small_transformer(width=4, heads=1).build(H.hilbert)


def vmc(wavefunction: Wavefunction | None = None) -> VMC:
    return VMC(H, wavefunction or model(), TreeSampler(n_samples=200), evaluation=TreeSampler(n_samples=500))


def trained() -> Transformer:
    """A model that was changed by hand."""
    wavefunction = model()
    vmc(wavefunction).run(3, progress=False)
    return wavefunction


# ------------------------------------------------------------------------------------------- initial parameters


def test_digest_is_that_of_names_types_shapes_and_bytes() -> None:
    parameters = {"b": torch.arange(3.0), "a": torch.ones(2, 1, dtype=torch.float64)}
    expected = hashlib.sha256(b"a <f8 (2, 1)\n" + np.ones(2).tobytes() + b"b <f4 (3,)\n")
    expected.update(np.arange(3, dtype="f4").tobytes())
    assert digest_of(parameters) == expected.hexdigest()
    assert digest_of({name: tensor.numpy() for name, tensor in parameters.items()}) == expected.hexdigest()


def test_a_new_model_leaves_the_configuration_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    expected = digest_of(model().state_dict())
    vmc().run(STEPS, archive=path, progress=False)
    archive = Archive.open(path)
    assert "initial" not in archive.config
    assert archive.initial_parameters == expected


def test_parameters_changed_by_hand_make_another_configuration(tmp_path: Path) -> None:
    wavefunction = trained()
    expected = digest_of(wavefunction.state_dict())
    vmc(wavefunction).run(STEPS, archive=tmp_path / "trained.h5", progress=False)
    archive = Archive.open(tmp_path / "trained.h5")
    assert archive.config["initial"] == {"parameters": expected}
    assert archive.initial_parameters == expected

    vmc().run(STEPS, archive=tmp_path / "new.h5", progress=False)
    with pytest.raises(ArchiveError, match=r"trained\.h5 holds another run.*\n  initial: \(…\) / None\n"):
        vmc().run(STEPS, archive=tmp_path / "trained.h5", progress=False)
    with pytest.raises(ArchiveError, match=r"new\.h5 holds another run.*\n  initial: None / \(…\)\n"):
        vmc(trained()).run(STEPS, archive=tmp_path / "new.h5", progress=False)


@pytest.mark.parametrize("stopped_at", [0, 2])
@pytest.mark.usefixtures("unchecked")
def test_a_run_from_trained_parameters_is_resumed_bit_for_bit(
    stopped_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vmc(trained()).run(STEPS, progress=False)
    calls = []
    sample = TreeSampling.sample

    def stopping(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == stopped_at + 1:
            raise KeyboardInterrupt
        return sample(*arguments)  # type: ignore[arg-type]

    for name in ("alone", "repeated"):
        wavefunction = trained()
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(TreeSampling, "sample", stopping)
            with pytest.raises(KeyboardInterrupt):
                vmc(wavefunction).run(STEPS, archive=tmp_path / f"{name}.h5", progress=False)
        assert Archive.open(tmp_path / f"{name}.h5").step == stopped_at
    assert resume(tmp_path / "alone.h5", progress=False).estimate == whole.estimate
    assert vmc(trained()).run(STEPS, archive=tmp_path / "repeated.h5", progress=False).estimate == whole.estimate


def test_a_finished_run_is_returned_to_the_model_that_made_it(tmp_path: Path) -> None:
    wavefunction = model()
    first = vmc(wavefunction).run(STEPS, archive=tmp_path / "run.h5", progress=False)
    assert vmc(wavefunction).run(STEPS, archive=tmp_path / "run.h5", progress=False).estimate == first.estimate


def test_archives_of_earlier_versions_do_not_say_and_are_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    vmc(trained()).run(STEPS, archive=path, progress=False)
    with Archive.open(path, "a") as archive:  # as 0.2.0 wrote it
        del archive._attributes["provenance"]
        config = {name: part for name, part in archive.config.items() if name != "initial"}
        archive._attributes[""]["config"] = json.dumps(config)
        archive.flush()
    assert Archive.open(path).sessions == []
    assert Archive.open(path).initial_parameters is None
    vmc(trained()).run(STEPS, archive=path, progress=False)


def test_symmetrised_models_are_compared_without_their_tables() -> None:
    spins = Heisenberg(chain(6), 0)
    base = small_transformer(width=4, heads=1)
    wavefunction = OnOrbits(base=base, symmetry=translations(chain(6), spins.hilbert)).build(spins.hilbert)
    assert given_parameters(wavefunction) is None
    with torch.no_grad():
        next(wavefunction.parameters()).add_(1e-12)
    assert given_parameters(wavefunction) == {"parameters": digest_of(wavefunction.state_dict())}


def test_models_with_random_parameters_without_a_seed_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    wavefunction = model()

    def unseeded(config: TransformerConfig, hilbert: object, device: str) -> Transformer:
        new = Transformer(H.hilbert, config)
        torch.nn.init.normal_(new.head.weight)
        return new

    monkeypatch.setattr(TransformerConfig, "build", unseeded)
    assert given_parameters(wavefunction) is None


# --------------------------------------------------------------------------------------------- settings of PyTorch


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def usual() -> list[object]:
    return outcome()


def outcome() -> list[object]:
    found: list[object] = []
    for options in ({}, {"dtype": "float32"}, {"dtype": "mixed"}, {"attention": "factored"}):
        wavefunction = small_transformer(**options).build(H.hilbert)
        found.append(digest_of(wavefunction.state_dict()))
        for sampler in (TreeSampler(n_samples=200), None):
            found.append(VMC(H, wavefunction, sampler).run(2, progress=False).estimate)
    return found


def test_default_type_of_torch_changes_nothing(usual: list[object], float64_by_default: None) -> None:
    assert outcome() == usual
    assert torch.get_default_dtype() == torch.float64


# ------------------------------------------------------------------------------------------------------- sessions


def test_every_process_is_recorded_and_differences_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.h5"
    vmc().run(STEPS, archive=path, progress=False, minutes=1e-9)
    assert Archive.open(path).step == 1
    (first,) = Archive.open(path).sessions
    assert first["step"] == 0
    assert first["torch"] == torch.__version__
    assert first["threads"] == torch.get_num_threads() == 1
    assert first["device"].startswith("cpu (")

    resume(path, minutes=1e-9)  # the same process, the same numbers
    assert Archive.open(path).step == 2
    assert "may differ" not in capsys.readouterr().err
    assert Archive.open(path).sessions == [first]

    with using_threads(2):
        resume(path)
    assert "from step 2 on, numbers may differ in their last bits: threads 1 → 2\n" in capsys.readouterr().err
    assert Archive.open(path).sessions == [first, first | {"step": 2, "threads": 2}]
    assert Archive.open(path).finished
    before = path.read_bytes()
    resume(path)  # no step is left
    assert path.read_bytes() == before


def test_what_differs_is_named() -> None:
    session = {"step": 0, "nqs": "0.2.0", "torch": "2.11", "device": "cpu (AVX2)", "threads": 1, "float32": "highest"}
    assert steps_differ(session, session | {"step": 7}) is None
    line = steps_differ(session, session | {"step": 7, "torch": "2.13", "device": "cuda (H200)"})
    assert (
        line
        == "from step 7 on, numbers may differ in their last bits: torch 2.11 → 2.13, device cpu (AVX2) → cuda (H200)"
    )


def test_show_names_them(tmp_path: Path) -> None:
    vmc().run(1, archive=tmp_path / "run.h5", progress=False)
    command = [sys.executable, "-m", "nqs.cli", "show", str(tmp_path / "run.h5")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    line = f"  computed    torch {torch.__version__} on cpu ("
    assert any(text.startswith(line) and text.endswith("), 1 thread") for text in done.stdout.splitlines()), done.stdout
