"""Show the docstrings' "Example:" sections as programs (the parser knows them as "Examples:")."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Rename the section, in what is shown only."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
