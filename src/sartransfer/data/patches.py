"""Samples: what a network is trained on and judged by, cut from the scenes of a catalog."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from sartransfer.catalog import IGNORE_INDEX, Catalog, Entry
from sartransfer.contract import InputContract
from sartransfer.data.augment import augment
from sartransfer.data.cache import DecodedScenes
from sartransfer.data.ground import in_pixels
from sartransfer.data.sampling import bootstrap_scenes, class_shares
from sartransfer.errors import CatalogError, InputError
from sartransfer.readers import open_entry, read_label
from sartransfer.recipe import AugmentRecipe, PatchRecipe
from sartransfer.scene import Scene, Window

CACHE_BYTES = (
    3 << 30
)  # scenes are kept decoded in memory up to this much together; beyond it they are read anew
TRIES = 200  # places tried before a scene is said to have too little label
PLACES = 20_000  # places tried before a half is said to be too small for a patch: no pixel is read for them


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of one scene: a label raster, or a class index."""

    mask: NDArray[np.uint8] | None
    """(H, W) class indices, `IGNORE_INDEX` where nothing is known; None for a chip."""
    category: int
    """Class index of a chip; -1 for a scene with a mask."""


class SceneStore:
    """Scenes of a catalog as network inputs and targets; decoded once where memory allows."""

    def __init__(
        self,
        catalog: Catalog,
        entries: Sequence[Entry],
        contract: InputContract,
        *,
        chip: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        cache: str = "none",
    ) -> None:
        """Open every scene (no pixel is read).

        Args:
            catalog: for the classes and label values. entries: which scenes, in order.
            contract: inputs and normalization. chip: cut this many pixels from each centre.
            cache_bytes: how much decoded data may stay in memory.
            cache: keep scenes decoded on disk instead (`data.cache`): a key of `decoded.KINDS`, or ``none``.

        Raises:
            InputError, UnitError: a scene that cannot be what the contract expects, or scenes too large to be kept.
        """
        self.catalog, self.entries, self.contract = catalog, tuple(entries), contract
        self.scenes = tuple(open_entry(entry) for entry in self.entries)
        for scene in self.scenes:
            contract.check(scene)
        self._windows = tuple(
            _centre(scene, chip) if entry.part is None else entry.part.window(scene.height, scene.width)
            for entry, scene in zip(self.entries, self.scenes, strict=True)
        )
        need = sum(w.height * w.width * (4 * len(contract.bands) + 2) for w in self._windows)
        self._cache: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_], Target]] | None = (
            {} if need <= cache_bytes and cache == "none" else None
        )
        self._decoded = (
            None if cache == "none" else DecodedScenes(catalog, self.entries, self.scenes, contract, cache)
        )

    def __len__(self) -> int:
        return len(self.entries)

    def without_pixels(self) -> "SceneStore":
        """Return the same scenes with nothing decoded yet, for another process to read for itself."""
        other = copy.copy(self)
        other._cache = None if self._cache is None else {}
        return other

    def prepare(self) -> None:
        """Decode into the cache on disk what is not there yet; nothing without one."""
        if self._decoded is not None:
            self._decoded.prepare()

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of what scene `index` yields."""
        window = self._windows[index]
        return window.height, window.width

    def holds(self, index: int, window: Window) -> bool:
        """Say whether a window of what scene `index` yields lies wholly in the part of the scene that it is."""
        part = self.entries[index].part
        return part is None or part.holds(self._placed(index, window))

    def read(
        self, index: int, window: Window | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], Target]:
        """Return image (C, H, W) normalized, valid (H, W) and the target of a scene or of a window in it."""
        if window is not None and not window.is_inside(*self.shape(index)):
            raise InputError(
                f"{window} leaves scene {self.entries[index].id!r} of {self.shape(index)} pixels."
            )
        if self._cache is None:
            return self._decode(index, window)
        if index not in self._cache:
            self._cache[index] = self._decode(index, None)
        image, valid, target = self._cache[index]
        if window is None:
            return image, valid, target
        rows, cols = window.slices
        mask = None if target.mask is None else target.mask[rows, cols]
        return image[:, rows, cols], valid[rows, cols], Target(mask, target.category)

    def read_mask(self, index: int, window: Window) -> NDArray[np.uint8] | None:
        """Return what is known of a window in scene `index` alone: classes (H, W); None for a chip."""
        if self._decoded is None or self.entries[index].label is None:
            return self.read(index, window)[2].mask
        return self._decoded.read_label(index, self._placed(index, window))

    def read_into(
        self, index: int, window: Window, image: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> NDArray[np.uint8] | None:
        """Fill image (C, H, W) and valid (H, W), parts of a batch that is used again, with a window; return its mask.

        The same numbers as `read`; with a cache on disk in one pass, without arrays in between.
        """
        if self._decoded is None:
            image[:], valid[:], target = self.read(index, window)
            return target.mask
        place = self._placed(index, window)
        self._decoded.read_into(index, place, image, valid)
        return self._decoded.read_label(index, place)

    def _decode(
        self, index: int, window: Window | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], Target]:
        place = self._windows[index] if window is None else self._placed(index, window)
        entry = self.entries[index]
        if self._decoded is not None:
            image, valid, mask = self._decoded.read(index, place)
            return image, valid, Target(mask, -1 if mask is not None else category_index(self.catalog, entry))
        image, valid = self.contract.read(self.scenes[index], place)
        if entry.label is None:
            return image, valid, Target(None, category_index(self.catalog, entry))
        mask = np.where(valid, read_label(entry, self.catalog, place), np.uint8(IGNORE_INDEX))
        return image, valid, Target(mask, -1)

    def _placed(self, index: int, window: Window) -> Window:
        base = self._windows[index]
        return Window(base.row + window.row, base.col + window.col, window.height, window.width)


class Samples(Dataset[dict[str, Any]]):
    """Training samples of one epoch: ``image`` (C, H, W) float32 and ``mask`` (H, W) int64 or ``label``.

    What a sample is follows from (seed, epoch, index) alone, so a resumed training sees what an uninterrupted
    one would.
    """

    def __init__(
        self,
        store: SceneStore,
        *,
        patch: PatchRecipe | None,
        recipe: AugmentRecipe,
        seed: int,
        bootstrap: bool = False,
    ) -> None:
        """Take the scenes of `store`; with `bootstrap` as many, drawn with replacement once by `seed`.

        Args:
            store: scenes. patch: random patches of them; None: whole scenes. recipe: what is changed at random.
            seed: of the run. bootstrap: see `sampling.bootstrap_scenes`.

        Raises:
            InputError: whole scenes of several sizes, which cannot be batched; a scene smaller than a patch; a size in
                metres of scenes whose pixels have none, or differ.
            RecipeError: data.patch.min_class names a class that is not there.
        """
        store.prepare()  # once, and not in each process that reads beside the training
        self.store, self.recipe, self.seed, self.epoch = store, recipe, seed, 0
        self.patch = patch = None if patch is None else in_pixels(patch, store.scenes)
        self.shares = class_shares(patch, store.catalog.classes) if patch else {}
        classes = scene_classes(store)
        self.scenes = bootstrap_scenes(len(store), seed, classes) if bootstrap else np.arange(len(store))
        self.classes = (
            None if classes is None else np.repeat(classes[self.scenes], patch.per_scene if patch else 1)
        )
        if patch is not None:
            check_patches(store, patch)
        if patch is None and len({store.shape(i) for i in range(len(store))}) > 1:
            sizes = sorted({store.shape(i) for i in range(len(store))})
            raise InputError(
                f"training scenes differ in size ({sizes[0]} to {sizes[-1]}) and cannot be batched whole. "
                "Set data.patch.size (scenes) or data.chip (chips)."
            )

    def __len__(self) -> int:
        return len(self.store) * (self.patch.per_scene if self.patch else 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one sample; `index` + k len(self) is the same one drawn once more in this epoch, changed anew."""
        generator, scene, window = self._place(index)
        image, valid, target = self.store.read(scene, window)
        image, mask, _ = augment(image, target.mask, valid, self.store.contract, self.recipe, generator)
        sample: dict[str, Any] = {"image": torch.from_numpy(image)}
        if mask is None:
            sample["mask"] = target.category
        else:
            sample["mask"] = torch.from_numpy(mask.astype(np.int64))
        return sample

    def _place(self, index: int) -> tuple[np.random.Generator, int, Window | None]:
        """Return where a sample's chance comes from, its scene, and which part of that (None: all)."""
        generator = np.random.default_rng([self.seed, self.epoch, index])
        number = index % len(self)
        scene = int(self.scenes[number // self.patch.per_scene if self.patch else number])
        if not self.patch:
            return generator, scene, None
        place = generator if self.patch.redraw else np.random.default_rng([self.seed, 0, number])
        return generator, scene, self._draw(scene, self.patch, place)

    def _draw(self, scene: int, patch: PatchRecipe, generator: np.random.Generator) -> Window:
        """Draw places until one lies wholly in the scene (or its half) and its label has enough of what counts."""
        size = patch.size or 0
        height, width = self.store.shape(scene)
        looked = 0
        for _ in range(PLACES):
            row = int(generator.integers(height - size + 1))
            col = int(generator.integers(width - size + 1))
            window = Window(row, col, size, size)
            if not self.store.holds(scene, window):
                continue
            mask = self.store.read_mask(scene, window)
            if mask is None or _has_enough(mask, patch.min_labelled, self.shares):
                return window
            looked += 1
            if looked == TRIES:
                break
        what = f"scene {self.store.entries[scene].id!r}: no patch of {patch.side_words}"
        if looked == 0:
            raise CatalogError(
                f"{what} lies wholly in its half of the scene. Take smaller patches (data.patch) or a smaller buffer."
            )
        if not self.store.read(scene)[1].any():
            raise CatalogError(
                f"{what} was found, for no pixel of the scene is valid (nodata or NaN in one band or another). "
                "Mend the file, or leave the scene out."
            )
        wanted = "".join(f" and {share:.0%} of it {name}" for name, share in patch.min_class.items())
        raise CatalogError(
            f"{what} with {patch.min_labelled:.0%} of its label known{wanted} was found in {looked} tries. "
            "Lower data.patch.min_labelled or min_class, or leave the scene out."
        )


def check_patches(store: SceneStore, patch: PatchRecipe) -> None:
    """Raise `InputError` where a scene, or the half of one that trains, is smaller than a patch (in pixels)."""
    size = patch.size or 0
    for index, entry in enumerate(store.entries):
        height, width = store.shape(index)
        if size > height or size > width:
            raise InputError(
                f"scene {entry.id!r} of {height} x {width} pixels is smaller than data.patch.size={size}. "
                "Take smaller patches (data.patch), or leave the scene out."
            )


def _has_enough(mask: NDArray[np.uint8], labelled: float, shares: dict[int, float]) -> bool:
    """Say whether enough of a patch's label is known, and enough of it is of each class that counts."""
    if (mask != IGNORE_INDEX).mean() < labelled:
        return False
    return all((mask == index).mean() >= share for index, share in shares.items())


class EpochSampler(Sampler[int]):
    """A new order of the samples in every epoch, from (seed, epoch) alone; `repeats` orders one after the other."""

    def __init__(self, samples: Samples, repeats: int = 1) -> None:
        self.samples, self.repeats = samples, repeats

    def __len__(self) -> int:
        return len(self.samples) * self.repeats

    def __iter__(self) -> Iterator[int]:
        number = len(self.samples)
        for turn in range(self.repeats):
            own = [turn] if turn else []  # the first order is what it was before there were repeats
            generator = np.random.default_rng([self.samples.seed, self.samples.epoch, *own])
            yield from (generator.permutation(number) + turn * number).tolist()


class WholeScenes(Dataset[dict[str, Any]]):
    """Whole scenes in catalog order, for validation: ``image``, ``mask`` and ``index``."""

    def __init__(self, store: SceneStore) -> None:
        store.prepare()
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one scene."""
        image, _, target = self.store.read(index)
        if target.mask is None:
            return {"image": torch.from_numpy(image), "mask": target.category, "index": index}
        mask = torch.from_numpy(target.mask.astype(np.int64))
        return {"image": torch.from_numpy(image), "mask": mask, "index": index}

    def batch_size(self, wanted: int) -> int:
        """Return how many scenes may be batched: `wanted` if all are of one size, else one."""
        return wanted if len({self.store.shape(i) for i in range(len(self))}) == 1 else 1


def class_frequencies(store: SceneStore) -> NDArray[np.int64]:
    """Count labelled pixels (or chips) of each class in a store: (K,)."""
    counts = np.zeros(len(store.catalog.classes), dtype=np.int64)
    for index in range(len(store)):
        target = store.read(index)[2]
        if target.mask is None:
            counts[target.category] += 1
        else:
            counts += np.bincount(target.mask.ravel(), minlength=256)[: len(counts)]
    return counts


def scene_classes(store: SceneStore) -> NDArray[np.int64] | None:
    """Return the class index of each patch of a store (N,); None where a scene has a label raster."""
    if any(e.label is not None for e in store.entries):
        return None
    return np.array([category_index(store.catalog, e) for e in store.entries], dtype=np.int64)


def category_index(catalog: Catalog, entry: Entry) -> int:
    """Return the class index of a chip; raises `CatalogError` if it has no class or an unknown one."""
    if entry.category not in catalog.classes:
        raise CatalogError(
            f"entry {entry.id!r} has the class {entry.category!r}; the catalog's are {', '.join(catalog.classes)}."
        )
    return catalog.classes.index(entry.category)


def _centre(scene: Scene, chip: int | None) -> Window:
    if chip is None:
        return scene.window
    if chip > min(scene.height, scene.width):
        raise InputError(
            f"{scene.id!r} of {scene.height} x {scene.width} pixels is smaller than data.chip={chip}. "
            "Choose a smaller chip: chips are cropped, never resized."
        )
    return scene.central_window(chip)
