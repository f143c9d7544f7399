"""Checkpoint files: `loading` makes a `Decoder` of one, `looking` says what is in it; nothing in a file is executed."""
