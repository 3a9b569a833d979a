"""Prints the demo's table from the perf records that `fpsa generate` wrote. Usage: demo_table.py OUT_FOLDER"""

import json
import pathlib
import sys


def main():
    out = pathlib.Path(sys.argv[1])
    dense, fps = (json.loads((out / f"demo_{name}.json").read_text()) for name in ("dense", "fps"))
    difference = json.loads((out / "demo_compare.json").read_text())

    rows = [("", "dense", "FPSAttention")]

    def row(label, read):
        rows.append((label, read(dense), read(fps)))

    row("seconds per step", lambda r: f"{r['seconds_per_step']:.3f}")
    row("attention, s in all", lambda r: f"{r['attention']['seconds']:.2f}")
    row("attention share", lambda r: f"{100 * r['attention']['share_of_denoising']:.0f}%")
    row("mean density", lambda r: f"{100 * r['attention']['mean_density']:.0f}%")
    row("kernel", lambda r: ", ".join(r["attention"]["kernels"]))

    widths = [max(len(r[i]) for r in rows) for i in range(3)]
    print()
    for r in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(r, widths)).rstrip())
    psnr = difference["psnr_db"]
    print(f"\n  PSNR between the two: {'identical' if psnr is None else f'{psnr:.1f} dB'}, SSIM {difference['ssim']:.3f}")
    ratio = dense["attention"]["seconds"] / fps["attention"]["seconds"]
    print(f"  attention {ratio:.2f}x, denoising {dense['seconds_per_step'] / fps['seconds_per_step']:.2f}x as fast as dense")
    print(f"  watch {out}/demo.mp4 (FPSAttention) and {out}/demo_dense.mp4; side by side in {out}/demo.png")


if __name__ == "__main__":
    main()
