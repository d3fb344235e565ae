"""`python -m opacus_edgeworth.cli`, the same as `opacus-edgeworth`."""

from opacus_edgeworth.cli import main

if __name__ == "__main__":  # `compare` starts processes, which import this module again
    main()
