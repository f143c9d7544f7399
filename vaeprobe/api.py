"""The probes as functions: `vaeprobe.orthogonality(decoder, samples=512)` and its siblings.

They are made from the list of probes; `api.pyi` says the same to type checkers and editors, and is written by
`python tests/test_api.py`.
"""

from vaeprobe.probes import PROBES, question_class
from vaeprobe.probes.functions import probe_function

for _name in PROBES:
    globals()[_name] = probe_function(question_class(_name))
