"""Class names and colours beside a map, in the file that GDAL and QGIS look for: MAP.tif.aux.xml."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

# GDAL's raster data model: types (GFT_) and usages (GFU_) of the columns of a raster attribute table.
INTEGER, STRING = 0, 2
PIXEL_COUNT, NAME, MIN_MAX, RED, GREEN, BLUE = 1, 2, 5, 6, 7, 8
COLUMNS = (
    ("Value", INTEGER, MIN_MAX),
    ("Class", STRING, NAME),
    ("Count", INTEGER, PIXEL_COUNT),
    ("Red", INTEGER, RED),
    ("Green", INTEGER, GREEN),
    ("Blue", INTEGER, BLUE),
)


def attribute_table(
    classes: Sequence[str], colours: Mapping[int, tuple[int, int, int]], counts: Sequence[int]
) -> str:
    """Return the text of ``MAP.tif.aux.xml``: category names and a raster attribute table of band 1.

    Args:
        classes: names; their places are the values of the map. colours: red, green, blue of each.
        counts: pixels of each class.
    """
    lines = ["<PAMDataset>", '  <PAMRasterBand band="1">', "    <CategoryNames>"]
    lines += [f"      <Category>{_text(name)}</Category>" for name in classes]
    lines += ["    </CategoryNames>", '    <GDALRasterAttributeTable tableType="thematic">']
    for i, (name, kind, usage) in enumerate(COLUMNS):
        lines.append(
            f'      <FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>'
        )
    for i, (name, count) in enumerate(zip(classes, counts, strict=True)):
        cells = "".join(f"<F>{_text(cell)}</F>" for cell in (i, name, int(count), *colours[i]))
        lines.append(f'      <Row index="{i}">{cells}</Row>')
    lines += ["    </GDALRasterAttributeTable>", "  </PAMRasterBand>", "</PAMDataset>", ""]
    return "\n".join(lines)


def _text(value: object) -> str:
    """Return text as XML may hold it: escaped, characters that XML forbids left out."""
    return escape("".join(c for c in str(value) if c.isprintable()))
