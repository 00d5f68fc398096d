"""The demo: the whole job on simulated scenes, in minutes and without any data."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from sartransfer.comparison import Comparison, Watcher, compare
from sartransfer.data.simulated import MAP_ID, simulated_optical, simulated_sar
from sartransfer.errors import OutputError
from sartransfer.figures import render
from sartransfer.geotiff import open_geotiff
from sartransfer.mapping import MapResult, predict_scene
from sartransfer.pictures import class_colours
from sartransfer.recipe import Recipe, parse_recipe
from sartransfer.report import write_figures, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo leaves behind."""

    comparison: Comparison
    report: Path
    map: MapResult
    """Of the start with the higher mean on the test set, first seed."""
    figure: Path
    """The mapped scene, its truth, and one map of each start."""


def demo_recipe(folder: Path, seed: int = 0) -> Recipe:
    """Return the demo's recipe, with data in `folder`, simulated from `seed` if they are not there yet."""
    simulated_optical(folder / "data" / "optical", seed=seed)
    simulated_sar(folder / "data" / "sar", seed=seed)
    text = resources.files("sartransfer").joinpath("templates/demo.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    values["data"]["root"] = str(folder / "data" / "sar")
    values["initializations"]["optical"]["stages"][0]["data"]["root"] = str(folder / "data" / "optical")
    return parse_recipe(values, where="demo.yaml")


def run_demo(
    folder: str | Path, *, seed: int = 0, device: str = "auto", watcher: Watcher | None = None
) -> Demo:
    """Simulate scenes, compare two starts over six seeds, write the report, and map one scene with both.

    Args:
        folder: for everything; a demo that was stopped there goes on. seed: of the simulated scenes.
        device: ``auto``, ``cpu`` or ``cuda``. watcher: told how it goes.

    Raises:
        OutputError: the folder holds something else.
    """
    folder = Path(folder).resolve()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "data").is_dir():
        raise OutputError(f"{folder} holds something else. Choose a new folder (--out).")
    recipe = demo_recipe(folder, seed)
    result = compare(recipe, folder / "comparison", device=device, watcher=watcher)
    write_figures(result.out, result.out / "figures")
    report = write_report(result.out)
    scene = folder / "data" / "sar" / f"{MAP_ID}.tif"
    maps = {}
    for name in recipe.initializations:
        run = result.out / "runs" / name / "1" / f"seed{recipe.seeds[0]}"
        target = folder / f"map-{name}.tif"
        maps[name] = predict_scene(run, scene, target, overwrite=True)
    figure = folder / "figure.png"
    figure.write_bytes(render(draw_maps(scene, maps, result.results["classes"]), "png"))
    return Demo(result, report, maps[_best(result, recipe)], figure)


def _best(result: Comparison, recipe: Recipe) -> str:
    rows = [
        r
        for r in result.results["table"]
        if (r["metric"], r["class"]) == (recipe.primary.metric, recipe.primary.class_)
        and r["mean"] is not None
    ]
    return str(max(rows, key=lambda r: r["mean"])["initialization"]) if rows else recipe.baseline_name


def draw_maps(scene: Path, maps: dict[str, MapResult], classes: list[str]) -> "Figure":
    """Draw the scene's first band, its truth, and the map of each start, side by side with one legend."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    image = open_geotiff(scene).read().data[0]
    pictures = {"truth (simulated)": open_geotiff(scene.with_name(f"{scene.stem}_label.tif")).read().data[0]}
    for name, found in maps.items():
        pictures[f"map, {name} start"] = open_geotiff(found.path).read().data[0]
    colours = class_colours(len(classes))
    table = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], dtype=np.uint8)
    figure = Figure(figsize=(3.1 * (len(pictures) + 1), 3.7), layout="constrained")
    axes = figure.subplots(1, len(pictures) + 1)
    low, high = np.nanpercentile(image, [2, 98])
    axes[0].imshow(image, cmap="gray", vmin=low, vmax=high)
    axes[0].set_title("simulated SAR scene, VV in dB")
    for axis, (title, labels) in zip(axes[1:], pictures.items(), strict=True):
        axis.imshow(table[np.minimum(labels, len(classes) - 1).astype(np.uint8)], interpolation="nearest")
        axis.set_title(title)
    for axis in axes:
        axis.set_axis_off()
    patches = [Patch(color=c, label=n) for n, c in zip(classes, colours, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(classes), frameon=False)
    return figure
