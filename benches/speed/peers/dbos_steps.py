"""DBOS with SQLite: one workflow, every trial a durable step that runs /bin/true."""
import subprocess
import sys

from dbos import DBOS

count = int(sys.argv[1])
DBOS(config={"name": "bench", "system_database_url": "sqlite:///dbos.sqlite", "log_level": "ERROR", "run_admin_server": False})


@DBOS.step()
def trial(number):
    with open(f"{number}.out", "wb") as out, open(f"{number}.err", "wb") as err:
        return subprocess.run(["/bin/true"], stdout=out, stderr=err, check=True).returncode


@DBOS.workflow()
def sweep():
    return sum(trial(number) for number in range(count))


DBOS.launch()
assert sweep() == 0
DBOS.destroy()
