"""YAML of others: aliases that expand, values that are not what their form says, numbers that are none."""

import pytest
import yaml

from sartransfer.audit.claims import read_claims
from sartransfer.errors import InputError, RecipeError
from sartransfer.faults import MOST_ALIASED, MOST_MERGED, read_yaml
from sartransfer.recipe import Recipe

BASE = """name: r
task: segment
data: {catalog: c.csv, classes: [dry, wet]}
model: {name: unet-resnet18}
initializations: {random: random}
seeds: 2
training: {epochs: 1}
primary: {metric: iou, class: wet}
"""
NINE = "".join(
    f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "".join(
    f"{c}: &{c} {{<<: [{','.join([f'*{p}'] * 9)}]}}\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


def recipe(folder, text, *overrides):
    (folder / "r.yaml").write_text(text)
    return Recipe.from_yaml(folder / "r.yaml", overrides)


def test_aliases_that_stand_for_millions_of_values_are_refused(tmp_path):
    with pytest.raises(yaml.YAMLError, match=f"over {MOST_ALIASED:,} values"):
        read_yaml(f"a: &a [x,x,x,x,x,x,x,x,x]\n{NINE}")
    with pytest.raises(RecipeError, match="aliases"):
        recipe(tmp_path, f"a: &a [x,x,x,x,x,x,x,x,x]\n{NINE}{BASE}")
    with pytest.raises(yaml.YAMLError, match=f"over {MOST_MERGED} keys are merged"):
        read_yaml(f"a: &a {{x: 1, y: 2}}\n{MERGES}")


def test_aliases_and_merges_in_bounds_and_long_lists_are_read():
    text = (
        "a: &a [1, 2]\nb: [*a, *a, {c: *a}]\nm: &m {x: 1, y: 2}\nn: {<<: *m, y: 3}\no: {<<: [*m, {z: 4}]}\n"
    )
    assert read_yaml(text) == {
        "a": [1, 2], "b": [[1, 2], [1, 2], {"c": [1, 2]}], "m": {"x": 1, "y": 2}, "n": {"x": 1, "y": 3},
        "o": {"x": 1, "y": 2, "z": 4},
    }  # fmt: skip
    many = [[7] * 100] * 2
    assert read_yaml("a: " + str(many * 20)) == {"a": many * 20}  # written out: no aliases


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {<<: *a}", "a: &a {b: *a}", "[" * 5000])
def test_what_holds_itself_or_has_no_end_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)


def test_the_count_of_aliases_is_that_of_values_written_out():
    rows = "\n".join(f"- &r{i} [{', '.join('1' * 99)}]" for i in range(1, 3))
    for copies, good in ((MOST_ALIASED // 100, True), (MOST_ALIASED // 100 + 1, False)):
        text = rows + "\n" + "\n".join(["- *r1"] * copies)
        if good:
            assert len(read_yaml(text)) == copies + 2
        else:
            with pytest.raises(yaml.YAMLError, match="aliases"):
                read_yaml(text)


ODD = ("2024-13-45", "2024-12-05 25:61:61", "!!int abc", "!!float abc", "!!bool x", "!!timestamp x", "!!int ''",
       "9" * 5000, '"\\UFFFFFFFF"')  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_a_value_that_is_not_what_its_form_says_is_told_with_its_line(tmp_path, text):
    words = "is no (int|float|bool|timestamp)" if "UFFFF" not in text else "readable as YAML"
    with pytest.raises(RecipeError, match=words) as told:
        recipe(tmp_path, f"{BASE}description: {text}\n")
    assert "UFFFF" in text or "line 9" in str(told.value)
    assert len(str(told.value)) < 500
    with pytest.raises(RecipeError, match=r"description=.*its value is not readable as YAML"):
        recipe(tmp_path, BASE, f"description={text}")
    (tmp_path / "claims.yaml").write_text(f"source: {text}\n")
    with pytest.raises(InputError, match="is not readable as YAML"):
        read_claims(tmp_path / "claims.yaml")


def test_texts_that_yaml_reads_as_something_else_are_to_be_quoted(tmp_path):
    for text, given in (("2024-12-05", "the date 2024-12-05"), ("5", "5"), ("no", "False")):
        with pytest.raises(
            RecipeError, match=rf"description: must be a valid string \(given: {given}\).*Quote it"
        ):
            recipe(tmp_path, f"{BASE}description: {text}\n")
    assert recipe(tmp_path, f'{BASE}description: "2024-12-05"\n').description == "2024-12-05"


def test_claims_that_are_no_text_are_told(tmp_path):
    (tmp_path / "claims.yaml").write_bytes(b"source: \xff\n")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_claims(tmp_path / "claims.yaml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.validation.seed=-1", "data.validation.seed: must be greater than or equal to 0"),
        ("data.tests={t: {per_class: 3, seed: -1}}", "seed: must be greater than or equal to 0"),
        ("data.label_noise={share: 0.1, seed: -2}", "seed: must be greater than or equal to 0"),
        ("seeds=1000000000", "there may be 10,000; for the one seed 1000000000 write [1000000000]"),
        ("seeds=[true, false]", "seeds must be numbers (given: True)"),
        ("training.epochs=true", "training: epochs must be a number (given: True)"),
        ("fractions=[true]", "fractions must be numbers (given: True)"),
        ("margin=true", "margin must be a number (given: True)"),
        ("training.loss={cross_entropy: true}", "loss must be numbers (given: True)"),
        ("margin=.inf", "margin: must be a finite number"),
        ("training.optimizer.lr=.nan", "training.optimizer.lr: must be a finite number"),
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path, override, words):
    with pytest.raises(RecipeError) as told:
        recipe(tmp_path, BASE, override)
    assert words in str(told.value)


def test_truth_values_stay_where_they_are_meant(tmp_path):
    read = recipe(tmp_path, BASE, "training.bootstrap=true", "training.augment={flips: true}", "seeds=10000")
    assert (read.training.bootstrap, read.training.augment.flips, len(read.seeds)) == (True, True, 10_000)
