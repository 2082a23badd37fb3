#!/bin/sh
# Once, before anything else: prepare.sh FILE... unpacks the libraries into lib/, since yosys reads plain text only.
set -eu
mkdir -p "$PITON_STUDY_DIR/lib"
for file; do
    # As everything in a study file, relative to it.
    case $file in /*) ;; *) file=$PITON_STUDY_DIR/$file ;; esac
    name=$(basename "$file" .gz)
    case $file in *.gz) gzip -dc "$file" >"$name" ;; *) cat "$file" >"$name" ;; esac
    "$PITON_STUDY_DIR/flow/whole.sh" "$name"
    mv "$name" "$PITON_STUDY_DIR/lib/$name"
done
