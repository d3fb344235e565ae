"""`python -m opacus_edgeworth.cli`, the same as `opacus-edgeworth`."""

from opacus_edgeworth.cli import main

main()
