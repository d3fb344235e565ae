"""One page for a privacy reviewer: claim, assumptions, curve, risks and certificate (extra `report`)."""

from opacus_edgeworth.report.content import Report, make_report
from opacus_edgeworth.report.page import write_report

__all__ = ["Report", "make_report", "write_report"]
