"""Maps of many scenes, or of one by many processes: what is done is in a ledger, what fails does not stop the rest."""

from sartransfer.archive.ledger import LEDGER, Ledger
from sartransfer.archive.maps import Archive, predict_by_windows, predict_scenes
from sartransfer.archive.orders import LISTS, SceneOrder, order_of, read_scenes

__all__ = [
    "LEDGER",
    "LISTS",
    "Archive",
    "Ledger",
    "SceneOrder",
    "order_of",
    "predict_by_windows",
    "predict_scenes",
    "read_scenes",
]
