"""The parts of composed wavefunctions beyond the list of tests/models/test_models.py."""

import functools
import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import small_transformer
from parts_lists import ON_CPU, described, of_config, on_gpu
from scipy.linalg import block_diag

from nqs import exact
from nqs.archive.serialise import from_plain, to_plain
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard, Family
from nqs.hilbert import HilbertSpace, bosons, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import parts
from nqs.models.parts import (
    Attention,
    ByPosition,
    Categorical,
    ComposedConfig,
    Deembedding,
    FamilyConfig,
    GlobalEmbedding,
    GridPositions,
    Groups,
    LastPhase,
    LatentConfig,
    LinearRecurrence,
    MaskedMLP,
    NoPositions,
    Ordinal,
    Recurrence,
    Retention,
    RotaryAttention,
    WholePhase,
)
from nqs.models.parts.linear_recurrence import scan
from nqs.models.parts.tokens import by_species
from nqs.optimisation.jacobian import by_vmap, has_known_layers, jacobian, rounded_parameters
from nqs.samplers import TreeSampler
from nqs.scripts.ablation import variants
from nqs.scripts.ablation.jobs import Job
from nqs.scripts.ablation.training import baseline
from nqs.vmc.continuation import known_types

SPACE = bosons(6, 4)
MIXERS: list[Any] = [
    Attention(heads=2),
    RotaryAttention(heads=2),
    ByPosition(),
    Retention(heads=2),
    LinearRecurrence(),
    Recurrence(),
    Recurrence(grid=True),
    MaskedMLP(heads=2),
]
by_name = functools.partial(str)


@pytest.mark.parametrize("mixer", MIXERS, ids=by_name)
def test_mixers_are_causal_and_give_the_same_for_prefixes(mixer: Any) -> None:
    config = ComposedConfig(width=8, mixer=mixer, shape=(2, 3))
    layer = config.build(SPACE).blocks[0].attention  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((5, 6, 8), generator=generator, dtype=torch.float64)
    whole = layer(x)
    for length in range(1, 7):
        torch.testing.assert_close(layer(x[:, :length]), whole[:, :length])
    # Every position sees all positions before it.
    for earlier in range(6):
        changed = x.clone()
        changed[:, earlier] += 1.0
        difference = (layer(changed) - whole).abs().amax((0, 2))
        assert (difference[:earlier] == 0).all()
        assert (difference[earlier:] > 1e-9).all()


@pytest.mark.parametrize("mixer", MIXERS, ids=by_name)
def test_gradients_layer_by_layer_are_those_of_torch(mixer: Any) -> None:
    heads = Deembedding(pooled=True, per_site=True)
    whole = GlobalEmbedding(couplings=(0.3,))
    config = ComposedConfig(width=8, mixer=mixer, shape=(2, 3), deembedding=heads, whole=whole, patch=1)
    check_jacobian(config.build(SPACE), SPACE)


@pytest.mark.parametrize(
    "config",
    [
        LatentConfig(component=ComposedConfig(width=8, mixer=Attention(heads=2)), latents=3),
        ComposedConfig(width=8, mixer=Attention(heads=2), patch=2, tokens=Ordinal()),
        ComposedConfig(width=8, mixer=Attention(heads=2), phase=WholePhase(ratio=2)),
    ],
    ids=by_name,
)
def test_gradients_of_other_parts_layer_by_layer(config: Any) -> None:
    check_jacobian(config.build(SPACE), SPACE)


@pytest.mark.parametrize("mixer", MIXERS, ids=by_name)
@pytest.mark.parametrize("positions", [NoPositions(), GridPositions()], ids=by_name)
def test_gradients_may_be_rounded_to_single_precision(mixer: Any, positions: Any) -> None:
    whole, tokens = GlobalEmbedding(couplings=(0.3,)), Ordinal(features=3)
    config = ComposedConfig(width=8, mixer=mixer, shape=(2, 3), whole=whole, tokens=tokens, positions=positions)
    n = SPACE.random(7, torch.Generator().manual_seed(1))
    exact_ones = jacobian(config.build(SPACE), n)
    for one, other in zip(jacobian(replace(config, dtype="mixed").build(SPACE), n), exact_ones, strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def check_jacobian(model: Any, space: HilbertSpace) -> None:
    assert has_known_layers(model)
    n = space.random(7, torch.Generator().manual_seed(1))
    found = jacobian(model, n)
    parameters = rounded_parameters(model)
    number = sum(p.numel() for p in parameters.values())
    expected = [torch.empty((len(n), number), dtype=torch.float64) for _ in found]
    by_vmap(model, parameters, n, torch.ones(len(n), dtype=torch.float64), expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_default_parts_are_the_default_transformer() -> None:
    """The same function of the same parameters."""
    composed = ComposedConfig(width=8, mixer=Attention(heads=2)).build(SPACE)
    transformer = small_transformer(layers=2).build(SPACE)
    state = composed.state_dict()
    renamed = {
        "token.weight": state["token.table.weight"],
        "site.weight": state["position.tables.0.weight"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
        "head.weight": torch.cat([state["head.weight"][0], state["phase.head.weight"][0]]),
        "head.bias": torch.cat([state["head.bias"][0], state["phase.head.bias"][0]]),
    }
    renamed |= {k: v for k, v in state.items() if k.startswith("blocks")}
    transformer.load_state_dict(renamed)
    n = SPACE.configurations()
    for one, other in zip(composed.log_psi(n), transformer.log_psi(n), strict=True):
        torch.testing.assert_close(one, other)


def test_parallel_scan_is_the_recurrence() -> None:
    generator = torch.Generator().manual_seed(0)
    for length in (1, 2, 3, 7, 16):
        a, b = torch.rand((2, 3, length, 4), generator=generator, dtype=torch.float64)
        h, expected = torch.zeros(3, 4, dtype=torch.float64), []
        for t in range(length):
            h = a[:, t] * h + b[:, t]
            expected.append(h)
        torch.testing.assert_close(scan(a, b), torch.stack(expected, 1))


def test_the_memory_of_a_grid_has_seen_the_site_above() -> None:
    """Two rows of four: the memory from above changes the outputs from the second row on."""
    space = bosons(8, 4)
    line, grid = (
        ComposedConfig(width=8, mixer=Recurrence(grid=g), shape=(2, 4)).build(space).blocks[0].attention  # type: ignore[union-attr]
        for g in (False, True)
    )
    grid.load_state_dict(line.state_dict())
    x = torch.randn((3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    same = (line(x) == grid(x)).all(2).all(0)
    assert same.tolist() == [True] * 4 + [False] * 4


def test_occupation_and_spin_are_groups_of_their_own() -> None:
    sizes = ComposedConfig(width=4).sizes(spinful_fermions(3, 2, 1))
    rows = by_species(sizes).int().tolist()
    assert rows == [[1, 0, 1, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    sizes = ComposedConfig(width=4).sizes(spins(3, 0, spin=1))
    assert by_species(sizes).shape == (4, 4)


def test_features_of_ordinal_tokens_do_not_grow_with_the_cutoff() -> None:
    small, large = (ComposedConfig(width=4, tokens=Ordinal(features=5)).build(bosons(4, 8, n)) for n in (2, 8))
    assert small.token.linear.weight.shape == large.token.linear.weight.shape == (4, 6)  # type: ignore[union-attr]


def test_a_mixture_is_the_mean_of_its_members() -> None:
    """p(n) = sum_z p(z) p(n | z), against the members one by one."""
    model = LatentConfig(component=ComposedConfig(width=8, mixer=Attention(heads=2)), latents=3).build(SPACE)
    with torch.no_grad():
        model.weights.weight.copy_(torch.tensor([[0.3], [-0.8], [1.1]]))
        model.component.head.weight *= 20  # type: ignore[operator]
    n = SPACE.configurations()
    total = torch.zeros(len(n), dtype=torch.float64)
    prior = model.weights.weight[:, 0].softmax(0)
    for z in range(3):
        couplings = tuple(float(z == k) for k in range(3))
        single = replace(model.component.config, whole=GlobalEmbedding(couplings=couplings, sector=False)).build(SPACE)
        single.load_state_dict(model.component.state_dict())
        total = total + prior[z] * (2 * single.log_psi(n).log_modulus).exp()
    torch.testing.assert_close((2 * model.log_psi(n).log_modulus).exp(), total)


COUPLINGS = ((1.0,), (4.0,), (9.0,))


def family() -> tuple[Family, Any]:
    members = tuple(BoseHubbard(chain(4), 4, U=U) for (U,) in COUPLINGS)
    h = Family(members, scales=(1.0, 2.0, 4.0))
    config = FamilyConfig(component=ComposedConfig(width=8, mixer=Attention(heads=2)), sector=members[0].hilbert,
                          couplings=COUPLINGS)  # fmt: skip
    return h, config.build(h.hilbert)


def test_a_family_is_a_matrix_of_blocks() -> None:
    h, _ = family()
    whole = exact.sparse_matrix(h).toarray()
    expected = block_diag(*(exact.sparse_matrix(m).toarray() / s for m, s in zip(h.members, h.scales, strict=True)))
    assert whole == pytest.approx(expected)
    assert h.is_stoquastic
    assert h.max_connected == h.members[0].max_connected
    assert h.unit == "J"


def test_archives_keep_every_part() -> None:
    _, model = family()
    parts = ComposedConfig(
        mixer=Recurrence(grid=True), phase=None, shape=(2, 2), tokens=Ordinal(), whole=GlobalEmbedding()
    )
    for config in (model.config, parts, LatentConfig(component=ComposedConfig(phase=LastPhase(), width=4))):
        assert from_plain(json.loads(json.dumps(to_plain(config))), known_types()) == config


def test_members_of_a_family_are_wavefunctions_of_their_own() -> None:
    h, model = family()
    n, log_psi = h.hilbert.configurations(), model.log_psi(h.hilbert.configurations())
    assert len(n) == 3 * 35
    for k, couplings in enumerate(COUPLINGS):
        rows = n[:, 0] == k
        single = model.member(couplings)
        expected = single.log_psi(n[rows, 1:])
        torch.testing.assert_close(log_psi.log_modulus[rows] + math.log(3) / 2, expected.log_modulus)
        torch.testing.assert_close(log_psi.phase[rows], expected.phase)
        assert (2 * expected.log_modulus).exp().sum().item() == pytest.approx(1)
    between = model.member((2.0,)).log_psi(n[rows, 1:]).log_modulus
    assert not between.isclose(expected.log_modulus).any()


def test_families_decode_site_by_site_and_row_by_row() -> None:
    """Incremental equals teacher-forced, nothing crosses the batch, and nothing lies outside the sector."""
    h, model = family()
    with torch.no_grad():
        model.component.head.weight *= 20  # type: ignore[operator]
    n = h.hilbert.configurations()
    conditionals, state = model.conditionals(n), model.start(len(n))
    for site in range(h.hilbert.n_sites):
        step, state = model.step(n[:, site - 1] if site else None, state)
        for one, other in zip(step, conditionals, strict=True):
            torch.testing.assert_close(one, other[:, site], rtol=1e-12, atol=1e-12)
    rows = torch.randperm(len(n), generator=torch.Generator().manual_seed(0))[:7]
    for one, other in zip(model.log_psi(n[rows]), model.log_psi(n), strict=True):
        torch.testing.assert_close(one, other[rows], rtol=1e-12, atol=1e-12)
    outside = n.clone()
    outside[:, 1:] = 0
    assert (model.log_psi(outside).log_modulus == -math.inf).all()


def test_every_variant_of_the_design_questions_is_on_the_lists_of_the_contract() -> None:
    """Of tests/models/test_models.py, and of what is compared between CPU and GPU."""
    tables = (variants.TOKENS, variants.POSITIONS, variants.DEEMBEDDING, variants.PHASES, variants.BACKBONES)
    base = baseline(Job(question="", problem="hubbard-2x2", variant="", seed=0, seconds=1.0, device="cpu")).model
    named = of_config(base).union(*(described(parts) for table in tables for parts in table.values()))
    assert {"Categorical()", "ByPosition(classes)", "Deembedding(pooled, per_site)", "patches"} <= named
    on_cpu = set().union(*(described(parts) for parts in ON_CPU.values()))
    on_gpus = set().union(*map(of_config, on_gpu(SPACE)))
    assert named - on_cpu - {"Deembedding()"} == set()
    assert named - on_gpus == set()
    exported = {name for name in parts.__all__ if hasattr(getattr(parts, name), "build")}
    whole = {"ComposedConfig", "FamilyConfig", "LatentConfig"}  # on both lists under their own names
    assert exported - whole == {name.split("(")[0] for name in on_cpu} - {"patches"}


def test_the_energy_of_a_family_is_the_mean_of_its_members() -> None:
    h, model = family()
    samples = TreeSampler(n_samples=10**9).build(model).sample(torch.Generator().manual_seed(0))
    energy = samples.mean(local_energies(h, model, samples).values.real).item()
    expected = []
    for member, couplings, scale in zip(h.members, COUPLINGS, h.scales, strict=True):
        n = member.hilbert.configurations()
        with torch.no_grad():
            log_psi = model.member(couplings).log_psi(n)
        psi = torch.polar(log_psi.log_modulus.exp(), log_psi.phase).numpy()
        expected.append((psi.conj() @ (exact.sparse_matrix(member) @ psi)).real / scale)
    assert energy == pytest.approx(sum(expected) / 3, rel=1e-3)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: ComposedConfig(patch=4).build(SPACE), r"patch=4 does not divide the 6 sites"),
        (lambda: ComposedConfig(shape=(2, 2)).build(SPACE), r"shape=\(2, 2\) holds 4 sites"),
        (lambda: ComposedConfig(mixer=Attention(heads=5)).build(SPACE), r"not divisible by heads=5"),
        (lambda: ComposedConfig(width=6, mixer=RotaryAttention(heads=2)).build(SPACE), r"heads of width 3"),
        (lambda: ComposedConfig(tokens=Categorical(), patch=6).build(bosons(6, 9)), r"1,000,000 values"),
        (lambda: ComposedConfig(mixer=Recurrence(grid=True), patch=2).build(SPACE), r"patch=2"),
        (lambda: ComposedConfig(tokens=Groups()).build(HilbertSpace(2, ("a", "b"))), r"Groups\(\) needs species"),
        (lambda: ComposedConfig(start="reference"), r"needs a SlaterDeterminant"),
        (lambda: ComposedConfig(tokens="one-hot"), r"tokens='one-hot' is no part"),
        (lambda: LatentConfig(latents=0), r"latents=0"),
        (lambda: Ordinal(features=0), r"features=0"),
        (lambda: Family(()), r"at least one member"),
    ],
)
def test_impossible_parts_are_refused(build: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


def test_patches_of_every_size_are_normalised() -> None:
    for patch, tokens in itertools.product((1, 2, 3, 6), (Ordinal(features=3), Ordinal(features=1))):
        model = ComposedConfig(width=8, mixer=Attention(heads=2), tokens=tokens, patch=patch).build(SPACE)
        total = (2 * model.log_psi(SPACE.configurations()).log_modulus).exp().sum().item()
        assert total == pytest.approx(1, abs=1e-12)
