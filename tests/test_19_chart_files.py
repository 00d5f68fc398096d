"""Chart files by what is in them: a file that is named as a chart but points elsewhere is not opened."""

import numpy as np
import pytest
import shapely
from test_19_icechart import write_chart

from sartransfer.errors import InputError
from sartransfer.prepare.icechart_geometry import read_chart

TABLE = {"CT": ["92"]}
VRT = """<OGRVRTDataSource><OGRVRTLayer name="chart"><SrcDataSource>{0}</SrcDataSource></OGRVRTLayer>
</OGRVRTDataSource>"""


@pytest.mark.parametrize("ending", [".gpkg", ".shp"])
def test_a_chart_is_opened_by_its_content_and_ending(tmp_path, ending):
    chart = write_chart(tmp_path / f"real{ending}", np.array([shapely.box(0, 0, 9, 9)]), TABLE)
    assert len(read_chart(chart).geometries) == 1
    for number, content in enumerate((VRT.format(chart).encode(), b"", b"\0")):
        other = tmp_path / f"other{number}{ending}"
        other.write_bytes(content)
        with pytest.raises(
            InputError, match=rf"other{number}\{ending} is no (Shapefile|GeoPackage), whatever"
        ):
            read_chart(other)
