"""The design questions by name."""

from collections.abc import Callable
from functools import cache

from nqs.scripts.ablation import (
    cutoff,
    divergences,
    families,
    gradient_estimators,
    local_energy_proxies,
    memory_of_orders,
    probabilities,
    reuse,
    sampling_node,
    tails,
    variants,
)
from nqs.scripts.ablation.jobs import Column, Job, Question, Row
from nqs.scripts.ablation.training import COLUMNS, Setting, trained

BOSONS, ELECTRONS, SPINS, LARGE = "bose-hubbard-4x4", "hubbard-3x4", "heisenberg-6x6", "heisenberg-8x8"
ALL = (BOSONS, ELECTRONS, SPINS)


def _training(number: int, text: str, table: dict[str, tuple[str, ...]], setting: Callable[[Job], Setting]) -> Question:
    return Question(number=number, text=text, variants=table, run=trained(setting), columns=COLUMNS, times=1.0)


def _measured(
    number: int,
    text: str,
    table: dict[str, tuple[str, ...]],
    run: Callable[[Job], Row],
    columns: tuple[Column, ...],
) -> Question:
    return Question(number=number, text=text, variants=table, run=run, columns=columns, times=0.0)


@cache
def questions() -> dict[str, Question]:
    """All questions by name, in the order of their numbers."""
    from nqs.scripts.ablation.orders import ORDERS

    sites = dict.fromkeys((*ALL, LARGE), ORDERS)
    backbones = (*variants.BACKBONES, variants.CACHED)
    found = {
        "tokens": _training(
            1,
            "How does the network read a local state: an index, one-hot numbers, occupations by species, a number?",
            {name: variants.possible(variants.TOKENS, name) for name in ALL},
            variants.with_parts(variants.TOKENS),
        ),
        "positions": _training(
            2,
            "How does it know the site: not at all, by learned vectors, rotary, by row and column?",
            {name: tuple(variants.POSITIONS) for name in (*ALL, LARGE)},
            variants.with_parts(variants.POSITIONS),
        ),
        "family": Question(
            number=2,
            text="One wavefunction for a family of couplings, or one for each in the same total time?",
            variants=dict.fromkeys(families.PROBLEMS, families.VARIANTS),
            run=families.run,
            columns=families.COLUMNS,
            times=families.HELD_OUT,
        ),
        "deembedding": _training(
            3,
            "Is the next-token distribution read from the last position or from all so far, by one head or one a site?",
            {name: tuple(variants.DEEMBEDDING) for name in ALL},
            variants.with_parts(variants.DEEMBEDDING),
        ),
        "phase": _training(
            4,
            "Where does the phase come from?",
            {ELECTRONS: tuple(variants.PHASES)},
            variants.with_parts(variants.PHASES),
        ),
        "order": _training(
            5,
            "In which order are the sites decoded, and the orbitals of electrons?",
            sites | {ELECTRONS: (*ORDERS, "joint", "interleaved", "blocks")},
            variants.orders,
        ),
        "memory": _measured(
            5,
            "How much does a prefix have to carry, by the order of the sites?",
            {name: memory_of_orders.variants(name) for name in memory_of_orders.SHAPES},
            memory_of_orders.run,
            memory_of_orders.COLUMNS,
        ),
        "cutoff": _measured(
            6,
            "What does a largest occupation cost, and what does the model put into the highest states?",
            {name: tuple(cutoff.CUTOFFS) for name in cutoff.PROBLEMS},
            cutoff.run,
            cutoff.COLUMNS,
        ),
        "tails": _measured(
            6,
            "What do rare configurations of high occupation carry of the variance?",
            {"bose-hubbard-3x4": tuple(tails.CUTOFFS)},
            tails.run,
            tails.COLUMNS,
        ),
        "probabilities": _measured(
            7,
            "Probabilities, log-probabilities or logits: how accurate is log psi of long sequences?",
            {name: tuple(probabilities.SUMS) for name in probabilities.PROBLEMS},
            probabilities.run,
            probabilities.COLUMNS,
        ),
        "reuse": _measured(
            8,
            "What of the sampling pass is worth keeping for the local energy and for the gradient?",
            {"bose-hubbard-8": reuse.VARIANTS, "heisenberg-16": reuse.VARIANTS},
            reuse.run,
            reuse.COLUMNS,
        ),
        "proxies": _measured(
            9,
            "Which connected configurations does a local energy need?",
            {"bose-hubbard-8": local_energy_proxies.VARIANTS, "heisenberg-14": local_energy_proxies.VARIANTS},
            local_energy_proxies.run,
            local_energy_proxies.COLUMNS,
        ),
        "gradients": _measured(
            12,
            "Bias and noise of gradient estimators against the exact gradient?",
            dict.fromkeys(("bose-hubbard-6", "heisenberg-10"), gradient_estimators.VARIANTS),
            gradient_estimators.run,
            gradient_estimators.COLUMNS,
        ),
        "divergence": _measured(
            12,
            "Where does a fit to a known state end, by the divergence that it minimises?",
            dict.fromkeys(("bose-hubbard-6", "heisenberg-10"), divergences.VARIANTS),
            divergences.run,
            divergences.COLUMNS,
        ),
        "node": _measured(
            14,
            "Where does the sampling node pass gradient?",
            dict.fromkeys(("bose-hubbard-4", "heisenberg-8"), sampling_node.VARIANTS),
            sampling_node.run,
            sampling_node.COLUMNS,
        ),
        "backbones": _training(
            10,
            "Which backbone is best with the same number of parameters in the same time?",
            dict.fromkeys((*ALL, LARGE), backbones),
            variants.backbones,
        ),
        "latents": _training(
            11,
            "Does a mixture over latent tokens help a state of two orders?",
            {"ising-16-ordered": ("1 latent", "2 latents", "4 latents"), "ising-32": ("1 latent", "2 latents")},
            variants.latents,
        ),
        "objective": _training(
            12,
            "Does an entropy weight in the first half of the steps, or a first-order optimiser, end lower?",
            dict.fromkeys(ALL, variants.OBJECTIVES),
            variants.objectives,
        ),
        "sampling": _training(
            13,
            "Does the way of sampling change where the optimisation ends?",
            dict.fromkeys(ALL, variants.SAMPLERS),
            variants.samplers,
        ),
    }
    return dict(sorted(found.items(), key=lambda item: item[1].number))


def run(job: Job) -> Row:
    """Measure one job."""
    return questions()[job.question].run(job)
