#!/bin/sh
# Makes layout-1-given.redb, anew, in the directory /dev/shm/given: sh layout-1-given.sh PITON. Trials have items of a pool, some twice.
set -eu
piton=$(realpath "$1") here=$(realpath "$(dirname "$0")")
export NO_COLOR=1
rm -rf /dev/shm/given; mkdir /dev/shm/given; cd /dev/shm/given

cat > study.toml <<'END'
[study]
name = "given"
[run]
workers = 1
[resources]
gpu = ["0", "1", "2"]
cpus = 2

[[stage]]
name = "b"
command = "echo kept > out"
outputs = ["out"]
needs = { gpu = 1 }
trial_budget = 1
survivor_count = 1

[[stage]]
name = "a"
command = 'echo "{{\"m\": {x}}}" > metrics.json; [ {x}{attempt} != 31 ]'
retries = { count = 1, delay = "0s" }
needs = { gpu = 2, cpus = 1 }
trial_budget = 12
survivor_count = 1
sweep = { x = [5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 10, 11] }
objective = [{ metric = "m", goal = "minimize" }]
END
"$piton" run study.toml
"$piton" compact study.redb
cp study.redb "$here/layout-1-given.redb"
"$piton" dump study.redb --format json --canonical > "$here/layout-1-given.canonical.json"
