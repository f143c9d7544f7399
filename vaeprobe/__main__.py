"""`python -m vaeprobe`."""

from vaeprobe.cli import main

main()
