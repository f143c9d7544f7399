"""Training a linear VAE by exact gradients of its objective, or by EM, and knowing how far the optimum is.

The expectation over q(z|x) and the gradient are taken in closed form, so that the only randomness is the
starting point (and the rows of a minibatch).  Objectives, per row, with tau = beta sigma^2:

- `elbo`: the beta-ELBO with free diagonal posterior variances (Eq. 1);
- `elbo-full`: the same with a free full posterior covariance;
- `det-elbo`: Eq. 10 with the optimal *diagonal* covariance put in, `sum_i log(1 + |w_i|^2 / tau)`;
- `det-elbo-literal`: Eq. 10 as printed, which puts in the optimal *full* covariance, `log det(I + W^T W / tau)`,
  and so gives the rotation symmetry back;
- `em`: expectation maximisation (Tipping and Bishop 1999, Section 3.2).

All five have the same maximum; the two with a diagonal posterior reach it only at R = I up to signs and order.
L-BFGS keeps the encoder's mean at its optimum given the decoder, as Eq. 10 does (variable projection); Adam
trains the encoder too, as one trains a VAE.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from vaeprobe.budget import budget
from vaeprobe.errors import UsageError
from vaeprobe.intervals import stream
from vaeprobe.kept import Trail
from vaeprobe.linear.closed_form import LOG_2PI, Solution
from vaeprobe.progress import Descent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vaeprobe.linear.eigenpairs import Spectrum
    from vaeprobe.linear.moments import Array

TrainingMethod = Literal["elbo", "elbo-full", "det-elbo", "det-elbo-literal", "em"]
METHODS: tuple[TrainingMethod, ...] = ("elbo", "elbo-full", "det-elbo", "det-elbo-literal", "em")
BREAKS_SYMMETRY: frozenset[str] = frozenset({"elbo", "det-elbo"})
Stopped = Literal["optimum", "stalled", "steps", "time"]

LOOK = 10  # L-BFGS or EM steps between two entries of the trace
ADAM_LOOK = 50
HISTORY = 40  # pairs that L-BFGS remembers


@dataclass(frozen=True, eq=False)
class Covariance:
    """The covariance of the rows, as training needs it.

    Attributes:
        product: returns S V, shape (m, k).
        total: trace of S.
        m: columns.
        rows: centred rows, shape (n, m), for minibatches; None where there are none at hand.
    """

    product: Callable[[Array], Array]
    total: float
    m: int
    rows: NDArray[np.floating] | None = None

    @classmethod
    def of_spectrum(cls, spectrum: Spectrum, rows: NDArray[np.floating] | None = None) -> Covariance:
        """Return the covariance of a complete spectrum, dense where that is the cheaper form."""
        if 2 * spectrum.vectors.shape[1] <= spectrum.m:
            return cls(spectrum.product, spectrum.total, spectrum.m, rows)
        S = (spectrum.vectors * spectrum.values) @ spectrum.vectors.T
        return cls(lambda V: S @ V, spectrum.total, spectrum.m, rows)

    def batch(self, index: NDArray[np.int64]) -> Covariance:
        """Return the second moments of some of the rows."""
        assert self.rows is not None
        X = self.rows[index].astype(np.float64)
        return Covariance(lambda V: X.T @ (X @ V) / len(X), float(np.square(X).sum()) / len(X), self.m)


@dataclass(frozen=True, eq=False)
class Run:
    """One run of training.

    Attributes:
        method: objective.
        optimiser: "lbfgs", "adam" or "em".
        seed: of the starting point.
        W: decoder columns, shape (m, d).
        E: encoder, shape (d, m).
        posterior: posterior covariance, shape (d, d).
        sigma2: noise variance.
        objective: value reached, nats per row.
        gap: closed-form optimum minus that, nats per row.
        steps: steps taken.
        trace: (step, gap) along the way.
        stopped: why it ended: at the optimum, without progress, at the limit of steps, or of time.
    """

    method: TrainingMethod
    optimiser: str
    seed: int
    W: Array
    E: Array
    posterior: Array
    sigma2: float
    objective: float
    gap: float
    steps: int
    trace: tuple[tuple[int, float], ...]
    stopped: Stopped


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train.

    Attributes:
        optimiser: "lbfgs" or "adam"; EM has its own steps.
        steps: most iterations.
        tolerance: gap to the closed form at which a run ends, nats per row.
        learning_rate: of Adam, decaying to 0 by a cosine.
        batch_size: rows per step of Adam; None for all of them.
    """

    optimiser: Literal["lbfgs", "adam"] = "lbfgs"
    steps: int = 5000
    tolerance: float = 1e-10
    learning_rate: float = 0.02
    batch_size: int | None = None


@dataclass(frozen=True, eq=False)
class Parameters:
    """The numbers that are trained.

    Attributes:
        W: decoder columns, shape (m, d).
        log_sigma2: logarithm of the noise variance, shape ().
        spread: log posterior variances (d,), or a triangle (d, d) whose diagonal is the log of its own;
            empty where the posterior covariance follows from W.
        E: encoder, shape (d, m); None keeps it at its optimum.
    """

    W: Array
    log_sigma2: Array
    spread: Array
    E: Array | None = None

    @classmethod
    def initial(
        cls, method: TrainingMethod, m: int, d: int, sigma2: float | None, seed: int, *, free_encoder: bool
    ) -> Parameters:
        """Return a random starting point, in units where the mean variance of a column is 1."""
        W = stream(seed, "train-linear").standard_normal((m, d)) / math.sqrt(m)
        shape = {"elbo": (d,), "elbo-full": (d, d)}.get(method, (0,))
        return cls(
            W, np.array(math.log(sigma2 or 1.0)), np.zeros(shape), W.T.copy() if free_encoder else None
        )

    def flat(self) -> Array:
        """Return all numbers in one row."""
        parts = [self.W, self.log_sigma2, self.spread, *([] if self.E is None else [self.E])]
        return np.concatenate([np.ravel(p) for p in parts])

    def like(self, flat: Array) -> Parameters:
        """Return parameters of this shape from one row of numbers."""
        parts, at = [], 0
        for p in (self.W, self.log_sigma2, self.spread, *([] if self.E is None else [self.E])):
            parts.append(flat[at : at + p.size].reshape(p.shape))
            at += p.size
        return Parameters(*parts)


@dataclass(frozen=True, eq=False)
class Point:
    """Value and gradient of an objective, and what follows from the parameters there."""

    value: float
    gradient: Parameters
    E: Array
    posterior: Array


def objective(
    method: TrainingMethod, S: Covariance, p: Parameters, beta: float, *, learned: bool = True
) -> Point:
    """Return an objective per row in nats, its gradient, the encoder and the posterior covariance.

    With Sigma the posterior covariance (free, or the optimal one, whose own derivative vanishes) the gradients
    of W and log sigma^2 have one form for all four objectives.

    Args:
        learned: whether sigma^2 is trained (else its gradient is 0).
    """
    W, s = p.W, math.exp(float(p.log_sigma2))
    d, tau = W.shape[1], beta * s
    WW, eye = W.T @ W, np.eye(W.shape[1])
    SW = S.product(W)
    if p.E is None:
        M = np.linalg.inv(WW + tau * eye)
        E, SE = M @ W.T, SW @ M
    else:
        E, SE = p.E, S.product(p.E.T)
    ESE = E @ SE
    spread = p.spread
    slope = np.zeros_like(spread)
    if method == "elbo":
        variance = np.exp(spread)
        Sigma = np.diag(variance)
        information = variance.sum() - spread.sum() - d
        slope = -0.5 * ((np.diag(WW) / s + beta) * variance - beta)
    elif method == "elbo-full":
        L = np.tril(spread, -1) + np.diag(np.exp(np.diag(spread)))
        Sigma = L @ L.T
        information = np.trace(Sigma) - 2 * np.trace(spread) - d
        slope = np.tril(-(WW / s + beta * eye) @ L)
        slope[np.diag_indices(d)] = np.diag(slope) * np.diag(L) + beta
    elif method == "det-elbo":
        Sigma = np.diag(tau / (np.diag(WW) + tau))
        information = -np.log(np.diag(Sigma)).sum() - (np.diag(WW) * np.diag(Sigma)).sum() / tau
    else:
        Sigma = tau * np.linalg.inv(WW + tau * eye)
        information = -np.linalg.slogdet(Sigma)[1] - (WW * Sigma).sum() / tau
    residual = S.total - 2 * (W * SE).sum() + (WW * (ESE + Sigma)).sum()
    kl = 0.5 * (np.trace(ESE) + information)
    value = -0.5 * (S.m * (LOG_2PI + float(p.log_sigma2)) + residual / s) - beta * kl
    gradient = Parameters(
        W=(SE - W @ (ESE + Sigma)) / s,
        log_sigma2=np.array(0.5 * (residual / s - S.m) if learned else 0.0),
        spread=slope,
        E=None if p.E is None else (SW - SE @ (WW + tau * eye)).T / s,
    )
    return Point(float(value), gradient, E, Sigma)


def train(
    method: TrainingMethod,
    S: Covariance,
    solution: Solution,
    settings: Training | None = None,
    *,
    seed: int = 0,
) -> Run:
    """Train from a random starting point towards a closed-form solution.

    Args:
        method: objective, or "em".
        S: the covariance of the rows.
        solution: the optimum, which says d, beta, sigma2 (and whether that is learned) and when to stop.

    Raises:
        UsageError: EM with a learned sigma2 and beta other than 1; a minibatch without rows or with L-BFGS.
    """
    settings = settings or Training()
    if settings.batch_size is not None:
        if method == "em":
            raise UsageError(
                "EM takes all rows at every step, and no minibatches",
                hint="name methods that are trained (--method elbo), or leave --batch-size out",
            )
        if settings.optimiser != "adam":
            raise UsageError(
                "minibatches are for Adam", hint="add --optimiser adam, or leave --batch-size out"
            )
        if S.rows is None:
            raise UsageError("minibatches need the rows in memory", hint="leave --batch-size out")
    if method == "em":
        return _em(S, solution, settings, seed)
    # units in which the mean variance of a column is 1
    scale = S.total / S.m
    rows = None if S.rows is None else S.rows / np.sqrt(scale, dtype=S.rows.dtype)
    unit = Covariance(lambda V: S.product(V) / scale, S.total / scale, S.m, rows)
    best_value = solution.elbo + 0.5 * S.m * math.log(scale)
    fixed = None if solution.learned else solution.sigma2 / scale
    adam = settings.optimiser == "adam"
    start = Parameters.initial(method, S.m, solution.d, fixed, seed, free_encoder=adam)

    def at(flat: Array, seen: Covariance = unit) -> tuple[float, Array, Point]:
        point = objective(method, seen, start.like(flat), solution.beta, learned=solution.learned)
        return best_value - point.value, -point.gradient.flat(), point

    trail = _trail(method, S, solution, settings, seed)
    begun = trail.last(settings.steps)
    trace: list[tuple[int, float]] = []
    stopped: Stopped = "stalled"
    step, gap, flat, state = 0, math.inf, start.flat(), None
    if begun:
        step, (numbers, told, flat, *state) = begun
        gap, trace = float(numbers), _trace(told)
    path = _adam(at, unit, flat, settings, seed, step, state) if adam else _lbfgs(at, flat, step, state)
    look = ADAM_LOOK if adam else LOOK

    descent = Descent(f"training {method}", settings.steps, step)

    def finished() -> bool:
        return gap <= settings.tolerance or step >= settings.steps

    while not (done := finished()):
        found = next(path, None)
        if found is None:
            break
        step, gap, flat, stand = found
        descent.step(step, gap, settings.tolerance, f"gap {max(gap, 0):.1e} nats")
        done = finished()
        over = not budget().affords_step(descent.pace)
        if done or over or step % look == 0:
            trace.append((step, gap))
        trail.mark(step, gap, np.reshape(trace, (-1, 2)), flat, *stand, end=done or over)
        if over and not done:
            stopped = "time"
            break
    if done:
        stopped = "optimum" if gap <= settings.tolerance else "steps"
    descent.end()
    gap, _, point = at(flat)
    p, root = start.like(flat), math.sqrt(scale)
    return Run(
        method=method,
        optimiser=settings.optimiser,
        seed=seed,
        W=p.W * root,
        E=point.E / root,
        posterior=point.posterior,
        sigma2=math.exp(float(p.log_sigma2)) * scale,
        objective=solution.elbo - gap,
        gap=gap,
        steps=step,
        trace=tuple(trace),
        stopped=stopped,
    )


def _trail(method: TrainingMethod, S: Covariance, solution: Solution, settings: Training, seed: int) -> Trail:
    """Return the trail of a run, whose steps all processes take together."""
    return Trail(lambda: ("training", method, S.total, S.rows, solution, settings, seed), together=True)


def _trace(told: Array) -> list[tuple[int, float]]:
    """Return a trace as it was kept."""
    return [(int(step), gap) for step, gap in told.tolist()]


Evaluate: TypeAlias = "Callable[..., tuple[float, Array, Point]]"
State: TypeAlias = "list[Array] | None"  # what a method remembers besides x; None where it begins
Path: TypeAlias = "Iterator[tuple[int, float, Array, tuple[object, ...]]]"


def _lbfgs(at: Evaluate, x: Array, step: int, state: State) -> Path:
    """Yield (step, value, x, state) of L-BFGS with a weak Wolfe line search (Lewis and Overton 2013), until it stalls."""
    pairs: deque[tuple[Array, Array, float]] = deque(maxlen=HISTORY)
    if state is None:
        value, g, _ = at(x)
    else:
        (value, *rho), g, *both = state
        value, half = float(value), len(both) // 2
        pairs.extend(zip(both[:half], both[half:], map(float, rho), strict=True))
    while True:
        p = -_inverse_hessian_product(pairs, g)
        slope = float(g @ p)
        if slope >= 0:
            return
        t, low, high = (1.0 if pairs else min(1.0, 1.0 / float(np.abs(g).sum()))), 0.0, math.inf
        for _ in range(30):
            new, g_new, _ = at(x + t * p)
            # near the optimum the value is all rounding, and the slope decides
            flat = abs(new - value) <= 1e-14 * (1 + abs(value)) and abs(float(g_new @ p)) <= abs(slope)
            if not (new <= value + 1e-4 * t * slope or flat):
                high = t
            elif float(g_new @ p) < 0.9 * slope:
                low = t
            else:
                break
            t = (low + high) / 2 if high < math.inf else 2 * low
        else:
            return
        s, y = t * p, g_new - g
        if float(s @ y) > 0:
            pairs.append((s, y, 1 / float(s @ y)))
        x, value, g = x + s, new, g_new
        step += 1
        numbers = np.array([value, *(rho for _, _, rho in pairs)])
        yield step, value, x, (numbers, g, *(s for s, _, _ in pairs), *(y for _, y, _ in pairs))


def _inverse_hessian_product(pairs: deque[tuple[Array, Array, float]], g: Array) -> Array:
    """Return H g by the two-loop recursion (Nocedal and Wright, Algorithm 7.4)."""
    q, weights = g.copy(), []
    for s, y, rho in reversed(pairs):
        a = rho * float(s @ q)
        q -= a * y
        weights.append(a)
    if pairs:
        s, y, rho = pairs[-1]
        q /= rho * float(y @ y)
    for (s, y, rho), a in zip(pairs, reversed(weights), strict=True):
        q += (a - rho * float(y @ q)) * s
    return q


def _adam(
    at: Evaluate, S: Covariance, x: Array, settings: Training, seed: int, done: int, state: State
) -> Path:
    """Yield (step, value, x, state) of Adam (Kingma and Ba 2015) with a cosine decay; the value is that of all rows."""
    rng = stream(seed, "minibatches")
    first, second = (np.zeros_like(x), np.zeros_like(x)) if state is None else state[1:]
    value = math.inf if state is None else float(state[0])
    for step in range(1, settings.steps + 1):
        seen = S
        if settings.batch_size is not None and S.rows is not None:
            size = min(settings.batch_size, len(S.rows))
            some = rng.choice(len(S.rows), size, replace=False)
            seen = S.batch(some) if step > done else S
        if step <= done:  # only the draws are made again
            continue
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        try:
            with np.errstate(all="ignore"):
                loss, g, _ = at(x, seen)
                first += 0.1 * (g - first)
                second += 0.001 * (g * g - second)
                x = x - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
                if seen is S:
                    value = loss  # of the point before this step: one step late, and free
                if step % ADAM_LOOK == 0 or step == settings.steps:
                    loss = value = at(x)[0]
            there = math.isfinite(loss) and bool(np.isfinite(x).all())
        except (OverflowError, ZeroDivisionError, np.linalg.LinAlgError):
            there = False
        if not there:
            raise UsageError(
                f"Adam leaves all numbers behind at step {step:,}: a learning rate of {settings.learning_rate:g} is too large",
                hint="choose a smaller --learning-rate, or leave it out",
            )
        yield step, value, x, (value, first, second)


def _em(S: Covariance, solution: Solution, settings: Training, seed: int) -> Run:
    """PPCA by EM on the covariance; a fixed sigma^2 with beta is EM at beta sigma^2 (Theorem 3)."""
    if solution.learned and solution.beta != 1:
        raise UsageError(
            "EM maximises the likelihood and knows no beta when sigma2 is learned",
            hint="fix it with --sigma2",
        )
    m, d, beta = S.m, solution.d, solution.beta
    tau = S.total / m if solution.learned else solution.tau
    W = stream(seed, "train-linear").standard_normal((m, d)) * math.sqrt(S.total) / m
    eye = np.eye(d)
    trail = _trail("em", S, solution, settings, seed)
    begun = trail.last(settings.steps)
    trace: list[tuple[int, float]] = []
    stopped: Stopped = "steps"
    first, best, stale = 0, math.inf, 0
    if begun:
        first, (numbers, told, W) = begun
        (tau, best, stale), trace = numbers.tolist(), _trace(told)
    descent = Descent("EM", settings.steps, first)
    for step in range(first, settings.steps + 1):
        over = not budget().affords_step(descent.pace)
        # as it stands before the step
        trail.mark(step, (tau, best, stale), np.reshape(trace, (-1, 2)), W, end=over)
        # along the axes of W, where what is large does not round away what is small
        U, lengths, R = np.linalg.svd(W, full_matrices=False)
        along = U * lengths
        S_along, rates = S.product(along), 1 / (lengths**2 + tau)
        value = _marginal(S, along, S_along, rates, tau / beta, beta)
        gap = solution.elbo - value
        descent.step(step, gap, settings.tolerance, f"gap {max(gap, 0):.1e} nats")
        if step % LOOK == 0 or step == settings.steps or abs(gap) <= settings.tolerance or over:
            trace.append((step, gap))
            stale = 0 if gap < best * (1 - 1e-3) else stale + 1
            best = min(best, gap)
            if abs(gap) <= settings.tolerance:
                stopped = "optimum"
                break
            if stale >= 5 and gap < 1e-9:
                stopped = "stalled"
                break
            if over and step < settings.steps:
                stopped = "time"
                break
        if step == settings.steps:
            break
        new = S_along @ np.linalg.inv(tau * eye + rates[:, None] * (along.T @ S_along))
        if solution.learned:
            tau = float((S.total - (S_along * rates * new).sum()) / m)
        W = new @ R
    descent.end()
    M = (R.T * rates) @ R
    return Run(
        method="em",
        optimiser="em",
        seed=seed,
        W=W,
        E=(M @ W.T),
        posterior=(tau * M),
        sigma2=tau / beta,
        objective=value,
        gap=gap,
        steps=step,
        trace=tuple(trace),
        stopped=stopped,
    )


def _marginal(S: Covariance, W: Array, SW: Array, rates: Array, sigma2: float, beta: float) -> float:
    """Return the beta-ELBO per row with the exact posterior N(M W^T x, tau M), of W with orthogonal columns and M = diag(rates)."""
    tau, d = beta * sigma2, W.shape[1]
    fitted = float(((W * SW).sum(axis=0) * rates).sum())
    log_det = float(np.log(rates).sum()) + d * math.log(tau)
    square = (S.total - fitted) / sigma2
    return float(-0.5 * (S.m * (LOG_2PI + math.log(sigma2)) + square - beta * log_det))
