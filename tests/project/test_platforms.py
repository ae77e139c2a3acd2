"""The package can be imported where POSIX modules and signals are missing, as on Windows."""

import subprocess
import sys

PROGRAM = """
import pkgutil, signal, sys
import h5py, matplotlib.pyplot, scipy, torch, tqdm, tyro  # what they need is theirs to know
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGXFSZ"):
    delattr(signal, name)
sys.modules.pop("filelock", None)
import nqs
names = [module.name for module in pkgutil.walk_packages(nqs.__path__, "nqs.")]
for folder in ("hamiltonians", "models", "samplers", "scripts"):
    package = __import__(f"nqs.{folder}", fromlist=["x"])
    names += [module.name for module in pkgutil.walk_packages(package.__path__, f"nqs.{folder}.")]
for name in names:
    if not name.endswith("__main__"):
        __import__(name)
print(len(names))
"""


def test_every_module_can_be_imported_without_posix_modules_and_signals() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
