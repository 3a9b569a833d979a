"""Times other implementations of dense attention; run by the bench with -c, one argument for each problem.

Arguments: device index, samples, then GROUP:TOKENS:HEADS:DIM:BACKWARD for each problem. Prints lines of fields separated
by tabs: version NAME TEXT; case PROBLEM PEER SECONDS SPREAD SAMPLES; failure PROBLEM PEER TEXT.
"""

import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def say(*fields):
    print("\t".join(str(field).replace("\t", " ").replace("\n", " ") for field in fields), flush=True)


def torch_attention(backend):
    def run(q, k, v):
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            ).transpose(1, 2)

    return run


def flash3():
    import flash_attn_interface as flash

    say("version", "flash_attn_interface", getattr(flash, "__version__", "unknown"))

    def run(q, k, v):
        out = flash.flash_attn_func(q, k, v)
        return out[0] if isinstance(out, tuple) else out

    return run


def sage():
    import sageattention

    say("version", "sageattention", getattr(sageattention, "__version__", "unknown"))
    return lambda q, k, v: sageattention.sageattn(q, k, v, tensor_layout="NHD")


# What makes the call, the dtype that it takes, whether it has a backward.
PEERS = {
    "torch cudnn bf16": (lambda: torch_attention(SDPBackend.CUDNN_ATTENTION), torch.bfloat16, True),
    "torch flash bf16": (lambda: torch_attention(SDPBackend.FLASH_ATTENTION), torch.bfloat16, True),
    "flash3 bf16": (flash3, torch.bfloat16, True),
    "flash3 fp8": (flash3, torch.float8_e4m3fn, False),
    "sageattention 8-bit": (sage, torch.bfloat16, False),
}


def measure(run, device, samples):
    flush = torch.empty(2 * torch.cuda.get_device_properties(device).L2_cache_size, dtype=torch.uint8, device=device)
    times = []
    for sample in range(samples + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        flush.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        if sample >= 2:
            times.append(1e-3 * begin.elapsed_time(end))
    middle = statistics.median(times)
    return middle, (max(times) - min(times)) / middle


def time_one(peer, tokens, heads, dim, backward, device, samples):
    make, dtype, _ = peer
    run = make()
    torch.manual_seed(tokens)
    q, k, v = (
        torch.randn(1, tokens, heads, dim, device=device, dtype=torch.bfloat16).to(dtype).requires_grad_(backward)
        for _ in range(3)
    )
    if not backward:
        with torch.no_grad():
            return measure(lambda: run(q, k, v), device, samples)
    out = run(q, k, v)
    upstream = torch.randn_like(out)
    return measure(lambda: torch.autograd.grad(out, (q, k, v), upstream, retain_graph=True), device, samples)


def main(arguments):
    device, samples = torch.device("cuda", int(arguments[0])), int(arguments[1])
    torch.cuda.set_device(device)
    say("version", "torch", torch.__version__)
    say("version", "torch's CUDA", torch.version.cuda)
    say("version", "cuDNN", torch.backends.cudnn.version())
    for index, text in enumerate(arguments[2:]):
        _, tokens, heads, dim, backward = text.split(":")
        for name, peer in PEERS.items():
            if backward == "1" and not peer[2]:
                continue
            try:
                seconds, spread = time_one(
                    peer, int(tokens), int(heads), int(dim), backward == "1", device, samples
                )
                say("case", index, name, repr(seconds), repr(spread), samples)
            except Exception as error:  # a peer that is missing or refuses is a result
                say("failure", index, name, f"{type(error).__name__}: {error}")
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:])
