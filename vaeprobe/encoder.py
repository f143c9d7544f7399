"""What stands beside a decoder where a file holds a whole VAE: data to the posterior of their latents."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor, nn

from vaeprobe.autograd import full_precision
from vaeprobe.contract import first_line
from vaeprobe.errors import ContractError, InputError, UsageError
from vaeprobe.foreign import foreign
from vaeprobe.frozen import whole_of
from vaeprobe.given import check_fields, check_least, size_hint
from vaeprobe.report import Finding
from vaeprobe.tokens import are_one_hot, check_tokens, other_form, unknown_tokens

__all__ = ["Encoder", "check_codes"]

LARGEST_CODE = 1e100

OUT_OF_RANGE = (
    "index out of range"  # what torch says of a table that is asked for a row that it does not have
)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A map from data to the mean and log-variance of a diagonal Gaussian posterior.

    Args:
        function: takes data, shape (n, *input_shape), returns (mean, log variance), each (n, latent).
        latent_dim: number of (continuous) latents.
        input_shape: shape of one data row, where known; rows of another shape with as many numbers are
            reshaped.
        dtype: type of the data it takes; a type of whole numbers (`torch.long`) for tokens.
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
            UsageError: the rows of `x` do not have the encoder's shape, or are no tokens that it knows.
            ContractError: the encoder does not return two (n, latent_dim) tensors.
        """
        tokens = not (self.dtype.is_floating_point or self.dtype.is_complex)
        if self.input_shape is not None:
            if x[0].numel() != math.prod(self.input_shape):
                raise other_form(x, self.input_shape, tokens=tokens) or UsageError(
                    f"the data rows have shape {tuple(x.shape[1:])}, the encoder takes {self.input_shape}",
                    hint=size_hint(x.shape, self.input_shape),
                )
            x = x.reshape(len(x), *self.input_shape)
        if tokens:
            check_tokens(x)
        x = x.to(device=self.device, dtype=self.dtype)
        with torch.no_grad():
            try:
                mean, log_variance = self._both(x)
            except IndexError as error:
                if tokens and first_line(error).startswith(OUT_OF_RANGE):
                    raise unknown_tokens(x, self._vocabulary()) from None
                raise self._cannot_take(x, error) from error
            except RuntimeError as error:
                raise self._cannot_take(x, error) from error
        want = (len(x), self.latent_dim)
        if tuple(mean.shape) != want or tuple(log_variance.shape) != want:
            raise ContractError(
                f"the encoder returns shapes {tuple(mean.shape)} and {tuple(log_variance.shape)}, not twice {want}"
            )
        return mean, log_variance

    def _vocabulary(self) -> int | None:
        """Return how many tokens the network knows, where one table of it says so."""
        module = whole_of(self.function)
        tables = (
            {m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)} if module else set()
        )
        return tables.pop() if len(tables) == 1 else None

    def _cannot_take(self, x: Tensor, error: Exception) -> UsageError:
        reason = first_line(error)
        if not self.dtype.is_floating_point and x.ndim > 2 and are_one_hot(x, -1):
            return UsageError(
                f"the encoder takes tokens, whole numbers, and the data rows are one-hot, of shape {tuple(x.shape[1:])}",
                hint="give their classes: x.argmax(-1)",
            )
        looks_up = self.dtype.is_floating_point and re.search(r"'indices' to have.*(Long|Int)", reason)
        return UsageError(
            f"the encoder cannot take data of shape {tuple(x.shape)}: {reason}",
            hint="it takes tokens: vaeprobe.Encoder(..., dtype=torch.long) gives it whole numbers"
            if looks_up
            else None,
        )

    def _both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the function returns, if it is two tensors."""
        with full_precision(), foreign("encoder"):
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


def check_codes(codes: Tensor) -> None:
    """Refuse an encoder's means or draws, shape (n, latent), that are no numbers, or too large to be squared.

    Raises:
        InputError: some are.
    """
    if not bool((codes.abs() < LARGEST_CODE).all()):
        raise InputError(
            f"the encoder gives codes of the data that are no numbers below {LARGEST_CODE:.0e}",
            hint="are the data scaled as they were in training?",
        )
