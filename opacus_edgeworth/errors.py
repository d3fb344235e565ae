"""The errors and warnings of this package."""


class EdgeworthError(Exception):
    """Root of every error that this package raises on purpose."""


class InvalidParameterError(EdgeworthError, ValueError):
    """An argument is outside its domain; the message names it, its value, its range and the remedy."""


class CalibrationError(EdgeworthError):
    """No parameter in the searched range meets the privacy target."""


class CertificationError(EdgeworthError):
    """A bound of the requested quality could not be proved."""


class MissingExtraError(EdgeworthError, ImportError):
    """The packages that an optional part of this one needs are missing; the message says what to install."""


class CheckpointError(EdgeworthError):
    """A checkpoint is damaged, or belongs to another run; the message says what is wrong with it."""


class OutOfReachError(EdgeworthError):
    """One engine cannot treat a regime at reasonable cost; the caller turns to another (never seen by users)."""


class EstimateWarning(UserWarning):
    """A result is an estimate where a proved bound might be expected, or a bound that says nothing."""


class UnsoundTrainingError(EdgeworthError):
    """A training loop does not do what its accountant is told; the message lists the mistakes."""


class UnsoundTrainingWarning(UserWarning):
    """A training loop does not do what its accountant is told, so that the epsilon it reports may be too low."""
