"""OpenSARShip: ships in Sentinel-1 images, told by their AIS messages (Huang et al. 2018, Li et al. 2017)."""

import re
from collections.abc import Iterator
from pathlib import Path

from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.errors import InputError
from sartransfer.radar.units import parse_unit
from sartransfer.scene import Band

SIGMA0 = parse_unit("sigma0")
VH, VV = Band("VH", SIGMA0, "VH"), Band("VV", SIGMA0, "VV")
BANDS = {"DV": (VH, VV), "SV": (VV,)}
"""Bands of Patch_Cal by how the product was polarized."""
PRODUCT = re.compile(
    r"(?P<satellite>S1[A-D])_\w\w_(?P<kind>GRD|SLC).*_1S(?P<pol>SH|SV|DH|DV)_\w+?_\w+?_(?P<orbit>\d{6})_\w+"
)
CHIP = re.compile(r"(?P<category>[^_]+)_x(?P<col>\d+)_y(?P<row>\d+)")
FIX = (
    "Download OpenSARShip 1.0 or 2.0 (opensar.sjtu.edu.cn) and unpack each product's archive into a folder of the "
    "product's name, which then holds Patch_Cal/<category>_x<column>_y<row>.tif."
)


def opensarship(root: Path) -> Catalog:
    """Read OpenSARShip's ships in detected products (GRD), calibrated: sigma0, linear power, VH and VV or VV alone.

    Layout, as published: a folder a product (named after it, or holding its annotation ``S1*.xml``) with Patch,
    Patch_Cal, Patch_RGB, Patch_Uint8, Ship.xml; chips are ``<category>_x<column>_y<row>.tif``. Read here is
    Patch_Cal; that it is sigma0 follows from Patch: DN^2 / value, times the sine of Ship.xml's incidence angle, is
    one constant over a product. The first of two bands is VH, the second VV, as the names of Patch_Uint8 tell.

    The category is that of AIS (Cargo, Tanker, Other Type ...), very uneven; leave rare ones out with
    ``data.drop``. Chip sizes differ with the ship (9 to over 130 px). SLC products show the same ships in
    another geometry, and those in HH their bands in an order that nothing tells: both are left out. The group is
    the acquisition: satellite and orbit; ships that were seen twice may still be in two groups. No split: draw a
    test set by group (``data.test``).

    Source: doi 10.1109/JSTARS.2017.2755672, 10.1109/BIGSARDATA.2017.8124929. Raises `InputError` if the folder is
    not so.
    """
    root = Path(root)
    entries = []
    left_out = 0
    for folder in _products(root):
        name = _product_name(folder)
        if name["kind"] != "GRD" or name["pol"] not in BANDS:
            left_out += 1
            continue
        for path in sorted((folder / "Patch_Cal").glob("*.tif")):
            chip = CHIP.fullmatch(path.stem)
            if chip is None:
                raise InputError(f"{path}: the name does not say category and place. {FIX}")
            entries.append(
                Entry(
                    id=f"{name.string}/{path.stem}",
                    assets=(Asset(path, "geotiff", BANDS[name["pol"]]),),
                    category=chip["category"],
                    group=f"{name['satellite']} orbit {name['orbit']}",
                    platform="Sentinel-1",
                )
            )
    if not entries:
        raise InputError(
            f"{root} holds no chips of detected products in VV ({left_out} products of other kinds). {FIX}"
        )
    classes = tuple(sorted({e.category for e in entries if e.category}))
    source = (
        "OpenSARShip, opensar.sjtu.edu.cn, doi 10.1109/JSTARS.2017.2755672; for research, no licence stated"
    )
    return Catalog("opensarship", tuple(entries), classes, source=source)


def _products(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from sorted(p.parent for p in root.rglob("Patch_Cal") if p.is_dir())


def _product_name(folder: Path) -> re.Match[str]:
    """Return the product's name, taken apart: the folder's, or that of the annotation in it."""
    for text in (folder.name, *(p.stem for p in sorted(folder.glob("S1*.xml")))):
        name = PRODUCT.fullmatch(text)
        if name is not None:
            return name
    raise InputError(f"{folder} does not say which Sentinel-1 product it is. {FIX}")
