"""Two Gloo processes of torch alone train with DDP, wait for every collective, and end. How do they end?

    python tests/python/gloo_exit.py [PAIRS]

A thread of Gloo (pt_gloo_runloop) lets go of a finished collective after it has told the waiting thread so. If a tensor of
it was Python's, that takes the interpreter's lock. Once the interpreter ends, CPython 3.11 answers by ending the thread,
which unwinds through a destructor: "terminate called without an active exception", SIGABRT. Backtrace, torch 2.13.0:
take_gil > PyThread_exit_thread > pthread_exit > std::terminate, called by ConcretePyInterpreterVTable::decref,
~AsyncAllgatherWork, ProcessGroupGloo::runLoop. The same is reported as issue 190489 of pytorch/pytorch.

destroy_process_group() ends those threads only if nothing holds the group any more; a model under DDP does. So "held" aborts
now and then (of 12 processes 1, with what follows done to the order of threads), and "released" leaves no thread to abort.
"""

import collections
import contextlib
import gc
import os
import socket
import sys
import time

import torch
import torch.distributed as dist


class Slow:
    """Takes a moment to go, as large models do, and lets other threads run meanwhile."""

    def __del__(self, sleep=time.sleep):
        sleep(1)


def train_and_end(rank, variant):
    global model, slow  # what a script leaves to the interpreter's end
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    model(torch.randn(4, 4)).square().mean().backward()
    # From here on nothing but the order in which threads get to run is changed: the others wait until this one is done.
    threads = [int(tid) for tid in os.listdir("/proc/self/task") if int(tid) != os.getpid()]
    for tid in [os.getpid(), *threads]:
        os.sched_setaffinity(tid, {min(os.sched_getaffinity(tid))})
    for tid in threads:
        os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))
    sys.setswitchinterval(100)
    slow = Slow()
    dist.all_gather([torch.zeros(1), torch.zeros(1)], torch.full((1,), float(rank)))
    if variant == "released":
        del model
        gc.collect()
    dist.destroy_process_group()
    for tid in threads:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(tid, os.SCHED_OTHER, os.sched_param(0))
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass


def main(pairs):
    for variant in ("held", "released"):
        ends = collections.Counter()
        for _ in range(pairs):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            children = []
            for rank in range(2):
                pid = os.fork()
                if pid == 0:
                    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
                    train_and_end(rank, variant)
                    return
                children.append(pid)
            for pid in children:
                ends[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
        print(variant, {("ended well" if code == 0 else f"ended by {code}"): count for code, count in ends.items()}, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
