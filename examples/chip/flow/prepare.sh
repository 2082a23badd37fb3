#!/bin/sh
# Once, before anything else: prepare.sh FILE... unpacks the libraries into lib/, since yosys reads plain text only.
set -eu
mkdir -p "$PITON_STUDY_DIR/lib"
for file; do
    # As everything in a study file, relative to it.
    case $file in /*) ;; *) file=$PITON_STUDY_DIR/$file ;; esac
    name=$(basename "$file" .gz)
    # A library that was cut off would crash yosys in a way that looks like want of memory.
    case $file in *.gz) gzip -dc "$file" >"$name" ;; *) cat "$file" >"$name" ;; esac
    awk '{ open += gsub(/{/, ""); open -= gsub(/}/, "") } END { exit open != 0 }' "$name" || {
        echo "$file is cut off" >&2
        exit 3
    }
    mv "$name" "$PITON_STUDY_DIR/lib/$name"
done
