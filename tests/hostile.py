"""Names that somebody's files may bear, and what a page does that took one for its own code."""

TAGS = "<script>window.__hit=1</script><img src=x onerror='window.__hit=1'><b>bold"
ENDINGS = "</script></title></style></textarea>--><svg/onload=window.__hit=1>"
NAMES = {
    "tags": TAGS,
    "endings": ENDINGS,
    "quotes": '"q" \'a\' `b` \\ " onmouseover="window.__hit=1" x="',
    "entities": "&lt;i&gt; &amp; &#60;u&#62; <br>",
    "formula": "$x$ \\(y\\) $$\\frac{1}{2}$$ %{x} {{name}}",
    "markup": "[red]rich[/red] **bold** [a](javascript:window.__hit=1) | cell \u0060code\u0060",
    "link": "javascript:window.__hit=1 <a href='javascript:window.__hit=1'>a</a>",
    "right to left": "\u202eabc\u202c مرحبا שלום \u2066def",
    "emoji": "🎉👩‍👩‍👧‍👦🏳️‍🌈",
    "accents": "e" + "\u0301\u0323\u0330" * 40,
    "spreadsheet": "=HYPERLINK(0) +1 @a",
    "controls": "a\x01b\x07c\x1b[31md\x1b]0;title\x07e\x7ff\x85g\u2028h",
    "lines": "one\r\ntwo\ttab",
    "surrogate": "lone \ud800 \udfff",
    "long": "W" * 10_000,
}

# No element of a name became one of the page: they are looked for where no such name stands.
HIT = """() => [
    window.__hit,
    ...[...document.querySelectorAll("img,svg[onload],[onerror],[onmouseover],a[href^=javascript]")]
        .map((e) => e.outerHTML.slice(0, 80)),
].filter(Boolean)"""

# What may be a name of a task, a model or a metric: printable, and not of 10,000 characters.
SHORT = "<img src=x onerror=window.__hit=1>&amp;\"'$x$%{y}[red] مرحبا 🎉"
