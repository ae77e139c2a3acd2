"""One check of a wavefunction before any work starts: an autoregressive one is normalised on its sector.

Samplers draw from `step`, estimators evaluate `log_psi`, and both believe that |psi|^2 is the product of the
conditionals. A model for which that does not hold has a wrong energy with a small error bar.
"""

# Shapes: B configurations, L sites, d local states.
import math

import torch
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction, Wavefunction

ROWS = 4  # random configurations
TOLERANCE = 1e-3  # of log probabilities and phases, which may be in single precision


@torch.no_grad()
def check_wavefunction(wavefunction: Wavefunction) -> None:
    """
    Raises:
        ValueError: conditionals that are not normalised or leave the sector, a phase that is not finite, or values of
            `log_psi` or `step` that differ from those of `conditionals`; with an example. Of a wavefunction that is not
            autoregressive: amplitudes of another shape or precision, that are no numbers, or depend on the batch.
    """
    model = wavefunction.sampled
    if not isinstance(model, AutoregressiveWavefunction):
        _check_amplitudes(model)
        return
    name, hilbert = type(model).__name__, model.hilbert
    device = next(model.parameters()).device
    n = hilbert.random(ROWS, torch.Generator().manual_seed(0)).to(device)
    log_p, phase = model.conditionals(n)
    total = log_p.exp().sum(-1)
    if len(wrong := _where(~((total - 1).abs() < TOLERANCE))):
        row, site = wrong
        raise ValueError(
            f"{name} is not normalised: its conditional probabilities at site {site} sum to "
            f"{total[row, site].item():.6g}, for n = {n[row].tolist()}. Normalise `conditionals`, as by log_softmax."
        )
    allowed = hilbert.tables(device).log_uniform[torch.arange(hilbert.n_sites, device=device), hilbert.remainders(n)]
    if len(wrong := _where((log_p > -math.inf) & (allowed == -math.inf))):
        row, site, state = wrong
        raise ValueError(
            f"{name} leaves the sector: after {n[row, :site].tolist()} it gives the local state {state} the "
            f"probability {log_p[row, site, state].exp().item():.3g}, but no configuration of the sector "
            f"continues so. The sector is {hilbert}. Mask logits where `hilbert.tables(device).log_uniform` is -inf."
        )
    chosen = n.long()[..., None]
    phases = phase.gather(-1, chosen)[..., 0]
    if len(wrong := _where(~phases.isfinite())):
        row, site = wrong
        raise ValueError(f"{name} has the phase {phases[row, site].item()} at site {site} for n = {n[row].tolist()}.")
    log_psi = model.log_psi(n)
    whole = log_p.gather(-1, chosen).sum((1, 2)) / 2
    _refuse_difference(name, "log_psi", log_psi.log_modulus, whole, n, "half the sum of the log conditionals")
    turned = phases.sum(1) + model.reference_phase(n)
    turn = torch.remainder(log_psi.phase - turned + math.pi, math.tau) - math.pi
    _refuse_difference(name, "log_psi", turned + turn, turned, n, "the phases of the conditionals")
    state, tokens = model.start(len(n)), None
    for site in range(hilbert.n_sites):
        (step_log_p, step_phase), state = model.step(tokens, state)
        tokens = n[:, site]
        what = f"`conditionals` at site {site}"
        _refuse_difference(name, "step", step_log_p.exp(), log_p[:, site].exp(), n, what)
        found, wanted = (x.gather(-1, chosen[:, site])[:, 0] for x in (step_phase, phase[:, site]))
        _refuse_difference(name, "step", found, wanted, n, f"the phases of {what}")


def _check_amplitudes(model: Wavefunction) -> None:
    """Amplitudes of random configurations: shapes, precision, and the same in every batch."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    n = model.hilbert.random(ROWS, torch.Generator().manual_seed(0)).to(device)
    name, log_psi, alone = type(model).__name__, model.log_psi(n), model.log_psi(n[:1])
    for part, found, one in zip(log_psi._fields, log_psi, alone, strict=True):
        if found.shape != (ROWS,) or found.dtype != torch.float64:
            raise ValueError(
                f"{name}.log_psi gives a {part} of shape {tuple(found.shape)} in "
                f"{str(found.dtype).removeprefix('torch.')}: give {ROWS} numbers in float64 for {ROWS} configurations."
            )
        if len(wrong := _where(found.isnan())):
            raise ValueError(f"{name}.log_psi gives a {part} that is not a number for n = {n[wrong[0]].tolist()}.")
        same = torch.isclose(one, found[:1], rtol=TOLERANCE, atol=TOLERANCE) | (one == found[:1])
        if not same.all():
            raise ValueError(f"{name}.log_psi depends on the other configurations of its batch: n = {n[0].tolist()}.")


def _where(wrong: Tensor) -> list[int]:
    """Index of the first true entry, [] if there is none."""
    return next(iter(wrong.nonzero().tolist()), [])


def _refuse_difference(name: str, method: str, found: Tensor, wanted: Tensor, n: Tensor, what: str) -> None:
    if len(wrong := _where(~((found - wanted).abs() <= TOLERANCE * (1 + wanted.abs())))):
        place = tuple(wrong)
        raise ValueError(
            f"{name}.{method} differs from {what}: {found[place].item():.6g} instead of {wanted[place].item():.6g} for "
            f"n = {n[wrong[0]].tolist()}. Samples are drawn with `step` and weighted with `log_psi`: all must agree."
        )
