"""Checkpoint files: `loading` makes a `Decoder` of one, `inspection` says what is in it; nothing in a file is executed."""
