"""Default choices of sampler and evaluation from the size of the sector and the device."""

import torch

from nqs.hilbert import HilbertSpace
from nqs.protocols import Sampler
from nqs.samplers import ExhaustiveSampler, TreeSampler

# Measured with scripts/bose_hubbard.py: what one step of a small transformer can afford.
EXHAUSTIVE_DIMENSION = {"cpu": 1_000, "cuda": 16_000}
DISTINCT = {"cpu": 1_000, "cuda": 8_000}
EVALUATION_DISTINCT = {"cpu": 2**14, "cuda": 2**18}


def training_sampler(hilbert: HilbertSpace, device: torch.device | str) -> Sampler:
    """Every configuration where the sector is small enough, else a tree with as many distinct ones as pay off."""
    kind = torch.device(device).type
    if hilbert.dimension <= EXHAUSTIVE_DIMENSION[kind]:
        return ExhaustiveSampler()
    return TreeSampler(n_distinct=DISTINCT[kind])


def evaluation_sampler(hilbert: HilbertSpace, device: torch.device | str) -> Sampler:
    """Independent samples for the quoted energy: enough to reach many more distinct configurations than a step."""
    return TreeSampler(n_distinct=EVALUATION_DISTINCT[torch.device(device).type])
