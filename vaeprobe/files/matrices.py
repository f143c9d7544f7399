"""The matrix of a .npy file that is given beside a model: latents, factors, dispersions."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files import torch_pickles
from vaeprobe.files.npy import read_npy
from vaeprobe.files.sniff import known
from vaeprobe.files.source import read_source
from vaeprobe.files.trust import foreign, named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["read_matrix"]


def read_matrix(path: str | os.PathLike[str]) -> NDArray[np.generic]:
    """Return the array of a .npy file.

    Raises:
        UnsafeError: it would run something where another reader opens it: an array of objects, or a pickle.
        InputError: it is no .npy file, or damaged.
        ResourceError: it describes more than fits.
    """
    file = read_source(path)
    format = known(file.data, file.name)
    if format == "npy":
        return read_npy(file.data, file.name)[0]
    if format in ("torch zip", "torch legacy", "pickle"):
        with suppress(InputError, ResourceError):
            asked = foreign(torch_pickles.read(file.data, file.name, format).globals)
            if asked:
                raise UnsafeError(
                    f"{file.name} would import {named(asked)} when it is unpickled", about=file.name
                )
    raise InputError(
        f"{file.name} is no .npy matrix", hint="numpy.save(path, matrix) writes one", about=file.name
    )
