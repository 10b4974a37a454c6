"""Settings of all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: time is limited by pytest-timeout alone.
settings.register_profile("cis", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cis")
