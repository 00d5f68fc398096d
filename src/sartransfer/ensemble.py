"""Several networks as one: a vote over patches, and how far the networks agree."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.calibration import log_softmax, predictive_entropy
from sartransfer.catalog import Catalog
from sartransfer.errors import InputError
from sartransfer.evaluate import TestScores, evaluate_checkpoint
from sartransfer.metrics import (
    Scores,
    confusion_matrix,
    majority_vote,
    proportion_interval,
    scores,
    softmax,
    top_k_accuracy,
)
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.textfile import write_text

COLUMNS = ("test_set", "id", "group", "label", "prediction", "votes", "mean_probability", "entropy")


@dataclass(frozen=True, slots=True)
class EnsembleScores:
    """How the members' patches came out together: a vote for the class, mean probabilities for all else."""

    test_set: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    """Of the N patches."""
    groups: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,) class indices."""
    logits: NDArray[np.float64]
    """(M, N, C) of the M members."""

    def __post_init__(self) -> None:
        expected = (len(self.ids), len(self.classes))
        if self.logits.ndim != 3 or self.logits.shape[1:] != expected or len(self.logits) < 1:
            raise ValueError(f"logits have shape {self.logits.shape}. Must be (members, *{expected})")
        if len(self.groups) != len(self.ids) or self.labels.shape != (len(self.ids),):
            raise ValueError(f"{len(self.ids)} ids, {len(self.groups)} groups, labels {self.labels.shape}")

    @property
    def members(self) -> int:
        """How many networks there are."""
        return len(self.logits)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(N, C): the mean over the members."""
        return np.asarray(softmax(self.logits).mean(axis=0), dtype=np.float64)

    @property
    def prediction(self) -> NDArray[np.int64]:
        """(N,): the class with most votes, ties by mean probability (`metrics.majority_vote`)."""
        return majority_vote(self.logits.argmax(axis=-1), softmax(self.logits))

    @property
    def votes(self) -> NDArray[np.int64]:
        """(N,): members that voted for the class predicted."""
        return np.asarray((self.logits.argmax(axis=-1) == self.prediction).sum(axis=0), dtype=np.int64)

    @property
    def entropy(self) -> NDArray[np.float64]:
        """(N,): entropy of the mean probabilities in nats, 0 (sure) to log C."""
        return predictive_entropy(self.probabilities)

    @property
    def spread(self) -> NDArray[np.float64]:
        """(N,): what the members disagree about, in nats: entropy of the mean less the mean of the entropies.

        It is the mutual information of class and member (Depeweg et al. 2018): 0 where all say the same, at most
        log M and log C.
        """
        apart = predictive_entropy(softmax(self.logits)).mean(axis=0)
        return np.asarray(np.maximum(self.entropy - apart, 0.0), dtype=np.float64)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(C, C): rows truth, columns prediction."""
        return confusion_matrix(self.labels, self.prediction, len(self.classes))

    @property
    def scores(self) -> Scores:
        """Every score of the confusion matrix."""
        return scores(self.confusion)

    @property
    def accuracy(self) -> float:
        """Share of the patches predicted rightly; NaN for no patch."""
        return self.scores["accuracy"]

    @property
    def member_accuracies(self) -> tuple[float, ...]:
        """Of each member alone."""
        right = self.logits.argmax(axis=-1) == self.labels
        return tuple(float(r.mean()) if r.size else float("nan") for r in right)

    @property
    def top2(self) -> float | None:
        """Share of patches whose class is among the two of highest mean probability; None for one class."""
        if len(self.classes) < 2:
            return None
        # By logarithms: of probabilities that round to 0 the order would be lost.
        mean = np.logaddexp.reduce(log_softmax(self.logits), axis=0)
        return top_k_accuracy(mean, self.labels, 2)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the exact interval of the accuracy, were each patch drawn on its own (Clopper and Pearson)."""
        return proportion_interval(int(np.trace(self.confusion)), len(self.ids), confidence)


def join_scores(members: Sequence[TestScores]) -> EnsembleScores:
    """Join the scores of several networks, or of one, on the same patches; patches keep the first's order.

    Raises `InputError` for scores of pixels, and for members that differ in test set, classes, patches or labels.
    """
    if not members:
        raise ValueError("an ensemble needs a member")
    first = members[0]
    ids = tuple(s.id for s in first.scenes)
    labels = np.array([s.label for s in first.scenes], dtype=np.int64)
    rows = []
    for member in members:
        if any(s.logits is None for s in member.scenes):
            raise InputError(
                f"the scores on {member.test_set!r} are of pixels: ensembles are of networks that classify patches."
            )
        if member.classes != first.classes:
            raise InputError(
                f"the members know different classes: {', '.join(first.classes)} and "
                f"{', '.join(member.classes)}. They must be the same, in the same order."
            )
        by_id = {s.id: s for s in member.scenes}
        if member.test_set != first.test_set or by_id.keys() != set(ids):
            raise InputError(
                f"the members were scored on different patches: {len(ids)} of {first.test_set!r} and "
                f"{len(by_id)} of {member.test_set!r}. Score them all on the same test set."
            )
        if [by_id[i].label for i in ids] != labels.tolist():
            raise InputError(f"the members were scored against different labels of {member.test_set!r}.")
        rows.append(np.stack([np.asarray(by_id[i].logits, dtype=np.float64) for i in ids]))
    groups = tuple(s.group for s in first.scenes)
    return EnsembleScores(first.test_set, first.classes, ids, groups, labels, np.stack(rows))


def evaluate_ensemble(
    checkpoints: Iterable[Checkpoint],
    catalog: Catalog,
    test_set: str,
    *,
    device: str = "cpu",
    views: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EnsembleScores:
    """Predict every patch of a test set with every network, one network after the other, and join them.

    Args:
        checkpoints: an iterator that reads them one at a time holds one network at a time in memory.
        catalog, test_set, device, views, progress: as `evaluate.evaluate_checkpoint` takes them.

    Raises:
        InputError: a network that segments. CatalogError: other classes than the catalog's.
    """
    found = []
    for checkpoint in checkpoints:
        check_member(checkpoint)
        found.append(
            evaluate_checkpoint(checkpoint, catalog, test_set, device=device, views=views, progress=progress)
        )
    return join_scores(found)


def check_member(checkpoint: Checkpoint, first: Checkpoint | None = None) -> None:
    """Raise `InputError` for a network that segments, or that knows other classes than the `first`."""
    if checkpoint.task != "classify":
        raise InputError(
            f"{checkpoint.path} segments scenes: ensembles are of networks that classify patches. "
            "Networks that segment are asked together by --ensemble with `predict` or `evaluate`."
        )
    if first is not None and checkpoint.classes != first.classes:
        raise InputError(
            f"{first.path} knows the classes {', '.join(first.classes)}, {checkpoint.path} knows "
            f"{', '.join(checkpoint.classes)}. They must be the same, in the same order."
        )


def write_predictions(path: Path, ensembles: Iterable[EnsembleScores]) -> Path:
    """Write one row a patch as CSV: label and prediction by name, votes for it, its mean probability, entropy."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for found in ensembles:
        prediction, probabilities = found.prediction, found.probabilities
        rows = zip(found.ids, found.groups, found.labels, prediction, found.votes, probabilities, found.entropy,
                   strict=True)  # fmt: skip
        for id_, group, label, guess, votes, shares, entropy in rows:
            names = (found.classes[label], found.classes[guess])
            values = (repr(float(shares[guess])), repr(float(entropy)))
            writer.writerow((found.test_set, id_, group, *names, int(votes), *values))
    write_text(path, text.getvalue())
    return path
