"""`train-linear` as a function: PPCA and linear VAEs of data, held against limits like every other result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from vaeprobe.linear.metrics import SPECS
from vaeprobe.probes.base import judge

if TYPE_CHECKING:
    from vaeprobe.linear.processes import Processes
    from vaeprobe.linear.result import LinearResult


def train_linear(
    data: Any,
    *,
    latent_dim: int | Literal["auto"] = "auto",
    beta: float = 1.0,
    sigma2: float | Literal["ml"] = "ml",
    methods: Sequence[str] = (),
    optimiser: Literal["lbfgs", "adam"] = "lbfgs",
    steps: int = 5000,
    tolerance: float = 1e-10,
    learning_rate: float = 0.02,
    batch_size: int | None = None,
    restarts: int = 1,
    seed: int = 0,
    solver: Literal["auto", "exact", "dual", "randomized"] = "auto",
    missing: Literal["refuse", "em"] = "refuse",
    drop_nonfinite: bool = False,
    bootstrap: int | None = None,
    theorem3: bool = False,
    key: str | None = None,
    scale: str | float = "auto",
    limits: Mapping[str, float] | None = None,
    processes: Processes | None = None,
) -> LinearResult:
    """Return PPCA or a linear beta-VAE of data in closed form, what the data identify, and how training compares.

    Args:
        data: rows as an array or tensor, a path, a glob, or several of them.
        latent_dim: number of latents, or "auto".
        beta: weight of the KL term.
        sigma2: noise variance, or "ml" to learn it.
        methods: what to train besides the closed form: elbo, elbo-full, det-elbo, det-elbo-literal, em, or all.
        optimiser, steps, tolerance, learning_rate, batch_size: how to train.
        restarts: starting points per method; the best counts.
        seed: of every draw.
        solver: how to find eigenpairs.
        missing: "refuse" NaN, or fit by "em".
        drop_nonfinite: leave rows with NaN or infinity out.
        bootstrap: resamples for the columns' directions; None decides by cost.
        theorem3: show Theorem 3 on these data.
        key, scale: which array of a file, and what to multiply it by.
        limits: limit per metric id; the result then carries checks.
        processes: the processes that share the rows, where there are several.

    Raises:
        UsageError: settings that do not go together.
        InputError: the data are damaged, not finite, or too few.

    Source: Tipping and Bishop (1999); Lucas et al. (2019); Allen (2024), arXiv:2410.22559v1, Sections 2 and 3.

    Example:
        >>> import numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(200, 3)) * [3.0, 2.0, 0.1]
        >>> train_linear(rows, latent_dim=2).latent_dim.value
        2
    """
    import numpy as np

    from vaeprobe.data import in_memory
    from vaeprobe.linear.processes import ALONE
    from vaeprobe.linear.run import TrainLinear
    from vaeprobe.linear.training import Training

    if hasattr(data, "__array__"):
        array = np.asarray(data)
        handling: Literal["keep", "drop", "refuse"] = "refuse"
        if missing == "em" or drop_nonfinite:
            handling = "keep" if missing == "em" else "drop"
        exact = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
        data = in_memory(exact, nonfinite=handling)
    found = TrainLinear(
        latent_dim=latent_dim,
        beta=beta,
        sigma2=sigma2,
        methods=tuple(methods),
        training=Training(
            optimiser=optimiser,
            steps=steps,
            tolerance=tolerance,
            learning_rate=learning_rate,
            batch_size=batch_size,
        ),
        restarts=restarts,
        seed=seed,
        solver=solver,
        missing=missing,
        drop_nonfinite=drop_nonfinite,
        bootstrap=bootstrap,
        theorem3=theorem3,
        key=key,
        scale=scale,
    ).fit(data, processes=processes or ALONE)
    return judge(found, limits or {}, SPECS)
