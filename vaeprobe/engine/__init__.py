"""Derivatives of decoders, batched and fast, behind four verbs: `gram`, `jacobian`, `pushforward`, `pullback`."""

from vaeprobe.engine.verbs import gram, jacobian, pullback, pushforward

__all__ = ["gram", "jacobian", "pullback", "pushforward"]
