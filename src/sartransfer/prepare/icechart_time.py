"""How far an ice chart and a scene lie apart in time."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sartransfer.errors import InputError
from sartransfer.geotiff import GeoTiffSource
from sartransfer.scene import Scene

# seaice_s1_20180116t075430, 201801241950_SouthEast_RIC, cis_SGRDREA_20180101T1800Z_pl_a, a Sentinel-1 product's name
_STAMP = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_/]?(0[1-9]|1[0-2])[-_/]?([0-2]\d|3[01])"
    r"(?:[Tt _]?([01]\d|2[0-3]):?([0-5]\d):?([0-5]\d)?)?(?!\d)"
)


@dataclass(frozen=True, slots=True)
class Span:
    """A time as well as it is known, in UTC: a moment, or a whole day where only the date is said."""

    start: datetime
    end: datetime

    def hours_to(self, other: "Span") -> float:
        """Return the hours between the two; 0 where they touch."""
        gap = max(self.start - other.end, other.start - self.end, timedelta(0))
        return gap.total_seconds() / 3600

    def most_hours_to(self, other: "Span") -> float:
        """Return the hours that the two may lie apart at most."""
        return max(abs(self.end - other.start), abs(other.end - self.start)).total_seconds() / 3600

    @property
    def is_day(self) -> bool:
        """Say whether only the date is known."""
        return self.end > self.start

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d}" if self.is_day else f"{self.start:%Y-%m-%d %H:%M:%S} UTC"


def parse_span(value: datetime | str, where: str) -> Span:
    """Read a time: a datetime (naive is UTC), ISO 8601, or digits as agencies write them (20180116t075430).

    Raises `InputError`, naming `where` it stands, for text that is none.
    """
    if isinstance(value, datetime):
        return _moment(value)
    text = str(value).strip()
    found = _find(text)
    try:
        parsed = _moment(datetime.fromisoformat(text))
    except ValueError as error:
        if found is None:
            raise InputError(f"{where}: {text!r} is no time. Write it as 2018-01-16T07:54:30.") from error
        return found
    return found if found is not None and found.is_day else parsed


def chart_span(
    path: Path, chart_time: datetime | str | None, column: str | None, values: Iterable[object]
) -> tuple[Span, ...]:
    """Return the time or times of a chart: given, or from its column, or from its name; () where nothing says it.

    Raises `InputError` for text that is no time, and a name with several dates.
    """
    if chart_time is not None:
        return (parse_span(chart_time, "--chart-time (chart_time)"),)
    if column is not None:
        texts = dict.fromkeys(str(v) for v in values)
        return tuple(parse_span(text, f"{path}, column {column}") for text in texts)
    found = _only(path.stem, str(path), "--chart-time (chart_time=)")
    return () if found is None else (found,)


def scene_span(scene: Scene, scene_time: datetime | str | None) -> Span | None:
    """Return when a scene was taken: given, or as it says itself, or its file's tag START, or its name."""
    if scene_time is not None:
        return parse_span(scene_time, "--scene-time (scene_time)")
    if scene.time is not None:
        return _moment(scene.time)
    if isinstance(scene.source, GeoTiffSource):
        import rasterio

        with rasterio.open(scene.source.path.resolve(), driver="GTiff") as file:
            start = file.tags().get("START")
        if start:
            return parse_span(start, f"{scene.source.path}, tag START")
    return _only(scene.id, f"scene {scene.id!r}", "--scene-time (scene_time=)")


def check_time(
    path: Path, scene: Scene, charts: tuple[Span, ...], taken: Span | None, most: float
) -> tuple[float, str | None]:
    """Return the hours between a scene and its chart, and a warning where only a date is known.

    Of several times of a chart, and of the hours of a day where only the date is known, those farthest off count for
    what is returned. What is refused is what lies more than `most` hours off even at the nearest hour of its day.

    Raises `InputError` if one of the times is not known, or they lie more than `most` hours apart.
    """
    if not charts:
        raise InputError(
            f"{path} does not say when it is valid. Give --chart-time (chart_time=), or the column with its time: "
            "--time-column (time_column=); or leave the check out: --any-time (max_hours=None)."
        )
    if taken is None:
        raise InputError(
            f"scene {scene.id!r} does not say when it was taken. Give --scene-time (scene_time=), or leave the check "
            "out: --any-time (max_hours=None)."
        )
    far = max(charts, key=taken.hours_to)
    hours = taken.hours_to(far)
    if hours > most:
        raise InputError(
            f"{path} is of {far}, scene {scene.id!r} of {taken}: {hours:.1f} hours apart, more than max_hours="
            f"{most:g}. Ice drifts by kilometres a day: take the chart of that day, or allow more (--max-hours)."
        )
    farthest = max(taken.most_hours_to(chart) for chart in charts)
    days = [name for name, known in (("chart", charts), ("scene", (taken,))) if any(s.is_day for s in known)]
    if not days:
        return farthest, None
    whose = " and the ".join(f"{name}'s" for name in days)
    flags = " and ".join(f"--{name}-time" for name in days)
    return farthest, (
        f"only the {whose} date is known: up to {farthest:.1f} h apart. Give {flags} where you know the hour"
    )


def _only(text: str, where: str, fix: str) -> Span | None:
    """Return the one time in a name, the first of several on one date or within an hour (a scene's start and end)."""
    found = [span for match in _STAMP.finditer(text) if (span := _span(match)) is not None]
    for other in found[1:]:
        close = not (other.is_day or found[0].is_day) and other.hours_to(found[0]) <= 1
        if other.start.date() != found[0].start.date() and not close:
            raise InputError(
                f"{where} has two dates in its name, {found[0]} and {other}. Say which counts: {fix}."
            )
    return next((span for span in found if not span.is_day), found[0] if found else None)


def _find(text: str) -> Span | None:
    match = _STAMP.search(text)
    return None if match is None else _span(match)


def _span(match: "re.Match[str]") -> Span | None:
    year, month, day, hour, minute, second = match.groups()
    try:
        date = datetime(int(year), int(month), int(day), tzinfo=UTC)
    except ValueError:  # 31 February
        return None
    if hour is None:
        return Span(date, date + timedelta(days=1))
    return _moment(date + timedelta(hours=int(hour), minutes=int(minute), seconds=int(second or 0)))


def _moment(value: datetime) -> Span:
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return Span(moment, moment)
