"""The part of a recipe that says by what else pixels are scored: angle, distance from a seam, from a polygon edge."""

from itertools import pairwise
from typing import Self

from pydantic import model_validator

from sartransfer.recipe.strict import Strict

Bins = tuple[float, ...]
KINDS = ("incidence_angle_deg", "seam_m", "edge_m", "edge_px", "polygon_edge_m", "polygon_edge_px")
"""Kinds of strata, each of which has its bins."""


class StrataRecipe(Strict):
    """Scores of test scenes by strata of their pixels; each kind that is given is counted, with its bins.

    Angles are the edges of their bins, rising: [20, 30, 40] is two bins, each with its lower edge, the last with both;
    other angles are in no bin. Distances are the lower edges: [0, 1000, 5000] is three bins, the last without an end.
    """

    incidence_angle_deg: Bins = ()
    """By incidence angle, in degrees; test scenes need a band of incidence angles."""
    seam_m: Bins = ()
    """By distance from the nearest seam between sub-swaths, in metres; test scenes must say where their seams are,
    or `seams_deg` must."""
    seams_deg: Bins = ()
    """Incidence angles at which sub-swaths meet, for the scenes that do not say where (those made of products without
    azimuth noise vectors); good to a kilometre or so, since a seam's angle moves with the terrain and the orbit."""
    edge_m: Bins = ()
    """By distance from the nearest place where the label changes, in metres: edges of ice, coasts, what is unknown."""
    edge_px: Bins = ()
    """The same in pixels, for scenes that do not lie on a map."""
    polygon_edge_m: Bins = ()
    """By distance from the nearest edge of a polygon of the chart, two of one class too, in metres; test scenes need a
    raster of the polygons' numbers, as `sartransfer prepare icechart --polygons` and simulated scenes make it."""
    polygon_edge_px: Bins = ()
    """The same in pixels."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for name in KINDS:
            edges = getattr(self, name)
            if edges and (len(edges) < 2 or any(b <= a for a, b in pairwise(edges))):
                raise ValueError(f"{name} must be two or more edges of bins, rising, not {list(edges)}")
        for name in ("edge", "polygon_edge"):
            if getattr(self, f"{name}_m") and getattr(self, f"{name}_px"):
                raise ValueError(f"give either `{name}_m` or `{name}_px`, not both")
        if self.seams_deg and not self.seam_m:
            raise ValueError("`seams_deg` goes with `seam_m`: the bins of the distance")
        if not self.bins:
            raise ValueError(f"name at least one of {', '.join(KINDS)}")
        return self

    @property
    def bins(self) -> dict[str, Bins]:
        """The kinds that are counted, with the edges of their bins."""
        return {name: getattr(self, name) for name in KINDS if getattr(self, name)}
