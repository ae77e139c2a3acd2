"""Archives of any origin: limits of the child process that reads them, the layout that is checked, and viewers that
neither rebuild, compute nor print control characters."""

import json
import math
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from optimisers import exact_steps
from places import DATA

import nqs.archive.serialise
import nqs.vmc.rebuilding
from nqs import Archive, ArchiveError
from nqs.archive import isolated, reader
from nqs.archive.hdf5 import to_image
from nqs.archive.isolated import Reader
from nqs.archive.storage import seal
from nqs.cli import main
from nqs.cli.errors import ExitCode
from nqs.optimisation.solve import solve_shifted
from nqs.optimisation.stages import RunConfig, stages
from nqs.runtime.text import printable
from nqs.samplers import ExhaustiveSampler
from nqs.samples import split_counts
from nqs.vmc import resume
from nqs.vmc.pace import Pace
from nqs.vmc.provenance import steps_differ
from nqs.vmc.stored import MAX_SITES, check_sizes

RUN = DATA / "0.1-bosons-exact.h5"
ESCAPES = "\x1b[2J\x9b31m\u202e\x00\rlies\nE = -99 J"


def image(change: Callable[[h5py.File], object]) -> bytes:
    """The HDF5 image of a run after a change."""
    with h5py.File(h5py.h5f.open_file_image(RUN.read_bytes()[512:], 1)) as file:
        change(file)
        file.flush()
        return file.id.get_file_image()


def changed(path: Path, change: Callable[[h5py.File], object]) -> Path:
    data = image(change)
    path.write_bytes(seal(data, format="nqs-run", version=2) + data)
    return path


def with_config(path: Path, **parts: Any) -> Path:
    """The run with other parts of its configuration."""
    return changed(path, lambda file: file.attrs.update(config=json.dumps(json.loads(file.attrs["config"]) | parts)))


def ends_in_one_line(line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command on standard error, whatever its exit code says about the reason."""
    with pytest.raises(SystemExit) as end:
        main(line)
    code, printed = end.value.code, capsys.readouterr().err
    assert isinstance(code, str) or code == ExitCode.USAGE, line  # a text ends with 1
    lines = (code if isinstance(code, str) else printed).strip().splitlines()
    assert len(lines) == 1
    assert re.match(f"error: .*({message})", lines[0]), lines


def sites(n: int) -> dict[str, Any]:
    """A Hamiltonian on a ring of n sites."""
    with h5py.File(RUN) as file:
        hamiltonian = json.loads(file.attrs["config"])["hamiltonian"]
    return hamiltonian | {"lattice": hamiltonian["lattice"] | {"shape": [n]}}


# -------------------------------------------------------------------------------------------------- the child process


@pytest.fixture
def own_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new child process for every archive, as for a user; other tests share one."""
    monkeypatch.setattr("nqs.archive.archive.Reader", Reader)


def child_that(program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reader, but with this statement in place of reading an image."""
    source = Path(reader.__file__).read_text().replace("read_image(requests", f"{program}; read_image(requests")
    assert program in source
    (tmp_path / "reader.py").write_text(source)
    monkeypatch.setattr(isolated.reader, "__file__", str(tmp_path / "reader.py"))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the HDF5 library crashes while reading it"),
        ("any(iter(int, 1))", "the HDF5 library does not finish reading it"),
        ("b'x' * 2**33", r"the HDF5 library cannot read it \(MemoryError\)"),
        ("replies.write(bytes(8) + b'x' * 999)", "Expecting value"),
        ("replies.write(struct.pack('<Q', 2**60))", "it holds too much"),
        ("replies.write(struct.pack('<Q', 99)); sys.exit()", "the HDF5 library crashes while reading it"),
        ("reply('group', '', {'version': []})", "attributes that are neither numbers nor text"),
        ("reply('data', 'x', 'O', [1])", "x holds numbers of type O, which nqs does not write"),
        ("reply('data', 'x', '<f8', [2**40])", "it holds too much"),
    ],
)
def test_crash_hang_and_lies_of_the_child_end_in_one_line(
    program: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_reader: None
) -> None:
    child_that(program, monkeypatch, tmp_path)
    with pytest.raises(ArchiveError, match=message) as error:
        Archive.open(RUN)
    assert "\n" not in str(error.value)


def test_hang_without_cpu_time_is_ended_by_the_parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_reader: None
) -> None:
    """As on a system without limits of CPU time."""
    child_that("import time; time.sleep(1000)", monkeypatch, tmp_path)
    monkeypatch.setattr(isolated, "SECONDS", 0.5)
    with pytest.raises(ArchiveError, match="does not finish reading it"):
        Archive.open(RUN)


def test_reader_works_without_limits_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows there is no module `resource`."""
    monkeypatch.setitem(sys.modules, "resource", None)
    reader.limit_process(10**6)


def test_next_image_is_read_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    good = RUN.read_bytes()[512:]
    with Reader() as one:
        expected = one.read(good)
        with pytest.raises(ValueError, match="cannot read it"):
            one.read(b"nonsense")
        assert one._child is None
        attributes, datasets = one.read(good)
    assert attributes == expected[0]
    assert datasets.keys() == expected[1].keys()


def test_every_type_and_bit_comes_back() -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"observables/{name}{shape}".replace(" ", ""): rng.integers(0, 2, shape).astype(name)
        for name in isolated.KINDS
        for shape in ((), (3,), (0,), (2, 3), (2, 0, 1))
    }
    arrays["history/x"] = rng.integers(0, 256, 8 * 1000, dtype=np.uint8).view(np.float64)
    attributes = {"": {"a": "é\x1b", "b": 2**63 - 1, "c": 0.1, "d": float("inf")}, "result": {"energy": 1e-320}}
    with Reader() as one:
        found = one.read(to_image(attributes, arrays))
    assert found[0] == attributes
    assert found[1].keys() == arrays.keys()
    for name, values in arrays.items():
        assert (found[1][name].dtype, found[1][name].shape) == (values.dtype, values.shape)
        assert found[1][name].tobytes() == values.tobytes()
        assert found[1][name].flags.writeable or not values.size


def hard_links(file: h5py.File) -> None:
    """200 times 8 MB in a file of less than a megabyte."""
    file.create_dataset("observables/x", data=np.zeros(2**20), compression="gzip")
    for i in range(200):
        file[f"observables/x{i}"] = file["observables/x"]


def unallocated(file: h5py.File) -> None:
    for i in range(200):
        file.create_dataset(f"observables/x{i}", (2**22,), "f8")


def wide(file: h5py.File) -> None:
    for i in range(21_000):
        file[f"observables/x{i}"] = file["observables/fidelity"]


def attributes_of_megabytes(file: h5py.File) -> None:
    file["exact"].attrs["x"] = "x" * 2**20
    for i in range(300):
        file[f"observables/g{i}"] = file["exact"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hard_links, "beyond the limits of 20,000 objects and 134,217,728 bytes"),
        (unallocated, r"the data of observables/x\d+ are not in the file"),
        (wide, "beyond the limits of 20,000 objects"),
        (attributes_of_megabytes, "beyond the limits of"),
    ],
)
def test_small_file_takes_little_memory(
    change: Callable[[h5py.File], object], message: str, tmp_path: Path, own_reader: None
) -> None:
    path = changed(tmp_path / "x.h5", change)
    assert path.stat().st_size < 3 * 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArchiveError, match=message):
        Archive.open(path)
    unit = 1 if sys.platform == "darwin" else 1024
    assert unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 2**28


# -------------------------------------------------------------------------------------------------------- layout


EVERY_VERB = (
    "show {path}", "show --json {path}", "show --toml {path}", "compare {path}", "resume {path}", "evaluate {path}",
    "report {path} -o {folder}/x.html", "plot {path} -o {folder}/x.png", "export {path} -o {folder}/x.csv",
)  # fmt: skip


def replaced(name: str, values: Any) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        for old in (name, f"{name}_exact"):
            if old in file:
                del file[old]
        file[name] = values

    return change


def attribute(group: str, **values: Any) -> Callable[[h5py.File], object]:
    return lambda file: file[group].attrs.update(values)


DEEP = 100_000
PLAN = "checkpoint/optimiser/pace.plan"
PLANS = {
    "nan": np.full(4, np.nan),
    "inf": np.array([np.inf, 0, 0, 20]),
    "huge": np.array([1e300, 0, 0, 20]),
    "negative": np.array([-8.0, 0, 0, 20]),
    "a half": np.array([8.5, 0, 0, 20]),
    "first step nan": np.array([8, np.nan, 0, 20]),
    "first step beyond those made": np.array([100, 50, 0.5, 20]),
    "progress beyond 1": np.array([8, 0, 2.0, 20]),
    "next step inf": np.array([8, 0, 0, np.inf]),
    "scalar": np.array(8.0),
    "empty": np.zeros(0),
    "three": np.zeros(3),
    "matrix": np.zeros((4, 2)),
    "integers": np.array([8, 0, 0, 20]),
    "complex": np.array([8, 0, 0, 20], complex),
}
LAYOUTS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "deep JSON": (attribute("/", config="[" * DEEP + "]" * DEEP), "attribute config is nested too deeply"),
    "deep JSON object": (attribute("/", config='{"a":' * 99 + "1" + "}" * 99), "attribute config is nested too deeply"),
    "long integer": (attribute("/", config='{"run": {"steps": ' + "9" * 5000 + "}}"), "an integer of 5000 digits"),
    "many entries": (attribute("/", config='{"x": [' + "[]," * 2_100_000 + "0]}"), "more than 2,000,000 entries"),
    "steps of text": (attribute("/", config='{"run": {"steps": "many"}}'), "run.steps in the configuration is 'many'"),
    "model as a list": (attribute("/", config='{"model": []}'), "model in the configuration is not a JSON object"),
    "unit of numbers": (attribute("/", config='{"unit": 3}'), "unit in the configuration is not text"),
    "steps without end": (attribute("/", config=json.dumps({"run": {"steps": 2**63}})), "not a number of steps"),
    "energy scale nan": (
        attribute("/", config='{"energy_scale": NaN}'),
        "energy_scale .* is nan, not a positive energy",
    ),
    "energy scale of text": (attribute("/", config='{"energy_scale": "1"}'), "energy_scale .* is '1'"),
    "negative energy scale": (attribute("/", config='{"energy_scale": -1.0}'), "energy_scale .* is -1.0"),
    "energy scale of a list": (attribute("/", config='{"energy_scale": [1.0]}'), r"energy_scale .* is \[1.0\]"),
    "files as known states": (
        attribute("/", config='{"orthogonal_to": ["/x.h5"]}'),
        "orthogonal_to .* is not a list of",
    ),
    "a file as known states": (
        attribute("/", config='{"orthogonal_to": "/x.h5"}'),
        "orthogonal_to .* is not a list of",
    ),
    "overlaps alone": (replaced("observables/overlaps", np.ones(1)), "overlaps with known states are not real numbers"),
    "no date": (lambda file: file.attrs.pop("created"), "'created' is missing"),
    "huge text": (attribute("/", unit="x" * 2**21), "attribute unit is longer than 1,048,576 characters"),
    "empty history": (
        lambda file: [replaced(f"history/{name}", np.zeros(0))(file) for name in list(file["history"])],
        "the history has columns without a row",
    ),
    "complex history": (replaced("history/energy", np.zeros(8, complex)), "column 'energy' .* holds no real numbers"),
    "samples that are nan": (replaced("history/samples", np.full(8, np.nan)), "column samples .* impossible values"),
    "samples that are nan in half precision": (
        replaced("history/samples", np.full(8, np.nan, np.float16)),
        "column samples .* impossible values",
    ),
    "step of text": (attribute("checkpoint", step="one"), "the step of the checkpoint is not a non-negative integer"),
    "damping nan": (attribute("checkpoint", damping=float("nan")), "the damping of the checkpoint is nan"),
    "generator as a matrix": (
        replaced("checkpoint/generator", np.zeros((2, 2), np.uint8)),
        "the random generator is not in bytes",
    ),
    "result too long": (attribute("result", more=1.0), "the attributes of result are"),
    "negative error": (attribute("result", error=-1.0), "the error of the result is negative"),
    "method of numbers": (attribute("exact", method=3), "the method of the exact ground state is not text"),
    "exact energy nan": (attribute("exact", energy=float("nan")), "the exact energy is not finite"),
    "configurations of floats": (replaced("samples/configurations", np.ones((2, 2))), "configurations of the samples"),
    "uneven samples": (replaced("samples/weights", np.ones(99)), "the samples have arrays of different lengths"),
    "uneven error": (replaced("observables/density_particles_error", np.ones(9)), r"has the shape \(9,\), its"),
    "names of states": (attribute("observables", state_names="[1, 2]"), "names of the local states are not a list"),
}


@pytest.mark.parametrize("plan", PLANS)
def test_impossible_plans_of_the_steps_end_in_one_line(
    plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(changed(tmp_path / "x.h5", replaced(PLAN, PLANS[plan])))
    for verb in EVERY_VERB if plan in ("nan", "huge", "matrix") else EVERY_VERB[:1]:
        line = [word.format(path=path, folder=tmp_path) for word in verb.split()]
        ends_in_one_line(line, "but not its layout: .*the plan of the steps", capsys)
    with pytest.raises(ArchiveError, match="the plan of the steps"):
        Archive.open(changed(tmp_path / "y.h5", lambda file: [replaced(PLAN, PLANS[plan])(file), stepless(file)]))


def stepless(file: h5py.File) -> None:
    for name in ("step", "damping"):
        del file["checkpoint"].attrs[name]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_checked(name: str, tmp_path: Path) -> None:
    change, message = LAYOUTS[name]
    with pytest.raises(ArchiveError, match=f"but not its layout: .*{message}") as error:
        Archive.open(changed(tmp_path / "x.h5", change))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("observables/local_state_probabilities", np.ones((4, 300))), r"of shape \(4, 300\): .*, up to 256"),
        (replaced("observables/distances", np.ones((5, 5))), "sizes must fit together"),
        (replaced("observables/density_x", np.ones(4)), "density_x is without error bars"),
        (
            replaced("observables/condensate_fraction_exact", 1j * np.ones(())),
            "condensate_fraction_exact is complex128",
        ),
        (replaced("observables/density_particles", np.ones(4, bool)), "density_particles is of type bool"),
        (lambda file: file["observables"].pop("particle_wave_vectors"), "without particle_wave_vectors"),
    ],
)
def test_figures_of_misshapen_observables_are_refused(
    change: Callable[[h5py.File], object], message: str, tmp_path: Path
) -> None:
    path = changed(tmp_path / "x.h5", change)
    for line in (
        ["plot", str(path), "-o", str(tmp_path / "x.png")],
        ["report", str(path), "-o", str(tmp_path / "x.html")],
    ):
        with pytest.raises(SystemExit, match=f"error: .*x.h5 cannot be drawn: its observable .*{message}"):
            main(line)
    main(["show", str(path)])


# --------------------------------------------------------------------------------------------- nothing is computed


@pytest.mark.parametrize("hamiltonian", [sites(20_000), sites(10**9), {"type": "Os"}, {}])
def test_viewers_rebuild_and_compute_nothing(
    hamiltonian: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a viewer rebuilds the run")

    monkeypatch.setattr(nqs.archive.serialise, "from_plain", forbidden)
    monkeypatch.setattr(nqs.vmc.rebuilding, "from_plain", forbidden)
    path = str(with_config(tmp_path / "x.h5", hamiltonian=hamiltonian))
    begin = time.process_time()
    for line in ("show", "show --json", "compare", "report -o x.html", "plot -o x.png", "export -o x.csv"):
        verb, *options = line.split()
        main([verb, path, *(str(tmp_path / word) if word.startswith("x.") else word for word in options)])
    assert time.process_time() - begin < 20


def test_large_lattice_in_an_archive_is_refused_before_it_is_built(tmp_path: Path) -> None:
    check_sizes({"lattice": {"type": "Lattice", "shape": [MAX_SITES], "basis": [[0.0]]}})
    for n in (20_000, 10**9):
        path = with_config(tmp_path / "x.h5", hamiltonian=sites(n))
        with pytest.raises(ValueError, match=f"Lattice has {n:,} sites; runs from archives have at most 10,000"):
            resume(path)


def test_large_network_in_an_archive_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    model = json.loads(h5py.File(RUN).attrs["config"])["model"]
    path = with_config(tmp_path / "x.h5", model=model | {"width": 10**5})
    with pytest.raises(ArchiveError, match=r"have the shape .*, those in its checkpoint|are needed and .* are free"):
        resume(path)


with h5py.File(RUN) as _file:
    NETWORK = json.loads(_file.attrs["config"])["model"]
KNOWN = {"type": "KnownState", "weight": 1.0, "model": NETWORK, "parameters": {}}
BATCHES = {"type": "Evaluation", "sampler": {"type": "TreeSampler", "n_samples": 100}, "batches": 2, "error": 1.0}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"sampler": {"type": "TorchOptimiser"}}, "the sampler of the run in the archive is a TorchOptimiser"),
        ({"run": {"type": "RunConfig", "steps": 9, "seed": "x"}}, "seed='x' is a str: give a whole number"),
        ({"run": {"type": "RunConfig", "steps": 9, "seed": 0.5}}, "seed=0.5 is a float: give a whole number"),
        ({"hamiltonian": {"type": "Species"}}, "Species cannot be built|is a Species"),
        ({"sampler": {"type": "TreeSampler", ESCAPES: 1}}, r"unexpected keyword argument .*lies E = -99 J"),
        ({"sampler": {"type": ESCAPES}}, "is none of the classes"),
        ({"orthogonal_to": [{"type": "ExhaustiveSampler"}]}, "a known state in the archive is a ExhaustiveSampler"),
        ({"orthogonal_to": [{"type": "KnownState", "weight": 1.0}]}, "either a vector, or a model"),
        ({"orthogonal_to": [{"type": "KnownState", "weight": "x", "vector": 3}]}, "KnownState cannot be built"),
        ({"orthogonal_to": [{"type": "KnownState", "weight": 1.0, "vector": 3}]}, "phases are not learned"),
        ({"orthogonal_to": [KNOWN | {"model": NETWORK | {"width": 10**6}}]}, "parameters .* (shape|bytes are needed)"),
        ({"orthogonal_to": [KNOWN | {"parameters": "x"}]}, "cannot be rebuilt"),
        ({"orthogonal_to": [KNOWN]}, "parameters .* of its model have the shape"),
        ({"evaluation": BATCHES | {"batches": 2.5}}, "batches=2.5 is a float: give a whole number"),
        ({"evaluation": BATCHES | {"batches": "x"}}, "Evaluation cannot be built"),
        ({"evaluation": BATCHES | {"error": None}}, "Evaluation cannot be built"),
        ({"evaluation": BATCHES | {"sampler": {"type": "RunConfig"}}}, "the evaluation of the run .* is a RunConfig"),
        ({"run": {"type": "RunConfig", "minutes": "x"}}, "RunConfig cannot be built"),
        ({"run": {"type": "RunConfig"}}, "does not say how many steps or minutes it has"),
    ],
)
def test_parts_of_another_kind_are_refused(
    parts: dict[str, Any], message: str, tmp_path: Path, unchecked: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(with_config(tmp_path / "x.h5", **parts))
    for verb in ("resume", "evaluate"):
        ends_in_one_line([verb, path], message, capsys)


CHECKPOINT = "checkpoint/model/head.bias"


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (
            "export {} -o {}.safetensors",
            replaced(CHECKPOINT, np.ones(5, complex)),
            r"complex parameters \(head.bias, …\)",
        ),
        ("resume {}", replaced(CHECKPOINT, np.full(5, np.nan)), "head.bias in its checkpoint are not finite"),
        ("resume {}", replaced(CHECKPOINT, np.ones(6)), "head.bias of its model have the shape"),
        ("resume {}", lambda file: file["history"].pop("seconds"), "its history lacks seconds"),
        ("resume {}", lambda file: file["checkpoint"].attrs.update(step=9), "holds 9 steps of a run of 8"),
        (
            "resume {}",
            lambda file: [file["checkpoint"].attrs.update(step=9), replaced(PLAN, np.array([99.0, 0, 0, 99]))(file)],
            "holds 9 steps of a run of 8",
        ),
        ("show --toml {}", attribute("/", script="ising", options='{"x": null}'), "are none of a script"),
    ],
)
def test_contents_that_no_run_stores_end_in_one_line(
    line: str,
    change: Callable[[h5py.File], object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = changed(tmp_path / "x.h5", change)
    ends_in_one_line(line.format(path, path).split(), message, capsys)


def test_run_without_an_end_of_its_time_goes_on(tmp_path: Path) -> None:
    """Any number of minutes that the configuration may hold."""
    path = tmp_path / "x.h5"
    pace = Pace(RunConfig(total_minutes=1e308, annealing=0.5))
    pace.measured(1, 1e-3, math.inf)
    assert pace.progress(1) == 0
    for step in range(2, 30):
        pace.measured(step, 1e-3, math.inf)
    plan = pace.state_dict()["pace.plan"].numpy()
    path = changed(path, lambda file: [replaced(PLAN, plan)(file), file["checkpoint"].attrs.update(step=29)])
    assert Archive.open(path).steps == pace.total


def test_stages_of_many_annealed_steps_are_found_at_once() -> None:
    run = RunConfig(steps=10**9, temperature=1.0, annealing=0.5)
    annealing, main_stage = stages(run, ExhaustiveSampler(), exact_steps(), None)
    assert (annealing.name, main_stage.name) == ("annealing", "main")
    assert annealing.steps == main_stage.first == 5 * 10**8


def test_sessions_of_an_archive_are_printed_without_control_characters() -> None:
    note = steps_differ(
        {"torch": ESCAPES * 1000}, {"step": 3, "nqs": "", "torch": "", "device": "", "threads": 1, "float32": ""}
    )
    assert note is not None
    assert note.isprintable()
    assert len(note) < 2000


def test_update_from_a_matrix_that_is_not_finite_is_not_finite() -> None:
    """The guard of the loop takes it back."""
    matrix = torch.full((3, 3), float("inf"), dtype=torch.float64)
    assert not solve_shifted(matrix, torch.ones(3).double(), 1e-3, torch.tensor(1.0).double()).isfinite().any()


def test_no_counts_are_split() -> None:
    assert split_counts(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3).double(), torch.Generator()).shape == (
        0,
        3,
    )


# --------------------------------------------------------------------------------------------------------- text


def test_printable() -> None:
    assert printable("E = −8.0 ± 0.1 ⟨ψ|H⟩ é漢") == "E = −8.0 ± 0.1 ⟨ψ|H⟩ é漢"
    assert printable(ESCAPES) == r"\x1b[2J\x9b31m\u202e\x00\rlies E = -99 J"
    assert printable("a\nb\tc", keep="\n") == "a\nb c"
    assert printable("\ud800") == r"\ud800"
    assert printable("x" * 99, longest=3) == "xxx …"


def test_no_control_character_reaches_the_terminal_or_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn_figures: None
) -> None:
    def change(file: h5py.File) -> None:
        text = ESCAPES.replace("\0", "")
        for name in ("hamiltonian", "unit", "script", "created", "commit", "package_version"):
            file.attrs[name] = text
        file["exact"].attrs["method"] = text
        file.attrs["options"] = json.dumps({ESCAPES: ESCAPES})
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | {ESCAPES: ESCAPES, "unit": text})
        for ending in ("", "_error", "_exact"):
            file.move(f"observables/density_particles{ending}", f"observables/density_{text}{ending}")

    path = str(changed(tmp_path / f"{ESCAPES[:7]}.h5", change))
    lines = [["show", path], ["show", "--json", path], ["show", "--toml", path], ["verify", path]]
    lines += [["compare", path, "--format", style] for style in ("text", "csv", "markdown")]
    lines += [["report", path, "-o", str(tmp_path / "x.html")], ["plot", path, "-o", str(tmp_path / "x.png")]]
    for line in lines:
        main(line)
        printed = capsys.readouterr()
        assert {c for c in printed.out + printed.err if not c.isprintable()} <= {"\n"}, line
        assert not [text for text in printed.out.splitlines() if text.startswith("E = -99")]
    page = (tmp_path / "x.html").read_text()
    assert {c for c in page if not c.isprintable()} <= {"\n"}
    assert r"\x1b[2J" in page
    with pytest.raises(ArchiveError) as error:
        Archive.open(tmp_path / f"none{ESCAPES[:7]}.h5")
    assert str(error.value).isprintable()


def test_interrupts_of_the_terminal_do_not_reach_the_child() -> None:
    """The child has a session of its own."""
    program = (
        "import os, signal; from nqs import Archive; from nqs.archive.isolated import Reader\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "with Reader() as one:\n"
        f"    image = open({str(RUN)!r}, 'rb').read()[512:]\n"
        "    one.read(image)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    print(len(one.read(image)[1]) > 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, start_new_session=True)
    assert done.stdout == "True\n", done.stderr
