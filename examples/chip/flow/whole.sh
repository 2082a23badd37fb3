#!/bin/sh
# Whether a library is there and whole: whole.sh FILE. One that was cut off makes yosys crash as if memory were short, or hang.
if ! [ -r "$1" ]; then
    echo "cannot open $1" >&2
    exit 3
fi
awk '{ open += gsub(/{/, ""); open -= gsub(/}/, "") } END { exit open != 0 }' "$1" || {
    echo "$1 is cut off" >&2
    exit 3
}
