"""What stands beside a decoder where a file holds a whole VAE: data to the posterior of their latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from vaeprobe.autograd import full_precision
from vaeprobe.contract import first_line
from vaeprobe.errors import ContractError, UsageError
from vaeprobe.given import check_fields, check_least
from vaeprobe.report import Finding

__all__ = ["Encoder"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A map from data to the mean and log-variance of a diagonal Gaussian posterior.

    Args:
        function: takes data, shape (n, *input_shape), returns (mean, log variance), each (n, latent).
        latent_dim: number of (continuous) latents.
        input_shape: shape of one data row, where known; rows of another shape with as many numbers are
            reshaped.
        dtype: type of the data it takes.
        second: what its second output was before it was made a log-variance (`vaeprobe.inference.readings`).
        notes: what the loader wants the reader to know.
    """

    function: Callable[[Tensor], tuple[Tensor, Tensor]]
    latent_dim: int
    _: KW_ONLY
    input_shape: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    second: str = "log_variance"
    notes: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(1, latent_dim=self.latent_dim)

    def in_units(self, mean: Tensor, scale: Tensor) -> Encoder:
        """Return the encoder of (z - mean) / scale, shapes (latent_dim,)."""

        def function(x: Tensor) -> tuple[Tensor, Tensor]:
            m, log_variance = self._both(x)
            return (m - mean.to(m)) / scale.to(m), log_variance - 2 * scale.to(m).log()

        return replace(self, function=function)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means and log-variances, each of shape (n, latent_dim).

        Raises:
            UsageError: the rows of `x` do not have the encoder's shape.
            ContractError: the encoder does not return two (n, latent_dim) tensors.
        """
        x = x.to(device=self.device, dtype=self.dtype)
        if self.input_shape is not None:
            if x[0].numel() != math.prod(self.input_shape):
                raise UsageError(
                    f"the data rows have shape {tuple(x.shape[1:])}, the encoder takes {self.input_shape}",
                    hint="resize or pad the images to the shape the model was trained on",
                )
            x = x.reshape(len(x), *self.input_shape)
        with torch.no_grad():
            try:
                mean, log_variance = self._both(x)
            except RuntimeError as error:
                raise UsageError(
                    f"the encoder cannot take data of shape {tuple(x.shape)}: {first_line(error)}"
                ) from error
        want = (len(x), self.latent_dim)
        if tuple(mean.shape) != want or tuple(log_variance.shape) != want:
            raise ContractError(
                f"the encoder returns shapes {tuple(mean.shape)} and {tuple(log_variance.shape)}, not twice {want}"
            )
        return mean, log_variance

    def _both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the function returns, if it is two tensors."""
        with full_precision():
            out: object = self.function(x)
        if isinstance(out, (tuple, list)) and len(out) == 2 and all(isinstance(part, Tensor) for part in out):
            return out[0], out[1]
        k = self.latent_dim
        side_by_side = isinstance(out, Tensor) and tuple(out.shape) == (len(x), 2 * k)
        raise ContractError(
            f"the encoder returns {_called(out)}, where the mean and the log-variance of each posterior are needed",
            hint=f"a function to two tensors of shape (n, {k})"
            + (
                ": if both stand side by side in one, `lambda x: encode(x).chunk(2, dim=1)`"
                if side_by_side
                else ""
            ),
        )


def _called(out: object) -> str:
    """Return what an encoder returned, in words."""
    if isinstance(out, Tensor):
        return f"one tensor of shape {tuple(out.shape)}"
    if isinstance(out, (tuple, list)):
        return f"{type(out).__name__} of {', '.join(type(part).__name__ for part in out) or 'nothing'}"
    return type(out).__name__
