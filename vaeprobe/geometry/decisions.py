"""Is a quantity that cannot be negative zero, for all that matters? Equivalence tests, and what samples cannot see.

A quantity is zero where its whole confidence interval lies under a limit, it is not where the interval lies
above, and else the question is open.  An interval knows only what the samples show: where all of them are 0, so
is every resample.  Something that n samples did not show has a probability of up to 3 / n ("rule of three"), and
`unseen` is what it may add to a mean.

Source: Hanley and Lippman-Hand (1983), "If nothing goes wrong, is everything all right?".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from vaeprobe.intervals import mean_interval

__all__ = ["EVENT", "Decision", "mean_decision", "rule_of_three", "unseen"]

# What a rare event is taken to cost where it happens, in nats: a column twice as long (log(2)^2 / 4 as a mean of
# cross^2 / 2 over pairs of latents), or two columns at 62 degrees (a contrast of the same size).
EVENT = math.log(2) ** 2 / 4


@dataclass(frozen=True, slots=True)
class Decision:
    """Is a quantity that cannot be negative zero, for all that matters?

    Attributes:
        value: estimate.
        ci: confidence interval; None where there are too few samples for one.
        limit: what counts as zero.
        n: independent samples.
    """

    value: float
    ci: tuple[float, float] | None
    limit: float
    n: int

    @property
    def zero(self) -> bool | None:
        """True, False, or None where the interval holds the limit."""
        low, high = self.ci or (0.0, math.inf)
        if high <= self.limit:
            return True
        return False if low > self.limit else None

    @property
    def likely_zero(self) -> bool:
        """The decision, by the estimate where the interval does not decide."""
        return self.value <= self.limit if self.zero is None else self.zero


def rule_of_three(n: int) -> float:
    """Return the largest probability, at 95 % confidence, of something that none of n samples shows."""
    return -math.expm1(math.log(0.05) / n)


def unseen(n: int, event: float = EVENT) -> float:
    """Return what events of one size that n samples did not show may add to a mean."""
    return rule_of_three(n) * event


def mean_decision(values: Tensor, limit: float, *, event: float = 0.0) -> Decision:
    """Decide whether the mean of nonnegative values, shape (n,), is zero.

    Args:
        event: size of an unseen rare value that the interval must allow for.
    """
    ci = mean_interval(values.numpy())
    if ci is not None and event:
        ci = (ci[0], ci[1] + unseen(len(values), event))
    return Decision(float(values.mean()), ci, limit, len(values))
