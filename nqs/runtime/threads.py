"""How many threads a run uses on a CPU."""

import torch

# Entries of the Jacobian of a step from which on all threads pay off. Measured with 4,882 parameters on two cores that
# shared their time with four other processes: 32 configurations took 0.19 s with one thread and 0.32 s with two, 128
# took 0.26 to 0.34 s and 0.09 to 0.35 s, 512 0.83 s and 0.33 s (medians of wall times; CPU times grew by a third,
# by 4 % and by nothing).
MANY = 2**18
# Averages over a symmetry spend their time on the images of connected configurations, in chunks that are small for
# networks with fewer parameters than this: 120 steps of the Ising ring of 20 sites took 130 s with two threads on an
# idle machine, and 130 to 134 s with one while another such run had the other core.
FEW = 10_000


def use_threads(threads: int | None, jacobian_entries: int | None, *, n_parameters: int, n_images: int = 1) -> int:
    """Sets the threads of this process, and returns how many.

    Args:
        threads: their number, or None: one for small steps, on which a second one mostly waits, else as many as torch
            has set (one a core, unless OMP_NUM_THREADS says otherwise).
        jacobian_entries: distinct configurations of a step, at most, times parameters; None: unknown.
        n_parameters: of the wavefunction.
        n_images: images of a configuration that an amplitude averages over.

    Raises:
        ValueError: less than one thread.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}: at least one is needed; leave it out to have it chosen by size.")
    few_rows = jacobian_entries is not None and jacobian_entries < MANY
    small_chunks = n_images > 1 and n_parameters < FEW
    if threads is None and (few_rows or small_chunks):
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
