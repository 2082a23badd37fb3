#!/bin/sh
# Makes layout-1-replicas.redb, anew, in the directory /dev/shm/replicas: sh layout-1-replicas.sh PITON. Cases run twice, then three times.
set -eu
piton=$(realpath "$1") here=$(realpath "$(dirname "$0")")
export NO_COLOR=1
rm -rf /dev/shm/replicas; mkdir /dev/shm/replicas; cd /dev/shm/replicas

study() { # REPEATS BUDGET
    cat > study.toml <<END
[study]
name = "replicas"
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
command = 'echo "{{\"m\": \$(( {x} * 10 + {replica} * {replica} ))}}" > metrics.json; [ {x}{replica} != 31 ]'
repeats = $1
trial_budget = $2
survivor_count = 1
sweep = { x = [2, 1, 3] }
objective = [{ metric = "m", goal = "minimize" }]
END
}

study 2 6
"$piton" run study.toml
study 3 9
"$piton" amend study.redb study.toml --yes
"$piton" run study.toml
"$piton" compact study.redb
cp study.redb "$here/layout-1-replicas.redb"
"$piton" dump study.redb --format json --canonical > "$here/layout-1-replicas.canonical.json"
