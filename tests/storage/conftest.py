"""Failures in the shared contract are explained like those in the test files."""

import pytest

pytest.register_assert_rewrite("tests.storage.contract")
