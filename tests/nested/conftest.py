"""A failure in the outer guest shows the logs of the processes there, as one outside does."""

from tests.integration.conftest import pytest_runtest_makereport as pytest_runtest_makereport
