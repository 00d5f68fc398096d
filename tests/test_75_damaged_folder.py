"""A comparison's folder of which a file was cut off, emptied or edited: one error with the file and the way out."""

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from sartransfer.comparison import check_out
from sartransfer.errors import InputError, OutputError
from sartransfer.evaluate import SceneScore, TestScores, log_look, read_scores, write_scores
from sartransfer.gather import _curves, _reports, count_looks, read_looks
from sartransfer.runs import RunFolder, chosen_weights


def test_a_look_that_a_kill_cut_off_does_not_spoil_the_log(tmp_path):
    path = tmp_path / "out" / "test-looks.jsonl"
    log_look(path, "north", "abc", seed=0)
    log_look(path, "north", "abc", seed=1)
    path.write_bytes(path.read_bytes()[:-10])
    assert [look["seed"] for look in read_looks(path)] == [0]
    log_look(path, "north", "abc", seed=2)
    log_look(path, "südlich", "abc", seed=3)
    assert [look["seed"] for look in read_looks(path)] == [0, 2, 3]
    assert [look["runs"] for look in count_looks(read_looks(path))] == [2, 1]
    path.write_bytes(b'{"time": "t", "test_set": "n\xc3')  # cut within a letter
    assert read_looks(path) == []


@pytest.mark.parametrize(
    "line", ["[]", "3", '{"time": "t"}', '{"time": 1, "test_set": "a", "recipe_hash": "b"}']
)
def test_a_whole_line_that_is_no_look_is_told(tmp_path, line):
    path = tmp_path / "test-looks.jsonl"
    log_look(path, "north", "abc")
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"test-looks\.jsonl, line 2 is no look"):
        read_looks(path)


def test_a_look_that_cannot_be_logged_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        log_look(tmp_path / "file" / "test-looks.jsonl", "north", "abc")


@pytest.mark.parametrize("text", ["", "{a: [b", "- a", "name: 2024-13-45", "\ud800"])
def test_a_damaged_recipe_of_the_folder_is_told(tmp_path, text):
    (tmp_path / "runs").mkdir()
    (tmp_path / "recipe.yaml").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(OutputError, match=r"recipe\.yaml is damaged: .*delete that file \(runs are kept\)"):
        check_out(tmp_path, "tiny")
    (tmp_path / "recipe.yaml").unlink()
    check_out(tmp_path, "tiny")  # the way out that was named


@pytest.mark.parametrize(
    "record",
    [[], 5, {"identity": "a"}, {"identity": "a", "status": "done"}, {"identity": "a", "status": 5},
     {"identity": "a", "status": "finished", "finished": 5},
     {"identity": "a", "status": "finished", "seconds": "long"}],
)  # fmt: skip
def test_a_damaged_record_of_a_run_is_told(tmp_path, record):
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json is damaged: .*Delete it and run again"):
        RunFolder(tmp_path).status("a")
    with pytest.raises(InputError, match="is damaged"):
        chosen_weights(tmp_path)
    (tmp_path / "run.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is damaged"):
        RunFolder(tmp_path).status("a")


@pytest.mark.parametrize("text", ["", "a,b\n1", "a\nx", "a,b\n1,2\n3"])
def test_damaged_curves_are_told(tmp_path, text):
    file = tmp_path / "curves.csv"
    file.write_text("epoch,loss\n1,0.5\n2,\n")
    assert _curves(file) == {"epoch": [1.0, 2.0], "loss": [0.5, None]}
    file.write_text(text)
    with pytest.raises(InputError, match=r"curves\.csv is damaged .*Delete it and run again"):
        _curves(file)


def test_a_damaged_initialization_report_is_told(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start("a", "", {})
    (tmp_path / "initialization.json").write_text("[]")
    run = SimpleNamespace(folder=folder, identity="a", initialization="random")
    with pytest.raises(InputError, match=r"initialization\.json is damaged: it holds list"):
        _reports(SimpleNamespace(runs=[run]))


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"scenes": [1], "classes": []}', '{"scenes": 5, "classes": []}']
)
def test_damaged_scores_are_told(tmp_path, text):
    scene = SceneScore("s", "g", np.eye(2, dtype=np.int64), np.zeros(2, np.float32), 1)
    write_scores(TestScores("north", ("a", "b"), (scene,)), tmp_path)
    assert read_scores(tmp_path, "north").scenes[0].label == 1
    logits, whole = tmp_path / "logits" / "north.npz", (tmp_path / "logits" / "north.npz").read_bytes()
    with zipfile.ZipFile(logits) as archive:
        start = next(m for m in archive.infolist() if m.filename == "logits.npy").header_offset + 50
    logits.write_bytes(
        whole[:start] + bytes(b ^ 0xFF for b in whole[start : start + 30]) + whole[start + 30 :]
    )
    with pytest.raises(InputError, match=r"north\.json, or the logits beside it, is damaged"):
        read_scores(tmp_path, "north")
    logits.write_bytes(whole)
    (tmp_path / "scores" / "north.json").write_text(text)
    with pytest.raises(InputError, match=r"north\.json, or the logits beside it, is damaged"):
        read_scores(tmp_path, "north")
