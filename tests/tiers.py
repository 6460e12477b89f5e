"""Which cases of a test `make test` runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def tiers(cases: Iterable[Any], quick: Iterable[Any], *, several: bool = False) -> list[Any]:
    """All the cases; those that are not `quick` are run by `make test-all` only. With `several`
    names a case is a tuple, of a value for each."""
    quick = list(quick)

    def slow(case: Any) -> Any:
        return pytest.param(*(case if several else [case]), marks=pytest.mark.slow)

    return [case if case in quick else slow(case) for case in cases]
