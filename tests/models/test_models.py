"""Every wavefunction: normalised on its sector, causal, and the same whether evaluated at once or site by site.

A new model is one more line in MODELS.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from networks import small_transformer
from parts_lists import ON_CPU
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.amplitudes.prefixes import common_prefix
from nqs.hilbert import HilbertSpace, bosons, spins
from nqs.lattice import chain
from nqs.models import MarshallSign, Transformer, TransformerConfig
from nqs.models.parts import Attention, ComposedConfig, Groups, LatentConfig, OneHot
from nqs.protocols import AutoregressiveWavefunction
from nqs.runtime import memory
from nqs.runtime import memory as chunks

from readme import recurrent
from sectors import SPACES

Build = Callable[..., AutoregressiveWavefunction]


def transformer(**size: Any) -> Build:
    return lambda space, **options: small_transformer(**size | options).build(space)


def with_marshall_sign(space: HilbertSpace, **options: Any) -> AutoregressiveWavefunction:
    sign = MarshallSign(sublattice=tuple(site % 2 for site in range(space.n_sites)))
    return small_transformer(reference=sign, **options).build(space)


def by_displacement(space: HilbertSpace, **options: Any) -> AutoregressiveWavefunction:
    classes = tuple(map(tuple, chain(space.n_sites).displacements().tolist()))
    config = small_transformer(width=6, layers=2, attention="factored", displacements=classes, **options)
    return config.build(space)


def composed(**parts: Any) -> Build:
    """A model of given parts; on two rows, in patches and with groups by species where that is possible."""

    def build(space: HilbertSpace, **options: Any) -> AutoregressiveWavefunction:
        chosen = {"width": 8, "layers": 1, **parts}
        chosen = {name: part(space) if callable(part) else part for name, part in chosen.items()}
        if space.n_sites % 2:
            chosen["patch"] = 1
        else:
            chosen["shape"] = (2, space.n_sites // 2)
        if chosen.get("tokens") == Groups() and not space.species:
            chosen["tokens"] = OneHot()
        return ComposedConfig(**chosen, **options).build(space)

    return build


def mixture(space: HilbertSpace, **options: Any) -> AutoregressiveWavefunction:
    base = ComposedConfig(width=8, layers=1, mixer=Attention(heads=2))
    return LatentConfig(component=base, latents=3, **options).build(space)


MODELS: dict[str, Build] = {
    "transformer": transformer(layers=2),
    "transformer, one layer and head": transformer(width=5, heads=1, mlp_ratio=1),
    "transformer, deep": transformer(width=12, layers=4, heads=3, mlp_ratio=3),
    "transformer, zero phase": transformer(phase="zero"),
    "transformer, float32": transformer(layers=2, dtype="float32"),
    "transformer, float32, zero phase": transformer(heads=4, phase="zero", dtype="float32"),
    "transformer, factored attention": transformer(layers=2, heads=None, attention="factored"),
    "transformer, attention by displacement": by_displacement,
    "transformer with a reference phase": with_marshall_sign,
    **{f"composed, {name}": composed(**parts) for name, parts in ON_CPU.items()},
    "mixture over latent tokens": mixture,
    "recurrent": lambda space, **options: recurrent().RecurrentConfig(**options).build(space),
}
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def lively(build: Build, space: HilbertSpace, **options: Any) -> AutoregressiveWavefunction:
    """A model with all parameters, also biases and norms, away from their start: conditionals far from uniform."""
    model = build(space, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model.requires_grad_(False)


def product_space(space: HilbertSpace) -> Tensor:
    return torch.tensor(list(itertools.product(range(space.local_dim), repeat=space.n_sites)), dtype=torch.uint8)


def tolerance(model: AutoregressiveWavefunction) -> float:
    """Of what is computed twice, by the precision of the network."""
    return 1e-12 if next(model.parameters()).dtype == torch.float64 else 3e-6


# ------------------------------------------------------------------------------------------- the state


@every_model
@every_space
def test_state_is_normalised_on_the_sector_and_zero_outside(build: Build, space: HilbertSpace) -> None:
    model = lively(build, space)
    n = product_space(space)
    log_modulus, phase = model.log_psi(n)
    inside = space.contains(n)
    assert (2 * log_modulus[inside]).exp().sum().item() == pytest.approx(1, abs=tolerance(model))
    assert log_modulus[inside].isfinite().all()
    assert (log_modulus[~inside] == -math.inf).all()
    assert phase.isfinite().all()
    if space.dimension > 1:  # far from uniform: the checks here would be blind on a flat state
        assert log_modulus[inside].std() > 0.1


@every_model
@every_space
def test_conditionals_are_normalised(build: Build, space: HilbertSpace) -> None:
    """Also after a prefix that has left the sector, and in float64 whatever the precision of the network is."""
    log_p, phase = lively(build, space).conditionals(product_space(space))
    assert log_p.dtype == phase.dtype == torch.float64
    total = log_p.exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-13)
    assert not log_p.isnan().any()


@every_model
@every_space
def test_log_psi_is_the_product_of_the_conditionals_on_the_way(build: Build, space: HilbertSpace) -> None:
    model, n = lively(build, space), space.configurations()
    conditionals, log_psi, reference = model.conditionals(n), model.log_psi(n), model.reference_phase(n)
    for b, row in enumerate(n.tolist()[:20]):
        log_p = sum(conditionals.log_p[b, site, state].item() for site, state in enumerate(row))
        phase = sum(conditionals.phase[b, site, state].item() for site, state in enumerate(row))
        assert log_psi.log_modulus[b].item() == pytest.approx(log_p / 2, rel=1e-13, abs=1e-13)
        assert log_psi.phase[b].item() == pytest.approx(phase + reference[b].item(), rel=1e-13, abs=1e-13)
    # A call leaves out what has no parameters.
    learned = model(n)
    assert learned.log_modulus.equal(log_psi.log_modulus)
    torch.testing.assert_close(learned.phase, log_psi.phase - reference, rtol=0, atol=1e-13)


@every_model
@every_space
def test_zero_parameters_are_the_uniform_superposition(build: Build, space: HilbertSpace) -> None:
    model = build(space)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    log_modulus = model.log_psi(space.configurations()).log_modulus
    torch.testing.assert_close(log_modulus, torch.full_like(log_modulus, -math.log(space.dimension) / 2))


@every_model
def test_phase(build: Build) -> None:
    """Learned from phases of order 1, since a real Hamiltonian has no gradient at zero; or exactly zero."""
    space = SPACES["bosons"]
    model = build(space)
    phase = model(space.configurations()).phase.detach()
    if model.has_phase:
        assert len(phase.unique()) == space.dimension
        assert 0.5 < phase.std() < 3
    else:
        assert not phase.any()


# ------------------------------------------------------------------------------------ at once and site by site


@every_model
@every_space
def test_decoding_site_by_site_agrees_with_whole_configurations(build: Build, space: HilbertSpace) -> None:
    model = lively(build, space)
    n = space.configurations()
    conditionals = model.conditionals(n)
    state = model.start(len(n))
    for site in range(space.n_sites):
        step, state = model.step(n[:, site - 1] if site else None, state)
        for one, other in zip(step, conditionals, strict=True):
            torch.testing.assert_close(one, other[:, site], rtol=tolerance(model), atol=tolerance(model))


@every_model
@every_space
@pytest.mark.parametrize("way", ["select", "branch"])
def test_branching_from_the_root_grows_the_whole_sector(build: Build, space: HilbertSpace, way: str) -> None:
    """Prefixes branch into every child of finite probability, in an order of its own at every site."""
    model = lively(build, space)
    generator = torch.Generator().manual_seed(1)
    tokens, log_p, phase = torch.empty((1, 0), dtype=torch.uint8), torch.zeros(1).double(), torch.zeros(1).double()
    state = model.start(1)
    for site in range(space.n_sites):
        step, state = model.step(tokens[:, -1] if site else None, state)
        rows, token = step.log_p.isfinite().nonzero().T
        shuffle = torch.randperm(len(rows), generator=generator)
        rows, token = rows[shuffle], token[shuffle]
        tokens = torch.cat([tokens[rows], token[:, None].to(torch.uint8)], dim=1)
        log_p, phase = log_p[rows] + step.log_p[rows, token], phase[rows] + step.phase[rows, token]
        state = getattr(state, way)(rows)
    assert space.rank(tokens).sort().values.equal(torch.arange(space.dimension))
    expected = model.log_psi(tokens)
    torch.testing.assert_close(log_p / 2, expected.log_modulus, rtol=tolerance(model), atol=tolerance(model))
    phase = phase + model.reference_phase(tokens)
    torch.testing.assert_close(phase, expected.phase, rtol=tolerance(model), atol=tolerance(model))


@every_model
def test_prefixes_may_be_dropped_repeated_and_reordered_at_every_site(build: Build) -> None:
    """Also where many are dropped, so that those left move within the storage; a copy outlives its original."""
    space, generator = bosons(7, 4), torch.Generator().manual_seed(2)
    model = lively(build, space)
    n = space.random(40, generator)
    expected = model.conditionals(n)
    wanted = torch.randint(40, (30,), generator=generator)
    state = model.start(1).branch(torch.zeros(30, dtype=torch.int64))  # row b decodes configuration wanted[b]
    copy, copied = None, wanted
    for site in range(space.n_sites):
        step, state = model.step(n[wanted, site - 1] if site else None, state)
        for one, other in zip(step, expected, strict=True):
            torch.testing.assert_close(one, other[wanted, site], rtol=tolerance(model), atol=tolerance(model))
        if site == 3:
            copy, copied = state.select(torch.arange(5, 15)), wanted[5:15]
        chosen = torch.randint(len(wanted), ([50, 12, 30, 60, 7, 20][site % 6],), generator=generator)
        wanted, state = wanted[chosen], state.branch(chosen)
    assert copy is not None
    step, _ = model.step(n[copied, 3], copy)
    for one, other in zip(step, expected, strict=True):
        torch.testing.assert_close(one, other[copied, 4], rtol=tolerance(model), atol=tolerance(model))


@every_model
@every_space
def test_conditionals_depend_on_all_sites_before_and_on_none_after(build: Build, space: HilbertSpace) -> None:
    model = lively(build, space)
    n = space.configurations()
    conditionals = model.conditionals(n)
    for site in range(space.n_sites):
        rows = {tuple(row[:site]): b for b, row in enumerate(n.tolist())}  # one of every prefix
        same = torch.tensor([rows[tuple(row[:site])] for row in n.tolist()])
        for values in (conditionals.log_p[:, site].exp(), conditionals.phase[:, site]):
            torch.testing.assert_close(values, values[same], rtol=0, atol=tolerance(model))
        # Where there is a choice, different prefixes have different conditionals.
        p = conditionals.log_p[list(rows.values()), site].exp()
        free = p[(p > 0).sum(1) > 1]
        assert len(torch.unique(free.mul(1e5).round(), dim=0)) == len(free)


@every_model
def test_later_sites_do_not_change_earlier_conditionals_outside_the_sector(build: Build) -> None:
    model, generator = lively(build, SPACES["electrons"]), torch.Generator().manual_seed(0)
    n = torch.randint(4, (30, 3), generator=generator).to(torch.uint8)
    changed = n.clone()
    changed[:, 1:] = torch.randint(4, (30, 2), generator=generator)
    for one, other in zip(model.conditionals(n), model.conditionals(changed), strict=True):
        torch.testing.assert_close(one[:, :2], other[:, :2], rtol=tolerance(model), atol=tolerance(model))


@every_model
def test_rows_of_a_batch_do_not_see_each_other(build: Build) -> None:
    space = SPACES["bosons"]
    model, n = lively(build, space), space.configurations()
    whole = model.log_psi(n)
    shuffle = torch.randperm(len(n), generator=torch.Generator().manual_seed(0))
    part = model.log_psi(n[shuffle][:7])
    for one, other in zip(part, whole, strict=True):
        torch.testing.assert_close(one, other[shuffle][:7], rtol=tolerance(model), atol=tolerance(model))


@every_model
def test_chunks_of_any_size_give_the_same_amplitudes(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACES["bosons"]
    model, n = lively(build, space), space.configurations()
    batches = []
    monkeypatch.setattr(model, "log_psi", lambda n, log_psi=model.log_psi: batches.append(len(n)) or log_psi(n))
    whole = log_psi_in_chunks(model, n)
    assert batches == [35]
    monkeypatch.setattr(chunks, "CPU_BYTES", 9 * model.bytes_per_configuration // 2)
    parts = log_psi_in_chunks(model, n)
    assert batches[1:] == [4] * 8 + [3]
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance(model), atol=tolerance(model))
    assert log_psi_in_chunks(model, n[:0]).log_modulus.shape == (0,)
    monkeypatch.setattr(chunks, "CPU_BYTES", 1)  # less than one: still one at a time
    assert log_psi_in_chunks(model, n[:2]).phase.shape == (2,)
    assert batches[-2:] == [1, 1]


@every_model
@every_space
def test_amplitudes_with_shared_prefixes_are_those_from_scratch(build: Build, space: HilbertSpace) -> None:
    """In any order, with repetitions, also where more is shared than said, and outside the sector."""
    model = lively(build, space)
    sector, generator = space.configurations(), torch.Generator().manual_seed(3)
    shuffled = sector[torch.randint(len(sector), (2 * len(sector),), generator=generator)]
    for n, less_said in ((sector, True), (shuffled, True), (product_space(space), False)):
        shared = torch.nn.functional.pad(common_prefix(n[1:], n[:-1]), (1, 0))
        expected = model.log_psi(n)
        for said in (shared, shared // 2, torch.zeros_like(shared)) if less_said else (shared,):
            for one, other in zip(model.log_psi_in_order(n, said), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=tolerance(model), atol=tolerance(model))


# ------------------------------------------------------------------------------------------------ parameters


@every_model
@every_space
def test_gradients_are_finite(build: Build, space: HilbertSpace) -> None:
    """Through the conditionals that are masked as impossible, too."""
    model = lively(build, space).requires_grad_(True)
    log_modulus, phase = model.log_psi(space.configurations())
    weights = torch.randn(space.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (weights @ (log_modulus + phase)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values()), gradients
    if space.dimension > 1:
        assert any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("name", [name for name in MODELS if "float32" not in name])
def test_gradients_are_finite_differences(name: str) -> None:
    space = SPACES["electrons"]
    model = lively(MODELS[name], space).requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn((2, space.dimension), dtype=torch.float64, generator=generator)

    def loss() -> Tensor:
        log_modulus, phase = model.log_psi(space.configurations())
        return weights[0] @ log_modulus + weights[1] @ phase

    loss().backward()
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                parameter += step * direction
                values.append(loss().item())
            parameter += 1e-5 * direction
        slope = (parameter.grad * direction).sum().item()
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-6, abs=1e-7)


@every_model
def test_parameters_follow_the_seed_and_nothing_else(build: Build) -> None:
    space = SPACES["spins 1/2"]
    n = space.configurations()
    default = build(space).log_psi(n)
    torch.manual_seed(12345)
    again, other = build(space, seed=0).log_psi(n), build(space, seed=1).log_psi(n)
    assert default.log_modulus.equal(again.log_modulus)
    assert default.phase.equal(again.phase)
    assert not default.log_modulus.isclose(other.log_modulus).any()


@every_model
def test_no_model_takes_global_random_numbers(build: Build) -> None:
    space = SPACES["spins 1/2"]
    before = torch.get_rng_state()
    model = build(space)
    assert torch.get_rng_state().equal(before), "building the model"
    model.log_psi(space.configurations())
    model.step(None, model.start(3))
    assert torch.get_rng_state().equal(before), "evaluating the model"


@every_model
def test_configuration_builds_the_same_model(build: Build) -> None:
    space = SPACES["bosons"]
    model = build(space, seed=3)
    values = {field.name: getattr(model.config, field.name) for field in fields(model.config)}
    config = type(model.config)(**values)
    assert config == model.config
    assert hash(config) == hash(model.config)
    twin = config.build(space)
    assert type(twin) is type(model)
    for one, other in zip(twin.log_psi(space.configurations()), model.log_psi(space.configurations()), strict=True):
        assert one.equal(other)
    assert {p.dtype for p in twin.parameters()} == {p.dtype for p in model.parameters()}


@every_model
def test_parameters_determine_the_state(build: Build) -> None:
    """What an archive keeps: loading the parameters into a model of another seed gives the same amplitudes."""
    space = SPACES["bosons"]
    model, other = lively(build, space), build(space, seed=5)
    other.load_state_dict(model.state_dict())
    for one, two in zip(other.log_psi(space.configurations()), model.log_psi(space.configurations()), strict=True):
        assert one.equal(two)


@every_model
def test_memory_of_a_configuration_is_a_positive_number_of_bytes(build: Build) -> None:
    small, large = (build(space).bytes_per_configuration for space in (bosons(4, 4), bosons(8, 4)))
    assert large == 2 * small > 0


# ----------------------------------------------------------------------------------------------- reference phase


def test_marshall_sign_is_a_fixed_phase_of_every_configuration() -> None:
    """exp(i phase) = (-1)^(sum of S + m over sublattice A), here on a chain of four spins with A the odd sites."""
    space = spins(4, 0)
    model, n = with_marshall_sign(space, phase="zero"), space.configurations()
    expected = [(-1.0) ** (row[1] + row[3]) for row in n.tolist()]
    torch.testing.assert_close(model.log_psi(n).phase.cos(), torch.tensor(expected, dtype=torch.float64))
    assert not model.has_phase
    assert model(n).phase.eq(0).all()


# ------------------------------------------------------------------------------------------------ transformer


def test_factored_attention_is_a_sum_over_displacements() -> None:
    """Against the formula, on a ring of four sites; pairs of one displacement share a weight, later sites have none."""
    ring = chain(4, periodic=True)
    assert ring.displacements().tolist() == [[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1], [1, 2, 3, 0]]
    classes = tuple(map(tuple, ring.displacements().tolist()))
    config = small_transformer(width=4, layers=2, attention="factored", displacements=classes)
    attention = config.build(SPACES["bosons"]).blocks[0].attention
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((2, 4, 4), generator=generator, dtype=torch.float64)
    A, values = attention.mixing.weight, attention.values(x)
    assert A.shape == (2, 4)
    expected = torch.zeros_like(x)
    for i, j, channel in itertools.product(range(4), range(4), range(4)):
        if j <= i:
            expected[:, i, channel] += A[channel // 2, (j - i) % 4] * values[:, j, channel]
    torch.testing.assert_close(attention(x), attention.out(expected))
    # Without classes every pair of sites has its own weight.
    alone = replace(config, displacements=None).build(SPACES["bosons"])
    assert alone.blocks[0].attention.mixing.weight.shape == (2, 10)


def test_displacements_of_another_lattice_are_refused() -> None:
    classes = tuple(map(tuple, chain(3).displacements().tolist()))
    config = small_transformer(attention="factored", displacements=classes)
    with pytest.raises(ValueError, match=r"3 x 3 pairs, but the sector has 4 sites"):
        config.build(SPACES["bosons"])


def test_options_override_the_configuration() -> None:
    model = Transformer(
        SPACES["bosons"], small_transformer(width=6, layers=2, heads=3), layers=1, dtype="float32", seed=4
    )
    assert model.config == small_transformer(width=6, heads=3, dtype="float32", seed=4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.head.out_features == 2 * 5
    assert small_transformer(phase="zero").build(SPACES["bosons"]).head.out_features == 5


def test_only_the_head_decides_whether_the_state_is_uniform() -> None:
    space = SPACES["bosons"]
    model = small_transformer(layers=2).build(space)
    log_modulus = model.log_psi(space.configurations()).log_modulus
    uniform = torch.full_like(log_modulus, -math.log(space.dimension) / 2)
    assert (log_modulus - uniform).abs().max() > 1e-2
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    torch.testing.assert_close(model.log_psi(space.configurations()).log_modulus, uniform, rtol=1e-14, atol=0)


def test_as_many_local_states_as_a_byte_holds() -> None:
    space = bosons(1, None, 255)
    model = lively(transformer(width=4, heads=1), space)
    assert (2 * model.log_psi(space.unrank(torch.arange(256))).log_modulus).exp().sum().item() == pytest.approx(1)


SIZES = {"width": 8, "layers": 1, "heads": 2, "mlp_ratio": 2}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"width": 0}, ValueError, r"width=0: it must be at least 1"),
        ({"layers": 0}, ValueError, r"layers=0: it must be at least 1"),
        ({"heads": -1}, ValueError, r"heads=-1: it must be at least 1"),
        ({"mlp_ratio": 0}, ValueError, r"mlp_ratio=0: it must be at least 1"),
        ({"width": 10, "heads": 4}, ValueError, r"width=10 is not divisible by heads=4"),
        ({"phase": "real"}, ValueError, r"phase='real': choose 'learned' or 'zero'"),
        ({"dtype": "bfloat16"}, ValueError, r"dtype='bfloat16': choose 'float64', 'float32' or 'mixed'"),
        ({"depth": 3}, TypeError, r"'depth'"),
        ({"attention": "linear"}, ValueError, r"attention='linear': choose 'dot-product' or 'factored'"),
        ({"displacements": ((0,),)}, ValueError, r"displacements are for attention='factored'"),
    ],
    ids=str,
)
def test_errors_name_the_option(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Transformer(SPACES["bosons"], **SIZES | options)
    with pytest.raises(error, match=text):
        TransformerConfig(**SIZES | options)


DISPLACEMENTS = tuple(map(tuple, chain(6).displacements().tolist()))


@pytest.mark.parametrize("phase", ["learned", "zero"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 3, "mlp_ratio": 4},
        {"attention": "factored", "heads": 2},
        {"attention": "factored", "displacements": DISPLACEMENTS},
    ],
    ids=["default", "large", "pairs", "displacements"],
)
def test_parameters_are_counted_before_they_are_allocated(options: dict[str, Any], phase: str) -> None:
    config = small_transformer(**{"layers": 2, "heads": None, "phase": phase} | options)
    assert config.n_parameters(6, 4) == config.build(bosons(6, 3)).n_parameters


def test_memory_is_checked_for_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixing weights of every pair of 100 sites: 2.6 MiB, of which the other layers have 0.3."""
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"a network with 3.4e\+05 parameters .* choose a narrower one"):
        small_transformer(width=32, layers=2, heads=None, attention="factored").build(spins(100))
