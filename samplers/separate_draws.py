"""Independent samples drawn site by site, each on its own: one CUDA graph of few kernels.

Where nearly all samples differ, a tree of their prefixes saves nothing. Without one the states of the network stay
where they were written, and no numbers of samples are split: half of the kernels, whose launches take most of the time
of a draw of a thousand samples on a GPU. Samples that agree are counted at the end.
"""

# Shapes: C places, B samples, U distinct configurations, L sites, d local states.
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.protocols import AutoregressiveWavefunction
from nqs.samplers.capture import Captured, copied, on_side_stream, overwrite
from nqs.samplers.padded_decoding import positions_of

LEAST = 1e-300  # of an exponentially distributed number: its logarithm is finite


class Separate(NamedTuple):
    """Independent samples, in any order."""

    tokens: UInt8[Tensor, "B L"]
    log_p: Float64[Tensor, " B"]
    phase: Float64[Tensor, " B"]


class Drawn(NamedTuple):
    """Distinct configurations in lexicographic order, with numbers of samples."""

    tokens: UInt8[Tensor, "U L"]
    counts: Int64[Tensor, " U"]
    log_p: Float64[Tensor, " U"]
    phase: Float64[Tensor, " U"]


class Padded(NamedTuple):
    """Places from index `number` on are empty."""

    drawn: Drawn
    number: Int64[Tensor, ""]


def separate_draw(wavefunction: AutoregressiveWavefunction, number: int, generator: torch.Generator) -> Separate:
    """So many independent samples, without host synchronisation.

    Of each site the local state k with the largest p_k / e_k, where the numbers e_k are exponentially distributed: k
    wins with probability p_k, as the first of events with the rates p_k does.
    """
    hilbert, device = wavefunction.hilbert, generator.device
    L, d = hilbert.n_sites, hilbert.local_dim
    times = torch.empty((L, number, d), dtype=torch.float64, device=device).exponential_(generator=generator)
    log_times = times.clamp_(min=LEAST).log_()
    state, token = wavefunction.start(number), None
    tokens, log_p, phase = [], [], []
    for site in range(L):
        conditionals, state = wavefunction.step(token, state)
        token = (conditionals.log_p - log_times[site]).argmax(1).to(torch.uint8)
        tokens.append(token)
        log_p.append(conditionals.log_p)
        if wavefunction.has_phase:
            phase.append(conditionals.phase)
    n = torch.stack(tokens, dim=1)
    chosen = n.long()[:, :, None]
    of_samples = [torch.stack(x, dim=1).gather(2, chosen).sum((1, 2)) for x in (log_p, phase) if x]
    return Separate(n, of_samples[0], of_samples[1] if wavefunction.has_phase else torch.zeros_like(of_samples[0]))


def counted(hilbert: HilbertSpace, samples: Separate, n_samples: Int64[Tensor, " 1"]) -> Padded:
    """The first n_samples samples, those that agree together, without host synchronisation."""
    tokens, log_p, phase = samples
    places = torch.arange(len(tokens), device=tokens.device)
    words = hilbert.keys(tokens).T.masked_fill(places >= n_samples, -1)  # what is not used comes first
    order = words[-1].argsort(stable=True)
    for word in words[:-1].flip(0):
        order = order[word[order].argsort(stable=True)]
    words = words[:, order]
    used = words[0] >= 0
    differs = (words[:, 1:] != words[:, :-1]).any(0)
    until = (torch.nn.functional.pad(differs, (1, 0), value=True) & used).cumsum(0)
    counts = torch.zeros_like(places).scatter_add_(0, (until - 1).clamp_(min=0), used.long())
    rows = order[positions_of(until, places + 1)]
    return Padded(Drawn(tokens[rows], counts, log_p[rows], phase[rows]), until[-1])


class GraphedSeparateDraw:
    """`separate_draw` of one wavefunction, and for so many samples at most, as a CUDA graph.

    It works on a copy of the wavefunction, because a graph reads parameters at the addresses of its capture.
    """

    def __init__(self, wavefunction: AutoregressiveWavefunction, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.wavefunction = own = copied(wavefunction)
        self.n_samples = torch.full((1,), capacity, dtype=torch.int64, device=device)
        generator = torch.Generator(device)

        def draw() -> Padded:
            return counted(own.hilbert, separate_draw(own, capacity, generator), self.n_samples)

        on_side_stream(draw, device)  # makes tables and handles
        self.captured = Captured(draw, generator)

    @torch.no_grad()
    def __call__(self, wavefunction: AutoregressiveWavefunction, n_samples: int, generator: torch.Generator) -> Drawn:
        """So many samples; the generator is advanced past the random numbers used."""
        overwrite(self.wavefunction, wavefunction)
        self.n_samples.fill_(n_samples)
        self.captured.replay(generator)
        padded = self.captured.result
        number = int(padded.number)
        return Drawn(*(part[:number].clone() for part in padded.drawn))
