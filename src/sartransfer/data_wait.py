"""How much of a training's time went by waiting for data."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sartransfer.timings import write_timing


class DataWait(Callback):
    """Write ``timing.csv`` to a run's folder: of each epoch the seconds of training, and those spent on waiting.

    Waiting is all the time between the end of a batch and the beginning of the next, so it holds what the training loop
    does there as well: an upper bound. Validation does not count.
    """

    def __init__(self, folder: Path, *, write: bool = True) -> None:
        self.folder, self.write = folder, write
        self.rows: list[list[float]] = []
        self.began = self.ended = time.perf_counter()
        self.waited = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must remember."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what an earlier process left."""
        self.rows = state["rows"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.began = self.ended = time.perf_counter()
        self.waited = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch is there: add up how long it was waited for."""
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """From now on the next one is waited for."""
        self.ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch down."""
        seconds = self.ended - self.began
        if seconds <= 0:
            return
        self.rows.append(
            [trainer.current_epoch + 1, round(seconds, 4), round(self.waited, 4), self.waited / seconds]
        )
        if self.write:
            write_timing(self.folder, self.rows)
