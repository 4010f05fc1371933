"""What several modules of this floor expect to be logged."""

import pytest

from tests.conftest import ExpectOutput


@pytest.fixture
def failures_are_logged(expected_output: ExpectOutput) -> None:
    """The tests give failures that are logged."""
    expected_output(r"^WARNING +aysfs\.(fetch|store)\..*$")
