"""How Opacus 1.5 learns an accountant's name, with a module of its kind; `make compatibility` has the real one."""

from types import ModuleType

import pytest
from opacus.accountants import IAccountant, PRVAccountant, RDPAccountant

from opacus_edgeworth.registration import _teach


@pytest.fixture
def module() -> ModuleType:
    def create_accountant(mechanism: str) -> IAccountant:
        if mechanism == "rdp":
            return RDPAccountant()
        raise ValueError(f"Unexpected accounting mechanism: {mechanism}")

    made = ModuleType("accountants")
    made.create_accountant = create_accountant
    return made


def test_a_new_name_is_known_beside_the_old_ones(module: ModuleType):
    _teach(module, "new", PRVAccountant)
    assert type(module.create_accountant("new")) is PRVAccountant
    assert type(module.create_accountant(mechanism="new")) is PRVAccountant
    assert type(module.create_accountant("rdp")) is RDPAccountant
    with pytest.raises(ValueError, match="Unexpected accounting mechanism: other"):
        module.create_accountant("other")


def test_again_and_again_without_effect(module: ModuleType):
    _teach(module, "new", PRVAccountant)
    taught = module.create_accountant
    _teach(module, "new", PRVAccountant)
    assert module.create_accountant is taught


def test_another_one_under_the_name_takes_its_place(module: ModuleType):
    _teach(module, "new", PRVAccountant)
    _teach(module, "new", RDPAccountant)
    assert type(module.create_accountant("new")) is RDPAccountant
