"""`PPCA` and `LinearVAE` with scikit-learn's habits, and without depending on it.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> X = rng.normal(size=(200, 3)) * [3.0, 2.0, 0.1]
>>> model = PPCA(n_components=2).fit(X)
>>> model.transform(X).shape
(200, 2)
>>> LinearVAE(n_components=2, beta=4.0, sigma2=1.0).fit(X).collapsed_.tolist()
[False, True]
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from vaeprobe.data import in_memory
from vaeprobe.data.masks import hidden
from vaeprobe.linear import closed_form, dimension, spectrum
from vaeprobe.linear.closed_form import LinearModel, Solution

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from vaeprobe.linear.eigenpairs import Spectrum
    from vaeprobe.linear.moments import Array

__all__ = ["PPCA", "LinearVAE", "NotFittedError"]

MISSING = ", or fit them as missing values: `vaeprobe.linear.missing.fit(X, n_components)`"


class NotFittedError(ValueError, AttributeError):
    """A method that needs `fit` was called before it."""


class _Estimator:
    """What scikit-learn asks of an estimator, by duck typing."""

    @classmethod
    def _names(cls) -> list[str]:
        return sorted(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, object]:
        """Return the settings by name."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: object) -> Self:
        """Change settings.

        Raises:
            ValueError: there is no such setting.
        """
        names = self._names()
        for name, value in params.items():
            if name not in names:
                raise ValueError(f"invalid parameter {name!r} for {type(self).__name__}: one of {names}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {k: p.default for k, p in inspect.signature(type(self)).parameters.items()}
        changed = [f"{k}={v!r}" for k, v in self.get_params().items() if repr(v) != repr(defaults[k])]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")

    def __sklearn_tags__(self) -> object:
        utils = import_module("sklearn.utils")
        return utils.Tags(
            estimator_type=None,
            target_tags=utils.TargetTags(required=False),
            transformer_tags=utils.TransformerTags(preserves_dtype=["float64", "float32"]),
            input_tags=utils.InputTags(),
        )

    # -- input -----------------------------------------------------------------------------------

    def _checked(self, X: object, *, fitting: bool = False) -> Array:
        """Return X as float64 rows, or raise ValueError or TypeError that says what is wrong."""
        name = type(self).__name__
        if not fitting and not self.__sklearn_is_fitted__():
            raise _not_fitted(f"this {name} instance is not fitted yet: call `fit` first")
        names = _feature_names(X)
        if fitting:
            if names is not None:
                self.feature_names_in_ = names
            elif hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        else:
            self._compare_names(names)
        if hasattr(X, "toarray"):
            raise TypeError("sparse data was passed, but dense data is required: use X.toarray()")
        instead = f"leave these rows out{MISSING if fitting else ''}"
        if masked := hidden(X):
            raise ValueError(f"Input X contains {masked} masked values, which are missing: {instead}")
        A = _numbers(X, "X")
        if A.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got {A.ndim}D array instead. Reshape your data: X.reshape(-1, 1) for a single "
                "column, X.reshape(1, -1) for a single row"
            )
        if A.shape[0] == 0:
            raise ValueError(
                f"Found array with 0 sample(s) (shape={A.shape}) while a minimum of 1 is required"
            )
        if A.shape[1] == 0:
            raise ValueError(
                f"Found array with 0 feature(s) (shape={A.shape}) while a minimum of 1 is required."
            )
        A = A.astype(np.float64, copy=False)
        if not np.isfinite(A).all():
            if np.isinf(A).any():
                raise ValueError("Input X contains infinity: leave these rows out")
            raise ValueError(f"Input X contains NaN: {instead}")
        if fitting:
            self.n_features_in_ = A.shape[1]
        elif A.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {A.shape[1]} features, but {name} is expecting {self.n_features_in_} features as input"
            )
        return A

    def _compare_names(self, names: NDArray[np.generic] | None) -> None:
        import warnings

        own = getattr(self, "feature_names_in_", None)
        name = type(self).__name__
        if own is None and names is not None:
            warnings.warn(f"X has feature names, but {name} was fitted without feature names", stacklevel=3)
        elif own is not None and names is None:
            warnings.warn(
                f"X does not have valid feature names, but {name} was fitted with feature names", stacklevel=3
            )
        elif own is not None and names is not None and list(own) != list(names):
            unseen = sorted(set(names) - set(own))
            missing = sorted(set(own) - set(names))
            text = "The feature names should match those that were passed during fit.\n"
            if unseen:
                text += "Feature names unseen at fit time:\n" + "".join(f"- {n}\n" for n in unseen[:5])
            if missing:
                text += "Feature names seen at fit time, yet now missing:\n" + "".join(
                    f"- {n}\n" for n in missing[:5]
                )
            if not unseen and not missing:
                text += "Feature names must be in the same order as they were in fit.\n"
            raise ValueError(text)


class LinearVAE(_Estimator):
    """A linear VAE with a diagonal posterior at its optimum, in closed form.

    `p(x|z) = N(W z + mean, sigma2 I)`, `q(z|x) = N(E (x - mean), diag(Sigma))`; columns are orthogonal, in
    descending order of their eigenvalues, and zero where collapsed (lambda <= beta sigma2).

    Args:
        n_components: number of latents; None takes as many as leave noise to estimate (all columns but one, at
            most), "auto" (or "mle") chooses by Minka's evidence or held-out likelihood, and a fraction takes as many
            as carry that share of the variance.
        beta: weight of the KL term.
        sigma2: noise variance, or "ml" to learn it.
        solver: "auto", "exact", "dual" or "randomized".
        random_state: seed of the randomized solver, of folds and of `sample`; an integer or None for 0.

    Attributes:
        components_: the decoder's columns as rows, W^T, shape (n_components_, n_features_in_).
        mean_: shape (n_features_in_,).
        noise_variance_: sigma2.
        eigenvalues_: of the covariance divided by n, shape (n_components_,).
        explained_variance_: the same divided by n - 1, as scikit-learn's PCA has it.
        explained_variance_ratio_: share of the total variance, shape (n_components_,).
        posterior_variance_: Sigma_ii, shape (n_components_,).
        kl_: KL of each posterior to the prior, nats, shape (n_components_,).
        collapsed_: which latents are not used, shape (n_components_,).
        encoder_: E, shape (n_components_, n_features_in_).
        loglik_, elbo_: per row, nats.
        n_components_, n_samples_, n_features_in_: sizes.

    Source: Tipping and Bishop (1999); Lucas et al. (2019); Allen (2024), arXiv:2410.22559v1, Sections 2 and 3.
    """

    def __init__(
        self,
        n_components: int | float | Literal["auto", "mle"] | None = None,
        *,
        beta: float = 1.0,
        sigma2: float | Literal["ml"] = "ml",
        solver: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.beta = beta
        self.sigma2 = sigma2
        self.solver = solver
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find the optimum for rows X, shape (n, m).

        Raises:
            ValueError: X is no matrix of finite numbers, or has too few rows or columns; a setting is out of range.
            TypeError: X or a setting holds what is no number.
        """
        rows = self._checked(X, fitting=True)
        n, m = rows.shape
        if n < 2:
            raise ValueError(
                f"Found array with 1 sample(s) (shape={rows.shape}): a covariance needs at least 2 samples"
            )
        learned = isinstance(self.sigma2, str) and self.sigma2 == "ml"
        if m == 1 and learned:
            raise ValueError(
                "Found array with 1 feature(s) while a minimum of 2 is required: nothing is left over for sigma2"
            )
        wanted = _components(self.n_components, m)
        fixed = None if learned else _real(self.sigma2, "sigma2", "or 'ml'")
        beta = self._beta
        data = in_memory(rows)
        pairs = wanted if isinstance(wanted, int) else min(n, m)
        found = spectrum.compute(data, pairs, solver=self.solver, seed=self._seed)
        if isinstance(wanted, int):
            d = wanted
        elif isinstance(wanted, float):
            d = _carrying(found, wanted)
        elif wanted == "auto":
            d = dimension.choose(found, data, seed=self._seed).dimension
        else:
            d = _most(found, m) if fixed is None else min(n, m)
        self._set(closed_form.solve(found, d, beta=beta, sigma2=fixed), found.total, n)
        return self

    @property
    def _beta(self) -> float:
        return _real(self.beta, "beta")

    @property
    def _seed(self) -> int:
        """The seed as an integer; a RandomState draws one."""
        if self.random_state is None:
            return 0
        if isinstance(self.random_state, (int, np.integer)):
            if self.random_state < 0:
                raise ValueError(f"random_state={self.random_state!r} must be at least 0")
            return int(self.random_state)
        if not hasattr(self.random_state, "randint"):
            raise TypeError(
                f"random_state is {self.random_state!r}: a whole number, a numpy RandomState or None"
            )
        return int(self.random_state.randint(2**31))

    def _set(self, s: Solution, total: float, n: int) -> None:
        model = s.model()
        self.components_ = model.W.T.copy()
        self.mean_ = model.mean
        self.noise_variance_ = s.sigma2
        self.eigenvalues_ = s.values
        self.explained_variance_ = s.values * (n / (n - 1))
        self.explained_variance_ratio_ = s.values / total
        self.posterior_variance_ = model.variance
        self.kl_ = s.kl
        self.collapsed_ = ~s.active
        self.encoder_ = model.E
        self.loglik_ = s.loglik
        self.elbo_ = s.elbo
        self.n_components_ = s.d
        self.n_samples_ = n

    def fit_transform(self, X: ArrayLike, y: object = None) -> Array:
        """Fit, then return the posterior means."""
        return self.fit(X).transform(X)

    def transform(self, X: ArrayLike) -> Array:
        """Return the posterior means E (x - mean), shape (n, n_components_)."""
        kind = _float_kind(X)
        rows = self._checked(X)
        return np.asarray((rows - self.mean_) @ self.encoder_.T, kind)

    def inverse_transform(self, Z: ArrayLike) -> Array:
        """Return the decoder's means W z + mean, shape (n, n_features_in_)."""
        if not self.__sklearn_is_fitted__():
            raise _not_fitted(f"this {type(self).__name__} instance is not fitted yet: call `fit` first")
        if masked := hidden(Z):
            raise ValueError(f"Input Z contains {masked} masked values: leave these rows out")
        A, d = _numbers(Z, "Z"), self.n_components_
        if A.ndim not in (1, 2) or A.shape[-1] != d:
            raise ValueError(
                f"Z has shape {A.shape}, but {type(self).__name__} has {d} components: pass an array of shape (n, {d})"
            )
        return np.asarray(A.astype(np.float64, copy=False) @ self.components_ + self.mean_)

    def score_samples(self, X: ArrayLike) -> Array:
        """Return the log-likelihood of each row, nats, shape (n,)."""
        rows = self._checked(X)
        return closed_form.log_likelihoods(rows, self.mean_, self.components_.T, self.noise_variance_)

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Return the mean log-likelihood of the rows, nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, *, random_state: int | None = None) -> Array:
        """Return draws from the model, noise included, shape (n_samples, n_features_in_)."""
        from vaeprobe.intervals import stream

        if not self.__sklearn_is_fitted__():
            raise _not_fitted(f"this {type(self).__name__} instance is not fitted yet: call `fit` first")
        rng = stream(self._seed if random_state is None else random_state, "sample")
        z = rng.standard_normal((n_samples, self.n_components_))
        noise = rng.standard_normal((n_samples, self.n_features_in_))
        return np.asarray(z @ self.components_ + self.mean_ + np.sqrt(self.noise_variance_) * noise)

    def get_covariance(self) -> Array:
        """Return the model's covariance W W^T + sigma2 I, shape (m, m)."""
        return np.asarray(
            self.components_.T @ self.components_ + self.noise_variance_ * np.eye(self.n_features_in_)
        )

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return names of the latents, for scikit-learn's pipelines."""
        if not self.__sklearn_is_fitted__():
            raise _not_fitted(f"this {type(self).__name__} instance is not fitted yet: call `fit` first")
        stem = type(self).__name__.lower()
        return np.array([f"{stem}{k}" for k in range(self.n_components_)], dtype=object)

    def to_model(self) -> LinearModel:
        """Return decoder and encoder, for `vaeprobe.linear.export.save`."""
        return LinearModel(
            self.mean_, self.components_.T, self.noise_variance_, self.encoder_, self.posterior_variance_
        )


class PPCA(LinearVAE):
    """Probabilistic PCA at its maximum likelihood: a `LinearVAE` with beta = 1, R = I.

    `score` equals that of scikit-learn's PCA up to its division by n - 1; see `LinearVAE` for arguments and
    attributes.

    Source: Tipping and Bishop (1999).
    """

    def __init__(
        self,
        n_components: int | float | Literal["auto", "mle"] | None = None,
        *,
        sigma2: float | Literal["ml"] = "ml",
        solver: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.sigma2 = sigma2
        self.solver = solver
        self.random_state = random_state

    @property
    def _beta(self) -> float:
        return 1.0


def _numbers(given: object, name: str) -> NDArray[Any]:
    """Return an array of real numbers.

    Raises:
        ValueError: it holds complex numbers, text or dates.
        TypeError: it holds what is no number at all.
    """
    A = np.asarray(given)
    if A.dtype.kind == "c":
        raise ValueError("Complex data not supported: only real numbers are")
    if A.dtype.kind in "fiub":
        return A
    try:
        found = A.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} holds what is no number: {error}") from None
    if A.dtype.kind != "O" or any(isinstance(value, (str, bytes)) for value in A.flat):
        what = "text" if A.dtype.kind in "OUSTV" else f"values of {A.dtype}"
        raise ValueError(f"{name} holds {what}, not numbers: convert it first, as by {name}.astype(float)")
    return np.asarray(found)


def _real(given: object, name: str, more: str = "") -> float:
    """Return a setting that is a number.

    Raises:
        TypeError: it is none.
    """
    try:
        if not isinstance(given, (str, bytes, bool, np.bool_)):
            return float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name} is {given!r}: a number above 0 {more}".rstrip())


def _components(given: object, m: int) -> int | float | Literal["auto"] | None:
    """Return a checked `n_components`: a number of latents, a share of the variance, "auto" or None.

    Raises:
        ValueError: it is none of these.
        TypeError: it is true, false, or no number at all.
    """
    if given is None:
        return None
    if isinstance(given, str):
        if given in ("auto", "mle"):
            return "auto"
        raise ValueError(
            f"n_components is {given!r}: a whole number, a share between 0 and 1, 'auto' or None"
        )
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, float, np.integer, np.floating)):
        raise TypeError(f"n_components is {given!r}: a whole number, a share between 0 and 1, 'auto' or None")
    if isinstance(given, (float, np.floating)):
        if 0 < given < 1:
            return float(given)
        raise ValueError(
            f"n_components={given!r} is neither a whole number nor a share of the variance between 0 and 1"
        )
    if not 1 <= given <= m:
        raise ValueError(f"n_components={given!r} must be between 1 and n_features={m}")
    return int(given)


def _carrying(found: Spectrum, share: float) -> int:
    """Return the smallest number of latents that carries a share of the variance.

    Raises:
        ValueError: the eigenvalues that are known do not reach it.
    """
    reached = np.cumsum(found.values) >= share * found.total
    if not reached.any():
        raise ValueError(
            f"the {len(found.values)} eigenvalues that are known carry less than {share:g} of the variance: "
            "use solver='exact'"
        )
    return int(reached.argmax()) + 1


def _most(found: Spectrum, m: int) -> int:
    """Return the largest number of latents that leaves noise to estimate."""
    d = min(m - 1, len(found.values) - (0 if len(found.values) < m else 1))
    while d > 1 and found.rest(d) <= found.resolution * (m - d):
        d -= 1
    return max(d, 1)


def _feature_names(X: object) -> NDArray[np.generic] | None:
    columns = getattr(X, "columns", None)
    if columns is None:
        return None
    names = np.asarray(columns, dtype=object)
    return names if len(names) and all(isinstance(n, str) for n in names) else None


def _float_kind(X: object) -> type[np.float32] | type[np.float64]:
    return np.float32 if getattr(X, "dtype", None) == np.float32 else np.float64


def _not_fitted(message: str) -> Exception:
    """Return scikit-learn's own error where it is in use, so that its tools recognise it."""
    if "sklearn.exceptions" in sys.modules:
        theirs: type[Exception] = import_module("sklearn.exceptions").NotFittedError
        return theirs(message)
    return NotFittedError(message)
