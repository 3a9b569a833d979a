"""What no emulation can see: the registers that nvcc gave a kernel, read from its machine code.

    sass_registers.py FILE [--producer 24] [--consumer 240]

FILE is the output of `nvdisasm -c`. In every kernel of it
  * code that follows setmaxnreg uses no register beyond what was asked for;
  * between a matrix product and the wait for it, nothing touches its accumulators or its A registers. A product belongs
    to the group that the next `gsb0` closes, and `DEPBAR.LE gsb0, n` waits for all groups but the last n.
The same code without its waits must show such accesses, else this test could not fail. Prints each fault; exit 1 if any.
"""

import argparse
import re
import sys

PRODUCT = re.compile(
    r"[QHI]GMMA\.64x(?P<n>\d+)x\d+\S* R(?P<d>\d+), (?:R(?P<a>\d+)|gdesc\[\w+\])(?:\.tnspA)?"
)
REGISTER = re.compile(r"\bR(\d+)(\.64)?\b")
LABEL = re.compile(r"`\((\.L_x_\w+)\)")


def kernels(text):
    """Name, instructions and the index that each label stands for, of every kernel."""
    for part in re.split(r"\n\.text\.", text)[1:]:
        code, labels = [], {}
        for line in part.split("\n"):
            if label := re.match(r"\s*(\.L_x_\w+):", line):
                labels[label.group(1)] = len(code)
            if found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
                code.append(re.sub(r"\s+", " ", found.group(1)).strip())
        yield part.split(":")[0], code, labels


def following(code, labels, at):
    """Indices of the instructions that may come next."""
    body = re.sub(r"^@!?U?P\w+ ", "", code[at])
    label, operation = LABEL.search(body), body.split(" ")[0]
    if operation.startswith(("EXIT", "RET")):
        return [at + 1] if body != code[at] else []
    if operation.startswith("BRA"):
        conditional = body != code[at] or "DIV" in operation or re.match(r"BRA\S* !?U?P", body)
        return ([labels[label.group(1)]] if label else []) + ([at + 1] if conditional else [])
    calls = label and operation.startswith(("WARPSYNC", "CALL"))
    return ([labels[label.group(1)]] if calls else []) + [at + 1]


def reach(code, labels, start):
    seen, left = set(), [start]
    while left:
        at = left.pop()
        if at < len(code) and at not in seen:
            seen.add(at)
            left += following(code, labels, at)
    return seen


def highest_register(instruction):
    return max((int(n) + bool(wide) for n, wide in REGISTER.findall(instruction)), default=-1)


def early_accesses(code, labels, start):
    """Instructions that touch registers of products under way, on any path from `start`."""
    found, seen, left = set(), set(), [(start, (), frozenset())]
    while left:
        state = left.pop()
        at, groups, unclosed = state
        if at >= len(code) or state in seen:
            continue
        seen.add(state)
        if product := PRODUCT.search(code[at]):
            used = set(range(int(product["d"]), int(product["d"]) + int(product["n"]) // 2))
            if product["a"]:
                used |= set(range(int(product["a"]), int(product["a"]) + 4))
            unclosed |= used
            if "gsb0" in code[at]:
                groups, unclosed = groups + (unclosed,), frozenset()
                if len(groups) > 4:  # without waits there would be a state for every path; this finds no less
                    groups = (groups[0] | groups[1],) + groups[2:]
        elif wait := re.search(r"DEPBAR\.LE gsb0, 0x(\w+)", code[at]):
            keep = int(wait.group(1), 16)
            groups = groups[-keep:] if keep else ()
        else:
            touched = {int(n) + i for n, wide in REGISTER.findall(code[at]) for i in range(1 + bool(wide))}
            if touched & unclosed.union(*groups):
                found.add(code[at])
        left += [(then, groups, unclosed) for then in following(code, labels, at)]
    return found


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("file")
    arguments.add_argument("--producer", type=int, default=24)
    arguments.add_argument("--consumer", type=int, default=240)
    options = arguments.parse_args()
    faults, count = [], 0
    with open(options.file) as file:
        text = file.read()
    for name, code, labels in kernels(text):
        lower = [i for i, line in enumerate(code) if "USETMAXREG.DEALLOC" in line]
        higher = [i for i, line in enumerate(code) if "USETMAXREG.TRY_ALLOC" in line]
        products = any(PRODUCT.search(line) for line in code)
        if len(lower) != 1 or len(higher) != 1 or not products:
            faults.append(f"{name}: {len(lower)} and {len(higher)} setmaxnreg, products: {products}")
            continue
        count += 1
        for start, limit in ((lower[0], options.producer), (higher[0], options.consumer)):
            code_there = [code[i] for i in reach(code, labels, start)]
            top = max(map(highest_register, code_there))
            print(f"{name[-70:]}: {len(code_there)} instructions, registers up to R{top} of {limit}")
            if top >= limit:
                faults.append(f"{name}: register R{top} after setmaxnreg of {limit}")
        faults += [f"{name}: before the wait for its product: {line}" for line in early_accesses(code, labels, higher[0])]
        without = ["NOP" if "DEPBAR.LE gsb0" in line else line for line in code]
        if not early_accesses(without, labels, higher[0]):
            faults.append(f"{name}: without its waits nothing is found either; this test reads the code wrongly")
    if count == 0:
        faults.append("no kernel found")
    print("\n".join(faults[:20]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
