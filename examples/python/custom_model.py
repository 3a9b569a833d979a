"""A video transformer of one's own that calls the operator: tokens of a (t, y, x) grid, a schedule, gradients, compiled."""

import torch

import fpsattention as fpsa


class Layer(torch.nn.Module):
    """Self-attention over a grid and an MLP, told its index and the step."""

    def __init__(self, width: int, heads: int, index: int, schedule: fpsa.Schedule) -> None:
        super().__init__()
        self.heads, self.index, self.schedule = heads, index, schedule
        self.norm, self.qkv, self.out = torch.nn.LayerNorm(width), torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.mlp = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, 2 * width), torch.nn.GELU(),
                                       torch.nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor, grid: tuple[int, int, int], step: int, steps: int) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [B,L,H,D], read in place
        attended = fpsa.attention(q, k, v, grid=grid, schedule=self.schedule, step=step, steps=steps, layer=self.index,
                                  layout="BLHD")
        x = x + self.out(attended.flatten(2))
        return x + self.mlp(x)


class Model(torch.nn.Module):
    def __init__(self, schedule: fpsa.Schedule, width: int = 64, heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(width, heads, i, schedule) for i in range(layers)])

    def forward(self, x: torch.Tensor, grid: tuple[int, int, int], step: int, steps: int) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, grid, step, steps)
        return x


def main() -> list[float]:
    """Fits random targets at alternating steps; returns the losses."""
    torch.manual_seed(0)
    grid, tile, steps = (4, 6, 10), (2, 4, 4), 10
    schedule = fpsa.Schedule([fpsa.Phase(0.5, tile, (1, 2, 2), "e4m3"), fpsa.Phase(1.0, tile, "all", "none")], tile=tile,
                             overrides=[fpsa.Override(layers=[0], window="all")])
    schedule.check_for(grid=grid, layers=2, heads=2)
    model = Model(schedule)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, target = torch.randn(2, 240, 64), torch.randn(2, 240, 64)
    losses = []
    for i in range(12):
        loss = (model(x, grid, i % steps, steps) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        print("compiled differs by", (compiled(x, grid, 0, steps) - model(x, grid, 0, steps)).abs().max().item())
    return losses


if __name__ == "__main__":
    main()
