"""A clear message where the packages of an optional part are missing."""

from __future__ import annotations

import importlib.util

from opacus_edgeworth.errors import MissingExtraError


def require_extra(extra: str, *modules: str) -> None:
    """Raise MissingExtraError, with the command to run, unless every one of `modules` can be imported.

    Args:
      extra: the extra of this package that brings them.
      *modules: names of top-level modules; none of them is imported here.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed;"
            f" run `pip install opacus_edgeworth[{extra}]`"
        )
