"""nqs: ground states of quantum many-body Hamiltonians from autoregressive neural quantum states."""

import os
import sys

# Idle OpenMP threads sleep instead of spinning: on a busy machine spinning makes a step several times slower
# (measured: 5.1 s against 1.4 s on two loaded cores). Heeded only if torch was not imported before; then one thread is
# the better choice, unless the environment says otherwise.
if "torch" in sys.modules and not {"OMP_WAIT_POLICY", "OMP_NUM_THREADS"} & os.environ.keys():
    sys.modules["torch"].set_num_threads(1)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from nqs import exact, recipes
from nqs.archive import Archive, ArchiveError
from nqs.vmc import VMC, NonFiniteError, Result, RunConfig, resume

__all__ = ["VMC", "Archive", "ArchiveError", "NonFiniteError", "Result", "RunConfig", "exact", "recipes", "resume"]
