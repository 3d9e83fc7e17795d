# Both images for both architectures, for a registry: TAG=0.2.0 docker buildx bake --file docker/bake.hcl --push
#
# BASE_IMAGE by digest gives the same images from the same commit.
variable "BASE_IMAGE" { default = "python:3.12-slim" }
variable "REPOSITORY" { default = "htcjob" }
variable "REVISION" { default = "" }
variable "TAG" { default = "latest" }

group "default" { targets = ["base", "face-tagger"] }

target "base" {
  dockerfile = "docker/base.Dockerfile"
  platforms = ["linux/amd64", "linux/arm64"]
  args = {
    BASE_IMAGE = BASE_IMAGE
    VERSION = TAG
    REVISION = REVISION
  }
  tags = ["${REPOSITORY}-base:${TAG}"]
}

target "face-tagger" {
  dockerfile = "docker/face-tagger.Dockerfile"
  platforms = ["linux/amd64", "linux/arm64"]
  contexts = { htcjob-base = "target:base" }
  tags = ["${REPOSITORY}-face-tagger:${TAG}"]
}
