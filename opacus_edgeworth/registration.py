"""How Opacus comes to know an accountant by name: 1.6 keeps a registry, 1.5 compares the name with its own three."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from opacus.accountants import IAccountant

USERS = ("opacus.accountants", "opacus.accountants.utils", "opacus.privacy_engine")
"""Modules of Opacus 1.5 that have the name `create_accountant`."""


def make_known(name: str, accountant: type[IAccountant]) -> None:
    """Make Opacus create `accountant` where its users say `name`; again and again without effect.

    Of Opacus 1.5 the function `create_accountant` is replaced, in the package's three modules that have it, by one that
    asks for this name first. Who imported that function before keeps the old one.
    """
    try:
        registry = importlib.import_module("opacus.accountants.registry")
    except ModuleNotFoundError:
        for module in map(importlib.import_module, USERS):
            _teach(module, name, accountant)
        return
    if registry._ACCOUNTANTS.get(name) is not accountant:
        registry.register_accountant(name, accountant, force=True)


def _teach(module: ModuleType, name: str, accountant: type[IAccountant]) -> None:
    """Replace a module's `create_accountant` by one that knows one name more."""
    original = module.create_accountant
    if getattr(original, "taught", None) == (name, accountant):
        return

    @functools.wraps(original)
    def create_accountant(mechanism: str) -> IAccountant:
        return accountant() if mechanism == name else original(mechanism)

    setattr(create_accountant, "taught", (name, accountant))  # noqa: B010 -- for type checkers
    setattr(module, "create_accountant", create_accountant)  # noqa: B010
