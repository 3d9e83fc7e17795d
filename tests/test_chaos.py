"""The short form of `make chaos`: two dozen photos, one seed, the worst of worlds."""

import pytest

from tests.chaos import Chaos
from tests.support.rgw import rgw  # noqa: F401


@pytest.mark.timeout(600)
def test_in_the_worst_of_worlds_every_entry_is_done_once(rgw, photos, tmp_path):  # noqa: F811
    """Storage faults, crashes, hangs, kills: in the end there is what an undisturbed run leaves."""
    pytest.importorskip("cv2")
    Chaos(rgw, [path for path, _ in list(photos.values())[:24]], tmp_path, seed=1).run()
