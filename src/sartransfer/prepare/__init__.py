"""From what agencies and annotators hand out to scenes, masks and patches with labels."""

from sartransfer.prepare.flood import PreparedFlood, prepare_flood
from sartransfer.prepare.icechart import PreparedLabel, prepare_icechart
from sartransfer.prepare.patches import PreparedPatches, prepare_patches
from sartransfer.prepare.sentinel1 import PreparedScene, prepare_sentinel1
from sartransfer.prepare.tiles import PreparedTiles, TileSettings, pair_catalog, prepare_tiles

__all__ = [
    "PreparedFlood",
    "PreparedLabel",
    "PreparedPatches",
    "PreparedScene",
    "PreparedTiles",
    "TileSettings",
    "pair_catalog",
    "prepare_flood",
    "prepare_icechart",
    "prepare_patches",
    "prepare_sentinel1",
    "prepare_tiles",
]
