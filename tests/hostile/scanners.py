"""Scanners of models side by side on the files of `test_two_readers.py`, which another reader is shown to run.

`PYTHONPATH=tests python tests/hostile/scanners.py [FOLDER]` prints the table of SECURITY.md.  FOLDER holds the programs
`picklescan`, `modelscan` and `fickling`, as a virtual environment's `bin` does; those that are missing are left out.
"""

from __future__ import annotations

import io
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hostile.test_two_readers import MAKERS, evil

from hostile_files import Touch, saved, state
from programs import small_pt2, small_script

# program -> its arguments; all end with 0 where they find nothing, and with 1 where they find something
SCANNERS = {
    "picklescan": ["-p"],
    "modelscan": ["scan", "-p"],
    "fickling": ["--check-safety"],
    "vaeprobe": ["-m", "vaeprobe", "inspect"],
}
PLAIN: dict[str, Callable[[Path], bytes]] = {
    "a plain pickle": evil,
    "a torch zip": lambda marker: saved({**state(), "x": Touch(marker)}),
    "a legacy torch file": lambda marker: saved({**state(), "x": Touch(marker)}, legacy=True),
}


def _array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.eye(4, 2))
    return stream.getvalue()


BENIGN: dict[str, Callable[[], bytes]] = {
    "state.pt": lambda: saved(state()),
    "legacy.pt": lambda: saved(state(), legacy=True),
    "plain.pkl": lambda: pickle.dumps(dict(state())),
    "module.pt": lambda: saved(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh())),
    "program.pt2": small_pt2,
    "script.pt": small_script,
    "matrix.npy": _array,
}


def verdict(scanner: str, folder: Path | None, path: Path) -> str:
    """Return "clean", "malicious", or "-" where the scanner fails or does not read the file."""
    if scanner == "vaeprobe":
        program = [sys.executable]
    else:
        found = shutil.which(scanner, path=str(folder) if folder else None)
        if found is None:
            return ""
        program = [found]
    ran = subprocess.run(
        [*program, *SCANNERS[scanner], str(path)], capture_output=True, text=True, check=False
    )
    if scanner == "vaeprobe":
        return {0: "clean", 1: "clean", 4: "malicious"}.get(ran.returncode, "-")
    if scanner == "modelscan" and ("No issues found" not in ran.stdout and ran.returncode == 0):
        return "-"
    return {0: "clean", 1: "malicious"}.get(ran.returncode, "-")


def main() -> None:
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    makers = {**PLAIN, **{make.__name__.replace("_", " "): make for _, make in MAKERS}}
    told: dict[str, dict[str, str]] = {name: {} for name in (*makers, *BENIGN)}
    with tempfile.TemporaryDirectory() as temporary:
        for name in told:
            path = Path(temporary) / (name if name in BENIGN else "model.pt")
            path.write_bytes(makers[name](Path(temporary) / "marker") if name in makers else BENIGN[name]())
            for scanner in SCANNERS:
                told[name][scanner] = verdict(scanner, folder, path)
    for name, row in told.items():
        print(f"{name:45}", *(f"{row[s] or 'missing':10}" for s in SCANNERS))
    print("\n| | " + " | ".join(SCANNERS) + " |\n|" + "---|" * (len(SCANNERS) + 1))
    count = [sum(told[n][s] == "clean" for n in makers) for s in SCANNERS]
    print(f"| malicious files called clean, of {len(makers)} | " + " | ".join(map(str, count)) + " |")
    count = [sum(told[n][s] == "-" for n in makers) for s in SCANNERS]
    print("| malicious files not read | " + " | ".join(map(str, count)) + " |")
    count = [sum(told[n][s] != "clean" for n in BENIGN) for s in SCANNERS]
    print(f"| benign files not called clean, of {len(BENIGN)} | " + " | ".join(map(str, count)) + " |")


if __name__ == "__main__":
    main()
