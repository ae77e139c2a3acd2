"""The command nqs: what every subcommand prints and writes, its exit codes, and one clear line for bad input."""

import csv
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from networks import small_transformer
from places import DATA, SCRIPTS
from safetensors.numpy import load_file, safe_open

from nqs import VMC, Archive, FlushPolicy, exact
from nqs import driver as script
from nqs.archive.storage import seal
from nqs.cli import COMMANDS, main
from nqs.cli.commands.run import script_names
from nqs.cli.toml import command_line_flags
from nqs.exact import ExactGroundState
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.samplers import TreeSampler
from nqs.samplers.exhaustive import ExhaustiveSampling
from nqs.vmc import loop

TOY = "run bose-hubbard --shape 3 --n-particles 3 --steps 5 --model.width 4"
EXACT = exact.ground_state(BoseHubbard(chain(3), 3, U=4.0)).energy


class Outcome(NamedTuple):
    """What a call left behind."""

    code: int
    out: str
    err: str


Command = Callable[[str], Outcome]


def call(capfd: pytest.CaptureFixture[str], line: str) -> Outcome:
    capfd.readouterr()
    code: Any = 0
    try:
        main(shlex.split(line))
    except SystemExit as end:
        code = end.code or 0
    if isinstance(code, str):  # the interpreter prints it and ends with 1
        print(code, file=sys.stderr)
        code = 1
    return Outcome(code, *capfd.readouterr())


@pytest.fixture
def nqs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], unchecked: None) -> Command:
    """Runs a command in an empty folder, without the seconds of a new process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(script, "plot_run", lambda *_: None)  # slow, and drawn by tests/scripts/test_scripts.py
    return lambda line: call(capfd, line)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three finished toy runs: a.h5 and b.h5 of one Hamiltonian, c.h5 of another."""
    folder = tmp_path_factory.mktemp("finished")
    for options in ("--archive a.h5", "--archive b.h5 --steps 9", "--archive c.h5 --U 8"):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(script, "plot_run", lambda *_: None)
            main(f"{TOY} {options}".split())
    return folder


@pytest.fixture
def runs(finished: Path, nqs: Command, tmp_path: Path) -> Command:
    """Runs a command in a folder with a.h5, b.h5 and c.h5."""
    for name in ("a.h5", "b.h5", "c.h5"):
        shutil.copy(finished / name, tmp_path)
    return nqs


# ---------------------------------------------------------------------------------------------------- run, resume


def test_run_is_the_script(
    nqs: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = nqs(TOY)
    file = SCRIPTS / "bose_hubbard.py"
    monkeypatch.setattr(sys, "argv", [str(file), *TOY.split()[2:]])
    runpy.run_path(str(file), run_name="__main__")
    assert capfd.readouterr().out == outcome.out
    assert outcome.code == 0
    (archive,) = (tmp_path / "results").glob("*.h5")
    header = Archive.open(archive).attributes
    assert header["script"] == "bose-hubbard"
    assert Archive.open(archive).options["model"]["width"] == 4


def test_every_script_can_be_run() -> None:
    expected = {path.stem for path in SCRIPTS.glob("*.py") if "command_line(main, Config" in path.read_text()}
    assert set(script_names().values()) == expected
    assert "accuracy" not in expected  # runs the others
    assert {"bose-hubbard", "fermi-hubbard", "heisenberg", "ising", "tv", "netket-operator"} <= set(script_names())


@pytest.mark.parametrize("line", ["heisenberg --shape 4", "tv --shape 4", "tj --shape 4 --n-up 1 --n-down 1"])
def test_other_hamiltonians_run(line: str, nqs: Command) -> None:
    outcome = nqs(f"run {line} --steps 2 --model.width 4 --archive run.h5")
    assert outcome.code == 0, outcome.err
    assert re.search(r"^E = -\d", outcome.out, re.MULTILINE)
    assert Archive.open("run.h5").attributes["script"] == line.split()[0]


def test_time_limit_stops_in_time_and_resume_ends_like_an_uninterrupted_run(nqs: Command) -> None:
    stopped = nqs(f"{TOY} --archive run.h5 --minutes 1e-9")
    assert stopped.code == 3
    assert "stopped at the time limit with 4 steps left: resume to go on" in stopped.out
    archive = Archive.open("run.h5")
    assert (archive.step, archive.result_step, archive.finished) == (1, 1, False)
    assert "progress    1 of 5 steps, stopped; continue with: nqs resume run.h5" in nqs("show run.h5").out
    assert nqs("resume run.h5 --minutes 1e-9").code == 3
    resumed = nqs("resume run.h5")
    assert resumed.code == 0
    reference = nqs(f"{TOY} --archive reference.h5")
    assert resumed.out.splitlines()[1:3] == reference.out.splitlines()[5:7]
    a, b = Archive.open("run.h5"), Archive.open("reference.h5")
    assert a.result == b.result
    for name in b.history.keys() - {"seconds", "archive_seconds"}:
        np.testing.assert_array_equal(a.history[name], b.history[name])
    for name, values in b.parameters().items():
        np.testing.assert_array_equal(a.parameters()[name], values)
    again = nqs("resume run.h5")
    assert again.code == 0
    assert again.out == resumed.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_says_so(number: signal.Signals, nqs: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, calls = ExhaustiveSampling.sample, []

    def signalled(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return sample(*arguments)

    monkeypatch.setattr(ExhaustiveSampling, "sample", signalled)
    outcome = nqs(f"{TOY} --archive run.h5")
    assert outcome.code == 128 + number
    assert f"{number.name}: finishing this step, then saving\n" in outcome.err
    assert outcome.err.endswith(
        f"interrupted: {number.name}: 3 of 5 steps are saved in run.h5; repeat the command or resume to continue.\n"
    )
    assert Archive.open("run.h5").step == 3
    assert nqs("verify run.h5").code == 0


def test_real_process_survives_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nqs.cli", *TOY.split(), "--steps", "100000", "--archive", "run.h5"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "step 1/100000" not in (line := process.stderr.readline()):
            assert line, "the run has ended"
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "steps are saved in run.h5; repeat the command or resume to continue." in err
    assert Archive.open(tmp_path / "run.h5").step >= 1
    assert {path.name for path in tmp_path.iterdir()} == {"run.h5"}


# ----------------------------------------------------------------------------------------------------------- TOML


def test_toml_of_an_archive_starts_the_same_run(runs: Command, tmp_path: Path) -> None:
    outcome = runs("show --toml c.h5")
    table = tomllib.loads(outcome.out)
    assert table["script"] == "bose-hubbard"
    assert (table["shape"], table["U"], table["model"]["width"], table["steps"]) == ([3], 8.0, 4, 5)
    assert not {"archive", "config", "minutes", "started_by", "options", "run"} & set(table)
    (tmp_path / "run.toml").write_text(outcome.out)
    assert runs("run bose-hubbard --config run.toml --archive again.h5").code == 0
    a, b = Archive.open("c.h5"), Archive.open("again.h5")
    assert a.config == b.config
    assert a.result == b.result
    assert runs("run bose-hubbard --config=run.toml --U 4 --archive other.h5").code == 0  # the command line wins
    assert Archive.open("other.h5").config["hamiltonian"]["U"] == 4.0


def test_toml_keeps_choices_and_none(nqs: Command, tmp_path: Path) -> None:
    options = "--shape 3 --total-sz None --steps 1 --model.width 4 --model.phase learned"
    assert nqs(f"run heisenberg {options} --archive a.h5").code == 0
    text = nqs("show --toml a.h5").out
    assert 'total_sz = "None"' in text
    assert 'phase = "learned"' in text
    (tmp_path / "run.toml").write_text(text)
    assert nqs("run heisenberg --config run.toml --archive b.h5").code == 0
    assert Archive.open("a.h5").config == Archive.open("b.h5").config


def test_toml_switches_on_and_off() -> None:
    table = {"open": True, "part": {"early_stop": False}}
    assert command_line_flags(table, None, Path("run.toml")) == ["--open", "--part.no-early-stop"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "run.toml cannot be read (No such file or directory)."),
        ("U = = 3", "run.toml is no TOML: Invalid value"),
        ("[model]\nwidht = 4", "run.toml: 'model.widht' is no option of this script; did you mean 'model.width'?"),
        ("zzz = 4", "run.toml: 'zzz' is no option of this script; --help lists the options."),
        (
            'script = "ising"',
            "run.toml holds options of 'ising', not of 'bose-hubbard': run that script",
        ),
        ("U = 2020-01-01", "run.toml: U = datetime.date(2020, 1, 1) is neither a number, text, true or false"),
        ("U = [[1]]", "run.toml: U = [[1]] is neither a number"),
    ],
    ids=lambda value: None if value is None else value[:12],
)
def test_bad_toml_gives_one_clear_line(text: str | None, message: str, nqs: Command, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "run.toml").write_text(text)
    outcome = nqs("run bose-hubbard --config run.toml")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {message}")
    assert outcome.err.count("\n") == 1


def test_a_second_toml_file_is_refused(nqs: Command, tmp_path: Path) -> None:
    for name in ("one.toml", "two.toml"):
        (tmp_path / name).write_text("U = 8.0")
    for line in ("--config one.toml --config two.toml", "--config=one.toml --config two.toml"):
        outcome = nqs(f"run bose-hubbard {line}")
        assert outcome.code == 2
        assert outcome.err == (
            "error: --config is given 2 times: give one file, and other options on the command line.\n"
        )


def test_wrong_value_in_toml_is_named_by_its_option(nqs: Command, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('U = "strong"')
    outcome = nqs("run bose-hubbard --config run.toml")
    assert outcome.code == 2
    assert "--U" in outcome.err
    assert "strong" in outcome.err


# ----------------------------------------------------------------------------------------------------------- show


def test_show_says_what_it_is_how_far_it_is_and_what_it_found(runs: Command) -> None:
    lines = runs("show a.h5").out.splitlines()
    assert lines[0].startswith("a.h5: Bose-Hubbard, H = -1 sum_<ij>")
    assert re.fullmatch(
        r"  started     \d{4}-\d\d-\d\d \d\d:\d\d UTC by nqs run bose-hubbard, nqs \S+(, commit [0-9a-f]{7})?", lines[1]
    )
    assert lines[2] == "  progress    5 of 5 steps, finished"
    behind = "evaluation after 5 steps: 3 samples, 3 distinct configurations"
    assert re.fullmatch(rf"  energy      -\d\.\d+ J \({behind}\)", lines[3])
    assert re.fullmatch(r"              variance \S+, V-score \S+", lines[4])
    assert re.fullmatch(r"  sampling    distinct 100\.00% of the samples, observed 1 of the space, weight 1", lines[5])
    assert lines[6].startswith("              entropy ")
    del lines[5:7]
    assert re.fullmatch(rf"  exact       {EXACT:.8f} J \(dense, dimension 10\), relative error \S+", lines[5])
    assert re.fullmatch(
        r"  time        [\d,]+ s, \S+ s per step; writing the archive \d+\.\d\d% of the whole", lines[6]
    )
    assert re.fullmatch(r"  size        [\d,]+ bytes, \d+ per step for the history", lines[7])
    assert re.fullmatch(r"  computed    torch \S+ on cpu \(\w+\), \d+ threads?", lines[8])
    assert lines[9].startswith("  model       OnOrbits(base=TransformerConfig(width=4, ")
    assert runs("show a.h5 b.h5").out.count("\n\n") == 1


def test_show_json_can_be_parsed(runs: Command) -> None:
    found = json.loads(runs("show --json a.h5").out)
    archive = Archive.open("a.h5")
    assert archive.result is not None
    assert found["result"]["energy"] == archive.result.energy
    assert found["config"] == archive.config
    assert found["finished"] is True
    assert found["last"]["step"] == 4


def test_show_of_a_run_going_on_and_of_one_before_its_first_step(nqs: Command) -> None:
    h = BoseHubbard(chain(3), 3, U=4.0)
    seen = []

    class Looker:
        def step(self, row: Any) -> None:
            seen.append(nqs("show run.h5").out)

        def close(self) -> None: ...

    vmc = VMC(h, small_transformer(width=4, heads=1).build(h.hilbert), None, None, TreeSampler(n_samples=10))
    vmc.run(2, archive="run.h5", progress=False, watch=[Looker()], flush=FlushPolicy(longest=0))
    for step, text in enumerate(seen, 1):
        assert f"  progress    {step} of 2 steps, running (process {os.getpid()} on " in text
        assert "(last step: " in text
    Archive.create("empty.h5", config={}, hamiltonian="H", unit="J").close()
    text = nqs("show empty.h5").out
    assert "progress    0 of 0 steps, stopped" in text
    assert "energy" not in text


def test_run_from_python_has_no_toml(nqs: Command) -> None:
    Archive.create("run.h5", config={}, hamiltonian="H", unit="J").close()
    outcome = nqs("show --toml run.h5")
    assert outcome.code == 1
    assert outcome.err == (
        "error: run.h5 was started from Python, not by nqs run: it has no options. "
        "nqs show --json prints its configuration.\n"
    )


# -------------------------------------------------------------------------------------------------------- compare


def test_compare_as_text(runs: Command) -> None:
    lines = runs("compare a.h5 b.h5 c.h5").out.splitlines()
    assert lines[0].startswith("Bose-Hubbard, H = -1 ")
    assert lines[1] == f"exact E = {EXACT:.8f} J"
    assert (
        " ".join(lines[2].split()) == "run steps energy above lowest relative error variance V-score distinct seconds"
    )
    assert lines[3].startswith("b.h5      9  -")  # nine steps are better than five
    assert lines[4].startswith("a.h5      5  -")
    assert len({len(line) for line in lines[2:5]}) == 1
    assert " 8 sum_i" in lines[6]
    assert lines[9].startswith("c.h5")
    assert len(lines) == 10


def test_compare_as_markdown_and_csv(runs: Command) -> None:
    lines = runs("compare a.h5 b.h5 --format markdown").out.splitlines()
    assert lines[2].startswith("| run | steps | energy | above lowest | relative error |")
    assert lines[3] == "|---|" + "---:|" * 8
    assert lines[4].startswith("| b.h5 | 9 | -")
    assert {line.count("|") for line in lines[2:6]} == {10}

    rows = list(csv.DictReader(runs("compare a.h5 b.h5 --format csv").out.splitlines()))
    assert [row["file"] for row in rows] == ["b.h5", "a.h5"]
    for row in rows:
        result = Archive.open(row["file"]).result
        assert result is not None
        assert float(row["energy"]) == result.energy
        assert float(row["relative"]) == (result.energy - float(row["exact"])) / abs(float(row["exact"]))
    assert float(rows[1]["excess"]) == float(rows[1]["energy"]) - float(rows[0]["energy"])


def test_compare_finds_the_exact_energy_once_and_stores_it(nqs: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, options in (("a", "--seed 0"), ("b", "--steps 6")):
        assert nqs(f"{TOY} --exact-limit 0 --archive {name}.h5 {options}").code == 0
    assert "exact energy not known" in nqs("compare a.h5 b.h5 --exact-limit 5").out
    calls = []
    ground_state = exact.ground_state

    def counted(*arguments: Any) -> ExactGroundState:
        calls.append(1)
        return ground_state(*arguments)

    monkeypatch.setattr(exact, "ground_state", counted)
    assert "exact energy not known" in nqs("compare a.h5 b.h5").out
    assert not calls  # only if asked
    first = nqs("compare a.h5 b.h5 --exact-limit 10")
    assert f"exact E = {EXACT:.8f} J" in first.out
    assert len(calls) == 1
    for name in ("a.h5", "b.h5"):
        stored = Archive.open(name).exact
        assert stored is not None
        assert stored["energy"] == pytest.approx(EXACT)
    assert nqs("compare a.h5 b.h5").out == first.out
    assert len(calls) == 1


def test_compare_of_an_archive_that_is_being_written_says_that_nothing_is_stored(nqs: Command) -> None:
    assert nqs(f"{TOY} --exact-limit 0 --archive a.h5").code == 0
    with Archive.open("a.h5", "a"):
        outcome = nqs("compare a.h5 --exact-limit 10")
    assert f"exact E = {EXACT:.8f} J" in outcome.out
    assert outcome.err.startswith("the exact energy was not stored: a.h5 is being written by another process")
    assert Archive.open("a.h5").exact is None


def test_compare_does_not_use_the_exact_energy_of_another_archive(nqs: Command) -> None:
    for name in "ab":
        assert nqs(f"{TOY} --exact-limit 0 --archive {name}.h5").code == 0
    with Archive.open("b.h5", "a") as claim:
        claim.write_exact(
            ExactGroundState(energy=-99.0, gap=1.0, state=np.ones(1), dimension=1, method="dense", seconds=0.0)
        )
        claim.flush()
    rows = {row["file"]: row for row in csv.DictReader(nqs("compare a.h5 b.h5 --format csv").out.splitlines())}
    assert (rows["a.h5"]["exact"], rows["a.h5"]["relative"]) == ("", "")
    assert float(rows["b.h5"]["exact"]) == -99
    nqs("compare a.h5 --exact-limit 10")
    assert "the archives hold different exact energies, -99.0" in nqs("compare a.h5 b.h5").out


def test_compare_marks_what_was_not_evaluated(nqs: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "evaluate_best", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert nqs(f"{TOY} --archive a.h5").code == 130
    for style, star in (("text", "*"), ("markdown", "\\*")):
        outcome = nqs(f"compare a.h5 --format {style}")
        assert " * " in outcome.out
        assert outcome.out.endswith(f"{star} of the last step: the run has not been evaluated yet\n")


# --------------------------------------------------------------------------------------------------- plot, export


def test_plot_of_one_run_and_of_several(runs: Command, drawn_figures: None) -> None:
    assert runs("plot a.h5 -o one.png").out == "one.png\n"
    assert runs("plot a.h5 b.h5 c.h5 -o all.pdf").out == "all.pdf\n"
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")
    assert Path("all.pdf").read_bytes().startswith(b"%PDF")
    outcome = runs("plot a.h5 -o one.xyz")
    assert outcome.code == 2
    assert outcome.err.startswith("error: Format 'xyz' is not supported (supported formats: ")


def test_pictures_of_other_programs_are_left(runs: Command) -> None:
    Path("one.png").write_bytes(b"\x89PNG of my holidays")
    outcome = runs("plot a.h5 -o one.png")
    assert outcome.code == 2
    assert outcome.err.startswith("error: one.png exists and is no figure that nqs wrote: give another name")
    assert Path("one.png").read_bytes() == b"\x89PNG of my holidays"
    Path("a.png").write_bytes(b"precious")
    outcome = runs("resume a.h5")
    assert outcome.code == 0
    assert outcome.out.endswith("figure  a-nqs.png (a.png is not of nqs and stays as it is)\n")
    assert Path("a.png").read_bytes() == b"precious"


def test_live_figure_is_drawn_anew_until_the_run_has_ended(runs: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import nqs.cli.commands.plot

    drawn = []
    with Archive.open("a.h5", "a") as writer:

        def sleep(seconds: float) -> None:
            drawn.append((seconds, Path("live.png").stat().st_mtime_ns))
            if len(drawn) == 2:
                writer.close()

        monkeypatch.setattr(nqs.cli.commands.plot.time, "sleep", sleep)
        assert runs("plot a.h5 -o live.png --follow 7").code == 0
    assert [seconds for seconds, _ in drawn] == [7.0, 7.0]
    assert drawn[0][1] < drawn[1][1] < Path("live.png").stat().st_mtime_ns
    assert runs("plot a.h5 -o live.png --follow 0").err == "error: follow=0.0: give the seconds between two figures.\n"


def test_export(runs: Command) -> None:
    outcome = runs("export b.h5 -o history.csv history.json parameters.safetensors")
    assert outcome.out == "history.csv\nhistory.json\nparameters.safetensors\n"
    archive = Archive.open("b.h5")
    with Path("history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert next(iter(rows[0])) == "step"
    assert [float(row["energy"]) for row in rows] == archive.history["energy"].tolist()
    found = json.loads(Path("history.json").read_text())
    assert found["history"]["energy"] == archive.history["energy"].tolist()
    assert found["step"] == 9
    parameters = load_file("parameters.safetensors")
    assert set(parameters) == set(archive.parameters())
    for name, values in archive.parameters().items():
        np.testing.assert_array_equal(parameters[name], values)
    with safe_open("parameters.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["config"]) == archive.config


# --------------------------------------------------------------------------------------------------------- verify


def test_verify(runs: Command) -> None:
    outcome = runs("verify a.h5 b.h5")
    size = Path("a.h5").stat().st_size
    assert outcome.code == 0
    assert outcome.out.startswith(f"ok       a.h5: {size:,} bytes, SHA-256 as written\nok       b.h5: ")
    data = bytearray(Path("a.h5").read_bytes())
    data[len(data) // 2] ^= 1
    Path("a.h5").write_bytes(data)
    outcome = runs("verify a.h5 b.h5 none.h5")
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    assert lines[0].startswith(
        "DAMAGED  a.h5 is no readable archive: its checksum is wrong: bytes were changed or cut off"
    )
    assert lines[1].startswith("ok       b.h5")
    assert lines[2] == "DAMAGED  none.h5: no such archive."


def test_verify_of_version_1_promises_nothing(nqs: Command) -> None:
    outcome = nqs(f"verify {DATA / 'version-1.h5'}")
    assert outcome.code == 0
    assert outcome.out.startswith("unsealed ")
    assert outcome.out.endswith("version-1.h5: format version 1 has no checksum\n")


def touch(path: str, **attributes: Any) -> None:
    """What another HDF5 program does: the user block stays, the bytes after it change."""
    with h5py.File(path, "r+") as file:
        for name, value in attributes.items():
            file.attrs[name] = value


def test_reseal_after_another_hdf5_program(runs: Command) -> None:
    before = Archive.open("a.h5")
    touch("a.h5", note="checked by hand")
    assert runs("verify a.h5").out.startswith("DAMAGED  a.h5 is no readable archive: its checksum is wrong")
    outcome = runs("verify --reseal a.h5 b.h5")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0] == f"resealed a.h5: 5 steps, {Path('a.h5').stat().st_size:,} bytes"
    assert lines[1].startswith("ok       b.h5")
    assert runs("verify a.h5").out.startswith("ok       a.h5")
    after = Archive.open("a.h5")
    assert after.attributes == before.attributes | {"note": "checked by hand"}
    assert after.result == before.result
    assert after.config == before.config
    for name, values in before.parameters().items():
        np.testing.assert_array_equal(after.parameters()[name], values)
    assert runs("resume a.h5").code == 0


def test_reseal_of_files_without_a_checksum(runs: Command) -> None:
    """A program that rewrites the file drops the user block; format version 1 never had one."""
    Path("bare.h5").write_bytes(Path("a.h5").read_bytes()[512:])
    shutil.copy(DATA / "version-1.h5", "old.h5")
    outcome = runs("verify --reseal bare.h5 old.h5")
    assert outcome.code == 0
    assert [line.split(":")[0] for line in outcome.out.splitlines()] == ["resealed bare.h5", "resealed old.h5"]
    assert runs("verify bare.h5 old.h5").out.count("SHA-256 as written") == 2
    assert Archive.open("bare.h5").result == Archive.open("a.h5").result


def misshapen(file: h5py.File) -> None:
    name = next(name for name, values in file["checkpoint/model"].items() if values.ndim == 2)
    del file[f"checkpoint/model/{name}"]
    file[f"checkpoint/model/{name}"] = np.ones((2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.attrs.update(config="{"), "has the header of an archive, but not its layout: "),
        (lambda file: file.attrs.update(format="other"), "is HDF5, but its header says format 'other' version 2"),
        (
            lambda file: file["checkpoint"].attrs.update(step=3),
            "its history has 5 rows for 3 steps; it is left as it is",
        ),
        (misshapen, "of its model have the shape "),
    ],
    ids=["configuration", "format", "steps", "parameters"],
)
def test_reseal_checks_the_contents_first(change: Callable[[h5py.File], object], message: str, runs: Command) -> None:
    with h5py.File("a.h5", "r+") as file:
        change(file)
    before = Path("a.h5").read_bytes()
    outcome = runs("verify --reseal a.h5")
    assert outcome.code == 1
    assert outcome.out.startswith("DAMAGED  a.h5")
    assert message in outcome.out
    assert outcome.out.count("\n") == 1
    assert Path("a.h5").read_bytes() == before


def test_reseal_of_an_archive_that_is_being_written_is_refused(runs: Command) -> None:
    with Archive.open("a.h5", "a"):
        touch("a.h5", note="x")
        assert "is being written by another process" in runs("verify --reseal a.h5").out


def test_verify_of_what_is_no_archive_gives_one_line_each(runs: Command, tmp_path: Path) -> None:
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "notes.h5").write_text("E = -7\n")
    (tmp_path / "empty.h5").touch()
    os.mkfifo(tmp_path / "pipe.h5")
    with h5py.File("foreign.h5", "w") as file:
        file["x"] = np.arange(3)
    with h5py.File("foreign-with-block.h5", "w", userblock_size=512) as file:
        file["x"] = np.arange(3)
    Path("cut.h5").write_bytes(Path("foreign.h5").read_bytes()[:1000])
    names = ["folder", "notes", "empty", "pipe", "foreign", "foreign-with-block", "cut", "none"]
    for option in ("", "--reseal "):
        outcome = runs(f"verify {option}" + " ".join(f"{name}.h5" for name in names))
        assert outcome.code == 1
        assert outcome.err == ""
        lines = outcome.out.splitlines()
        assert [line.split(".h5")[0] for line in lines] == [f"DAMAGED  {name}" for name in names]


def test_verify_needs_no_hdf5(nqs: Command, tmp_path: Path) -> None:
    image = b"what would crash the HDF5 library"
    (tmp_path / "a.h5").write_bytes(seal(image, format="nqs-run", version=2) + image)
    assert nqs("verify a.h5").out == f"ok       a.h5: {512 + len(image)} bytes, SHA-256 as written\n"
    assert nqs("show a.h5").err.startswith("error: a.h5 is no readable archive: the HDF5 library cannot read it")


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("show", "nqs show needs at least one archive: nqs show results/*.h5"),
        ("compare", "nqs compare needs at least one archive: nqs compare results/*.h5"),
        ("verify", "nqs verify needs at least one archive: nqs verify results/*.h5"),
        ("plot -o x.png", "nqs plot needs at least one archive: nqs plot results/*.h5"),
        ("show none.h5", "none.h5: no such archive."),
        ("compare none.h5", "none.h5: no such archive."),
        ("plot none.h5 -o x.png", "none.h5: no such archive."),
        ("export none.h5 -o x.csv", "none.h5: no such archive."),
        ("resume none.h5", "none.h5: no such archive."),
        ("resume run.png", "archive run.png: its name must end with .h5 or .hdf5"),
        ("show --toml --json empty.h5", "give --toml or --json, not both."),
        ("compare empty.h5", "empty.h5 holds no finished step: there is nothing to compare."),
        ("export empty.h5 -o x.csv", "empty.h5 holds no finished step: there is nothing to export."),
        ("export empty.h5 -o x.txt", "empty.h5 holds no finished step"),
        ("resume empty.h5", "the archive holds no run of nqs: its configuration lacks hamiltonian, model, sampler"),
        ("plot empty.h5 -o x.png", "empty.h5 holds no finished step: there is nothing to plot."),
        ("plot empty.h5 empty.h5 -o x.png", "empty.h5 holds no finished step: there is nothing to plot."),
        (f"{TOY} --minutes 0", "minutes=0.0: a time limit is a positive number of minutes; leave it out for none."),
        (f"{TOY} --archive x.png", "archive x.png: its name must end with .h5 or .hdf5, because the figure is"),
        ("run tj --shape 2 2 --n-up 2 --n-down 1 --model.phase zero", "no rule gives the exact signs of this ground"),
        ("run tv --shape 2 --archive none/x/run.h5 --device tpu9", "device 'tpu9' is unknown: choose 'cpu' or 'cuda'."),
    ],
)  # fmt: skip
def test_bad_input_gives_one_clear_line(line: str, message: str, nqs: Command, tmp_path: Path) -> None:
    Archive.create("empty.h5", config={}, hamiltonian="H", unit="J").close()
    outcome = nqs(line)
    assert outcome.code == (1 if re.match(r"\w+\.h5|the archive holds", message) else 2)
    assert outcome.err.startswith(f"error: {message}")
    assert outcome.err.count("\n") == 1
    assert not {"x.png", "x.csv", "none", "results"} & {path.name for path in tmp_path.iterdir()}


def test_export_names_the_formats(runs: Command) -> None:
    outcome = runs("export a.h5 -o x.txt y.csv")
    assert outcome.err == "error: output x.txt: a name must end with .csv, .json, .safetensors, .npz.\n"
    assert not Path("y.csv").exists()


@pytest.mark.parametrize("line", ["", "nonsense", "run", "run nonsense", "show --colour", "export a.h5", "plot a.h5"])
def test_wrong_options_end_with_2(line: str, nqs: Command) -> None:
    outcome = nqs(line)
    assert outcome.code == 2
    assert "--help" in outcome.err
    assert "Traceback" not in outcome.err


def test_second_process_on_the_same_archive_is_refused(runs: Command) -> None:
    before = Path("a.h5").read_bytes()
    with Archive.open("a.h5", "a"):
        outcome = runs(f"{TOY} --archive a.h5")
    assert outcome.code == 1
    assert "error: a.h5 is being written by another process (process " in outcome.err
    assert Path("a.h5").read_bytes() == before


def test_archive_of_classes_that_do_not_exist_is_refused(nqs: Command) -> None:
    part = {"type": "Os", "system": "rm"}
    parts = ("hamiltonian", "model", "sampler", "optimiser", "evaluation", "run")
    Archive.create("run.h5", config=dict.fromkeys(parts, part) | {"unit": "J"}, hamiltonian="H", unit="J").close()
    outcome = nqs("resume run.h5")
    assert outcome.code == 2
    assert outcome.err.startswith("error: 'Os' is none of the classes that an archive may name (")


# ------------------------------------------------------------------------------------------------ help and imports


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str, nqs: Command) -> None:
    outcome = nqs(f"{command} --help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"usage: nqs {command}")
    assert command in nqs("--help").out


def test_help_of_a_script_shows_the_command(nqs: Command) -> None:
    outcome = nqs("run bose-hubbard --help")
    assert outcome.code == 0
    assert outcome.out.startswith("usage: nqs run bose-hubbard")
    assert "nqs run bose-hubbard --U 16 --n-particles 5           other physics" in outcome.out
    assert "--minutes" in outcome.out
    assert "started" not in outcome.out
    assert "bose-hubbard" in nqs("run --help").out


def test_every_option_has_a_help_text_of_its_own(nqs: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # A field without a comment would get that of the field before it.
    monkeypatch.setenv("COLUMNS", "80")
    options = re.split(r"\n *(?=--)", re.sub("[│╭╮╰╯─]", "", nqs("run molecule --help").out))
    described = [re.split(r"\n|  +", option, maxsplit=1)[1].partition("(default")[0] for option in options]
    texts = [" ".join(text.split()) for text in described]
    assert len(texts) > 30
    assert [text for text in texts if texts.count(text) > 1 and text not in ("", "of a geometry")] == []


def test_completion_knows_commands_scripts_and_options(nqs: Command, tmp_path: Path) -> None:
    text = nqs("completion bash").out
    for word in ("compare", "bose-hubbard", "fermi-hubbard", "--n-particles", "--model.width"):
        assert word in text
    (tmp_path / "nqs.bash").write_text(text)
    subprocess.run(["bash", "-n", "nqs.bash"], check=True)


def test_looking_at_archives_imports_nothing_heavy(runs: Command, tmp_path: Path) -> None:
    program = """
import sys
from nqs.cli import main
for line in sys.argv[1:]:
    main(line.split())
print(sorted({"torch", "scipy", "matplotlib", "netket", "jax", "pyscf"} & set(sys.modules)))
"""
    lines = ["show a.h5", "verify a.h5", "compare a.h5", "export a.h5 -o x.csv x.safetensors"]
    done = subprocess.run([sys.executable, "-P", "-c", program, *lines], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
