"""From the scores of all runs to the tidy table, the contrasts with their intervals, and the verdict in words."""

from sartransfer.results.contrasts import contrasts, statement_json
from sartransfer.results.pairs import differs, pairs
from sartransfer.results.patches import (
    collection_rows,
    count_patches,
    mcnemar_rows,
    mcnemar_statements,
    patches_json,
)
from sartransfer.results.resampled import resampled_json
from sartransfer.results.rows import (
    COLUMNS,
    Row,
    ScoredRun,
    TestSet,
    describe_test_set,
    rows_csv,
    score_table,
    tidy_rows,
    value_of,
)
from sartransfer.results.strata import strata_rows
from sartransfer.results.trainings import describe_trainings
from sartransfer.results.verdict import verdict_words

__all__ = [
    "COLUMNS",
    "Row",
    "ScoredRun",
    "TestSet",
    "collection_rows",
    "contrasts",
    "count_patches",
    "describe_test_set",
    "describe_trainings",
    "differs",
    "mcnemar_rows",
    "mcnemar_statements",
    "pairs",
    "patches_json",
    "resampled_json",
    "rows_csv",
    "score_table",
    "statement_json",
    "strata_rows",
    "tidy_rows",
    "value_of",
    "verdict_words",
]
