#!/bin/sh
# Makes layout-1-ended.redb, anew, in the directory /dev/shm/ended: sh layout-1-ended.sh PITON. A stage ends early, and lets a case explore; what
# ended beyond is outside.
set -eu
piton=$(realpath "$1") here=$(realpath "$(dirname "$0")")
export NO_COLOR=1
rm -rf /dev/shm/ended; mkdir /dev/shm/ended; cd /dev/shm/ended

cat > study.toml <<'END'
[study]
name = "ended"
[run]
workers = 2

[[stage]]
name = "a"
command = '[ {x} != 5 ] || until [ -e {study_dir}/go ]; do sleep 0.1; done; [ {x} != 3 ] || touch {study_dir}/go; echo kept > out; echo "{{\"m\": {x}}}" > metrics.json'
trial_budget = 9
survivor_count = 2
outputs = ["out"]
explore = 1
sweep = { x = [5, 4, 6, 7, 3, 8, 9, 10, 11] }
objective = [{ metric = "m", goal = "minimize" }]
rails = { improve_within = 2 }

[[stage]]
name = "b"
command = "true"
trial_budget = 3
survivor_count = 1
END
"$piton" run study.toml
"$piton" compact study.redb
cp study.redb "$here/layout-1-ended.redb"
"$piton" dump study.redb --format json --canonical > "$here/layout-1-ended.canonical.json"
