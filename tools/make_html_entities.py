#!/usr/bin/env python3
"""Writes fpsa/models/wan/prompt_entities.inc from Python's html.entities (the HTML standard's table).

One entry per name that ends in a semicolon, written without it, separated by white space:

    name[!]=code points[^[code points]]

in hexadecimal, joined by commas. "!": the name also counts without its semicolon. "^": repair_text also knows the name
in capitals, for the code points after the sign, or the same ones when none follow.

    python3 tools/make_html_entities.py
"""

import html
import textwrap
from html.entities import html5
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[1] / "fpsa/models/wan/prompt_entities.inc"


def codes(text):
    return ",".join(f"{ord(c):x}" for c in text)


def entry(name):
    value = html5[name + ";"]
    out = name + ("!" if name in html5 else "") + "=" + codes(value)
    capitals = "&" + name.upper() + ";"
    if name == name.lower() and html.unescape(capitals) == capitals:
        out += "^" + (codes(value.upper()) if value.upper() != value else "")
    return out


def main():
    names = sorted(name[:-1] for name in html5 if name.endswith(";"))
    lines = textwrap.wrap(" ".join(map(entry, names)), 110, break_long_words=False, break_on_hyphens=False)
    OUTPUT.write_text("// Made by tools/make_html_entities.py, which describes the format.\n"
                      + "".join(f'"{line} "\n' for line in lines))
    print(f"{OUTPUT}: {len(names)} names")


if __name__ == "__main__":
    main()
