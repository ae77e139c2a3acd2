"""HDF5 images in memory: groups with attributes, and datasets of numbers."""

from typing import Any
from uuid import uuid4

import h5py
import numpy as np

from nqs.archive.contents import Attributes, Datasets, Scalar

COMPRESSED_FROM = 4096  # bytes; smaller datasets do not compress
MAX_DEFLATION = 1032  # largest compression ratio of gzip; a larger dataset is not in the file
IMAGE_READ_ONLY = 0  # flag of H5LT_open_file_image, which h5py does not name


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


def from_image(image: bytes) -> tuple[Attributes, Datasets]:
    """Attributes and datasets of an untrusted HDF5 file.

    Raises:
        ValueError: it holds something else than groups, numbers and text inside the file itself.
    """
    attributes: Attributes = {}
    datasets: Datasets = {}

    def read(group: h5py.Group, path: str) -> None:
        if group.attrs or not path:
            attributes[path] = {name: _scalar(value) for name, value in group.attrs.items()}
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path}/{name} is a link to elsewhere")
            item, inner = group[name], f"{path}/{name}".lstrip("/")
            if isinstance(item, h5py.Group):
                if inner.count("/") > 2:  # a group may contain itself
                    raise ValueError(f"{inner} is nested too deeply")
                read(item, inner)
            elif isinstance(item, h5py.Dataset) and item.dtype.kind in "fiubc" and item.shape is not None:
                if item.external or item.is_virtual or item.nbytes > MAX_DEFLATION * len(image):
                    raise ValueError(f"the data of {inner} are not in the file")
                datasets[inner] = np.asarray(item[()])
            else:
                raise ValueError(f"{inner} holds no numbers")

    with h5py.File(h5py.h5f.open_file_image(image, IMAGE_READ_ONLY)) as file:
        read(file, "")
    return attributes, datasets


def _scalar(value: Any) -> Scalar:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"an attribute is {type(value).__name__}, neither a number nor text")
    return value
