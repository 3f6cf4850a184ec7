"""Run the command line: ``python3 -m imagekit``."""

from imagekit.cli import main

main()
