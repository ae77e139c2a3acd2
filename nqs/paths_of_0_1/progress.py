"""Deprecated path of 0.1: import from nqs.runtime.progress."""

from nqs.runtime.progress import Progress, TensorBoard, Watcher

__all__ = ["Progress", "TensorBoard", "Watcher"]
