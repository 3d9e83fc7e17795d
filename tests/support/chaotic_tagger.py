"""The face tagger on a bad machine: at times it crashes, hangs, forks, or asks for another try."""

from __future__ import annotations

import os
import random
import signal
import time

from reference_app.face_tagger import tag_entry

MISDEEDS = {"crash": 2, "hang": 1, "vanish": 1, "again": 2, "raise": 1, "fork": 5}
"""Of a hundred entries."""


def tag(input: str, output_dir: str, key: str) -> dict[str, int]:  # noqa: A002
    return tag_badly(input, output_dir, key, MISDEEDS)


def tag_badly(path: str, output_dir: str, key: str, misdeeds: dict[str, int]) -> dict[str, int]:
    luck = random.Random(f"{os.environ['CHAOS_SEED']} {os.environ['HTCJOB_ATTEMPT']} {key}")
    work = 100 - sum(misdeeds.values())
    what = luck.choices([*misdeeds, "work"], weights=[*misdeeds.values(), work])[0]
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        time.sleep(1000)
    if what == "vanish":
        os._exit(0)
    if what == "fork" and os.fork() == 0:
        if luck.random() < 0.5:
            raise SystemExit(0)  # as a script's child would end
        return {"faces": -1}
    if what == "again":
        raise SystemExit(75)
    if what == "raise":
        raise RuntimeError("bad luck")
    return tag_entry(path, output_dir, key)
