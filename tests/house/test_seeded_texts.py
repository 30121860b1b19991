"""Who rewords a line that a bug is seeded into learns so without building the mutants."""

from __future__ import annotations

import pytest

from tests.mutants.bugs import MUTANTS
from tests.mutants.mutant import Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_each_seeded_bug_stands_once(mutant: Mutant) -> None:
    assert mutant.text.count(mutant.before) == 1
