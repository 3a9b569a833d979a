"""The random weights and clips that LPIPS is tested with, and what the package lpips says of them.

    python tests/oracle/lpips_case.py

prints the distances anew. It needs lpips 0.1.4 and torchvision 0.28, which the tests do not: torchvision from PyPI is
built for CUDA, and beside a CPU build of torch it breaks the imports of other packages.
"""

import numpy
import torch

SHAPES = {"net.slice1.0": (64, 3, 11, 11), "net.slice2.3": (192, 64, 5, 5), "net.slice3.6": (384, 192, 3, 3),
          "net.slice4.8": (256, 384, 3, 3), "net.slice5.10": (256, 256, 3, 3)}
CLIPS = [(9, 64, 96), (1, 31, 31), (2, 75, 41)]
DISTANCES = [0.1518779993057251, 0.13867416977882385, 0.143534317612648]  # as printed by the package


def weights():
    """The state of lpips.LPIPS(net="alex") with weights that keep the features' size from layer to layer."""
    random = numpy.random.default_rng(2)

    def uniform(shape, low, high):
        return torch.from_numpy(random.uniform(low, high, shape).astype(numpy.float32))

    state = {"scaling_layer.shift": torch.tensor([-.030, -.088, -.188]).view(1, 3, 1, 1),
             "scaling_layer.scale": torch.tensor([.458, .448, .450]).view(1, 3, 1, 1)}
    for i, (name, shape) in enumerate(SHAPES.items()):
        bound = (6 / numpy.prod(shape[1:])) ** 0.5
        state[f"{name}.weight"] = uniform(shape, -bound, bound)
        state[f"{name}.bias"] = uniform(shape[:1], -0.1, 0.1)
        state[f"lin{i}.model.1.weight"] = state[f"lins.{i}.model.1.weight"] = uniform((1, shape[0], 1, 1), 0, 1)
    return {name: tensor.clone() for name, tensor in state.items()}


def clips(frames, height, width):
    """Two clips [frames, height, width, 3], uint8."""
    random = numpy.random.default_rng(3)
    a = random.integers(0, 256, (frames, height, width, 3), dtype=numpy.uint8)
    b = numpy.clip(a.astype(int) + random.integers(-60, 61, a.shape), 0, 255).astype(numpy.uint8)
    return a, b


def distances_of_the_package():
    # Only AlexNet is wanted of torchvision; the registration of operators that it cannot bring along is left out.
    register = torch.library.register_fake
    torch.library.register_fake = lambda name, *rest, **named: (
        (lambda function: function) if str(name).startswith("torchvision::") else register(name, *rest, **named))
    import lpips
    torch.library.register_fake = register
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    network.load_state_dict(weights())
    out = []
    for shape in CLIPS:
        a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in clips(*shape))
        with torch.no_grad():
            out.append(network(a, b).mean().item())
    return out


if __name__ == "__main__":
    print(distances_of_the_package())
