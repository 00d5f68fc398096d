"""Known datasets: each a function from the folder it was unpacked to, to a catalog."""

from collections.abc import Callable
from pathlib import Path

from sartransfer.catalog import Catalog
from sartransfer.data.collections import simulated_collections
from sartransfer.data.datasets.ai4arctic import ai4arctic
from sartransfer.data.datasets.dsn import s1slc8, s1slc8_apart, tsx5
from sartransfer.data.datasets.extremeearth import extremeearth
from sartransfer.data.datasets.folders import class_folders, eurosat, mstar, nwpu
from sartransfer.data.datasets.mstar_raw import mstar_eoc1, mstar_eoc2, mstar_soc
from sartransfer.data.datasets.ombria import ombria
from sartransfer.data.datasets.opensarship import opensarship
from sartransfer.data.datasets.sen1floods11 import sen1floods11, sen1floods11_display
from sartransfer.data.simulated import simulated_optical, simulated_sar
from sartransfer.data.simulated_ice import simulated_sea_ice

DATASETS: dict[str, Callable[[Path], Catalog]] = {
    "ombria": ombria,
    "sen1floods11": sen1floods11,
    "sen1floods11-display": sen1floods11_display,
    "extremeearth": extremeearth,
    "ai4arctic": ai4arctic,
    "class-folders": class_folders,
    "mstar": mstar,
    "mstar-soc": mstar_soc,
    "mstar-eoc1": mstar_eoc1,
    "mstar-eoc2": mstar_eoc2,
    "tsx5": tsx5,
    "s1slc8": s1slc8,
    "s1slc8-apart": s1slc8_apart,
    "opensarship": opensarship,
    "nwpu": nwpu,
    "eurosat": eurosat,
    "simulated-optical": simulated_optical,
    "simulated-sar": simulated_sar,
    "simulated-collections": simulated_collections,
    "simulated-sea-ice": simulated_sea_ice,
}

__all__ = ["DATASETS", "class_folders", "eurosat", "mstar", "nwpu", "ombria", "sen1floods11"]
