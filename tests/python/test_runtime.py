"""What a process may do to the operator: call it a thousand times, from threads, in forked children."""

import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

import fpsattention as fpsa
from reference import GRID, TILE, TOKENS, tensors

SLIDING = fpsa.SlidingTile((1, 2, 2), TILE)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def resident_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.parametrize("what", ["inference", "training", "mask", "new schedules", "errors"])
def test_memory_does_not_grow_over_a_thousand_calls(what):
    inputs = tensors(1, 2, TOKENS, 32, requires_grad=what == "training")
    matrix = torch.rand(12, 12) < 0.5

    def call(i):
        if what == "new schedules":
            schedule = fpsa.Schedule([fpsa.Phase(1.0, TILE, (1, 2, 2), "none")], tile=TILE, shift=1 + i / 1000)
            fpsa.attention(*inputs, grid=GRID, schedule=schedule)
        elif what == "mask":
            fpsa.attention(*inputs, grid=GRID, pattern=fpsa.BlockMask.from_matrix(matrix, tile=TILE), quant="e4m3")
        elif what == "errors":
            with pytest.raises(ValueError):
                fpsa.attention(*inputs, grid=(1, 1, 1), pattern=SLIDING)
        else:
            out = fpsa.attention(*inputs, grid=GRID, pattern=SLIDING, quant="e4m3")
            if what == "training":
                torch.autograd.grad(out.sum(), inputs)

    for i in range(200):  # allocators and caches fill up
        call(i)
    gc.collect()
    before = resident_kib()
    for i in range(1000):
        call(200 + i)
    gc.collect()
    # One leaked output (60 KiB) in ten calls would show as 6 MiB.
    assert resident_kib() - before < 4096


def test_threads_get_the_bits_of_one_thread():
    cases = [(tensors(1, 2, TOKENS, 32), quant) for quant in ("none", "e4m3", "int8") for _ in range(4)]

    def one(case):
        (q, k, v), quant = case
        return fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING, quant=quant)

    expected = [one(case) for case in cases]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for out, wanted in zip(pool.map(one, cases), expected):
                assert torch.equal(out, wanted)


@pytest.mark.alone
def test_other_threads_run_while_attention_computes():
    q, k, v = tensors(1, 8, 3000, 64)
    fpsa.attention(q, k, v)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    for _ in range(3):
        fpsa.attention(q, k, v)
    end = time.perf_counter()
    done.set()
    thread.join()
    during = [t for t in ticks if begin < t < end]
    # Held for a whole call, the interpreter would let the other thread in about once for each of the three calls.
    assert len(during) >= 20, f"{len(during)} ticks in {end - begin:.3f} s"


def in_child(function):
    """Runs function in a forked child; returns its exit status, or None when it did not end in 60 s."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


def test_forked_children_compute_the_same_bits_after_the_parent_used_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, threads))
    try:
        q, k, v = tensors(1, 4, TOKENS, 32, requires_grad=True)

        def everything():
            out = fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING, quant="e4m3")
            return [out, *torch.autograd.grad(out.sum(), [q, k, v])]

        expected = everything()

        def child():
            assert fpsa._native.is_forked()
            with torch.no_grad():
                out = fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING, quant="e4m3")
            # The engine of autograd does not outlive fork() either (a rule of torch), so the operator itself is called.
            parts = torch.ops.fpsa.scheduled_attention(q.detach(), k.detach(), v.detach(), schedule=SLIDING._text("e4m3", None),
                                                       grid=GRID, heads_first=True, save=True)
            grads = torch.ops.fpsa.scheduled_attention_backward(
                torch.ones_like(q), q.detach(), k.detach(), v.detach(), parts[3], parts[1], parts[2],
                schedule=SLIDING._text("e4m3", None), grid=GRID, heads_first=True)
            for one, other in zip([out, *grads], expected):
                assert torch.equal(one, other)

        assert not fpsa._native.is_forked()
        assert in_child(child) == 0
    finally:
        torch.set_num_threads(threads)


def test_children_forked_while_threads_compute_do_not_hang():
    stop = threading.Event()
    q, k, v = tensors(1, 2, TOKENS, 32)

    def busy(seed):
        i = 0
        while not stop.is_set():
            schedule = fpsa.Schedule([fpsa.Phase(1.0, TILE, (1, 2, 2), "none")], tile=TILE, shift=1 + seed + i / 7)
            fpsa.attention(q, k, v, grid=GRID, schedule=schedule)
            i += 1

    threads = [threading.Thread(target=busy, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        statuses = [in_child(lambda: fpsa.attention(q, k, v, grid=GRID, pattern=SLIDING)) for _ in range(10)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 10


def python(environment, code, **options):
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, **options)


def test_import_takes_less_than_a_second_after_torch_and_loads_no_compiler_or_model_library(environment):
    # The processor's seconds: other programs may hold it for any time.
    done = python(environment, "import time, torch; b = time.process_time(); import fpsattention, sys; "
                               "print(time.process_time() - b, [m for m in ('diffusers', 'torch._dynamo', 'torch._inductor') "
                               "if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    seconds, loaded = done.stdout.split(maxsplit=1)
    assert loaded.strip() == "[]" and float(seconds) < 1


def test_python_dash_m_prints_versions_isa_devices_and_passes_its_check(environment):
    done = subprocess.run([sys.executable, "-m", "fpsattention"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (fpsa.__version__, torch.__version__, "avx2", "device cpu: supported", "self-check passed"):
        assert words in done.stdout
    assert done.stdout.count("ok  ") == 6


def test_the_self_check_fails_where_attention_is_wrong(monkeypatch):
    import fpsattention.__main__ as main
    right = fpsa.attention
    monkeypatch.setattr(fpsa, "attention", lambda q, *rest, **more: right(q * 1.5, *rest, **more))
    assert main.main([]) == 1


def test_the_instruction_set_can_be_limited_and_unknown_ones_are_refused():
    q, k, v = tensors(1, 2, TOKENS, 32)
    expected = fpsa.attention(q, k, v)
    try:
        fpsa.set_isa("reference")
        assert all(name.endswith("reference") for name in fpsa.selected_kernels())
        torch.testing.assert_close(fpsa.attention(q, k, v), expected)
        with pytest.raises(ValueError, match="mmx"):
            fpsa.set_isa("mmx")
    finally:
        fpsa.set_isa("auto")
    done = python(dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), FPSA_ISA="mmx"),
                  "import torch, fpsattention as f\ntry: f.attention(*[torch.zeros(1, 1, 8, 8)] * 3)\nexcept ValueError as e: print(e)")
    assert "FPSA_ISA" in done.stdout and "mmx" in done.stdout, done.stderr


def test_another_release_of_torch_is_refused_with_a_remedy(environment):
    done = python(environment, "import torch\ntorch.__version__ = '2.9.1'\nimport fpsattention")
    assert done.returncode != 0 and "was built for torch" in done.stderr and "pip install" in done.stderr


def test_devices_say_what_the_build_holds_where_there_is_no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = fpsa.devices()
    assert list(said) == ["cpu", "cuda"]
    built = fpsa._native.cuda_kernels_built()
    assert said["cuda"].startswith("no card that torch sees; ")
    assert said["cuda"].endswith("compute capability 9.0 (H100, H200, H20)" if built else "not in this build")
    monkeypatch.setattr(fpsa._native, "cuda_kernels_built", lambda: not built)
    assert fpsa.devices()["cuda"] != said["cuda"]


def test_devices_say_of_each_card_whether_the_kernels_run_there(monkeypatch):
    cards = {0: ("NVIDIA H200", ""), 1: ("NVIDIA A100", "the kernels run on compute capability 9.0 only, this has 8.0")}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: cards[index][0])
    # Without a card the real answer is why not, whatever torch is made to say.
    if not fpsa._native.cuda_kernels_built():
        assert "not supported: the CUDA kernels are not in this build" in fpsa.devices()["cuda:1"]
    monkeypatch.setattr(fpsa._native, "cuda_refusal", lambda index: cards[index][1])
    said = fpsa.devices()
    assert said["cuda:0"] == "NVIDIA H200: supported, sm90a"
    assert said["cuda:1"] == "NVIDIA A100: not supported: " + cards[1][1]


def test_the_command_prints_what_devices_say(environment):
    printed = subprocess.run([sys.executable, "-m", "fpsattention", "--no-check"], env=environment, text=True,
                             capture_output=True, check=True).stdout
    for device, state in fpsa.devices().items():
        assert f"device {device}: {state}\n" in printed
