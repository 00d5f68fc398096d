"""Reading ahead: the same windows in the same order, bounded, with the reader's errors, and threads that stop."""

import itertools
import threading
import warnings

import numpy as np
import pytest
import torch

from sartransfer.ahead import SERIAL, Flow, in_order, lagging, read_ahead, strips
from sartransfer.errors import InputError
from sartransfer.geotiff import open_geotiff, write_geotiff
from sartransfer.scene import ArraySource, Band, Reading, Scene, Window
from sartransfer.windows import cut, grow


def scene_of(height=70, width=50):
    values = np.random.default_rng(0).normal(size=(2, height, width)).astype(np.float32)
    values[:, 5:9, 3:30] = np.nan
    return Scene("scene", (Band("a"), Band("b")), height, width, ArraySource(values))


def room(window):
    return torch.full((2, window.height, window.width), 7.0)


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def jobs_of(scene, core=16, halo=5):
    return [(k, grow(k, halo, 1, scene.height, scene.width)) for k in cut(scene.height, scene.width, core)]


@pytest.mark.parametrize(
    "flow", [Flow(ahead=a, threads=t, rows=r) for a, t, r in itertools.product((1, 3), (1, 4), (0, 1, 7))]
)
def test_windows_read_ahead_are_those_read_one_by_one(flow):
    scene = scene_of()
    jobs = jobs_of(scene)
    found = [(job, *get()) for job, get in read_ahead(lambda w: scene.read(window=w), iter(jobs), flow, room)]
    assert [job for job, _, _ in found] == [job for job, _ in jobs]
    for (_, window), (_, image, valid) in zip(jobs, found, strict=True):
        data, known = scene.read(window=window)
        np.testing.assert_array_equal(image.numpy(), data)
        np.testing.assert_array_equal(valid.numpy(), known)
    assert not readers()


@pytest.mark.parametrize("rows", [0, 1, 4, 100])
def test_strips_are_the_window_cut_at_the_scenes_rows(rows):
    window = Window(6, 3, 11, 2)
    parts = list(strips(window, rows))
    assert [r for p in parts for r in range(p.row, p.row + p.height)] == list(range(6, 17))
    assert {(p.col, p.width) for p in parts} == {(3, 2)}
    assert all(p.row // rows == (p.row + p.height - 1) // rows for p in parts if rows)


def test_without_reading_ahead_nothing_is_read_before_it_is_asked_for():
    asked = []

    def read(window):
        asked.append(window)
        return Reading(np.zeros((1, 1, 1), np.float32), np.ones((1, 1), bool))

    windows = [Window(i, 0, 1, 1) for i in range(3)]
    for number, (_, get) in enumerate(read_ahead(read, ((None, w) for w in windows), SERIAL, room)):
        assert asked == windows[:number]
        get()
    assert asked == windows


@pytest.mark.parametrize(("ahead", "threads"), [(1, 1), (2, 3), (4, 2)])
def test_no_more_windows_are_begun_than_asked_for(ahead, threads):
    scene, taken = scene_of(), []

    def jobs():
        for job in jobs_of(scene):
            taken.append(job)
            yield job

    flow = Flow(ahead=ahead, threads=threads, rows=4)
    for number, _ in enumerate(read_ahead(lambda w: scene.read(window=w), jobs(), flow, room)):
        assert len(taken) - number <= ahead  # with the one that is handed out
    assert len(taken) == len(jobs_of(scene))


@pytest.mark.parametrize("bad", [0, 7, 19])
def test_an_error_comes_where_its_window_would_have_come(bad):
    scene = scene_of()
    jobs = jobs_of(scene)
    place = jobs[bad][0]

    def read(window):
        if window.row <= place.row < window.row + window.height and window == jobs[bad][1]:
            raise InputError("damaged tile")
        return scene.read(window=window)

    seen = []
    with pytest.raises(InputError, match="damaged tile"):  # noqa: PT012 - what came before is looked at
        for job, _ in read_ahead(read, iter(jobs), Flow(ahead=3, threads=2), room):
            seen.append(job)
    assert seen == [job for job, _ in jobs[:bad]]
    assert not readers()


def test_leaving_early_stops_the_threads_and_reads_no_further():
    scene, asked = scene_of(), []

    def read(window):
        asked.append(window)
        return scene.read(window=window)

    found = read_ahead(read, iter(jobs_of(scene)), Flow(ahead=3, threads=2, rows=0), room)
    next(found)
    assert readers()
    found.close()
    assert not readers()
    assert len(asked) <= 3


def test_jobs_of_threads_come_in_order_whatever_takes_longest():
    gates = [threading.Event() for _ in range(6)]

    def work(number):
        if number % 2 == 0:  # waits for the one after it
            assert gates[number + 1].wait(30)
        gates[number].set()
        return number * number

    assert list(in_order(work, range(6), 4, 3)) == [0, 1, 4, 9, 16, 25]
    assert list(in_order(work, [], 2, 2)) == []


@pytest.mark.parametrize("lag", [0, 1, 3, 9])
def test_calls_lag_behind_what_is_begun(lag):
    log = []

    def begun():
        for i in range(5):
            log.append(("begin", i))
            yield lambda i=i: log.append(("finish", i)) or i

    assert list(lagging(begun(), lag)) == list(range(5))
    ends = [n for what, n in log if what == "finish"]
    assert ends == list(range(5))
    for i in range(5):
        before = {n for what, n in log[: log.index(("finish", i))] if what == "begin"}
        assert before == set(range(min(5, i + lag + 1)))


def test_a_flow_is_checked():
    with pytest.raises(InputError, match="0 or more"):
        Flow(ahead=-1)
    with pytest.raises(InputError, match="0 or more"):
        Flow(threads=0)


@pytest.mark.filterwarnings("error")
def test_threads_that_open_files_leave_the_processes_warnings_as_they_were(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 90, 40)).astype(np.float32)
    scene = open_geotiff(write_geotiff(tmp_path / "a.tif", values))  # no georeference: rasterio would warn
    before = list(warnings.filters)
    jobs = jobs_of(scene)
    flow = Flow(ahead=4, threads=4, rows=3)
    for (_, window), (_, get) in zip(
        jobs, read_ahead(lambda w: scene.read(window=w), jobs, flow, room), strict=True
    ):
        np.testing.assert_array_equal(get()[0].numpy(), values[:, *window.slices])
    assert list(warnings.filters) == before
