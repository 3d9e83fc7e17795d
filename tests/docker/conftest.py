"""What the tests of containers share."""

from __future__ import annotations

import pytest

from tests.support.servers.azurite import azurite  # noqa: F401
from tests.support.servers.fake_gcs import _fake_gcs_of_all, fake_gcs  # noqa: F401


@pytest.fixture
def stores(htcjob) -> list[str]:
    """Options of `docker run` that give a container the two local stores, whoever it runs as."""
    htcjob.task.chmod(0o777)
    mounts = (f"{htcjob.project}:/project:ro", f"{htcjob.task}:/task")
    variables = ("HTCJOB_PROJECT_STORE=/project", "HTCJOB_TASK_STORE=/task")
    options = [option for mount in mounts for option in ("--volume", mount)]
    return options + [option for variable in variables for option in ("--env", variable)]
