"""Which entries of a recipe are compared with which: one difference at a time."""

from typing import Literal

from sartransfer.recipe import Recipe

Differs = Literal["start", "training", "start and training", "network"]
"""In what the two entries of a contrast differ; ``network``: in that, and in whatever else."""


def pairs(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the contrasts planned by the recipe: (entry, the entry it is compared with).

    With one network and one training: every start against the baseline. With several networks, each start against
    the first start (or the baseline) of its own network, so that a difference is never one of networks. Where
    entries have trainings of their own, each is compared with the baseline's start of its own network and training
    (else the first such entry), and with the entry of its own start that is trained as the baseline is (else the
    first of that start): a difference is one of starts or one of trainings. Only an entry that this leaves without
    any tie to the others of its network is compared with the base of its network though both differ.

    What the recipe names under `contrasts` comes after these, where it is not among them.
    """
    found = _planned(recipe)
    return found + [(a, b) for a, b in recipe.contrasts if (a, b) not in found and (b, a) not in found]


def _planned(recipe: Recipe) -> list[tuple[str, str]]:
    if not any(start.training for start in recipe.initializations.values()):
        return _starts(recipe, {name: _network(recipe, name) for name in recipe.initializations}, [])
    names = list(recipe.initializations)
    base = recipe.baseline_name
    planned: dict[tuple[str, str], None] = {}
    cell = {n: _network(recipe, n) + _training(recipe, n) for n in names}
    origin = {n: _network(recipe, n) + _start(recipe, n) for n in names}
    of_start = dict(_starts(recipe, cell, [n for n in names if _start(recipe, n) == _start(recipe, base)]))
    of_training = dict(
        _starts(recipe, origin, [n for n in names if _training(recipe, n) == _training(recipe, base)])
    )
    for name in names:
        for found in (of_start, of_training):
            if name in found and (found is of_start or cell[name] != cell[found[name]]):
                planned[name, found[name]] = None
    return _tied(recipe, list(planned))


def differs(recipe: Recipe, a: str, b: str) -> Differs:
    """Say in what two entries differ."""
    if _network(recipe, a) != _network(recipe, b):
        return "network"
    if _training(recipe, a) == _training(recipe, b):
        return "start"
    return "training" if _start(recipe, a) == _start(recipe, b) else "start and training"


def _starts(recipe: Recipe, cells: dict[str, str], preferred: list[str]) -> list[tuple[str, str]]:
    """Pair each entry with the base of its cell: the baseline, else the first preferred one, else the first."""
    base: dict[str, str] = {}
    for name in (recipe.baseline_name, *preferred, *recipe.initializations):
        base.setdefault(cells[name], name)
    return [(n, base[cells[n]]) for n in recipe.initializations if n != base[cells[n]]]


def _tied(recipe: Recipe, planned: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Add, for each set of entries without a tie to the base of its network, the pair of its first with that base."""
    island = {name: {name} for name in recipe.initializations}

    def tie(a: str, b: str) -> None:
        for name in (joined := island[a] | island[b]):
            island[name] = joined

    for a, b in planned:
        tie(a, b)
    networks = {name: _network(recipe, name) for name in recipe.initializations}
    alone = {b for _, b in planned} | {n for n in networks if not any(n in pair for pair in planned)}
    mixed = []
    base: dict[str, str] = {}
    for name in (recipe.baseline_name, *networks):
        base.setdefault(networks[name], name)
    for name, network in networks.items():
        if name in alone and base[network] not in island[name]:
            mixed.append((name, base[network]))
            tie(name, base[network])
    places = {name: i for i, name in enumerate(recipe.initializations)}
    return sorted([*planned, *mixed], key=lambda pair: places[pair[0]])


def _network(recipe: Recipe, name: str) -> str:
    return recipe.model_of(name).model_dump_json()


def _training(recipe: Recipe, name: str) -> str:
    return recipe.training_of(name).model_dump_json()


def _start(recipe: Recipe, name: str) -> str:
    return recipe.initializations[name].model_dump_json(exclude={"model", "training"})
