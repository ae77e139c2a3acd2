"""Memory of tensors, counted."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """Counts the bytes of tensors made inside of it that exist at once; views count as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.finalizers: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in given | self.finalizers.keys():
                size = storage.nbytes()
                self.finalizers[storage._cdata] = weakref.finalize(storage, self.freed, storage._cdata, size)
                self.now += size
                self.peak = max(self.peak, self.now)
        return result

    def freed(self, key: int, size: int) -> None:
        self.now -= size
        del self.finalizers[key]
