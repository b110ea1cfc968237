"""Fixtures shared by the tests: every kernel test runs on every kernel set of this machine."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from binq import _core

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=5000)
settings.register_profile(
    "emulated", deadline=None, max_examples=8, suppress_health_check=list(HealthCheck)
)
settings.load_profile("default")


@pytest.fixture(params=_core.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a kernel set, in use for the length of the test."""
    before = _core.isa()
    _core.use_isa(request.param)
    yield request.param
    _core.use_isa(before)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back after a test that changes it."""
    before = _core.get_num_threads()
    yield
    _core.set_num_threads(before)
