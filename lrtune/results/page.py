"""A page that needs nothing else, not even a network."""

import html
from importlib import resources

from lrtune.results.markup import Markup, limited

_POLICY = (  # the page loads nothing: all that it needs is in it
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def shell(title: str, body: Markup, scripts: str = "") -> str:
    """A page around its content.

    Args:
        title: what the browser's tab says.
        body: the content.
        scripts: JavaScript that the page's own needs.

    Returns:
        HTML with everything inline.
    """
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{html.escape(limited(title))} – lrtune</title>",
            f"<style>{_resource('report.css')}</style></head><body><main>{body}</main>",
            f"<script>{scripts}</script>" if scripts else "",
            f"<script>{_resource('report.js')}</script></body></html>\n",
        ]
    )


def _resource(name: str) -> str:
    return resources.files("lrtune.results").joinpath(name).read_text(encoding="utf-8")
