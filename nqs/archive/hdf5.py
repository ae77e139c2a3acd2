"""HDF5 images in memory: groups with attributes, and datasets of numbers. They are read by `nqs.archive.isolated`."""

from typing import Any
from uuid import uuid4

import h5py

from nqs.archive.contents import Attributes, Datasets

COMPRESSED_FROM = 4096  # bytes; smaller datasets do not compress


def to_image(attributes: Attributes, datasets: Datasets) -> bytes:
    """Bytes of an HDF5 file."""
    # A unique name, never on disk: HDF5 identifies open files by their names.
    with h5py.File(f"{uuid4()}.h5", "w", driver="core", backing_store=False) as file:
        for group, values in attributes.items():
            file.require_group(f"/{group}").attrs.update(values)
        for path, array in datasets.items():
            small = array.nbytes < COMPRESSED_FROM or path.startswith("checkpoint/")
            how: dict[str, Any] = {} if small else {"compression": "gzip", "shuffle": True}
            file.create_dataset(path, data=array, **how)
        file.flush()
        return file.id.get_file_image()
