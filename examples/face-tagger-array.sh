#!/bin/sh
# The tutorial on one machine: an array of 8 jobs finds the faces in a folder of photos.
#
#   examples/face-tagger-array.sh [PHOTOS [DIRECTORY]]
#
# PHOTOS: a folder of JPEG, PNG, WebP or BMP files; without it, photos are drawn.
# DIRECTORY: where project and task storage are made anew; default: demo.
set -eu

photos=${1:-}
demo=${2:-demo}

refuse() {
  echo "face-tagger-array: error: $1" >&2
  exit 64
}
# What is removed below must be ours, and must not hold the photos.
[ ! -e "$demo" ] || [ -e "$demo/made-by-face-tagger-array" ] || refuse "$demo exists: name another directory"
mkdir -p "$demo"
if [ -n "$photos" ]; then
  [ -d "$photos" ] || refuse "there is no folder $photos"
  case "$(cd "$photos" && pwd -P)/" in "$(cd "$demo" && pwd -P)"/*) refuse "$photos lies in $demo" ;; esac
  case "$(cd "$demo" && pwd -P)/" in "$(cd "$photos" && pwd -P)"/*) refuse "$demo lies in $photos" ;; esac
fi
touch "$demo/made-by-face-tagger-array"
rm -rf "$demo/project" "$demo/task"
mkdir "$demo/project"

# 1. Project storage: the inputs, and a manifest that lists them, one per line.
if [ -n "$photos" ]; then
  cp -r "$photos/." "$demo/project/"
else
  python -m reference_app.synthetic "$demo/project"
fi
(
  cd "$demo/project"
  find . -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.webp' -o -iname '*.bmp' \) |
    sed 's|^\./||' | LC_ALL=C sort > photos.txt
)
[ -s "$demo/project/photos.txt" ] || refuse "no photos in $photos"
echo "photos: $(wc -l < "$demo/project/photos.txt"), jobs: 8"

# 2. The array: every job is a real `htcjob run`, with the variables that the platform injects.
htcjob simulate --array-size 8 --project-store "$demo/project" --task-store "$demo/task" -- \
  --manifest photos.txt -- python -m reference_app.face_tagger

# 3. The answer, from the results in task storage.
echo
python -m reference_app.aggregate "$demo/task"
