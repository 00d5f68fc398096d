"""From what agencies and annotators hand out to scenes and patches with labels."""

from sartransfer.prepare.patches import PreparedPatches, prepare_patches

__all__ = ["PreparedPatches", "prepare_patches"]
