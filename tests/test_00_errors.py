"""The tree of errors: everything a user can mend is one kind, and messages name the nearest allowed word."""

import inspect

import pytest

from sartransfer import errors
from sartransfer.errors import OutputError, SartransferError, nearest, one_of, refuse_existing

TREE = {
    "SartransferError": "Exception",
    "InputError": "SartransferError",
    "UnitError": "SartransferError",
    "CatalogError": "SartransferError",
    "LeakageError": "CatalogError",
    "RecipeError": "SartransferError",
    "WeightsError": "SartransferError",
    "FetchError": "SartransferError",
    "ClusterError": "SartransferError",
    "OutputError": "SartransferError",
}


def test_the_tree_is_as_the_docstring_draws_it():
    found = {n: k for n, k in inspect.getmembers(errors, inspect.isclass) if k.__module__ == errors.__name__}
    assert {name: kind.__base__.__name__ for name, kind in found.items()} == TREE
    assert all(issubclass(kind, SartransferError) for kind in found.values())
    assert all(name in errors.__doc__ for name in TREE)
    assert all(kind.__doc__ for kind in found.values())


@pytest.mark.parametrize(
    ("value", "allowed", "expected"),
    [
        ("epoch", ["epochs", "seeds"], " Did you mean 'epochs'?"),
        ("vallidation", ["validation", "test"], " Did you mean 'validation'?"),
        ("sigma_0", ["sigma0", "gamma0"], " Did you mean 'sigma0'?"),
        ("xyz", ["epochs", "seeds"], ""),
        ("epochs", [], ""),
    ],
)
def test_the_nearest_word_is_named_only_where_one_is_near(value, allowed, expected):
    assert nearest(value, allowed) == expected


def test_the_nearest_word_may_come_from_any_iterable():
    assert nearest("sed", iter({"seed": 1})) == " Did you mean 'seed'?"


def test_one_of_names_value_allowed_and_nearest():
    assert one_of("unit", "sigma", ("sigma0", "optical")) == (
        "unit='sigma' is not known. Must be one of: sigma0, optical. Did you mean 'sigma0'?"
    )
    assert one_of("seed", 7, (0, 1)) == "seed=7 is not known. Must be one of: 0, 1."


def test_what_may_be_written_is_said_in_one_place(tmp_path):
    """New files pass, those that are there only where they may be replaced, none without a folder."""
    new, there, lost = tmp_path / "new.txt", tmp_path / "there.txt", tmp_path / "no" / "new.txt"
    there.write_text("mine")
    for overwrite in (False, True):
        refuse_existing(new, overwrite)
        with pytest.raises(OutputError, match=r"there is no folder .*no\. Make it first"):
            refuse_existing(lost, overwrite)
    refuse_existing(there, True)
    with pytest.raises(OutputError, match=r"exists already\. Choose another name, or overwrite it"):
        refuse_existing(there, False)
