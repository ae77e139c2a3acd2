"""nqs evaluate: the energy of a stored state with a smaller error bar, without a step."""

import sys
from dataclasses import dataclass

from nqs.cli.errors import ExitCode, errors_to_exit_codes
from nqs.cli.files import File
from nqs.runtime.text import printable


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate the state of a run anew, without a step; energy and observables replace those in the archive."""

    file: File
    error: float | None = None  # error bar of the energy at which to end; None: as the run would
    minutes: float | None = None  # time limit
    seed: int = 0  # of the samples, others than those of the run
    device: str | None = None  # None: a GPU if there is one, else the CPU
    gpus: int | None = None  # GPUs of this machine to run on; None: one, or those of the ranks that torchrun started
    gpu_memory: float | None = None  # GiB of each GPU that a process allocates, at most; None: what is free
    # file (NAME.py) or module with the classes of your own from which the run was built; its code is run
    module: str | None = None

    def __call__(self) -> int:
        from nqs import recipes
        from nqs.archive.archive import Archive
        from nqs.cli.launch import is_launch_wanted, launch
        from nqs.cli.options import process_began
        from nqs.cli.own_classes import classes_in
        from nqs.driver import minutes_left
        from nqs.estimators.estimate import with_error
        from nqs.runtime.memory import using_gpu_memory
        from nqs.vmc.continuation import evaluate

        begin = process_began()
        with errors_to_exit_codes():
            if is_launch_wanted(self.gpus):
                assert self.gpus is not None
                return launch(self.gpus, ["-m", "nqs", *sys.argv[1:]])
            header = Archive.open(self.file).attributes
            print(printable(header["hamiltonian"]))
            device = recipes.checked_device(self.device or recipes.default_device())
            with using_gpu_memory(self.gpu_memory, device):
                found = evaluate(
                    self.file,
                    error=self.error,
                    minutes=minutes_left(self.minutes, begin),
                    types=None if self.module is None else classes_in(self.module),
                    device=device,
                    seed=self.seed,
                )
            print(f"E = {with_error(found.energy, found.error)} {printable(header['unit'])}")
            print(f"variance {found.variance:.2e}, V-score {found.v_score:.2e}, {found.n_samples:,} samples")
        return ExitCode.FINISHED
