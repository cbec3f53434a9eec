#!/bin/sh
# Last step of an image's build, run by root in the image.
set -eu
# BentoML makes them when it starts, and then cannot where the root file system is read-only
mkdir -p "$BENTOML_HOME/bentos" "$BENTOML_HOME/models" "$BENTOML_HOME/envs" "$BENTOML_HOME/tmp"
