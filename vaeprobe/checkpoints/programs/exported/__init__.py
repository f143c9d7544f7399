"""Programs written by `torch.export.save` (.pt2), read without torch's own loader.

A `.pt2` is a zip of raw weights and a graph of `aten` operators in JSON.  `torch.export.load` would also unpickle the
sample inputs, weights and constants, parse expressions with sympy's `eval`, and execute source code that it makes of names in
the file.  None of that is needed to run a graph: this module reads the JSON, takes operators from a list of harmless ones
(`vaeprobe.checkpoints.programs.operators`), weights from their raw bytes, and nothing else.  What only the other loader would run
is looked at all the same, and a file that carries it is refused.

Source: the schema of torch 2.13, `torch/_export/serde/schema.py`, major version 8.
"""

from vaeprobe.checkpoints.programs.exported.model import ENTRY, blueprint_of, read

__all__ = ["ENTRY", "blueprint_of", "read"]
