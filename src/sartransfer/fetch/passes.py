"""Which images to take: passes of one orbit, and the orbit that covers most of the area before and after."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from shapely import union_all
from shapely.geometry.base import BaseGeometry

from sartransfer.errors import FetchError
from sartransfer.fetch.request import Area, FloodRequest

SAME_PASS = timedelta(
    minutes=20
)  # frames of one pass follow each other in seconds; the next is 98 minutes away
MODE = "IW"

Orbit = tuple[str, int | None]
"""Pass and relative orbit; empty and None where the archive does not say them."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One frame of Sentinel-1 as an archive describes it."""

    id: str
    time: datetime
    orbit_pass: str
    """``ascending`` or ``descending``; empty where the archive does not say it."""
    relative_orbit: int | None
    """None where the archive does not say it: usable only where orbits may be mixed."""
    footprint: BaseGeometry = field(repr=False)
    """Degrees of longitude and latitude."""
    polarizations: tuple[str, ...]
    mode: str = MODE
    platform: str = ""
    size: int | None = None
    """Bytes of its files in the archive, where it says so."""
    source: Any = field(default=None, repr=False, compare=False)
    """What the archive needs to load it."""

    @property
    def orbit(self) -> Orbit:
        """Pass and relative orbit."""
        return self.orbit_pass, self.relative_orbit


@dataclass(frozen=True, slots=True)
class Pass:
    """Frames that one satellite took in one go, earliest first."""

    frames: tuple[Acquisition, ...]
    coverage: float
    """Share of the area within the footprints."""

    @property
    def time(self) -> datetime:
        """Of the first frame."""
        return self.frames[0].time

    @property
    def orbit(self) -> Orbit:
        """Pass and relative orbit."""
        return self.frames[0].orbit


@dataclass(frozen=True, slots=True)
class Choice:
    """What is taken of each period, and why."""

    before: tuple[Pass, ...]
    after: tuple[Pass, ...]
    why: str
    warnings: tuple[str, ...] = ()


def usable(found: Iterable[Acquisition], request: FloodRequest) -> tuple[list[Acquisition], dict[str, int]]:
    """Return the acquisitions that the request's filters keep, by time, and how many fell to which filter."""
    kept: list[Acquisition] = []
    dropped: dict[str, int] = {}
    for one in sorted(found, key=lambda a: (a.time, a.id)):
        reason = _reason(one, request)
        if reason is None:
            kept.append(one)
        else:
            dropped[reason] = dropped.get(reason, 0) + 1
    return kept, dropped


def _reason(one: Acquisition, request: FloodRequest) -> str | None:
    lacking = [p for p in request.polarizations if p not in one.polarizations]
    if one.mode != MODE:
        return f"mode {one.mode}, not {MODE}"
    if lacking:
        return f"without {' and '.join(lacking)}"
    if request.orbit_pass not in (None, one.orbit_pass):
        return f"not {request.orbit_pass}"
    if request.relative_orbit not in (None, one.relative_orbit):
        return f"not of relative orbit {request.relative_orbit}"
    if not request.mix_orbits and (one.relative_orbit is None or not one.orbit_pass):
        return "without a relative orbit or pass (needed unless --mix-orbits)"
    return None if one.footprint.intersects(request.area.geometry) else "beside the area"


def passes_of(frames: Sequence[Acquisition], area: Area) -> list[Pass]:
    """Group frames into passes: one platform and orbit, with no gap of over 20 minutes; by time."""
    groups: list[list[Acquisition]] = []
    for one in sorted(frames, key=lambda a: (a.orbit_pass, a.relative_orbit or 0, a.platform, a.time, a.id)):
        last = groups[-1][-1] if groups else None
        near = last is not None and (last.orbit, last.platform) == (one.orbit, one.platform)
        if near and last is not None and one.time - last.time <= SAME_PASS:
            groups[-1].append(one)
        else:
            groups.append([one])
    return sorted((Pass(tuple(g), covered_share(g, area)) for g in groups), key=lambda p: p.time)


def covered_share(frames: Iterable[Acquisition], area: Area) -> float:
    """Return the share of the area within the frames' footprints; in degrees, which a share does not mind."""
    union = union_all([f.footprint for f in frames])
    return float(min(union.intersection(area.geometry).area / area.geometry.area, 1.0))


def choose_passes(
    before: Sequence[Acquisition], after: Sequence[Acquisition], request: FloodRequest
) -> Choice:
    """Choose the orbit whose passes cover most of the area before and after, and of each period its passes.

    Orbits are ranked by the smaller of their two coverages, then by their sum, then by the fewer days between the
    dates. With ``dates="one"`` a period's pass is the one that covers most; of equal ones the last before and the
    first after. Raises `FetchError` where a period is empty or no orbit has both, unless orbits may be mixed.
    """
    for name, found in (("before", before), ("after", after)):
        if not found:
            raise FetchError(f"there is no usable image {name} ({getattr(request, name)}). Widen the period.")
    sides = [_by_orbit(found, request, last) for found, last in ((before, True), (after, False))]
    shared = [orbit for orbit in sides[0] if orbit in sides[1] and orbit[0] and orbit[1] is not None]
    if not shared and not request.mix_orbits:
        raise FetchError(
            f"no relative orbit has images both before ({_orbits(sides[0])}) and after ({_orbits(sides[1])}). Widen "
            "the periods (an orbit comes back after 12 days), or allow it with mix_orbits=True (--mix-orbits): "
            "another look direction changes the image as a flood does."
        )
    if shared:
        best = max(shared, key=lambda o: _rank(sides[0][o], sides[1][o], request))
        why = f"{best[0]}, relative orbit {best[1]}: "
        why += "the only one" if len(shared) == 1 else f"covers most of {len(shared)} orbits"
        return Choice(sides[0][best], sides[1][best], f"{why} with images before and after")
    one, two = (max(s.values(), key=lambda p: (round(_cover(p, request), 3), p[-1].time)) for s in sides)
    words = [_named(p[0].orbit) for p in (one, two)]
    return Choice(
        one,
        two,
        f"before {words[0]}, after {words[1]}: no orbit has both, and mixing was allowed",
        (f"before is of orbit {words[0]}, after of {words[1]}: differences of geometry look like change.",),
    )


def _by_orbit(
    found: Sequence[Acquisition], request: FloodRequest, last: bool
) -> dict[Orbit, tuple[Pass, ...]]:
    by_orbit: dict[Orbit, list[Pass]] = {}
    for one in passes_of(found, request.area):
        by_orbit.setdefault(one.orbit, []).append(one)
    if request.dates == "all":
        return {orbit: tuple(passes) for orbit, passes in by_orbit.items()}
    # max keeps the first of equal ones: order by what is preferred
    return {
        orbit: (max(reversed(passes) if last else passes, key=lambda p: round(p.coverage, 3)),)
        for orbit, passes in by_orbit.items()
    }


def _cover(passes: Sequence[Pass], request: FloodRequest) -> float:
    return covered_share([f for p in passes for f in p.frames], request.area)


def _rank(one: Sequence[Pass], two: Sequence[Pass], request: FloodRequest) -> tuple[float, float, float]:
    covers = [round(_cover(p, request), 3) for p in (one, two)]
    return min(covers), sum(covers), -(two[0].time - one[-1].time).total_seconds()


def _orbits(side: dict[Orbit, tuple[Pass, ...]]) -> str:
    return ", ".join(_named(orbit) for orbit in side)


def _named(orbit: Orbit) -> str:
    return f"{orbit[0] or 'not known'} {'not known' if orbit[1] is None else orbit[1]}"
