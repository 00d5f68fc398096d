"""Images without labels, for masked autoencoding; and the check that no test scene is among them."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sartransfer.catalog import TRAIN, VALIDATION, Catalog
from sartransfer.contract import InputContract
from sartransfer.data.augment import augment
from sartransfer.data.halves import take_halves
from sartransfer.data.leakage import check_leakage, refuse_leaks
from sartransfer.data.normalize import fit_normalization, resolve_contract
from sartransfer.data.patches import Samples, SceneStore
from sartransfer.data.resolve import _named
from sartransfer.data.splits import assign_validation, hold_out_groups
from sartransfer.errors import CatalogError, LeakageError
from sartransfer.readers import open_entry
from sartransfer.recipe import DataRecipe

UNLABELLED = "unlabelled"
"""What stands for the class of an image without one."""


@dataclass(frozen=True, slots=True)
class UnlabelledData:
    """What a network is pretrained on."""

    catalog: Catalog
    contract: InputContract
    train: SceneStore
    validation: SceneStore | None


def open_unlabelled(data: DataRecipe) -> Catalog:
    """Return the catalog that a recipe names, its labels and classes taken out of it.

    What has no split is for training, so that a catalog needs neither labels nor classes nor splits. Validation is
    drawn by whole groups. Raises `CatalogError` where nothing is left to train on.
    """
    catalog = _named(data)
    bare = (replace(e, label=None, category=UNLABELLED) for e in catalog.entries)
    catalog = replace(catalog, entries=tuple(bare), classes=(UNLABELLED,), label_values={})
    if data.tests:
        catalog = hold_out_groups(catalog, {n: t.groups for n, t in data.tests.items() if t.groups})
    elif not any(e.split for e in catalog.entries):
        catalog = hold_out_groups(catalog, {})
    if not catalog.in_split(TRAIN):
        raise CatalogError(
            f"catalog {catalog.name!r} has no scene in the split 'train': nothing to learn from."
        )
    if data.validation.halves is not None:
        return take_halves(catalog, data.validation.halves)
    if data.validation.fraction > 0 and not catalog.in_split(VALIDATION):
        catalog = assign_validation(catalog, data.validation.fraction, data.validation.seed)
    return catalog


def open_unlabelled_data(catalog: Catalog, data: DataRecipe) -> UnlabelledData:
    """Return training and validation images of a catalog, normalized by the training images."""
    entries, held = catalog.in_split(TRAIN), catalog.in_split(VALIDATION)
    contract = resolve_contract(data.bands, open_entry(entries[0]))
    if data.normalization == "training":
        contract = fit_normalization(contract, (open_entry(entry) for entry in entries))
    return UnlabelledData(
        catalog,
        contract,
        SceneStore(catalog, entries, contract, chip=data.chip),
        SceneStore(catalog, held, contract, chip=data.chip) if held else None,
    )


class UnlabelledSamples(Samples):
    """Training images of one epoch: ``image`` (C, H, W) float32 and ``valid`` (H, W)."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one image; what it is follows from (seed, epoch, index) alone."""
        generator, scene, window = self._place(index)
        image, valid, _ = self.store.read(scene, window)
        image, _, valid = augment(image, None, valid, self.store.contract, self.recipe, generator)
        return {"image": torch.from_numpy(image), "valid": torch.from_numpy(np.ascontiguousarray(valid))}


def refuse_seen_tests(
    seen: Catalog,
    target: Catalog,
    *,
    stage: str,
    same_catalog: bool,
    same_scenes: Collection[str] = (),
    footprint_days: float | None = None,
    words: str = "",
) -> None:
    """Raise `LeakageError` where an image that a network is trained or pretrained on shows a scene of a test set.

    Looked for is what `check_leakage` looks for: groups, footprints, images that are continued, and the same pixels.

    Args:
        seen: what is pretrained on (its training and validation images). target: the comparison's catalog.
        stage: its name, for the message.
        same_catalog: both are of one catalog, so that a group's name means the same event.
        same_scenes: test sets declared to be of the scenes that are trained on: their groups pass, their images do not.
        footprint_days: as of `check_leakage`.
        words: what is said of it in the message; empty: that this stage would be pretrained.
    """
    shown = [
        replace(
            e,
            id=f"{stage}/{e.id}",
            split=TRAIN,
            group=e.group if same_catalog or e.group is None else f"{stage}/{e.group}",
        )
        for e in seen.entries
        if e.split in (TRAIN, VALIDATION)
    ]
    tests = [e for e in target.entries if e.split in target.test_sets]
    leaks = check_leakage(replace(target, entries=(*shown, *tests)), footprint_days=footprint_days)
    try:
        refuse_leaks([leak for leak in leaks if TRAIN in (leak.split_a, leak.split_b)], allowed=same_scenes)
    except LeakageError as error:
        raise LeakageError(
            f"{words or f'stage {stage!r} would be pretrained'} on scenes of a test set ('train' is what it sees): "
            f"{error} Or take these groups out of its data (data.tests)."
        ) from None
