"""``python -m piton_study …`` is ``piton …``, of the program that the package uses."""

import os
import sys

from ._program import find

if __name__ == "__main__":
    program = find()
    os.execv(program, [program, *sys.argv[1:]])
