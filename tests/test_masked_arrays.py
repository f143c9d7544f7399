"""What a mask of numpy hides is missing, and the number below it is never taken for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe.data import NonfiniteRowsError, in_memory
from vaeprobe.data.masks import hidden, with_gaps
from vaeprobe.errors import InputError
from vaeprobe.latents import numbers
from vaeprobe.linear import missing

from linear_rows import rows_with

ROWS = rows_with((9.0, 4.0, 1.0, 0.3, 0.2))
HOLES = np.random.default_rng(1).random(ROWS.shape) < 0.05
MASKED = np.ma.masked_array(np.where(HOLES, 1e6, ROWS), HOLES)
GAPS = np.where(HOLES, np.nan, ROWS)
BARE = np.ma.masked_array(ROWS)
UNMASKED = np.ma.masked_array(ROWS, np.zeros_like(HOLES))


def test_a_mask_makes_gaps() -> None:
    assert hidden(MASKED) == HOLES.sum()
    np.testing.assert_array_equal(with_gaps(MASKED), GAPS)
    np.testing.assert_array_equal(with_gaps(list(MASKED)), GAPS)  # `numpy.asarray` of a list drops masks
    assert hidden(list(MASKED)) == HOLES.sum()
    whole = np.ma.masked_array([[1, 2], [3, 4]], [[True, False], [False, False]])
    np.testing.assert_array_equal(with_gaps(whole), [[np.nan, 2.0], [3.0, 4.0]])
    assert with_gaps(MASKED.astype(np.float32)).dtype == np.float32
    for plain in (BARE, UNMASKED, ROWS, ROWS.tolist()):
        assert hidden(plain) == 0
        np.testing.assert_array_equal(with_gaps(plain), ROWS)
        assert type(with_gaps(plain)) is np.ndarray


def test_missing_values_may_be_masked() -> None:
    expected = missing.fit(GAPS, 2)
    assert missing.fit(MASKED, 2).loglik == expected.loglik
    assert missing.fit(in_memory(MASKED, nonfinite="keep"), 2).loglik == expected.loglik
    told = vaeprobe.train_linear(MASKED, latent_dim=2, missing="em")
    assert told.loglik.value == vaeprobe.train_linear(GAPS, latent_dim=2, missing="em").loglik.value
    dropped = vaeprobe.train_linear(MASKED, latent_dim=2, drop_nonfinite=True)
    assert dropped.loglik.value == vaeprobe.train_linear(ROWS[~HOLES.any(1)], latent_dim=2).loglik.value


def test_they_are_refused_where_missing_values_are() -> None:
    with pytest.raises(NonfiniteRowsError, match="NaN"):
        vaeprobe.train_linear(MASKED, latent_dim=2)
    with pytest.raises(InputError, match="NaN"):
        in_memory(MASKED).read()


@pytest.mark.parametrize("make", [vaeprobe.PPCA, vaeprobe.LinearVAE])
def test_estimators_refuse_them(make: Callable[[int], vaeprobe.LinearVAE]) -> None:
    with pytest.raises(ValueError, match=f"{HOLES.sum()} masked values.*missing.fit"):
        make(2).fit(MASKED)
    with pytest.raises(ValueError, match="masked values"):
        make(2).fit(list(MASKED))  # type: ignore[arg-type]
    fitted = make(2).fit(UNMASKED)
    assert fitted.score(ROWS) == make(2).fit(ROWS).score(BARE)
    for method in (fitted.transform, fitted.score_samples, fitted.score):
        with pytest.raises(ValueError, match=r"which are missing: leave these rows out$"):
            method(MASKED)
    with pytest.raises(ValueError, match="masked values"):
        fitted.inverse_transform(MASKED[:, :2])


def test_data_and_latents_of_a_decoder_hide_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{HOLES.sum()} of {ROWS.size} values of the data are masked"):
        numbers(MASKED, "data")
    assert torch.equal(numbers(UNMASKED, "data"), torch.from_numpy(ROWS))
    path = tmp_path / "m.safetensors"
    vaeprobe.train_linear(ROWS, latent_dim=2).save(path)
    for probe in (vaeprobe.beta, vaeprobe.posterior):
        with pytest.raises(InputError, match="of the data are masked"):
            probe(path, data=MASKED)
    with pytest.raises(InputError, match="of the latents are masked"):
        vaeprobe.orthogonality(path, latents=MASKED[:, :2])
