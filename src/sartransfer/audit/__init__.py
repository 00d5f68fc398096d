"""Published numbers worked out again: what fits together, what cannot be, and the smallest slip that makes it."""

from sartransfer.audit.checks import Finding, audit_claims
from sartransfer.audit.claims import Claims, Printed, Row, example_claims, parse_printed, read_claims
from sartransfer.audit.explanations import Explanation, explain_iou

__all__ = [
    "Claims",
    "Explanation",
    "Finding",
    "Printed",
    "Row",
    "audit_claims",
    "example_claims",
    "explain_iou",
    "parse_printed",
    "read_claims",
]
