"""An interpreter that has loaded much and done nothing, for the tests; `conftest.py` starts it.

Each line that comes in is a call: a test file, the name of a function in it, further arguments and
a file for what is printed. A copy of this process (a fork) makes the call, and its exit status is
the answer. The libraries are loaded once, which takes seconds, instead of once for each call.
"""

import json
import os
import runpy
import sys
import traceback

import pytest  # noqa: F401
import torch
import torch.distributed.run

import experiments.pretrain.__main__  # noqa: F401


def call(file, function, arguments, printed):
    """Make the call, here, and end."""
    with open(printed, "w") as target:  # noqa: PTH123
        os.dup2(target.fileno(), 1)
        os.dup2(target.fileno(), 2)
    code = 1
    try:
        runpy.run_path(file)[function](*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            call(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
