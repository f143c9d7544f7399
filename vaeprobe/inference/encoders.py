"""An encoder from a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.checkpoints.loading import load
from vaeprobe.checkpoints.programs.inputs import NoFlatRowsError, OpenSizeError
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.errors import UsageError
from vaeprobe.findings import OUTPUT_CHOSEN, WHOLE_VAE

__all__ = ["open_encoder"]

MEANS = ("mean", "mu", "loc", "z_mean")
# what loading says of a decoder with several outputs, which an encoder is meant to have
OF_DECODERS = (OUTPUT_CHOSEN, WHOLE_VAE)
LOG_VARIANCES = ("log_variance", "logvar", "log_var", "z_log_var", "z_logvar")


def open_encoder(path: str | PathLike[str], decoder: Decoder) -> Encoder:
    """Return the encoder in a file; nothing in the file is executed.

    Args:
        path: a checkpoint whose blueprint describes an encoder (its [decoder] may be `layers = ["identity"]`),
            or a program (.pt2, TorchScript) that returns (mean, log variance).
        decoder: the decoder it belongs to.

    Raises:
        UsageError: the file holds no encoder, or its program returns something else.
        VaeprobeError: whatever loading raises.
    """
    try:
        loaded = load(path)
    except NoFlatRowsError:
        raise UsageError(
            f"`{path}` is a program that does not take flat rows, and its file does not say what shape it takes",
            hint="export it to .pt2 with torch.export, which records the shape",
        ) from None
    except OpenSizeError as error:  # it takes what the decoder returns
        row = decoder(cpu.zeros(1, decoder.latent_dim, dtype=decoder.dtype or torch.float32)).shape[1:]
        loaded = load(path, latent_size=row) if error.of_map else load(path, latent_dim=decoder.data_dim)
    if loaded.encoder is not None:
        return loaded.encoder
    if loaded.latent_dim != decoder.data_dim:
        raise UsageError(
            f"`{path}` takes {loaded.latent_dim} numbers a row, an encoder of this decoder {decoder.data_dim}",
            hint="a checkpoint of weights needs a blueprint with an [encoder]; a program takes one data row",
        )
    k = len(decoder.continuous)
    function = _two_outputs(loaded.function, str(path))
    with torch.no_grad():
        mean, log_variance = function(cpu.zeros(1, loaded.latent_dim, dtype=loaded.dtype or torch.float32))
    if mean.shape != (1, k) or log_variance.shape != (1, k):
        raise UsageError(
            f"`{path}` returns shapes {tuple(mean.shape)} and {tuple(log_variance.shape)}, not twice (1, {k})",
            hint="export a module that returns (mean, log variance), one number per continuous latent",
        )
    return Encoder(
        function,
        k,
        input_shape=(loaded.latent_dim,),
        dtype=loaded.dtype or torch.float32,
        device=loaded.device or "cpu",
        notes=tuple(note for note in loaded.notes if note.spec not in OF_DECODERS),
    )


def _two_outputs(
    function: Callable[[Tensor], object], name: str
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        out = function(x)
        if isinstance(out, Mapping):
            pair = [next((out[k] for k in names if k in out), None) for names in (MEANS, LOG_VARIANCES)]
        else:
            pair = list(out[:2]) if isinstance(out, (tuple, list)) and len(out) > 1 else [out, None]
        mean, log_variance = pair
        if not isinstance(mean, Tensor) or not isinstance(log_variance, Tensor):
            raise UsageError(
                f"`{name}` does not return a mean and a log-variance",
                hint="export a module that returns (mean, log variance)",
            )
        return mean.flatten(1), log_variance.flatten(1)

    return encode
