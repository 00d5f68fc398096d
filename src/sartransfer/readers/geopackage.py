"""Writing polygons with whole-number columns as a GeoPackage: SQLite, which Python has, and nothing else.

Source: OGC 12-128r18, GeoPackage Encoding Standard 1.3: tables in clauses 1 and 2, geometry header in 2.1.3.
"""

import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sartransfer.errors import InputError, refuse_existing
from sartransfer.wholefile import replacing

APPLICATION = 0x47504B47  # "GPKG"
VERSION = 10300
_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY,
  organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT '1970-01-01T00:00:00.000Z', min_x DOUBLE,
  min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER, FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys
(srs_id)); CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
  geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL, PRIMARY KEY
  (table_name, column_name));
"""


def write_geopackage(
    path: str | Path,
    layer: str,
    shapes: Sequence[Any],
    table: dict[str, Sequence[int | str]],
    epsg: int,
    *,
    overwrite: bool = False,
) -> Path:
    """Write shapely polygons and their columns as one layer of a GeoPackage, whole or not at all.

    Args:
        path: ends in .gpkg. layer: its name, letters, digits and _. shapes: (N,) polygons.
        table: column -> N whole numbers or texts. epsg: code of the coordinate reference system, projected.
        overwrite: replace a file that exists.

    Raises `InputError` for columns of another length or names that are not plain, `OutputError` if the file exists or
    cannot be written.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    for name in (layer, *table):
        if not name.isidentifier():
            raise InputError(f"{path}: {name!r} cannot name a layer or column: letters, digits and _ only.")
    for name, values in table.items():
        if len(values) != len(shapes):
            raise InputError(f"{path}: column {name} has {len(values)} values for {len(shapes)} polygons.")
    with replacing(path, sqlite3.Error) as temporary, closing(sqlite3.connect(temporary)) as database:
        _fill(database, layer, shapes, table, epsg)
        database.commit()
    return path


def _fill(
    database: sqlite3.Connection,
    layer: str,
    shapes: Sequence[Any],
    table: dict[str, Sequence[int | str]],
    epsg: int,
) -> None:
    import shapely
    from rasterio.crs import CRS

    database.execute(f"PRAGMA application_id = {APPLICATION}")
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.executescript(_TABLES)
    wkt = CRS.from_epsg(epsg).to_wkt()
    systems = [
        (f"EPSG:{epsg}", epsg, "EPSG", epsg, wkt),
        ("undefined cartesian", -1, "NONE", -1, "undefined"),
        ("undefined geographic", 0, "NONE", 0, "undefined"),
        ("WGS 84", 4326, "EPSG", 4326, CRS.from_epsg(4326).to_wkt()),
    ]
    database.executemany("INSERT OR IGNORE INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, '')", systems)
    bounds = [float(v) for v in shapely.total_bounds(list(shapes))]
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, min_x, min_y, max_x, max_y, srs_id) "
        "VALUES (?, 'features', ?, ?, ?, ?, ?, ?)",
        (layer, layer, *bounds, epsg),
    )
    database.execute(
        "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'POLYGON', ?, 0, 0)", (layer, epsg)
    )
    kinds = {
        n: "INTEGER" if all(isinstance(v, int) for v in values) else "TEXT" for n, values in table.items()
    }
    columns = "".join(f', "{name}" {kind}' for name, kind in kinds.items())
    database.execute(
        f'CREATE TABLE "{layer}" (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON{columns})'
    )
    marks = ", ".join("?" * (1 + len(table)))
    names = "".join(f', "{name}"' for name in table)
    rows = ((_blob(shape, epsg), *(values[i] for values in table.values())) for i, shape in enumerate(shapes))
    database.executemany(f'INSERT INTO "{layer}" (geom{names}) VALUES ({marks})', rows)


def _blob(shape: Any, epsg: int) -> bytes:
    """Return a geometry in GeoPackage's binary form: header with its envelope, then ISO WKB, little-endian."""
    import shapely

    xmin, ymin, xmax, ymax = (float(v) for v in shapely.bounds(shape))
    header = b"GP" + bytes([0, 0b00000011]) + struct.pack("<i4d", epsg, xmin, xmax, ymin, ymax)
    body: bytes = shapely.to_wkb(shape, byte_order=1, output_dimension=2)
    return header + body
