"""What a blueprint says of a prior that is not N(0, I): numbers, or names of the file's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.prior import LearnedPrior

__all__ = ["SPREADS", "WEIGHTS", "Numbers", "PriorPlan"]

# the name of a tensor, a number, or lists of numbers
Numbers: TypeAlias = "str | float | tuple[Numbers, ...]"
SpreadKind: TypeAlias = Literal["scale", "log_scale", "variance", "log_variance"]
SPREADS: tuple[SpreadKind, ...] = ("scale", "log_scale", "variance", "log_variance")
WEIGHTS = ("weights", "logits")


@dataclass(frozen=True)
class PriorPlan:
    """The prior of the continuous latents: `[prior]` in a blueprint.

    Attributes:
        mean: (latent,), or (components, latent) for a mixture.
        spread: which of `SPREADS` the second is.
        second: of the shape of the means, or one that broadcasts to it.
        mixing: which of `WEIGHTS` the third is.
        third: one for each component of a mixture; None for equal ones.
    """

    mean: Numbers
    second: Numbers
    spread: SpreadKind = "scale"
    third: Numbers | None = None
    mixing: str = "weights"

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it asks for."""
        return tuple(v for v in (self.mean, self.second, self.third) if isinstance(v, str))

    def made(self, tensors: Mapping[str, Tensor]) -> LearnedPrior:
        """Return the prior; `tensors` holds those of `names`.

        Raises:
            UsageError: it is none (see `LearnedPrior`).
        """
        import torch

        from vaeprobe import cpu
        from vaeprobe.prior import LearnedPrior

        def number(v: Numbers) -> Tensor:
            found = tensors[v] if isinstance(v, str) else cpu.tensor(v, dtype=torch.float64)
            return found.detach().double().cpu()

        mean, second = number(self.mean), number(self.second)
        scale = (0.5 * second if self.spread == "log_variance" else second).exp()
        if not self.spread.startswith("log"):
            scale = second.sqrt() if self.spread == "variance" else second
        weights = None if self.third is None else number(self.third).flatten()
        if weights is not None and self.mixing == "logits":
            weights = weights.softmax(0)
        while mean.ndim > 2 and 1 in mean.shape:  # parameters are often (1, components, latent)
            mean = mean.squeeze(mean.shape.index(1))
        while scale.ndim > 2 and 1 in scale.shape:
            scale = scale.squeeze(scale.shape.index(1))
        return LearnedPrior(mean, scale, weights)
