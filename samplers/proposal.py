"""An autoregressive proposal for any wavefunction: drawn from, tempered, and trained alongside.

The proposal q is an autoregressive wavefunction of its own on the same sector. It is trained on samples of |psi|^2 with
the forward Kullback-Leibler divergence, whose gradient needs no gradient of psi,

    KL(|psi|^2 || q) = const - <log q>,

by Adam (Kingma and Ba, 2015, arXiv:1412.6980). Conditionals raised to a power a < 1 and normalised again are flatter:
they reach what q gives too little weight. Without a network of its own, an autoregressive psi proposes for itself.
"""

# Shapes: B configurations, L sites, d local states, P parameters of the proposal.
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs.protocols import AutoregressiveWavefunction, Wavefunction, WavefunctionConfig
from nqs.runtime.distributed import communicator
from nqs.runtime.memory import in_chunks, max_chunk_rows
from nqs.samplers.decoding import Decoding

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What configurations are proposed by.

    Args:
        model: an autoregressive model, built on the sector of psi; None: psi itself, which is not trained.
        power: a of the conditionals, above 0 and at most 1.
        learning_rate: of Adam; needed with a model, as the next two.
        n_updates: of the model after each draw.
        n_first: before the first samples.

    Raises:
        ValueError: a number out of range, or a model without the numbers of its training.
    """

    model: WavefunctionConfig | None = None
    power: float = 1.0
    learning_rate: float | None = None
    n_updates: int | None = None
    n_first: int | None = None

    def __post_init__(self) -> None:
        training = {"learning_rate": self.learning_rate, "n_updates": self.n_updates, "n_first": self.n_first}
        missing = [name for name, value in training.items() if value is None]
        if self.model is not None and missing:
            raise ValueError(
                f"{', '.join(missing)} of Proposal: a model of its own is trained; give all three numbers, such as "
                "learning_rate=3e-3, n_updates=5, n_first=300 (docs/samplers.md)."
            )
        if not 0 < self.power <= 1:
            raise ValueError(f"power={self.power}: it must be above 0 and at most 1.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: it must be positive.")
        if min(self.n_updates or 0, self.n_first or 0) < 0:
            raise ValueError(f"n_updates={self.n_updates}, n_first={self.n_first}: give 0 or more.")

    def build(self, wavefunction: Wavefunction) -> "TrainedProposal":
        """
        Raises:
            TypeError: the model, or psi where there is none, is not autoregressive.
        """
        if self.model is None:
            own = wavefunction
        else:
            tensors = (*wavefunction.parameters(), *wavefunction.buffers())
            own = self.model.build(wavefunction.hilbert, tensors[0].device if tensors else "cpu")
        if not isinstance(own, AutoregressiveWavefunction):
            hint = "give the proposal a `model`" if self.model is None else "give an autoregressive one"
            raise TypeError(f"a proposal must be autoregressive, and {type(own).__name__} is not: {hint}.")
        return TrainedProposal(self, own)


@dataclass
class TrainedProposal:
    """The proposal of one wavefunction.

    Attributes:
        model: the autoregressive wavefunction.
        updates: number of updates that were made.
    """

    config: Proposal
    model: AutoregressiveWavefunction
    updates: int = 0
    moments: Float64[Tensor, "2 P"] | None = field(default=None, repr=False)

    @property
    def is_trained(self) -> bool:
        """Whether the model has parameters of its own."""
        return self.config.model is not None

    @property
    def n_first(self) -> int:
        """Updates before the first samples."""
        return (self.config.n_first or 0) if self.is_trained else 0

    @property
    def n_updates(self) -> int:
        """Updates after each draw."""
        return (self.config.n_updates or 0) if self.is_trained else 0

    def log_q(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, "B L"]:
        """Logarithms of the tempered conditionals of every site."""

        def evaluate(part: Tensor) -> Tensor:
            return self.tempered(self.model.conditionals(part).log_p).gather(-1, part.long()[..., None])[..., 0]

        with torch.no_grad():
            ranks = communicator()
            rows, own = max_chunk_rows(self.model.bytes_per_configuration, n.device), n[ranks.share(len(n))]
            found = torch.cat(in_chunks(evaluate, own, rows)) if len(own) else evaluate(own)
            return ranks.gather(found, number=len(n))[0]

    @torch.no_grad()
    def draw(
        self, n: UInt8[Tensor, "B L"], log_q: Float64[Tensor, "B L"], first: int, generator: torch.Generator
    ) -> tuple[UInt8[Tensor, "B L"], Float64[Tensor, "B L"]]:
        """Sites from `first` on drawn anew, and their logarithms of conditionals."""
        n, log_q = n.clone(), log_q.clone()
        decoding = Decoding(self.model)
        state, tokens = decoding.start_shared(len(n), n.device), None
        for site in range(n.shape[1]):
            conditionals, state = decoding.step(tokens, state)
            if site >= first:
                log_p = self.tempered(conditionals.log_p)
                token = torch.multinomial(log_p.exp(), 1, generator=generator)
                log_q[:, site] = log_p.gather(1, token)[:, 0]
                n[:, site] = token[:, 0]
            tokens = n[:, site]
        return n, log_q

    def train(self, n: UInt8[Tensor, "B L"], weights: Float64[Tensor, " B"], number: int) -> None:
        """So many updates towards weighted configurations."""
        if not self.is_trained:
            return
        assert self.config.learning_rate is not None
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        with torch.no_grad():
            flat = parameters_to_vector(parameters).double()
        if self.moments is None:
            self.moments = torch.zeros((2, len(flat)), dtype=torch.float64, device=flat.device)
        ranks = communicator()
        rows = max_chunk_rows(8 * self.model.bytes_per_configuration, n.device)
        for _ in range(number):
            gradient = torch.zeros_like(flat)
            for part in torch.arange(len(n), device=n.device)[ranks.share(len(n))].split(rows):
                with torch.enable_grad():
                    loss = -2 * weights[part] @ self.model(n[part]).log_modulus
                    found = torch.autograd.grad(loss, parameters, allow_unused=True)  # a phase head has no part in it
                given = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
                gradient += parameters_to_vector(given).double()
            gradient = ranks.sum(gradient)
            self.updates += 1
            for moment, power, beta in zip(self.moments, (1, 2), BETAS, strict=True):
                moment.mul_(beta).add_((1 - beta) * gradient**power)
            mean, square = (m / (1 - beta**self.updates) for m, beta in zip(self.moments, BETAS, strict=True))
            flat = flat - self.config.learning_rate * mean / (square.sqrt() + EPSILON)
            with torch.no_grad():
                vector_to_parameters(flat.to(parameters[0].dtype), parameters)

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and moments, {} for psi itself."""
        if not self.is_trained or self.moments is None:
            return {}
        own = {f"proposal.{name}": value.detach() for name, value in self.model.state_dict().items()}
        return own | {"proposal_moments": self.moments, "proposal_updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if "proposal_moments" not in state:
            return
        own = {name.removeprefix("proposal."): x for name, x in state.items() if name.startswith("proposal.")}
        self.model.load_state_dict(own)
        device = next(self.model.parameters()).device
        self.moments, self.updates = state["proposal_moments"].to(device), int(state["proposal_updates"])

    def tempered(self, log_p: Float64[Tensor, "*B d"]) -> Float64[Tensor, "*B d"]:
        """Conditionals that are drawn from: those of the model to the power a, normalised."""
        if self.config.power == 1:
            return log_p
        possible = log_p > -torch.inf
        raised = torch.where(possible, self.config.power * log_p, log_p)
        # Where no state is possible, outside the sector, there is nothing to normalise.
        return torch.where(possible, raised - raised.logsumexp(-1, keepdim=True), log_p)
