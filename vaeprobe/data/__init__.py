"""Rows of data from files: .npy, .npz, safetensors, torch, CSV and folders of PNG, streamed in blocks.

The bytes are read by `vaeprobe.files`, as those of models are: nothing in a file is executed, and what is refused there
is refused here.  Numbers are converted exactly or refused; uint8 is taken for pixels and divided by 255 unless told
otherwise, and `Data.notes` says so.
"""

from vaeprobe.data.opening import in_memory, open_data
from vaeprobe.data.rows import Data, NonfiniteRowsError

__all__ = ["Data", "NonfiniteRowsError", "in_memory", "open_data"]
