#!/bin/sh
# Why a tool failed, for explain.sh CODE LIBRARY...: these tools call a full disk a syntax error, and a library that was cut
# off a want of memory, so what can be looked at is looked at. Prints what is certain, and exits with CODE.
code=$1
shift
{
    # A disk with no room for this has none for a tool either; what the tool wrote may be gone again by now.
    for dir in . "${TMPDIR:-/tmp}"; do
        head -c 262144 /dev/zero >"$dir/.probe" || echo "cannot write in $dir"
        rm -f "$dir/.probe"
    done
    for library; do
        "$(dirname "$0")/whole.sh" "$library"
    done
    # Limits that somebody set around the trial.
    limit() { ulimit "$1" 2>/dev/null | grep -v unlimited; }
    killed=$(case $code in 137 | 152) echo yes ;; esac)
    crashed=$(case $code in 134 | 139) echo yes ;; *) grep -sE 'return code 1(34|39)|bad_alloc' tool.log ;; esac)
    if [ -n "$killed" ] && seconds=$(limit -t); then echo "ended by its processor time limit of $seconds s"; fi
    # The usual stack is 8 MiB: less is somebody's wish.
    if [ -n "$crashed" ] && stack=$(limit -s) && [ "$stack" -lt 8192 ]; then
        echo "crashed within its stack limit of $stack KiB"
    elif [ -n "$crashed" ] && space=$(limit -v); then
        echo "crashed within its address space of $space KiB: out of memory"
    fi
} >&2
exit "$code"
