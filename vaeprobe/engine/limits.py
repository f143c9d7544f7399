"""How many latents, and matrices of them, are too many: beyond these a decoder or a request is refused (exit 6)."""

from __future__ import annotations

# Latents of the largest decoders in use, twice over: beyond them even one column a pass takes hours.
MOST = 1 << 17
# Bytes of one Gram matrix of all the columns, where no part of them will do.
LARGEST_GRAM = 1 << 28
# Bytes of all Gram matrices that are asked for at once.
LARGEST_GRAMS = 16 << 30
# Bytes of the Jacobian at one latent beyond which Gram matrices are refused.
LARGEST_JACOBIAN = 4 << 30
