"""Stores; failures in the contract that they share are explained like those in the test files."""

import pytest

pytest.register_assert_rewrite("tests.storage.contract")
