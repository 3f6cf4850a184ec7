"""``python -m fitserve_worker``: the command line."""

from fitserve_worker.cli import main

main()
