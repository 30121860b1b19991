"""Who rewords a line that a bug is seeded into learns so without building the mutants."""

from __future__ import annotations

import pytest

from tests.mutants.bugs import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.tree import sources_of


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_each_seeded_bug_stands_once(mutant: Mutant) -> None:
    assert mutant.text.count(mutant.before) == 1


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_texts_of_a_seeded_bug_close_the_brackets_that_they_open(mutant: Mutant) -> None:
    # An expression stands inside another one where the bug is switched on at run time.
    for text in (mutant.before, mutant.after):
        assert [text.count(pair[0]) - text.count(pair[1]) for pair in ("()", "[]", "{}")] == [0, 0, 0]


def test_no_two_seeded_bugs_stand_in_the_same_text() -> None:
    assert sources_of(MUTANTS)
