"""A callback measures while a model trains, and leaves the training as it would have been."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import vaeprobe
from vaeprobe.errors import UsageError

COSINE = "orthogonality.mean_abs_cosine"


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 8))

    def log_dict(self, found: dict[str, float]) -> None:
        self.logged = found


def test_metrics_are_those_of_the_probe() -> None:
    model = VAE()
    watch = vaeprobe.Callback(latent_dim=3, metrics=[COSINE, "latents.active"], seed=1)
    found = watch(model.decoder)
    direct = vaeprobe.orthogonality(model.decoder, latent_dim=3, samples=64, seed=1)
    assert found == {COSINE: direct.mean_abs_cosine.value, "latents.active": 3.0}


def test_every_n_epochs() -> None:
    logged: list[dict[str, float]] = []
    watch = vaeprobe.Callback(latent_dim=3, metrics=[COSINE], every=3, log=logged.append, samples=8)
    model = VAE()
    measured = [epoch for epoch in range(7) if watch(model.decoder, epoch)]
    assert measured == list(watch.history) == [0, 3, 6]
    assert logged == list(watch.history.values())


def test_training_goes_on_as_if_nothing_had_been() -> None:
    def trained(watch: vaeprobe.Callback | None) -> list[torch.Tensor]:
        model, x = VAE(), torch.linspace(-1, 1, 24).reshape(3, 8)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for epoch in range(3):
            optimiser.zero_grad()
            (model.decoder(torch.randn(3, 3)) - x).square().mean().backward()
            if watch is not None:
                with torch.no_grad():  # as Lightning calls it
                    assert watch(model.decoder, epoch)
                assert model.decoder.training
            optimiser.step()
        return [p.detach().clone() for p in model.parameters()]

    watch = vaeprobe.Callback(latent_dim=3, samples=8)
    for a, b in zip(trained(None), trained(watch), strict=True):
        assert torch.equal(a, b)


def test_a_diverged_decoder_is_a_warning() -> None:
    model = VAE()
    nn.init.constant_(model.decoder[0].weight, float("nan"))
    with pytest.warns(UserWarning, match="could not measure the decoder"):
        assert vaeprobe.Callback(latent_dim=3)(model.decoder) == {}


def test_numbers_per_latent_are_told_and_not_logged() -> None:
    callback = vaeprobe.Callback(latent_dim=3, metrics=[COSINE, "factorise.cross"])
    with pytest.warns(UserWarning, match="`factorise.cross` is no single number"):
        assert set(callback(VAE().decoder)) == {COSINE}


def test_mistakes_are_named_before_the_training() -> None:
    with pytest.raises(UsageError, match="mean_abs_cosin`") as caught:
        vaeprobe.Callback(metrics=["orthogonality.mean_abs_cosin"])
    assert COSINE in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no setting `sede`"):
        vaeprobe.Callback(sede=1)
    with pytest.raises(UsageError, match="at least 1"):
        vaeprobe.Callback(every=0)


def test_lightnings_hooks_without_lightning() -> None:
    class Trainer:
        current_epoch = 4

    watch, model = vaeprobe.Callback(latent_dim=3, metrics=[COSINE], every=2, samples=8), VAE()
    watch.on_train_epoch_end(Trainer(), model)
    assert list(model.logged) == [COSINE]
    assert watch.on_validation_batch_end(1, 2, batch=3) is None
    again = vaeprobe.Callback(latent_dim=3)
    again.load_state_dict(watch.state_dict())
    assert again.history == watch.history
    assert not hasattr(watch, "no_hook")


def test_lightning_takes_it() -> None:
    lightning: Any = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(3, 8)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return self.decoder(batch[0]).square().mean()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 3)), batch_size=4)
    watch = vaeprobe.Callback(latent_dim=3, samples=8)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    trainer = lightning.Trainer(max_epochs=3, callbacks=[watch], enable_model_summary=False, **quiet)
    trainer.fit(Module(), rows)
    assert list(watch.history) == [0, 1, 2]
    assert COSINE in trainer.callback_metrics
