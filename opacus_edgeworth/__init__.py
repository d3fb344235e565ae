"""Certified finite-sample privacy accounting for DP-SGD, as an Opacus accountant.

`import opacus_edgeworth` registers `accountant="edgeworth"` with Opacus.
"""

import sys
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
)
from opacus_edgeworth.planning import Plan, PlanPoint, plan

if TYPE_CHECKING:
    from opacus_edgeworth.accountant import EdgeworthAccountant

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
    "TiltedEdgeworth",
    "audit",
    "calibrate_batch_size",
    "calibrate_delta",
    "calibrate_noise_multiplier",
    "calibrate_sample_rate",
    "calibrate_steps",
    "check_certificate",
    "mechanisms",
    "plan",
    "schedules",
]

PROGRAM = "opacus-edgeworth"


def __getattr__(name: str) -> Any:
    """Return the accountant where it was not needed so far."""
    if name == "EdgeworthAccountant":
        from opacus_edgeworth.accountant import EdgeworthAccountant

        return EdgeworthAccountant
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Our own program answers most questions without Opacus, whose import takes seconds: whoever needs it there imports it.
if PurePath(sys.argv[0] if sys.argv else "").stem != PROGRAM:
    from opacus_edgeworth.accountant import EdgeworthAccountant
