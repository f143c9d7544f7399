"""What names of tensors tell of the part that they belong to."""

from __future__ import annotations

import re

__all__ = ["BRANCHES", "DECODER", "ENCODER", "MEANS", "OTHER", "of_encoder"]

DECODER = re.compile(
    r"dec(?!onv)|gen|net_?g\b|^g\b|to_im|to_feat|from_latent|from_z|upsampl|p_x", re.IGNORECASE
)
ENCODER = re.compile(
    r"enc|disc|critic|classif|(^|[._])(mu|mean|lv|log_?var|log_?sigma|logstd|sigma|var|q_z|fc_mu|fc_var|fc_mean)($|[._])|_mu\b|im\w*_to_",
    re.IGNORECASE,
)
BRANCHES = re.compile(r"(^|[._])(res|skip|short|attn|attention|block)", re.IGNORECASE)
# names that cannot be the output layer of a decoder
OTHER = re.compile(r"enc|disc|critic|classif", re.IGNORECASE)
MEANS = re.compile(r"(^|[._])(fc_?)?(mu|mean|fc21|loc)([._]|$)", re.IGNORECASE)


def of_encoder(name: str) -> bool:
    """Return whether a name is an encoder's or a discriminator's: `decoder.logvar` is a head of the decoder."""
    return ENCODER.search(name) is not None and (
        OTHER.search(name) is not None or DECODER.search(name) is None
    )
