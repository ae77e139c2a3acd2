"""The wheel holds the package under its import names and nothing else, and `import nqs` stays light."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from places import ROOT, SCRIPTS

FOLDERS = {
    "nqs": "nqs",
    "hamiltonians": "nqs/hamiltonians",
    "models": "nqs/models",
    "samplers": "nqs/samplers",
    "scripts": "nqs/scripts",
}


def run_python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a fresh Python, which must succeed; `path` goes to its sys.path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from a copy of the sources, so that the source tree stays clean."""
    source = tmp_path_factory.mktemp("source")
    output = tmp_path_factory.mktemp("wheel")
    for file in ROOT.iterdir():
        if file.is_file() and file.name.startswith(("pyproject.toml", "LICENSE", "README")):
            shutil.copy(file, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    # What must stay out of the wheel.
    (source / "tests").mkdir()
    (source / "tests" / "outside.py").write_text("raise AssertionError('no part of the package')\n")
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(source), cwd=output)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel; a pure-Python wheel is installed by unpacking it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_holds_every_module_under_its_import_name_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = {name for name in names if not name.split("/")[0].endswith(".dist-info")}

    expected = [
        f"{target}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for file in (ROOT / folder).rglob("*.py")
    ]
    assert len(expected) == len(set(expected)), "two source files have the same import name"
    assert package == {*expected, "nqs/py.typed", "nqs/report/page.html", "nqs/scripts/nqs.sbatch"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    lines = metadata.splitlines()
    assert "License-Expression: Apache-2.0" in lines
    needed = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    always = [requirement for requirement in needed if "extra ==" not in requirement]
    assert any(requirement.startswith("torch>=") for requirement in always)
    # The package gives lower bounds; exact versions belong to constraints.txt.
    assert not [requirement for requirement in needed if "==" in requirement.split(";")[0]]
    # Optional, because JAX takes seconds to import and would take the GPU.
    assert not [requirement for requirement in always if requirement.startswith(("netket", "jax>", "jaxlib"))]


def test_every_module_of_the_wheel_imports_next_to_a_users_own_models_file(unpacked: Path, tmp_path: Path) -> None:
    for name in ("hamiltonians", "models", "samplers"):
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('nqs imported the user\\'s {name}.py')\n")
    program = """
import importlib, json, pkgutil, sys
import nqs
names = ["nqs"] + [module.name for module in pkgutil.walk_packages(nqs.__path__, "nqs.")]
names = [name for name in names if name.split(".")[-1] != "__main__"]
print(json.dumps({name: importlib.import_module(name).__file__ for name in names}))
"""
    # The working directory comes first on sys.path here, as it does for a user.
    files = json.loads(run_python("-W", "error", "-c", program, cwd=tmp_path, path=unpacked))

    assert {"nqs", "nqs.hamiltonians", "nqs.models", "nqs.samplers", "nqs.scripts"} <= set(files)
    elsewhere = {
        name: file for name, file in files.items() if not Path(file).resolve().is_relative_to(unpacked.resolve())
    }
    assert not elsewhere, f"not from the wheel in {unpacked}: {elsewhere}"
    in_wheel = {file for file in unpacked.rglob("*.py") if file.name != "__main__.py"}
    assert {Path(file).resolve() for file in files.values()} == {file.resolve() for file in in_wheel}


def test_subpackages_import_in_the_root_of_the_repository() -> None:
    """There ./nqs comes first on sys.path, and has no folder models; see the Makefile."""
    run_python("-c", "import nqs.hamiltonians, nqs.models, nqs.samplers", cwd=ROOT)


def test_import_alone_is_lighter_still(tmp_path: Path) -> None:
    """Names of nqs are imported when they are used."""
    program = """
import sys
import nqs
assert set(nqs.__all__) <= set(dir(nqs))
print(sorted({"torch", "numpy", "scipy", "h5py"} & set(sys.modules)))
nqs.no_such_name
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[]\n"
    assert done.stderr.endswith("AttributeError: module 'nqs' has no attribute 'no_such_name'\n")


def test_import_is_light(tmp_path: Path) -> None:
    program = """
import json, sys, time
import torch
middle = time.process_time()  # of the processor: other processes do not count
from nqs import VMC
end = time.process_time()
heavy = sorted({"netket", "jax", "flax", "matplotlib", "pyscf", "tyro"} & set(sys.modules))
print(json.dumps({"beyond_torch": end - middle, "heavy": heavy}))
"""
    # The one test that asserts a time: a slow import slows every script and every test.
    seconds: list[float] = []
    while len(seconds) < 3 and min(seconds, default=1.0) >= 0.5:
        found = json.loads(run_python("-c", program, cwd=tmp_path))
        assert found["heavy"] == []
        seconds.append(found["beyond_torch"])
    assert min(seconds) < 0.5, seconds


def test_what_a_step_needs_imports_no_scipy(tmp_path: Path) -> None:
    program = """
import sys
import nqs.hamiltonians, nqs.lattice, nqs.estimators.local_energy, nqs.models, nqs.optimisation, nqs.samplers
nqs.hamiltonians.Heisenberg(nqs.lattice.chain(4)).connected
print("scipy" in sys.modules)
"""
    assert run_python("-c", program, cwd=tmp_path).strip() == "False"


def test_no_script_hides_a_module_of_another_package() -> None:
    """The folder of a script that is run comes first on sys.path."""
    installed = {Path(file).parts[0].removesuffix(".py") for one in distributions() for file in one.files or ()}
    names = {path.stem for path in SCRIPTS.glob("[!_]*.py")}
    assert not names & (installed | sys.stdlib_module_names)
