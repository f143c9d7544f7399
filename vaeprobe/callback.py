"""Metrics while a model trains: a function to call, and the hooks that Lightning calls.

```python
watch = vaeprobe.Callback(latent_dim=10, every=5, log=wandb.log)
for epoch in range(epochs):
    ...
    watch(model.decoder, epoch)

trainer = lightning.Trainer(callbacks=[vaeprobe.Callback(latent_dim=10)])  # probes module.decoder
```

Lightning is not imported: it calls a callback's hooks by their names.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from vaeprobe.errors import UsageError, VaeprobeError, did_you_mean
from vaeprobe.given import check_given, check_least

if TYPE_CHECKING:
    from vaeprobe.probes.functions import DecoderLike

METRICS = ("orthogonality.mean_abs_cosine", "orthogonality.ima_contrast", "latents.active")


class Trainer(Protocol):
    """What is asked of Lightning's trainer."""

    current_epoch: int


class Logs(Protocol):
    """What is asked of Lightning's module."""

    def log_dict(self, dictionary: Mapping[str, float], /) -> object: ...


class Callback:
    """Measure metrics of a decoder every few epochs, without disturbing its training.

    Weights, modes, gradients and the global random streams are left as they are.  A decoder that cannot be
    probed (one that has diverged, say) is a warning, not the end of the training.

    Args:
        latent_dim: number of latents, where the decoder does not say it.
        metrics: ids of metrics that are single numbers (`vaeprobe explain` lists them).
        every: epochs between two measurements; the first is measured.
        decoder: where a Lightning module keeps its decoder: a name, dots allowed.
        log: called with a dict of the metrics; None logs by `module.log_dict` under Lightning, else nowhere.
        samples: latents to draw.
        settings: further settings of every probe, e.g. `likelihood="bernoulli"`, `data=rows`.

    Raises:
        UsageError: no metric or setting is called so, or a number is out of bounds.
    """

    def __init__(
        self,
        *,
        latent_dim: int | None = None,
        metrics: Iterable[str] = METRICS,
        every: int = 1,
        decoder: str = "decoder",
        log: Callable[[dict[str, float]], object] | None = None,
        samples: int = 64,
        **settings: object,
    ) -> None:
        from vaeprobe.gate.policy import is_verdict, probe_of, ruled
        from vaeprobe.probes import asks_decoder, probe_class, question_class

        check_given(Callback.__init__, locals())
        check_least(1, every=every, samples=samples)
        self.latent_dim, self.every, self.decoder = latent_dim, every, decoder
        self._log = log  # Lightning sets an attribute `log` of its own on every callback
        self.history: dict[int, dict[str, float]] = {}
        wanted: dict[str, list[str]] = {}
        known = [
            id
            for id in ruled()
            if not is_verdict(id) and (probe := probe_of(id)) and asks_decoder(question_class(probe))
        ]
        for id in metrics:
            if id not in known:
                raise UsageError(
                    f"no metric is called `{id}`",
                    hint=did_you_mean(id, known) or "`vaeprobe explain` lists the metrics",
                )
            wanted.setdefault(probe_of(id) or "", []).append(id)
        self._probes = []
        for name, ids in wanted.items():
            cls = probe_class(name)
            cheap = {k: value for k, (value, depend) in cls.SAVINGS.items() if not depend & set(ids)}
            for key in settings:
                if key not in (fields := list(cls.__dataclass_fields__)):
                    raise UsageError(f"{name} has no setting `{key}`", hint=did_you_mean(key, fields))
            number = max(2, samples // cls.COST)
            self._probes.append((cls.asked({"samples": number, **cheap, **settings}), ids))

    def __call__(self, decoder: DecoderLike, epoch: int = 0) -> dict[str, float]:
        """Measure a decoder where it is the epoch's turn, log, and return the metrics by id, none if it is not.

        Args:
            decoder: a `Decoder`, an `nn.Module` or another callable, or the path of a checkpoint.
            epoch: counted from 0.
        """
        found = self.measure(decoder) if epoch % self.every == 0 else {}
        if found:
            self.history[epoch] = found
            if self._log is not None:
                self._log(found)
        return found

    def measure(self, decoder: DecoderLike) -> dict[str, float]:
        """Return the metrics of a decoder by id; undefined ones are left out."""
        import torch

        from vaeprobe.probes.functions import as_decoder

        out: dict[str, float] = {}
        try:
            with torch.random.fork_rng(), torch.enable_grad():
                probed = as_decoder(decoder, self.latent_dim)
                for probe, ids in self._probes:
                    values = {
                        id: probe_metric.value for id, probe_metric in probe.measure(probed).metrics.items()
                    }
                    out |= {id: float(v) for id in ids if isinstance(v := values.get(id), (int, float))}
                    for id in ids:
                        if isinstance(values.get(id), (list, dict)):
                            message = (
                                f"`{id}` is no single number, and is not logged: leave it out of `metrics`"
                            )
                            warnings.warn(message, stacklevel=3)
        except VaeprobeError as error:
            warnings.warn(f"vaeprobe could not measure the decoder: {error.message}", stacklevel=3)
        return out

    # -- Lightning -----------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Trainer, module: Logs) -> None:
        """Measure `module.decoder` and log by the module."""
        found = self(attrgetter(self.decoder)(module), int(trainer.current_epoch))
        if found and self._log is None:
            module.log_dict(found)

    @property
    def state_key(self) -> str:
        return type(self).__qualname__

    def state_dict(self) -> dict[str, object]:
        return {"history": self.history}

    def load_state_dict(self, state: Mapping[str, dict[int, dict[str, float]]]) -> None:
        self.history = dict(state["history"])

    def setup(self, trainer: object, module: object, stage: str) -> None:
        """Do nothing."""

    def teardown(self, trainer: object, module: object, stage: str) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> object:
        # Lightning calls every hook by its name and asks for no base class
        if name.startswith("on_"):
            return _nothing
        raise AttributeError(name)


def _nothing(*arguments: object, **named: object) -> None:
    """What a hook does that we do not need."""
