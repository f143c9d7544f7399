"""Mutants of every format end as documented: 30 of each, 1,000 where slow tests are asked for."""

from __future__ import annotations

import pytest
from hostile import fuzz


@pytest.mark.parametrize("format", fuzz.FORMATS)
@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutants_end_as_documented(format: str, count: int) -> None:
    try:
        found = list(fuzz.mutants(format, count))
    except ImportError as error:
        pytest.skip(str(error))
    wrong = {k: why for k, data in found if (why := fuzz.outcome(data, fuzz.FORMATS[format][2])) is not None}
    assert not wrong
