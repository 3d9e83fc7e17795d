"""The same in a loop of its own; there, what hangs or vanishes is the whole attempt."""

import htcjob
import tests.support.small_parts  # noqa: F401 - which changes how records are written
from reference_app.images import UnreadableImageError
from tests.support.chaotic_tagger import tag_badly

with htcjob.Job.from_env() as job:
    for entry in job.entries():
        try:
            faces = tag_badly(entry.path, entry.output_dir, entry.key, {"crash": 2, "again": 2, "raise": 1})
        except (OSError, UnreadableImageError) as error:
            entry.fail(f"{type(error).__name__}: {error}")
        except SystemExit:
            entry.retry("asked to be tried again")
        else:
            entry.commit(faces)
