#!/bin/sh
# build.sh now|base FLAGS: compiles work.c or base.c of the study's folder to `program`.
set -eu
case $1 in
    now) source=work.c ;;
    base) source=base.c ;;
    *)
        echo "build.sh: \`$1\` is neither \`now\` nor \`base\`" >&2
        exit 2
        ;;
esac
counting=
if [ "${METER:-}" = blocks ]; then counting="-fsanitize-coverage=trace-pc $PITON_STUDY_DIR/blocks.c"; fi
# shellcheck disable=SC2086 # They are several words.
cc $2 $counting -o program "$PITON_STUDY_DIR/$source"
