"""nqs resume: continue a run from its archive."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from nqs.archive.flush import FlushPolicy
from nqs.cli.errors import ExitCode, errors_to_exit_codes
from nqs.cli.files import File
from nqs.runtime.text import printable


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Continue a run where it stopped, also on another device; show the result of a finished run.

    On the CPU the result is bit for bit that of an uninterrupted run.
    """

    file: File
    device: str | None = None  # None: a GPU if there is one, else the CPU
    gpus: int | None = None  # GPUs of this machine to run on; None: one, or those of the ranks that torchrun started
    gpu_memory: float | None = None  # GiB of each GPU that a process allocates, at most; None: what is free
    threads: int | None = None  # of the CPU; None: one for small steps, else as PyTorch chooses (one per core)
    minutes: float | None = None  # stop early enough to evaluate the energy within that time
    flush: FlushPolicy = field(default_factory=FlushPolicy)
    tensorboard: Path | None = None  # folder for TensorBoard
    # file (NAME.py) or module with the classes of your own from which the run was built; its code is run
    module: str | None = None

    def __call__(self) -> int:
        from nqs import recipes
        from nqs.archive.archive import Archive
        from nqs.cli.launch import is_launch_wanted, launch
        from nqs.cli.options import process_began
        from nqs.cli.own_classes import classes_in
        from nqs.driver import FIGURE_SECONDS, checked_archive, minutes_left, report_result
        from nqs.runtime.interruption import Interruption
        from nqs.runtime.launched import rank_of_process
        from nqs.runtime.memory import using_gpu_memory
        from nqs.runtime.progress import TensorBoard
        from nqs.runtime.ranks import start
        from nqs.runtime.threads import using_threads
        from nqs.vmc.continuation import rebuild, resume

        begin = process_began()
        with ExitStack() as stack:
            stack.enter_context(errors_to_exit_codes())
            checked_archive(self.file)
            if is_launch_wanted(self.gpus):
                assert self.gpus is not None
                return launch(self.gpus, ["-m", "nqs", *sys.argv[1:]])
            device = recipes.checked_device(self.device or recipes.default_device())
            start(device)
            stack.enter_context(Interruption(patience=0))
            archive = Archive.open(self.file)
            print(printable(archive.attributes["hamiltonian"]))
            types = None if self.module is None else classes_in(self.module)
            built = rebuild(archive.config, types, finished=archive.finished)
            hilbert, threads = built["hamiltonian"].hilbert, self.threads
            if threads is None:
                threads = recipes.threads(built["sampler"], built["model"].build(hilbert).for_steps())
            with using_threads(threads), using_gpu_memory(self.gpu_memory, device):
                result = resume(
                    self.file,
                    types=types,
                    device=device,
                    minutes=minutes_left(self.minutes, begin, FIGURE_SECONDS),
                    flush=self.flush,
                    watch=[] if self.tensorboard is None or rank_of_process() else [TensorBoard(self.tensorboard)],
                )
            report_result(result, self.file, hilbert)
            return ExitCode.TIME_LIMIT if result.steps_left else ExitCode.FINISHED
