"""Work on other processes: the maps and results of one process, also where workers are killed and scenes damaged."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_75_comparison import data, make_recipe, statuses  # noqa: F401  (data is a fixture)

from sartransfer import predict
from sartransfer.archive import (
    LEDGER,
    Ledger,
    SceneOrder,
    order_of,
    predict_by_windows,
    predict_scenes,
    read_scenes,
    work,
)
from sartransfer.archive.ledger import stamp
from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.cluster import (
    JobSettings,
    Place,
    attempt,
    kubernetes_job,
    open_cluster,
    parse_place,
    run_tasks,
    slurm_job,
)
from sartransfer.cluster.keys import read_security
from sartransfer.cluster.places import is_loopback
from sartransfer.comparison import compare
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import ClusterError, InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.mapping import predict_scene
from sartransfer.models import build_model, write_checkpoint
from sartransfer.windows import EXACT, SPLIT

torch.set_num_threads(1)
CONTRACT = InputContract(tuple(InputBand(f"sigma0_{p}_db", "sigma0_db", p.upper()) for p in ("vv", "vh")))
CLASSES = ("land", "water", "ice")
NETWORKS = {
    "unet": ("unet", {"channels": [8, 8, 16]}),
    "aspp": ("resnet18-aspp", {"aspp_channels": 16, "rates": [1, 2, 5]}),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def _small_windows_and_mortal(folder):
    """Let scenes of tests go by windows, in a worker, which kills itself after the third where a file says so."""
    from sartransfer import journal

    torch.set_num_threads(1)
    predict.ONE_PASS_PIXELS, predict.CORE = 1, 64
    windows = 0

    def count():
        nonlocal windows
        windows += 1
        if windows >= 3:
            with contextlib.suppress(FileNotFoundError):
                (folder / "kill").rename(folder / f"killed-{os.getpid()}")  # one of them alone can do this
                os.kill(os.getpid(), signal.SIGKILL)

    add, arrays = journal.Journal.add, work.map_arrays

    def added(self, window):  # a scene's windows, as its worker writes them
        add(self, window)
        count()

    def made(*words):  # single windows
        found = list(arrays(*words))
        count()
        return found

    journal.Journal.add, work.map_arrays = added, made


@pytest.fixture(scope="module")
def orders_folder(tmp_path_factory):
    """Where a file ``kill`` is the end of one worker."""
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def cluster(orders_folder):
    """Two processes here, and those that come after them."""
    from distributed import WorkerPlugin

    class Mortal(WorkerPlugin):
        def setup(self, worker):
            _small_windows_and_mortal(orders_folder)

    with open_cluster("local:2") as found:
        found.client.register_plugin(Mortal())
        yield found


@pytest.fixture(autouse=True)
def _windows(monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 64)


def _make_files(folder, name):
    torch.manual_seed(0)
    kind, options = NETWORKS[name]
    model = build_model(kind, 2, 3, **options)
    with torch.no_grad():
        model(torch.randn(2, 2, 96, 96))
    write_checkpoint(folder / "best", model.eval(), {"classes": CLASSES, "contract": CONTRACT.to_json()})
    for number in range(3):
        values = np.random.default_rng(number).normal(size=(2, 150, 170)).astype(np.float32)
        values[:, :70, :40] = np.nan
        names = [band.name for band in CONTRACT.bands]
        write_geotiff(folder / f"scene{number}.tif", values, descriptions=names)
    (folder / "damaged.tif").write_bytes((folder / "scene0.tif").read_bytes()[:300])
    (folder / "scenes.txt").write_text("scene0.tif\nscene1.tif  # a remark\n\ndamaged.tif\nscene2.tif\n")
    return folder


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A checkpoint whose windows are exact, three scenes, and one that is damaged, with a list of them."""
    return _make_files(tmp_path_factory.mktemp("unet"), "unet")


@pytest.fixture(scope="module")
def aspp(tmp_path_factory):
    """The same with one that takes the split stage."""
    return _make_files(tmp_path_factory.mktemp("aspp"), "aspp")


class Watched:
    def __init__(self):
        self.states = []

    def warn(self, warnings):
        self.warnings = warnings

    def run(self, number, of, name, state):
        self.states.append((number, of, name, state))


def killed(folder):
    """Say whether one worker killed itself, and forget it."""
    found = [p.name[:7] for p in folder.iterdir()]
    for path in folder.iterdir():
        path.unlink()
    return found == ["killed-"]


def test_scenes_are_those_of_one_process_though_a_worker_is_killed(cluster, orders_folder, aspp, tmp_path):
    """By the split stage, whose features lie on the worker's disk; a damaged scene stops no other."""
    orders = read_scenes(aspp / "scenes.txt")
    assert [o.name for o in orders] == ["scene0", "scene1", "damaged", "scene2"]
    options = {"probabilities": "uint8", "device": "cpu", "engine": "eager"}
    watched = Watched()
    (orders_folder / "kill").touch()
    archive = predict_scenes(
        [aspp / "best.json"], orders, tmp_path / "maps", cluster=cluster, watcher=watched, **options
    )
    assert killed(orders_folder)
    assert [r["status"] for r in archive.records] == ["finished", "finished", "failed", "finished"]
    assert "damaged.tif" in archive.failed[0]["error"]
    assert archive.words().startswith("1 of 4 scenes have no map:\ndamaged: ")
    assert next(state for *_, name, state in watched.states if name == "damaged").startswith("failed: ")
    assert sorted(n for n, *_ in watched.states) == [1, 2, 3, 4]
    reads = {(r["worker"], r["checkpoints_read"]) for r in archive.records if r["status"] == "finished"}
    assert len(reads) == len(
        {worker for worker, _ in reads}
    )  # each worker has read the network before its first scene
    for order in (orders[0], orders[1], orders[3]):
        alone = predict_scene(
            aspp / "best.json", order.scene, tmp_path / f"{order.name}-alone.tif", **options
        )
        assert alone.plan.method == SPLIT
        for ending in ("", "-probabilities"):
            made = tmp_path / "maps" / f"{order.name}{ending}.tif"
            assert made.read_bytes() == (tmp_path / f"{order.name}-alone{ending}.tif").read_bytes()
        assert archive.records[orders.index(order)]["counts"] == alone.counts
    assert not [p.name for p in (tmp_path / "maps").iterdir() if p.name.startswith(".")]

    # Once more, here: what is there is kept, what failed is tried again.
    seen = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "maps").glob("*.tif")}
    again = predict_scenes([aspp / "best.json"], orders, tmp_path / "maps", watcher=watched, **options)
    assert [r["status"] for r in again.records] == ["finished", "finished", "failed", "finished"]
    assert again.records[0]["counts"] == archive.records[0]["counts"]
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "maps").glob("*.tif")} == seen
    # With another option they are not those that were asked for, and nothing is replaced unless asked.
    other = predict_scenes([aspp / "best.json"], orders[:1], tmp_path / "maps", device="cpu", engine="eager")
    assert other.records[0]["status"] == "finished"  # without probabilities: they are one file more
    other = predict_scenes([aspp / "best.json"], orders[:1], tmp_path / "maps", device="cpu", views=4)
    assert "exists and was made otherwise: views=1 instead of 4" in other.failed[0]["error"]


@pytest.mark.parametrize("name", NETWORKS)
def test_one_scene_is_that_of_one_process(cluster, orders_folder, name, request, tmp_path):
    """Its windows are tasks where they are exact, though a worker is killed; by the split stage it is one task."""
    files = request.getfixturevalue(name)
    order = order_of(str(files / "scene1.tif"))
    options = {"probabilities": "float32", "entropy": True, "engine": "eager"}
    for folder in "ab":
        (tmp_path / folder).mkdir()
    alone = predict_scene(files / "best.json", order.scene, tmp_path / "a" / "map.tif", **options)
    if name == "unet":
        (orders_folder / "kill").touch()
    moved = []
    found = predict_by_windows(
        cluster, [files / "best.json"], order, tmp_path / "b" / "map.tif", device="cpu",
        progress=lambda *done: moved.append(done), **options,
    )  # fmt: skip
    assert killed(orders_folder) == (name == "unet")
    assert found.counts == alone.counts
    assert found.plan.method == (EXACT if name == "unet" else SPLIT)
    assert moved[-1:] == ([(9, 9)] if name == "unet" else [])
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    for file in names:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_damaged_scene_ends_in_its_own_words_and_leaves_nothing(cluster, unet, tmp_path):
    with pytest.raises(InputError, match=r"damaged\.tif"):
        predict_by_windows(
            cluster, [unet / "best.json"], order_of(str(unet / "damaged.tif")), tmp_path / "m.tif"
        )
    assert not list(tmp_path.iterdir())


def test_what_is_done_is_kept_when_the_cluster_is_lost(unet, tmp_path, monkeypatch):
    """And the same call, without a cluster, goes on from there."""
    from sartransfer.archive import maps

    def lost(cluster, function, items, *, share):
        for number, item in enumerate(items):
            if number == 4:
                raise ClusterError("the cluster is lost")
            yield item, attempt(function, item)

    monkeypatch.setattr(maps, "run_tasks", lost)
    order, options = order_of(str(unet / "scene2.tif")), {"engine": "eager"}
    with pytest.raises(ClusterError, match="lost"):
        predict_by_windows(None, [unet / "best.json"], order, tmp_path / "map.tif", device="cpu", **options)
    partial = tmp_path / ".map.tif.partial"
    assert len((partial / "windows.jsonl").read_text().splitlines()) == 1 + 4
    done = []
    predict_scene(
        unet / "best.json", order.scene, tmp_path / "map.tif", progress=lambda *n: done.append(n), **options
    )
    assert done[0] == (4, 9)
    predict_scene(unet / "best.json", order.scene, tmp_path / "whole.tif", **options)
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


CHAIN = {
    "task": "segment",
    "start": "random",
    "training": {"epochs": 1, "batch_size": 2, "precision": "fp32"},
}


def stage(folder, name, **more):
    catalog = {"catalog": str(folder / "tiny.csv"), "validation": {"fraction": 0.34}, "patch": {"size": 32}}
    return {"name": name, **CHAIN, "data": catalog, **more}


def test_a_comparison_is_that_of_one_process(cluster, data, tmp_path):  # noqa: F811
    """Two chains share their first link, which is trained once; a start that fails stops no other."""
    first = stage(data, "first")
    broken = stage(data, "broken", training={**CHAIN["training"], "class_weights": [1.0]})
    starts = {
        "random": "random",
        "longer": {"from": "stages", "stages": [first, stage(data, "second")]},
        "bad": {"from": "stages", "stages": [first, broken]},
    }
    recipe = make_recipe(data, starts, seeds=1)
    watched = Watched()
    found = compare(recipe, tmp_path / "many", device="cpu", cluster=cluster, watcher=watched)
    alone = compare(recipe, tmp_path / "one", device="cpu")
    states = {("bad", 0, 1.0): "failed"} | {(n, 0, 1.0): "finished" for n in ("random", "longer")}
    assert statuses(found) == statuses(alone) == states
    assert "class_weights has 1 numbers" in found.failed[0]["error"]
    assert found.failed[0]["error"] == alone.failed[0]["error"]
    assert len(watched.states) == 3
    for kind in ("runs", "stages"):
        weights = sorted(
            p.relative_to(tmp_path / "one") for p in (tmp_path / "one" / kind).rglob("*.safetensors")
        )
        assert weights
        for path in weights:
            assert (tmp_path / "many" / path).read_bytes() == (tmp_path / "one" / path).read_bytes()
    assert len(list((tmp_path / "many" / "stages").glob("1-first-*"))) == 1
    record = json.loads(next((tmp_path / "many" / "stages").glob("1-first-*/run.json")).read_text())
    assert record["status"] == "finished"
    for key in ("rows", "contrasts", "verdict"):
        if key in found.results:
            assert found.results[key] == alone.results[key]
    # Started again, nothing is left to do but what failed.
    again = compare(recipe, tmp_path / "many", device="cpu", cluster=cluster)
    assert statuses(again) == states


def _die(item):
    os.kill(os.getpid(), signal.SIGKILL)


def _seven(item):
    return item + 7


def _wrong(item):
    raise ValueError(f"no {item}")


def test_tasks_are_bounded_in_flight_and_their_errors_are_told(cluster, tmp_path):
    taken = []

    def items():
        for number in range(12):
            taken.append(number)
            yield number

    found, most = {}, 0
    for number, outcome in run_tasks(cluster, _seven, items(), share=tmp_path):
        found[number] = outcome.get()
        most = max(most, len(taken) - len(found))
    assert found == {n: n + 7 for n in range(12)}
    assert most <= 2 * 2
    ((_, outcome),) = run_tasks(cluster, _wrong, [1], share=tmp_path)
    assert (outcome.line, outcome.kind, outcome.known) == ("ValueError: no 1", "ValueError", False)
    with pytest.raises(RuntimeError, match="in a worker: Traceback"):
        outcome.get()
    assert not list(tmp_path.iterdir())


def test_workers_must_see_the_same_files_and_have_the_same_version(cluster, tmp_path, monkeypatch):
    from sartransfer.cluster import tasks

    monkeypatch.setattr(tasks, "__version__", "0.0.7")
    with pytest.raises(ClusterError, match=r"a worker has sartransfer .*, this is 0\.0\.7"):
        list(run_tasks(cluster, _seven, [1], share=tmp_path))
    monkeypatch.undo()
    proof = tasks.Ticket(tasks.__version__, tmp_path / "none" / "here", "x")
    with pytest.raises(ClusterError, match="does not see the folder"):
        proof.check()


def test_processes_here_are_reached_by_nobody_else(cluster):
    assert cluster.client.scheduler.address.startswith("tls://127.0.0.1:")
    if not Path("/proc/net/tcp").exists():
        pytest.skip("sockets are looked up in /proc")
    pids = [os.getpid(), *cluster.client.run(os.getpid).values()]
    own = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(str(file.readlink()))
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:  # listens
                listening.append(words[1].partition(":")[0])
    assert len(listening) >= 3
    assert set(listening) == {"0100007F"}  # 127.0.0.1
    from distributed import Client

    with pytest.raises((OSError, TypeError, RuntimeError)):  # without the keys there is no way in
        Client(cluster.client.scheduler.address.replace("tls", "tcp"), timeout="2s", set_as_default=False)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("local:4", Place("local", 4)),
        ("slurm:8,cores=4,memory=16GB", Place("slurm", 8, options=(("cores", "4"), ("memory", "16GB")))),
        ("kubernetes:2,image=a/b:1", Place("kubernetes", 2, options=(("image", "a/b:1"),))),
        ("tls://host.name:8786", Place("tls", address="tls://host.name:8786")),
        ("tcp://[::1]:1", Place("tcp", address="tcp://[::1]:1")),
        ("file:/a b/s.json", Place("file", address="/a b/s.json")),
    ],
)
def test_places_are_read(words, place):
    assert parse_place(words) == place


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("lokal:4", "Must be one of: local, slurm.*Did you mean 'local'"),
        ("local", "Must be one of"),
        ("local:0", "'0' is no number of workers"),
        ("local:2,cores=1", "local takes no options"),
        ("slurm:2,memry=1GB", "Did you mean 'memory'"),
        ("slurm:2,memory", "write memory=VALUE"),
        ("tcp://host", "is no address"),
        ("tcp://a;b:1", "is no address"),
    ],
)
def test_places_that_are_none_are_refused(words, message):
    with pytest.raises(ClusterError, match=message):
        parse_place(words)


def test_what_leaves_the_machine_is_encrypted(tmp_path):
    assert [is_loopback(f"tcp://{host}:1") for host in ("127.0.0.1", "127.8.0.1", "[::1]", "localhost")] == [
        True
    ] * 4
    assert [
        is_loopback(f"tcp://{host}:1") for host in ("10.0.0.1", "0.0.0.0", "localhost.evil.org", "[::]")
    ] == [False] * 4
    with (
        pytest.raises(ClusterError, match=r"not encrypted.*run anything as you"),
        open_cluster("tcp://10.1.2.3:8786"),
    ):
        pass
    (tmp_path / "s.json").write_text('{"address": "tcp://10.1.2.3:8786"}')
    with pytest.raises(ClusterError, match="not encrypted"), open_cluster(f"file:{tmp_path}/s.json"):
        pass
    (tmp_path / "n.json").write_text("{}")
    with pytest.raises(ClusterError, match="no scheduler file"), open_cluster(f"file:{tmp_path}/n.json"):
        pass
    with pytest.raises(ClusterError, match="is not there after"), open_cluster("file:/nowhere.json", wait=0):
        pass


def test_keys_are_for_their_owner_alone(call, tmp_path):
    code, out, _ = call("cluster", "keys", tmp_path / "keys")
    assert code == 0
    assert "key.pem" in out
    assert [p.stat().st_mode & 0o777 for p in sorted((tmp_path / "keys").iterdir())] == [0o600, 0o600]
    security = read_security(tmp_path / "keys")
    assert security.require_encryption
    given = security.get_tls_config_for_role("worker")
    assert given["key"] == str(tmp_path / "keys" / "key.pem")
    code, _, err = call("cluster", "keys", tmp_path / "keys")
    assert (code, "exists already" in err) == (2, True)
    (tmp_path / "keys" / "key.pem").chmod(0o640)
    with pytest.raises(ClusterError, match="chmod 600"):
        read_security(tmp_path / "keys")
    with pytest.raises(ClusterError, match="sartransfer cluster keys"):
        read_security(tmp_path)


def test_slurm_is_asked_with_keys_and_nothing_on_the_dashboard(tmp_path, monkeypatch):
    """The worker's script as dask-jobqueue writes it; nothing is submitted."""
    import dask_jobqueue

    seen = {}
    kept = ("cores", "processes", "memory", "walltime", "worker_extra_args", "job_script_prologue")

    class Fake:
        def __init__(self, **given):
            seen.update(given)
            job = dask_jobqueue.slurm.SLURMJob(
                "tls://x:1", "w", security=None,
                **{k: v for k, v in given.items() if k in kept},
            )  # fmt: skip
            seen["script"] = job.job_script()
            raise RuntimeError("no sbatch here")

    monkeypatch.setattr(dask_jobqueue, "SLURMCluster", Fake)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    place = f"slurm:3,cores=4,memory=8GB,walltime=01:00:00,keys={tmp_path}/k"
    with pytest.raises(ClusterError, match="no sbatch here"), open_cluster(place):
        pass
    assert seen["n_workers"] == 3
    assert seen["protocol"] == "tls://"
    assert seen["security"].require_encryption
    assert seen["shared_temp_directory"] == f"{tmp_path}/k"
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o700
    assert "export OMP_NUM_THREADS=4" in seen["script"]
    assert "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'" in seen["script"]
    assert "--nthreads 1" in seen["script"]
    subprocess.run(["bash", "-n"], input=seen["script"], text=True, check=True)


def test_kubernetes_is_asked_for_workers(monkeypatch):
    seen = {}
    fake = types.ModuleType("dask_kubernetes.operator")

    def made(**given):
        seen.update(given)
        raise RuntimeError("no cluster here")

    fake.KubeCluster = made
    monkeypatch.setitem(sys.modules, "dask_kubernetes", types.ModuleType("dask_kubernetes"))
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", fake)
    with pytest.raises(ClusterError, match="needs an image"), open_cluster("kubernetes:2"):
        pass
    with (
        pytest.raises(ClusterError, match="no cluster here"),
        open_cluster("kubernetes:2,image=a,namespace=n"),
    ):
        pass
    assert (seen["n_workers"], seen["image"], seen["namespace"]) == (2, "a", "n")


JOB = JobSettings(
    ("predict", "/d/it's a run", "/d/$(rm -rf x);`y`.txt", "--out", "/d/maps"), "/d/my folder", "ice", 3, 4, "10GB",
    "1-00:00:00", "gpu", "group", "/opt/a b/python", "registry/image:1", "claim", "science",
)  # fmt: skip


def test_a_slurm_job_is_whole_and_quoted(tmp_path):
    text = slurm_job(JOB)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "has never run there" in text
    said = dict(line[8:].split("=", 1) for line in text.splitlines() if line.startswith("#SBATCH "))
    assert said == {
        "--job-name": "ice", "--ntasks": "4", "--cpus-per-task": "4", "--mem-per-cpu": "2500M", "--time": "1-00:00:00",
        "--output": "ice-%j.log", "--partition": "gpu", "--account": "group",
    }  # fmt: skip
    # What a shell makes of it: stand-ins for the Python, srun and mkdir note the words they are given.
    fake = tmp_path / "fake"
    fake.write_text('#!/bin/bash\nprintf "%s\\0" "$(basename "$0")" "$@" >> "$NOTES/$$"\n')
    fake.chmod(0o755)
    shutil.copy(fake, tmp_path / "srun")
    (tmp_path / "notes").mkdir()
    folder = tmp_path / "my folder"
    folder.mkdir()
    script = slurm_job(replace(JOB, python=str(fake), folder=str(folder))) + "wait\n"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "NOTES": str(tmp_path / "notes")}
    subprocess.run(["bash"], input=script, text=True, check=True, env=environment, timeout=60)
    calls = [p.read_text().split("\0")[:-1] for p in (tmp_path / "notes").iterdir()]
    run = f"{folder}/.cluster-7"
    assert ["fake", "-m", "sartransfer.cli", "cluster", "keys", f"{run}/keys"] in calls
    assert [
        "fake", "-m", "sartransfer.cli", *JOB.command, "--cluster", f"file:{run}/scheduler.json", "--cluster-tls",
        f"{run}/keys",
    ] in calls  # fmt: skip
    (worker,) = [c for c in calls if c[0] == "srun"]
    assert worker[1:6] == [
        "--ntasks=3", "--cpus-per-task=4", str(fake), "-m", "distributed.cli.dask_worker"
    ]  # fmt: skip
    assert worker[worker.index("--tls-key") + 1] == f"{run}/keys/key.pem"
    assert len(calls) == 4
    assert not Path(run).exists()


def test_a_kubernetes_job_is_whole_and_quoted():
    text = kubernetes_job(JOB)
    assert "has never run there" in text
    service, policy, workers, job = yaml.safe_load_all(text)
    assert [d["kind"] for d in (service, policy, workers, job)] == ["Service", "NetworkPolicy", "Job", "Job"]
    assert {d["metadata"]["namespace"] for d in (service, policy, workers, job)} == {"science"}
    assert workers["spec"]["parallelism"] == 3
    pod = job["spec"]["template"]["spec"]
    (command,) = pod["containers"]
    assert command["command"] == [
        "/opt/a b/python", "-m", "sartransfer.cli", "predict", "/d/it's a run", "/d/$$(rm -rf x);`y`.txt", "--out",
        "/d/maps", "--cluster", "tls://ice-scheduler:8786", "--cluster-tls", "/keys",
    ]  # fmt: skip
    (scheduler,) = pod["initContainers"]
    assert scheduler["restartPolicy"] == "Always"
    for spec in (pod, workers["spec"]["template"]["spec"]):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert {v["name"] for v in spec["volumes"]} == {"data", "keys"}
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    allowed = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= labels.items()
    assert allowed.items() <= workers["spec"]["template"]["metadata"]["labels"].items()


def filled_in(word):
    """A word as Kubernetes hands it on: $(NAME) is a variable's value, and $$ one $ (its API reference, `command`)."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[1] is None else "VALUE", word)


@pytest.mark.parametrize("word", ["a$$b", "$(HOME)", "$$(HOME)", "$", "$$$", "price$5", "$$$(X)$"])
def test_kubernetes_hands_on_words_as_they_were(word):
    *_, job = yaml.safe_load_all(kubernetes_job(replace(JOB, command=("predict", word))))
    (command,) = job["spec"]["template"]["spec"]["containers"]
    assert filled_in(command["command"][4]) == word


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a\n#SBATCH --x"}, "name="), ({"memory": "lots"}, "memory='lots'"), ({"time": "1h"}, "time='1h'"),
        ({"folder": "here"}, "must be absolute"), ({"partition": "a b"}, "partition="),
        ({"workers": 0}, "must be 1 or more"),
        ({"command": ("predict", "a\nb")}, "control character"), ({"command": ()}, "needs a command"),
    ],
)  # fmt: skip
def test_job_settings_are_checked(change, message):
    with pytest.raises(ClusterError, match=message):
        replace(JOB, **change)
    with pytest.raises(ClusterError, match="needs image=NAME"):
        kubernetes_job(replace(JOB, image=""))


def test_jobs_on_the_command_line(call, tmp_path):
    words = ("--kind", "slurm", "--folder", "/data", "-o", tmp_path / "job.sh")
    code, out, err = call("cluster", "job", *words, "--", "compare", "/data/recipe.yaml", "-o", "/data/out")
    assert code == 0, err
    assert "job.sh" in out
    assert "it has never run on such a cluster" in err.replace("\n", " ")
    assert "sartransfer.cli compare /data/recipe.yaml -o /data/out" in (tmp_path / "job.sh").read_text()
    assert call("cluster", "job", *words, "--", "compare", "r.yaml")[0] == 2  # it is there already
    code, _, err = call("cluster", "job", *words[:4], "--", "report", "x")
    assert (code, "Must be one of: predict, compare" in err) == (2, True)
    code, _, err = call("cluster", "job", *words[:4], "--", "predict", "x", "--cluster", "local:2")
    assert (code, "leave --cluster out" in err) == (2, True)


def test_maps_on_the_command_line(call, cluster, unet, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def opened(where, **_):
        assert where == "local:2"
        yield cluster

    monkeypatch.setattr("sartransfer.cluster.open_cluster", opened)
    words = ("predict", unet / "best.json", unet / "scenes.txt", "-o", tmp_path / "maps", "--engine", "eager")
    code, _, err = call(*words, "--cluster", "local:2")
    assert code == 2
    assert "1 of 4 scenes have no map" in err
    assert sorted(p.name for p in (tmp_path / "maps").glob("*.tif")) == [
        "scene0.tif",
        "scene1.tif",
        "scene2.tif",
    ]
    words = (
        "predict",
        unet / "best.json",
        unet / "scene0.tif",
        "-o",
        tmp_path / "one.tif",
        "--engine",
        "eager",
    )
    code, out, err = call(*words, "--cluster", "local:2")
    assert code == 0, err
    assert "one.tif" in out
    assert "water: " in out
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "maps" / "scene0.tif").read_bytes()
    code, _, err = call("compare", unet / "none.yaml", "--cluster", "local:2", "--jobs", "2")
    assert code == 2


def test_lists_of_scenes(tmp_path):
    (tmp_path / "list.txt").write_text("# none\n")
    with pytest.raises(InputError, match="names no scene"):
        read_scenes(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a/x.tif\nb/x.tif\n")
    with pytest.raises(InputError, match=r"two scenes would be mapped as x\.tif"):
        read_scenes(tmp_path / "list.txt")
    with pytest.raises(InputError, match="two scenes"):
        predict_scenes([tmp_path / "none"], [SceneOrder("x", "a"), SceneOrder("x", "b")], tmp_path)
    (tmp_path / "list.txt").write_text("#1.tif\nscene#2.tif # a remark\n  # another\nx y.tif\t#third#.tif\n")
    found = read_scenes(tmp_path / "list.txt")
    assert [(order.name, Path(order.scene).name) for order in found] == [
        ("scene_2", "scene#2.tif"),
        ("x y", "x y.tif"),
    ]
    (tmp_path / "list.txt").write_text("before.tif | sub/after.tif")
    assert read_scenes(tmp_path / "list.txt", "a|b") == (
        SceneOrder("after", f"{tmp_path}/before.tif|{tmp_path}/sub/after.tif", "a|b"),
    )
    entries = (Entry("up/down", (Asset(tmp_path / "s.tif", "geotiff"),)),)
    write_catalog(Catalog("c", entries, ("a", "b")), tmp_path / "c.csv")
    assert read_scenes(tmp_path / "c.csv") == (SceneOrder("up_down", f"{tmp_path}/s.tif"),)
    entries = (Entry("x", (Asset(tmp_path / "s.tif", "image"),)),)
    write_catalog(Catalog("c", entries, ("a", "b")), tmp_path / "c.csv", overwrite=True)
    assert read_scenes(tmp_path / "c.csv") == (SceneOrder("x", f"{tmp_path}/s.tif", reader="image"),)


def test_a_ledger_knows_what_was_replaced_and_has_one_writer(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"old")
    with Ledger(tmp_path) as ledger:
        with pytest.raises(OutputError, match="in use"):
            Ledger(tmp_path)
        ledger.add({"name": "a", "key": "k", "status": "begun", "replaces": stamp(path)})
    with (tmp_path / LEDGER).open("a") as file:
        file.write('{"name": "a", "key"')  # cut off by a kill
    with Ledger(tmp_path) as ledger:
        assert ledger.of("a", "k", path) is None  # begun, and the old map is still there
        path.write_bytes(b"newer")
        assert ledger.of("a", "k", path)["status"] == "finished"
        assert ledger.of("a", "other", path) is None
        assert ledger.of("b", "k", path) is None
        ledger.add({"name": "a", "key": "k", "status": "failed"})
    with Ledger(tmp_path) as ledger:
        assert ledger.of("a", "k", path) is None
        ledger.add({"name": "a", "key": "k", "status": "finished"})
        for key in ("k", "other"):  # to be made anew, and killed before anything came of it
            ledger.add({"name": "a", "key": key, "status": "begun", "replaces": stamp(path)})
        assert ledger.of("a", "k", path)["status"] == "finished"
        assert ledger.of("a", "other", path) is None


def arithmetic():
    """The benchmark's module, which is a script."""
    path = Path(__file__).parent.parent / "benchmarks" / "archive_cost.py"
    spec = importlib.util.spec_from_file_location("archive_cost", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their own
    spec.loader.exec_module(module)
    return module


def test_the_arithmetic_of_an_archive():
    module = arithmetic()
    given = module.Inputs(
        scenes=3600, cpu_seconds=30.0, prepare_seconds=10.0, memory_gb=1.5, map_mb=2.0, product_mb=500.0, machines=2,
        cores=10, threads=5, use=0.5, price=0.1,
    )  # fmt: skip
    found = module.cost(given)
    # 3600 scenes of 40 s at half use: 80 core hours on 20 cores.
    assert (found.core_hours, found.hours, found.memory_gb, found.money) == pytest.approx((80, 4, 3, 8))
    assert (found.maps_gb, found.products_tb, found.megabytes_a_second) == pytest.approx((7.2, 1.8, 125))
    assert "| 2 x 10 cores | 80 | 4.0 |" in module.tables(given)
    # How long an orbit is above the Arctic Circle, by following it.
    turn = np.linspace(0, 2 * np.pi, 200_001)[:-1]
    latitude = np.degrees(np.arcsin(np.sin(turn) * np.sin(np.radians(module.INCLINATION))))
    minutes = (latitude > module.CIRCLE).mean() * 12 * 24 * 60 / 175
    assert module.arctic_minutes() == pytest.approx(minutes, rel=1e-3)


def test_a_map_whose_maker_died_before_it_could_say_so_is_taken_as_it_is(unet, tmp_path):
    options = {"engine": "eager"}
    alone = predict_scene(unet / "best.json", unet / "scene0.tif", tmp_path / "m.tif", **options)
    task = work.plan_task([unet / "best.json"], "cpu", options)
    asked = work.SceneWork(order_of(str(unet / "scene0.tif")), tmp_path / "m.tif", False, None)
    assert work.map_whole(task, asked).counts == alone.counts
    assert "then died" in work.map_scene(task, asked)["warnings"][0]
    # Where the map was there before the work was given out, it is another's.
    with pytest.raises(OutputError, match="exists"):
        work.map_whole(task, replace(asked, before=stamp(tmp_path / "m.tif")))


def test_each_scene_of_a_catalog_tells_its_own_time(unet, tmp_path):
    """GeoTIFFs often do not say when they were taken; the catalog does, and one time for all would be wrong."""
    scenes = [str(p) for p in sorted(unet.glob("scene*.tif"))[:1]] * 2
    times = ("2021-01-01T06:00:00", "2021-07-01T18:30:00+02:00")
    rows = [f"s{n},{scene},{time}" for n, (scene, time) in enumerate(zip(scenes, times, strict=True))]
    (tmp_path / "list.csv").write_text("\n".join(["id,images,time", *rows]))
    orders = read_scenes(tmp_path / "list.csv")
    made = predict_scenes([unet / "best.json"], orders, tmp_path / "maps", device="cpu", stac=True)
    assert not made.failed
    told = [
        json.loads((tmp_path / f"maps/s{n}.stac.json").read_text())["properties"]["datetime"]
        for n in range(2)
    ]
    assert told == ["2021-01-01T06:00:00Z", "2021-07-01T16:30:00Z"]
    again = predict_scenes([unet / "best.json"], orders, tmp_path / "maps", device="cpu", stac=True)
    assert not again.failed  # found finished
    bare = predict_scenes([unet / "best.json"], orders, tmp_path / "maps", device="cpu", overwrite=True)
    for n, record in enumerate(bare.records):  # of many scenes, too, it is said what a map has outlived
        assert any(f"s{n}.stac.json is of an earlier map" in w for w in record["warnings"])
    (tmp_path / "maps" / LEDGER).unlink()
    moved = [replace(order, time=order.time + timedelta(days=1)) for order in orders]
    other = predict_scenes([unet / "best.json"], moved, tmp_path / "maps", device="cpu", stac=True)
    assert len(other.failed) == 2  # maps of another time are not taken for these
    same = datetime(2021, 1, 1, 6, 5, tzinfo=UTC)
    one = predict_scenes([unet / "best.json"], orders, tmp_path / "one", device="cpu", stac=same)
    assert [r["status"] for r in one.records] == ["finished", "failed"]
    assert (
        "was taken at 2021-07-01T16:30:00Z, as its catalog says, and not at 2021-01-01T06:05:00Z"
        in (one.failed[0]["error"])
    )
