"""
The reference workload: an OpenCV face tagger, and the job form of the platform's tutorial.

It knows images and paths, and never imports `htcjob`: the two meet only at the process boundary, in
environment variables, arguments and exit statuses.

    face_tagger  one image -> face boxes, tagged picture and count; the command line
    images       bytes -> picture, or one sentence that says why not
    tutorial     the tutorial's variables -> one `htcjob run` command
    aggregate    the results of a run -> the image with the most faces
    synthetic    a small set of photos with known faces, where real ones are absent
    opencv, console, show_env    what these share
"""
