"""First-order optimisers of torch.optim on the energy gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from nqs.estimators.local_energy import Energy
from nqs.optimisation.jacobian import ACTIVATION_COPIES
from nqs.optimisation.schedules import cosine
from nqs.protocols import Hamiltonian, Objective, StepInfo, Wavefunction
from nqs.runtime.distributed import Communicator, communicator
from nqs.runtime.memory import max_chunk_rows
from nqs.runtime.options import check_fields
from nqs.samples import LocalEnergies, Samples

# After a rejected step the rate is divided by RATE_BACKOFF and grows back by RATE_RECOVERY a step. Heisenberg ring of 6
# sites, 200 summed steps of Adam at 0.05 (width 8, two seeds): 3.0e-3 and 4.7e-3 J above with 4, 3.6e-3 and 4.8e-3 with
# 2, 4.3e-3 and 5.6e-3 with 10, 0.42 and 0.32 without.
RATE_BACKOFF, RATE_RECOVERY = 4.0, 1.1
# Optimisers of torch.optim without closure, for dense gradients of parameters of any shape.
FIRST_ORDER = (
    "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TorchOptimiser:
    """A first-order optimiser of torch.optim on the energy gradient 2 Re <(E_loc - E)* O>.

    E is a control variate: it leaves the mean of the gradient unchanged, because <O> = 0, and reduces its variance.

    nqs.recipes has no numbers for these: the best rates differ by problem and optimiser.

    Attributes:
        name: class in torch.optim, such as "Adam", "AdamW" or "SGD".
        learning_rate: at the start; of SGD in inverse units of the energy scale (nqs.estimators.energy_scale), others
            do not depend on the unit of energy.
        final_learning_rate: at the end, reached along a cosine.
    """

    name: str
    learning_rate: float
    final_learning_rate: float

    def __post_init__(self) -> None:
        if self.name not in FIRST_ORDER:
            raise ValueError(f"name={self.name!r}: choose one of {', '.join(FIRST_ORDER)}.")
        check_fields(self, positive=("learning_rate", "final_learning_rate"))

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0, *, check: bool = True) -> Energy:
        return Energy(hamiltonian, energy_scale)

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> "FirstOrder":
        return FirstOrder(self, wavefunction)


class FirstOrder:
    """A torch optimiser fed with the energy gradient of one wavefunction."""

    def __init__(self, config: TorchOptimiser, wavefunction: Wavefunction) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.parameters = [p for p in wavefunction.parameters() if p.requires_grad]
        self.backoff = 1.0  # factor on the rate after rejected steps
        self._forget()

    def _forget(self) -> None:
        """Begin without moments."""
        self.optimiser = getattr(torch.optim, self.config.name)(self.parameters, lr=self.config.learning_rate)

    def step(self, samples: Samples, local: LocalEnergies, progress: float) -> StepInfo:
        rate = self.backoff * cosine(self.config.learning_rate, self.config.final_learning_rate, progress)
        self.backoff = min(1.0, RATE_RECOVERY * self.backoff)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        before = parameters_to_vector(self.parameters).detach()  # a copy
        self.optimiser.zero_grad()
        rows = max_chunk_rows(ACTIVATION_COPIES * self.wavefunction.bytes_per_configuration, before.device)
        energy = samples.mean(local.values.real)
        deviation = samples.weights * (local.values - energy)
        ranks = communicator()
        own = ranks.share(samples.n_distinct)
        for n, d in zip(samples.configurations[own].split(rows), deviation[own].split(rows), strict=True):
            # The gradient of this surrogate is 2 Re <(E_loc - E)* O>; the energies are constants.
            psi = self.wavefunction.log_psi(n)
            (2 * (d.real @ psi.log_modulus + d.imag @ psi.phase)).backward()
        self._sum_gradients(ranks)
        gradient_norm = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None]).norm().item()
        self.optimiser.step()
        change = (parameters_to_vector(self.parameters).detach() - before).norm().item()
        return StepInfo(learning_rate=rate, update_norm=change, gradient_norm=gradient_norm)

    def _sum_gradients(self, ranks: Communicator) -> None:
        """Over the ranks; parameters that none of them has used stay without a gradient."""
        if ranks.size == 1:
            return
        used = ranks.total(*(int(p.grad is not None) for p in self.parameters))
        for p in (p for p, number in zip(self.parameters, used, strict=True) if number):
            p.grad = ranks.sum(torch.zeros_like(p) if p.grad is None else p.grad.contiguous())

    def reject(self) -> None:
        """The moments led away from the state that was restored, and would lead away from it again."""
        self.backoff /= RATE_BACKOFF
        self._forget()

    def state_dict(self) -> dict[str, Tensor]:
        """Flat: "3.exp_avg" is the first moment of parameter 3."""
        state = self.optimiser.state_dict()["state"]
        moments = {f"{i}.{name}": torch.as_tensor(value) for i, entry in state.items() for name, value in entry.items()}
        return moments | {"trust": torch.tensor([self.backoff], dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            if key == "trust":  # archives of 0.2.0 lack it
                (self.backoff,) = value.tolist()
                continue
            index, name = key.split(".", 1)
            parameter = self.parameters[int(index)]
            # Set directly: torch's own load_state_dict would change the precision of scalars.
            device = parameter.device if value.ndim else value.device
            self.optimiser.state[parameter][name] = value.clone().to(device)
