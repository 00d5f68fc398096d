"""A run's folder: its states, what it keeps, and the fingerprint of what it was trained on."""

import hashlib
import json
import math
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_data import make_catalog

from sartransfer.catalog import Asset
from sartransfer.errors import InputError, OutputError
from sartransfer.radar.units import parse_unit
from sartransfer.runs import (
    RunFolder,
    _content,
    commit_of,
    environment,
    fingerprint,
    read_json,
    write_json,
    write_text,
)
from sartransfer.scene import Band


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_run_goes_from_missing_over_unfinished_to_finished(tmp_path):
    run = RunFolder(tmp_path / "runs" / "random" / "seed0")
    assert run.record == {}
    assert run.status("a") == "missing"
    run.start("a", "recipe: text\n", {"seed": 3})
    assert run.status("a") == "unfinished"
    assert run.status("b") == "missing"
    assert (run.path / "recipe.yaml").read_text() == "recipe: text\n"
    (run.path / ".resume.pt.0123abcd.tmp").write_text("of a save that was killed")
    (run.path / "resume.pt").write_text("state")
    run.finish({"epochs": 5})
    assert run.status("a") == "finished"
    assert names(run.path) == ["recipe.yaml", "run.json"]  # the resume state went
    record = run.record
    assert (record["seed"], record["epochs"], record["error"]) == (3, 5, None)
    assert record["started"] <= record["finished"]


def test_an_unfinished_or_failed_run_is_taken_up_where_it_was(tmp_path):
    run = RunFolder(tmp_path / "seed0")
    run.start("a", "", {})
    write_json(run.path / "run.json", run.record | {"started": "2020-01-01T00:00:00Z"})
    (run.path / "resume.pt").write_text("state")
    run.fail("out of memory")
    assert run.status("a") == "failed"
    assert run.record["error"] == "out of memory"
    run.start("a", "", {})
    assert run.status("a") == "unfinished"
    assert "error" not in run.record
    assert run.record["started"] == "2020-01-01T00:00:00Z"
    assert (run.path / "resume.pt").read_text() == "state"


def test_another_run_is_moved_aside_never_deleted(tmp_path):
    run = RunFolder(tmp_path / "seed0")
    for identity in "abc":
        run.start(identity, f"of {identity}", {})
        (run.path / "resume.pt").write_text(f"state of {identity}")
    assert names(tmp_path) == ["seed0", "seed0.old-1", "seed0.old-2"]
    assert run.status("c") == "unfinished"
    assert (tmp_path / "seed0.old-1" / "resume.pt").read_text() == "state of a"
    assert (tmp_path / "seed0.old-2" / "recipe.yaml").read_text() == "of b"
    assert RunFolder(tmp_path / "seed0.old-2").status("b") == "unfinished"


def test_a_state_of_nobody_knows_what_is_not_resumed(tmp_path):
    run = RunFolder(tmp_path / "seed0")
    run.start("a", "", {})
    (run.path / "resume.pt").write_text("state")
    (run.path / "run.json").unlink()
    run.start("b", "", {})
    assert not (run.path / "resume.pt").exists()
    assert (tmp_path / "seed0.old-1" / "resume.pt").read_text() == "state"


def test_a_run_that_failed_before_it_began_is_started_anew(tmp_path):
    run = RunFolder(tmp_path / "seed0")
    run.fail("no such weights")
    assert run.status("a") == "missing"
    run.start("a", "", {})
    assert run.status("a") == "unfinished"


def test_a_damaged_record_is_named(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "run.json").write_text('{"identity": "a", ')
    with pytest.raises(InputError, match=r"run.json is damaged .* delete it and run again"):
        run.status("a")


# ---- files ----


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_and_the_old_file_stays(tmp_path, value):
    file = tmp_path / "a.json"
    write_json(file, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"x": [value]})
    assert read_json(file) == {"x": 1}
    assert names(tmp_path) == ["a.json"]


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_json(file, {"ä": None})
    assert json.loads(file.read_text(encoding="utf-8")) == {"ä": None}

    def full(self, text, encoding):
        with self.open("w") as half:
            half.write(text[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OutputError, match=r"No space left on device\. Free some space"):
            write_json(file, {"new": 1})
    assert read_json(file) == {"ä": None}
    assert names(tmp_path) == ["a.json"]

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_text(file, "half")
    assert read_json(file) == {"ä": None}


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no"):
        read_json(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is damaged"):
        read_json(tmp_path / "b.json")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "no" / "such" / "a.txt", "")


# ---- fingerprint ----


@pytest.fixture
def catalog(tmp_path):
    return make_catalog(tmp_path / "here", {"train": 2, "test": 1}, size=8)


def elsewhere(catalog, folder):
    """The same files at another place, under other names."""
    folder.mkdir()
    entries = []
    for number, entry in enumerate(catalog.entries):
        path = Path(shutil.copy(entry.label, folder / f"x{number}.npz"))
        entries.append(replace(entry, assets=(Asset(path, bands=entry.assets[0].bands),), label=path))
    return catalog.with_entries(entries)


def test_the_place_of_the_files_does_not_matter(catalog, tmp_path):
    assert fingerprint(elsewhere(catalog, tmp_path / "there")) == fingerprint(catalog)


def test_one_byte_matters(catalog):
    before = fingerprint(catalog)
    file = catalog.entries[1].label
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert fingerprint(catalog) != before


def test_so_does_everything_else_that_a_result_depends_on(catalog):
    first, *rest = catalog.entries
    asset = first.assets[0]
    vv = Band("vv", parse_unit("sigma0_db"))
    others = [
        catalog.with_entries([replace(first, split="validation"), *rest]),
        catalog.with_entries([replace(first, group="another"), *rest]),
        catalog.with_entries([replace(first, id="another"), *rest]),
        catalog.with_entries([replace(first, category="water"), *rest]),
        catalog.with_entries(
            [replace(first, assets=(replace(asset, bands=(vv, replace(vv, name="x"))),)), *rest]
        ),
        catalog.with_entries([replace(first, label=None), *rest]),
        catalog.with_entries([*rest, first]),
        catalog.with_entries(rest),
        replace(catalog, classes=("water", "land")),
        replace(catalog, label_values={0: 1, 1: 0}),
    ]
    found = [fingerprint(c) for c in (catalog, *others)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("large", [False, True])
def test_every_byte_of_a_file_counts(catalog, tmp_path, monkeypatch, large):
    """An analyst who mends a label in its middle leaves size and ends as they were."""
    monkeypatch.setattr("sartransfer.runs.LARGE_FILE", 1 << 20 if large else 1 << 30)
    label, size = tmp_path / "large.npz", (3 << 20) + 1
    opened = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: opened.append(given) or real(*given))

    def of(size, *marks):
        label.unlink(missing_ok=True)
        with label.open("wb") as file:
            file.truncate(size)
            for place in marks:
                file.seek(place)
                file.write(b"x")
        os.utime(label, ns=(10**18 + len(opened),) * 2)  # as if time had passed
        return fingerprint(catalog.with_entries([replace(first, label=label), *rest]))

    first, *rest = catalog.entries
    found = [of(size), of(size + 1), of(size, 0), of(size, size // 2), of(size, size - 1)]
    assert len(set(found)) == len(found)
    before = len(opened)
    again = fingerprint(catalog.with_entries([replace(first, label=label), *rest]))
    assert again == found[-1]
    few = sum(len(e.assets) + (e.label is not None) for e in rest) + len(first.assets)
    assert len(opened) - before == few + (not large)  # a large file that stays as it is is read once
    whole = hashlib.sha256(str(size).encode() + label.read_bytes()).digest()
    assert _content(label) == whole


def test_a_file_that_is_missing_or_cannot_be_read_is_named(catalog, tmp_path):
    first, *rest = catalog.entries
    with pytest.raises(InputError, match=r"none\.npz, which does not exist"):
        fingerprint(catalog.with_entries([replace(first, label=tmp_path / "none.npz"), *rest]))
    with pytest.raises(InputError, match="which cannot be read"):
        fingerprint(catalog.with_entries([replace(first, label=tmp_path), *rest]))


def test_a_product_is_known_by_all_its_files(catalog, tmp_path):
    first, *rest = catalog.entries
    folder = tmp_path / "product"
    (folder / "IMAGEDATA").mkdir(parents=True)
    (folder / "a.xml").write_text("annotation")
    (folder / "IMAGEDATA" / "b.tif").write_bytes(b"pixels")

    def known():
        asset = replace(first.assets[0], path=folder)
        return fingerprint(catalog.with_entries([replace(first, assets=(asset,)), *rest]))

    before = known()
    assert before == known()
    (folder / "IMAGEDATA" / "b.tif").write_bytes(b"pixelz")
    changed = known()
    (folder / "IMAGEDATA" / "b.tif").rename(folder / "IMAGEDATA" / "c.tif")
    assert len({before, changed, known()}) == 3


# ---- environment ----


def test_the_environment_can_be_written_and_says_what_numbers_depend_on():
    found = environment("cpu", "fp32")
    json.dumps(found, allow_nan=False)
    import torch

    assert torch.__version__.startswith(found["packages"]["torch"].partition("+")[0])
    assert found["packages"]["numpy"] == np.__version__
    assert (found["device"], found["precision"]) == ("cpu", "fp32")
    assert found["memory_gib"] > 0
    assert "/" not in found["platform"]


def test_a_folder_without_git_has_no_commit(tmp_path):
    assert commit_of(tmp_path) == (None, None)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "out" / "seed0")
    with folder.alone():
        with pytest.raises(OutputError, match="another process trains this run"), folder.alone():
            pass
        with RunFolder(tmp_path / "out" / "seed1").alone():
            pass  # another run is not meant
    with folder.alone():
        pass
    assert list((tmp_path / "out").iterdir()) == []  # no folder, which would be somebody's run, and no lock


def test_who_waits_comes_after(tmp_path):
    folder, order, begun = RunFolder(tmp_path / "seed0"), [], threading.Event()

    def other():
        begun.set()
        with RunFolder(folder.path).alone(wait=True):
            order.append("other")

    with folder.alone():
        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(10)
        order.append("mine")
    thread.join(10)
    assert order == ["mine", "other"]
