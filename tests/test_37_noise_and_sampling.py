"""Wrong labels on purpose, samplers that balance classes, and bootstrap: each against its distribution."""

from collections import Counter

import numpy as np
import pytest
import torch
from small_data import contract_of, make_catalog, numbers, same_tensors, tensors
from small_patches import TESTS, ids, patches, recipe_of, write_cities

from sartransfer import train
from sartransfer.catalog import TRAIN
from sartransfer.data.noise import flip_labels
from sartransfer.data.patches import EpochSampler, Samples, SceneStore
from sartransfer.data.resolve import open_catalog, open_training_data
from sartransfer.data.samplers import BalancedSampler, ExactlyBalancedSampler, build_sampler
from sartransfer.data.sampling import balanced_order, bootstrap_scenes, exactly_balanced_order
from sartransfer.errors import CatalogError, RecipeError
from sartransfer.models import build_model
from sartransfer.recipe import (
    AugmentRecipe,
    LabelNoiseRecipe,
    ModelRecipe,
    PatchRecipe,
    PrimaryRecipe,
    RandomStart,
    TrainingRecipe,
)
from sartransfer.runs import fingerprint
from sartransfer.stages import Job

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cities(tmp_path_factory):
    return write_cities(tmp_path_factory.mktemp("cities"))


# ---- label noise ----


def noisy(catalog, **recipe):
    return flip_labels(catalog, LabelNoiseRecipe.model_validate({"share": 0.25} | recipe))


def changed(before, after):
    assert [e.id for e in before.entries] == [e.id for e in after.entries]
    return {
        b.id: (b.category, a.category) for b, a in zip(before.entries, after.entries, strict=True) if a != b
    }


LABELLED = patches(["a"] * 41 + ["b"] * 20 + ["c"] * 3 + ["d"] * 100, split=TRAIN)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.4, 0.99])
def test_each_class_loses_its_share_of_labels_to_others(share):
    flips = changed(LABELLED, noisy(LABELLED, share=share))
    lost = Counter(old for old, _ in flips.values())
    for name, number in (("a", 41), ("b", 20), ("c", 3), ("d", 100)):
        assert lost[name] == int(share * number + 0.5)
    assert all(old != new for old, new in flips.values())


def test_larger_shares_flip_the_same_patches_and_more():
    before = {}
    for share in (0.05, 0.1, 0.2, 0.4, 0.8):
        flips = changed(LABELLED, noisy(LABELLED, share=share, seed=7))
        assert before.items() <= flips.items()
        assert len(flips) > len(before)
        before = flips
    assert changed(LABELLED, noisy(LABELLED, share=0.8, seed=8)).keys() != before.keys()
    assert noisy(LABELLED, seed=7) == noisy(LABELLED, seed=7)


def test_uniform_flips_go_to_every_other_class_alike():
    catalog = patches([c for c in "abcd" for _ in range(900)], split=TRAIN)
    pairs = Counter(changed(catalog, noisy(catalog, share=0.5)).values())
    assert len(pairs) == 12
    # 450 flips a class to three others: 150 each, standard deviation 10
    assert all(110 < n < 190 for n in pairs.values())


def test_look_alikes_swap_and_others_stay():
    flips = changed(LABELLED, noisy(LABELLED, kind="alike", alike={"a": "b", "b": "a"}))
    assert Counter(flips.values()) == {("a", "b"): 10, ("b", "a"): 5}


def test_only_training_is_mislabelled_and_only_where_asked(cities):
    asked = {"tests": TESTS}
    clean, wrong = (
        open_catalog(recipe_of(cities, **asked, **more), check=False)
        for more in ({}, {"label_noise": {"share": 0.3}})
    )
    flips = changed(clean, wrong)
    assert flips
    assert flips.keys() <= ids(clean, TRAIN)
    assert [e.split for e in clean.entries] == [e.split for e in wrong.entries]
    opened = open_training_data(wrong, recipe_of(cities, **asked))
    named = [opened.catalog.classes[opened.train.read(i)[2].category] for i in range(len(opened.train))]
    assert named == [flips.get(e.id, (None, e.category))[1] for e in clean.in_split(TRAIN)]


def test_noise_that_cannot_be_is_refused(tmp_path):
    for alike, said in (
        ({"a": "x"}, "'x' is not known"),
        ({"x": "a"}, "'x'"),
        ({"a": "a"}, "own look-alike"),
    ):
        with pytest.raises(RecipeError, match=said):
            noisy(LABELLED, kind="alike", alike=alike)
    with pytest.raises(RecipeError, match="changes no label"):
        noisy(LABELLED, kind="alike", alike={"c": "a"}, share=0.1)
    with pytest.raises(RecipeError, match="label rasters"):
        noisy(make_catalog(tmp_path, {"train": 2}, size=8))
    with pytest.raises(CatalogError, match="one class"):
        noisy(patches(["a"] * 4, split=TRAIN))


def test_a_run_with_wrong_labels_is_another_run(cities):
    def identity(**more):
        data = recipe_of(cities, tests=TESTS, **more)
        job = Job("r", "classify", data, ModelRecipe(name="resnet18"), RandomStart.model_validate({"from": "random"}),
                  TrainingRecipe(), PrimaryRecipe(metric="accuracy"), 0)  # fmt: skip
        content = fingerprint(open_catalog(data, check=False))
        return content, job.identity(content)

    clean = identity()
    assert clean == identity()
    assert clean == identity(label_noise=None)
    wrong = [identity(label_noise={"share": s, "seed": k}) for s, k in ((0.2, 0), (0.2, 1), (0.3, 0))]
    assert len({clean[0], *(w[0] for w in wrong)}) == 4
    assert len({clean[1], *(w[1] for w in wrong)}) == 4


# ---- samplers and bootstrap ----

IMBALANCED = np.repeat([0, 1, 2], [60, 9, 3])


def test_a_balanced_epoch_is_drawn_by_one_over_the_class():
    n, epochs = len(IMBALANCED), 400
    orders = [balanced_order(IMBALANCED, [0, e]) for e in range(epochs)]
    drawn = np.concatenate(orders) % n
    counts = np.bincount(drawn, minlength=n)
    total = n * epochs
    for index, size in enumerate((60, 9, 3)):
        p = 1 / 3
        by_class = counts[index == IMBALANCED]
        assert abs(by_class.sum() - total * p) < 5 * np.sqrt(total * p * (1 - p))
        q = p / size
        assert (np.abs(by_class - total * q) < 5 * np.sqrt(total * q * (1 - q))).all()
    # independent draws with replacement: the spread between epochs is binomial, too
    rare = np.array([(IMBALANCED[o % n] == 2).sum() for o in orders])
    assert 0.75 < rare.var() / (n / 3 * 2 / 3) < 1.25


def test_what_is_drawn_again_is_numbered():
    for order in (balanced_order(IMBALANCED, [0, 0]), exactly_balanced_order(IMBALANCED, 3, 12, 72, [0, 0])):
        assert len(order) == 72
        seen = Counter()
        for number in order.tolist():
            assert number // 72 == seen[number % 72]
            seen[number % 72] += 1
        assert max(seen.values()) > 1


@pytest.mark.parametrize(("batch", "length"), [(3, 72), (6, 72), (12, 60), (36, 72)])
def test_each_batch_holds_equally_many_of_each_class(batch, length):
    order = exactly_balanced_order(IMBALANCED, 3, batch, length, [4, 2]) % 72
    for block in order.reshape(-1, batch):
        assert np.bincount(IMBALANCED[block], minlength=3).tolist() == [batch // 3] * 3
    for index in range(3):  # nothing comes again before all of its class were there
        counts = np.bincount(order, minlength=72)[index == IMBALANCED]
        assert counts.max() - counts.min() <= 1


@pytest.fixture(scope="module")
def store(cities):
    catalog = open_catalog(recipe_of(cities, tests=TESTS), check=False)
    return open_training_data(catalog, recipe_of(cities, tests=TESTS)).train


def samples_of(store, *, seed=0, epoch=0, bootstrap=False, patch=None):
    samples = Samples(store, patch=patch, recipe=AugmentRecipe(flips=True), seed=seed, bootstrap=bootstrap)
    samples.epoch = epoch
    return samples


@pytest.mark.parametrize("kind", ["shuffle", "balanced", "exactly-balanced"])
@pytest.mark.parametrize("patch", [None, PatchRecipe(size=8, per_scene=3)])
def test_orders_follow_from_seed_and_epoch_alone(store, kind, patch):
    recipe = TrainingRecipe(sampler=kind, batch_size=8)

    def order(**more):
        return list(build_sampler(samples_of(store, patch=patch, **more), recipe))

    first = order(seed=2, epoch=5)
    torch.manual_seed(1)
    again = samples_of(store, seed=2, patch=patch)
    sampler = build_sampler(again, recipe)
    for epoch in range(6):  # as a training comes to the epoch, instead of resuming at it
        again.epoch = epoch
        came = list(sampler)
    assert came == first
    assert len(first) == len(sampler)
    assert order(seed=3, epoch=5) != first
    assert order(seed=2, epoch=6) != first
    assert len(first) == len(again) - (len(again) % 8 if kind == "exactly-balanced" else 0)


def test_a_repeated_sample_is_the_same_patch_changed_anew(store):
    samples = samples_of(store)
    n = len(samples)
    plain, variants = samples[3], {samples[3 + k * n]["image"].numpy().tobytes() for k in range(12)}
    assert len(variants) == 2  # flipped or not, each by its own draw
    assert all(samples[3 + k * n]["mask"] == plain["mask"] for k in range(3))
    patch = PatchRecipe(size=8, redraw=False)
    fixed = Samples(store, patch=patch, recipe=AugmentRecipe(), seed=0)
    assert torch.equal(fixed[3]["image"], fixed[3 + n]["image"])  # the same places all through a run


def test_the_default_is_what_it_was(store):
    samples = samples_of(store, seed=5, epoch=2)
    order = np.random.default_rng([5, 2]).permutation(len(store)).tolist()
    assert list(build_sampler(samples, TrainingRecipe())) == list(EpochSampler(samples)) == order
    for i in (0, 7):
        image, _, target = store.read(i)
        mirrored = bool(np.random.default_rng([5, 2, i]).integers(2))
        np.testing.assert_array_equal(samples[i]["image"].numpy(), image[..., ::-1] if mirrored else image)
        assert samples[i]["mask"] == target.category


def test_balance_counts_samples_as_they_are_bootstrapped(store):
    samples = samples_of(store, bootstrap=True)
    counts = Counter(samples.classes.tolist())
    assert counts == Counter(samples[i]["mask"] for i in range(len(samples)))
    order = [i for e in range(100) for i in balanced_order(samples.classes, [0, e]) % len(samples)]
    share = np.mean(samples.classes[order] == 1)
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / len(order))


def test_bootstrap_draws_scenes_once_a_run(store):
    one, other = samples_of(store, bootstrap=True), samples_of(store, bootstrap=True, seed=1)
    n = len(store)
    assert len(one) == n
    assert one.scenes.tolist() != other.scenes.tolist()
    assert samples_of(store, bootstrap=True, epoch=9).scenes.tolist() == one.scenes.tolist()
    for i in range(n):
        assert one[i]["mask"] == store.read(int(one.scenes[i]))[2].category
    both = samples_of(store, bootstrap=True, patch=PatchRecipe(size=8, per_scene=2))
    for i in (0, 1, 6, 7):
        image = store.read(int(one.scenes[i // 2]))[0][0]
        places = np.lib.stride_tricks.sliding_window_view(image, (8, 8)).reshape(-1, 8, 8)
        cut = both[i]["image"][0].numpy()
        assert any((places == c).all(axis=(1, 2)).any() for c in (cut, cut[:, ::-1]))


def test_a_bootstrap_sample_is_uniform_and_leaves_out_a_third():
    draws = [bootstrap_scenes(40, seed) for seed in range(500)]
    counts = np.bincount(np.concatenate(draws), minlength=40)
    assert (np.abs(counts - 500) < 5 * np.sqrt(500)).all()
    out = np.mean([40 - len(np.unique(d)) for d in draws]) / 40
    assert out == pytest.approx((1 - 1 / 40) ** 40, abs=0.01)


def test_a_bootstrap_sample_holds_every_class():
    rare = np.array([0] * 50 + [1])
    assert all(50 in bootstrap_scenes(51, seed, rare) for seed in range(40))
    assert not all(50 in bootstrap_scenes(51, seed) for seed in range(40))
    with pytest.raises(CatalogError, match="each lacked a class"):
        bootstrap_scenes(200, 0, np.arange(200))


def test_few_samples_are_gone_through_until_there_are_enough_steps(store):
    samples = samples_of(store)
    number = len(samples)
    plain = list(build_sampler(samples, TrainingRecipe(batch_size=4)))
    steps = 2 * number // 4 + 1  # more than two rounds give: three are needed
    sampler = build_sampler(samples, TrainingRecipe(batch_size=4, min_steps=steps))
    order = list(sampler)
    assert len(order) == len(sampler) == 3 * number
    assert order[:number] == plain  # what a training without min_steps sees comes first
    rounds = [[i % number for i in order[k * number : (k + 1) * number]] for k in range(3)]
    assert all(sorted(r) == list(range(number)) for r in rounds)
    assert rounds[0] != rounds[1] != rounds[2] != rounds[0]
    assert len(build_sampler(samples, TrainingRecipe(batch_size=4, min_steps=1))) == number
    with pytest.raises(ValueError, match="min_steps goes with"):
        TrainingRecipe(min_steps=3, sampler="balanced")


def test_samplers_that_cannot_be_are_refused(store, tmp_path):
    with pytest.raises(RecipeError, match=r"batch_size=7 cannot hold equally many of 2 classes.*Take 6 or 8"):
        ExactlyBalancedSampler(samples_of(store), 7)
    with pytest.raises(RecipeError, match="Take 2, or"):
        ExactlyBalancedSampler(samples_of(store), 1)
    catalog = make_catalog(tmp_path, {"train": 2}, size=8)
    masks = SceneStore(catalog, catalog.entries, contract_of(catalog))
    for kind in ("balanced", "exactly-balanced"):
        with pytest.raises(RecipeError, match=f"sampler: {kind} is for patches .* label rasters"):
            build_sampler(samples_of(masks), TrainingRecipe(sampler=kind))
    only = SceneStore(store.catalog, [e for e in store.entries if e.category == "town"], store.contract)
    with pytest.raises(CatalogError, match="no training patch of water"):
        BalancedSampler(samples_of(only))


class StoppedError(Exception):
    """As if the power had gone."""


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("kind", ["balanced", "exactly-balanced"])
def test_a_resumed_training_sees_what_an_uninterrupted_one_sees(tmp_path, cities, kind, bootstrap):
    data = recipe_of(cities, tests=TESTS)
    opened = open_training_data(open_catalog(data, check=False), data)
    recipe = TrainingRecipe.model_validate(
        {"epochs": 3, "batch_size": 16, "precision": "fp32", "sampler": kind, "bootstrap": bootstrap,
         "augment": {"flips": True}}
    )  # fmt: skip
    task = train.Task(opened.train, opened.validation, recipe, PrimaryRecipe(metric="accuracy"),
                      opened.catalog.classes, None)  # fmt: skip

    def run(folder, stop=0):
        def watch(epoch, of, row):
            if epoch == stop:
                raise StoppedError

        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = build_model("timm:test_resnet", 1, 2)
        meta = {"classes": list(task.classes), "contract": task.train.contract.to_json()}
        return train.fit(
            folder, model, task, seed=0, device="cpu", precision="fp32", metadata=meta, progress=watch
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", stop=1)
    resumed = run(tmp_path / "stopped")
    assert numbers(whole.curves) == numbers(resumed.curves)
    assert same_tensors(tensors(tmp_path / "whole", "last"), tensors(tmp_path / "stopped", "last"))
