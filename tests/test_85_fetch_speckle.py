"""What the speckle filter of fetched images is told on the command line."""

import json

import pytest

from sartransfer import fetch
from sartransfer.errors import FetchError
from sartransfer.radar.speckle import SpeckleFilter

SQUARE = {
    "type": "Polygon",
    "coordinates": [[[0.0, 40.0], [0.01, 40.0], [0.01, 40.01], [0.0, 40.01], [0.0, 40.0]]],
}


@pytest.fixture
def asked(call, tmp_path, monkeypatch):
    """Ask for a flood with such words: (exit code, error, the filter that the archive would have been asked with)."""

    def run(*words):
        seen = []

        def stop(request, archive):
            seen.append(request.speckle)
            raise FetchError("the archive is not asked in this test.")

        monkeypatch.setattr(fetch, "plan_flood", stop)
        (tmp_path / "area.json").write_text(json.dumps(SQUARE))
        code, _, err = call("fetch", "flood", "--area", tmp_path / "area.json", "--before", "2024-10-01", "--after",
                            "2024-11-01", "--endpoint", "http://127.0.0.1:9", "--collection", "c", "--unit", "gamma0",
                            "--dry-run", *words)  # fmt: skip
        return code, err, seen[0] if seen else None

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), SpeckleFilter("none")),
        (("--speckle", "lee"), SpeckleFilter("lee")),
        (
            ("--speckle", "lee", "--speckle-looks", 4.4, "--speckle-size", 5),
            SpeckleFilter("lee", looks=4.4, size=5),
        ),
        (("--speckle", "refined_lee", "--speckle-looks", 3), SpeckleFilter("refined_lee", looks=3.0)),
        (("--speckle", "gamma_map", "--speckle-size", 9), SpeckleFilter("gamma_map", size=9)),
        (("--speckle", "focal_mean", "--speckle-radius", 30), SpeckleFilter("focal_mean", radius=30.0)),
        (("--speckle", "frost", "--speckle-damping", 1.5), SpeckleFilter("frost", damping=1.5)),
    ],
)
def test_filters_are_told_their_settings(asked, words, expected):
    code, err, speckle = asked(*words)
    assert (code, "not asked in this test" in err) == (2, True)
    assert speckle == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--speckle-looks", 4), "--speckle-looks is for --speckle lee or refined_lee or gamma_map"),
        (("--speckle", "frost", "--speckle-looks", 4), "and --speckle is 'frost'"),
        (
            ("--speckle", "refined_lee", "--speckle-size", 7),
            "--speckle-size is for --speckle lee or frost or gamma_map",
        ),
        (("--speckle", "lee", "--speckle-radius", 50), "--speckle-radius is for --speckle focal_mean"),
        (("--speckle", "lee", "--speckle-damping", 2), "--speckle-damping is for --speckle frost"),
        (("--speckle", "lee", "--speckle-size", 4), "size=4"),
        (("--speckle", "lee", "--speckle-looks", 0), "looks=0"),
        (("--speckle", "focal_mean", "--speckle-radius", -1), "radius=-1"),
        (("--speckle", "frost", "--speckle-damping", -1), "damping=-1"),
        (("--speckle", "leee"), "Did you mean 'lee'"),
    ],
)
def test_what_a_filter_does_not_take_is_refused(asked, words, said):
    code, err, speckle = asked(*words)
    assert (code, said in err, speckle) == (2, True, None), err
