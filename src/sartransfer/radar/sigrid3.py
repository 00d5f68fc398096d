"""The codes of ice charts: WMO's SIGRID-3 and the symbols of the egg code.

Sources: SIGRID-3: A Vector Archive Format for Sea Ice Georeferenced Information and Data, JCOMM Technical Report 23,
WMO/TD-No. 1214 (2004; versions 2007, 2010, 2014; ETSI Doc 3.1.2 revision 3.1): tables of concentration, stage of
development, form of ice and polygon type; WMO No. 259, Sea Ice Nomenclature, vol. III: the egg and its symbols.
"""

import math
from enum import StrEnum

from sartransfer.errors import InputError

NOT_FILLED = -9
UNDETERMINED = 99


class Kind(StrEnum):
    """What a polygon is (POLY_TYPE)."""

    ICE = "ice"
    WATER = "water"
    LAND = "land"
    SHELF = "ice shelf"
    NO_DATA = "no data"


POLY_TYPES = {"I": Kind.ICE, "W": Kind.WATER, "L": Kind.LAND, "S": Kind.SHELF, "N": Kind.NO_DATA}

# In tenths; an interval is its middle. Ice free is 00, 55 in the report's first version, and 98 in older charts of
# the U.S. National Ice Center. 01 (open water) and 02 (bergy water) are less than a tenth.
CONCENTRATIONS: dict[int, float] = {
    0: 0.0, 55: 0.0, 98: 0.0, 1: 0.5, 2: 0.5,
    10: 1.0, 20: 2.0, 30: 3.0, 40: 4.0, 50: 5.0, 60: 6.0, 70: 7.0, 80: 8.0, 90: 9.0, 92: 10.0,
    12: 1.5, 13: 2.0, 23: 2.5, 24: 3.0, 34: 3.5, 35: 4.0, 45: 4.5, 46: 5.0, 56: 5.5, 57: 6.0,
    67: 6.5, 68: 7.0, 78: 7.5, 79: 8.0, 81: 9.0, 89: 8.5, 91: 9.5,
}  # fmt: skip
"""Code of CT, CA, CB, CC -> tenths. 81 is 8/10 to 10/10, 91 is 9/10 to 10/10 ("9+")."""

STAGES: dict[int, str] = {
    0: "ice free", 55: "ice free", 70: "brash ice", 80: "no stage of development",
    81: "new ice", 82: "nilas, ice rind", 83: "young ice", 84: "grey ice", 85: "grey-white ice",
    86: "first-year ice", 87: "thin first-year ice", 88: "thin first-year ice, stage 1",
    89: "thin first-year ice, stage 2", 91: "medium first-year ice", 93: "thick first-year ice",
    95: "old ice", 96: "second-year ice", 97: "multi-year ice", 98: "glacier ice",
}  # fmt: skip
"""Code of SA, SB, SC, CN, CD -> words."""

# Pancake ice was 00 up to version 3.0 and is 22 since revision 3.1 (so in AI4Arctic, where 00 is ice free): neither
# is a floe size, and so nothing hangs on the version.
FORMS: dict[int, str] = {
    0: "pancake ice, or ice free", 22: "pancake ice", 1: "shuga, small ice cake, brash ice (< 2 m)",
    2: "ice cake (< 20 m)", 3: "small floe (20 to 100 m)", 4: "medium floe (100 to 500 m)",
    5: "big floe (500 m to 2 km)", 6: "vast floe (2 to 10 km)", 7: "giant floe (> 10 km)", 8: "fast ice",
    9: "growlers, floebergs, floebits", 10: "icebergs", 21: "level ice", 91: "strips and patches, 9+/10",
    **{n: f"strips and patches, {n - 10}/10" for n in range(11, 21)},
}  # fmt: skip
"""Code of FA, FB, FC -> words."""

EGG_CONCENTRATIONS: dict[str, int] = {
    "<1": 1, "0": 1, "OW": 1, "BW": 2, "IF": 0, "9+": 91, "9+/10": 91, "10": 92, "X": UNDETERMINED,
    **{str(n): 10 * n for n in range(1, 10)},
}  # fmt: skip
"""Symbol of the egg's first and second row -> SIGRID-3; intervals such as 4-6 are read too."""

EGG_STAGES: dict[str, int] = {
    "0": 80, "-": 70, "1": 81, "2": 82, "3": 83, "4": 84, "5": 85, "6": 86, "7": 87, "8": 88, "9": 89,
    "1.": 91, "4.": 93, "7.": 95, "8.": 96, "9.": 97, "L": 98, "▲": 98, "▲.": 98, "X": UNDETERMINED,
}  # fmt: skip
"""Symbol of the egg's third row -> SIGRID-3; the point may be written ``.``, ``•`` or ``·``."""

EGG_FORMS: dict[str, int] = {**{str(n): n for n in range(1, 9)}, "0": 22, "9": 10, "X": UNDETERMINED}
"""Symbol of the egg's fourth row -> SIGRID-3; 8 is fast ice, 9 icebergs."""


def half_width(concentration: int) -> float:
    """Return half the width of a code of CONCENTRATIONS in tenths: 0 for a single tenth, 1 for 46 (4/10 to 6/10).

    An interval is its lowest and its highest tenth; 81 and 91 end at 10/10; 01 and 02 are 0 to 1/10.
    """
    if concentration in (1, 2):
        return 0.5
    if concentration % 10 == 0 or concentration in (55, 92, 98):
        return 0.0
    low, high = divmod(concentration, 10)
    return ((10 if high == 1 else high) - low) / 2


_EMPTY = ("", "-9", "-99", "9-", "none", "null", "nan")


def parse_code(value: object) -> int | str:
    """Return a code as a number, `NOT_FILLED` where nothing stands there, or the text that is no number.

    ``"08"``, ``8`` and ``8.0`` are one code; empty, None, NaN, -9 and -99 are not filled.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOT_FILLED
    text = str(value).strip()
    if text.lower() in _EMPTY:
        return NOT_FILLED
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number) or number != int(number):
        return text
    return NOT_FILLED if int(number) in (NOT_FILLED, -99) else int(number)


def parse_egg_code(value: object, role: str) -> int | str:
    """Return the SIGRID-3 code of an egg's symbol, `NOT_FILLED`, or the symbol where it is not known.

    Args:
        value: what stands in the chart: ``9+``, ``7.``, ``4-6``.
        role: the SIGRID-3 name of its place: CT, CA, SA, FA ... A number of two digits is SIGRID-3 already only in
            a chart of SIGRID-3 codes: here ``10`` is ten tenths.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOT_FILLED
    text = str(value).strip().upper().replace("•", ".").replace("·", ".")
    if role[0] == "S" and text == "-":
        return EGG_STAGES["-"]
    if text.lower() in _EMPTY or text == "-" or value in (-9, -99):
        return NOT_FILLED
    # Columns of numbers with gaps come as 4.0; a stage that is written 1. must stay apart from 1.
    if isinstance(value, float) and role[0] != "S":
        text = text.removesuffix(".0")
    table = {"C": EGG_CONCENTRATIONS, "S": EGG_STAGES, "F": EGG_FORMS}[role[0]]
    if text in table:
        return table[text]
    low, dash, high = text.partition("-")
    if role[0] == "C" and dash and low.isdigit() and high.isdigit():
        code = 10 * int(low) + (1 if high == "10" else int(high))
        if int(low) < int(high) <= 10 and code in CONCENTRATIONS:
            return code
    return text


def parse_egg(text: str) -> dict[str, int]:
    """Read an egg that is written in one line, its rows separated by ``|``, as SIGRID-3 codes.

    ``"9+ | 4 3 2 | 7. 4. 1 | 5 4 3"`` is 9+/10 in all: 4/10 old ice in big floes, 3/10 thick first-year ice in
    medium floes, 2/10 new ice in small floes. Rows are total, partial concentrations, stages of development and
    forms; the last three may be left out. A fourth stage is the remaining class (CD). Raises `InputError` for a
    symbol that is not known or too many of them.
    """
    rows = [row.split() for row in text.split("|")]
    places = (("CT",), ("CA", "CB", "CC"), ("SA", "SB", "SC", "CD"), ("FA", "FB", "FC"))
    codes: dict[str, int] = {}
    if len(rows) > len(places) or len(rows[0]) != 1:
        raise InputError(f"egg {text!r}: must be total | partial concentrations | stages | forms.")
    for row, names in zip(rows, places, strict=False):
        if len(row) > len(names):
            raise InputError(f"egg {text!r}: {' '.join(row)!r} has more than {len(names)} symbols.")
        for name, symbol in zip(names, row, strict=False):
            code = parse_egg_code(symbol, "SD" if name == "CD" else name)
            if isinstance(code, str):
                raise InputError(f"egg {text!r}: the symbol {symbol!r} of {name} is not known.")
            codes[name] = code
    return codes
