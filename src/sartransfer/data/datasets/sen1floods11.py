"""Sen1Floods11: hand-labelled Sentinel-1 chips of eleven floods (Bonafilia et al., 2020)."""

from dataclasses import replace
from pathlib import Path

from sartransfer.catalog import IGNORE_INDEX, Asset, Catalog, Entry
from sartransfer.data.datasets.ombria import AFTER
from sartransfer.errors import InputError
from sartransfer.radar.units import parse_unit
from sartransfer.scene import Band

SIGMA0_DB = parse_unit("sigma0_db")
BANDS = (Band("VV", unit=SIGMA0_DB, polarization="VV"), Band("VH", unit=SIGMA0_DB, polarization="VH"))
FIX = (
    "Download Sen1Floods11 (github.com/cloudtostreet/Sen1Floods11): pairs of files "
    "<Country>_<number>_S1Hand.tif and <Country>_<number>_LabelHand.tif, in any folders under this one."
)


def sen1floods11_display(root: Path) -> Catalog:
    """Read Sen1Floods11's VV as 8-bit display values (reader ``display``), for networks that learned on OMBRIA's.

    The band is called ``after`` and has the role flood. A test of the network and of the stretch together.
    """
    catalog = sen1floods11(root)
    return replace(
        catalog,
        name="sen1floods11-display",
        entries=tuple(
            replace(e, assets=tuple(replace(a, reader="display", bands=(AFTER,)) for a in e.assets))
            for e in catalog.entries
        ),
    )


def sen1floods11(root: Path, split: str = "test") -> Catalog:
    """Read Sen1Floods11's hand-labelled chips, all in one `split`: a test on other floods.

    VV and VH are sigma0 in dB, 512 px at 10 m. The published label is -1 where it is not known (ignored
    here), 0 not water, 1 water: all water seen at the time of the flood, permanent water too, called
    ``flooded`` here so that it meets other flood datasets. The group is the country, which is the event.

    Source: CVPR Workshops 2020, doi 10.1109/CVPRW50498.2020.00113. Raises `InputError` if files are missing.
    """
    root = Path(root)
    images = sorted(root.rglob("*_S1Hand.tif"))
    labels = {p.name: p for p in root.rglob("*_LabelHand.tif")}
    if not images:
        raise InputError(f"{root} holds no *_S1Hand.tif. {FIX}")
    entries = []
    for image in images:
        id = image.name.removesuffix("_S1Hand.tif")
        label = labels.get(f"{id}_LabelHand.tif")
        if label is None:
            raise InputError(f"{image} has no label {id}_LabelHand.tif under {root}. {FIX}")
        entries.append(
            Entry(
                id=id,
                assets=(Asset(image, "geotiff", BANDS),),
                label=label,
                split=split,
                group=id.split("_")[0].lower(),
                platform="Sentinel-1",
            )
        )
    return Catalog(
        name="sen1floods11",
        entries=tuple(entries),
        classes=("dry", "flooded"),
        label_values={-1: IGNORE_INDEX, 0: 0, 1: 1},
        source="Sen1Floods11, github.com/cloudtostreet/Sen1Floods11; terms not stated in the repository",
    )
