"""The names that people give to the parts of a VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

__all__ = ["DECODES", "ENCODES", "LATENTS", "MEANS", "SPREADS", "named", "word_of"]

DECODES = ("decode", "decoder", "dec", "decoder_net", "decoder_network", "generator", "gen", "netG", "G")
ENCODES = (
    "encode",
    "encoder",
    "enc",
    "encoder_net",
    "encoder_network",
    "inference_net",
    "recognition",
    "q_z",
)
LATENTS = (
    *("latent_dim", "latent_size", "latent_dims", "n_latent", "n_latents", "num_latents", "latents"),
    *("z_dim", "zdim", "dim_z", "nz", "z_size", "code_dim", "latent_channels", "embedding_dim"),
)
# heads on an encoder's features: its mean, and the second output with what it is
MEANS = ("fc_mu", "fc_mean", "mu", "mean", "fc21", "to_mu", "to_mean", "mean_layer", "linear_mu", "z_mean")
SPREADS = {
    **dict.fromkeys(("fc_var", "fc_logvar", "fc_log_var", "logvar", "log_var", "fc22", "to_logvar"), "log_variance"),
    **dict.fromkeys(("to_var", "var", "logvar_layer", "linear_logvar", "z_log_var", "log_variance"), "log_variance"),
    **dict.fromkeys(("fc_logstd", "log_std", "logstd", "log_sigma", "fc_log_sigma", "logsigma"), "log_sd"),
}  # fmt: skip


def named(module: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the parts of a network that have one of these names and can be called."""
    for name in names:
        found = getattr(module, name, None)
        if callable(found) and not isinstance(found, type):
            yield name, found


def word_of(name: str, part: object) -> str:
    return f"the submodule `{name}`" if isinstance(part, nn.Module) else f"the method `{name}`"
