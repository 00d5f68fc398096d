"""Recipes: every mistake is named with its place and the nearest valid word; what is read is written back equal."""

import ast
import copy
import inspect
import itertools
import os
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import sartransfer
from sartransfer.errors import InputError, RecipeError
from sartransfer.recipe import ClassifyRecipe, Recipe, SegmentRecipe, digest, parse_recipe, recipe_schema

ROOT = Path(__file__).parent.parent
SHIPPED = [
    *sorted((ROOT / "recipes").glob("*.yaml")),
    Path(sartransfer.__file__).parent / "templates/demo.yaml",
]
BASE = {
    "name": "mine",
    "task": "segment",
    "data": {"catalog": "scenes.csv"},
    "model": {"name": "unet-resnet18"},
    "initializations": {
        "random": "random",
        "chain": {
            "from": "stages",
            "stages": [
                {"name": "a", "task": "classify", "data": {"catalog": "a.csv"}, "training": {"epochs": 2}}
            ],
        },
    },
    "seeds": 2,
    "primary": {"metric": "iou_macro"},
}


def changed(place, value):
    """BASE with the value at a dotted place; None takes it away."""
    values = copy.deepcopy(BASE)
    *parents, last = [int(p) if p.isdigit() else p for p in place.split(".")]
    part = values
    for parent in parents:
        part = part.setdefault(parent, {}) if isinstance(part, dict) else part[parent]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return values


def message(values):
    with pytest.raises(RecipeError) as found:
        parse_recipe(values, where="mine.yaml")
    first, *lines = str(found.value).splitlines()
    assert first == "mine.yaml is not a valid recipe:"
    assert "pydantic" not in str(found.value)
    return lines


@pytest.mark.parametrize(
    ("place", "where", "near"),
    [
        ("sead", "top level", "seeds"),
        ("data.vallidation", "data", "validation"),
        ("data.validation.fractoin", "data.validation", "fraction"),
        ("data.patch.sice", "data.patch", "size"),
        ("model.nam", "model", "name"),
        ("training.epoch", "training", "epochs"),
        ("training.optimizer.learning_rate", "training.optimizer", None),
        ("training.optimizer.weight_dekay", "training.optimizer", "weight_decay"),
        ("training.schedule.warm_up", "training.schedule", "warmup"),
        ("training.augment.flip", "training.augment", "flips"),
        ("primary.metrik", "primary", "metric"),
        ("initializations.chain.stage", "initializations.chain", "stages"),
        ("initializations.chain.first_leyer", "initializations.chain", "first_layer"),
        ("initializations.chain.stages.0.taks", "initializations.chain.stages.0", "task"),
        ("initializations.chain.stages.0.data.clases", "initializations.chain.stages.0.data", "classes"),
        ("initializations.chain.stages.0.training.epoch", "initializations.chain.stages.0.training", "epochs"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_its_place_and_the_nearest_valid_one(place, where, near):
    (line,) = message(changed(place, 3))
    key = place.rpartition(".")[2]
    hint = f" Did you mean '{near}'?" if near else ""
    assert line.startswith(f"  {where}: unknown key '{key}'.{hint} Allowed: ")
    assert near is None or near in line.partition("Allowed: ")[2].split(", ")


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("task", "segmentation", "top level: task='segmentation' is not known. Must be one of: segment, classify."
                                 " Did you mean 'segment'?"),
        ("task", None, "top level: `task` is needed, one of: segment, classify"),
        ("contrasts", [["random", "rendom"]], "top level: contrasts: 'rendom' is not among the initializations."),
        ("contrasts", [["random", "random"]], "top level: contrasts: ['random', 'random'] must be"),
        ("name", None, "name: is needed and missing"),
        ("name", "a/b", "name: String should match pattern"),
        ("data", 3, "data: must be a group of keys (given: 3)"),
        ("data.catalog", None, "data: name either a `dataset` (with its `root`) or a `catalog`"),
        ("data.dataset", "ombria", "data: name either a `dataset` (with its `root`) or a `catalog`"),
        ("data.patch.per_scene", 3, "data.patch: give either `size` (pixels) or `size_m` (metres)"),
        ("data.bands", [3], "data.bands.0: must be a group of keys (given: 3)"),
        ("data.classes", [True], "data.classes.0: must be a valid string (given: True)"),
        ("data.validation.fraction", 1, "data.validation.fraction: must be less than 1 (given: 1)"),
        ("data.validation.fraction", 0, "top level: weights: best needs validation"),
        ("model", "unet", "model: must be a group of keys (given: 'unet')"),
        ("training", "", "training: must be a group of keys (given: '')"),
        ("training.epochs", -1, "training.epochs: must be greater than 0 (given: -1)"),
        ("training.epochs", "many", "training.epochs: must be a valid integer"),
        ("training.optimizer.name", "adm", "training.optimizer.name: must be 'adam', 'adamw' or 'sgd'"
                                           " (given: 'adm'). Did you mean 'adam'?"),
        ("training.schedule.name", "onecycle", "Did you mean 'one-cycle'?"),
        ("training.precision", "bf-16", "Did you mean 'bf16'?"),
        ("primary.metric", "iuo_macro", "Did you mean 'iou_macro'?"),
        ("primary.metric", "iou", "primary: metric 'iou' needs `class`"),
        ("primary.class", "water", "primary: metric 'iou_macro' takes no `class`"),
        ("baseline", "rndom", "baseline 'rndom' is not among the initializations. Did you mean 'random'?"),
        ("seeds", 0, "top level: seeds must be given and be distinct, not []"),
        ("seeds", [1, 1], "top level: seeds must be given and be distinct, not [1, 1]"),
        ("seeds", True, "seeds: must be a list (given: True)"),
        ("fractions", [0.5, 2], "top level: fractions must lie in (0, 1], not [0.5, 2.0]"),
        ("initializations", {}, "initializations: Dictionary should have at least 1 item"),
        ("initializations", {"a b": "random"}, "initializations: initialization 'a b': letters, digits"),
        ("initializations.random", "imagenet", "initializations.random: from='imagenet' is not known. Must be one"
         " of: random, torchvision, timm, smp, terratorch, file, hub, run, stages. (Weights in a file: {from: file, "
         "path: ...}.)"),
        ("initializations.random", {"form": "file", "path": "x"}, "initializations.random: unknown key 'form'. Did"
         " you mean 'from'? `from` is needed, one of: random, torchvision"),
        ("initializations.random", {"path": "x"}, "initializations.random: `from` is needed, one of"),
        ("initializations.random", {"from": "file"}, "initializations.random.path: is needed and missing"),
        ("initializations.chain.stages", [], "initializations.chain.stages: Tuple should have at least 1 item"),
        ("initializations.chain.stages.0.start", "randm", "initializations.chain.stages.0.start: from='randm'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_place_and_what_is_allowed(place, value, expected):
    (line,) = message(changed(place, value))
    assert expected in line


def test_every_fault_is_told_at_once():
    values = changed("training.epochs", 0)
    values["data"]["chip"] = "big"
    values["margin"] = 0
    assert [line.strip().partition(":")[0] for line in message(values)] == [
        "data.chip", "training.epochs", "margin"
    ]  # fmt: skip


def test_names_of_starts_may_be_words_of_the_recipe():
    values = changed("initializations.segment", {"from": "file"})
    assert message(values) == ["  initializations.segment.path: is needed and missing"]


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(
        text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", ["not readable as YAML", "line"]),
        ("name: a\n\tb: c", ["not readable as YAML", "line 2"]),
        ("name: a\nname: b", ["key 'name' stands twice", "line 2"]),
        ("training:\n  epochs: 3\n  epochs: 4", ["key 'epochs' stands twice", "line 3"]),
        ("name: !!python/object/apply:os.getcwd []", ["not readable as YAML", "python/object"]),
        ("[" * 1500, ["not readable as YAML"]),
        ("", ["holds NoneType, not the keys of a recipe"]),
        ("- a\n- b", ["holds list, not the keys of a recipe"]),
        ("a: &a {b: *a}", ["not readable as YAML", "holds itself"]),
    ],
)
def test_what_is_no_yaml_of_a_recipe_is_refused(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as found:
        Recipe.from_yaml(path)
    assert all(w in str(found.value) for w in [str(path), *words]), found.value


def test_bytes_that_are_no_text_and_files_that_are_not_there_are_refused(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="not readable as YAML"):
        Recipe.from_yaml(tmp_path / "mine.yaml")
    for missing in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(InputError, match=f"no recipe at {missing}"):
            Recipe.from_yaml(missing)


def test_merged_keys_may_be_overruled(tmp_path):
    text = yaml.safe_dump(BASE) + "\ntraining: {<<: {epochs: 7, batch_size: 2}, epochs: 9}\n"
    training = Recipe.from_yaml(write(tmp_path, text)).training
    assert (training.epochs, training.batch_size) == (9, 2)


def test_the_environment_fills_paths_in_or_is_missed(tmp_path, monkeypatch):
    path = write(tmp_path, changed("data.catalog", "${SARTRANSFER_TEST_PLACE}/scenes.csv"))
    monkeypatch.delenv("SARTRANSFER_TEST_PLACE", raising=False)
    with pytest.raises(RecipeError, match=r"names \$\{SARTRANSFER_TEST_PLACE\}, which is not set. Set it"):
        Recipe.from_yaml(path)
    monkeypatch.setenv("SARTRANSFER_TEST_PLACE", str(tmp_path / "here"))
    assert Recipe.from_yaml(path).data.catalog == str(tmp_path / "here" / "scenes.csv")


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write(tmp_path, BASE)
    recipe = Recipe.from_yaml("../mine.yaml")
    assert recipe.data.catalog == str(tmp_path / "scenes.csv")
    assert recipe.initializations["chain"].stages[0].data.catalog == str(tmp_path / "a.csv")


def test_overrides_change_settings_their_values_are_yaml(tmp_path):
    path = write(tmp_path, BASE)
    sets = (
        "training.epochs=3",
        "seeds=[4, 7]",
        "data.patch={size: 64}",
        "name=other",
        "training.optimizer.lr=1e-2",
    )
    recipe = Recipe.from_yaml(path, sets)
    assert (recipe.training.epochs, recipe.seeds, recipe.data.patch.size) == (3, (4, 7), 64)
    assert (recipe.name, recipe.training.optimizer.lr) == ("other", 0.01)
    assert Recipe.from_yaml(path, ("data.catalog=sub/b.csv",)).data.catalog == str(tmp_path / "sub/b.csv")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs", "'training.epochs' is not of the form key.subkey=value"),
        ("=3", "is not of the form"),
        ("training..epochs=3", "is not of the form"),
        ("name.first=a", "'name' is a value, not a group of keys"),
        ("seeds=[", "its value is not readable as YAML"),
        ("training.epoch=3", "unknown key 'epoch'. Did you mean 'epochs'?"),
        ("trainig.epochs=3", "unknown key 'trainig'. Did you mean 'training'?"),
        ("training.epochs=", "training.epochs: must be a valid integer (given: nothing)"),
    ],
)
def test_a_bad_override_is_refused(tmp_path, override, words):
    with pytest.raises(RecipeError) as found:
        Recipe.from_yaml(write(tmp_path, BASE), (override,))
    assert words in str(found.value)


def shipped(path, monkeypatch, root="/nowhere"):
    for name in ("SARTRANSFER_DATA", "SARTRANSFER_WEIGHTS", "SARTRANSFER_PRITHVI"):
        monkeypatch.setenv(name, f"{root}/{name.lower()}")
    return Recipe.from_yaml(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_what_is_written_is_read_back_equal(tmp_path, monkeypatch, path):
    recipe = shipped(path, monkeypatch)
    again = Recipe.from_yaml(write(tmp_path, recipe.to_yaml()))
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert again.to_yaml() == recipe.to_yaml()


def test_the_right_kind_of_recipe_is_read(tmp_path):
    assert type(Recipe.from_yaml(write(tmp_path, BASE))) is SegmentRecipe
    values = changed("task", "classify")
    recipe = Recipe.from_yaml(write(tmp_path, values))
    assert type(recipe) is ClassifyRecipe
    assert recipe.seeds == (0, 1)
    assert recipe.baseline_name == "random"
    assert recipe.model_of("chain") == recipe.model
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_the_digest_does_not_know_where_things_lie(tmp_path, monkeypatch, path):
    one = shipped(path, monkeypatch, "/one/place")
    (tmp_path / "there").mkdir()
    other = shipped(shutil.copy(path, tmp_path / "there" / "copy.yaml"), monkeypatch, "/quite/another/place")
    if "${" in path.read_text():
        assert one != other
    if path.stem != "demo":  # its data lie beside it, in folders that the demo fills in
        assert one.digest() == other.digest()
    assert one.digest() != one.model_copy(update={"seeds": (9,)}).digest()
    deeper = one.training.model_copy(update={"epochs": one.training.epochs + 1})
    assert one.digest() != one.model_copy(update={"training": deeper}).digest()


def test_a_digest_is_of_the_values_not_of_their_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})
    assert len(digest({})) == 16
    assert int(digest({}), 16) >= 0


def faults(value, schema, parts):
    """A slow reference for the JSON Schema that pydantic writes: a list of what does not hold."""
    if "$ref" in schema:
        return faults(value, parts[schema["$ref"].rpartition("/")[2]], parts)
    found = []
    kinds = {
        "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
        "number": (int, float),
    }  # fmt: skip
    known = {
        "type", "properties", "additionalProperties", "required", "items", "anyOf", "oneOf", "const", "enum",
        "minItems", "maxItems", "minProperties", "minimum", "exclusiveMinimum", "exclusiveMaximum", "maximum",
        "pattern", "title", "description", "default", "discriminator", "prefixItems", "$defs",
    }  # fmt: skip
    assert not schema.keys() - known, schema.keys() - known
    if "type" in schema:
        kind = kinds[schema["type"]]
        if not isinstance(value, kind) or (isinstance(value, bool) and schema["type"] != "boolean"):
            return [f"{value!r} is no {schema['type']}"]
    if "const" in schema and value != schema["const"]:
        found.append(f"{value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{value!r} is not among {schema['enum']}")
    for word in ("anyOf", "oneOf"):
        good = sum(not faults(value, s, parts) for s in schema.get(word, ()))
        if word in schema and (good < 1 or (word == "oneOf" and good > 1)):
            found.append(f"{value!r} fits {good} of {word}")
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{k} is missing" for k in schema.get("required", ()) if k not in value]
        for key, inner in value.items():
            if key in properties:
                found += faults(inner, properties[key], parts)
            elif more is False:
                found.append(f"unknown key {key}")
            elif more is not True:
                found += faults(inner, more, parts)
        if len(value) < schema.get("minProperties", 0):
            found.append("too few keys")
    if isinstance(value, list):
        heads = schema.get("prefixItems", ())
        for i, inner in enumerate(value):
            found += faults(inner, heads[i] if i < len(heads) else schema.get("items", {}), parts)
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append("too few or too many items")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("exclusiveMinimum", -1e99), schema.get("exclusiveMaximum", 1e99)
        if not low < value < high or not schema.get("minimum", -1e99) <= value <= schema.get("maximum", 1e99):
            found.append(f"{value} is out of bounds")
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_the_schema_takes_the_shipped_recipes_and_refuses_what_we_refuse(path):
    schema = recipe_schema()
    values = yaml.safe_load(path.read_text())
    assert faults(values, schema, schema["$defs"]) == []
    for place, wrong in (("epochs", 0), ("epoch", 3), ("optimizer", {"name": "adm"})):
        bad = copy.deepcopy(values)
        bad["training"][place] = wrong
        assert faults(bad, schema, schema["$defs"])
    for key, wrong in (
        ("seeds", 0),
        ("seeds", "six"),
        ("task", "segmentation"),
        ("initializations", {"a": "b"}),
    ):
        assert faults(values | {key: wrong}, schema, schema["$defs"])


def test_the_schema_takes_written_recipes_and_short_forms():
    schema = recipe_schema()
    assert faults(BASE, schema, schema["$defs"]) == []
    values = changed("initializations.chain.stages.0.start", "random")
    values["data"]["bands"] = ["before", {"name": "change", "difference": ["after", "before"]}]
    assert faults(values, schema, schema["$defs"]) == []
    assert faults(parse_recipe(values).to_json(), schema, schema["$defs"]) == []


def test_the_schema_says_of_each_field_what_its_docstring_says():
    """Against the docstrings as they stand in the files, read without pydantic."""
    parts, told = recipe_schema()["$defs"], 0
    for path in sorted((Path(sartransfer.__file__).parent / "recipe").glob("*.py")):
        for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(kind, ast.ClassDef):
                continue
            names = ("SegmentRecipe", "ClassifyRecipe") if kind.name == "Recipe" else (kind.name,)
            for field, after in itertools.pairwise(kind.body):
                text = after.value.value if isinstance(after, ast.Expr) else None
                if not isinstance(field, ast.AnnAssign) or not isinstance(text, str):
                    continue
                for part in (parts[name] for name in names if name in parts):
                    name = field.target.id.rstrip("_")  # from_ and class_ are words of Python
                    assert part["properties"][name]["description"] == inspect.cleandoc(text), (
                        kind.name,
                        name,
                    )
                    told += 1
    bare = {
        (k, f) for k, part in parts.items() for f, v in part["properties"].items() if not v.get("description")
    }
    assert told > 150
    assert bare == set()
    assert "how many" in parts["SegmentRecipe"]["properties"]["seeds"]["description"]  # beside its short form


def test_shipped_recipes_name_no_machine():
    for path in SHIPPED:
        assert os.sep + "work" not in path.read_text()


PAPER = {
    "task": "classify",
    "primary": {"metric": "accuracy"},
    "model": {"name": "resnet18"},
    "baseline": None,
    "data": {"dataset": "mstar", "root": "chips"},
}


def test_a_papers_names_stand_for_its_initializations():
    recipe = parse_recipe(
        {
            **BASE,
            **PAPER,
            "initializations": {
                "RD-TSX": "RD-TSX",
                "TL-ImageNet2TSX": {"preset": "TL-ImageNet2TSX", "path": "r18.pth", "allow_missing": ["x.*"]},
                "hub": "TL-ImageNet2TSX",
                "TL-ImageNet2RS2TSX": {"preset": "TL-ImageNet2RS2TSX", "root": "nwpu", "path": "r18.pth"},
            },
        }
    )
    starts = recipe.initializations
    assert starts["RD-TSX"].from_ == "random"
    assert (starts["TL-ImageNet2TSX"].from_, starts["TL-ImageNet2TSX"].allow_missing) == ("file", ("x.*",))
    assert (starts["hub"].from_, starts["hub"].name) == ("torchvision", "ResNet18_Weights.IMAGENET1K_V1")
    (stage,) = starts["TL-ImageNet2RS2TSX"].stages
    assert (stage.data.dataset, stage.data.root, stage.start.path) == ("nwpu", "nwpu", "r18.pth")
    # What is saved with a run is spelled out and reads back as the same recipe.
    assert parse_recipe(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"preset": "TL-ImageNet2RS2TSX"}, "root"),
        ({"preset": "TL-ImageNet2TXS"}, "TL-ImageNet2TSX"),
        ({"preset": "RD-TSX", "pth": "x"}, "pth"),
    ],
)
def test_a_preset_that_cannot_be_spelled_out_says_why(start, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe({**BASE, **PAPER, "initializations": {"a": start}})


def test_an_entry_may_be_trained_in_its_own_way():
    values = {
        **BASE,
        **PAPER,
        "training": {"epochs": 7, "loss": {"focal": 1.0}, "loss_options": {"focal": {"gamma": 1.0}}},
    }
    values["initializations"] = {
        "plain": "random",
        "other": {"from": "random", "training": {"loss": {"cross_entropy": 2.0}, "optimizer": {"lr": 0.5}}},
    }
    recipe = parse_recipe(values)
    assert recipe.training_of("plain") is recipe.training
    other = recipe.training_of("other")
    assert (other.epochs, other.loss, other.loss_options) == (7, {"cross_entropy": 2.0}, {})
    assert (other.optimizer.lr, other.optimizer.name) == (0.5, "adamw")
    values["initializations"]["other"]["training"] = {"epoch": 3}
    with pytest.raises(RecipeError, match=r"other.*epoch"):
        parse_recipe(values)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"tests": {"new": {}}}, "groups"),
        ({"tests": {"train": {"per_class": 3}}}, "train"),
        ({"tests": {"new": {"per_class": 3}}, "test": {"fraction": 0.2}}, "tests"),
        ({"label_noise": {"share": 0.2, "kind": "alike"}}, "alike"),
        ({"label_noise": {"share": 0.2, "alike": {"a": "b"}}}, "alike"),
    ],
)
def test_test_sets_and_label_noise_that_cannot_be(data, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe({**BASE, **PAPER, "initializations": {"a": "random"}, "data": {**PAPER["data"], **data}})
