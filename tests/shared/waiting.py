"""Operations that a CUDA graph cannot hold, found without a GPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waiting(TorchDispatchMode):
    """Counts the operations for which the host would wait for a GPU, or that read its own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "lift_fresh", "unique", "equal") or masks:
            self.found.append(name)
        return func(*args, **(kwargs or {}))
