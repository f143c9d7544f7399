"""An encoder from a file of its own."""

from __future__ import annotations

from os import PathLike

from vaeprobe.decoder import Decoder, Encoder

__all__ = ["open_encoder"]


def open_encoder(path: str | PathLike[str], decoder: Decoder) -> Encoder | None:
    """Return the encoder in a file, or None where the file holds none.

    Args:
        path: a checkpoint whose blueprint describes an encoder.
        decoder: the decoder it belongs to.
    """
    from vaeprobe.checkpoints import load

    return load(path).encoder
