"""One of two connected processes that stand by for the tests; `conftest.py` starts them.

Each line that comes in is a call: a test file, the name of a function in it, further arguments and
a file for the answer. The function is called with the fabric first; "done" follows when its answer
is written. A call that fails ends the process, and its error tells why.
"""

import json
import runpy
import sys
from functools import cache

import torch
from lightning_fabric import Fabric


def main():
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    names_of = cache(runpy.run_path)
    for line in sys.stdin:
        file, function, arguments, answer = json.loads(line)
        torch.save(names_of(file)[function](fabric, *arguments), answer)
        print("done", flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
