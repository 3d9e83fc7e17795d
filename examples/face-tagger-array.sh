#!/bin/sh
# The tutorial on one machine: an array of 8 jobs finds the faces in a folder of photos.
#
#   examples/face-tagger-array.sh [PHOTOS [DIRECTORY]]
#
# PHOTOS: a folder of JPEG, PNG, WebP or BMP files; without it, photos are drawn.
# DIRECTORY: where project and task storage are made anew; default: demo.
set -eu

demo=${2:-demo}
rm -rf "$demo"
mkdir -p "$demo/project"

# 1. Project storage: the inputs, and a manifest that lists them, one per line.
if [ -n "${1:-}" ]; then
  cp -r "$1/." "$demo/project/"
else
  python -m reference_app.synthetic "$demo/project"
fi
(cd "$demo/project" && find . -type f \( -name '*.jpg' -o -name '*.png' -o -name '*.webp' -o -name '*.bmp' \) |
  sed 's|^\./||' | LC_ALL=C sort) > "$demo/manifest"
mv "$demo/manifest" "$demo/project/photos.txt"
echo "$(wc -l < "$demo/project/photos.txt") photos, 8 jobs"

# 2. The array: every job is a real `htcjob run`, with the variables that the platform injects.
htcjob simulate --array-size 8 --project-store "$demo/project" --task-store "$demo/task" -- \
  --manifest photos.txt -- python -m reference_app.face_tagger

# 3. The answer, from the results in task storage.
echo
python -m reference_app.aggregate "$demo/task"
