#!/bin/sh
# Makes layout-1-raced.redb, anew, in the directory /dev/shm/raced: sh layout-1-raced.sh PITON. A race: of four cases one leaves, one fails, and it may go on for longer later.
set -eu
piton=$(realpath "$1") here=$(realpath "$(dirname "$0")")
export NO_COLOR=1
rm -rf /dev/shm/raced; mkdir /dev/shm/raced; cd /dev/shm/raced

study() { # MAX
    cat > study.toml <<END
[study]
name = "raced"
[run]
workers = 1

[[stage]]
name = "first"
command = "echo kept > out"
outputs = ["out"]
trial_budget = 1
survivor_count = 1

[[stage]]
name = "a"
command = 'echo "{{\"m\": \$(( ({x} + 2) % 3 * 10 + {replica} ))}}" > metrics.json; [ {x}{replica} != 21 ]'
race = { min = 2, max = $1, confidence = 0.7 }
trial_budget = $(( $1 * 4 ))
survivor_count = 1
sweep = { x = [2, 1, 3, 4] }
objective = [{ metric = "m", goal = "minimize" }]
END
}

study 4
"$piton" run study.toml
study 5
"$piton" amend study.redb study.toml --yes
"$piton" run study.toml
"$piton" compact study.redb
cp study.redb "$here/layout-1-raced.redb"
"$piton" dump study.redb --format json --canonical > "$here/layout-1-raced.canonical.json"
