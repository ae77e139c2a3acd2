"""Rows by their numbers against indexing of torch."""

import torch

from nqs.runtime.gather import large_empty, places, repeat_rows, take_columns, take_rows

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randint(0, 100, (7, 3), generator=GENERATOR)
INDEX = torch.tensor([6, 0, 0, 3])


def test_rows_and_columns() -> None:
    torch.testing.assert_close(take_rows(X, INDEX), X[INDEX])
    torch.testing.assert_close(take_rows(X[:, 0].contiguous(), INDEX), X[INDEX, 0])
    torch.testing.assert_close(take_columns(X, torch.tensor([2, 0])), X[:, [2, 0]])
    out = large_empty((6, 3), torch.int64, X.device).fill_(-1)
    take_rows(X, INDEX, out[1:5])  # in place, into a part
    torch.testing.assert_close(out[1:5], X[INDEX])
    assert bool((out[[0, 5]] == -1).all())


def test_repeated_rows() -> None:
    number = torch.tensor([2, 0, 1, 0, 0, 3, 0])
    torch.testing.assert_close(repeat_rows(X, number, 6), X[[0, 0, 2, 5, 5, 5]])


def test_places() -> None:
    mask = torch.rand(4, 5, generator=GENERATOR) < 0.5
    torch.testing.assert_close(places(mask), mask.flatten().nonzero()[:, 0])
    assert large_empty((0, 2), torch.int64, mask.device).view(torch.uint8).shape == (0, 16)
