"""The command line, `opacus-edgeworth` (`pip install opacus_edgeworth[cli]`; `[finetune]` brings it too)."""

import sys

from opacus_edgeworth.errors import MissingExtraError
from opacus_edgeworth.extras import require_extra


def main() -> None:
    """Run the command line."""
    try:
        require_extra("cli", "typer", "rich")
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    from opacus_edgeworth.cli.app import app  # only once its packages are known to be there

    app()
