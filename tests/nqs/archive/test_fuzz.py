"""Damaged archives are refused with one clear error: no traceback, no crash, no hang, no wrong number.

pytest tests/nqs/archive/test_fuzz.py --mutations 2000        as many damaged files
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from networks import small_transformer

from nqs import VMC, Archive, ArchiveError
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.samplers import TreeSampler

Mutation = Callable[[bytearray, random.Random], bytearray]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    h = BoseHubbard(chain(3), 3, U=4.0)
    path = tmp_path_factory.mktemp("fuzz") / "run.h5"
    model = small_transformer(width=4, heads=1).build(h.hilbert)
    VMC(h, model, TreeSampler(n_samples=20), None, TreeSampler(n_samples=20)).run(2, archive=path, progress=False)
    return path.read_bytes()


def flip_a_bit(data: bytearray, rng: random.Random) -> bytearray:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def flip_a_bit_of_the_seal(data: bytearray, rng: random.Random) -> bytearray:
    data[rng.randrange(512)] ^= 1 << rng.randrange(8)
    return data


def overwrite(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    piece = rng.randbytes(rng.randint(1, 600))[: len(data) - start]
    data[start : start + len(piece)] = piece
    return data


def truncate(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def cut_the_front(data: bytearray, rng: random.Random) -> bytearray:
    return data[rng.choice([1, 8, 511, 512, 513, 1024, rng.randrange(1, len(data))]) :]


def insert(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randint(1, 600)) + data[start:]


def swap_pieces(data: bytearray, rng: random.Random) -> bytearray:
    a, b = rng.randrange(len(data) - 8), rng.randrange(len(data) - 8)
    data[a : a + 8], data[b : b + 8] = data[b : b + 8], data[a : a + 8]
    return data


def noise(data: bytearray, rng: random.Random) -> bytearray:
    return bytearray(rng.randbytes(rng.randrange(3000)))


def pickled(data: bytearray, rng: random.Random) -> bytearray:
    """A pickle that would make a file, with and without the look of an archive."""
    program = b"cbuiltins\nopen\n(V%s\nVw\ntR." % str(Path(sys.argv[0]).with_name("pickle-was-run")).encode()
    return bytearray(rng.choice([program, data[:512] + program, data[:520] + program]))


MUTATIONS: list[Mutation] = [
    flip_a_bit, flip_a_bit_of_the_seal, overwrite, truncate, cut_the_front, insert, swap_pieces, noise, pickled
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_damaged_archive_is_refused(
    mutation: Mutation, run: bytes, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rng = random.Random(mutation.__name__)
    path = tmp_path / "x.h5"
    for _ in range(-(-request.config.getoption("mutations") // (len(MUTATIONS) + 1))):
        data = bytes(mutation(bytearray(run), rng))
        if data == run:  # two equal pieces were swapped
            continue
        path.write_bytes(data)
        with pytest.raises(ArchiveError, match=rf"^{path} (is|has)"):
            Archive.open(path)
        assert path.read_bytes() == data
    assert not Path(sys.argv[0]).with_name("pickle-was-run").exists()


def test_damaged_foreign_hdf5_is_refused(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """HDF5 without a checksum reaches the library in another process, which may crash."""
    rng = random.Random(5)
    path = tmp_path / "x.h5"
    for _ in range(-(-request.config.getoption("mutations") // (len(MUTATIONS) + 1))):
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(100.0)
            file.create_dataset("y", data=np.arange(100), chunks=(10,), compression="gzip")
            file.create_group("g").attrs["text"] = "x" * rng.randrange(100)
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(0, 5)):
            data = flip_a_bit(data, rng)
        path.write_bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
        with pytest.raises(ArchiveError, match=rf"^{path} (is|has)"):
            Archive.open(path)
