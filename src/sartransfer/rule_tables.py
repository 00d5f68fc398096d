"""What the report says of threshold rules, and of test sets whose labels a rule has made."""

from collections.abc import Mapping
from typing import Any

from sartransfer.wording import RULE_LABELS, number_words

Results = dict[str, Any]
View = dict[str, Any]


def rule_view(results: Results) -> View:
    """Return the rules with their words, and the test sets whose scores are agreement with a rule."""
    return {
        "rules": [
            {"name": title(rule["name"]), "words": sorted(_by_words(rule["words"]).items())}
            for rule in results.get("rules", [])
        ],
        "agreement": [t["name"] for t in results["test_sets"] if t["relation"] == RULE_LABELS],
    }


def add_rules(table: View, row: Mapping[str, Any], results: Results) -> None:
    """Put the rules' scores of one metric and class into a table of scores: (name, {test set: number})."""
    found = []
    for rule in results.get("rules", []):
        cells = {
            s["test_set"]: number_words(s["value"])
            for s in rule["scores"]
            if (s["metric"], s["class"]) == (row["metric"], row["class"])
        }
        if cells:
            found.append((title(rule["name"]), cells))
    table["rules"] = found


def title(name: str) -> str:
    """Return a baseline as people read it: ``threshold rule``, ``threshold rule (drop)``."""
    first, _, rest = name.partition("-")
    return f"{first} rule ({rest})" if rest else f"{first} rule"


def _by_words(words: Mapping[str, str]) -> dict[str, str]:
    """Return what a rule is -> the test sets where it is that."""
    out: dict[str, list[str]] = {}
    for test_set, said in words.items():
        out.setdefault(said, []).append(test_set)
    return {said: ", ".join(sets) for said, sets in out.items()}
