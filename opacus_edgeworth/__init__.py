"""Certified finite-sample privacy accounting for DP-SGD, as an Opacus accountant.

`import opacus_edgeworth` registers `accountant="edgeworth"` with Opacus.
"""

from opacus_edgeworth import mechanisms
from opacus_edgeworth.accountant import EdgeworthAccountant, register
from opacus_edgeworth.bounds import Bounds
from opacus_edgeworth.calibration import calibrate_noise_multiplier
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
    "PrivacyCurve",
    "TiltedEdgeworth",
    "audit",
    "calibrate_noise_multiplier",
    "check_certificate",
    "mechanisms",
]

register()
