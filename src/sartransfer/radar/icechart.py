"""What an ice chart says of a polygon, and the label that follows from it.

A polygon is a kind (ice, water, land), a total concentration, and up to three parts with their concentration, stage of
development and form. Labels: ice or water, concentration in tenths, stage of development, floe size. The classes of
stage and floe size, and the dominance of 65 %, are those of the AutoICE challenge (Stokholm et al., The Cryosphere,
2024, doi 10.5194/tc-18-3471-2024; tables of the AI4Arctic manual, doi 10.11583/DTU.c.6244065).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Literal

from sartransfer.errors import InputError, nearest, one_of
from sartransfer.radar.sigrid3 import (
    CONCENTRATIONS,
    FORMS,
    NOT_FILLED,
    POLY_TYPES,
    STAGES,
    UNDETERMINED,
    Kind,
    half_width,
    parse_code,
    parse_egg_code,
)

What = Literal["ice-water", "concentration", "stage", "floe"]
Coding = Literal["sigrid3", "egg"]
DOMINANCE = 0.65  # of the ice, by concentration: AutoICE
ICE_FROM = 1.0  # tenths; less is open water (WMO No. 259)
ROLES = ("POLY_TYPE", "CT", "CA", "SA", "FA", "CB", "SB", "FB", "CC", "SC", "FC")
FAST_ICE = 8


class Reason(IntEnum):
    """Why a pixel has no class; written as 255."""

    BUFFER = 249
    CONTRADICTORY = 250
    NOT_DOMINANT = 251
    NO_CLASS = 252
    UNKNOWN = 253
    LAND = 254
    NOT_CHARTED = 255


REASONS: dict[Reason, str] = {
    Reason.BUFFER: "near a polygon's edge",
    Reason.CONTRADICTORY: "contradictory: water with ice, parts over the total, or polygons that overlap",
    Reason.NOT_DOMINANT: "no class dominates",
    Reason.NO_CLASS: "of a stage or form without a class",
    Reason.UNKNOWN: "unknown or not filled",
    Reason.LAND: "land or ice shelf",
    Reason.NOT_CHARTED: "outside the chart",
}

STAGE_CLASSES: dict[int, int] = {
    81: 1, 82: 1, 83: 2, 84: 2, 85: 2, 87: 3, 88: 3, 89: 3, 86: 4, 91: 4, 93: 4, 95: 5, 96: 5, 97: 5,
}  # fmt: skip
"""Stage of development -> class. First-year ice that is not told apart (86) counts as thick, as in AutoICE; brash,
glacier ice and ice without a stage (which AutoICE calls water) have no class."""

FLOE_CLASSES: dict[int, int] = {2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 5, 9: 6, 10: 6}
"""Form of ice -> class; pancake, shuga, level and fast ice, strips and patches have none."""

CLASSES: dict[What, tuple[str, ...]] = {
    "ice-water": ("water", "ice"),
    "concentration": ("0/10", "1/10", "2/10", "3/10", "4/10", "5/10", "6/10", "7/10", "8/10", "9/10", "10/10"),
    "stage": ("open water", "new ice", "young ice", "thin first-year ice", "thick first-year ice", "old ice"),
    "floe": ("open water", "ice cake", "small floe", "medium floe", "big floe", "vast floe", "bergs"),
}  # fmt: skip
"""The classes of each label; a class's value is its place here."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the ices in a polygon."""

    concentration: float | None
    """Tenths of the area; None: not said."""
    stage: int | None
    """A key of `sigrid3.STAGES`; None: not said."""
    form: int | None
    """A key of `sigrid3.FORMS`; None: not said."""


@dataclass(frozen=True, slots=True)
class IcePolygon:
    """What a chart says of one polygon."""

    kind: Kind | None = None
    """None: not said."""
    total: float | None = None
    """Tenths; None: not said."""
    parts: tuple[Part, ...] = ()
    """Thickest first."""
    slack: float = field(default=0.0, compare=False)
    """Tenths by which the parts may pass the total: half the widths of the intervals they were given as."""

    def __post_init__(self) -> None:
        for tenths in (self.total, *(p.concentration for p in self.parts)):
            if tenths is not None and not 0 <= tenths <= 10:
                raise InputError(f"concentration {tenths} is not possible: 0 to 10 tenths.")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a chart say what, and in which code."""

    names: Mapping[str, str]
    """One of `ROLES` -> name of the column; found whatever its case."""
    coding: Coding = "sigrid3"
    undetermined: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Role -> codes that stand in these charts there and mean nothing."""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Role -> {what stands in the chart, whatever its case: its code}: for words and numbers of one's own."""
    assumed: bool = False
    """Nobody said that the numbers are SIGRID-3 codes: those that may be tenths or classes are refused."""

    def __post_init__(self) -> None:
        for role in (*self.names, *self.undetermined, *self.values):
            if role not in ROLES:
                raise InputError(one_of("column of an ice chart", role, ROLES))
        if self.coding not in ("sigrid3", "egg"):
            raise InputError(one_of("coding", self.coding, ("sigrid3", "egg")))
        for role, meant in self.values.items():
            for text, code in meant.items():
                if type(_read_code(code, role, self.coding)) is str:
                    allowed = ", ".join(
                        map(str, POLY_TYPES if role == "POLY_TYPE" else sorted(KNOWN[role[0]]))
                    )
                    raise InputError(
                        f"{text!r} of {role} is to be {code!r}, which is no code of {role} ({self.coding}): {allowed}."
                    )


KNOWN = {"C": frozenset(CONCENTRATIONS), "S": frozenset(STAGES), "F": frozenset(FORMS)}
"""First letter of a role -> its codes."""


def _read_code(value: object, role: str, coding: Coding) -> int | Kind | str | None:
    """Return a code of a role, None where nothing is said, or the text that is no code."""
    if role == "POLY_TYPE":
        text = "" if parse_code(value) == NOT_FILLED else str(value).strip()
        return POLY_TYPES.get(text.upper(), text) if text else None
    code = parse_egg_code(value, role) if coding == "egg" else parse_code(value)
    if code in (NOT_FILLED, UNDETERMINED):
        return None
    return code if isinstance(code, int) and code in KNOWN[role[0]] else str(value).strip()


SIGRID3 = Columns({role: role for role in ROLES})
EXTREMEEARTH = Columns(
    {"POLY_TYPE": "poly_type", "CT": "CT", "SA": "SA"},
    # ExtremeEarth v2 has these in SA: slips of typing (13, 45, 78 are concentrations) and -1 on land; its readers
    # (github.com/geohai/sea-ice-segment) put them into one class with 99.
    undetermined={"SA": frozenset({-1, 13, 45, 78})},
)
CIS_EGG = Columns({r: f"E_{r}" for r in ROLES if r != "POLY_TYPE"} | {"POLY_TYPE": "POLY_TYPE"}, "egg")
COLUMNS: dict[str, Columns] = {
    "sigrid3": SIGRID3,
    "extremeearth": EXTREMEEARTH,
    "ai4arctic": SIGRID3,
    "egg": replace(SIGRID3, coding="egg"),
    "cis-egg": CIS_EGG,
}
"""Charts that are known by name. ``cis-egg``: older charts of the Canadian Ice Service, E_CT, E_CA, E_SA ..."""


def choose_columns(
    found: Sequence[str],
    columns: Columns | Mapping[str, str] | str | None = None,
    *,
    coding: Coding | None = None,
    undetermined: Mapping[str, Iterable[int]] | None = None,
    values: Mapping[str, Mapping[str, str]] | None = None,
) -> Columns:
    """Return which of the `found` columns say what, as they are written there.

    Args:
        found: the chart's columns.
        columns: a key of `COLUMNS`; `Columns`; or {role: column} for columns of one's own. None: SIGRID-3 names, or
            those of ``cis-egg`` where they are there.
        coding: ``sigrid3`` or ``egg``. None: as `columns` has it; where that does not say it, SIGRID-3 is assumed,
            and numbers that may be something else are refused (`read_polygons`).
        undetermined, values: as in `Columns`, added to those of `columns`.

    Raises `InputError` if a column that was named is missing, or neither POLY_TYPE nor CT can be found.
    """
    by_name = {name.upper(): name for name in found}
    assumed = False
    if isinstance(columns, str):
        if columns not in COLUMNS:
            raise InputError(one_of("columns", columns, COLUMNS))
        wanted = COLUMNS[columns]
    elif isinstance(columns, Columns):
        wanted = columns
    elif columns is not None:
        wanted, assumed = Columns(dict(columns)), True
        for role, name in wanted.names.items():
            if name.upper() not in by_name:
                raise InputError(
                    f"column {name!r} (for {role}) is not in the chart: {', '.join(found)}.{nearest(name, found)}"
                )
    else:
        wanted = CIS_EGG if "E_CT" in by_name and "CT" not in by_name else SIGRID3
        assumed = wanted is SIGRID3
    names = {r: by_name[n.upper()] for r, n in wanted.names.items() if n.upper() in by_name}
    if "POLY_TYPE" not in names and "CT" not in names:
        raise InputError(
            f"the chart says neither the kind of its polygons (POLY_TYPE) nor their concentration (CT); it has "
            f"{', '.join(found) or 'no columns'}. Name them: --columns CT=MY_COLUMN, or "
            '--columns POLY_TYPE=MY_COLUMN and what its words mean, --value ice=I (columns={"CT": "my_column"}).'
        )
    for role in values or ():
        if role in ROLES and role not in names:
            raise InputError(
                f"values of {role} are named, but no column of it: --columns {role}=MY_COLUMN. The chart has "
                f"{', '.join(found)}."
            )
    apart = dict(wanted.undetermined)
    for role, codes in (undetermined or {}).items():
        apart[role] = apart.get(role, frozenset()) | frozenset(codes)
    meant = dict(wanted.values)
    for role, words in (values or {}).items():
        meant[role] = {**meant.get(role, {}), **words}
    return replace(
        wanted,
        names=names,
        coding=coding or wanted.coding,
        undetermined=apart,
        values=meant,
        assumed=wanted.assumed or (assumed and coding is None),
    )


def read_polygons(columns: Columns, table: Mapping[str, Sequence[object]]) -> list[IcePolygon]:
    """Read what a chart says of its polygons.

    Args:
        columns: as `choose_columns` returns them.
        table: column -> one value a polygon.

    Raises `InputError` for codes that are not known, naming each with its column and the number of polygons; and,
    where nobody said that they are SIGRID-3 codes, for concentrations that may as well be tenths, fractions or
    classes of one's own.
    """
    count = len(next(iter(table.values()), ()))
    unknown: Counter[tuple[str, str]] = Counter()
    codes: dict[str, list[int | None]] = {}
    kinds: list[Kind | None] = [None] * count
    for role, name in columns.names.items():
        meant = {_word(text): code for text, code in columns.values.get(role, {}).items()}
        if role == "CT" and columns.assumed and columns.coding == "sigrid3":
            rest = [value for value in table[name] if _word(value) not in meant]
            _refuse_tenths(name, rest, own=bool(meant) or name.upper() != role)
        codes[role] = []
        for i, found in enumerate(table[name]):
            value = meant.get(_word(found), found)
            code = _read_code(value, role, columns.coding)
            if isinstance(code, Kind):
                kinds[i], code = code, None
            elif role != "POLY_TYPE" and parse_code(value) in columns.undetermined.get(role, ()):
                code = None
            elif isinstance(code, str):
                unknown[name, code] += 1
                code = None
            codes[role].append(code)
    if unknown:
        listed = ", ".join(f"{name}={text} ({n} polygons)" for (name, text), n in sorted(unknown.items()))
        raise InputError(
            f"codes that are not known ({columns.coding}): {listed}. Correct the chart, name other columns "
            "(--columns), say what words or numbers of your own mean (--value ice=I, --value CT:0.5=50), or the code "
            '(--coding egg), or what means nothing (--undetermined SA=13; undetermined={"SA": {13}}).'
        )
    return [_polygon(kinds[i], {role: values[i] for role, values in codes.items()}) for i in range(count)]


def _word(value: object) -> str:
    """Return what stands in a chart so that ``Ice`` and ``ice``, 1 and ``"01"`` and 1.0 are one."""
    return str(parse_code(value)).casefold()


def _refuse_tenths(name: str, values: Sequence[object], *, own: bool) -> None:
    """Refuse concentrations that need not be SIGRID-3 codes: 0 to 10 and fractions, and nothing beyond.

    Two digits (``01``), or any greater code (46, 55, 98), show that they are. In a column of the standard's own name
    whole numbers 0, 1 and 2 pass: ice free, open water, bergy water.
    """
    codes = [parse_code(value) for value in values]
    numbers = {code for code in codes if isinstance(code, int) and code != NOT_FILLED}
    parts = {str(code) for code in codes if isinstance(code, str) and _is_number(code)}
    numbers.discard(UNDETERMINED)  # which charts of one's own have too
    padded = any(str(value).strip() in ("00", "01", "02") for value in values)
    if padded or any(number > 10 for number in numbers):
        return
    real = own or any(isinstance(value, float) for value in values)
    if not (parts or numbers & set(range(3, 11)) or (real and numbers & {1, 2})):
        return
    listed = ", ".join([*map(str, sorted(numbers)), *sorted(parts)][:12])
    raise InputError(
        f"column {name} (CT) holds {listed} and no code of 20 or more: these look like tenths, fractions or classes, "
        "where SIGRID-3 has 00, 01 and 02 for water, 10 for one tenth, 20 ... 90, 91, 92, and intervals such as 46. "
        f"Say what they are: --coding egg for tenths 0 to 10; --columns POLY_TYPE={name} --value 1=I --value 0=W for "
        "classes of your own; --value CT:0.5=50 and so on for others; --coding sigrid3 if they are these codes "
        "(coding=, columns=, values=)."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_polygon_codes(lines: Iterable[str]) -> dict[int, IcePolygon]:
    """Read AI4Arctic's ``polygon_codes``: a first line of names, then one line a polygon, fields joined by ``;``.

    Returns polygon number -> polygon. Raises `InputError` if the first line names no ``id``, a line has another
    number of fields, or a code is not known.
    """
    rows = [[v.strip() for v in line.split(";")] for line in lines]
    if not rows or not rows[0] or rows[0][0].lower() not in ("id", "poly_id"):
        raise InputError(
            "polygon_codes does not begin with a line 'id;CT;CA;SA;...'. Download the file again."
        )
    names = rows.pop(0)
    odd = next((r for r in rows if len(r) != len(names)), None)
    if odd is not None:
        raise InputError(f"polygon_codes: {';'.join(odd)!r} has {len(odd)} fields, not {len(names)}.")
    table = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    numbers = [parse_code(v) for v in table[names[0]]]
    if not all(isinstance(n, int) for n in numbers):
        raise InputError(f"polygon_codes: ids must be whole numbers: {', '.join(map(str, numbers[:5]))} ...")
    polygons = read_polygons(choose_columns(names, "ai4arctic"), table)
    return {int(n): p for n, p in zip(numbers, polygons, strict=True)}


def label_value(polygon: IcePolygon, what: What = "ice-water", dominance: float = DOMINANCE) -> int:
    """Return the class of a polygon (its place in `CLASSES`), or the `Reason` why it has none.

    Args:
        polygon: what the chart says.
        what: ``ice-water``: ice from a tenth on, and where only the kind says so. ``concentration``: in tenths, the
            middle of an interval, halves upwards (so that 9+ is 10/10). ``stage``, ``floe``: the class with at least
            `dominance` of the ice, parts of one class added up; open water where there is less than a tenth.
        dominance: over 0.5, at most 1.

    A part without a concentration is all the ice where it is the only part; where there are others, its share is not
    known. Fast ice in any part leaves a floe size out (AutoICE). What contradicts itself has no class: water with a
    tenth of ice or more, in all or in one part; and, for all but ``ice-water`` (both readings are ice there), parts
    that add up to more than the total and the widths of its intervals allow. Raises `InputError` for another `what` or
    `dominance`.
    """
    if what not in CLASSES:
        raise InputError(one_of("what", what, CLASSES))
    if not 0.5 < dominance <= 1:
        raise InputError(
            f"dominance={dominance}: must be over 0.5 (or two classes could dominate), at most 1."
        )
    if polygon.kind in (Kind.LAND, Kind.SHELF):
        return Reason.LAND
    if polygon.kind is Kind.NO_DATA or (polygon.kind is None and polygon.total is None):
        return Reason.UNKNOWN
    if polygon.kind is Kind.WATER and (polygon.total or 0.0) >= ICE_FROM:
        return Reason.CONTRADICTORY
    is_ice = polygon.kind is Kind.ICE if polygon.total is None else polygon.total >= ICE_FROM
    tenths = [part.concentration for part in polygon.parts if part.concentration is not None]
    if not is_ice and max(tenths, default=0.0) >= ICE_FROM:
        return Reason.CONTRADICTORY
    if what == "ice-water":
        return int(is_ice)
    if not is_ice:
        return 0
    if polygon.total is not None and sum(tenths) > polygon.total + polygon.slack + 1e-9:
        return Reason.CONTRADICTORY
    if what == "concentration":
        return Reason.UNKNOWN if polygon.total is None else int(polygon.total + 0.5)
    if what == "floe" and any(part.form == FAST_ICE for part in polygon.parts):
        return Reason.NO_CLASS
    if what == "stage":
        return _dominant(polygon, lambda p: p.stage, STAGE_CLASSES, dominance)
    return _dominant(polygon, lambda p: p.form, FLOE_CLASSES, dominance)


def _dominant(
    polygon: IcePolygon, code: Callable[[Part], int | None], classes: Mapping[int, int], dominance: float
) -> int:
    """Return the class that has its share of the ice, or why there is none."""
    codes = [code(part) for part in polygon.parts]
    tenths = [part.concentration for part in polygon.parts]
    if len(tenths) == 1 and tenths[0] is None:
        tenths = [10.0 if polygon.total is None else polygon.total]
    known = [t for t in tenths if t is not None]
    if len(known) < len(tenths) or all(c is None for c in codes):
        return Reason.UNKNOWN
    shares: dict[int, float] = {}
    for found, share in zip(codes, known, strict=True):
        value = int(Reason.UNKNOWN) if found is None else classes.get(found, int(Reason.NO_CLASS))
        shares[value] = shares.get(value, 0.0) + share
    best = max(shares, key=lambda value: shares[value])
    whole = max(sum(known), polygon.total or 0.0)
    return best if shares[best] >= dominance * whole - 1e-9 else Reason.NOT_DOMINANT


def _polygon(kind: Kind | None, codes: Mapping[str, int | None]) -> IcePolygon:
    def tenths(role: str) -> float | None:
        code = codes.get(role)
        return None if code is None else CONCENTRATIONS[code]

    parts = []
    slack = sum(
        half_width(code) for role in ("CT", "CA", "CB", "CC") if (code := codes.get(role)) is not None
    )
    for letter in "ABC":
        part = Part(tenths(f"C{letter}"), codes.get(f"S{letter}"), codes.get(f"F{letter}"))
        if part != Part(None, None, None):
            parts.append(part)
    return IcePolygon(kind, tenths("CT"), tuple(parts), slack)
