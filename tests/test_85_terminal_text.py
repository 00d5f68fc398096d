"""What is shown: control characters of others do nothing to a terminal; no result goes over what is read."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from sartransfer.cli import app
from sartransfer.errors import InputError, OutputError, refuse_input
from sartransfer.geotiff import map_classes, opened, write_geotiff
from sartransfer.scene import GeoReference
from sartransfer.terminal import Console

ODD = "wet\x1b]0;owned\x07\x1b[2J\x9b31m\u202etew\u2066\x7f\udc80\rdry"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(*objects, **options):
    file = io.StringIO()
    console = Console(file=file, width=80, **options)
    for each in objects:
        console.print(each, soft_wrap=True)
    return file.getvalue()


def test_control_characters_of_others_are_shown_as_question_marks():
    table = Table("class", title=escape(ODD))
    table.add_row(escape(ODD))
    for found in (shown(escape(ODD)), shown(Text(ODD)), shown(table)):
        assert not CONTROL.search(found)
        assert "wet?]0;owned" in found
        found.encode("utf-8")
    assert shown("grün, \u4e2d\u6587\nx") == "grün, \u4e2d\u6587\nx\n"


def test_colours_and_bars_stay():
    found = shown("[red]bad[/]", escape(ODD), force_terminal=True, color_system="standard")
    assert "\x1b[31mbad\x1b[0m" in found
    assert not CONTROL.search(re.sub(r"\x1b\[[0-9;]*m", "", found))
    file = io.StringIO()
    with Progress(console=Console(file=file, force_terminal=True, width=80)) as bar:
        bar.add_task(escape(ODD), total=1)
    assert "\x1b[?25l" in file.getvalue()  # rich's own: it hides the cursor
    assert "owned\x07" not in file.getvalue()


@pytest.mark.parametrize(
    "tag",
    ["{bad", '{"a": "b"}', '{"0": ' + "[" * 90_000, '{"0": ["x"]}', "0=dry,1=dry", "0=dry,1=", '{"0": "a", "0": "b"}',
     '{"0": "a", "1": "b\\u001b[2J"}'],
)  # fmt: skip
def test_a_damaged_tag_of_a_map_is_one_error(tmp_path, tag):
    write_geotiff(tmp_path / "m.tif", np.zeros((4, 4), np.uint8), tags={"SARTRANSFER_CLASSES": tag})
    with (
        opened(tmp_path / "m.tif") as file,
        pytest.raises(InputError, match=r"m\.tif: its tag SARTRANSFER_CLASSES"),
    ):
        map_classes(file)


def test_tags_that_were_right_are_read(tmp_path):
    for tag, wanted in (
        ("0=land,1=water", {0: "land", 1: "water"}),
        ('{"0": "a, b", "2": "c=d"}', {0: "a, b", 2: "c=d"}),
        ("", {}),
    ):
        tags = {"SARTRANSFER_CLASSES": tag} if tag else {}
        write_geotiff(tmp_path / "m.tif", np.zeros((4, 4), np.uint8), tags=tags, overwrite=True)
        with opened(tmp_path / "m.tif") as file:
            assert map_classes(file) == wanted


def test_what_is_read_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = GeoReference("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 5e6))
    write_geotiff(tmp_path / "m.tif", np.zeros((8, 8), np.uint8), georeference=place, nodata=255)
    before = (tmp_path / "m.tif").read_bytes()
    (tmp_path / "link.tif").symlink_to("m.tif")
    for name in ("m.tif", "./m.tif", "link.tif"):
        found = CliRunner().invoke(app, ["areas", "m.tif", "-o", name, "--overwrite"])
        assert isinstance(found.exception, OutputError), found.output
        assert "would be lost" in str(found.exception)
    assert (tmp_path / "m.tif").read_bytes() == before
    (tmp_path / "c.csv").write_text("id,image,split\na,a.tif,test\n")
    (tmp_path / "best.json").write_text(json.dumps({}))
    for lost in ("c.csv", "best.json"):
        words = ["evaluate", "best.json", "--catalog", "c.csv", "-o", lost, "--overwrite"]
        found = CliRunner().invoke(app, words)
        assert isinstance(found.exception, OutputError), found.output
    assert (tmp_path / "c.csv").read_text().startswith("id,image")
    shutil.copy("m.tif", "copy.tif")
    refuse_input(tmp_path / "copy.tif", [tmp_path / "m.tif", tmp_path / "none.tif"])
    refuse_input(tmp_path / "none.tif", [tmp_path / "m.tif"])
