"""Theorem 3 on circles at more products and more steps than `vaeprobe demo theorem3` takes.

python sample_models/circles.py          # two minutes; prints the table, writes circles.svg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from vaeprobe.inference.theorem3 import figure, theorem3
from vaeprobe.render import terminal

PRODUCTS = (0.003, 0.01, 0.03, 0.1, 0.3)
FILE = Path(__file__).with_name("circles.svg")


def main() -> None:
    torch.set_num_threads(1)
    result = theorem3(PRODUCTS, steps=1500)
    print(terminal.plain(result))
    FILE.write_text(figure(result.pairs, result.x), encoding="utf-8")
    print(f"wrote {FILE.name}")


if __name__ == "__main__":
    # what is asked for help, or given a word that it does not know, trains nothing
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
