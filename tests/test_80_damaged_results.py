"""results.json and panels with members of a wrong type: one error that names the file, not a traceback."""

import json

import numpy as np
import pytest
from test_80_report import edit, make_results

from sartransfer import report
from sartransfer.errors import InputError

WRONG = {
    "fractions": 5, "runs": "abc", "table": [1], "contrasts": {"a": 1}, "test_sets": 7, "classes": 3,
    "primary": [], "initializations": 4, "verdict": 8, "initialization_reports": [1], "confusion": [[]],
    "environment": "here", "looks": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("results"), starts=2, seeds=2, panels=False)


def copied(made, folder, change):
    (folder / "results.json").write_text((made / "results.json").read_text())
    return edit(folder, change)


@pytest.mark.parametrize("key", sorted(WRONG))
def test_a_member_of_a_wrong_type_is_told(made, tmp_path, key):
    folder = copied(made, tmp_path, lambda r: r.update({key: WRONG[key]}))
    with pytest.raises(
        InputError, match=r"results\.json is damaged: .*make it again with `sartransfer compare`"
    ):
        report.write_report(folder)


@pytest.mark.parametrize("key", ["table", "contrasts", "confusion", "runs"])
def test_figures_tell_it_too_and_leave_nothing(made, tmp_path, key):
    folder = copied(made, tmp_path, lambda r: r.update({key: [1]}))
    with pytest.raises(InputError, match=r"results\.json is damaged"):
        report.write_figures(folder, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_brackets_without_end_are_told(tmp_path):
    (tmp_path / "results.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read"):
        report.write_report(tmp_path)


@pytest.mark.parametrize("kind", ["bits", "shape", "no member"])
def test_a_damaged_panel_is_told_by_its_own_name(made, tmp_path, kind):
    folder = make_results(tmp_path, starts=2, seeds=2, test_sets=1)
    path = next((folder / "panels").glob("*.npz"))
    if kind == "bits":
        data = bytearray(path.read_bytes())
        data[5000:5060] = bytes(b ^ 0xFF for b in data[5000:5060])
        path.write_bytes(data)
    else:
        with np.load(path) as archive:
            members = {k: archive[k] for k in archive.files}
        changed = {"predictions": members["predictions"][:1]} if kind == "shape" else {"image": np.zeros(3)}
        np.savez_compressed(path, **(members | changed))
    with pytest.raises(InputError, match=rf"{path.name} is not a panel"):
        report.write_report(folder)
    assert json.loads((folder / "results.json").read_text())
