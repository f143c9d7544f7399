"""TorchScript archives, run by a small interpreter of their own code and never by torch's.

`torch.jit.load` runs `__setstate__` methods of the archive while loading, its operators can write files, and its
executor returns silent zeros for forward-mode derivatives from the second call on.  The code in an archive is a
small, regular subset of Python: this package parses it with `ast` and evaluates it with the operators of
`vaeprobe.checkpoints.programs.operators` and nothing else, so that it cannot do more than mathematics on tensors, with a
budget of statements for its loops.  Modules are always in eval mode.

What is not bounded: the time of the operators inside a loop that stays within the budget.

Source: torch 2.13, `torch/csrc/jit/serialization/python_print.cpp`, which writes the code.
"""

from vaeprobe.checkpoints.programs.torchscript.archive import ENTRY
from vaeprobe.checkpoints.programs.torchscript.model import read, state_of

__all__ = ["ENTRY", "read", "state_of"]
