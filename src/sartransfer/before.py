"""What would end a run after hours, looked for before the first one: scenes, labels, networks and losses."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import torch

from sartransfer.catalog import TRAIN, VALIDATION, Catalog, Entry
from sartransfer.contract import InputContract
from sartransfer.data.ground import in_pixels
from sartransfer.data.normalize import resolve_contract
from sartransfer.data.patches import category_index
from sartransfer.errors import InputError, RecipeError, WeightsError
from sartransfer.losses import build_loss
from sartransfer.models import Network, build_model
from sartransfer.models.build import networks_for
from sartransfer.models.network import freeze
from sartransfer.models.segmenter import ONE_VALUE, one_value_words
from sartransfer.readers import open_entry, open_scene
from sartransfer.readers.image import opened_image
from sartransfer.readers.opening import ENDINGS, check_place
from sartransfer.recipe import BandRecipe, Recipe, TrainingRecipe
from sartransfer.scene import GeoReference, Scene
from sartransfer.stages import built_options

DOES = {"segment": "labels every pixel", "classify": "gives one class to a whole patch"}


def check_scenes(catalog: Catalog, task: str, names: Collection[str], bands: Sequence[BandRecipe]) -> int:
    """Return the number of a network's bands, having looked at the headers of all scenes and labels; no pixel is read.

    Args:
        catalog: with its splits. task: ``segment`` or ``classify``. names: test sets that will be scored, which are
            looked at beside training and validation. bands: of the recipe.

    Raises:
        InputError: a scene or label is missing, a label has another size or place than its scene, a band is not there.
        UnitError: a band's unit is unknown, or cannot be turned into that of the first training scene.
        CatalogError: a chip has no class, or one that the catalog does not know.
    """
    contract: InputContract | None = None
    for split in dict.fromkeys((TRAIN, VALIDATION, *names)):
        for entry in catalog.in_split(split):
            scene = open_entry(entry)
            if contract is None:
                contract = resolve_contract(bands, scene)
            else:
                contract.check(scene)
            if task == "segment" or entry.label is not None:
                check_label(entry, scene)
            else:
                category_index(catalog, entry)
    return 0 if contract is None else len(contract.bands)


def check_label(entry: Entry, scene: Scene) -> None:
    """Raise the `InputError` that `read_label` would raise for the file, size or place of a label, from its header."""
    if entry.label is None:
        raise InputError(f"entry {entry.id!r} has no label raster. Name one in the catalog's column `label`.")
    if not entry.label.exists():
        raise InputError(
            f"entry {entry.id!r}: its label {entry.label} is not there. Check the path; a catalog's paths are relative "
            "to the catalog."
        )
    kind = ENDINGS.get(entry.label.suffix.lower())
    if kind is None:
        raise InputError(
            f"{entry.label}: no label can be read from {entry.label.suffix!r}: {', '.join(ENDINGS)} can."
        )
    if kind == "ai4arctic":
        return  # three charts packed into one: what they are is known once they are read
    if kind == "image":
        with opened_image(entry.label) as image:  # as a label it may be of a palette, which is no scene
            width, height = image.size
            layers = image.getbands()
        place = GeoReference()
    else:
        label = open_scene(entry.label, kind)
        height, width, layers, place = label.height, label.width, label.names, label.georeference
    if kind != "array" and len(layers) != 1:
        raise InputError(f"{entry.label}: a label raster must have one band; this one has {len(layers)}.")
    if (height, width) != (scene.height, scene.width):
        raise InputError(
            f"entry {entry.id!r}: the label {entry.label} has {height} x {width} pixels, "
            f"the scene has {scene.height} x {scene.width}. Bring them onto one grid first."
        )
    check_place(entry, "scene and label", scene, place)


def check_networks(recipe: Recipe, catalog: Catalog, bands: int) -> None:
    """Build every network and loss of a comparison, networks without memory for their weights where they allow it.

    Args:
        recipe: whose starts are looked at; the networks of their chains are the chains'. catalog: its scenes.
        bands: of a network's input.

    Raises:
        RecipeError: a network of another task, options or a loss that cannot be, as many class weights as there are not
            classes, or a batch of which a batch norm sees one value.
    """
    classes = len(catalog.classes)
    for name, start in recipe.initializations.items():
        training, model = recipe.training_of(name), recipe.model_of(name)
        _check_loss(training, classes)
        network = _built(model.name, built_options(model, training), bands, classes)
        _check_task(model.name, network, recipe.task)
        if _least_batch(recipe, catalog, training) == 1 and not training.freeze_batch_norm:
            _check_one(model.name, network, recipe, catalog, training, start.freeze)


def _check_loss(training: TrainingRecipe, classes: int) -> None:
    weights = training.class_weights
    if isinstance(weights, tuple) and len(weights) != classes:
        raise RecipeError(
            f"training.class_weights has {len(weights)} numbers, there are {classes} classes. Give one a class."
        )
    build_loss(
        training.loss,
        num_classes=classes,
        class_weights=weights if isinstance(weights, tuple) else None,
        options=training.loss_options,
    )


def _built(name: str, options: dict[str, Any], bands: int, classes: int) -> Network:
    """Build a network on no device where it can be, else on the processor; the caller's chance is left alone."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build_model(name, bands, classes, **options)
        except Exception:  # what is wrong, or that it cannot be without memory, the real one tells
            return build_model(name, bands, classes, **options)


def _check_task(name: str, network: Network, task: str) -> None:
    if network.task != task:
        raise RecipeError(
            f"model {name!r} {DOES[network.task]} ({network.task}); the recipe's task is {task!r}. Networks that "
            f"{task}: {', '.join(networks_for(task))}. Set model.name, or the task."
        )


def _least_batch(recipe: Recipe, catalog: Catalog, training: TrainingRecipe) -> int:
    """Return the smallest batch of a training: a last one that is not full is left out, unless it is the only one."""
    if training.min_steps:
        return training.batch_size
    scenes = round(min(recipe.fractions) * len(catalog.in_split(TRAIN)))
    return min(
        training.batch_size, max(1, scenes) * (recipe.data.patch.per_scene if recipe.data.patch else 1)
    )


def _check_one(
    name: str,
    network: Network,
    recipe: Recipe,
    catalog: Catalog,
    training: TrainingRecipe,
    frozen: Sequence[str],
) -> None:
    """Ask a network about one image, in training: a batch norm that would see one value of a channel refuses."""
    if next(network.parameters()).device.type != "meta":
        network = network.to("meta")
    with contextlib.suppress(WeightsError):  # names of parts that only the initialization makes
        freeze(network, [*frozen, *(["encoder"] if training.freeze == "encoder" else [])])
    scene = open_entry(catalog.in_split(TRAIN)[0])
    patch = None if recipe.data.patch is None else in_pixels(recipe.data.patch, [scene])
    height, width = scene.height, scene.width
    if recipe.data.chip is not None:
        height = width = recipe.data.chip
    if patch is not None and patch.size is not None:
        height = width = patch.size
    network.train()
    try:
        with torch.no_grad():
            network(torch.zeros(1, network.in_channels, height, width, device="meta"))
    except RecipeError as error:
        raise RecipeError(f"model {name!r} on {height} x {width} pixels: {error}") from None
    except ValueError as error:
        if ONE_VALUE in str(error):
            raise RecipeError(f"model {name!r} on {height} x {width} pixels: {one_value_words()}") from None
    except (RuntimeError, TypeError, InputError):
        return  # it cannot be asked without memory: its first step will tell
