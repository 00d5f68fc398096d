"""Images of a flood from public archives: what is there, what of it is taken, and two dates on one grid."""

from sartransfer.fetch.flood import FetchedFlood, FetchPlan, fetch_flood, plan_flood, read_provenance
from sartransfer.fetch.presets import PRESETS, FloodPreset
from sartransfer.fetch.request import Area, FloodRequest, Period, parse_box, parse_period, read_area
from sartransfer.fetch.sources import SOURCES, open_archive

__all__ = [
    "PRESETS",
    "SOURCES",
    "Area",
    "FetchPlan",
    "FetchedFlood",
    "FloodPreset",
    "FloodRequest",
    "Period",
    "fetch_flood",
    "open_archive",
    "parse_box",
    "parse_period",
    "plan_flood",
    "read_area",
    "read_provenance",
]
