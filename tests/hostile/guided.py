"""Coverage-guided fuzzing: libFuzzer (`pip install atheris`) keeps the mutants of `fuzz.py` that reach new lines, and changes those.

`PYTHONPATH=tests python tests/hostile/guided.py FORMAT [--seconds 600] [--keep FOLDER]` prints what ends otherwise than
documented, and keeps it: a fixture for `test_fuzz.py`'s neighbours.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
from hostile import fuzz

from vaeprobe.errors import VaeprobeError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("format", choices=fuzz.FORMATS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "vaeprobe-mutants")
    options = parser.parse_args()
    make, mutate, name = fuzz.FORMATS[options.format]
    good = make()
    # the package imports its rooms when they are needed: one good file brings in those that its format needs
    with (
        atheris.instrument_imports(include=["vaeprobe"]),
        tempfile.TemporaryDirectory() as folder,
        contextlib.suppress(VaeprobeError),
    ):
        fuzz.read(fuzz.placed(Path(folder), name, good))

    def change(data: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        data = bytes(data) if len(data) > 1 else good
        with contextlib.suppress(zipfile.BadZipFile, ValueError, KeyError, IndexError, struct.error):
            data = mutate(data, rng)
        return data if len(data) <= longest else good

    def load(data: bytes) -> None:
        why = fuzz.outcome(bytes(data), name)
        if why is None:
            return
        options.keep.mkdir(parents=True, exist_ok=True)
        kept = options.keep / f"{hashlib.sha256(data).hexdigest()[:12]}-{Path(name).name}"
        kept.write_bytes(data)
        print(f"{kept}: {why.strip().splitlines()[-1]}", flush=True)

    with tempfile.TemporaryDirectory() as corpus:
        (Path(corpus) / "good").write_bytes(good)
        limits = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", f"-max_len={4 * len(good)}"]
        # the clock and the memory are watched by `outcome` and by the tests of the worker, not by libFuzzer
        own = ["-timeout=0", "-handle_alrm=0", "-rss_limit_mb=0", "-len_control=0"]
        atheris.Setup([sys.argv[0], *limits, *own, corpus], load, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
