"""Strings that break careless programs, in the spirit of the Big List of Naughty Strings; ours, not a copy of it."""

from __future__ import annotations

STRINGS = [
    # words that mean something to someone
    "undefined", "null", "None", "NaN", "-Infinity", "true", "nil", "hasOwnProperty", "__proto__", "constructor", "CON",
    # numbers in disguise
    "0", "-0.0", "1e1000", "0x7fffffff", "9223372036854775808", "٠١٢٣", "½", "1,000.00", "1_000", "٪",
    # quoting and templates
    "'", '"', "\\", "\\\\'\"", "`whoami`", "$(reboot)", "${HOME}", "{text}", "{0.__class__}", "{{7*7}}", "%s%n%x", "$1",
    # markup and scripts
    "<script>alert(1)</script>", "</title><img src=x onerror=alert(2)>", "]]>", "<!--", "javascript:alert(3)",
    "[red]rich[/red]", "[/]", "---\ntitle: not the card's\n---", "| a | b |", "```",
    # SQL, paths, shells
    "'; DROP TABLE rows; --", "../../../etc/passwd", "C:\\..\\windows", "file:///etc/shadow", "a;b&c|d>e", "-rf /",
    # Unicode: combining, zero width, bidirectional, astral, private, unassigned, case and width traps
    "Z͑ͫ̓̓a̴l͡g̈́ö́", "zero\u200bwidth\u200djoiner\ufeff", "\u202egnirts desrever\u202c", "𝕿𝖍𝖊 𝖖𝖚𝖎𝖈𝖐",
    "👩‍👩‍👧‍👦🏳️‍🌈", "\ue000\uf8ff", "\U0010fffd", "ﬁ ﬂ ǅ ſ K Å", "İıſß",
    "ｆｕｌｌ ｗｉｄｔｈ", "テスト 한국어 ไทย עברית العربية",
    "\u0600\u070f", "é e\u0301", "\ufdfd\ufdfd",
    # white space and controls that are not NUL
    "\u2028line\u2029paragraph", "tab\tvertical\x0bform\x0c", "\x85next\xa0line",
    "\x01\x1b[31mred\x1b[0m\x07\x7f", "a\r\nb\rc",
    # long ones
    "a" * 5_000, "word " * 2_000, "\u0301" * 500, "🦆" * 400, "(" * 3_000,
]  # fmt: skip
