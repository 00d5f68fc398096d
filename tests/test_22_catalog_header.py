"""Catalogs of others: nothing in a header is passed over or read as something else, and names are told apart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from sartransfer.catalog import Asset, Catalog, Entry, read_catalog, write_catalog
from sartransfer.data.resolve import open_catalog
from sartransfer.errors import CatalogError, InputError, SartransferError
from sartransfer.faults import read_yaml
from sartransfer.geotiff import write_geotiff
from sartransfer.readers import read_label
from sartransfer.recipe import DataRecipe
from sartransfer.textfile import class_names, composed, hidden_character, parse_json

ROWS = "id,image\na,a.tif\n"
FILE = (Asset(Path("/far/a.tif")),)


def header(tmp_path, text):
    (tmp_path / "c.csv").write_text(f"# {text}\n{ROWS}", encoding="utf-8")
    return read_catalog(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"classes": ["d", "w"], "label_values": {"0": 0, "1": 0.9}}', "whole numbers"),
        ('{"classes": ["d", "w"], "label_values": {"0": 0, "1": true}}', "whole numbers"),
        ('{"classes": ["d", "w"], "label_values": {"0.5": 0}}', "whole numbers"),
        ('{"classes": ["d", "w"], "label_values": {"1": "w"}}', "whole numbers"),
        ('{"classes": ["d", "w"], "label_values": {"1": 0, "01": 1}}', "1 stands twice"),
        ('{"classes": ["d", "w"], "label_values": {"1": 0, "1": 1}}', "'1' stands twice"),
        ('{"classes": ["d", "w"], "label_values": [[0, 1]]}', "must be an object"),
        ('{"classes": "dry"}', "list of names"),
        ('{"classes": {"0": "dry"}}', "list of names"),
        ('{"classes": [null, "a"]}', "names in quotes"),
        ('{"classes": [1, 2]}', "names in quotes"),
        ('{"classes": ["", "a"]}', "names in quotes"),
        ('{"classes": ["dry", "dry "]}', "unique; twice: 'dry'"),
        ('{"classes": ["wet", "wet\\u200b"]}', r"U\+200B"),
        ('{"classes": ["\\u001b[31mwet"]}', r"U\+001B"),
        ('{"clases": ["dry"]}', "Did you mean 'classes'"),
        ('["dry", "wet"]', "must be an object"),
        ('{"name": ["n"]}', "name must be text"),
        ('{"pixel_m": true}', "number of metres"),
        ('{"pixel_m": "ten"}', "number of metres"),
        ('{"pixel_m": Infinity}', "above 0"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_header_is_read_as_it_is_meant_or_refused(tmp_path, text, words):
    with pytest.raises(CatalogError, match=words):
        header(tmp_path, text)


def test_what_was_right_before_is_right_still(tmp_path):
    found = header(
        tmp_path,
        '{"name": 2024, "classes": ["dry ", "wet"], "pixel_m": "10", '
        '"label_values": {" 0 ": "0", "-1": 255, "2": 1.0}}',
    )
    assert (found.name, found.classes) == ("2024", ("dry", "wet"))
    assert (found.label_values, found.pixel_m) == ({0: 0, -1: 255, 2: 1}, 10.0)
    empty = header(tmp_path, '{"name": null, "classes": null, "label_values": null, "source": null}')
    assert (empty.name, empty.classes, empty.label_values) == ("c", (), {})


@pytest.mark.parametrize(
    ("document", "error", "words"),
    [
        ('{"sartransfer": ["x"], "features": [%s]}', CatalogError, "must be an object"),
        ('{"sartransfer": {"clases": []}, "features": [%s]}', CatalogError, "Did you mean 'classes'"),
        (
            '{"features": [{"properties": {"id": "a", "id": "b", "images": "a.tif"}}]}',
            InputError,
            "stands twice",
        ),
        (
            '{"features": [{"properties": {"id": "a", "images": ["a.tif", "b.tif"]}}]}',
            CatalogError,
            "joined by |",
        ),
        (
            '{"features": [{"properties": {"id": "a", "images": "a", "split": true}}]}',
            CatalogError,
            "split must be",
        ),
        ("[" * 200_000, InputError, "nested too deeply"),
    ],
)
def test_geojson_is_held_to_the_same(tmp_path, document, error, words):
    text = document.replace("%s", '{"properties": {"id": "a", "images": "a.tif"}}')
    (tmp_path / "c.geojson").write_text(text)
    with pytest.raises(error, match=words):
        read_catalog(tmp_path / "c.geojson")


def test_one_name_in_two_forms_is_one_group_and_one_class(tmp_path):
    rows = "id,image,class,group\na,a.tif,Café,Café\nb,b.tif,Cafe\u0301,Cafe\u0301\n"
    (tmp_path / "c.csv").write_text(rows, encoding="utf-8")
    found = read_catalog(tmp_path / "c.csv")
    assert {e.group for e in found.entries} == {"Caf\u00e9"} == set(found.classes)
    (tmp_path / "c.csv").write_text("id,image\nCafé,a.tif\nCafe\u0301,b.tif\n", encoding="utf-8")
    with pytest.raises(CatalogError, match="ids must be unique"):
        read_catalog(tmp_path / "c.csv")


@pytest.mark.parametrize("column", ["id", "class", "group", "platform"])
@pytest.mark.parametrize("odd", ["\u200b", "\u202e", "\x1b", "\ufeff"])
def test_characters_that_nobody_sees_are_refused(tmp_path, column, odd):
    row = {"id": "a", "images": "a.tif", "class": "c", "group": "g", "platform": "p"}
    row[column] += f"{odd}x"
    (tmp_path / "c.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n", encoding="utf-8")
    with pytest.raises(CatalogError, match=f"row 2: {column} .*not seen"):
        read_catalog(tmp_path / "c.csv")


@pytest.mark.parametrize("images", ["a.tif|", "|a.tif", "a.tif||b.tif"])
def test_a_bar_beside_no_file_is_no_folder(tmp_path, images):
    (tmp_path / "c.csv").write_text(f"id,images\na,{images}\n")
    with pytest.raises(CatalogError, match="no file beside it"):
        read_catalog(tmp_path / "c.csv")


@pytest.mark.parametrize("name", ["c.csv", "c.json"])
def test_what_could_not_be_read_back_is_not_written(tmp_path, name):
    for entry in (
        Entry("a\rb", FILE), Entry("a\udc80", FILE), Entry("a", FILE, group="x\r\ny"),
        Entry("a", (Asset(Path("/far/a\rb.tif")),)),
    ):  # fmt: skip
        with pytest.raises(CatalogError, match="Rename it"):
            write_catalog(Catalog("n", (entry,), ()), tmp_path / name)
    with pytest.raises(CatalogError, match="UTF-8"):
        write_catalog(Catalog("n", (Entry("a", FILE),), (), source="\udc80"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    spaces = Catalog("n", (Entry(" a ", FILE, category="x ", group=" g"),), ("x ",))
    assert read_catalog(write_catalog(spaces, tmp_path / name)) == spaces


def test_names_of_classes():
    assert class_names(["a ", "Cafe\u0301"]) == ("a", "Caf\u00e9")
    for wrong in ("ab", {"a": 1}, 5, None, [""], [None], ["a", "a"], ["a\nb"]):
        with pytest.raises(ValueError, match=r"^class(es)? "):
            class_names(wrong)
    assert (hidden_character("Überschwemmung"), hidden_character("a\u200db")) == (None, "U+200D")
    assert composed("  e\u0301 ") == "\u00e9"
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


def label(tmp_path, values, **more):
    write_geotiff(tmp_path / "label.tif", values, overwrite=True, **more)
    write_geotiff(tmp_path / "image.tif", np.ones((4, 4), np.float32), overwrite=True)
    entry = Entry("e", (Asset(tmp_path / "image.tif"),), label=tmp_path / "label.tif", split="train")
    return Catalog("c", (entry,), ("dry", "wet"))


def test_nodata_that_is_a_class_too_must_be_told_apart(tmp_path):
    values = np.zeros((4, 4), np.uint8)
    values[1, 1:3] = 1
    catalog = label(tmp_path, values, nodata=0)
    with pytest.raises(InputError, match=r'declares 0 as nodata .*"0": 0 if it is dry, "0": 255'):
        read_label(catalog.entries[0], catalog)
    for meaning, expected in ((0, values), (255, np.where(values == 0, 255, values))):
        said = replace(catalog, label_values={0: meaning, 1: 1})
        np.testing.assert_array_equal(read_label(said.entries[0], said), expected)
    for nodata in (255, 7):  # no class: ignored, as ever
        values[0] = nodata
        plain = label(tmp_path, values, nodata=nodata)
        np.testing.assert_array_equal(
            read_label(plain.entries[0], plain), np.where(values == nodata, 255, values)
        )


def test_more_classes_than_a_label_raster_tells_apart(tmp_path):
    catalog = label(tmp_path, np.zeros((4, 4), np.uint8))
    many = replace(catalog, classes=tuple(f"c{i}" for i in range(256)))
    with pytest.raises(CatalogError, match="256 classes; label rasters tell at most 255"):
        read_label(many.entries[0], many)
    path = write_catalog(many, tmp_path / "many.csv")
    with pytest.raises(CatalogError, match="256 classes"):
        open_catalog(DataRecipe(catalog=str(path)), check=False)
    fits = replace(catalog, classes=many.classes[:255])
    assert (read_label(fits.entries[0], fits) == 0).all()


@pytest.mark.parametrize("values", ["{true: dry, 1.0: wet}", "{1: dry, 01: wet}", "{1: dry, 1: wet}"])
def test_a_key_that_means_the_same_stands_once(values):
    with pytest.raises(yaml.YAMLError, match="stands twice"):
        read_yaml(f"label_values: {values}")
    assert read_yaml("{0: dry, 1: wet, a: {0: b}}") == {0: "dry", 1: "wet", "a": {0: "b"}}


def test_a_label_value_in_quotes_is_the_same_value():
    with pytest.raises(ValidationError, match="label value 1 stands twice"):
        DataRecipe(catalog="c.csv", label_values={"01": "dry", 1: "wet"})
    assert DataRecipe(catalog="c.csv", label_values={"0": "dry", 1: "wet"}).label_values == {
        0: "dry",
        1: "wet",
    }


def test_any_bytes_are_a_catalog_or_one_error(tmp_path):
    """Seeded damage of a good file never ends in another error than ours."""
    rng = np.random.default_rng(0)
    good = json.dumps({"classes": ["d", "w"], "label_values": {"0": 0, "1": 1}, "pixel_m": 10.0})
    for _ in range(200):
        letters = list(good)
        for place in rng.integers(0, len(letters), 2):
            letters[place] = str(rng.choice(list('{}[]",:0a ')))
        try:
            found = header(tmp_path, "".join(letters))
        except SartransferError:
            continue
        assert len(set(found.classes)) == len(found.classes)
