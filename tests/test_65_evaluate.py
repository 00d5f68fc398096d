"""Scores of a checkpoint against scikit-learn, with predictions worked out by hand from the network."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special
from sklearn import metrics as peer

from sartransfer import predict
from sartransfer.catalog import IGNORE_INDEX, Asset, Catalog, Entry
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import CatalogError, InputError
from sartransfer.evaluate import (
    SceneScore,
    TestScores,
    evaluate_checkpoint,
    log_look,
    read_scores,
    scores_json,
    write_scores,
)
from sartransfer.metrics import scores
from sartransfer.models import build_model
from sartransfer.models.checkpoint import read_checkpoint, write_checkpoint
from sartransfer.radar.units import parse_unit
from sartransfer.readers.array import write_array
from sartransfer.results.rows import scores_by_group
from sartransfer.scene import Band

pytestmark = pytest.mark.usefixtures("one_thread")

BANDS = tuple(Band(n, parse_unit("sigma0_db"), n.upper()) for n in ("vv", "vh"))
CONTRACT = InputContract(
    (InputBand("vv", "sigma0_db", "VV", mean=-10, std=3), InputBand("vh", "sigma0_db", "VH", mean=-17, std=2))
)
CLASSES = ("water", "field", "town")
LABELS = {1: 0, 2: 1, 7: 2, 0: IGNORE_INDEX}  # raster value -> class


def make_scene(folder, name, height, width, seed, *, ignore=0.2):
    """Write a scene with holes and a label; return its entry, data, validity and raw label."""
    rng = np.random.default_rng(seed)
    data = rng.normal([[[-10.0]], [[-17.0]]], 4, (2, height, width)).astype(np.float32)
    data[:, : height // 2] += 3
    data[0, 3:6, 4:9] = np.nan  # of one band alone: the pixel is not valid
    valid = rng.random((height, width)) > 0.1
    label = rng.choice([1, 2, 7], (height, width)).astype(np.uint8)
    label[rng.random((height, width)) < ignore] = 0
    path = write_array(folder / f"{name}.npz", data, BANDS, valid=valid, label=label)
    group = f"event_{seed % 2}" if seed else None
    entry = Entry(name, (Asset(path),), label=path, split="test", group=group)
    return entry, data, valid & np.isfinite(data).all(axis=0), label


def make_checkpoint(folder, name="unet-resnet18", **options):
    torch.manual_seed(3)
    if name.startswith("unet"):
        options.setdefault("decoder_channels", [16, 16, 8, 8])
    model = build_model(name, 2, len(CLASSES), **options)
    for tensor_name, tensor in model.named_buffers():  # as if trained: batch norm that is not the identity
        if tensor_name.endswith("running_var"):
            tensor.uniform_(0.2, 0.6)
    with torch.no_grad():  # and a last layer that tells the classes apart, not too surely
        dict(model.named_parameters())[model.classifier_names[0]].mul_(0.02)
        logits = model.eval()(1.5 * torch.randn(4, 2, 64, 64)).transpose(0, 1).flatten(1)
        dict(model.named_parameters())[model.classifier_names[1]].sub_(logits.mean(dim=1))
    write_checkpoint(folder / "best", model, {"classes": CLASSES, "contract": CONTRACT, "chip": None})
    return read_checkpoint(folder)


def by_hand(checkpoint, data, valid):
    """Logits of one scene from the bare network: normalized by hand, 0 where there is no value."""
    image = (data - np.array([[[-10.0]], [[-17.0]]])) / np.array([[[3.0]], [[2.0]]])
    image = np.where(valid, image, 0).astype(np.float32)
    with torch.no_grad():
        return checkpoint.model(torch.from_numpy(image)[None])[0].numpy()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return [
        make_scene(folder, "a", 40, 56, 0),
        make_scene(folder, "b", 33, 47, 1),
        make_scene(folder, "c", 64, 32, 2),
        make_scene(folder, "nothing_known", 32, 32, 3, ignore=1.1),
    ]


@pytest.fixture(scope="module")
def catalog(scenes):
    return Catalog("floods", tuple(s[0] for s in scenes), CLASSES, LABELS)


def test_each_scenes_confusion_is_sklearns_on_the_same_pixels(tmp_path, scenes, catalog):
    checkpoint = make_checkpoint(tmp_path)
    seen = []
    found = evaluate_checkpoint(checkpoint, catalog, "test", progress=lambda n, of: seen.append((n, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    predicted = set()
    truths, guesses = [], []
    for score, (entry, data, valid, label) in zip(found.scenes, scenes, strict=True):
        prediction = by_hand(checkpoint, data, valid).argmax(axis=0)
        counts = valid & (label != 0)
        truth = np.select([label == 1, label == 2, label == 7], [0, 1, 2], -1)[counts]
        guess = prediction[counts]
        assert (score.id, score.group) == (entry.id, entry.group or entry.id)
        assert score.confusion.dtype == np.int64
        assert score.confusion.sum() == counts.sum() < label.size  # ignored and invalid pixels are left out
        if counts.any():
            assert (score.confusion == peer.confusion_matrix(truth, guess, labels=[0, 1, 2])).all()
        assert score.logits is None
        predicted |= set(guess.tolist())
        truths.append(truth)
        guesses.append(guess)
    assert predicted == {0, 1, 2}  # else this test would show little
    assert found.scenes[3].confusion.sum() == 0
    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    whole = scores(found.confusion)
    assert whole["accuracy"] == pytest.approx(peer.accuracy_score(truth, guess))
    iou = peer.jaccard_score(truth, guess, labels=[0, 1, 2], average=None)
    assert whole["iou"] == pytest.approx(iou, nan_ok=True)
    assert np.isnan(scores(found.scenes[3].confusion)["accuracy"])  # 0/0 is undefined
    assert found.top2() is None


def test_every_scene_is_seen_by_as_many_views_as_asked(tmp_path, scenes, catalog):
    """Four views by hand: the image and its three mirror images, probabilities averaged."""
    checkpoint = make_checkpoint(tmp_path)
    found = evaluate_checkpoint(checkpoint, catalog, "test", views=4)
    for score, (_, data, valid, label) in zip(found.scenes, scenes, strict=True):
        shares = 0
        for flips in ((), (1,), (2,), (1, 2)):
            logits = by_hand(checkpoint, np.flip(data, flips), np.flip(valid, [f - 1 for f in flips]))
            shares = shares + np.flip(special.softmax(logits, axis=0), flips)
        counts = valid & (label != 0)
        truth = np.select([label == 1, label == 2, label == 7], [0, 1, 2], -1)[counts]
        expected = confusion_of(truth, shares.argmax(axis=0)[counts])
        assert np.abs(score.confusion - expected).sum() <= 2  # ties within rounding may fall either way
    assert found.views == 4
    made = replace(checkpoint, metadata={**checkpoint.metadata, "views": 4})
    assert [s.confusion.tolist() for s in evaluate_checkpoint(made, catalog, "test").scenes] == [
        s.confusion.tolist() for s in found.scenes
    ]
    write_scores(found, tmp_path)
    assert read_scores(tmp_path, "test", 4).views == read_scores(tmp_path, "test").views == 4
    assert read_scores(tmp_path, "test", 1) is None  # scored, but not so


def test_several_networks_decide_by_their_mean_probabilities_as_in_a_map(
    tmp_path, monkeypatch, scenes, catalog
):
    """By hand, of one view and of four; and the same by windows."""
    small = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    members = [make_checkpoint(tmp_path / name, **small) for name in ("a", "b")]
    scenes, catalog = scenes[:2], catalog.with_entries(catalog.entries[:2])
    with (
        torch.no_grad()
    ):  # another network, which says something else, and neither so surely that halves are ties
        for parameter in members[1].model.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape))
        for member in members:
            for name in member.model.classifier_names:
                dict(member.model.named_parameters())[name].mul_(0.03)
    alone = [evaluate_checkpoint(m, catalog, "test") for m in members]
    found = evaluate_checkpoint(members, catalog, "test")
    twice = evaluate_checkpoint(members[::-1], catalog, "test", views=4)
    assert (found.views, twice.views) == (1, 4)
    for score, seen, (_, data, valid, label) in zip(found.scenes, twice.scenes, scenes, strict=True):
        counts = valid & (label != 0)
        truth = np.select([label == 1, label == 2, label == 7], [0, 1, 2], -1)[counts]
        for result, flipped in ((score, [()]), (seen, [(), (1,), (2,), (1, 2)])):
            shares = 0
            for member in members:
                for flips in flipped:
                    logits = by_hand(member, np.flip(data, flips), np.flip(valid, [f - 1 for f in flips]))
                    shares = shares + np.flip(special.softmax(logits.astype(np.float64), axis=0), flips)
            assert np.abs(result.confusion - confusion_of(truth, shares.argmax(0)[counts])).sum() <= 2
    assert all((found.confusion != one.confusion).any() for one in alone)
    one = evaluate_checkpoint(members[:1], catalog, "test")
    assert (one.confusion == alone[0].confusion).all()
    for name, value in (("ONE_PASS_PIXELS", 0), ("CORE", 32), ("HALO", 32)):
        monkeypatch.setattr(predict, name, value)
    windowed = evaluate_checkpoint(members, catalog, "test")
    for score, (_, _, valid, label) in zip(windowed.scenes, scenes, strict=True):
        assert score.confusion.sum(axis=1).tolist() == [(valid & (label == v)).sum() for v in (1, 2, 7)]


def test_networks_that_cannot_be_asked_together_are_told(tmp_path, catalog):
    one, chips = make_checkpoint(tmp_path / "a"), make_checkpoint(tmp_path / "c", "resnet18")
    other = replace(one, path=tmp_path / "other", classes=("water", "field", "city"))
    for members, words in (
        ((), "no checkpoint is named"),
        ((one, one), "is named twice"),
        ((one, chips), "classifies whole patches"),
        ((chips, chips), "joined by their votes: sartransfer ensemble"),
        ((one, other), "same, in the same order"),
    ):
        with pytest.raises(InputError, match=words):
            evaluate_checkpoint(members, catalog, "test")


def confusion_of(truth, guess):
    if truth.size == 0:
        return np.zeros((3, 3), dtype=np.int64)
    return peer.confusion_matrix(truth, guess, labels=[0, 1, 2])


def test_a_scene_by_windows_counts_every_pixel_once(tmp_path, monkeypatch, scenes, catalog):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 0)
    monkeypatch.setattr(predict, "CORE", 32)
    monkeypatch.setattr(predict, "HALO", 32)
    found = evaluate_checkpoint(make_checkpoint(tmp_path), catalog, "test")
    for score, (_, _, valid, label) in zip(found.scenes, scenes, strict=True):
        rows = [(valid & (label == v)).sum() for v in (1, 2, 7)]
        assert score.confusion.sum(axis=1).tolist() == rows


def make_chips(folder, number=12):
    rng = np.random.default_rng(5)
    entries, arrays = [], []
    for i in range(number):
        data = rng.normal([[[-10.0]], [[-17.0]]], 3, (2, 40, 36)).astype(np.float32)
        path = write_array(folder / f"chip{i}.npz", data, BANDS)
        category = CLASSES[i % 3]
        entries.append(Entry(f"chip{i}", (Asset(path),), category=category, split="test", group=f"g{i % 2}"))
        arrays.append(data)
    return Catalog("chips", tuple(entries), CLASSES), arrays


def test_chips_keep_their_logits_and_top2_is_sklearns(tmp_path):
    checkpoint = make_checkpoint(tmp_path, "resnet18")
    checkpoint = replace(checkpoint, metadata={**checkpoint.metadata, "chip": 32})
    catalog, arrays = make_chips(tmp_path)
    found = evaluate_checkpoint(checkpoint, catalog, "test")
    logits = np.stack([by_hand(checkpoint, d[:, 4:36, 2:34], np.ones((32, 32), dtype=bool)) for d in arrays])
    truth = np.arange(12) % 3
    assert np.stack([s.logits for s in found.scenes]) == pytest.approx(logits, rel=1e-4, abs=1e-4)
    assert [s.label for s in found.scenes] == truth.tolist()
    assert (found.confusion == peer.confusion_matrix(truth, logits.argmax(axis=1), labels=[0, 1, 2])).all()
    assert all(s.confusion.sum() == 1 for s in found.scenes)
    assert found.top2() == pytest.approx(peer.top_k_accuracy_score(truth, logits, k=2))
    one = scores_by_group(found)["g1"]
    odd = slice(1, None, 2)
    assert one.top2() == pytest.approx(peer.top_k_accuracy_score(truth[odd], logits[odd], k=2))


def test_chips_in_batches_have_the_logits_of_chips_one_by_one(tmp_path, monkeypatch):
    """Of mixed shapes, by several views, and with a network whose batch norm would tell if it saw the batch."""
    checkpoint = make_checkpoint(tmp_path, "resnet18")
    catalog, _ = make_chips(tmp_path, 11)
    rng, entries = np.random.default_rng(1), list(catalog.entries)
    for i in (2, 3, 7):
        data = rng.normal(-12, 3, (2, 33, 52)).astype(np.float32)
        path = write_array(tmp_path / f"wide{i}.npz", data, BANDS)
        entries[i] = replace(entries[i], assets=(Asset(path),))
    catalog = catalog.with_entries(entries)
    batches, real = [], predict.predict_logits

    def spy(model, images, **options):
        batches.append(tuple(images.shape))
        return real(model, images, **options)

    monkeypatch.setattr(predict, "predict_logits", spy)
    for views in (1, 4):
        together = []
        found = evaluate_checkpoint(
            checkpoint,
            catalog,
            "test",
            views=views,
            progress=lambda n, of, seen=together: seen.append((n, of)),
        )
        assert sorted(batches) == [(3, 2, 33, 52), (8, 2, 40, 36)]
        assert together == [(n, 11) for n in range(1, 12)]
        batches.clear()
        for name, value in (("CHIPS_AT_ONCE", 1), ("ONE_PASS_PIXELS", 3 * 40 * 36)):
            with monkeypatch.context() as patch:
                patch.setattr(predict, name, value)
                single = evaluate_checkpoint(checkpoint, catalog, "test", views=views)
            largest = 1 if name == "CHIPS_AT_ONCE" else 3
            assert max(b[0] for b in batches) == largest
            batches.clear()
            for a, b in zip(found.scenes, single.scenes, strict=True):
                assert (a.id, a.group, a.label) == (b.id, b.group, b.label)
                assert a.logits == pytest.approx(b.logits, rel=1e-4, abs=1e-4)
                assert (a.confusion == b.confusion).all()
        assert [s.id for s in found.scenes] == [e.id for e in entries]


def test_scores_are_read_back_as_they_were_written(tmp_path, catalog):
    found = evaluate_checkpoint(make_checkpoint(tmp_path), catalog, "test")
    write_scores(found, tmp_path)
    back = read_scores(tmp_path, "test")
    assert (back.test_set, back.classes, back.groups) == ("test", CLASSES, ("a", "event_0", "event_1"))
    for a, b in zip(found.scenes, back.scenes, strict=True):
        assert (a.id, a.group, b.logits, b.label) == (b.id, b.group, None, -1)
        assert (a.confusion == b.confusion).all()
        assert b.confusion.dtype == np.int64
    assert not (tmp_path / "logits").exists()
    assert read_scores(tmp_path, "albania") is None
    assert json.loads((tmp_path / "scores" / "test.json").read_text()) == scores_json(found)
    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == ["test.json"]  # nothing temporary


def test_logits_are_read_back_by_id(tmp_path):
    rng = np.random.default_rng(0)
    chips = tuple(
        SceneScore(f"c{i}", "g", np.eye(3, dtype=np.int64), rng.normal(size=3).astype(np.float32), i)
        for i in range(3)
    )
    write_scores(TestScores("test", CLASSES, chips), tmp_path)
    path = tmp_path / "scores" / "test.json"
    values = json.loads(path.read_text())
    values["scenes"].reverse()  # the two files are joined by id, not by place
    path.write_text(json.dumps(values))
    back = read_scores(tmp_path, "test")
    for a, b in zip(chips, reversed(back.scenes), strict=True):
        assert (a.id, a.label) == (b.id, b.label)
        assert (a.logits == b.logits).all()
    assert sorted(p.name for p in (tmp_path / "logits").iterdir()) == ["test.npz"]
    assert back.top2() == TestScores("test", CLASSES, chips).top2()


def test_masks_of_0_and_255_are_not_scored_where_nothing_says_what_255_is(tmp_path):
    checkpoint = make_checkpoint(tmp_path)
    data = np.random.default_rng(5).normal(-12, 4, (2, 32, 32)).astype(np.float32)
    mask = np.where(data[0] < -12, 255, 0).astype(np.uint8)
    path = write_array(tmp_path / "m.npz", data, BANDS, label=mask)
    entry = Entry("m", (Asset(path),), label=path, split="test")
    with pytest.raises(CatalogError, match=r"'m'.*is it field\?"):
        evaluate_checkpoint(checkpoint, Catalog("floods", (entry,), CLASSES), "test")
    said = evaluate_checkpoint(checkpoint, Catalog("floods", (entry,), CLASSES, {0: 0, 255: 1}), "test")
    assert said.confusion.sum(axis=1).tolist() == [(mask == 0).sum(), (mask == 255).sum(), 0]


def test_mistakes_are_told(tmp_path, scenes, catalog):
    checkpoint = make_checkpoint(tmp_path)
    with pytest.raises(CatalogError, match=r"'floods' has no split 'tset'; it has test"):
        evaluate_checkpoint(checkpoint, catalog, "tset")
    for classes in (("field", "water", "town"), ("dry", "flooded"), (*CLASSES, "snow")):
        labels = {0: IGNORE_INDEX, 1: 0, 2: 1}
        with pytest.raises(CatalogError, match="same, in the same order") as told:
            evaluate_checkpoint(checkpoint, replace(catalog, classes=classes, label_values=labels), "test")
        assert "water, field, town" in str(told.value)
        assert ", ".join(classes) in str(told.value)
    bare = catalog.with_entries([replace(catalog.entries[0], label=None)])
    with pytest.raises(CatalogError, match="'a' has no label raster"):
        evaluate_checkpoint(checkpoint, bare, "test")
    with pytest.raises(InputError, match="label value 7 is not listed"):
        evaluate_checkpoint(checkpoint, replace(catalog, label_values={0: 255, 1: 0, 2: 1}), "test")
    chips, _ = make_chips(tmp_path, 2)
    classifier = make_checkpoint(tmp_path / "chips", "resnet18")
    for category, words in ((None, "class None"), ("sea", "class 'sea'")):
        wrong = chips.with_entries([replace(chips.entries[0], category=category)])
        with pytest.raises(CatalogError, match=words):
            evaluate_checkpoint(classifier, wrong, "test")


@pytest.mark.parametrize("name", ["unet-resnet18", "resnet18"])
def test_a_network_that_diverged_is_not_scored(tmp_path, catalog, name):
    """argmax of NaN is a class; it must not become a score."""
    checkpoint = make_checkpoint(tmp_path, name)
    with torch.no_grad():
        next(checkpoint.model.parameters()).fill_(float("nan"))
    if name == "resnet18":
        catalog, _ = make_chips(tmp_path, 2)
    with pytest.raises(InputError, match="diverged"):
        evaluate_checkpoint(checkpoint, catalog, "test")


def test_every_look_is_logged(tmp_path):
    log = tmp_path / "new" / "test-looks.jsonl"
    log_look(log, "test", "c0ffee", seed=1)
    log_look(log, "albania", "c0ffee", commit=None)
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert (first["test_set"], first["recipe_hash"], first["seed"]) == ("test", "c0ffee", 1)
    assert (second["test_set"], second["commit"]) == ("albania", None)
    assert first["time"].endswith("Z")
