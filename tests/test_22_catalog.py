"""Catalog files: round trips, small tables of users, and their mistakes."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartransfer.catalog import Asset, Catalog, Entry, read_catalog, write_catalog
from sartransfer.errors import CatalogError, InputError, OutputError, SartransferError
from sartransfer.scene import parse_bands
from sartransfer.textfile import composed


def example(base: Path) -> Catalog:
    pair = (
        Asset(base / "a" / "before.png", "image", parse_bands("before=digital_number@reference")),
        Asset(base.parent / "outside, with; comma.png", None, parse_bands("after=digital_number@flood")),
    )
    return Catalog(
        name="Überschwemmung",
        entries=(
            Entry("one", pair, label=base / "m.png", split="train", group="Albania"),
            Entry("two", (Asset(base / "b.tif", None, parse_bands("VV=sigma0_db,VH=sigma0")),), split="test"),
            Entry(
                'three "quoted"', (Asset(Path("/far/away.npz")),), category="flooded",
                time=datetime(2021, 1, 1, 6, tzinfo=UTC), platform="Sentinel-1",
            ),
        ),
        classes=("dry", "flooded"),
        label_values={-1: 255, 0: 0, 255: 1},
        source="made up",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["c.csv", "c.geojson", "c.json"])
def test_round_trip(tmp_path, name):
    catalog = example(tmp_path)
    assert read_catalog(write_catalog(catalog, tmp_path / name)) == catalog


@pytest.mark.parametrize("name", ["c.csv", "c.json"])
def test_the_size_of_pixels_comes_back_where_it_is_said(tmp_path, name):
    catalog = replace(example(tmp_path), pixel_m=12.5)
    assert read_catalog(write_catalog(catalog, tmp_path / name)) == catalog
    assert "pixel_m" not in write_catalog(example(tmp_path), tmp_path / f"bare-{name}").read_text()
    for wrong in (0.0, -10.0, float("nan"), float("inf")):
        with pytest.raises(CatalogError, match="pixel_m"):
            replace(catalog, pixel_m=wrong)


def test_paths_move_with_the_folder(tmp_path):
    (tmp_path / "old").mkdir()
    catalog = Catalog("c", (Entry("a", (Asset(tmp_path / "old" / "x" / "a.png"),)),), ())
    path = write_catalog(catalog, tmp_path / "old" / "c.csv")
    assert str(tmp_path) not in path.read_text()
    (tmp_path / "old").rename(tmp_path / "new")
    assert (
        read_catalog(tmp_path / "new" / "c.csv").entries[0].assets[0].path == tmp_path / "new" / "x" / "a.png"
    )


text = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cf")), min_size=1, max_size=9).filter(
    lambda t: t == t.strip()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    ids=st.lists(text, min_size=1, max_size=4, unique_by=composed),
    group=text,
    name=st.sampled_from(["c.csv", "c.json"]),
)
def test_any_words_come_back(tmp_path, ids, group, name):
    entries = tuple(Entry(i, (Asset(tmp_path / "a.png"),), group=group, platform=group) for i in ids)
    catalog = Catalog("c", entries, ())
    assert read_catalog(write_catalog(catalog, tmp_path / name, overwrite=True)) == catalog


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_users_small_table(tmp_path, delimiter, start):
    rows = ["id,image,label,split,group", "a,x/a.tif,x/a_label.tif,train,Rome", "", "b,x/b.tif,,test,"]
    path = tmp_path / "mine.csv"
    path.write_text(
        start + "\r\n".join(r.replace(",", delimiter) for r in rows), encoding="utf-8", newline=""
    )
    catalog = read_catalog(path)
    assert catalog.name == "mine"
    assert catalog.entries == (
        Entry("a", (Asset(tmp_path / "x/a.tif"),), tmp_path / "x/a_label.tif", split="train", group="Rome"),
        Entry("b", (Asset(tmp_path / "x/b.tif"),), split="test"),
    )


def test_classes_of_patches_come_from_their_column(tmp_path):
    (tmp_path / "c.csv").write_text("id,image,class\na,a.png,water\nb,b.png,forest\n")
    assert read_catalog(tmp_path / "c.csv").classes == ("forest", "water")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,image,lable\na,b,c\n", "Did you mean 'label'"),
        ("id,split\na,train\n", "needs the columns id and images"),
        ("id,image,images\na,b,c\n", "needs the columns id and images"),
        ("id,id,image\na,a,b\n", "twice"),
        ("id,image\na,x.png\na,y.png\n", "ids must be unique; twice: a"),
        ("id,image\n,x.png\n", "row 2: a catalog entry needs an id"),
        ("id,image\nb,\n", "row 2: entry 'b' names no file"),
        ("id,image\na,b.png,c\n", "row 2: 3 values for 2 columns"),
        ("id,images,readers\na,b.png|c.png,image\n", "row 2: 2 images, but 1 readers"),
        ("id,image,time\na,b.png,monday\n", "row 2: time 'monday'"),
        ('# {"classes": ["dry"]}\nid,image,class\na,b.png,dri\n', "Did you mean 'dry'"),
        ('# {"classes": ["dry"], "label_values": {"1": 4}}\nid,image\na,b.png\n', "label values point at"),
        ('# {"label_values": {"x": 4}}\nid,image\na,b.png\n', "header does not hold together"),
        ("# classes: dry\nid,image\na,b.png\n", "no JSON"),
        ("", "needs the columns"),
    ],
)
def test_mistakes_are_named(tmp_path, content, message):
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(CatalogError, match=message):
        read_catalog(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", b"id,image\n\xff\xfe,a\n"),
        ("c.csv", b'id,image\na,"b\n'),
        ("c.json", b"[]"),
        ("c.json", b"{"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as"):
        read_catalog(tmp_path / name)


def test_missing_and_existing_files(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        read_catalog(tmp_path / "c.csv")
    write_catalog(example(tmp_path), tmp_path / "c.csv")
    with pytest.raises(OutputError, match="exists already"):
        write_catalog(example(tmp_path), tmp_path / "c.csv")
    with pytest.raises(OutputError, match="cannot be written"):
        write_catalog(example(tmp_path), tmp_path / "no" / "c.csv")


def test_a_path_that_cannot_be_joined_is_refused(tmp_path):
    catalog = Catalog("c", (Entry("a", (Asset(tmp_path / "x|y.png"),)),), ())
    with pytest.raises(CatalogError, match="Rename it"):
        write_catalog(catalog, tmp_path / "c.csv")
    assert issubclass(CatalogError, SartransferError)
    assert not (tmp_path / "c.csv").exists()


def test_splits_and_test_sets(tmp_path):
    catalog = example(tmp_path)
    assert catalog.splits == ("train", "test")
    assert catalog.test_sets == ("test",)
    assert [e.id for e in catalog.in_split("train")] == ["one"]
    assert [e.id for e in catalog.where(lambda e: e.split is None).entries] == ['three "quoted"']
