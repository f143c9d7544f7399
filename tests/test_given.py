"""Wrong arguments of Python's callers are told as such, and never end in an error of Python's or torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vaeprobe
from vaeprobe import engine
from vaeprobe.errors import ResourceError, UsageError, VaeprobeError
from vaeprobe.given import check_given

WRONG: dict[str, object] = {
    "text": "x",
    "None": None,
    "negative": -1,
    "zero": 0,
    "nan": float("nan"),
    "infinite": float("inf"),
    "true": True,
    "large": 10**30,
    "list": [1, "a"],
    "empty": (),
    "dict": {"a": 1},
    "tensor": torch.ones(2),
    "array": np.array(["a"]),
    "object": object(),
    "type": int,
}
MODEL = "sample_models/digits_mlp.safetensors"


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5))


NETWORK, Z = network(), torch.randn(4, 3)
DECODER = vaeprobe.Decoder(NETWORK, 3)
# what is called, with what it needs, and which of its arguments are given wrongly
CALLS: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (
        vaeprobe.Decoder,
        {"function": NETWORK, "latent_dim": 3},
        "function latent_dim name dtype device prior learned parameter natural likelihood output encoder artifact notes "
        "latent_shape units recipe dispersion class_axis sigma2 totalled near",
    ),
    (vaeprobe.Encoder, {"function": NETWORK, "latent_dim": 3}, "function latent_dim input_shape dtype device second"),
    (vaeprobe.Group, {"kind": "normal", "size": 2}, "kind size"),
    (vaeprobe.LearnedPrior, {"mean": torch.zeros(3), "scale": torch.ones(3)}, "mean scale weights"),
    (
        vaeprobe.from_module,
        {"module": VAE()},
        "module latent_dim likelihood input_shape part condition latent_size dtype device",
    ),
    (
        vaeprobe.load,
        {"path": MODEL},
        "path arch arch_args blueprint key submodule latent_dim weights output latent_size condition class_axis dtype "
        "device allow_code",
    ),
    (vaeprobe.inspect, {"path": MODEL}, "path key draft_blueprint latent_size"),
    (engine.gram, {"f": NETWORK, "z": Z}, "f z likelihood columns chunk"),
    (engine.jacobian, {"f": NETWORK, "z": Z}, "f z columns natural chunk"),
    (engine.pushforward, {"f": NETWORK, "z": Z, "v": Z}, "f z v natural"),
    (engine.pullback, {"f": NETWORK, "z": Z, "w": torch.ones(4, 5)}, "f z w natural"),
    (vaeprobe.Gaussian, {}, "sigma2"),
    (vaeprobe.Categorical, {}, "classes axis inner"),
    (vaeprobe.Multinomial, {}, "classes"),
    (vaeprobe.NegativeBinomial, {}, "theta"),
    (vaeprobe.ZeroInflatedNegativeBinomial, {}, "theta"),
    (vaeprobe.Callback, {}, "latent_dim metrics every decoder samples"),
    (vaeprobe.compare, {"models": [DECODER] * 2, "samples": 4, "rotations": 3}, "models sort samples rotations seed time"),
    (
        vaeprobe.traverse,
        {"decoder": DECODER, "samples": 4, "frames": 3},
        "decoder reach frames most rotate image_shape show samples seed latent_dim time resume",
    ),
    (vaeprobe.orthogonality, {"decoder": DECODER, "samples": 4, "rotations": 3}, "decoder samples restarts seed limits"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "needed", "name"), [
    pytest.param(call, needed, name, id=f"{call.__name__}-{name}") for call, needed, names in CALLS for name in names.split()
])  # fmt: skip
def test_a_wrong_argument_is_an_error_of_ours_or_none(
    call: Callable[..., object],
    needed: dict[str, Any],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if isinstance(needed.get("path"), str):
        needed = needed | {"path": str(Path(needed["path"]).resolve())}
    monkeypatch.chdir(tmp_path)  # where a file that is named "x" is written
    for value in WRONG.values():
        with suppress(VaeprobeError):
            call(**needed | {name: value})


def said(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    hint = caught.value.hint
    return caught.value.message + (f"\nhint: {hint}" if hint else "")


def test_the_message_names_the_argument_and_what_it_takes() -> None:
    f = NETWORK
    D: Any = vaeprobe.Decoder
    assert said(lambda: D(f, 3, class_axis="x")) == "`class_axis` takes a whole number or None, not `'x'`"
    assert said(lambda: D(f, "3")) == "`latent_dim` takes a whole number, not `'3'`"
    assert said(lambda: D(f, True)) == "`latent_dim` takes a whole number, not `True`"
    assert said(lambda: D(f, 3, near=[[0.0] * 3])) == (
        "`near` takes a Tensor or None, not `[[0.0, 0.0, 0.0]]`\n"
        "hint: torch.as_tensor(...) makes one of an array or a list"
    )
    assert D(f, 3, near=torch.as_tensor([[0.1] * 3, [0.2] * 3])).latent_dim == 3
    assert (
        said(lambda: D(f, 3, learned=network())) == "`learned` takes a LearnedPrior or None, not a Sequential"
    )
    assert said(lambda: D(f, 3, prior=["normal"])) == "`prior` takes a list of Groups, not `['normal']`"
    assert said(lambda: D(f, 3, parameter="naturals")) == (
        "`parameter` takes `mean` or `natural`, not `'naturals'`\nhint: did you mean `natural`?"
    )
    assert said(lambda: D(f, 3, dtype="float32")) == "`dtype` takes a torch.dtype or None, not `'float32'`"
    assert said(lambda: D(f, 3, dtype=torch.int64)).startswith("`dtype` is int64, which has no derivatives")
    assert said(lambda: D(f, 3, device="cuda_")).startswith("the device `cuda_` is no device")
    assert said(lambda: vaeprobe.Gaussian("1")) == "`sigma2` takes a number, not `'1'`"  # type: ignore[arg-type]
    assert said(lambda: vaeprobe.traverse(DECODER, seed=-1)) == "`seed` must be at least 0, not -1"
    assert said(lambda: vaeprobe.load(3)) == "`path` takes a text or a path, not `3`"  # type: ignore[arg-type]


def test_arguments_that_nothing_takes_are_told_with_the_nearest() -> None:
    assert said(lambda: vaeprobe.from_module(VAE(), latent_sise=16)) == (
        "from_module takes no argument `latent_sise`\nhint: did you mean `latent_size`?"
    )
    assert "one of latent_dim, likelihood, " in said(lambda: vaeprobe.from_module(VAE(), wombat=1))
    assert said(lambda: vaeprobe.from_module(VAE(), part="decode")).startswith(
        "the network has no part `decode`"
    )
    assert said(lambda: vaeprobe.from_module(VAE(), latent_size=16)).startswith("`latent_size` takes a text")  # type: ignore[arg-type]


def test_what_is_as_good_is_taken() -> None:
    units: Any = (torch.zeros(3), torch.ones(3))
    many: Any = {"prior": [vaeprobe.Group("normal", np.int64(3))], "units": units, "sigma2": np.float32(0.5)}  # type: ignore[arg-type]
    assert vaeprobe.Decoder(network(), np.int64(3), **many).latent_dim == 3  # type: ignore[arg-type]
    assert vaeprobe.Gaussian(torch.tensor(0.5)).sigma2 == 0.5  # type: ignore[arg-type]
    assert vaeprobe.Gaussian(2).sigma2 == 2
    maps = nn.Sequential(nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 3, 3))
    encoder = vaeprobe.Encoder(nn.Linear(6, 3), 3, input_shape=torch.Size([6]))
    assert encoder.input_shape == (6,)
    shape: Any = [2, 4, 4]
    assert vaeprobe.Decoder(maps, 32, latent_shape=shape).latent_dim == 32
    assert vaeprobe.Callback(metrics=(id for id in ["orthogonality.alignment"])).every == 1


@pytest.mark.parametrize(("estimator", "name"), [
    (vaeprobe.PPCA, "sigma2"), (vaeprobe.LinearVAE, "sigma2"), (vaeprobe.LinearVAE, "beta"),
    (vaeprobe.PPCA, "random_state"),
])  # fmt: skip
def test_estimators_name_the_parameter_as_those_of_scikit_learn_do(estimator: Any, name: str) -> None:
    X = np.random.default_rng(0).standard_normal((20, 4))
    for value in ("x", [1], {}, object(), True, float("nan"), -1):
        if name == "random_state" and value is True:
            continue
        with pytest.raises((TypeError, ValueError, VaeprobeError), match=name.replace("_", "[_ ]")):
            estimator(2, **{name: value}).fit(X)


def test_numbers_of_latents_beyond_all_memory_are_refused() -> None:
    for call in (
        lambda: vaeprobe.Decoder(lambda z: z, 10**18),
        lambda: vaeprobe.orthogonality(DECODER, samples=10**18),
        lambda: vaeprobe.orthogonality(DECODER, samples=4, restarts=10**18),
    ):
        with pytest.raises(ResourceError, match="would take"):
            call()


def test_what_counts_and_what_is_true_need_not_be_of_pythons_own_kind() -> None:
    def function(whole: bool, columns: Sequence[int]) -> None: ...

    check_given(function, {"whole": np.bool_(True), "columns": range(3)})
    for wrong in ({"whole": 1}, {"columns": b"ab"}, {"columns": range(3), "whole": "yes"}):
        with pytest.raises(UsageError):
            check_given(function, wrong)
