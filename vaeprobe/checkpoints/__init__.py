"""Checkpoint files: read, checked, and made into decoders."""
