"""Values that may become code, markup or commands of a terminal, and the places that take them."""

CANARY = "PWN"
SHELL = [
    *(
        f"$(touch {CANARY})",
        f"`touch {CANARY}`",
        f"; touch {CANARY} #",
        f"'; touch {CANARY}; '",
        f'"; touch {CANARY}; "',
    ),
    *(
        f"\ntouch {CANARY}\n#",
        f" && touch {CANARY}",
        f" | touch {CANARY}",
        f"x\n#SBATCH --wrap=touch\t{CANARY}",
    ),
    *(
        f"${{IFS}}$(touch${{IFS}}{CANARY})",
        f"\\\ntouch {CANARY}",
        f"\rtouch {CANARY}",
        f"x\x0btouch {CANARY}",
    ),
    *(
        f"x\u2028touch {CANARY}",
        f"$'\\ntouch {CANARY}'",
        f"x) touch {CANARY};; (",
        "*",
        "~",
        "$HOME",
        "x y",
        "x\x00y",
    ),
    *(
        f"'$(touch {CANARY})'",
        f"%j$(touch {CANARY})",
        f"a=$(touch {CANARY})",
        f"x\x85touch {CANARY}",
        "-",
        "--wrap=x",
    ),
]
MARKUP = [
    *(
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'><svg onload=alert(1)>",
        "</title><script>1</script>",
    ),
    *(
        "javascript:alert(1)",
        "]]><script>1</script>",
        "--><script>1</script>",
        '" onmouseover="alert(1)',
        "</style><b>",
    ),
    *("</svg><iframe src=javascript:1>", "&lt;script&gt;", "<!--", "{{7*7}}", "</text><script>1</script>"),
]
TERMINAL = [
    *(
        "\x1b[2J",
        "\x1b]0;owned\x07",
        "\x9b31m",
        "x\r\x1b[K",
        "\x07\x08",
        "\u202egpj.exe",
        "\x1b]8;;http://x\x1b\\y",
    ),
    *(
        "[/nope]",
        "[bold red]x",
        "[link=http://x]y[/link]",
        "\\[x]",
        "\x7f",
        "\u2066x",
        "x\ny",
        "x\ty",
        "{}%s%n",
        "\ud800",
    ),
]
PAYLOADS = {"shell": SHELL, "markup": MARKUP, "terminal": TERMINAL}
# Places of a profile that take words; ``setup`` is code by purpose.
PROFILE: list[tuple[str, ...]] = [
    *(
        ("partition",),
        ("account",),
        ("qos",),
        ("constraint",),
        ("exclude",),
        ("memory",),
        ("gpu",),
        ("scratch",),
    ),
    *(("python",), ("modules", "0"), ("srun", "0"), ("container", "image"), ("container", "mounts", "0")),
    *(
        ("container", "options", "0"),
        ("environment", "NAME"),
        ("environment", "*"),
        ("sbatch", "comment"),
        ("sbatch", "*"),
    ),
    *(("stages", "convert", "partition"), ("stages", "train", "memory"), ("stages", "train", "constraint")),
]
RECIPE: list[tuple[str, ...]] = [
    *(
        ("run_dir",),
        ("data", "train"),
        ("data", "tokenizer"),
        ("log", "wandb_project"),
        ("data", "plan_cache"),
    ),
    *(("checkpoint", "init_from"), ("run_dir",)),
]
