"""From what agencies and annotators hand out to scenes, masks and patches with labels."""

from sartransfer.prepare.flood import PreparedFlood, prepare_flood
from sartransfer.prepare.patches import PreparedPatches, prepare_patches

__all__ = ["PreparedFlood", "PreparedPatches", "prepare_flood", "prepare_patches"]
