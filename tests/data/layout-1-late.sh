#!/bin/sh
# Makes layout-1-late.redb, anew, in the directory /dev/shm/late: sh layout-1-late.sh PITON. What it does is said in README.md.
set -eu
piton=$(realpath "$1") here=$(realpath "$(dirname "$0")")
export PITON_PROGRAM="$piton" NO_COLOR=1
rm -rf /dev/shm/late; mkdir /dev/shm/late; cd /dev/shm/late

expect() { # CODE COMMAND…
    wanted=$1; shift
    got=0; "$piton" "$@" || got=$?
    [ "$got" = "$wanted" ] || { echo "piton $*: $got instead of $wanted"; exit 1; }
}

study() { # VALUES SCALE [LINE OF RUN]
    cat > study.toml <<END
[study]
name   = "late"
inputs = ["lib", "ask.py"]
[run]
workers = 1
${3-}
[base]
command = "true"

[[stage]]
name = "a"
command = '''
. "\$PITON_STUDY_DIR/lib/value.sh"
echo "value \$(value {x})\$(cat "\$PITON_STUDY_DIR/hidden")" > out
[ {x} != 1 ] || [ -e "\$PITON_STUDY_DIR/mended" ]'''
approve = true
reuse = true
outputs = ["out"]
trial_budget = 6
survivor_count = 2
sweep = { x = [$1] }
metrics = { m = { file = "out", regex = 'value ([0-9]+)', scale = $2 } }
objective = [{ metric = "m", goal = "minimize" }]

[[stage]]
name = "b"
command = 'cat {parent_dir}/out; echo "{{\"m\": {y}}}" > metrics.json'
keep = { others = "logs" }
trial_budget = 4
survivor_count = 2
sweep = { y = [1, 2] }
objective = [{ metric = "m", goal = "minimize" }]

[[stage]]
name = "w"
command = '''
"\$PITON_PROGRAM" progress 1 loss={z}
"\$PITON_PROGRAM" progress 2 loss={z}
echo "{{\"loss\": {z}}}" > metrics.json'''
trial_budget = 8
survivor_count = 1
sweep = { z = [1, 7, 90, 8] }
halving = { rungs = [2], eta = 2, keep = 1 }
stop_if = [{ metric = "loss", above = 50 }]
objective = [{ metric = "loss", goal = "minimize" }]

[[stage]]
name = "s"
approve = true
command = 'echo "{{\"m\": {z}}}" > metrics.json'
sampling = { ask = ["python3", "ask.py"] }
trial_budget = 3
survivor_count = 1
sweep = { z = { min = 0.0, max = 9.0 } }
objective = [{ metric = "m", goal = "minimize" }]
END
}

finish() {
    code=8
    while [ $code = 8 ]; do
        code=0; "$piton" run study.toml || code=$?
        [ $code != 8 ] || expect 0 approve study.redb --by ada
    done
    [ $code = 0 ]
}

cp "$here/layout-1.ask.py" ask.py
mkdir -p lib made/1
touch hidden
# shellcheck disable=SC2016
echo 'value() { echo "$1"; }' > lib/value.sh
study "1, 2, 3, 4, 5" 1
# A store whose events are lost is salvaged, and goes on: rebuilt.
echo "value 500" > made/1/out
printf 'x,m\n5,500\n' > made.csv
expect 8 run study.toml
expect 0 approve study.redb --by ada
expect 0 import study.redb made.csv --stage a --outputs made --by ada --yes
python3 - "$piton" <<'END'
import subprocess, sys
whole = open("study.redb", "rb").read()
for at in range(4096, len(whole), 4096):
    if not any(whole[at:at + 4096]):
        continue
    broken = bytearray(whole)
    broken[at:at + 4096] = bytes(4096)
    open("broken.redb", "wb").write(broken)
    subprocess.run("rm -f saved.redb", shell=True)
    salvaged = subprocess.run([sys.argv[1], "salvage", "broken.redb", "-o", "saved.redb"], capture_output=True)
    events = subprocess.run([sys.argv[1], "dump", "saved.redb", "--events"], capture_output=True, text=True)
    if salvaged.returncode == 0 and "rebuilt" in events.stdout:
        sys.exit(0)
sys.exit("no page is lost that matters")
END
mv saved.redb study.redb; rm broken.redb
# Results from elsewhere for a proposer, rungs, rules, a discard by `keep`.
printf 'z,m\n4.5,4.5\n' > told.csv
expect 0 import study.redb told.csv --stage s --by ada --yes
finish
# What is there is read by another rule.
study "1, 2, 3, 4, 5" 10
expect 0 amend study.redb study.toml --yes
# A closed stage is mended, and others survive.
touch mended
expect 0 retry study.redb late_0_0 --discard-children
finish
# A discard by hand; an input whose change makes no difference; a grid that grows and takes what is there.
expect 0 gc study.redb --keep others=logs
echo '# Only words.' >> lib/value.sh
expect 0 amend study.redb study.toml --yes --accept-inputs --by ada --note 'only words'
study "1, 2, 3, 4, 5, 6" 10
sed -i 's/^keep = /approve = true\n&/' study.toml
expect 0 amend study.redb study.toml --yes --discard-from a
expect 8 run study.toml
expect 0 approve study.redb --by ada
expect 8 run study.toml
# A first stage that is planned anew, with what its base command saw, and depends on more than its identity.
sed -i 's/x = \[.*\]/x = [7, 2, 1, 3, 4]/; s/^workers = 1/workers = 1\nreuse_check = 1.0/' study.toml
echo 0 > hidden
expect 0 amend study.redb study.toml --yes
finish
expect 0 compact study.redb

install -m 644 study.redb "$here/layout-1-late.redb"
"$piton" dump study.redb --format json --canonical > "$here/layout-1-late.canonical.json"
"$piton" dump study.redb --events --format jsonl | python3 -c 'import sys,json,collections; print(collections.Counter(json.loads(l)["type"] for l in sys.stdin))'
