"""Known datasets: each a function from the folder it was unpacked to, to a catalog."""

from collections.abc import Callable
from pathlib import Path

from sartransfer.catalog import Catalog
from sartransfer.data.datasets.folders import class_folders, eurosat, mstar, nwpu
from sartransfer.data.datasets.ombria import ombria
from sartransfer.data.datasets.sen1floods11 import sen1floods11
from sartransfer.data.simulated import simulated_optical, simulated_sar

DATASETS: dict[str, Callable[[Path], Catalog]] = {
    "ombria": ombria,
    "sen1floods11": sen1floods11,
    "class-folders": class_folders,
    "mstar": mstar,
    "nwpu": nwpu,
    "eurosat": eurosat,
    "simulated-optical": simulated_optical,
    "simulated-sar": simulated_sar,
}

__all__ = ["DATASETS", "class_folders", "eurosat", "mstar", "nwpu", "ombria", "sen1floods11"]
