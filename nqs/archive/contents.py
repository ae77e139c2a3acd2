"""Contents of an archive as attributes and datasets by path."""

import numpy as np

FORMAT, VERSION = "nqs-run", 2
HEADER = ("format", "package_version", "commit", "created", "hamiltonian", "unit", "config", "script", "options")
EXACT = ("energy", "gap", "dimension", "method", "seconds")

Scalar = str | int | float
Datasets = dict[str, np.ndarray]  # by path without the leading slash: "history/energy"
Attributes = dict[str, dict[str, Scalar]]  # by path of the group, "" for the root
