"""Foundation models in a comparison: weights from a file, the hub or our own pretraining; LoRA, freezing; maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import save_file
from small_data import make_catalog, same_tensors, tensors, write_scene, write_small

from sartransfer import predict
from sartransfer.comparison import compare
from sartransfer.data.resolve import open_catalog, open_training_data
from sartransfer.errors import LeakageError, RecipeError, WeightsError
from sartransfer.mapping import predict_scene
from sartransfer.models import build_model, read_checkpoint
from sartransfer.models.lora import is_lora
from sartransfer.recipe import (
    DataRecipe,
    FileStart,
    HubStart,
    ModelRecipe,
    PrimaryRecipe,
    RandomStart,
    Recipe,
    RunStart,
    StagesStart,
    TrainingRecipe,
    parse_recipe,
)
from sartransfer.runs import RunFolder, fingerprint, read_json
from sartransfer.stages import Job, content_of, initialize, run_weights, train_job

torch.set_num_threads(1)
VIT = {"width": 32, "depth": 3, "heads": 2, "patch": 8, "neck_channels": 8, "head_channels": 8}
MODEL = ModelRecipe(name="vit", options=VIT)
PRIMARY = PrimaryRecipe.model_validate({"metric": "iou", "class": "water"})
RANDOM = RandomStart.model_validate({"from": "random"})
TRAINING = {"epochs": 1, "batch_size": 2, "precision": "fp32"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("scenes"), {"train": 5, "test": 2})


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small file of the published layouts: flat with a 3-D patch embedding of six bands, and prefixed."""
    torch.manual_seed(3)
    model = build_model("vit", 6, 2, **VIT)
    flat = {
        n.removeprefix("encoder."): t + 0.05
        for n, t in model.state_dict().items()
        if n.startswith("encoder.")
    }
    flat["patch_embed.proj.weight"] = flat["patch_embed.proj.weight"].unsqueeze(2)
    flat["pos_embed"] = torch.zeros(1, 589, 32)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(flat, folder / "flat.pt")
    prefixed = {f"encoder.{n}": t for n, t in flat.items()} | {"decoder.mask_token": torch.zeros(1, 1, 8)}
    torch.save(prefixed, folder / "prefixed.pt")
    return folder, flat


def _model(bands=2, seed=0, **options):
    torch.manual_seed(seed)
    return build_model("vit", bands, 2, **{**VIT, **options})


def _recipe(path, starts, *, model=MODEL, **more):
    values = {
        "name": "foundation",
        "task": "segment",
        "data": {"catalog": path, "validation": {"fraction": 0.3}},
        "model": model.model_dump(),
        "initializations": starts,
        "seeds": [0],
        "primary": {"metric": "iou", "class": "water"},
        "training": TRAINING,
    }
    return parse_recipe(values | more)


def _run(folder, path, *, start=RANDOM, training=None, model=MODEL, seed=0):
    data = DataRecipe.model_validate({"catalog": path, "validation": {"fraction": 0.3}})
    training = TrainingRecipe.model_validate(TRAINING | (training or {}))
    job = Job("x", "segment", data, model, start, training, PRIMARY, seed)
    catalog = open_catalog(data)
    identity = job.identity(fingerprint(catalog), content_of(start))
    report = train_job(
        job, RunFolder(folder), open_training_data(catalog, data), identity=identity,
        stages_folder=folder.parent / "stages", device="cpu", recipe_yaml="",
    )  # fmt: skip
    return report, identity


# ---- weights from a file or the hub ----


@pytest.mark.parametrize("layout", ["flat", "prefixed"])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_published_file_fills_the_whole_encoder(tmp_path, published, layout, frames):
    folder, flat = published
    recipe = _recipe("x.csv", {"prithvi": {"from": "file", "path": str(folder / f"{layout}.pt")}})
    start = recipe.initializations["prithvi"]
    assert start.first_layer == "mean"
    model = _model(2, frames=frames)
    report = initialize(model, start, tmp_path, device="cpu")
    encoder = {n for n in model.state_dict() if n.startswith("encoder.")}
    assert set(report.loaded) | set(report.adapted) == encoder
    assert len(encoder) == 5 + 12 * 3
    assert report.adapted == ("encoder.patch_embed.proj.weight",)
    assert f"6 channels -> {2 // frames}: the mean kernel" in report.first_layer
    own = model.state_dict()
    for name in encoder - set(report.adapted):
        assert torch.equal(own[name], flat[name.removeprefix("encoder.")])
    kernel = flat["patch_embed.proj.weight"][:, :, 0]
    for band in range(2 // frames):
        torch.testing.assert_close(
            own["encoder.patch_embed.proj.weight"][:, band], kernel.mean(1) * 6 * frames / 2
        )
    assert not report.partial
    assert report.parameters["random"] == sum(
        p.numel() for n, p in model.named_parameters() if n not in encoder
    )
    assert content_of(start)


def test_the_mean_is_spelled_out_for_networks_of_the_form_only(path):
    file = {"from": "file", "path": "w.pt"}
    starts = {
        "random": "random",
        "file": file,
        "other": {**file, "first_layer": "repeat"},
        "hub": {"from": "hub", "name": "prithvi-v1-100m"},
        "resnet": {**file, "model": {"name": "unet-resnet18"}},
        "chain": {
            "from": "stages",
            "stages": [
                {
                    "name": "mae",
                    "task": "reconstruct",
                    "data": {"catalog": path},
                    "training": TRAINING,
                    "start": file,
                }
            ],
        },
    }
    recipe = _recipe(path, starts)
    met = {n: s.first_layer for n, s in recipe.initializations.items()}
    assert met == {
        "random": "repeat", "file": "mean", "other": "repeat", "hub": "mean", "resnet": "repeat", "chain": "mean"
    }  # fmt: skip
    assert recipe.initializations["chain"].stages[0].start.first_layer == "mean"
    again = parse_recipe(recipe.to_json())
    assert again.digest() == recipe.digest()
    assert {n: s.first_layer for n, s in again.initializations.items()} == met
    plain = _recipe(path, {"file": file}, model=ModelRecipe(name="unet-resnet18"))
    assert plain.initializations["file"].first_layer == "repeat"


def test_weights_come_from_the_hub_when_they_are_asked_for(tmp_path, published, monkeypatch):
    folder, flat = published
    asked = []

    def download(**words):
        asked.append(words)
        return str(folder / "prefixed.pt")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    start = HubStart.model_validate({"from": "hub", "name": "prithvi-v2-300m", "first_layer": "mean"})
    model = _model()
    assert asked == []
    report = initialize(model, start, tmp_path, device="cpu")
    assert asked == [
        {
            "repo_id": "ibm-nasa-geospatial/Prithvi-EO-2.0-300M",
            "filename": "Prithvi_EO_V2_300M.pt",
            "revision": None,
        }
    ]
    assert report.source == "huggingface:ibm-nasa-geospatial/Prithvi-EO-2.0-300M/Prithvi_EO_V2_300M.pt"
    assert torch.equal(model.state_dict()["encoder.norm.weight"], flat["norm.weight"])
    pinned = start.model_copy(update={"name": "huggingface:own/small/w.pt", "revision": "abc"})
    report = initialize(_model(), pinned, tmp_path, device="cpu")
    assert asked[1] == {"repo_id": "own/small", "filename": "w.pt", "revision": "abc"}
    assert report.source.endswith("w.pt@abc")


def test_without_weights_there_is_an_error_and_never_a_random_start(tmp_path, published, monkeypatch):
    def refuse(**words):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    model = _model()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    for start, match in (
        ({"from": "hub", "name": "prithvi-v1-100m"}, "could not be fetched .*no network.* give its path"),
        ({"from": "hub", "name": "prithvi-v1-10m"}, "Did you mean 'prithvi-v1-100m'"),
        ({"from": "file", "path": str(tmp_path / "none.pt")}, "there is no such file"),
    ):
        kind = HubStart if start["from"] == "hub" else FileStart
        with pytest.raises(WeightsError, match=match):
            initialize(model, kind.model_validate(start), tmp_path, device="cpu")
    torch.save({"conv1.weight": torch.zeros(3, 3, 1, 1)}, tmp_path / "resnet.pt")
    with pytest.raises(WeightsError, match="no Prithvi encoder"):
        initialize(
            model,
            FileStart.model_validate({"from": "file", "path": str(tmp_path / "resnet.pt")}),
            tmp_path,
            device="cpu",
        )
    _, flat = published
    torch.save({n: t for n, t in flat.items() if not n.startswith("blocks.1.")}, tmp_path / "part.pt")
    with pytest.raises(WeightsError, match=r"lacks 12 tensors"):
        initialize(
            model,
            FileStart.model_validate({"from": "file", "path": str(tmp_path / "part.pt")}),
            tmp_path,
            device="cpu",
        )
    assert same_tensors(before, model.state_dict())


def test_the_recipe_of_the_paper_needs_its_weights(monkeypatch):
    file = Path(__file__).parents[1] / "recipes" / "flood-prithvi.yaml"
    monkeypatch.setenv("SARTRANSFER_DATA", "data")
    monkeypatch.delenv("SARTRANSFER_PRITHVI", raising=False)
    with pytest.raises(RecipeError, match=r"\$\{SARTRANSFER_PRITHVI\}, which is not set"):
        Recipe.from_yaml(file)
    monkeypatch.setenv("SARTRANSFER_PRITHVI", "weights/Prithvi_EO_V1_100M.pt")
    recipe = Recipe.from_yaml(file)
    assert recipe.initializations["prithvi"].first_layer == "mean"
    assert recipe.model_of("unet").name == "unet"


# ---- LoRA, freezing, rates ----


def test_low_rank_additions_alone_are_trained_and_handed_down_merged(tmp_path, path, published):
    folder, flat = published
    start = FileStart.model_validate({"from": "file", "path": str(folder / "flat.pt"), "first_layer": "mean"})
    lora = {"rank": 2, "keep": ["patch_embed"]}
    report, _ = _run(tmp_path / "run", path, start=start, training={"lora": lora, "optimizer": {"lr": 0.01}})
    kept = tensors(tmp_path / "run", "last")
    adapted = {n for n in kept if is_lora(n)}
    assert len(adapted) == 3 * 2 * 2
    assert all(kept[n].abs().sum() > 0 for n in adapted)
    for name in ("blocks.0.attn.qkv.weight", "blocks.2.mlp.fc1.weight", "norm.weight"):
        assert torch.equal(kept[f"encoder.{name}"], flat[name])
    assert "encoder.patch_embed.proj.weight" not in report.frozen
    assert {"encoder.norm.weight", "encoder.blocks.0.attn.qkv.weight"} <= set(report.frozen)
    assert report.parameters["frozen"] > 0
    assert not report.partial
    checkpoint = read_checkpoint(tmp_path / "run", which="last")
    assert checkpoint.metadata["model"]["options"]["lora"]["rank"] == 2

    merged = run_weights(tmp_path / "run", "last")
    assert "LoRA merged" in merged.source
    assert not any(is_lora(n) for n in merged.tensors)
    plain = _model()
    plain.load_state_dict(dict(merged.tensors))
    x = torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), checkpoint.model(x), rtol=1e-4, atol=1e-5)
    again = RunStart.model_validate({"from": "run", "path": str(tmp_path / "run"), "which": "last"})
    report = initialize(_model(), again, tmp_path, device="cpu")
    assert not any(is_lora(n) for n in report.ignored)
    assert "LoRA merged" in report.source


def test_frozen_parts_stay_as_they_start(tmp_path, path, published):
    folder, flat = published
    start = FileStart.model_validate({"from": "file", "path": str(folder / "flat.pt"), "first_layer": "mean"})
    found = {}
    for freeze in ("encoder", 2):
        report, found[freeze] = _run(
            tmp_path / str(freeze), path, start=start, training={"freeze": freeze, "optimizer": {"lr": 0.01}}
        )
        kept = tensors(tmp_path / str(freeze), "last")
        moved = {
            n for n in kept
            if n.startswith("encoder.") and "patch_embed" not in n
            and not torch.equal(kept[n], flat[n.removeprefix("encoder.")])
        }  # fmt: skip
        if freeze == "encoder":
            assert moved == set()
            assert set(report.frozen) == {n for n in kept if n.startswith("encoder.")}
        else:
            assert moved
            assert all(n.startswith(("encoder.blocks.2.", "encoder.norm.")) for n in moved)
    _, plain = _run(tmp_path / "plain", path, start=start, training={"optimizer": {"lr": 0.01}})
    assert len({plain, *found.values()}) == 3
    with pytest.raises(RecipeError, match="has 3 numbered blocks"):
        _run(tmp_path / "x", path, training={"freeze": 4})
    with pytest.raises(RecipeError, match="'unet' has 0 numbered blocks"):
        _run(
            tmp_path / "y",
            path,
            training={"freeze": 1},
            model=ModelRecipe(name="unet", options={"channels": [4, 4]}),
        )


def test_settings_that_contradict_each_other_are_refused(tmp_path, path):
    with pytest.raises(ValueError, match="leave `freeze` out"):
        TrainingRecipe.model_validate({"lora": {}, "freeze": "encoder"})
    with pytest.raises(ValueError, match="freeze"):
        TrainingRecipe.model_validate({"freeze": True})
    twice = ModelRecipe(name="vit", options={**VIT, "lora": {"rank": 2}})
    with pytest.raises(RecipeError, match="say it once"):
        _run(tmp_path / "x", path, training={"lora": {}}, model=twice)
    unet = ModelRecipe(name="unet", options={"channels": [4, 4]})
    with pytest.raises(RecipeError, match="lora"):
        _run(tmp_path / "y", path, training={"lora": {}}, model=unet)


def test_new_settings_at_their_defaults_change_no_identity(path):
    """As it was before there were LoRA, freezing by number and layer-wise rates: hashed by hand."""
    data = DataRecipe.model_validate({"catalog": path, "validation": {"fraction": 0.3}})
    spelled = TrainingRecipe.model_validate(
        TRAINING | {"lora": None, "freeze": 0, "optimizer": {"layer_decay": 1.0}}
    )
    jobs = [
        Job("x", "segment", data, MODEL, RANDOM, t, PRIMARY, 0)
        for t in (TrainingRecipe.model_validate(TRAINING), spelled)
    ]
    assert len({j.identity("content") for j in jobs}) == 1
    dumped = spelled.model_dump(mode="json", exclude_defaults=True)
    assert dumped == {"epochs": 1, "batch_size": 2, "precision": "fp32"}


# ---- our own pretraining as the first link of a chain ----


def _chain(path, **more):
    stage = {
        "name": "mae",
        "task": "reconstruct",
        "data": {"catalog": path, "validation": {"fraction": 0.3}},
        "training": TRAINING | {"epochs": 2},
        "masked": {"width": 16, "depth": 1, "heads": 2},
    }
    return {"from": "stages", "stages": [stage | more]}


def test_a_comparison_of_a_unet_and_a_transformer_random_and_pretrained(tmp_path, path):
    """Whole, small: pretrained once, shared by the seeds, scored and reported with what was loaded."""
    frames = {**VIT, "frames": 2}
    starts = {
        "unet": {"from": "random", "model": {"name": "unet", "options": {"channels": [4, 8]}}},
        "vit-random": "random",
        "vit-mae": _chain(path) | {"training": {"optimizer": {"lr": 0.001, "layer_decay": 0.75}}},
    }
    recipe = _recipe(path, starts, model=ModelRecipe(name="vit", options=frames), seeds=[0, 1])
    found = compare(recipe, tmp_path / "out", device="cpu")
    assert found.failed == []
    assert len(found.results["runs"]) == 6
    stages = [p for p in (tmp_path / "out" / "stages").iterdir() if p.is_dir()]
    assert len(stages) == 1
    assert (stages[0] / "curves.csv").read_text().count("\n") == 3
    assert RunFolder(stages[0]).record["status"] == "finished"
    given = tensors(stages[0], "best")
    for seed in (0, 1):
        report = read_json(
            tmp_path / "out" / "runs" / "vit-mae" / "1" / f"seed{seed}" / "initialization.json"
        )
        assert report["source"] == "stages: mae"
        assert set(report["loaded"]) == {n for n in given if n.startswith("encoder.")}
        assert all(n.startswith(("decoder.", "segmentation_head.")) for n in report["random"])
        (link,) = report["links"]
        assert link["source"] == "random"
        assert set(link["random"]) == set(given)
        assert any("no labels" in note for note in link["notes"])
    random = read_json(tmp_path / "out" / "runs" / "vit-random" / "1" / "seed0" / "initialization.json")
    assert random["loaded"] == []
    again = compare(recipe, tmp_path / "out", device="cpu")
    assert again.results["runs"] == found.results["runs"]


def test_the_encoder_starts_as_it_was_pretrained_and_its_decoder_by_the_seed(tmp_path, path):
    start = StagesStart.model_validate(_chain(path) | {"model": MODEL.model_dump(), "first_layer": "mean"})
    models = []
    for seed in (0, 1):
        model = _model(seed=seed)
        initialize(model, start, tmp_path, device="cpu")
        models.append(model.state_dict())
    (stage,) = (p for p in tmp_path.iterdir() if p.is_dir())
    given = tensors(stage, "best")
    for name, tensor in models[0].items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, given[name])
            assert torch.equal(tensor, models[1][name])
    assert not torch.equal(models[0]["decoder.neck.0.weight"], models[1]["decoder.neck.0.weight"])
    by_path = RunStart.model_validate({"from": "run", "path": str(stage)})
    model = _model(seed=5)
    assert initialize(model, by_path, tmp_path, device="cpu").source.startswith("pretraining 1-mae-")
    assert torch.equal(model.state_dict()["encoder.norm.weight"], given["encoder.norm.weight"])
    save_file(given, tmp_path / "w.safetensors")
    file = FileStart.model_validate({"from": "file", "path": str(tmp_path / "w.safetensors")})
    assert not initialize(model, file, tmp_path, device="cpu").partial


def test_a_pretraining_goes_on_from_published_weights_and_into_a_third_stage(tmp_path, path, published):
    folder, flat = published
    begin = {"from": "file", "path": str(folder / "flat.pt"), "first_layer": "mean"}
    chain = _chain(path, start=begin, training=TRAINING | {"optimizer": {"lr": 1e-12}})
    middle = {
        "name": "water", "task": "segment", "data": {"catalog": path, "validation": {"fraction": 0.3}},
        "training": TRAINING | {"freeze": "encoder"},
    }  # fmt: skip
    start = StagesStart.model_validate(
        {**chain, "stages": [*chain["stages"], middle], "model": MODEL.model_dump(), "first_layer": "mean"}
    )
    model = _model()
    report = initialize(model, start, tmp_path, device="cpu")
    assert [link.source.partition(" ")[0] for link in report.links] == ["flat.pt", "pretraining"]
    torch.testing.assert_close(
        model.state_dict()["encoder.blocks.1.mlp.fc1.weight"],
        flat["blocks.1.mlp.fc1.weight"],
        rtol=0,
        atol=1e-6,
    )
    assert report.source == "stages: mae -> water"


def test_what_is_hidden_and_how_counts_in_the_pretrainings_identity(tmp_path, path):
    found = set()
    base = _chain(path)["stages"][0]
    for masked in ({}, {"ratio": 0.5}, {"normalize": False}):
        start = StagesStart.model_validate(
            _chain(path, masked=base["masked"] | masked)
            | {"model": MODEL.model_dump(), "first_layer": "mean"}
        )
        initialize(_model(), start, tmp_path, device="cpu")
        found |= {p.name for p in tmp_path.iterdir()}
    assert len(found) == 3
    unet = StagesStart.model_validate(
        _chain(path) | {"model": {"name": "unet", "options": {"channels": [4, 4]}}}
    )
    with pytest.raises(WeightsError, match="cannot be pretrained"):
        initialize(_model(), unet, tmp_path, device="cpu")


def test_a_comparison_whose_pretraining_saw_a_test_scene_does_not_begin(tmp_path, path):
    catalog = Path(path).read_text().splitlines()
    lines = [line.replace(",test,", ",train,") if line.startswith("test0") else line for line in catalog]
    assert lines != catalog
    other = Path(path).with_name("leaking.csv")
    other.write_text("\n".join(lines) + "\n")
    recipe = _recipe(path, {"random": "random", "mae": _chain(str(other))})
    with pytest.raises(
        LeakageError, match=r"stage 'mae' would be pretrained on scenes of a test set .*test0"
    ):
        compare(recipe, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


# ---- maps ----


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_of_a_network_that_knows_places_says_that_its_windows_overlap(tmp_path, path, monkeypatch):
    """A scene far smaller than one that a convolutional network is asked about whole."""
    assert predict.plan_scene(_model().eval(), 512, 512).method == "one pass"
    assert predict.plan_scene(_model().eval(), 520, 520).method == "overlap"
    assert (
        predict.plan_scene(build_model("unet", 2, 2, channels=[4, 4]).eval(), 520, 520).method == "one pass"
    )
    _run(tmp_path / "run", path)
    scene = write_scene(tmp_path / "scene.npz", np.random.default_rng(0), size=96)
    monkeypatch.setattr("sartransfer.models.prithvi.ONE_PASS_PIXELS", 48 * 48)
    monkeypatch.setattr(predict, "HALO", 16)
    result = predict_scene(tmp_path / "run", scene, tmp_path / "map.tif")
    assert result.plan.method == "overlap"
    with rasterio.open(tmp_path / "map.tif") as file:
        said = file.tags()["SARTRANSFER_METHOD"]
    assert "overlap" in said
    assert said.startswith("overlapped windows of 32 px")
    assert "not exact" in said
    assert json.loads((tmp_path / "run" / "best.json").read_text())["task"] == "segment"


def test_the_catalog_helper_makes_events(tmp_path):
    assert {e.group for e in make_catalog(tmp_path, {"train": 2}, size=8).entries} == {"train0", "train1"}


def test_the_recipe_without_a_download_reads_and_pretrains_on_the_training_split(monkeypatch):
    for name in ("SARTRANSFER_DATA", "SARTRANSFER_WEIGHTS"):
        monkeypatch.setenv(name, "somewhere")
    recipe = Recipe.from_yaml(Path(__file__).parents[1] / "recipes" / "flood-foundation.yaml")
    chain = recipe.initializations["vit-mae"]
    assert [s.task for s in chain.stages] == ["reconstruct"]
    assert chain.stages[0].data.bands == recipe.data.bands
    assert chain.stages[0].data.validation == recipe.data.validation  # the same pairs are held out of both
    assert {n: recipe.model_of(n).name for n in recipe.initializations} == {
        "unet": "unet", "resnet-random": "unet-resnet18", "resnet-imagenet": "unet-resnet18", "vit-random": "vit",
        "vit-mae": "vit",
    }  # fmt: skip
    for name in recipe.initializations:
        model = recipe.model_of(name)
        build_model(model.name, len(recipe.data.bands), 2, **model.options)
