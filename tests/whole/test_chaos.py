"""The short form of `make chaos`: a few photos, three seeds, the worst of worlds."""

from pathlib import Path

import pytest

from tests.conftest import some_of
from tests.support.servers.rgw import rgw  # noqa: F401
from tests.whole.chaos import Chaos

pytestmark = pytest.mark.long


def paths_of_some(photos) -> dict[str, Path]:
    return {name: path for name, (path, _) in some_of(photos, 16).items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_the_worst_of_worlds_every_entry_is_done_once(rgw, photos, tmp_path, seed):  # noqa: F811
    """Storage faults, full disks, crashes, hangs, kills: in the end there is what an undisturbed run leaves."""
    pytest.importorskip("cv2")
    Chaos(rgw, paths_of_some(photos), tmp_path, seed=seed).run()


@pytest.mark.timeout(600)
def test_a_record_before_its_outputs_is_found(rgw, photos, tmp_path):  # noqa: F811
    """With that order reversed, and a kill between the two, the same check fails: it looks at the right thing."""
    pytest.importorskip("cv2")
    chaos = Chaos(rgw, paths_of_some(photos), tmp_path, seed=1, program="tests.support.records_first")
    with pytest.raises(AssertionError, match="recorded, not there"):
        chaos.run()
