"""Certified finite-sample privacy accounting for DP-SGD, as an Opacus accountant.

`import opacus_edgeworth` registers `accountant="edgeworth"` with Opacus.
"""

import sys
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from opacus_edgeworth import mechanisms, schedules
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.calibration import (
    calibrate_batch_size,
    calibrate_delta,
    calibrate_noise_multiplier,
    calibrate_sample_rate,
    calibrate_steps,
)
from opacus_edgeworth.certification.audit import audit
from opacus_edgeworth.certification.certificate import Certificate, check_certificate
from opacus_edgeworth.curve import PrivacyCurve
from opacus_edgeworth.edgeworth.approximation import EdgeworthApproximation
from opacus_edgeworth.edgeworth.tilted import TiltedEdgeworth
from opacus_edgeworth.errors import (
    CalibrationError,
    CertificationError,
    EdgeworthError,
    EstimateWarning,
    InvalidParameterError,
    UnsoundTrainingError,
    UnsoundTrainingWarning,
)
from opacus_edgeworth.planning import Plan, PlanPoint, plan

if TYPE_CHECKING:
    from opacus_edgeworth import sampling
    from opacus_edgeworth.accountant import EdgeworthAccountant
    from opacus_edgeworth.checking.check import check
    from opacus_edgeworth.checking.engine import PrivacyEngine

__all__ = [
    "Bounds",
    "CalibrationError",
    "Certificate",
    "CertificationError",
    "EdgeworthAccountant",
    "EdgeworthApproximation",
    "EdgeworthError",
    "EstimateWarning",
    "InvalidParameterError",
    "Plan",
    "PlanPoint",
    "PrivacyCurve",
    "PrivacyEngine",
    "TiltedEdgeworth",
    "UnsoundTrainingError",
    "UnsoundTrainingWarning",
    "audit",
    "calibrate_batch_size",
    "calibrate_delta",
    "calibrate_noise_multiplier",
    "calibrate_sample_rate",
    "calibrate_steps",
    "check",
    "check_certificate",
    "mechanisms",
    "plan",
    "sampling",
    "schedules",
]

PROGRAM = "opacus-edgeworth"


NEED_OPACUS = {
    "EdgeworthAccountant": "accountant",
    "PrivacyEngine": "checking.engine",
    "check": "checking.check",
    "sampling": "sampling",
}
"""Public names whose modules import Opacus."""


def __getattr__(name: str) -> Any:
    """Return what needs Opacus where it was not needed so far."""
    if name not in NEED_OPACUS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{NEED_OPACUS[name]}")
    return module if name == "sampling" else getattr(module, name)


# Our own program answers most questions without Opacus, whose import takes seconds: whoever needs it there imports it.
if PurePath(sys.argv[0] if sys.argv else "").stem != PROGRAM:
    from opacus_edgeworth import sampling
    from opacus_edgeworth.accountant import EdgeworthAccountant
    from opacus_edgeworth.checking.check import check
    from opacus_edgeworth.checking.engine import PrivacyEngine
