"""Configs beside weights that say another kind of value than they should: each is refused in words of ours."""

from __future__ import annotations

import pytest

from vaeprobe.checkpoints.families import tiny
from vaeprobe.checkpoints.families.family import Clues
from vaeprobe.errors import ArchitectureError

SHAPES = {"decoder.layers.0.weight": (8, 4, 3, 3), "decoder.layers.2.conv.0.weight": (8, 8, 3, 3)}


@pytest.mark.parametrize("factor", ["two", 2.5, None, [2], 0, 1 << 40])
def test_a_factor_that_is_none_is_refused(factor: object) -> None:
    config = {"upsampling_scaling_factor": factor}
    with pytest.raises(
        ArchitectureError, match=r"upsampling_scaling_factor = .*, which is no factor"
    ) as error:
        tiny.FAMILY.recognise(Clues(SHAPES, {"config.json": config}))
    assert error.value.exit_code == 5
