"""``python -m vertfrac``."""

from vertfrac.cli import main

main()
